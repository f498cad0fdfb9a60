//! The side that leads: from the sketch to the heads of what differs, and from there to the changes.

use std::collections::{BTreeSet, VecDeque};

use crate::change::Change;
use crate::id::{ChangeHash, EntityId, Heads};
use crate::name::CollectionName;
use crate::sync::reconcile::{Item, MAX_ASKED, MAX_KNOWN, MAX_ROUNDS, MAX_WANTED, Ranges, Sketch, SketchError};
use crate::wire::{Ask, Envelope, Reply, Wanted};

/// An entity's heads on the other side; none if it has nothing of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Theirs {
    /// The entity.
    pub entity: EntityId,
    /// Its heads there.
    pub heads: Heads,
}

/// What this side says about an entity that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compared {
    /// The entity.
    pub entity: EntityId,
    /// If the other side has something that this one lacks: [some of the changes](super::sample) that are here.
    pub lacking: Option<Vec<ChangeHash>>,
}

/// What to do: commit what has come and note what is to be offered, in one transaction; then go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReconcileStep {
    /// Changes that have come.
    pub incoming: Vec<Envelope>,
    /// Entities of which this side now has all that the other has: whatever is here beyond these heads is to be
    /// offered.
    pub offers: Vec<Theirs>,
    /// How it goes on.
    pub then: Then,
}

/// How a reconcile goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Then {
    /// The other side is asked; its reply comes back to [`Reconciler::take`].
    Ask(Ask),
    /// The store is asked what it lacks of these; the answer comes back to [`Reconciler::compared`].
    Compare(Vec<Theirs>),
    /// Both sides know how they differ.
    Done,
}

/// Why a reconcile cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReconcileError {
    /// The sketch failed.
    #[error(transparent)]
    Sketch(#[from] SketchError),
    /// The reply is not one to what was asked.
    #[error("the other side answered what was not asked")]
    Unasked,
    /// It takes more rounds than it ever should.
    #[error("the other side does not come to an end")]
    Endless,
}

/// The initiator's side of reconciling one space.
#[derive(Debug)]
pub struct Reconciler {
    stage: Stage,
    /// Of these collections only.
    of: Option<Vec<CollectionName>>,
    differing: BTreeSet<EntityId>,
    open: VecDeque<EntityId>,
}

#[derive(Debug)]
enum Stage {
    Sketching {
        sketch: Ranges,
        rounds: u32,
    },
    /// Heads have been asked for: of the first so many that are open.
    Asking(usize),
    Comparing(Vec<Theirs>),
    /// Changes have been asked for: of the first so many that are wanted.
    Fetching {
        theirs: Vec<Theirs>,
        wanted: VecDeque<Wanted>,
        asked: usize,
        skip: u32,
    },
    Done,
}

impl Reconciler {
    /// Begins to reconcile what is here, and returns the first question.
    ///
    /// # Errors
    /// [`SketchError::TooMany`] if there are too many items.
    pub fn begin(items: Vec<Item>) -> Result<(Self, Ask), SketchError> {
        Self::begin_of(items, None)
    }

    /// As [`begin`](Self::begin), of some collections only: these are all the items of those.
    ///
    /// # Errors
    /// [`SketchError::TooMany`] if there are too many items.
    pub fn begin_of(items: Vec<Item>, of: Option<Vec<CollectionName>>) -> Result<(Self, Ask), SketchError> {
        let mut sketch = Ranges::of(items)?;
        let first = sketch_ask(of.as_deref(), sketch.open()?);
        let stage = Stage::Sketching { sketch, rounds: 1 };
        Ok((Self { stage, of, differing: BTreeSet::new(), open: VecDeque::new() }, first))
    }

    /// The entities that are known to differ so far.
    #[must_use]
    pub const fn differing(&self) -> &BTreeSet<EntityId> {
        &self.differing
    }

    /// Takes in the reply to the last question.
    ///
    /// # Errors
    /// [`ReconcileError`]; the reconcile is over then.
    pub fn take(&mut self, reply: Reply) -> Result<ReconcileStep, ReconcileError> {
        match (std::mem::replace(&mut self.stage, Stage::Done), reply) {
            (Stage::Sketching { sketch, rounds }, Reply::Sketch(answer)) => self.on_sketch(sketch, rounds, &answer),
            (Stage::Asking(asked), Reply::Heads(heads)) => self.on_heads(asked, heads),
            (Stage::Fetching { theirs, mut wanted, asked, skip: before }, Reply::Changes { changes, done, skip }) => {
                let done = progress(&wanted.make_contiguous()[..asked], before, &changes, done, skip)?;
                wanted.drain(..done);
                let known = skip > 0 && before == 0 && wanted.front_mut().is_some_and(|next| learn(next, &changes));
                Ok(self.fetch(changes, theirs, wanted, if known { 0 } else { skip }))
            }
            (_, Reply::TooMany) => Err(SketchError::TooMany.into()),
            _ => Err(ReconcileError::Unasked),
        }
    }

