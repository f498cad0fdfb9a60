//! `#[field(…)]` with mistakes.

use anabranch_derive::Entity;
use serde::{Deserialize, Serialize};

#[derive(Entity, Serialize, Deserialize)]
struct Misspelt {
    #[field(indexd)]
    value: String,
}

#[derive(Entity, Serialize, Deserialize)]
struct UnknownPolicy {
    #[field(policy = "manul")]
    value: String,
}

#[derive(Entity, Serialize, Deserialize)]
struct WrongBound {
    #[field(min = "one")]
    value: u8,
}

#[derive(Entity, Serialize, Deserialize)]
struct NoList {
    #[field(one_of = "a")]
    value: String,
}

#[derive(Entity, Serialize, Deserialize)]
struct BadKey {
    #[field(key = "old name")]
    value: String,
}

#[derive(Serialize, Deserialize)]
struct Reference<E>(E);

#[derive(Entity, Serialize, Deserialize)]
struct AlwaysThere {
    #[field(on_delete = "nullify")]
    folder: Reference<u8>,
}

fn main() {}
