//! What these tests share: one entity, its slots, and replicas of it.

use anabranch_core::document::{Contest, Document, Edit, Path, State, Step};
use anabranch_core::{Actor, Change, Collection, CollectionName, EntityId, FieldName, Functions, Schema, Stamp};
use serde_json::{Map, Value, json};

pub(crate) const POLICIES: [&str; 7] = ["lww", "first_writer", "causal", "max", "min", "manual", "custom"];
pub(crate) const KINDS: [&str; 4] = ["register", "reference", "list", "map"];

pub(crate) fn name() -> CollectionName {
    CollectionName::new("notes").unwrap()
}

pub(crate) fn field(name: &str) -> FieldName {
    FieldName::new(name).unwrap()
}

pub(crate) fn at(raw: i64) -> Stamp {
    Stamp::from_raw(raw).unwrap()
}

/// A collection with a field of every kind, named after it. Its fields have no policy of their own.
pub(crate) fn collection(policy: &str) -> Collection {
    let policy =
        if policy == "custom" { "{ custom = \"list\", version = 1 }".to_owned() } else { json!(policy).to_string() };
    let text = format!(
        "version = 1\n[collections.notes]\npolicy = {policy}\n[collections.notes.fields]\n\
         register = {{ kind = \"register\" }}\nreference = {{ kind = \"reference\", to = \"notes\" }}\n\
         list = {{ kind = \"list\" }}\nmap = {{ kind = \"map\" }}\ntext = {{ kind = \"text\" }}\n\
         counter = {{ kind = \"counter\" }}\nset = {{ kind = \"set\" }}\n"
    );
    let mut schema = Schema::from_toml(&text).unwrap();
    let mut functions = Functions::default();
    // Shows what it is given, in the order in which it is given.
    functions.policy("list", 1, |all| all.iter().map(|one| one.value.clone()).collect());
    schema.bind(&functions).unwrap();
    schema.collections["notes"].clone()
}

/// The same, but each field that may has the policy for itself.
pub(crate) fn field_by_field(policy: &str) -> Collection {
    let mut collection = collection(policy);
    let policy = collection.policy.take();
    for field in collection.fields.values_mut().filter(|field| field.kind.settles()) {
        field.policy = policy.clone();
    }
    collection
}

/// The write of a value to the one slot that is looked at in a field of this kind.
pub(crate) fn write(kind: &str, value: Value) -> Edit {
    let path = match kind {
        "list" => Path(vec![Step::from(0)]),
        "map" => Path(vec![Step::from("slot")]),
        _ => return Edit::Set { field: field(kind), value },
    };
    Edit::Put { field: field(kind), path, value }
}

/// The slot's value in a state; null for one that is not there.
pub(crate) fn read(kind: &str, state: &State) -> Value {
    let value = state.fields.get(kind).cloned().unwrap_or_default();
    match kind {
        "list" => value[0].clone(),
        "map" => value["slot"].clone(),
        _ => value,
    }
}

/// The id of an entity to refer to.
pub(crate) fn id(number: u8) -> Value {
    json!(EntityId::from_bytes([number; 16]).to_string())
}

#[derive(Clone, Debug)]
pub(crate) struct Replica {
    pub(crate) document: Document,
    pub(crate) collection: Collection,
}

impl Replica {
    /// The replica that creates the entity. `old` is what is in the slot already, if anything is.
    pub(crate) fn first(collection: &Collection, kind: &str, old: Option<Value>) -> Self {
        let mut document = Document::new(&actor(0));
        let mut fields = Map::from_iter([("text".to_owned(), json!("x"))]);
        match (kind, old) {
            ("list", old) => drop(fields.insert("list".to_owned(), json!([old]))),
            ("map", Some(old)) => drop(fields.insert("map".to_owned(), json!({ "slot": old }))),
            (_, Some(old)) => drop(fields.insert(kind.to_owned(), old)),
            (_, None) => {}
        }
        document.create(&name(), collection, at(1), &fields).unwrap();
        Self { document, collection: collection.clone() }
    }

    /// Another replica of the same entity, whose writer is this one.
    pub(crate) fn twin(&self, number: u8) -> Self {
        let mut twin = Self { document: Document::new(&actor(number)), collection: self.collection.clone() };
        twin.pull(self);
        twin
    }

    pub(crate) fn pull(&mut self, from: &Self) {
        let changes = from.document.changes_since(&self.document.heads()).unwrap();
        self.document.apply(&changes).unwrap();
    }

    pub(crate) fn edit(&mut self, stamp: i64, edits: &[Edit]) -> Vec<Change> {
        self.document.edit(&self.collection, at(stamp), edits).unwrap()
    }

    pub(crate) fn state(&self) -> State {
        self.document.state(Some(&self.collection)).unwrap()
    }

    pub(crate) fn contests(&self) -> Vec<Contest> {
        self.state().contests
    }

    /// The only contest there is.
    pub(crate) fn contest(&self) -> Contest {
        let [contest] = <[Contest; 1]>::try_from(self.contests()).unwrap();
        contest
    }
}

pub(crate) fn actor(number: u8) -> Actor {
    Actor::from_bytes(&[1, number]).unwrap()
}

/// Brings everything to everyone.
pub(crate) fn meet(replicas: &mut [&mut Replica]) {
    for _ in 0..2 {
        for one in 0..replicas.len() {
            for other in (0..replicas.len()).filter(|other| *other != one) {
                let from = replicas[other].clone();
                replicas[one].pull(&from);
            }
        }
    }
    let first = replicas[0].state();
    assert!(replicas.iter().all(|replica| replica.state() == first));
}

/// The six orders of three.
pub(crate) const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
