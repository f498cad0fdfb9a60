//! From arguments to edits: what an operator means depends on the field's kind.

use std::collections::BTreeMap;

use anabranch::{Edit, FieldName, Path, Step};
use anabranch_core::{Collection, Kind};
use serde_json::{Map, Value};

use super::{Assignment, Operator, Place, SyntaxError};

/// What the arguments are about: the collection, and the entity as it is.
pub(crate) struct Target<'a> {
    pub(crate) collection: &'a Collection,
    pub(crate) state: &'a Map<String, Value>,
}

/// The edits that the arguments ask for, in order.
pub(crate) fn edits(arguments: &[String], target: &Target<'_>) -> Result<Vec<Edit>, SyntaxError> {
    let mut lengths = Lengths { state: target.state, known: BTreeMap::new() };
    let mut edits = Vec::new();
    for argument in arguments {
        let assignment = Assignment::parse(argument)?;
        let (field, kind) = assignment.field(target.collection)?;
        edits.extend(assignment.edits(&field, kind, &mut lengths)?);
    }
    Ok(edits)
}

/// The fields of a new entity. `+=` adds to what the arguments before have said of the field.
pub(crate) fn fields(arguments: &[String], collection: &Collection) -> Result<Map<String, Value>, SyntaxError> {
    let mut fields = Map::new();
    for argument in arguments {
        let assignment = Assignment::parse(argument)?;
        let (_, kind) = assignment.field(collection)?;
        let before = fields.remove(&assignment.field);
        let value = assignment.value_of_new(kind, before)?;
        fields.insert(assignment.field, value);
    }
    Ok(fields)
}

/// The lengths of texts and lists, as the edits so far leave them.
struct Lengths<'a> {
    state: &'a Map<String, Value>,
    known: BTreeMap<String, usize>,
}

impl Lengths<'_> {
    fn of(&self, field: &FieldName) -> usize {
        let now = || self.state.get(field.as_str()).map_or(0, length);
        self.known.get(field.as_str()).copied().unwrap_or_else(now)
    }

    fn note(&mut self, field: &FieldName, length: usize) {
        self.known.insert(field.to_string(), length);
    }
}

fn length(value: &Value) -> usize {
    match value {
        Value::String(text) => text.chars().count(),
        Value::Array(items) => items.len(),
        _ => 0,
    }
}

impl Assignment {
    fn field(&self, collection: &Collection) -> Result<(FieldName, Kind), SyntaxError> {
        let found = collection.fields.get_key_value(self.field.as_str());
        let (name, field) = found.ok_or_else(|| {
            let known: Vec<_> = collection.fields.keys().map(FieldName::as_str).collect();
            self.error(format!("there is no field {:?}; there are {}", self.field, known.join(", ")))
        })?;
        Ok((name.clone(), field.kind))
    }

    fn edits(&self, field: &FieldName, kind: Kind, lengths: &mut Lengths<'_>) -> Result<Vec<Edit>, SyntaxError> {
        let name = field.clone();
        let edit = match (kind, &self.place, self.operator) {
            (_, Place::Whole, Operator::IsJson) => {
                let value = self.json()?;
                lengths.note(field, length(&value));
                Edit::Set { field: name, value }
            }
            (Kind::Register | Kind::Reference, Place::Whole, Operator::Is) => {
                Edit::Set { field: name, value: self.text() }
            }
            (Kind::Text, Place::Whole, Operator::Is) => {
                lengths.note(field, self.value.chars().count());
                Edit::Set { field: name, value: self.text() }
            }
            (Kind::Text, Place::Whole, Operator::Plus) => {
                let end = lengths.of(field);
                lengths.note(field, end + self.value.chars().count());
                Edit::Splice { field: name, at: end, delete: 0, insert: self.value.clone() }
            }
            (Kind::Text, Place::Range { from, to }, Operator::Is) => {
                let (at, end) = self.range(field, *from, *to, lengths)?;
                let insert = self.value.clone();
                lengths.note(field, lengths.of(field) - (end - at) + insert.chars().count());
                Edit::Splice { field: name, at, delete: end - at, insert }
            }
            (Kind::Counter, Place::Whole, Operator::Is) => Edit::Set { field: name, value: self.number()?.into() },
            (Kind::Counter, Place::Whole, Operator::Plus) => Edit::Increment { field: name, by: self.number()? },
            (Kind::Counter, Place::Whole, Operator::Minus) => {
                let by = self.number()?.checked_neg().ok_or_else(|| self.error("the number is too large"))?;
                Edit::Increment { field: name, by }
            }
            (Kind::Set, Place::Whole, Operator::Plus) => Edit::Add { field: name, member: self.text() },
            (Kind::Set, Place::Whole, Operator::Minus) => Edit::Remove { field: name, member: self.text() },
            (Kind::List, ..) => return self.list_edits(field, lengths),
            (Kind::Map, Place::Slot(key), Operator::Is | Operator::IsJson) => {
                let value = if self.operator == Operator::Is { self.text() } else { self.json()? };
                Edit::Put { field: name, path: path(Step::Key(key.clone())), value }
            }
            (Kind::Map, Place::Whole, Operator::Minus) => {
                Edit::Delete { field: name, path: path(Step::Key(self.value.clone())) }
            }
            _ => return Err(self.misfit(kind)),
        };
        Ok(vec![edit])
    }

