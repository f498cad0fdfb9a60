//! What a change knows: the changes before it, by its dependencies.
//!
//! In a linear history every change names all heads, and so knows everything; nothing is computed then. For
//! the others, a *clock* holds how many changes of each actor come before.

use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;

use automerge::Automerge;

use super::super::contain::contained;
use super::super::error::ApplyError;
use super::super::past::{Past, index};
use super::super::{ours, theirs};
use crate::change::Change;
use crate::id::ChangeHash;

/// How many changes of each actor, by place.
type Clock = Rc<Vec<u64>>;

/// What comes before a change.
#[derive(Clone, Debug)]
pub(super) enum Knowledge {
    /// Everything in the document, and that many changes of the batch.
    All(usize),
    /// What the clock says, and all of the actor's own.
    Some(Clock),
}

/// A change of the batch that has been placed after its dependencies.
#[derive(Debug)]
struct Placed {
    place: u32,
    seq: u64,
    max_op: u64,
    knowledge: Knowledge,
}

/// What a dependency is, wherever it is.
struct Dependency {
    own_previous: bool,
    max_op: u64,
}

/// The order of a batch's changes on top of a document.
pub(super) struct Causality<'a> {
    automerge: &'a Automerge,
    /// How many changes of each actor the document had before the batch.
    before: Vec<u64>,
    heads: BTreeSet<ChangeHash>,
    placed: Vec<Placed>,
    places: HashMap<ChangeHash, usize>,
    clocks: HashMap<Vec<ChangeHash>, Clock>,
}

impl<'a> Causality<'a> {
    pub(super) fn new(automerge: &'a Automerge, past: &Past) -> Self {
        Self {
            automerge,
            before: past.lengths(),
            heads: automerge.get_heads().into_iter().map(ours).collect(),
            placed: Vec::new(),
            places: HashMap::new(),
            clocks: HashMap::new(),
        }
    }

    /// What the next change of the batch knows, if it follows from its dependencies: its first op comes right
    /// after the last of theirs, and its actor's previous change is one of them.
    pub(super) fn knowledge(&mut self, past: &Past, change: &Change) -> Result<Knowledge, ApplyError> {
        let mut max_op = 0;
        let mut follows = change.seq() == 1;
        for hash in change.dependencies() {
            let dependency = self.dependency(past, change, hash)?;
            max_op = dependency.max_op.max(max_op);
            follows |= dependency.own_previous;
        }
        if !follows {
            return Err(ApplyError::OutOfSequence(change.hash()));
        }
        if change.start_op() != max_op + 1 {
            return Err(ApplyError::StartOp(change.hash()));
        }
        let dependencies = change.dependencies();
        let linear = self.heads.len() <= dependencies.len()
            && self.heads.iter().all(|head| dependencies.binary_search(head).is_ok());
        if linear { Ok(Knowledge::All(self.placed.len())) } else { self.clock(past, change).map(Knowledge::Some) }
    }

    /// The change has been admitted: later ones may depend on it.
    pub(super) fn place(&mut self, place: u32, change: &Change, knowledge: Knowledge) {
        for hash in change.dependencies() {
            self.heads.remove(hash);
        }
        self.heads.insert(change.hash());
        self.places.insert(change.hash(), self.placed.len());
        self.placed.push(Placed { place, seq: change.seq(), max_op: change.max_op(), knowledge });
    }

    fn dependency(&self, past: &Past, change: &Change, hash: &ChangeHash) -> Result<Dependency, ApplyError> {
        let previous = change.seq() - 1;
        if let Some(placed) = self.places.get(hash).map(|at| &self.placed[*at]) {
            let own_previous = placed.seq == previous && past.place(change.actor().as_bytes()) == Some(placed.place);
            return Ok(Dependency { own_previous, max_op: placed.max_op });
        }
        let meta = self.automerge.get_change_meta_by_hash(&theirs(*hash));
        let meta = meta.ok_or(ApplyError::MissingDependency(*hash))?;
        let own_previous = meta.seq == previous && meta.actor.to_bytes() == change.actor().as_bytes();
        Ok(Dependency { own_previous, max_op: meta.max_op })
    }

    fn clock(&mut self, past: &Past, change: &Change) -> Result<Clock, ApplyError> {
        if let Some(shared) = self.clock_of_previous(past, change) {
            return Ok(shared);
        }
        let mut clock = Vec::new();
        let mut elsewhere = Vec::new();
        for hash in change.dependencies() {
            match self.places.get(hash) {
                Some(at) => self.join_placed(&mut clock, *at),
                None => elsewhere.push(*hash),
            }
        }
        if !elsewhere.is_empty() {
            join(&mut clock, &self.clock_in_document(past, elsewhere)?);
        }
        Ok(Rc::new(clock))
    }

    /// The clock of the actor's previous change, if that is all that the change adds to.
    fn clock_of_previous(&self, past: &Past, change: &Change) -> Option<Clock> {
        let [only] = change.dependencies() else { return None };
        let placed = &self.placed[*self.places.get(only)?];
        let Knowledge::Some(clock) = &placed.knowledge else { return None };
        (past.place(change.actor().as_bytes()) == Some(placed.place)).then(|| Rc::clone(clock))
    }

    fn join_placed(&self, clock: &mut Vec<u64>, at: usize) {
        let Placed { place, seq, knowledge, .. } = &self.placed[at];
        match knowledge {
            Knowledge::Some(known) => join(clock, known),
            Knowledge::All(count) => {
                join(clock, &self.before);
                for Placed { place, seq, .. } in &self.placed[..*count] {
                    raise(clock, *place, *seq);
                }
            }
        }
        raise(clock, *place, *seq);
    }

    /// The clock of changes that the document has: everything, but for what is concurrent.
    fn clock_in_document(&mut self, past: &Past, hashes: Vec<ChangeHash>) -> Result<Clock, ApplyError> {
        if let Some(known) = self.clocks.get(&hashes) {
            return Ok(Rc::clone(known));
        }
        let mut clock = self.before.clone();
        let heads: Vec<_> = hashes.iter().map(|hash| theirs(*hash)).collect();
        contained(|| {
            for meta in self.automerge.get_changes_meta(&heads) {
                let place = past.place(meta.actor.to_bytes()).map_or(usize::MAX, index);
                if let Some(known) = clock.get_mut(place) {
                    *known = meta.seq.saturating_sub(1).min(*known);
                }
            }
        })?;
        let clock = Rc::new(clock);
        self.clocks.insert(hashes, Rc::clone(&clock));
        Ok(clock)
    }
}

impl Knowledge {
    /// Whether an actor's change comes before; `own` is the place of the change's own actor.
    pub(super) fn has(&self, own: u32, place: u32, seq: u64) -> bool {
        match self {
            Self::All(_) => true,
            Self::Some(clock) => place == own || clock.get(index(place)).is_some_and(|known| seq <= *known),
        }
    }
}

fn join(clock: &mut Vec<u64>, other: &[u64]) {
    if clock.len() < other.len() {
        clock.resize(other.len(), 0);
    }
    for (known, theirs) in clock.iter_mut().zip(other) {
        *known = (*known).max(*theirs);
    }
}

fn raise(clock: &mut Vec<u64>, place: u32, seq: u64) {
    if clock.len() <= index(place) {
        clock.resize(index(place) + 1, 0);
    }
    clock[index(place)] = clock[index(place)].max(seq);
}
