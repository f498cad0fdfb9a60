//! Documents under random edits and random delivery: they converge, and a small model of registers agrees.

use std::collections::BTreeMap;

use anabranch_core::document::{ApplyError, Document, Edit, Path, State, Step, canonical_json};
use anabranch_core::{Change, ChangeHash, Heads, Stamp};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::{actor, field, name, notes};

/// What a replica does next. Numbers are taken modulo whatever there is.
#[derive(Clone, Debug)]
enum Act {
    Edit(Kind, usize, usize, Value),
    Delete,
    Restore,
    /// Receives some of another's changes, out of order.
    Receive(usize, u64),
    /// Is folded and loaded again.
    Fold,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Title,
    First,
    Type,
    Rewrite,
    Count,
    Add,
    Remove,
    SetTags,
    Insert,
    PutStep,
    DropStep,
    SetSteps,
    PutFact,
    PutInnerFact,
    DropFact,
    SetFacts,
}

const KINDS: [Kind; 16] = [
    Kind::Title,
    Kind::First,
    Kind::Type,
    Kind::Rewrite,
    Kind::Count,
    Kind::Add,
    Kind::Remove,
    Kind::SetTags,
    Kind::Insert,
    Kind::PutStep,
    Kind::DropStep,
    Kind::SetSteps,
    Kind::PutFact,
    Kind::PutInnerFact,
    Kind::DropFact,
    Kind::SetFacts,
];

fn values() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-3i64..3).prop_map(Value::from),
        (-2.0f64..2.0).prop_map(Value::from),
        "[ab é😀]{0,3}".prop_map(Value::from),
    ];
    scalar.prop_recursive(3, 8, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map("[ab]?", inner, 0..3)
                .prop_map(|entries| Value::Object(entries.into_iter().collect())),
        ]
    })
}

fn acts() -> impl Strategy<Value = Act> {
    prop_oneof![
        12 => (prop::sample::select(&KINDS[..]), 0usize..64, 0usize..64, values()).prop_map(|(k, a, b, v)| Act::Edit(k, a, b, v)),
        1 => Just(Act::Delete),
        1 => Just(Act::Restore),
        6 => (0usize..4, any::<u64>()).prop_map(|(from, seed)| Act::Receive(from, seed)),
        1 => Just(Act::Fold),
    ]
}

struct Replica {
    document: Document,
    /// Everything that it has seen, in the order in which it came.
    log: Vec<Change>,
}

impl Replica {
    fn state(&self) -> State {
        self.document.state(Some(&notes())).unwrap()
    }

    fn edit(&mut self, stamp: Stamp, kind: Kind, a: usize, b: usize, value: &Value) -> Vec<Change> {
        let edit = self.choose(kind, a, b, value);
        let made = self.document.edit(&notes(), stamp, std::slice::from_ref(&edit));
        let made = made.unwrap_or_else(|error| panic!("{edit:?}: {error}"));
        self.log.extend(made.clone());
        // What was set is what is read, unless clearing made it absent.
        if let Edit::Set { field, value } = &edit {
            let read = self.state().fields.get(field.as_str()).cloned().unwrap_or(Value::Null);
            match kind {
                Kind::SetTags => assert_eq!(read.as_array().map_or(0, Vec::len), distinct(value)),
                _ if read.is_null() => assert!(value.is_null() || is_empty(value)),
                _ => assert_eq!(canonical_json(&read), canonical_json(value)),
            }
        }
        made
    }

    /// An edit that is valid in the replica's present state.
    fn choose(&self, kind: Kind, a: usize, b: usize, value: &Value) -> Edit {
        let fields = self.state().fields;
        let text = value.as_str().unwrap_or("xyz").to_owned();
        let member =
            if value.is_array() || value.is_object() || value.is_null() { json!(a % 3) } else { value.clone() };
        let length = |name: &str| fields.get(name).and_then(Value::as_array).map_or(0, Vec::len);
        let key = Step::from(["", "a", "b"][a % 3]);
        let set = |name: &str, value: Value| Edit::Set { field: field(name), value };
        let put = |name: &str, path: Vec<Step>, value: Value| Edit::Put { field: field(name), path: Path(path), value };
        match kind {
            Kind::Title => set("title", value.clone()),
            Kind::First => set("first", value.clone()),
            Kind::Type => {
                let length = fields.get("body").and_then(Value::as_str).map_or(0, |text| text.chars().count());
                let at = a % (length + 1);
                Edit::Splice { field: field("body"), at, delete: b % (length - at + 1), insert: text }
            }
            Kind::Rewrite => {
                let old = fields.get("body").and_then(Value::as_str).unwrap_or("");
                let mut new: String = old.chars().skip(a % 3).collect();
                new.insert_str(0, &text);
                new.push_str(&text);
                set("body", json!(new))
            }
            Kind::Count => Edit::Increment { field: field("votes"), by: i64::try_from(a).unwrap() - 32 },
            Kind::Add => Edit::Add { field: field("tags"), member },
            Kind::Remove => Edit::Remove { field: field("tags"), member },
            Kind::SetTags => set("tags", json!([member, a % 3, b % 3])),
            Kind::Insert => {
                let at = a % (length("steps") + 1);
                Edit::Insert { field: field("steps"), path: Path::default(), at, values: vec![value.clone(), json!(b)] }
            }
            Kind::PutStep | Kind::DropStep if length("steps") == 0 => set("steps", json!([value, b])),
            Kind::PutStep => put("steps", vec![Step::from(a % length("steps"))], value.clone()),
            Kind::DropStep => Edit::Delete { field: field("steps"), path: Path(vec![Step::from(a % length("steps"))]) },
            Kind::SetSteps => {
                let mut steps = fields.get("steps").and_then(Value::as_array).cloned().unwrap_or_default();
                steps.insert(a % (steps.len() + 1), value.clone());
                steps.remove(b % steps.len());
                set("steps", json!(steps))
            }
            Kind::PutFact => put("facts", vec![key], value.clone()),
            Kind::PutInnerFact => match fields.get("facts").and_then(|facts| facts.get("a")) {
                Some(Value::Object(_)) => put("facts", vec![Step::from("a"), key], value.clone()),
                _ => put("facts", vec![Step::from("a")], json!({ "a": value })),
            },
            Kind::DropFact => Edit::Delete { field: field("facts"), path: Path(vec![key]) },
            Kind::SetFacts => {
                let mut facts = fields.get("facts").and_then(Value::as_object).cloned().unwrap_or_default();
                facts.insert(["", "a", "b"][b % 3].to_owned(), value.clone());
                facts.remove(["", "a", "b"][a % 3]);
                set("facts", Value::Object(facts))
            }
        }
    }

