//! Which of some changes are new, in an order in which each comes after those it needs.

use std::collections::{HashMap, VecDeque};

use super::error::ApplyError;
use crate::change::Change;
use crate::id::{Actor, ChangeHash};

/// New changes, ready to be applied.
#[derive(Debug)]
pub(super) struct Batch<'a> {
    /// Each change comes after its dependencies and after its actor's previous change.
    pub(super) ordered: Vec<&'a Change>,
    /// Whether every change names its actor's previous change as a dependency, as an honest one does. Only
    /// then does Automerge keep them in order by itself, so that they can be applied at once.
    pub(super) linear: bool,
}

/// Sorts the changes that are not `known`, given each actor's last sequence number.
pub(super) fn admit<'a>(
    changes: impl IntoIterator<Item = &'a Change>,
    known: impl Fn(&ChangeHash) -> bool,
    last_seq: impl Fn(&Actor) -> u64,
) -> Result<Batch<'a>, ApplyError> {
    let mut fresh: Vec<&Change> = Vec::new();
    let mut by_hash = HashMap::new();
    let mut by_seq = HashMap::new();
    for change in changes {
        if known(&change.hash()) || by_hash.contains_key(&change.hash()) {
            continue;
        }
        let taken = by_seq.insert((change.actor(), change.seq()), fresh.len()).is_some();
        if taken || change.seq() <= last_seq(change.actor()) {
            let (hash, actor, seq) = (change.hash(), change.actor().clone(), change.seq());
            return Err(ApplyError::Fork { hash, actor, seq });
        }
        by_hash.insert(change.hash(), fresh.len());
        fresh.push(change);
    }

    let mut linear = true;
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
        if change.seq() - 1 > last_seq(change.actor()) {
            let previous = by_seq.get(&(change.actor(), change.seq() - 1));
            let previous = *previous.ok_or(ApplyError::OutOfSequence(change.hash()))?;
            if !change.dependencies().contains(&fresh[previous].hash()) {
                linear = false;
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
        None => Ok(Batch { ordered, linear }),
    }
}
