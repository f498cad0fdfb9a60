//! Which changes a document takes: those that are new, follow from what comes before them, and name only ops
//! that do, in an order in which each comes after those it needs.
//!
//! Whether a change is admitted depends on the change and on what comes before it by its dependencies, and on
//! nothing else, so every replica decides the same; docs/src/admission.md has the argument.

mod causality;
mod names;

use std::collections::{HashMap, VecDeque};

use automerge::Automerge;

use self::causality::Causality;
use self::names::Names;
use super::error::ApplyError;
use super::past::Past;
use crate::change::Change;
use crate::id::ChangeHash;
#[cfg(feature = "planted")]
use crate::planted::admits_any_name;

#[cfg(not(feature = "planted"))]
const fn admits_any_name() -> bool {
    false
}

/// Checks new changes, each of which comes after those it needs, against the document and one another, and adds
/// them to its past. On an error the past is as it was.
pub(super) fn admit(automerge: &Automerge, past: &mut Past, ordered: &[&Change]) -> Result<(), ApplyError> {
    let mut causality = Causality::new(automerge, past);
    let mut names = Names::new(automerge);
    for (at, change) in ordered.iter().enumerate() {
        if let Err(refused) = admit_next(&mut causality, &mut names, past, change) {
            past.take_back(&ordered[..at]);
            return Err(refused);
        }
    }
    Ok(())
}

fn admit_next<'a>(
    causality: &mut Causality<'a>,
    names: &mut Names<'a>,
    past: &mut Past,
    change: &'a Change,
) -> Result<(), ApplyError> {
    let knowledge = causality.knowledge(past, change)?;
    let own = past.push(change.actor().as_bytes(), change.start_op(), change.max_op());
    if let Err(refused) = names.check(past, own, change, &knowledge)
        && !admits_any_name()
    {
        past.take_back(&[change]);
        return Err(refused);
    }
    causality.place(own, change, knowledge);
    Ok(())
}

/// The changes that are not `known`, each after its dependencies and after its actor's previous change.
pub(super) fn in_order<'a>(
    changes: impl IntoIterator<Item = &'a Change>,
    known: impl Fn(&ChangeHash) -> bool,
    past: &Past,
) -> Result<Vec<&'a Change>, ApplyError> {
    let last_seq = |change: &Change| past.last_seq(change.actor().as_bytes());
    let mut fresh: Vec<&Change> = Vec::new();
    let mut by_hash = HashMap::new();
    let mut by_seq = HashMap::new();
    for change in changes {
        if known(&change.hash()) || by_hash.contains_key(&change.hash()) {
            continue;
        }
        let taken = by_seq.insert((change.actor(), change.seq()), fresh.len()).is_some();
        if taken || change.seq() <= last_seq(change) {
            let (hash, actor, seq) = (change.hash(), change.actor().clone(), change.seq());
            return Err(ApplyError::Fork { hash, actor, seq });
        }
        by_hash.insert(change.hash(), fresh.len());
        fresh.push(change);
    }

    let mut waiting = vec![0usize; fresh.len()];
    let mut followers: Vec<Vec<usize>> = vec![Vec::new(); fresh.len()];
    for (at, change) in fresh.iter().enumerate() {
        for dependency in change.dependencies() {
            match by_hash.get(dependency) {
                Some(&before) => {
                    followers[before].push(at);
                    waiting[at] += 1;
                }
                None if known(dependency) => {}
                None => return Err(ApplyError::MissingDependency(*dependency)),
            }
        }
        if change.seq() - 1 > last_seq(change) {
            let previous = by_seq.get(&(change.actor(), change.seq() - 1));
            let previous = *previous.ok_or(ApplyError::OutOfSequence(change.hash()))?;
            if !change.dependencies().contains(&fresh[previous].hash()) {
                followers[previous].push(at);
                waiting[at] += 1;
            }
        }
    }

    let mut ready: VecDeque<usize> = (0..fresh.len()).filter(|at| waiting[*at] == 0).collect();
    let mut ordered = Vec::with_capacity(fresh.len());
    while let Some(at) = ready.pop_front() {
        ordered.push(fresh[at]);
        for &follower in &followers[at] {
            waiting[follower] -= 1;
            if waiting[follower] == 0 {
                ready.push_back(follower);
            }
        }
    }
    // Hashes rule out a cycle of dependencies, but not one through an actor's own order.
    match waiting.iter().position(|count| *count > 0) {
        Some(stuck) => Err(ApplyError::OutOfSequence(fresh[stuck].hash())),
        None => Ok(ordered),
    }
}
