//! Undo, redo and imports among random edits: what is undone alone is undone exactly, what others write is left
//! alone, and replicas converge.

use anabranch_core::document::{Document, Edit, Page, Path, State, Step, TextSplice};
use anabranch_core::{Change, Heads, Stamp};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::{actor, field, name, notes};

fn stamp(raw: usize) -> Stamp {
    Stamp::from_raw(i64::try_from(raw).unwrap()).unwrap()
}

/// What a replica does next. Numbers are taken modulo whatever there is.
#[derive(Clone, Debug)]
enum Act {
    Edit(usize, usize, usize, Value),
    Delete,
    Restore,
    Undo,
    Redo,
    /// Another system has changed a field since some moment.
    Import(usize, usize, usize, Value),
    Receive(usize),
}

fn values() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![(-3i64..3).prop_map(Value::from), "[ab😀]{0,3}".prop_map(Value::from), Just(json!(null))];
    scalar.prop_recursive(2, 6, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map("[ab]", inner, 0..3)
                .prop_map(|entries| Value::Object(entries.into_iter().collect())),
        ]
    })
}

fn edits() -> impl Strategy<Value = Act> {
    (0usize..16, 0usize..64, 0usize..64, values()).prop_map(|(kind, a, b, value)| Act::Edit(kind, a, b, value))
}

fn acts() -> impl Strategy<Value = Act> {
    prop_oneof![
        12 => edits(),
        1 => Just(Act::Delete),
        1 => Just(Act::Restore),
        5 => Just(Act::Undo),
        3 => Just(Act::Redo),
        2 => (0usize..16, 0usize..64, 0usize..64, values()).prop_map(|(k, a, b, v)| Act::Import(k, a, b, v)),
        5 => (0usize..3).prop_map(Act::Receive),
    ]
}

/// An edit that is valid in a state.
fn choose(fields: &Map<String, Value>, kind: usize, a: usize, b: usize, value: &Value) -> Edit {
    let text = value.as_str().unwrap_or("xyz").to_owned();
    let member = if value.is_array() || value.is_object() || value.is_null() { json!(a % 3) } else { value.clone() };
    let items = |name: &str| fields.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
    let set = |name: &str, value: Value| Edit::Set { field: field(name), value };
    let put = |name: &str, path: Vec<Step>, value: Value| Edit::Put { field: field(name), path: Path(path), value };
    let key = || Step::from(["a", "b"][a % 2]);
    let steps = items("steps").len();
    match kind {
        0 => set("title", value.clone()),
        1 => set("level", json!(a % 5)),
        2..=5 => {
            let length = fields.get("body").and_then(Value::as_str).map_or(0, |text| text.chars().count());
            let at = a % (length + 1);
            Edit::Splice { field: field("body"), at, delete: b % 5 % (length - at + 1), insert: text }
        }
        6 => set("body", json!(text)),
        7 => Edit::Increment { field: field("votes"), by: i64::try_from(a).unwrap() - 32 },
        8 => Edit::Add { field: field("tags"), member },
        9 => Edit::Remove { field: field("tags"), member },
        10 if steps > 0 => put("steps", vec![Step::from(a % steps)], value.clone()),
        11 if steps > 0 => Edit::Delete { field: field("steps"), path: Path(vec![Step::from(a % steps)]) },
        12 if steps > 0 => {
            let mut steps = items("steps");
            let at = b % steps.len();
            steps.rotate_left(at);
            steps.truncate(a % 4);
            steps.push(value.clone());
            set("steps", json!(steps))
        }
        10..=12 => {
            Edit::Insert { field: field("steps"), path: Path::default(), at: 0, values: vec![value.clone(), json!(b)] }
        }
        13 => match fields.get("facts").and_then(|facts| facts.get("a")) {
            Some(Value::Object(_)) => put("facts", vec![Step::from("a"), key()], value.clone()),
            Some(Value::Array(inner)) if !inner.is_empty() => {
                put("facts", vec![Step::from("a"), Step::from(a % inner.len())], value.clone())
            }
            _ => put("facts", vec![Step::from("a")], json!({ "a": value, "b": [1, 2] })),
        },
        14 => Edit::Delete { field: field("facts"), path: Path(vec![key()]) },
        _ => put("facts", vec![key()], value.clone()),
    }
}

struct Replica {
    document: Document,
    index: usize,
    /// Heads that it has had.
    moments: Vec<Heads>,
}

impl Replica {
    fn new(index: usize) -> Self {
        Self { document: Document::new(&actor(index)), index, moments: Vec::new() }
    }

    fn created(fields: &Value) -> Self {
        let mut replica = Self::new(0);
        replica.document.create(&name(), &notes(), stamp(1), fields.as_object().unwrap()).unwrap();
        replica
    }

    fn state(&self) -> State {
        self.document.state(Some(&notes())).unwrap()
    }

    fn fields(&self) -> Value {
        Value::Object(self.state().fields)
    }