    fn list_edits(&self, field: &FieldName, lengths: &mut Lengths<'_>) -> Result<Vec<Edit>, SyntaxError> {
        let insert = |at, values| Edit::Insert { field: field.clone(), path: Path::default(), at, values };
        match (&self.place, self.operator) {
            (Place::Whole, Operator::Plus) => {
                let end = lengths.of(field);
                lengths.note(field, end + 1);
                Ok(vec![insert(end, vec![self.text()])])
            }
            (Place::Slot(at), Operator::Is | Operator::IsJson) => {
                let at: usize = at.parse().map_err(|_| self.error("a list's place is a whole number"))?;
                let value = if self.operator == Operator::Is { self.text() } else { self.json()? };
                Ok(vec![Edit::Put { field: field.clone(), path: path(Step::Index(at)), value }])
            }
            (Place::Range { from, to }, Operator::IsJson) => {
                let Value::Array(values) = self.json()? else {
                    return Err(self.error("a part of a list is replaced by a list: `:=[\"a\", \"b\"]`"));
                };
                let (at, end) = self.range(field, *from, *to, lengths)?;
                lengths.note(field, lengths.of(field) - (end - at) + values.len());
                let delete = || Edit::Delete { field: field.clone(), path: path(Step::Index(at)) };
                let mut edits: Vec<_> = (at..end).map(|_| delete()).collect();
                if !values.is_empty() {
                    edits.push(insert(at, values));
                }
                Ok(edits)
            }
            _ => Err(self.misfit(Kind::List)),
        }
    }

    fn value_of_new(&self, kind: Kind, before: Option<Value>) -> Result<Value, SyntaxError> {
        if self.place != Place::Whole {
            return Err(self.error("a new entity has no parts yet: give the whole field"));
        }
        match (kind, self.operator, before) {
            (_, Operator::IsJson | Operator::Is, Some(_)) => Err(self.error("the field has been given before")),
            (_, Operator::IsJson, None) => self.json(),
            (Kind::Register | Kind::Reference | Kind::Text, Operator::Is, None) => Ok(self.text()),
            (Kind::Counter, Operator::Is | Operator::Plus, None) => Ok(self.number()?.into()),
            (Kind::Set | Kind::List, Operator::Plus, before) => {
                let mut members = match before {
                    None => Vec::new(),
                    Some(Value::Array(members)) => members,
                    Some(_) => return Err(self.error("the field was given as something else before")),
                };
                members.push(self.text());
                Ok(Value::Array(members))
            }
            _ => Err(self.misfit(kind)),
        }
    }

    /// The range's two ends, within the field.
    fn range(
        &self,
        field: &FieldName,
        from: usize,
        to: Option<usize>,
        lengths: &Lengths<'_>,
    ) -> Result<(usize, usize), SyntaxError> {
        let length = lengths.of(field);
        let to = to.unwrap_or(length.max(from));
        if to > length {
            return Err(self.error(format!("the range ends at {to}, and {field} has a length of {length}")));
        }
        Ok((from, to))
    }

    fn text(&self) -> Value {
        Value::String(self.value.clone())
    }

    fn json(&self) -> Result<Value, SyntaxError> {
        serde_json::from_str(&self.value).map_err(|error| self.error(format!("the value is not JSON: {error}")))
    }

    fn number(&self) -> Result<i64, SyntaxError> {
        self.value.parse().map_err(|_| self.error(format!("{} is a counter, which takes a whole number", self.field)))
    }

    fn misfit(&self, kind: Kind) -> SyntaxError {
        let field = &self.field;
        let ways = match kind {
            Kind::Register | Kind::Reference => "`=TEXT` or `:=JSON`",
            Kind::Counter => "`+=NUMBER`, `-=NUMBER` or `=NUMBER`",
            Kind::Text => "`=TEXT`, `+=TEXT` or `[from:to]=TEXT`",
            Kind::List => "`+=TEXT`, `:=JSON`, `[at]=TEXT` or `[from:to]:=JSON`",
            Kind::Map => "`[key]=TEXT`, `[key]:=JSON`, `-=KEY` or `:=JSON`",
            Kind::Set => "`+=MEMBER`, `-=MEMBER` or `:=JSON`",
        };
        self.error(format!("{field} is a {}, which takes {ways}", kind.as_str()))
    }
}

fn path(step: Step) -> Path {
    Path(vec![step])
}

#[cfg(test)]
mod tests {
    use anabranch::Schema;
    use serde_json::json;

    use super::*;

