//! The schema that a struct makes.

use std::collections::BTreeMap;

use anabranch::{Counter, Entity, ErrorKind, List, Map, Reference, Replica, Schema, Set, Text, schema};
use serde::{Deserialize, Serialize};

use crate::entities::{Folder, Note};
use crate::support::Folder as Files;

/// A name of an application's own for a type that merges.
type Prose = Text;

#[derive(Default, Entity, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[entity(collection = "tasks", deletion = "delete_wins", policy = "causal")]
struct TaskCard {
    #[field(required, min_length = 1, max_length = 80, pattern = "[^\n]*", indexed)]
    short_title: String,
    description: Prose,
    #[field(min = 0, max = 10)]
    votes: Counter,
    #[field(min = 1, max = 5, default = 3)]
    priority: u8,
    #[field(one_of = ["open", "done", null], policy = "manual")]
    state: Option<String>,
    #[field(policy = custom("nearest", 2))]
    weight: Option<f64>,
    #[serde(rename = "when")]
    #[field(key = "due", check = "is_a_date", lens(map = { "never": null }, otherwise = "2000-01-01"))]
    due_date: Option<String>,
    #[field(parent, on_delete = "cascade")]
    folder: Option<Reference<Folder>>,
    #[field(on_delete = "nullify")]
    after: Option<Reference<Self_>>,
    #[serde(with = "as_text")]
    #[field(type = "string")]
    size: u64,
    #[serde(skip)]
    #[expect(dead_code, reason = "only its absence from the schema matters")]
    selected: bool,
    #[field(min = -1.5)]
    offset: f32,
    labels: Set<String>,
    parts: List<BTreeMap<String, u8>>,
    extra: Map<List<Map<bool>>>,
    r#type: Option<bool>,
    anything: BTreeMap<String, u8>,
}

type Self_ = TaskCard;

mod as_text {
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(size: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(size)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

const EXPECTED: &str = r#"
    version = 3

    [collections.tasks]
    deletion = "delete_wins"
    policy = "causal"

    [collections.tasks.fields]
    shortTitle = { kind = "register", type = "string", required = true, min_length = 1, max_length = 80, pattern = "[^\n]*", indexed = true }
    description = { kind = "text" }
    votes = { kind = "counter", min = 0, max = 10 }
    priority = { kind = "register", type = "integer", min = 1, max = 5, default = 3 }
    state = { kind = "register", type = "string", policy = "manual" }
    weight = { kind = "register", type = "number", policy = { custom = "nearest", version = 2 } }
    when = { kind = "register", type = "string", key = "due", check = "is_a_date" }
    folder = { kind = "reference", to = "folders", parent = true, on_delete = "cascade" }
    after = { kind = "reference", to = "tasks", on_delete = "nullify" }
    size = { kind = "register", type = "string" }
    offset = { kind = "register", type = "number", min = -1.5 }
    labels = { kind = "set" }
    parts = { kind = "list" }
    extra = { kind = "map" }
    type = { kind = "register", type = "boolean" }
    anything = { kind = "register" }

    [collections.folders.fields]
    name = { kind = "register", type = "string" }
    above = { kind = "reference", to = "folders" }
"#;

#[test]
fn a_struct_makes_the_schema_that_a_file_would() {
    let made = schema![version = 3; TaskCard, Folder];
    let mut expected = Schema::from_toml(EXPECTED).expect("a schema");
    let fields = &mut expected.collections["tasks"].fields;
    // TOML has no null.
    fields["state"].rules.one_of = Some(vec!["open".into(), "done".into(), serde_json::Value::Null]);
    let lens = made.collections["tasks"].fields["when"].lens.clone().expect("a lens");
    assert_eq!(lens.map["never"], serde_json::Value::Null);
    assert_eq!(lens.otherwise, Some("2000-01-01".into()));
    fields["when"].lens = Some(lens);
    assert_eq!(made, expected);
    let names: Vec<_> = made.collections["tasks"].fields.keys().map(anabranch::FieldName::as_str).collect();
    let declared: Vec<_> = expected.collections["tasks"].fields.keys().map(anabranch::FieldName::as_str).collect();
    assert_eq!(names, declared);
    assert!(made.check().is_ok());
}

#[test]
fn a_schema_without_a_version_is_the_first() {
    let made = schema![Note, Folder];
    assert_eq!((made.version, Note::COLLECTION, Folder::COLLECTION), (1, "notes", "folders"));
}

#[test]
fn a_schema_that_does_not_hold_together_shows_when_the_replica_is_opened() {
    let files = Files::new();
    // Notes point to folders.
    let error = Replica::open(files.path("a.db"), schema![Note]).expect_err("no folders");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("notes.folder"), "{error}");
}

#[test]
fn a_collection_that_the_schema_lacks_fails_when_it_is_used() {
    let files = Files::new();
    let replica = Replica::open(files.path("a.db"), schema![Folder]).expect("a replica");
    let notes = replica.space("main").expect("a space").collection::<Note>();
    let error = notes.create(Note::default()).wait().expect_err("no notes");
    assert_eq!(error.to_string(), "the schema has no collection \"notes\"");
    assert!(replica.space("main").expect("a space").untyped("notes").is_err());
}

#[test]
fn what_does_not_fit_the_struct_is_an_error_that_names_it() {
    #[derive(Debug, Entity, Serialize, Deserialize)]
    #[entity(collection = "folders")]
    struct Lazy {
        name: u8,
    }
    let files = Files::new();
    let replica = Replica::open(files.path("a.db"), schema![Folder]).expect("a replica");
    let space = replica.space("main").expect("a space");
    let id =
        space.collection::<Folder>().create(Folder { name: "x".to_owned(), above: None }).wait().expect("a folder");
    let error = space.collection::<Lazy>().get(id).expect_err("not a number");
    assert!(error.to_string().contains(&id.to_string()) && error.to_string().contains("folders"), "{error}");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(
        space.collection::<Lazy>().edit(id, |it| it.name = 1).wait().expect_err("same").kind(),
        ErrorKind::Invalid
    );
}

/// What a crate that re-exports the library looks like.
mod facade {
    pub(super) use ::anabranch as replication;
}

#[test]
fn the_library_may_be_found_elsewhere() {
    #[derive(Entity, Serialize, Deserialize)]
    #[entity(crate = "crate::schema::facade::replication", collection = "folders")]
    struct Elsewhere {
        name: String,
        #[field(on_delete = "keep")]
        above: Option<Reference<Elsewhere>>,
    }
    assert_eq!(facade::replication::schema![Elsewhere], schema![Folder]);
}

#[derive(Default, Entity, Serialize, Deserialize)]
#[entity(local)]
struct Draft {
    text: Text,
}

#[test]
fn a_struct_may_say_that_its_entities_stay_here() {
    let schema = schema![Draft, Folder];
    assert!(schema.collections["drafts"].local && !schema.collections["folders"].local);
}
