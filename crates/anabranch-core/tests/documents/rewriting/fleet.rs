//! Random histories of a fleet, from which a change is taken.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anabranch_core::ChangeHash;
use anabranch_core::document::{Document, Edit, Path, Removal, Step};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::{Writer, all, fields, put, set, splice};
use crate::{actor, field, notes};

/// What a fleet does: a writer edits, or takes everything of another.
#[derive(Clone, Debug)]
enum Act {
    Edit(usize, usize, usize, usize),
    Receive(usize, usize),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let edit = (0usize..3, 0usize..12, 0usize..64, 0usize..64).prop_map(|(by, kind, a, b)| Act::Edit(by, kind, a, b));
    let receive = (0usize..3, 0usize..3).prop_map(|(by, from)| Act::Receive(by, from));
    prop::collection::vec(prop_oneof![5 => edit, 2 => receive], 1..40)
}

fn choose(fields: &Map<String, Value>, kind: usize, a: usize, b: usize, number: usize) -> Edit {
    let length = fields.get("body").and_then(Value::as_str).map_or(0, |text| text.chars().count());
    let steps = fields.get("steps").and_then(Value::as_array).map_or(0, Vec::len);
    let at = a % (length + 1);
    let key = ["a", "b"][a % 2];
    match kind {
        0 => set("title", json!(number)),
        1..=3 => splice(at, b % 4 % (length - at + 1), &format!("<{number}>")),
        4 => Edit::Increment { field: field("votes"), by: i64::try_from(a).unwrap() + 1 },
        5 => Edit::Add { field: field("tags"), member: json!(a % 3) },
        6 => Edit::Remove { field: field("tags"), member: json!(a % 3) },
        7 if steps > 0 => put("steps", a % steps, json!(number)),
        8 if steps > 0 => Edit::Delete { field: field("steps"), path: Path(vec![Step::from(a % steps)]) },
        7..=9 => Edit::Insert {
            field: field("steps"),
            path: Path::default(),
            at: a % (steps + 1),
            values: vec![json!(number), json!([b])],
        },
        10 => put("facts", key, if b.is_multiple_of(2) { json!(number) } else { json!({ "x": number, "y": [1] }) }),
        _ if fields.get("facts").is_some_and(|facts| facts.get(key).is_some()) => {
            Edit::Delete { field: field("facts"), path: Path(vec![Step::from(key)]) }
        }
        _ => set("title", json!(null)),
    }
}

