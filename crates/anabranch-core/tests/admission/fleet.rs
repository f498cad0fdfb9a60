//! Honest histories: what replicas of this library write, and what plain Automerge writes.

use std::collections::BTreeSet;

use anabranch_core::document::{Document, Edit, Path, Step};
use anabranch_core::{
    Actor, Change, Collection, CollectionName, Digest, Entropy as _, FieldName, Schema, SplitMix64, Stamp,
};
use automerge::transaction::{CommitOptions, Transactable as _};
use automerge::{ActorId, Automerge, ObjId, ObjType, ROOT, ReadDoc as _, ScalarValue};
use serde_json::{Map, Value, json};

const SCHEMA: &str = r#"
    version = 1
    [collections.notes.fields]
    title = { kind = "register" }
    due = { kind = "register", policy = "manual" }
    body = { kind = "text" }
    votes = { kind = "counter" }
    tags = { kind = "set" }
    steps = { kind = "list" }
    facts = { kind = "map" }
    folder = { kind = "reference", to = "notes" }
"#;

pub fn notes() -> Collection {
    Schema::from_toml(SCHEMA).unwrap().collections["notes"].clone()
}

pub fn name() -> CollectionName {
    CollectionName::new("notes").unwrap()
}

pub fn actor(number: usize) -> Actor {
    Actor::from_bytes(&[1, u8::try_from(number).unwrap()]).unwrap()
}

pub fn stamp(raw: i64) -> Stamp {
    Stamp::from_raw(raw).unwrap()
}

/// Random choices.
pub struct Dice(SplitMix64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(SplitMix64::new(seed))
    }

    pub fn number(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.number() % u64::try_from(end).unwrap()).unwrap()
    }

    pub fn one<T: Clone>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())].clone()
    }

    pub fn chance(&mut self, one_in: usize) -> bool {
        self.below(one_in) == 0
    }
}

fn field(name: &str) -> FieldName {
    FieldName::new(name).unwrap()
}

fn value(dice: &mut Dice, depth: usize) -> Value {
    match dice.below(if depth == 0 { 6 } else { 8 }) {
        0 => Value::Null,
        1 => json!(dice.chance(2)),
        2 => json!(dice.below(5)),
        3 => json!(-1.5),
        4 => json!(u64::MAX),
        5 => json!(["", "a", "é😀"][dice.below(3)]),
        6 => (0..dice.below(3)).map(|_| value(dice, depth - 1)).collect(),
        _ => json!({ "a": value(dice, depth - 1), "": value(dice, depth - 1) }),
    }
}

fn edit(dice: &mut Dice, fields: &Map<String, Value>) -> Edit {
    let set = |name: &str, value: Value| Edit::Set { field: field(name), value };
    let steps = fields.get("steps").and_then(Value::as_array).map_or(0, Vec::len);
    let length = fields.get("body").and_then(Value::as_str).map_or(0, |body| body.chars().count());
    match dice.below(14) {
        0 => set("title", value(dice, 2)),
        1 => set("due", value(dice, 0)),
        2 => set("folder", Value::Null),
        3 => Edit::Increment { field: field("votes"), by: i64::try_from(dice.below(9)).unwrap() - 4 },
        4 => Edit::Add { field: field("tags"), member: json!(dice.below(3)) },
        5 => Edit::Remove { field: field("tags"), member: json!(dice.below(3)) },
        6 => set("facts", json!({ "a": value(dice, 2), "b": value(dice, 1) })),
        7 => Edit::Put {
            field: field("facts"),
            path: Path(vec![Step::from(["", "a", "b"][dice.below(3)])]),
            value: value(dice, 2),
        },
        8 => Edit::Delete { field: field("facts"), path: Path(vec![Step::from(["", "a", "b"][dice.below(3)])]) },
        9 if steps > 0 => {
            Edit::Put { field: field("steps"), path: Path(vec![Step::from(dice.below(steps))]), value: value(dice, 1) }
        }
        10 if steps > 0 => Edit::Delete { field: field("steps"), path: Path(vec![Step::from(dice.below(steps))]) },
        9..=11 => {
            let (at, values) = (dice.below(steps + 1), vec![value(dice, 2), value(dice, 0)]);
            Edit::Insert { field: field("steps"), path: Path::default(), at, values }
        }
        _ => {
            let at = dice.below(length + 1);
            let delete = dice.below((length - at).min(4) + 1);
            Edit::Splice {
                field: field("body"), at, delete, insert: ["", "x", "yz", "é😀"][dice.below(4)].to_owned()
            }
        }
    }
}

/// One thing that a replica does, as often as it makes sense.
fn act(dice: &mut Dice, document: &mut Document, at: Stamp) -> Vec<Change> {
    let collection = notes();
    let own = document.clone();
    let made = match dice.below(24) {
        0 => document.delete(at),
        1 => document.restore(at),
        2 | 3 => document.undo(&collection, at, &|_, _| true),
        4 => document.redo(&collection, at, &|_, _| true),
        5 => {
            let base = own.heads();
            let body = own.state(Some(&collection)).unwrap().fields;
            let mut remote = body.clone();
            remote.insert("title".to_owned(), json!(dice.below(1_000)));
            document.import(&collection, &base, &body, &remote, at)
        }
        _ => {
            let fields = document.state(Some(&collection)).unwrap().fields;
            let edits: Vec<_> = (0..=dice.below(2)).map(|_| edit(dice, &fields)).collect();
            document.edit(&collection, at, &edits)
        }
    };
    made.unwrap_or_else(|_| {
        // Nothing to undo, an index that the edit before has moved: it is as if nothing had been tried.
        *document = own;
        Vec::new()
    })
}

