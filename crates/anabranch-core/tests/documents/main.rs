//! Documents under random edits and random delivery.

#![expect(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]

mod convergence;
mod rewriting;
mod undo;

use anabranch_core::{Actor, Collection, CollectionName, FieldName, Schema};

const SCHEMA: &str = r#"
    version = 1
    [collections.notes.fields]
    title = { kind = "register" }
    first = { kind = "register", policy = "causal" }
    level = { kind = "register", policy = "max" }
    body = { kind = "text" }
    votes = { kind = "counter" }
    tags = { kind = "set" }
    steps = { kind = "list" }
    facts = { kind = "map" }
"#;

fn notes() -> Collection {
    Schema::from_toml(SCHEMA).unwrap().collections["notes"].clone()
}

fn name() -> CollectionName {
    CollectionName::new("notes").unwrap()
}

fn field(name: &str) -> FieldName {
    FieldName::new(name).unwrap()
}

fn actor(index: usize) -> Actor {
    Actor::from_bytes(&[1, u8::try_from(index).unwrap()]).unwrap()
}
