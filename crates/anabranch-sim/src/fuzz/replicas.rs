//! Replicas of one entity, and any operations on them.

use anabranch_core::document::{Document, Edit, Path, Step};
use anabranch_core::{Actor, Change, CollectionName, FieldName, Heads, ReplicaId, Schema, SplitMix64, Stamp};
use serde_json::{Map, Value, json};

use super::{Input, SCHEMA};

/// The most operations that one input stands for.
const MAX_OPERATIONS: usize = 200;

/// Reads operations on two to four replicas of one entity from `bytes`, carries them out, and panics unless
/// the replicas end with the same heads and byte-identical state.
///
/// # Panics
/// If they do not: that is what the fuzzer looks for.
pub fn replica_ops(bytes: &[u8]) {
    let mut input = Input(bytes);
    let mut group = Group::new(2 + usize::from(input.next() % 3));
    for _ in 0..MAX_OPERATIONS {
        if input.0.is_empty() {
            break;
        }
        group.operate(&mut input);
    }
    group.meet();
}

struct Group {
    schema: Schema,
    name: CollectionName,
    replicas: Vec<Replica>,
    /// A clock of sorts: what each write adds to it is in the input, backwards included.
    millis: i64,
}

struct Replica {
    actor: Actor,
    document: Document,
    /// Everything in the document, to rebuild it from after a refused edit.
    log: Vec<Change>,
}

impl Replica {
    fn rebuild(&mut self) {
        self.document = Document::load(&self.actor, None, self.log.clone()).expect("a log of its own loads");
    }
}

impl Group {
    fn new(count: usize) -> Self {
        let schema = Schema::from_toml(SCHEMA).expect("the schema");
        let name = CollectionName::new("notes").expect("the collection");
        let replicas = (0u64..).take(count).map(|seed| {
            let mut entropy = SplitMix64::new(seed);
            let actor = Actor::mint(&ReplicaId::mint(0, &mut entropy), &mut entropy);
            Replica { document: Document::new(&actor), actor, log: Vec::new() }
        });
        let mut group = Self { schema, replicas: replicas.collect(), name, millis: 1_000_000 };
        let stamp = Stamp::at(group.millis);
        group.write(0, |document, name, schema| document.create(name, schema, stamp, &Map::new()));
        for to in 1..count {
            group.deliver(0, to, usize::MAX);
        }
        group
    }

    fn operate(&mut self, input: &mut Input<'_>) {
        let which = input.below(self.replicas.len());
        match input.next() % 16 {
            0..=9 => self.edit(which, input),
            10 => self.mark(which, Document::delete),
            11 => self.mark(which, Document::restore),
            12 => {
                let folded = self.replicas[which].document.fold().expect("an honest document folds");
                let replica = &mut self.replicas[which];
                let loaded = Document::load(&replica.actor, Some(&folded.bytes), Vec::new());
                replica.document = loaded.expect("what was folded loads");
            }
            _ => {
                let to = input.below(self.replicas.len());
                let count = input.below(8);
                self.deliver(which, to, count);
            }
        }
    }

    fn edit(&mut self, which: usize, input: &mut Input<'_>) {
        let count = 1 + input.below(3);
        let edits: Vec<Edit> = (0..count).map(|_| edit(input)).collect();
        let stamp = self.tick(input);
        let schema = self.schema.clone();
        self.write(which, |document, name, _| {
            document.edit(schema.collection(name.as_str()).expect("the collection"), stamp, &edits)
        });
    }

    fn mark<E>(&mut self, which: usize, mark: impl FnOnce(&mut Document, Stamp) -> Result<Vec<Change>, E>) {
        self.millis += 1;
        let stamp = Stamp::at(self.millis);
        self.write(which, |document, _, _| mark(document, stamp));
    }

    fn tick(&mut self, input: &mut Input<'_>) -> Stamp {
        self.millis += i64::from(input.next()) - 100;
        Stamp::at(self.millis)
    }

