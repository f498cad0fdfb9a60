//! Replicas that receive the same changes, good and bad, in all orders and all batches, take the same ones.

use std::collections::BTreeSet;

use anabranch_core::document::{ApplyError, Document};
use anabranch_core::{Actor, Change, ChangeHash};

use super::chunk::{Chunk, column, runs, unsigned};
use super::fleet::{self, Dice, actor, notes};
use super::mutation::mutate;

/// A replica as the store makes it: a batch that is refused is tried again one by one, and a document that may have
/// been harmed is built again from its log.
struct Replica {
    document: Document,
    log: Vec<Change>,
    waiting: Vec<Change>,
}

impl Replica {
    fn new() -> Self {
        Self { document: Document::new(&actor(9)), log: Vec::new(), waiting: Vec::new() }
    }

    fn receive(&mut self, changes: &[Change]) {
        self.waiting.extend_from_slice(changes);
        loop {
            let ready = self.take_ready();
            if ready.is_empty() {
                return;
            }
            if !self.try_apply(&ready) {
                for change in ready {
                    self.try_apply(&[change]);
                }
            }
        }
    }

    /// Those that can be applied together, dependencies first.
    fn take_ready(&mut self) -> Vec<Change> {
        let mut ready: Vec<Change> = Vec::new();
        while let Some(place) = self.waiting.iter().position(|change| {
            let known = |hash: &ChangeHash| self.document.has(hash) || ready.iter().any(|it| it.hash() == *hash);
            change.dependencies().iter().all(known)
        }) {
            ready.push(self.waiting.remove(place));
        }
        ready
    }

    fn try_apply(&mut self, changes: &[Change]) -> bool {
        match self.document.apply(changes) {
            Ok(new) => {
                self.log.extend(changes.iter().filter(|change| new.contains(&change.hash())).cloned());
                true
            }
            Err(ApplyError::MissingDependency(_)) => false, // on one that was refused a moment ago
            Err(error) => {
                if !error.is_untouched() {
                    self.document = Document::load(&actor(9), None, self.log.clone()).unwrap();
                }
                false
            }
        }
    }

    /// What it has, and what that means.
    fn outcome(&self) -> (BTreeSet<ChangeHash>, String) {
        let state = self.document.state(Some(&notes())).unwrap();
        let folded = self.document.fold().unwrap();
        let back = Document::load(&actor(9), Some(&folded.bytes), Vec::new()).unwrap();
        assert_eq!(back.state(Some(&notes())).unwrap(), state);
        (self.log.iter().map(Change::hash).collect(), state.to_canonical_json())
    }
}

fn in_batches(dice: &mut Dice, changes: &[Change]) -> Replica {
    let mut order = changes.to_vec();
    for place in (1..order.len()).rev() {
        order.swap(place, dice.below(place + 1));
    }
    let mut replica = Replica::new();
    let mut rest = &order[..];
    while !rest.is_empty() {
        let (batch, later) = rest.split_at(1 + dice.below(rest.len()));
        replica.receive(batch);
        rest = later;
    }
    replica
}

/// Changes by writers of their own that name ops of the history at random, and of each other.
fn strangers(dice: &mut Dice, honest: &[Change], count: usize) -> Vec<Change> {
    let mut all = honest.to_vec();
    let mut actors: BTreeSet<Actor> = honest.iter().map(|change| change.actor().clone()).collect();
    for _ in 0..2_000 {
        let model = dice.one(&all);
        let Ok(change) = Change::parse(mutate(dice, &all, &model)) else { continue };
        // Two changes of one actor with one number are a fork, which is settled elsewhere.
        if all.len() < honest.len() + count && change.seq() == 1 && actors.insert(change.actor().clone()) {
            all.push(change);
        }
    }
    all.split_off(honest.len())
}

#[test]
fn every_replica_refuses_the_same() {
    let (mut taken, mut refused) = (0, 0);
    for seed in 0..80 {
        let mut dice = Dice::new(7_000 + seed);
        let honest = if seed % 2 == 0 { fleet::library(seed, 20) } else { fleet::plain(seed, 20) };
        let mut all = strangers(&mut dice, &honest, 12);
        let bad = all.len();
        all.extend(honest.iter().cloned());
        let first = in_batches(&mut dice, &all);
        let outcome = first.outcome();
        assert!(honest.iter().all(|change| outcome.0.contains(&change.hash())), "the honest ones are taken");
        taken += outcome.0.len() - honest.len();
        refused += bad + honest.len() - outcome.0.len();
        for _ in 0..8 {
            assert_eq!(in_batches(&mut dice, &all).outcome(), outcome, "seed {seed}");
        }
    }
    println!("strangers' changes: {taken} taken, {refused} refused");
    assert!(taken > 50 && refused > 50, "{taken} {refused}");
}

