//! What is read of a plain history without Automerge is what Automerge says; everything else is not taken for plain.

use anabranch_core::document::{Document, Edit, PlainReader, canonical_json};
use anabranch_core::{Actor, Change, Collection, CollectionName, FieldName, Heads, Schema, Stamp};
use automerge::ScalarValue;
use automerge::transaction::{CommitOptions, Transactable as _};
use proptest::prelude::*;
use serde_json::{Value, json};

const SCHEMA: &str = r#"
    version = 1
    [collections.notes.fields]
    title = { kind = "register", default = "untitled", max_length = 12 }
    old = { kind = "register", key = "older" }
    body = { kind = "text" }
    votes = { kind = "counter" }
    tags = { kind = "set" }
    steps = { kind = "list" }
    facts = { kind = "map" }
    folder = { kind = "reference", to = "notes" }
"#;

fn notes() -> Collection {
    Schema::from_toml(SCHEMA).expect("the schema").collections["notes"].clone()
}

fn name() -> CollectionName {
    CollectionName::new("notes").expect("a name")
}

fn actor(byte: u8) -> Actor {
    Actor::from_bytes(&[1, byte]).expect("an actor")
}

#[derive(Clone, Debug)]
enum Act {
    Edit { who: usize, edits: Vec<Edit> },
    Delete { who: usize },
    Restore { who: usize },
    Meet,
}

fn scalar(nested: bool) -> impl Strategy<Value = Value> {
    let other = if nested { json!({ "street": "x", "no": [1, 2] }) } else { json!("other") };
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i16>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_filter("finite", |float| float.is_finite()).prop_map(Value::from),
        "[a-zä🦀]{0,14}".prop_map(Value::from),
        Just(other),
    ]
}

/// `nested`: values that are no scalars, inside lists and maps.
fn edit(nested: bool) -> impl Strategy<Value = Edit> {
    let field = |name: &str| FieldName::new(name).expect("a name");
    let set = move |name: &'static str, value: Value| Edit::Set { field: field(name), value };
    let member =
        prop_oneof![any::<bool>().prop_map(Value::from), (0..4i8).prop_map(Value::from), "[a-c]".prop_map(Value::from)];
    prop_oneof![
        (prop_oneof![Just("title"), Just("old")], scalar(true)).prop_map(move |(name, value)| set(name, value)),
        "[a-f]{0,6}".prop_map(move |text| set("body", text.into())),
        (0..9usize, 0..3usize, "[x-zß]{0,3}").prop_map(move |(at, delete, insert)| Edit::Splice {
            field: field("body"),
            at,
            delete,
            insert
        }),
        (-9..9i64).prop_map(move |by| Edit::Increment { field: field("votes"), by }),
        member.clone().prop_map(move |member| Edit::Add { field: field("tags"), member }),
        member.prop_map(move |member| Edit::Remove { field: field("tags"), member }),
        prop::collection::vec(scalar(nested), 0..4).prop_map(move |values| set("steps", values.into())),
        prop::collection::btree_map("[a-d]", scalar(nested), 0..4)
            .prop_map(move |entries| set("facts", Value::Object(entries.into_iter().collect()))),
    ]
}

fn act(nested: bool) -> impl Strategy<Value = Act> {
    let who = 0..2usize;
    prop_oneof![
        8 => (who.clone(), prop::collection::vec(edit(nested), 1..4)).prop_map(|(who, edits)| Act::Edit { who, edits }),
        1 => who.clone().prop_map(|who| Act::Delete { who }),
        1 => who.prop_map(|who| Act::Restore { who }),
        4 => Just(Act::Meet),
    ]
}

/// Two writers; `meet` after every act makes their history linear. Returns the changes in an order of causality.
fn history(acts: &[Act], linear: bool) -> Vec<Change> {
    let schema = notes();
    let mut writers = [Document::new(&actor(1)), Document::new(&actor(2))];
    let Value::Object(fields) = json!({ "title": "first", "body": "ab" }) else { unreachable!() };
    writers[0].create(&name(), &schema, Stamp::from_raw(7).expect("a stamp"), &fields).expect("created");
    meet(&mut writers);
    for (at, act) in (100..).zip(acts) {
        let stamp = Stamp::from_raw(at).expect("a stamp");
        // What does not suit the moment (a deleted entity, a position beyond the end) is left out.
        match act {
            Act::Edit { who, edits } => drop(writers[*who].clone().edit(&schema, stamp, edits).map(|changes| {
                writers[*who].apply(&changes).expect("its own");
            })),
            Act::Delete { who } => drop(writers[*who].clone().delete(stamp).map(|changes| {
                writers[*who].apply(&changes).expect("its own");
            })),
            Act::Restore { who } => drop(writers[*who].clone().restore(stamp).map(|changes| {
                writers[*who].apply(&changes).expect("its own");
            })),
            Act::Meet => meet(&mut writers),
        }
        if linear {
            meet(&mut writers);
        }
    }
    meet(&mut writers);
    writers[0].changes_since(&Heads::default()).expect("the changes")
}

