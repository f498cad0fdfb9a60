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

fn main() {}