    fn edit(&mut self, at: Stamp, kind: usize, a: usize, b: usize, value: &Value) -> Vec<Change> {
        let edit = choose(&self.state().fields, kind, a, b, value);
        self.document.edit(&notes(), at, &[edit]).unwrap()
    }

    fn undo(&mut self, at: Stamp) -> Vec<Change> {
        let own = actor(self.index);
        self.document.undo(&notes(), at, &|it, _| *it == own).unwrap()
    }

    fn redo(&mut self, at: Stamp) -> Vec<Change> {
        let own = actor(self.index);
        self.document.redo(&notes(), at, &|it, _| *it == own).unwrap()
    }

    fn import(&mut self, at: Stamp, kind: usize, a: usize, b: usize, value: &Value) -> Vec<Change> {
        let base = self.moments[a % self.moments.len()].clone();
        let mut other = self.document.at(&base).unwrap();
        let then = other.state(Some(&notes())).unwrap().fields;
        other.edit(&notes(), at, &[choose(&then, kind, a, b, value)]).unwrap();
        let now = other.state(Some(&notes())).unwrap().fields;
        let made = self.document.import(&notes(), &base, &then, &now, at).unwrap();
        assert_eq!(self.document.import(&notes(), &base, &then, &now, at), Ok(vec![]));
        made
    }

    fn receive(&mut self, from: &Self) {
        let changes = from.document.changes_since(&self.document.heads()).unwrap();
        self.document.apply(&changes).unwrap();
    }
}

fn spliced(text: &str, splices: &[TextSplice]) -> String {
    let mut text: Vec<char> = text.chars().collect();
    for TextSplice { at, delete, insert } in splices {
        text.splice(*at..at + delete, insert.chars());
    }
    text.into_iter().collect()
}

fn body(state: &State) -> &str {
    state.fields.get("body").and_then(Value::as_str).unwrap_or_default()
}