fn meet(writers: &mut [Document; 2]) {
    let all = |document: &Document| document.changes_since(&Heads::default()).expect("the changes");
    let (first, second) = (all(&writers[0]), all(&writers[1]));
    writers[0].apply(&second).expect("the second's");
    writers[1].apply(&first).expect("the first's");
}

/// The property of all tests here. Returns whether the history was plain.
fn agrees(schema: Option<&Collection>, changes: &[Change]) -> bool {
    let collection = name();
    let Some(plain) = PlainReader::new(&collection, schema).read(changes) else { return false };
    let mut document = Document::new(&actor(9));
    document.apply(changes).expect("what is plain is admitted");
    let state = document.state(schema).expect("a state");
    assert_eq!(canonical_json(&plain.state.fields.clone().into()), canonical_json(&state.fields.clone().into()));
    assert_eq!(plain.state, state);
    assert_eq!(plain.fields, canonical_json(&state.fields.clone().into()));
    assert_eq!(plain.digest, state.digest());
    assert_eq!(plain.heads, document.heads());
    assert!(!document.is_purged());
    true
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn a_linear_history_is_plain_and_reads_as_automerge_reads_it(acts in prop::collection::vec(act(false), 0..12)) {
        let changes = history(&acts, true);
        prop_assert!(agrees(Some(&notes()), &changes), "not plain: {acts:?}");
    }

    #[test]
    fn a_history_with_concurrent_writes_is_never_read_differently(acts in prop::collection::vec(act(true), 0..12)) {
        agrees(Some(&notes()), &history(&acts, false));
    }

    /// Another schema version: some fields are not known, some have another kind.
    #[test]
    fn another_schema_version_is_never_read_differently(acts in prop::collection::vec(act(true), 0..8)) {
        let changes = history(&acts, true);
        agrees(None, &changes);
        let other = r#"
            version = 2
            [collections.notes.fields]
            name = { kind = "register", key = "title", type = "integer", lens = { otherwise = 0 } }
            title = { kind = "register", key = "other" }
            body = { kind = "register" }
            tags = { kind = "map" }
            votes = { kind = "counter" }
        "#;
        agrees(Some(&Schema::from_toml(other).expect("a schema").collections["notes"]), &changes);
    }
}

#[test]
fn a_history_without_its_beginning_or_out_of_order_is_not_plain() {
    let edit = |value: &str| Edit::Set { field: FieldName::new("title").expect("a name"), value: value.into() };
    let changes =
        history(&[Act::Edit { who: 0, edits: vec![edit("a")] }, Act::Edit { who: 1, edits: vec![edit("b")] }], true);
    assert!(changes.len() > 3 && agrees(Some(&notes()), &changes));
    let collection = name();
    let schema = notes();
    let reader = PlainReader::new(&collection, Some(&schema));
    assert_eq!(reader.read(&[]), None);
    for gone in 0..changes.len() - 1 {
        let mut rest = changes.clone();
        rest.remove(gone);
        assert_eq!(reader.read(&rest), None, "without {gone}");
    }
    let backwards: Vec<_> = changes.iter().rev().cloned().collect();
    assert_eq!(reader.read(&backwards), None);
    let twice: Vec<_> = changes.iter().chain(changes.last()).cloned().collect();
    assert_eq!(reader.read(&twice), None);
}

/// What only a foreign writer puts into a register.
#[test]
fn values_that_json_does_not_have_are_read_as_automerge_reads_them() {
    let born = history(&[], true);
    let automerge = born.iter().map(|change| automerge::Change::from_bytes(change.bytes().to_vec()).expect("a change"));
    let mut foreign = automerge::Automerge::new().with_actor(automerge::ActorId::from([7, 7]));
    foreign.apply_changes(automerge).expect("the history");
    let written = |value: ScalarValue| {
        let mut fork = foreign.clone().with_actor(automerge::ActorId::from([7, 8]));
        let mut transaction = fork.transaction();
        transaction.put(automerge::ROOT, "title", value).expect("a put");
        transaction.commit_with(CommitOptions::default().with_time(200));
        let change = fork.get_last_local_change().expect("the change");
        let change = Change::parse(change.raw_bytes().to_vec()).expect("an admitted change");
        [born.clone(), vec![change]].concat()
    };
    let schema = notes();
    for value in
        [ScalarValue::Timestamp(1_800_000_000_000), ScalarValue::Timestamp(-1), ScalarValue::Bytes(vec![0, 255])]
    {
        assert!(agrees(Some(&schema), &written(value.clone())), "{value:?}");
    }
    // A counter is put together from its increments.
    assert!(!agrees(Some(&schema), &written(ScalarValue::counter(5))));
}
