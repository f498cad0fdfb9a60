//! The smallest difference between two JSON values of a list or map field, as edits.

use anabranch_core::FieldName;
use anabranch_core::document::{Edit, Path, Step};
use serde_json::{Map, Value};

/// Up to this many pairs of elements are compared to find what two lists share.
const MAX_PAIRS: usize = 1 << 20;

/// Collects what turns a field's old value into its new one.
///
/// The old value is what the application's type read, which may lack parts that a newer schema knows; those are
/// left alone. `actual` is what the document has. Where the two are not of the same shape (a part is read from a
/// default, say), the part is written as a whole.
pub(super) struct Differences<'a> {
    field: &'a FieldName,
    /// The way to the part at hand, with places as they were before the edit.
    path: Vec<Step>,
    edits: &'a mut Vec<Edit>,
}

impl<'a> Differences<'a> {
    pub(super) const fn new(field: &'a FieldName, edits: &'a mut Vec<Edit>) -> Self {
        Self { field, path: Vec::new(), edits }
    }

    /// A part of any kind: not the field's own container.
    fn part(&mut self, actual: Option<&Value>, before: &Value, after: &Value) {
        if before == after {
            return;
        }
        match (actual, before, after) {
            (Some(Value::Object(actual)), Value::Object(before), Value::Object(after)) => {
                self.map(actual, before, after);
            }
            (Some(Value::Array(actual)), Value::Array(before), Value::Array(after)) if actual.len() == before.len() => {
                self.list(actual, before, after, &aligned(before, after));
            }
            _ => {
                let (field, path) = (self.field.clone(), self.path());
                self.edits.push(Edit::Assign { field, path, value: after.clone() });
            }
        }
    }

    /// A map, key by key.
    pub(super) fn map(&mut self, actual: &Map<String, Value>, before: &Map<String, Value>, after: &Map<String, Value>) {
        for key in before.keys().filter(|key| !after.contains_key(*key)) {
            self.within(Step::Key(key.clone()), Self::delete);
        }
        for (key, after) in after {
            let (actual, before) = (actual.get(key), before.get(key));
            self.within(Step::Key(key.clone()), |it| match before {
                Some(before) => it.part(actual, before, after),
                None => it.part(None, &Value::Null, after),
            });
        }
    }

    /// A list, element by element. `origins` says, of each new element, where it was before; these ascend.
    pub(super) fn list(&mut self, actual: &[Value], before: &[Value], after: &[Value], origins: &[Option<usize>]) {
        // First what changed in place, then removals from the end on, then insertions from the beginning on: so
        // every place counts as it is when its turn comes.
        let mut kept = vec![false; before.len()];
        for (after, origin) in after.iter().zip(origins) {
            let Some(at) = *origin else { continue };
            kept[at] = true;
            self.within(Step::Index(at), |it| it.part(actual.get(at), &before[at], after));
        }
        for at in (0..before.len()).rev().filter(|at| !kept[*at]) {
            self.within(Step::Index(at), Self::delete);
        }
        let mut run: Vec<Value> = Vec::new();
        for (at, (after, origin)) in after.iter().zip(origins).enumerate() {
            if origin.is_none() {
                run.push(after.clone());
            } else {
                self.insert(at, &mut run);
            }
        }
        self.insert(after.len(), &mut run);
    }

    /// Inserts a run of elements that ends before the place `end`.
    fn insert(&mut self, end: usize, run: &mut Vec<Value>) {
        if !run.is_empty() {
            let values = std::mem::take(run);
            let (field, path, at) = (self.field.clone(), self.path(), end - values.len());
            self.edits.push(Edit::Insert { field, path, at, values });
        }
    }

    fn delete(&mut self) {
        let (field, path) = (self.field.clone(), self.path());
        self.edits.push(Edit::Delete { field, path });
    }

    fn within(&mut self, step: Step, work: impl FnOnce(&mut Self)) {
        self.path.push(step);
        work(self);
        self.path.pop();
    }

    fn path(&self) -> Path {
        Path(self.path.clone())
    }
}

/// For each new element, the old one that it is. Those that are equal come first; between them, as many new ones
/// as old ones are the same, changed.
pub(super) fn aligned(before: &[Value], after: &[Value]) -> Vec<Option<usize>> {
    let prefix = before.iter().zip(after).take_while(|(before, after)| before == after).count();
    let (rest_before, rest_after) = (&before[prefix..], &after[prefix..]);
    let equal_at_end = rest_before.iter().rev().zip(rest_after.iter().rev());
    let suffix = equal_at_end.take_while(|(before, after)| before == after).count();
    let middle_before = &rest_before[..rest_before.len() - suffix];
    let middle_after = &rest_after[..rest_after.len() - suffix];

    let mut origins: Vec<Option<usize>> = (0..prefix).map(Some).collect();
    origins.extend(common(middle_before, middle_after).into_iter().map(|origin| origin.map(|at| at + prefix)));
    origins.extend((before.len() - suffix..before.len()).map(Some));
    pair_gaps(&mut origins, before.len());
    origins
}