    const SCHEMA: &str = r#"
        version = 1
        [collections.notes.fields]
        title = { kind = "register" }
        body = { kind = "text" }
        stars = { kind = "counter" }
        tags = { kind = "set" }
        items = { kind = "list" }
        links = { kind = "map" }
    "#;

    fn notes() -> Collection {
        Schema::from_toml(SCHEMA).unwrap().collections["notes"].clone()
    }

    fn edit(arguments: &[&str]) -> Result<Vec<Edit>, String> {
        let state = json!({ "body": "größer", "items": ["a", "b"] });
        let target = Target { collection: &notes(), state: state.as_object().unwrap() };
        let arguments: Vec<_> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        edits(&arguments, &target).map_err(|error| error.to_string())
    }

    fn field(name: &str) -> FieldName {
        FieldName::new(name).unwrap()
    }

    #[test]
    fn the_kind_gives_the_operator_its_meaning() {
        let insert = |at, item: &str| Edit::Insert {
            field: field("items"),
            path: Path::default(),
            at,
            values: vec![item.into()],
        };
        for (argument, expected) in [
            ("title=1", Edit::Set { field: field("title"), value: json!("1") }),
            ("title:=1", Edit::Set { field: field("title"), value: json!(1) }),
            ("title:=null", Edit::Set { field: field("title"), value: Value::Null }),
            ("stars=7", Edit::Set { field: field("stars"), value: json!(7) }),
            ("stars+=1", Edit::Increment { field: field("stars"), by: 1 }),
            ("stars-=2", Edit::Increment { field: field("stars"), by: -2 }),
            ("tags+=food", Edit::Add { field: field("tags"), member: json!("food") }),
            ("tags-=old", Edit::Remove { field: field("tags"), member: json!("old") }),
            ("body=x", Edit::Set { field: field("body"), value: json!("x") }),
            ("body+=!", Edit::Splice { field: field("body"), at: 6, delete: 0, insert: "!".to_owned() }),
            ("body[2:4]=oss", Edit::Splice { field: field("body"), at: 2, delete: 2, insert: "oss".to_owned() }),
            ("body[2:]=", Edit::Splice { field: field("body"), at: 2, delete: 4, insert: String::new() }),
            ("items+=c", insert(2, "c")),
            ("items[0:0]:=[\"c\"]", insert(0, "c")),
            ("items[1]=c", Edit::Put { field: field("items"), path: path(Step::Index(1)), value: json!("c") }),
            ("links[home]=x", Edit::Put { field: field("links"), path: path("home".into()), value: json!("x") }),
            ("links-=home", Edit::Delete { field: field("links"), path: path("home".into()) }),
        ] {
            assert_eq!(edit(&[argument]), Ok(vec![expected]), "{argument}");
        }
    }

    #[test]
    fn later_arguments_see_the_lengths_that_earlier_ones_leave() {
        let at = |edit: &Edit| match edit {
            Edit::Splice { at, .. } | Edit::Insert { at, .. } => Some(*at),
            _ => None,
        };
        let places = |arguments: &[&str]| edit(arguments).unwrap().iter().map(at).collect::<Vec<_>>();
        assert_eq!(places(&["items+=c", "items+=d"]), [Some(2), Some(3)]);
        assert_eq!(places(&["body[0:6]=", "body+=ab", "body+=c"]), [Some(0), Some(0), Some(2)]);
        assert_eq!(places(&["items[0:2]:=[\"x\"]", "items+=y"]), [None, None, Some(0), Some(1)]);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        for (argument, expected) in [
            ("stars+=many", "whole number"),
            ("stars-=-9223372036854775808", "too large"),
            ("tags=food", "`+=MEMBER`"),
            ("title+=x", "register"),
            ("body-=x", "`[from:to]=TEXT`"),
            ("body[2:9]=x", "length of 6"),
            ("body[9:]=x", "length of 6"),
            ("title:=nul", "not JSON"),
            ("nothing=x", "there are title, body"),
            ("items[x]=1", "whole number"),
            ("items[0:1]:=1", "replaced by a list"),
        ] {
            let error = edit(&["title=x", argument]).expect_err(argument);
            assert!(error.starts_with(&format!("`{argument}`: ")) && error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_new_entity_gathers_its_members() {
        let new = |arguments: &[&str]| {
            let arguments: Vec<_> = arguments.iter().map(|&argument| argument.to_owned()).collect();
            fields(&arguments, &notes()).map_err(|error| error.to_string())
        };
        let expected = json!({ "title": "a=b", "stars": 3, "tags": ["x", "y"], "items": [1] });
        assert_eq!(
            new(&["title=a=b", "stars=3", "tags+=x", "tags+=y", "items:=[1]"]),
            Ok(expected.as_object().unwrap().clone())
        );
        assert!(new(&["title=a", "title=b"]).unwrap_err().contains("before"));
        assert!(new(&["tags-=b"]).unwrap_err().contains("`tags-=b`"));
        assert!(new(&["body[0:0]=b"]).unwrap_err().contains("whole field"));
    }
}
