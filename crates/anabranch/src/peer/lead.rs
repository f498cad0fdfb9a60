//! The side that has dialled: it finds out what differs, asks for what it lacks, and hands over the rest.

use std::collections::{BTreeSet, HashSet};

use anabranch_core::sync::reconcile::{Compared, ReconcileError, Reconciler, SketchError, Theirs, Then};
use anabranch_core::wire::{Ask, PeerMessage, Reply, Wanted};
use anabranch_core::{EntityId, SpaceName};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::peer::PeerError;
use crate::peer::session::{Session, Written};

/// Entities in one message that asks for changes.
const WANT_AT_ONCE: usize = 512;
/// Streams in which one space is exchanged before it is another's turn.
const MAX_STREAMS: usize = 1_024;

/// What differs in a space.
#[derive(Default)]
struct Differences {
    /// What this side lacks.
    wanted: Vec<Wanted>,
    /// All that differ, with the other side's heads.
    theirs: Vec<Theirs>,
}

impl Session {
    /// Exchanges all spaces, once.
    pub(super) async fn lead_all(&mut self) -> Result<(), PeerError> {
        for space in self.agree_on_spaces().await? {
            self.lead(&space).await?;
        }
        Ok(())
    }

    /// Exchanges all spaces, and then each in which something happens, until the connection breaks.
    pub(super) async fn lead_live(&mut self) -> Result<(), PeerError> {
        let written = Written::of(&self.store)?;
        self.lead_all().await?;
        // Whatever else happens does not put it off.
        let mut looks = interval_at(Instant::now() + self.look_every, self.look_every);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let mut spaces = std::mem::take(&mut self.poked);
            if spaces.is_empty() {
                tokio::select! {
                    own = written.next() => spaces = own?,
                    message = self.channel.receive() => match message? {
                        None => return Ok(()),
                        Some(PeerMessage::Poke(space)) => self.note_poke(space),
                        Some(_) => return Err(PeerError::Protocol("it said what it was not asked".to_owned())),
                    },
                    _ = looks.tick() => self.lead_all().await?,
                }
            }
            for space in spaces {
                if self.allowed.includes(&space) {
                    self.lead(&space).await?;
                }
            }
        }
    }

    async fn agree_on_spaces(&mut self) -> Result<BTreeSet<SpaceName>, PeerError> {
        let ours = self.spaces()?;
        self.channel.send(&ours).await?;
        let PeerMessage::Spaces { spaces: theirs, only } = self.answer_of_peer().await? else {
            return Err(PeerError::Protocol("it did not name its spaces".to_owned()));
        };
        self.allowed.restrict(&theirs, only);
        let PeerMessage::Spaces { spaces: ours, .. } = ours else { return Ok(BTreeSet::new()) };
        Ok(ours.into_iter().chain(theirs).filter(|space| self.allowed.includes(space)).collect())
    }

    /// Exchanges a space, in as many streams as it takes.
    async fn lead(&mut self, space: &SpaceName) -> Result<(), PeerError> {
        for _ in 0..MAX_STREAMS {
            let before = self.moved();
            let is_cut = self.lead_stream(space).await?;
            if !is_cut || self.moved() == before {
                break;
            }
        }
        Ok(())
    }

    fn moved(&self) -> u64 {
        let report = self.report();
        report.sent.saturating_add(report.received)
    }

    /// `true` if there is more than could be exchanged at once.
    async fn lead_stream(&mut self, space: &SpaceName) -> Result<bool, PeerError> {
        let Differences { wanted, theirs } = self.compare(space).await?;
        let mut is_cut = false;
        if !wanted.is_empty() {
            is_cut = self.fetch(space, wanted).await?;
        }
        // Only now is it known which of the other side's changes are here.
        let lacked = theirs.into_iter().map(|theirs| {
            let known = theirs.heads.hashes().to_vec();
            Wanted { entity: theirs.entity, known }
        });
        Ok(is_cut | self.hand_over(space, lacked.collect(), false).await?)
    }

    async fn compare(&mut self, space: &SpaceName) -> Result<Differences, PeerError> {
        let of = space.clone();
        let items = self.store.read(|read| read.items(&of))?;
        let begun = Reconciler::begin(items).map_err(|error| failed(space, error.into()));
        let (mut reconciler, first) = begun?;
        let mut found = Differences::default();
        let mut then = Then::Ask(first);
        loop {
            let step = match then {
                Then::Done => return Ok(found),
                Then::Ask(ask) => reconciler.take(self.ask(space, ask).await?),
                Then::Compare(theirs) => {
                    let of = space.clone();
                    let compared = self.store.write_on_rows(move |write| write.compare(&of, &theirs)).await;
                    let compared: Vec<Compared> = compared.map_err(PeerError::Store)?;
                    // What is lacking is asked for all at once, so that transactions stay whole.
                    let asked = compared.iter().map(|compared| Compared { lacking: None, ..*compared }).collect();
                    found.wanted.extend(
                        compared
                            .into_iter()
                            .filter_map(|Compared { entity, lacking }| lacking.map(|known| Wanted { entity, known })),
                    );
                    reconciler.compared(asked)
                }
            };
            let step = step.map_err(|error| failed(space, error))?;
            found.theirs.extend(step.offers);
            then = step.then;
        }
    }

    async fn ask(&mut self, space: &SpaceName, ask: Ask) -> Result<Reply, PeerError> {
        self.channel.send(&PeerMessage::Ask { space: space.clone(), ask }).await?;
        match self.answer_of_peer().await? {
            PeerMessage::Reply(reply) => Ok(reply),
            _ => Err(PeerError::Protocol("it did not answer a question".to_owned())),
        }
    }

    /// Asks for what is lacking here, and takes it in. `true` if there may be more.
    async fn fetch(&mut self, space: &SpaceName, wanted: Vec<Wanted>) -> Result<bool, PeerError> {
        let entities: HashSet<EntityId> = wanted.iter().map(|wanted| wanted.entity).collect();
        let mut wanted = wanted.into_iter().peekable();
        while wanted.peek().is_some() {
            let some: Vec<_> = wanted.by_ref().take(WANT_AT_ONCE).collect();
            let last = wanted.peek().is_none();
            self.channel.send(&PeerMessage::Want { space: space.clone(), wanted: some, last }).await?;
        }
        loop {
            let PeerMessage::Changes { space: of, changes, whole, last } = self.answer_of_peer().await? else {
                return Err(PeerError::Protocol("it did not send what it was asked for".to_owned()));
            };
            let asked = changes.iter().all(|envelope| entities.contains(&envelope.entity));
            if of != *space || (last && !whole) || !asked {
                return Err(PeerError::Protocol("it sent what it was not asked for".to_owned()));
            }
            self.take(space, changes, whole).await?;
            if last {
                return Ok(self.end_stream());
            }
        }
    }
}

fn failed(space: &SpaceName, error: ReconcileError) -> PeerError {
    match error {
        ReconcileError::Sketch(SketchError::TooMany) => PeerError::TooMany(space.clone()),
        other => PeerError::Protocol(other.to_string()),
    }
}