/// A longest common subsequence, as the old place of each new element that is in it.
fn common(before: &[Value], after: &[Value]) -> Vec<Option<usize>> {
    let mut origins = vec![None; after.len()];
    let (rows, columns) = (before.len(), after.len());
    if rows == 0 || columns == 0 || rows.saturating_mul(columns) > MAX_PAIRS {
        return origins;
    }
    // lengths[row][column]: of the longest one in what follows both.
    let mut lengths = vec![vec![0_u32; columns + 1]; rows + 1];
    for row in (0..rows).rev() {
        for column in (0..columns).rev() {
            lengths[row][column] = match before[row] == after[column] {
                true => lengths[row + 1][column + 1] + 1,
                false => lengths[row + 1][column].max(lengths[row][column + 1]),
            };
        }
    }
    let (mut row, mut column) = (0, 0);
    while row < rows && column < columns {
        if before[row] == after[column] {
            origins[column] = Some(row);
            (row, column) = (row + 1, column + 1);
        } else if lengths[row + 1][column] >= lengths[row][column + 1] {
            row += 1;
        } else {
            column += 1;
        }
    }
    origins
}

/// Where as many elements have gone as have come, they are the same, changed.
fn pair_gaps(origins: &mut [Option<usize>], length: usize) {
    let (mut column, mut row) = (0, 0);
    while column < origins.len() {
        let end = (column..origins.len()).find(|at| origins[*at].is_some()).unwrap_or(origins.len());
        let next = origins.get(end).copied().flatten().unwrap_or(length);
        if end - column == next - row {
            for (origin, at) in origins[column..end].iter_mut().zip(row..next) {
                *origin = Some(at);
            }
        }
        (column, row) = (end + 1, next + 1);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn differences(before: &Value, after: &Value) -> Vec<Edit> {
        let field = FieldName::new("items").unwrap();
        let mut edits = Vec::new();
        let mut differences = Differences::new(&field, &mut edits);
        let (Value::Array(before), Value::Array(after)) = (before, after) else { panic!("lists") };
        differences.list(before, before, after, &aligned(before, after));
        edits
    }

    /// What the document does with the edits, on plain JSON.
    fn applied(value: &Value, edits: &[Edit]) -> Value {
        let mut value = value.clone();
        for edit in edits {
            match edit {
                Edit::Assign { path, value: new, .. } => {
                    let (last, path) = path.0.split_last().unwrap();
                    match (descend(&mut value, path), last) {
                        (Value::Array(items), Step::Index(at)) => items[*at] = new.clone(),
                        (Value::Object(entries), Step::Key(key)) => drop(entries.insert(key.clone(), new.clone())),
                        _ => panic!("a way"),
                    }
                }
                Edit::Delete { path, .. } => {
                    let (last, path) = path.0.split_last().unwrap();
                    match (descend(&mut value, path), last) {
                        (Value::Array(items), Step::Index(at)) => drop(items.remove(*at)),
                        (Value::Object(entries), Step::Key(key)) => drop(entries.remove(key).unwrap()),
                        _ => panic!("a way"),
                    }
                }
                Edit::Insert { path, at, values, .. } => {
                    let Value::Array(items) = descend(&mut value, &path.0) else { panic!("a list") };
                    items.splice(*at..*at, values.iter().cloned());
                }
                other => panic!("{other:?}"),
            }
        }
        value
    }

    fn descend<'v>(value: &'v mut Value, path: &[Step]) -> &'v mut Value {
        path.iter().fold(value, |value, step| match step {
            Step::Key(key) => &mut value[key.as_str()],
            Step::Index(at) => &mut value[*at],
        })
    }

    fn values() -> impl Strategy<Value = Value> {
        (0_u8..4).prop_map(Value::from).prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-c]", inner, 0..3)
                    .prop_map(|entries| Value::Object(entries.into_iter().collect())),
            ]
        })
    }

    fn lists() -> impl Strategy<Value = Value> {
        prop::collection::vec(values(), 0..6).prop_map(Value::from)
    }

    proptest! {
        #[test]
        fn the_difference_leads_from_one_to_the_other(before in lists(), after in lists()) {
            let edits = differences(&before, &after);
            prop_assert_eq!(applied(&before, &edits), after.clone());
            prop_assert_eq!(edits.is_empty(), before == after);
        }
    }

    #[test]
    fn only_what_differs_is_written() {
        let before = json!([{ "name": "a", "steps": [1, 2, 3, 4] }, { "name": "b" }, 3]);
        let after = json!([{ "name": "a", "steps": [0, 1, 2, 3] }, { "name": "c" }, 3]);
        let field = FieldName::new("items").unwrap();
        let path = |steps: &[Step]| Path(steps.to_vec());
        let expected = vec![
            Edit::Delete { field: field.clone(), path: path(&[0.into(), "steps".into(), 3.into()]) },
            Edit::Insert {
                field: field.clone(),
                path: path(&[0.into(), "steps".into()]),
                at: 0,
                values: vec![json!(0)],
            },
            Edit::Assign { field, path: path(&[1.into(), "name".into()]), value: json!("c") },
        ];
        assert_eq!(differences(&before, &after), expected);
    }

    #[test]
    fn what_is_not_as_it_was_read_is_written_as_a_whole() {
        let field = FieldName::new("items").unwrap();
        let mut edits = Vec::new();
        // The type reads missing tags as none.
        let actual = json!([{ "name": "a", "unknown": 1 }]);
        let (before, after) = (json!([{ "name": "a", "tags": [] }]), json!([{ "name": "a", "tags": ["x"] }]));
        let parts = |value: &Value| value.as_array().cloned().unwrap();
        Differences::new(&field, &mut edits).list(&parts(&actual), &parts(&before), &parts(&after), &[Some(0)]);
        let path = Path(vec![0.into(), "tags".into()]);
        assert_eq!(edits, [Edit::Assign { field, path, value: json!(["x"]) }]);
    }
}