/// What three replicas of this library write, each after what it depends on.
pub fn library(seed: u64, acts: usize) -> Vec<Change> {
    let mut dice = Dice::new(seed);
    let mut first = Document::new(&actor(1));
    let mut log = first.create(&name(), &notes(), stamp(1), &Map::new()).unwrap();
    let mut replicas = vec![first];
    for number in 2..=3 {
        let mut other = Document::new(&actor(number));
        other.apply(&log).unwrap();
        replicas.push(other);
    }
    for number in 0..acts {
        let place = dice.below(replicas.len());
        if dice.chance(4) {
            let other = dice.below(3);
            let news = replicas[other].changes_since(&replicas[place].heads()).unwrap();
            replicas[place].apply(&news).unwrap();
        } else {
            let at = stamp(i64::try_from(number).unwrap() + 2);
            for made in act(&mut dice, &mut replicas[place], at) {
                if !log.contains(&made) {
                    log.push(made);
                }
            }
        }
    }
    if dice.chance(4) {
        // A marker beside a history that it does not know: it is a change like any other to the reader.
        log.push(Document::purge_marker(&Digest::of(&seed.to_le_bytes())).unwrap());
    }
    log
}

/// What plain Automerge writes: three documents that merge now and then.
pub fn plain(seed: u64, acts: usize) -> Vec<Change> {
    let mut dice = Dice::new(seed);
    let mut first = Automerge::new().with_actor(ActorId::from([1, 1]));
    first.transact_with::<_, _, automerge::AutomergeError, _>(|_| at(0), |it| it.put(ROOT, "k", 0)).unwrap();
    let mut documents = vec![first];
    for number in 2..=3u8 {
        let other = documents[0].fork().with_actor(ActorId::from([1, number]));
        documents.push(other);
    }
    for number in 1..acts {
        let place = dice.below(3);
        if dice.chance(4) {
            let mut other = documents[dice.below(3)].clone();
            documents[place].merge(&mut other).unwrap();
        } else {
            write(&mut dice, &mut documents[place], at(i64::try_from(number).unwrap()));
        }
    }
    let mut log = Vec::new();
    let mut seen = BTreeSet::new();
    for document in &documents {
        for change in document.get_changes(&[]) {
            if seen.insert(change.hash()) {
                log.push(Change::parse(change.raw_bytes().to_vec()).unwrap());
            }
        }
    }
    log
}

fn at(time: i64) -> CommitOptions {
    CommitOptions::default().with_time(time)
}

fn scalar(dice: &mut Dice) -> ScalarValue {
    match dice.below(11) {
        0 => ScalarValue::Null,
        1 => true.into(),
        2 => ScalarValue::Int(i64::MIN),
        3 => ScalarValue::Uint(u64::MAX),
        4 => f64::NAN.into(),
        5 => "é".into(),
        6 => ScalarValue::Bytes(vec![0, 255]),
        7 | 8 => ScalarValue::counter(-3),
        9 => ScalarValue::Timestamp(-1),
        _ => "".into(),
    }
}

fn write(dice: &mut Dice, document: &mut Automerge, options: CommitOptions) {
    let mut transaction = document.transaction();
    for _ in 0..=dice.below(4) {
        let object = some_object(dice, &transaction);
        // What does not fit the object is an error that changes nothing.
        let tried = match transaction.object_type(&object).unwrap() {
            ObjType::Map | ObjType::Table => {
                let key = ["", "k", "l"][dice.below(3)];
                match dice.below(5) {
                    0 | 1 => transaction.put(&object, key, scalar(dice)),
                    2 => transaction.delete(&object, key),
                    3 => transaction.increment(&object, key, 2),
                    _ => transaction.put_object(&object, key, kind(dice)).map(drop),
                }
            }
            ObjType::List => {
                let at = dice.below(transaction.length(&object) + 1);
                match dice.below(7) {
                    0 | 1 => transaction.insert(&object, at, scalar(dice)),
                    2 => transaction.put(&object, at, scalar(dice)),
                    3 => transaction.delete(&object, at),
                    4 => transaction.increment(&object, at, 2),
                    5 => transaction.put_object(&object, at, kind(dice)).map(drop),
                    _ => transaction.insert_object(&object, at, kind(dice)).map(drop),
                }
            }
            ObjType::Text => {
                let length = transaction.length(&object);
                let at = dice.below(length + 1);
                let delete = isize::try_from(dice.below((length - at).min(3) + 1)).unwrap();
                transaction.splice_text(&object, at, delete, ["", "ab", "é😀"][dice.below(3)])
            }
        };
        drop(tried);
    }
    transaction.commit_with(options);
}

fn kind(dice: &mut Dice) -> ObjType {
    dice.one(&[ObjType::Map, ObjType::List, ObjType::Text])
}

/// Goes down from the root, some of the way.
fn some_object(dice: &mut Dice, source: &impl automerge::ReadDoc) -> ObjId {
    let mut object = ROOT;
    for _ in 0..dice.below(5) {
        let inner: Vec<ObjId> = match source.object_type(&object).unwrap() {
            ObjType::Map | ObjType::Table => source.map_range(&object, ..).map(|it| it.id()).collect(),
            _ => source.list_range(&object, ..).map(|it| it.id()).collect(),
        };
        let inner: Vec<_> = inner.into_iter().filter(|id| source.object_type(id).is_ok()).collect();
        if inner.is_empty() {
            break;
        }
        object = dice.one(&inner);
    }
    object
}