    /// Takes what can be applied of some changes, shuffled and with repeats.
    fn receive(&mut self, changes: &[Change], seed: u64) {
        let mut some: Vec<_> = changes.iter().filter(|change| pick(seed, change) > u64::MAX / 4).cloned().collect();
        some.sort_by_key(|change| pick(seed.wrapping_add(1), change));
        some.extend(some.iter().take(3).cloned().collect::<Vec<_>>());
        // In small batches; one that lacks a dependency leaves the document as it was.
        for batch in some.chunks(usize::try_from(seed % 7).unwrap() + 1) {
            let heads = self.document.heads();
            match self.document.apply(batch) {
                Ok(new) => self.log.extend(new.iter().map(|hash| self.document.change(hash).unwrap())),
                Err(ApplyError::MissingDependency(missing)) => {
                    assert!(!self.document.has(&missing));
                    assert_eq!(self.document.heads(), heads);
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
}

fn is_empty(value: &Value) -> bool {
    value.as_str().is_some_and(str::is_empty)
        || value.as_array().is_some_and(Vec::is_empty)
        || value.as_object().is_some_and(serde_json::Map::is_empty)
}

fn distinct(members: &Value) -> usize {
    let texts = members.as_array().unwrap().iter().map(canonical_json);
    texts.collect::<std::collections::BTreeSet<_>>().len()
}

/// A number for a change that looks random.
fn pick(seed: u64, change: &Change) -> u64 {
    let mut bytes = seed.to_le_bytes().to_vec();
    bytes.extend_from_slice(change.hash().as_bytes());
    u64::from_le_bytes(anabranch_core::Digest::of(&bytes).as_bytes()[..8].try_into().unwrap())
}

/// The model of a register: every write, and the writes that it has seen.
#[derive(Default)]
struct Register(BTreeMap<ChangeHash, (Stamp, Value, Vec<ChangeHash>)>);

impl Register {
    fn visible(&self, document: &Document) -> Vec<ChangeHash> {
        let known: Vec<_> = self.0.iter().filter(|(hash, _)| document.has(hash)).collect();
        let replaced = |hash: &ChangeHash| known.iter().any(|(_, (_, _, before))| before.contains(hash));
        known.iter().map(|(hash, _)| **hash).filter(|hash| !replaced(hash)).collect()
    }

    /// The value of the last writer, and how many different values there are.
    fn read(&self, document: &Document) -> (Value, usize) {
        let mut visible: Vec<_> = self.visible(document).into_iter().map(|hash| &self.0[&hash]).collect();
        visible.sort_by_key(|(stamp, _, _)| *stamp);
        let distinct =
            visible.iter().map(|(_, value, _)| canonical_json(value)).collect::<std::collections::BTreeSet<_>>();
        (visible.last().map_or(Value::Null, |(_, value, _)| value.clone()), distinct.len())
    }

    fn check(&self, replica: &Replica) {
        let state = replica.state();
        let (value, count) = self.read(&replica.document);
        assert_eq!(state.fields.get("title").unwrap_or(&Value::Null), &value);
        let contest = state.contests.iter().find(|contest| contest.field == "title");
        assert_eq!(contest.is_some(), count > 1);
        if let Some(contest) = contest {
            assert_eq!(contest.contenders.len(), self.visible(&replica.document).len());
            assert_eq!(contest.contenders[0].value, value);
        }
    }
}

fn born_apart(count: usize, together: bool) -> Vec<Replica> {
    let mut replicas: Vec<Replica> = Vec::new();
    for index in 0..count {
        let mut document = Document::new(&actor(index));
        let log = match replicas.first() {
            Some(first) if together => {
                document.apply(&first.log).unwrap();
                first.log.clone()
            }
            // A well-known entity, created on each replica.
            _ => document.create(&name(), &notes(), Stamp::ZERO, &serde_json::Map::new()).unwrap(),
        };
        replicas.push(Replica { document, log });
    }
    replicas
}

fn run(count: usize, together: bool, acts: &[(usize, u16, Act)]) -> Vec<Replica> {
    let mut replicas = born_apart(count, together);
    let mut title = Register::default();
    for (step, (who, time, act)) in acts.iter().enumerate() {
        let who = who % count;
        // Clocks are anything but in step; the low bits keep stamps apart.
        let stamp = Stamp::from_raw(i64::from(*time) << 16 | i64::try_from(step + 1).unwrap()).unwrap();
        match act {
            Act::Edit(kind, a, b, value) => {
                let seen = title.visible(&replicas[who].document);
                let made = replicas[who].edit(stamp, *kind, *a, *b, value);
                if let (Kind::Title, Some(change)) = (kind, made.last()) {
                    title.0.insert(change.hash(), (stamp, value.clone(), seen));
                }
            }
            Act::Delete => {
                let made = replicas[who].document.delete(stamp).unwrap();
                replicas[who].log.extend(made);
            }
            Act::Restore => {
                let made = replicas[who].document.restore(stamp).unwrap();
                replicas[who].log.extend(made);
                assert!(!replicas[who].state().deleted);
            }
            Act::Receive(from, seed) => {
                let changes = replicas[from % count].log.clone();
                replicas[who].receive(&changes, *seed);
            }
            Act::Fold => {
                let folded = replicas[who].document.fold().unwrap();
                replicas[who].document = Document::load(&actor(who), Some(&folded.bytes), Vec::new()).unwrap();
            }
        }
        title.check(&replicas[who]);
    }
    let everything: Vec<_> = replicas.iter().flat_map(|replica| replica.log.clone()).collect();
    for (index, replica) in replicas.iter_mut().enumerate() {
        let mut shuffled = everything.clone();
        shuffled.sort_by_key(|change| pick(u64::try_from(index).unwrap(), change));
        replica.document.apply(&shuffled).unwrap();
        title.check(replica);
    }
    replicas
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn g04_documents_with_the_same_changes_have_the_same_state(
        count in 2usize..5,
        together in any::<bool>(),
        acts in prop::collection::vec((0usize..4, 0u16..50, acts()), 1..50),
    ) {
        let replicas = run(count, together, &acts);
        let first = &replicas[0];
        let expected = first.state();
        for replica in &replicas[1..] {
            prop_assert_eq!(replica.document.heads(), first.document.heads());
            prop_assert_eq!(replica.state().to_canonical_json(), expected.to_canonical_json());
            prop_assert_eq!(replica.state().digest(), expected.digest());
            let plain = replica.document.state(None).unwrap();
            prop_assert_eq!(plain.to_canonical_json(), first.document.state(None).unwrap().to_canonical_json());
        }
        // However it is put together again, it is the same.
        let changes = first.document.changes_since(&Heads::default()).unwrap();
        let loaded = Document::load(&actor(9), None, changes.iter().rev().cloned().collect()).unwrap();
        prop_assert_eq!(&loaded.state(Some(&notes())).unwrap(), &expected);
        let half = Document::load(&actor(9), None, changes[..changes.len() / 2].to_vec()).unwrap();
        let folded = half.fold().unwrap();
        let grown = Document::load(&actor(9), Some(&folded.bytes), changes).unwrap();
        prop_assert_eq!(grown.heads(), first.document.heads());
        prop_assert_eq!(&grown.state(Some(&notes())).unwrap(), &expected);
    }

    #[test]
    fn a_tampered_change_is_refused_or_contained(at in 9usize..400, bit in 0u8..8, resealed in any::<bool>()) {
        let mut document = Document::new(&actor(0));
        let fields = json!({ "title": "x", "steps": [1, { "a": 2 }], "tags": ["t"] });
        let mut changes = document.create(&name(), &notes(), Stamp::ZERO, fields.as_object().unwrap()).unwrap();
        let mut bytes = changes.pop().unwrap().into_bytes();
        let at = 9 + (at - 9) % (bytes.len() - 9);
        bytes[at] ^= 1 << bit;
        if resealed {
            let digest = anabranch_core::Digest::of(&bytes[8..]);
            bytes[4..8].copy_from_slice(&digest.as_bytes()[..4]);
        }
        let Ok(tampered) = Change::parse(bytes) else { return Ok(()) };
        prop_assert!(resealed, "the checksum lets nothing through");
        let mut victim = Document::new(&actor(1));
        victim.apply(&changes).unwrap();
        // A hostile change may be well formed. It must not panic, and what it leaves must be readable or
        // known to be poisoned.
        if victim.apply(&[tampered]).is_ok() {
            drop(victim.state(Some(&notes())));
            drop(victim.fold());
        }
    }
}