const PUT: u8 = 1;
const INCREMENT: u8 = 5;

/// One op at a root key, by a writer who has seen `dependencies`, replacing the last op of `replaced`.
struct Write<'a> {
    actor: u8,
    time: i64,
    dependencies: &'a [&'a Change],
    key: u8,
    action: u8,
    replaced: Option<&'a Change>,
}

impl Write<'_> {
    fn change(&self) -> Change {
        let mut chunk = Chunk::first(
            &[self.actor],
            vec![
                (column::KEY_TEXT, vec![0x7f, 1, self.key]),
                (column::INSERT, vec![1]),
                (column::ACTION, vec![0x7f, self.action]),
                // A number in one byte.
                (column::VALUE_META, vec![0x7f, 0x14]),
                (column::VALUE, vec![self.actor]),
                (column::PREDECESSOR_COUNT, vec![0x7f, u8::from(self.replaced.is_some())]),
            ],
        );
        chunk.time = self.time;
        chunk.start_op = 1 + self.dependencies.iter().map(|change| change.max_op()).max().unwrap_or(0);
        chunk.dependencies = self.dependencies.iter().map(|change| *change.hash().as_bytes()).collect();
        chunk.dependencies.sort_unstable();
        if let Some(replaced) = self.replaced {
            chunk.others = vec![replaced.actor().as_bytes().to_vec()];
            *chunk.column(column::PREDECESSOR_ACTOR) = vec![0x7f, 1];
            *chunk.column(column::PREDECESSOR_COUNTER) = runs(&[(1, &unsigned(replaced.max_op()))]);
        }
        Change::parse(chunk.seal()).unwrap()
    }
}

fn put(actor: u8, time: i64, dependencies: &[&Change], key: u8, replaced: Option<&Change>) -> Change {
    Write { actor, time, dependencies, key, action: PUT, replaced }.change()
}

#[test]
fn a_change_that_names_a_concurrent_op_is_refused_in_every_order() {
    let base = put(20, 0, &[], b'n', None);
    let wider = put(21, i64::MAX, &[&base], b'n', Some(&base));
    // Its op exists, but whoever writes after `wider` alone cannot know it.
    let other = put(22, 0, &[&base], b'n', Some(&base));
    let knowing = put(23, 1, &[&wider, &other], b'n', Some(&other));
    let concurrent = [PUT, INCREMENT].map(|action| {
        Write { actor: 30 + action, time: 2, dependencies: &[&wider], key: b'n', action, replaced: Some(&other) }
            .change()
    });
    let honest = [base, wider, other, knowing];
    are_taken_in_every_order(&honest, &concurrent);
    // Whoever knows all of them says why.
    let mut document = Document::new(&actor(9));
    document.apply(&honest).unwrap();
    for change in &concurrent {
        let refused = document.apply(std::slice::from_ref(change));
        assert_eq!(refused, Err(ApplyError::NotInPast(change.hash())));
    }
}

/// Left to itself, Automerge panics.
#[test]
fn a_change_that_replaces_a_value_elsewhere_is_refused_in_every_batch() {
    let base = put(20, 0, &[], b'm', None);
    let elsewhere = put(21, 1, &[&base], b'a', Some(&base));
    let later_key = put(22, 1, &[&base], b'z', None);
    let over = put(23, 2, &[&later_key], b'm', Some(&base));
    // It no longer stands where it is looked for.
    let late = put(24, 3, &[&over], b'a', Some(&base));
    are_taken_in_every_order(&[base.clone(), later_key, over], &[elsewhere.clone(), late]);
    let mut document = Document::new(&actor(9));
    assert_eq!(document.apply(&[base, elsewhere.clone()]), Err(ApplyError::Misplaced(elsewhere.hash())));
}

/// The honest ones, and they alone, one by one and all at once.
fn are_taken_in_every_order(honest: &[Change], bad: &[Change]) {
    let mut all = [honest, bad].concat();
    let expected: BTreeSet<_> = honest.iter().map(Change::hash).collect();
    let mut states = BTreeSet::new();
    permutations(&mut all, 0, &mut |order| {
        let mut one_by_one = Replica::new();
        order.iter().for_each(|change| one_by_one.receive(std::slice::from_ref(change)));
        let mut at_once = Replica::new();
        at_once.receive(order);
        for replica in [one_by_one, at_once] {
            let (taken, state) = replica.outcome();
            assert_eq!(taken, expected);
            states.insert(state);
        }
    });
    assert_eq!(states.len(), 1);
}

fn permutations(items: &mut Vec<Change>, from: usize, visit: &mut dyn FnMut(&[Change])) {
    if from == items.len() {
        return visit(items);
    }
    for place in from..items.len() {
        items.swap(from, place);
        permutations(items, from + 1, visit);
        items.swap(from, place);
    }
}
