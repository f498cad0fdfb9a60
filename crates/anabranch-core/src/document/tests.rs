//! Documents by example: what each kind of field does, alone and with concurrent writers.

mod conflicts;
mod fields;
mod foreign;
mod history;
mod imports;
mod past;
mod texts;
mod undo;

use serde_json::{Value, json};

use super::*;
use crate::schema::{Collection, Deletion, Schema};

const SCHEMA: &str = r#"
    version = 1
    [collections.notes.fields]
    title = { kind = "register" }
    first = { kind = "register", policy = "causal" }
    body = { kind = "text" }
    votes = { kind = "counter" }
    tags = { kind = "set" }
    steps = { kind = "list" }
    facts = { kind = "map" }
    folder = { kind = "reference", to = "notes" }
"#;

fn notes() -> Collection {
    Schema::from_toml(SCHEMA).unwrap().collections["notes"].clone()
}

fn name() -> CollectionName {
    CollectionName::new("notes").unwrap()
}

fn at(raw: i64) -> Stamp {
    Stamp::from_raw(raw).unwrap()
}

fn actor(byte: u8) -> Actor {
    Actor::from_bytes(&[1, byte]).unwrap()
}

fn field(name: &str) -> crate::FieldName {
    crate::FieldName::new(name).unwrap()
}

fn set(name: &str, value: Value) -> Edit {
    Edit::Set { field: field(name), value }
}

fn path<const N: usize>(steps: [Step; N]) -> Path {
    steps.into_iter().collect()
}

fn put(name: &str, steps: Path, value: Value) -> Edit {
    Edit::Put { field: field(name), path: steps, value }
}

/// A document with what a test needs of it.
struct Replica {
    document: Document,
    changes: Vec<Change>,
}

impl Replica {
    fn empty(byte: u8) -> Self {
        Self { document: Document::new(&actor(byte)), changes: Vec::new() }
    }

    fn create(byte: u8, fields: Value) -> Self {
        let mut replica = Self::empty(byte);
        let Value::Object(fields) = fields else { panic!("fields are an object") };
        let made = replica.document.create(&name(), &notes(), at(1), &fields).unwrap();
        replica.changes.extend(made);
        replica
    }

    /// Another replica of the same entity.
    fn twin(&self, byte: u8) -> Self {
        let mut twin = Self::empty(byte);
        twin.pull(self);
        twin
    }

    fn edit(&mut self, stamp: i64, edits: &[Edit]) -> usize {
        let made = self.document.edit(&notes(), at(stamp), edits).unwrap();
        let count = made.len();
        self.changes.extend(made);
        count
    }

    fn delete(&mut self, stamp: i64) {
        let made = self.document.delete(at(stamp)).unwrap();
        assert_eq!(made.len(), 1);
        self.changes.extend(made);
    }

    fn restore(&mut self, stamp: i64) -> usize {
        let made = self.document.restore(at(stamp)).unwrap();
        let count = made.len();
        self.changes.extend(made);
        count
    }

    fn pull(&mut self, from: &Self) {
        let changes = from.document.changes_since(&self.document.heads()).unwrap();
        self.document.apply(&changes).unwrap();
        self.changes.extend(changes);
    }

    fn state(&self) -> State {
        self.document.state(Some(&notes())).unwrap()
    }

    fn field(&self, name: &str) -> Value {
        self.state().fields.get(name).cloned().unwrap_or(Value::Null)
    }

    fn refuses(&mut self, edit: Edit) -> EditError {
        self.document.clone().edit(&notes(), at(99), &[edit]).unwrap_err()
    }
}

fn exchange(a: &mut Replica, b: &mut Replica) {
    a.pull(b);
    b.pull(a);
    assert_eq!(a.document.heads(), b.document.heads());
    assert_eq!(a.state().to_canonical_json(), b.state().to_canonical_json());
}