fn play(acts: &[Act]) -> Vec<Writer> {
    let first = Writer::born(json!({ "title": "x", "body": "ab", "steps": [1], "facts": { "a": 1 }, "tags": [0] }));
    let mut fleet = vec![first, Writer::new(2), Writer::new(3)];
    let birth = all(&fleet[0].document);
    fleet[1..].iter_mut().for_each(|writer| drop(writer.document.apply(&birth).unwrap()));
    for (number, act) in acts.iter().enumerate() {
        match *act {
            Act::Edit(by, kind, a, b) => {
                let edit = choose(&fleet[by].fields(), kind, a, b, number);
                let stamp = fleet[by].tick();
                fleet[by].document.edit(&notes(), stamp, &[edit]).unwrap();
            }
            Act::Receive(by, from) => {
                let changes = all(&fleet[from].document);
                let now = fleet[from].now.max(fleet[by].now);
                fleet[by].document.apply(&changes).unwrap();
                fleet[by].now = now;
            }
        }
    }
    fleet
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    /// Two replicas that hold a refused change, and more or less beside it, write the same again; what does not
    /// build on it is kept as it is; and what is written again is admitted everywhere.
    #[test]
    fn g07_every_replica_writes_the_same_again(acts in acts(), which in any::<prop::sample::Index>(), replace: bool) {
        let fleet = play(&acts);
        let mut everything = Document::new(&actor(8));
        for writer in fleet.iter().rev() {
            everything.apply(&all(&writer.document)).unwrap();
        }
        let own: Vec<_> = all(&everything).into_iter().filter(|change| !change.actor().is_derived()).collect();
        // Not the creation: nothing would be left.
        prop_assume!(own.len() > 1);
        let refused = own[1 + which.index(own.len() - 1)].hash();
        let removal = if replace { Removal::replacing([refused]) } else { Removal::discarding([refused]) };
        let whole = everything.rewrite(&removal).unwrap();
        prop_assert!(whole.lost.is_empty());
        let expected: HashMap<_, _> = whole.changes.iter().cloned().collect();
        for writer in &fleet {
            let part = writer.document.rewrite(&removal).unwrap();
            prop_assert_eq!(part.changes.is_empty(), !writer.document.has(&refused));
            for (hash, made) in &part.changes {
                prop_assert_eq!(&expected[hash], made);
            }
            let mut joined = part.document;
            joined.apply(&all(&whole.document)).unwrap();
            prop_assert_eq!(joined.heads(), whole.document.heads());
        }
        let gone: BTreeSet<_> = whole.changes.iter().map(|(hash, _)| *hash).collect();
        for change in all(&everything) {
            prop_assert_eq!(whole.document.has(&change.hash()), !gone.contains(&change.hash()));
        }
        let mut elsewhere = Document::new(&actor(9));
        elsewhere.apply(&all(&whole.document)).unwrap();
        prop_assert_eq!(fields(&elsewhere), fields(&whole.document));
        prop_assert!(whole.document.fold().is_ok());
        // What was typed is still there, but for what the refused change typed.
        let counted = |document: &Document| {
            let mut count = BTreeMap::new();
            let body = fields(document)["body"].as_str().unwrap().to_owned();
            body.chars().for_each(|c| *count.entry(c).or_insert(0usize) += 1);
            count
        };
        let (before, after) = (counted(&everything), counted(&whole.document));
        let missing: usize = before.iter().map(|(c, n)| n.saturating_sub(after.get(c).copied().unwrap_or(0))).sum();
        prop_assert!(missing <= if replace { 0 } else { 4 }, "{before:?} became {after:?}");
        if replace {
            let (before, after) = (fields(&everything), fields(&whole.document));
            prop_assert_eq!((&before["tags"], before.get("votes")), (&after["tags"], after.get("votes")));
        }
    }

    /// Whoever meets the forms that another has written builds on them what it would have written there itself.
    #[test]
    fn what_builds_on_one_form_is_the_same_on_the_other(acts in acts(), which in any::<prop::sample::Index>()) {
        let fleet = play(&acts);
        let mut before = Document::new(&actor(8));
        before.apply(&all(&fleet[0].document)).unwrap();
        before.apply(&all(&fleet[1].document)).unwrap();
        let mut after = before.clone();
        after.apply(&all(&fleet[2].document)).unwrap();
        let own: Vec<_> = all(&before).into_iter().filter(|change| !change.actor().is_derived()).collect();
        prop_assume!(own.len() > 1);
        let refused = own[1 + which.index(own.len() - 1)].hash();
        let elsewhere = before.rewrite(&Removal::discarding([refused])).unwrap();
        let expected = after.rewrite(&Removal::discarding([refused])).unwrap().document;
        let forms = elsewhere.changes.iter().filter_map(|(hash, made)| Some((*hash, made.first()?.hash())));
        let gone = elsewhere.changes.iter().filter(|(_, made)| made.is_empty()).map(|(hash, _)| *hash);
        let removal = Removal { discard: gone.collect(), instead: forms.collect(), ..Removal::default() };
        after.apply(&elsewhere.changes.into_iter().flat_map(|(_, made)| made).collect::<Vec<_>>()).unwrap();
        let turned = after.rewrite(&removal).unwrap();
        prop_assert!(turned.lost.is_empty());
        prop_assert_eq!(fields(&turned.document), fields(&expected));
        prop_assert_eq!(turned.document.heads(), expected.heads());
    }

    #[test]
    fn two_pasts_are_told_apart(acts in acts(), which: (prop::sample::Index, prop::sample::Index)) {
        let mut everything = Document::new(&actor(8));
        for writer in &play(&acts) {
            everything.apply(&all(&writer.document)).unwrap();
        }
        let changes = all(&everything);
        let past = |hash: ChangeHash| {
            let (mut past, mut open) = (BTreeSet::new(), vec![hash]);
            while let Some(hash) = open.pop() {
                if past.insert(hash) {
                    open.extend(everything.change(&hash).unwrap().dependencies());
                }
            }
            past
        };
        let (one, other) = (which.0.get(&changes).hash(), which.1.get(&changes).hash());
        let (ones, others) = (past(one), past(other));
        let expected = (ones.difference(&others).copied().collect(), others.difference(&ones).copied().collect());
        prop_assert_eq!(everything.apart(&one, &other), expected);
    }
}