    fn write<E>(
        &mut self,
        which: usize,
        write: impl FnOnce(&mut Document, &CollectionName, &anabranch_core::Collection) -> Result<Vec<Change>, E>,
    ) {
        let replica = &mut self.replicas[which];
        let collection = self.schema.collection(self.name.as_str()).expect("the collection");
        match write(&mut replica.document, &self.name, collection) {
            Ok(changes) => replica.log.extend(changes),
            // It does not fit (an index out of range, say): the document is thrown away, as its contract says.
            Err(_) => replica.rebuild(),
        }
    }

    /// Brings the first `count` changes that one replica has and the other lacks, in causal order.
    fn deliver(&mut self, from: usize, to: usize, count: usize) {
        if from == to {
            return;
        }
        let all = self.replicas[from].document.changes_since(&Heads::default()).expect("changes can be read");
        let target = &mut self.replicas[to];
        let missing = all.into_iter().filter(|change| !target.document.has(&change.hash()));
        let missing: Vec<Change> = missing.take(count).collect();
        target.document.apply(&missing).expect("honest changes apply");
        target.log.extend(missing);
    }

    fn meet(&mut self) {
        let count = self.replicas.len();
        for to in 1..count {
            self.deliver(to, 0, usize::MAX);
        }
        for to in 1..count {
            self.deliver(0, to, usize::MAX);
        }
        let collection = self.schema.collection(self.name.as_str());
        let ends: Vec<_> = self
            .replicas
            .iter()
            .map(|replica| {
                let state = replica.document.state(collection).expect("a state");
                (replica.document.heads(), state.to_canonical_json())
            })
            .collect();
        for end in &ends[1..] {
            assert_eq!(end, &ends[0], "replicas with the same changes must have the same state");
        }
    }
}

fn edit(input: &mut Input<'_>) -> Edit {
    let field = |name: &str| FieldName::new(name).expect("a field name");
    let step = |input: &mut Input<'_>| {
        if input.next().is_multiple_of(2) { Step::from("a") } else { Step::from(input.below(4)) }
    };
    match input.next() % 14 {
        0 => Edit::Set { field: field("title"), value: value(input) },
        1 => Edit::Set { field: field("owner"), value: value(input) },
        2 => Edit::Increment { field: field("stars"), by: i64::from(input.next()) - 128 },
        3 | 4 => Edit::Splice {
            field: field("body"),
            at: input.below(12),
            delete: input.below(3),
            insert: ["", "a", "bc", "é", "👍", "xyz"][input.below(6)].to_owned(),
        },
        5 => Edit::Add { field: field("tags"), member: json!(input.below(4)) },
        6 => Edit::Remove { field: field("tags"), member: json!(input.below(4)) },
        7 => Edit::Insert {
            field: field("items"),
            path: Path::default(),
            at: input.below(4),
            values: vec![value(input)],
        },
        8 => Edit::Put { field: field("items"), path: Path(vec![Step::from(input.below(4))]), value: value(input) },
        9 => Edit::Delete { field: field("items"), path: Path(vec![Step::from(input.below(4))]) },
        10 => Edit::Put {
            field: field("extra"),
            path: Path(vec![Step::from(["a", "b"][input.below(2)])]),
            value: value(input),
        },
        11 => Edit::Delete { field: field("extra"), path: Path(vec![Step::from(["a", "b"][input.below(2)])]) },
        12 => Edit::Put { field: field("extra"), path: Path(vec![Step::from("a"), step(input)]), value: value(input) },
        _ => {
            let name = ["title", "body", "stars", "tags", "items", "extra"][input.below(6)];
            Edit::Set { field: field(name), value: value(input) }
        }
    }
}

fn value(input: &mut Input<'_>) -> Value {
    match input.next() % 10 {
        0 => Value::Null,
        1 => json!(true),
        2 => json!(input.next()),
        3 => json!(-1.5),
        4 => json!({ "a": input.next(), "b": [1, 2] }),
        5 => json!([input.next(), { "a": "x" }]),
        6 => json!({}),
        7 => json!(["x", "y"]),
        _ => json!(["one", "two", "three", ""][input.below(4)]),
    }
}