    /// Takes in what the store lacks of what it was asked about, in the same order.
    ///
    /// # Errors
    /// [`ReconcileError::Unasked`] if it was not asked.
    pub fn compared(&mut self, compared: Vec<Compared>) -> Result<ReconcileStep, ReconcileError> {
        let Stage::Comparing(theirs) = std::mem::replace(&mut self.stage, Stage::Done) else {
            return Err(ReconcileError::Unasked);
        };
        let wanted = compared.into_iter().filter_map(|Compared { entity, lacking }| {
            let mut known = lacking?;
            known.truncate(MAX_KNOWN);
            Some(Wanted { entity, known })
        });
        Ok(self.fetch(Vec::new(), theirs, wanted.collect(), 0))
    }

    fn on_sketch(&mut self, mut sketch: Ranges, rounds: u32, answer: &[u8]) -> Result<ReconcileStep, ReconcileError> {
        let next = sketch.take(answer, &mut self.differing)?;
        let Some(next) = next else {
            self.open = self.differing.iter().copied().collect();
            return Ok(self.ask_heads(Vec::new(), Vec::new()));
        };
        if rounds >= MAX_ROUNDS {
            return Err(ReconcileError::Endless);
        }
        self.stage = Stage::Sketching { sketch, rounds: rounds + 1 };
        let ask = sketch_ask(self.of.as_deref(), next);
        Ok(ReconcileStep { incoming: Vec::new(), offers: Vec::new(), then: Then::Ask(ask) })
    }

    fn ask_heads(&mut self, incoming: Vec<Envelope>, offers: Vec<Theirs>) -> ReconcileStep {
        let asked: Vec<_> = self.open.iter().copied().take(MAX_ASKED).collect();
        let then = if asked.is_empty() {
            Then::Done
        } else {
            self.stage = Stage::Asking(asked.len());
            Then::Ask(Ask::Heads(asked))
        };
        ReconcileStep { incoming, offers, then }
    }

    /// The reply may be about the first of the entities only; the others are asked about again.
    fn on_heads(&mut self, asked: usize, heads: Vec<Vec<ChangeHash>>) -> Result<ReconcileStep, ReconcileError> {
        if heads.is_empty() || heads.len() > asked {
            return Err(ReconcileError::Unasked);
        }
        let entities = self.open.drain(..heads.len());
        let theirs: Vec<_> =
            entities.zip(heads).map(|(entity, heads)| Theirs { entity, heads: Heads::new(heads) }).collect();
        self.stage = Stage::Comparing(theirs.clone());
        Ok(ReconcileStep { incoming: Vec::new(), offers: Vec::new(), then: Then::Compare(theirs) })
    }

    fn fetch(
        &mut self,
        incoming: Vec<Envelope>,
        theirs: Vec<Theirs>,
        wanted: VecDeque<Wanted>,
        skip: u32,
    ) -> ReconcileStep {
        if wanted.is_empty() {
            return self.ask_heads(incoming, theirs);
        }
        let asked: Vec<_> = wanted.iter().take(MAX_WANTED).cloned().collect();
        self.stage = Stage::Fetching { theirs, wanted, asked: asked.len(), skip };
        let ask = Ask::Changes { wanted: asked, skip };
        ReconcileStep { incoming, offers: Vec::new(), then: Then::Ask(ask) }
    }
}

fn sketch_ask(of: Option<&[CollectionName]>, message: Vec<u8>) -> Ask {
    match of {
        None => Ask::Sketch(message),
        Some(names) => Ask::SketchOf { collections: names.to_vec(), message },
    }
}

/// What has come of an entity so far is known from now on, rather than counted: a count would skip others if the other
/// side came to know one of those that are known here meanwhile, as when many replicas reconcile at once. `false` if that
/// is more than can be said.
fn learn(wanted: &mut Wanted, changes: &[Envelope]) -> bool {
    let mut known = Heads::new(wanted.known.clone());
    for envelope in changes.iter().filter(|envelope| envelope.entity == wanted.entity) {
        let Ok(change) = Change::parse(envelope.change.clone()) else { return false };
        known.advance(change.hash(), change.dependencies());
    }
    let fits = known.hashes().len() <= MAX_KNOWN;
    if fits {
        wanted.known = known.hashes().to_vec();
    }
    fits
}

/// How many of the entities that were asked about are done. Every reply must bring something, or it would never end.
fn progress(
    asked: &[Wanted],
    before: u32,
    changes: &[Envelope],
    done: u32,
    skip: u32,
) -> Result<usize, ReconcileError> {
    let done = usize::try_from(done).map_err(|_| ReconcileError::Unasked)?;
    let entities: BTreeSet<_> = asked.iter().map(|wanted| wanted.entity).collect();
    let fits = done < asked.len() || (done == asked.len() && skip == 0);
    let further = done > 0 || (skip > before && !changes.is_empty());
    let is_reply = fits && further && changes.iter().all(|envelope| entities.contains(&envelope.entity));
    if is_reply { Ok(done) } else { Err(ReconcileError::Unasked) }
}
