//! Structs that are no entities.

use anabranch_derive::Entity;
use serde::{Deserialize, Serialize};

#[derive(Entity, Serialize, Deserialize)]
struct Pair(String, String);

#[derive(Entity, Serialize, Deserialize)]
enum Either {
    This,
    That,
}

#[derive(Entity, Serialize, Deserialize)]
struct Generic<T> {
    value: T,
}

#[derive(Entity, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Strict {
    value: String,
}

#[derive(Entity, Serialize, Deserialize)]
#[serde(transparent)]
struct Disguised {
    value: String,
}

#[derive(Entity, Serialize, Deserialize)]
#[entity(collection = "to-do")]
struct Misnamed {
    value: String,
}

#[derive(Entity, Serialize, Deserialize)]
#[entity(deletion = "never")]
struct Immortal {
    value: String,
}

fn main() {}
