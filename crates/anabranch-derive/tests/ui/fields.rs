//! Fields that cannot work.

use anabranch_derive::Entity;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Text;
#[derive(Serialize, Deserialize)]
struct List<T>(T);

#[derive(Entity, Serialize, Deserialize)]
struct Flattened {
    #[serde(flatten)]
    address: String,
}

#[derive(Entity, Serialize, Deserialize)]
struct Identified {
    id: String,
}

#[derive(Entity, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Hyphenated {
    due_date: String,
}

#[derive(Entity, Serialize, Deserialize)]
struct HalfRead {
    #[serde(rename(serialize = "a", deserialize = "b"))]
    value: String,
}

#[derive(Entity, Serialize, Deserialize)]
struct HalfWritten {
    #[serde(skip_serializing)]
    value: String,
}

#[derive(Entity, Serialize, Deserialize)]
struct AbsentText {
    body: Option<Text>,
}

#[derive(Entity, Serialize, Deserialize)]
struct ListOfTexts {
    paragraphs: List<Text>,
}

#[derive(Entity, Serialize, Deserialize)]
struct VecOfLists {
    rows: Vec<List<u8>>,
}

fn main() {}