fn run(acts: &[(usize, u16, Act)]) -> Vec<Replica> {
    let mut replicas = vec![Replica::created(&json!({ "body": "one two", "steps": [[1], { "a": 2 }, 3] }))];
    for index in 1..3 {
        let mut replica = Replica::new(index);
        replica.receive(&replicas[0]);
        replicas.push(replica);
    }
    for replica in &mut replicas {
        replica.moments.push(replica.document.heads());
    }
    for (step, (who, time, act)) in acts.iter().enumerate() {
        let at = stamp((usize::from(*time) << 16) + step + 2);
        let mut replica = replicas.remove(who % 3);
        let before = (replica.document.heads(), replica.state());
        let made = match act {
            Act::Edit(kind, a, b, value) => replica.edit(at, *kind, *a, *b, value),
            Act::Delete => replica.document.delete(at).unwrap(),
            Act::Restore => replica.document.restore(at).unwrap(),
            Act::Undo => replica.undo(at),
            Act::Redo => replica.redo(at),
            Act::Import(kind, a, b, value) => replica.import(at, *kind, *a, *b, value),
            Act::Receive(from) => {
                replica.receive(&replicas[from % 2]);
                Vec::new()
            }
        };
        for change in made {
            assert_eq!(Change::parse(change.bytes().to_vec()), Ok(change));
        }
        // An editor that follows by splices shows the text.
        let splices = replica.document.text_splices(&notes(), &field("body"), &before.0).unwrap();
        assert_eq!(spliced(body(&before.1), &splices), body(&replica.state()));
        replica.moments.push(replica.document.heads());
        replicas.insert(who % 3, replica);
    }
    replicas
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn g04_replicas_that_undo_redo_and_import_converge(
        acts in prop::collection::vec((0usize..3, 0u16..50, acts()), 1..50),
    ) {
        let mut replicas = run(&acts);
        let logs: Vec<_> =
            replicas.iter().map(|replica| replica.document.changes_since(&Heads::default()).unwrap()).collect();
        for replica in &mut replicas {
            for log in &logs {
                replica.document.apply(log).unwrap();
            }
        }
        let expected = replicas[0].state().to_canonical_json();
        let page = Page { before: None, limit: usize::MAX };
        let history = replicas[0].document.history(&notes(), page).unwrap();
        for replica in &replicas[1..] {
            prop_assert_eq!(replica.state().to_canonical_json(), expected.clone());
            prop_assert_eq!(&replica.document.history(&notes(), page).unwrap(), &history);
        }
        // What undo does next is the same, whatever order the changes came in.
        let mut shuffled = logs.concat();
        shuffled.sort_by_key(Change::hash);
        let mut loaded = Document::load(&actor(1), None, shuffled).unwrap();
        let undone = loaded.undo(&notes(), stamp(1 << 40), &|it, _| *it == actor(1)).unwrap();
        prop_assert_eq!(undone, replicas[1].undo(stamp(1 << 40)));
        prop_assert_eq!(replicas[1].document.fold().unwrap().heads, replicas[1].document.heads());
        replicas[2].receive(&Replica { document: loaded, index: 1, moments: Vec::new() });
        prop_assert_eq!(replicas[2].state().to_canonical_json(), replicas[1].state().to_canonical_json());
    }

    #[test]
    fn a_moment_reads_the_same_on_every_replica_that_has_it(
        acts in prop::collection::vec((0usize..3, 0u16..50, acts()), 1..30),
        picks in prop::collection::vec(any::<prop::sample::Index>(), 4),
    ) {
        let mut replicas = run(&acts);
        for pick in picks {
            let from = pick.index(3);
            let heads = pick.get(&replicas[from].moments).clone();
            let then = replicas[from].document.at(&heads).unwrap();
            prop_assert_eq!(then.heads(), heads.clone());
            let then = then.state(Some(&notes())).unwrap();
            let other = (from + 1) % 3;
            // The other one has that moment and more of its own.
            let changes = replicas[from].document.at(&heads).unwrap().changes_since(&Heads::default()).unwrap();
            replicas[other].document.apply(&changes).unwrap();
            let there = replicas[other].document.at(&heads).unwrap();
            prop_assert_eq!(there.state(Some(&notes())).unwrap(), then);
        }
    }

    #[test]
    fn a_lone_writer_undoes_and_redoes_exactly(edits in prop::collection::vec(edits(), 1..24), turns in prop::collection::vec(0usize..12, 0..6)) {
        let mut writer = Replica::created(&json!({
            // A container that has been born stays, empty; so all are born here.
            "body": "one", "votes": 1, "tags": ["t"], "steps": [{ "a": 1 }], "facts": { "a": { "b": 0 } },
        }));
        let mut moments = vec![writer.fields()];
        let mut clock = 2..;
        let mut next = || stamp(clock.next().unwrap());
        for act in &edits {
            let Act::Edit(kind, a, b, value) = act else { unreachable!() };
            if writer.edit(next(), *kind, *a, *b, value).is_empty() {
                continue;
            }
            moments.push(writer.fields());
        }
        let mut at = moments.len() - 1;
        // Back and forth, then all the way back, and all the way on.
        let all = moments.len();
        for (turn, count) in turns.into_iter().chain([all, 0, all]).enumerate() {
            for _ in 0..count {
                if turn % 2 == 0 && at > 0 {
                    prop_assert_eq!(writer.undo(next()).len(), 1);
                    at -= 1;
                } else if turn % 2 == 1 && at + 1 < all {
                    prop_assert_eq!(writer.redo(next()).len(), 1);
                    at += 1;
                }
                prop_assert_eq!(writer.fields(), moments[at].clone());
            }
        }
    }

    #[test]
    fn undo_never_touches_what_another_types(
        acts in prop::collection::vec((0usize..2, 0usize..5, 0usize..40, 0usize..40), 1..60),
    ) {
        let mut small = Replica::created(&json!({ "body": "" }));
        let mut great = Replica::new(1);
        great.receive(&small);
        let mut clock = 2..;
        let mut next = || stamp(clock.next().unwrap());
        let texts = |replica: &Replica, upper: bool| -> String {
            body(&replica.state()).chars().filter(|char| char.is_uppercase() == upper).collect()
        };
        for (who, what, a, b) in acts {
            let (own, other, upper) = if who == 0 { (&mut small, &great, false) } else { (&mut great, &small, true) };
            let before = texts(own, !upper);
            let state = own.state();
            let all: Vec<char> = body(&state).chars().collect();
            let splice = match what {
                0 | 1 => {
                    let insert: String = ["ab", "c", "def"][b % 3].to_owned();
                    let insert = if upper { insert.to_uppercase() } else { insert };
                    Some((a % (all.len() + 1), 0, insert))
                }
                // Each deletes letters of their own.
                2 => all.iter().enumerate().filter(|(_, char)| char.is_uppercase() == upper).nth(b % 7).map(|(at, _)| (at, 1, String::new())),
                _ => None,
            };
            match (splice, what) {
                (Some((at, delete, insert)), _) => {
                    let edit = Edit::Splice { field: field("body"), at, delete, insert };
                    own.document.edit(&notes(), next(), &[edit]).unwrap();
                }
                (None, 3) if b % 3 == 0 => drop(own.redo(next())),
                // The small one made the entity, which must not be undone here.
                (None, 3) if upper || !texts(own, false).is_empty() => drop(own.undo(next())),
                (None, 4) => {
                    own.receive(other);
                    continue;
                }
                _ => continue,
            }
            prop_assert_eq!(texts(own, !upper), before);
        }
        small.receive(&great);
        great.receive(&small);
        prop_assert_eq!(small.state().to_canonical_json(), great.state().to_canonical_json());
        // Whoever takes back everything leaves the other's letters as they are, and none of their own.
        let theirs = texts(&great, false);
        while !great.undo(next()).is_empty() {}
        let left = great.state();
        prop_assert_eq!(body(&left), theirs);
    }
}
