//! What both sides of a session do: take changes in, and hand them over.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use anabranch_core::wire::{Envelope, PeerMessage, Wanted};
use anabranch_core::{ReplicaId, SpaceName};
use anabranch_store::{BATCH_BYTES, BATCH_CHANGES, Declined, Handover, Lacked, MOST_BATCHES_AT_ONCE, Store};

use crate::peer::channel::Channel;
use crate::peer::{PeerError, PeerReport};

pub(super) use crate::peer::written::Written;

#[cfg(test)]
mod tests;

/// The most spaces in a session.
const MAX_SPACES: usize = 1_024;
/// A space is looked at again after this long, even if nobody has said that it is worth it: a sign of life, too.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Entities that the store looks at in one go.
const LOOK_AT: usize = 256;
/// Changes in one frame, in number and in bytes: they fit with room to spare, since one has at most 1 MiB.
const FRAME_CHANGES: usize = 2_000;
const FRAME_BYTES: usize = 512 << 10;
/// Folded changes that are kept in memory from the plan of a stream on until they are sent.
const KEPT_BYTES: usize = 32 << 20;
/// Pokes that come before an answer.
const MAX_POKES: usize = 100_000;
/// Changes in one frame that tells which were discarded.
const DECLINED_AT_ONCE: usize = 4_096;

/// Which spaces may be exchanged.
pub(super) struct Allowed {
    /// Of this side; none means all.
    ours: Vec<SpaceName>,
    /// What the other side restricts it to.
    theirs: Option<HashSet<SpaceName>>,
}

impl Allowed {
    pub(super) const fn new(ours: Vec<SpaceName>) -> Self {
        Self { ours, theirs: None }
    }

    pub(super) fn restrict(&mut self, spaces: &[SpaceName], only: bool) {
        self.theirs = only.then(|| spaces.iter().cloned().collect());
    }

    pub(super) fn includes(&self, space: &SpaceName) -> bool {
        let ours = self.ours.is_empty() || self.ours.contains(space);
        ours && self.theirs.as_ref().is_none_or(|theirs| theirs.contains(space))
    }
}

/// How much one side sends in answer to one question, or after one comparison. What is more goes with the next: so what a
/// side plans ahead, and what it takes in of a peer that does not come to an end, has a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) changes: usize,
    pub(super) bytes: usize,
}

impl Bounds {
    /// Bounds that hold for both sides of a session.
    pub(super) const STREAM: Self = Self { changes: 1_000_000, bytes: 1 << 30 };
}

/// What has come of a stream.
#[derive(Clone, Copy, Debug, Default)]
struct Stream {
    changes: usize,
    bytes: usize,
}

impl Stream {
    fn add(&mut self, changes: &[Envelope]) {
        // A frame of nothing is something, too, or there could be any number of them.
        self.changes += changes.len().max(1);
        self.bytes += changes.iter().map(|envelope| envelope.change.len()).sum::<usize>();
    }

    const fn is_full(self, bounds: Bounds) -> bool {
        self.changes >= bounds.changes || self.bytes >= bounds.bytes
    }

    /// A stream ends with a batch, and that goes over its own size for the sake of a transaction.
    const fn is_beyond(self, bounds: Bounds) -> bool {
        self.changes > bounds.changes.saturating_add(2 * MOST_BATCHES_AT_ONCE * BATCH_CHANGES)
            || self.bytes > bounds.bytes.saturating_add(2 * MOST_BATCHES_AT_ONCE * BATCH_BYTES)
    }
}

/// One side of a session with a peer.
pub(super) struct Session {
    pub(super) store: Store,
    pub(super) channel: Channel,
    pub(super) allowed: Allowed,
    /// Spaces in which something has happened on the other side.
    pub(super) poked: BTreeSet<SpaceName>,
    /// Changes that have come since the last commit.
    buffer: Vec<Envelope>,
    pub(super) look_every: Duration,
    /// Changes that have been handed over.
    handed_over: u64,
    /// What came since the last commit, and was discarded here before.
    declined: Vec<Declined>,
    /// What has come since the last question.
    stream: Stream,
    pub(super) bounds: Bounds,
    report: PeerReport,
}

impl Session {
    pub(super) fn new(store: Store, channel: Channel, peer: ReplicaId, allowed: Allowed) -> Self {
        let report = PeerReport { peer, sent: 0, received: 0, refused: 0, bytes_sent: 0, bytes_received: 0 };
        Self {
            store,
            channel,
            allowed,
            poked: BTreeSet::new(),
            buffer: Vec::new(),
            look_every: LOOK_EVERY,
            handed_over: 0,
            declined: Vec::new(),
            stream: Stream::default(),
            bounds: Bounds::STREAM,
            report,
        }
    }

    pub(super) fn report(&self) -> PeerReport {
        let (bytes_sent, bytes_received) = (self.channel.bytes_sent, self.channel.bytes_received);
        PeerReport { bytes_sent, bytes_received, ..self.report }
    }

    /// The spaces that this side names.
    pub(super) fn spaces(&self) -> Result<PeerMessage, PeerError> {
        let only = !self.allowed.ours.is_empty();
        let spaces = if only { self.allowed.ours.clone() } else { self.store.read(|read| read.spaces())? };
        if spaces.len() > MAX_SPACES {
            return Err(PeerError::TooManySpaces { most: MAX_SPACES });
        }
        Ok(PeerMessage::Spaces { spaces, only })
    }

    pub(super) fn check_space(&self, space: &SpaceName) -> Result<(), PeerError> {
        let refused = || PeerError::Protocol(format!("the space {space} is not exchanged"));
        self.allowed.includes(space).then_some(()).ok_or_else(refused)
    }

    /// Hands over what the other side lacks of these entities. If that is nothing, it says so only if `asked`. `true` if
    /// it is more than fits a stream: the rest goes with the next.
    pub(super) async fn hand_over(
        &mut self,
        space: &SpaceName,
        wanted: Vec<Wanted>,
        asked: bool,
    ) -> Result<bool, PeerError> {
        let mut lacked = Vec::new();
        let (mut is_cut, mut room) = (false, KEPT_BYTES);
        for some in wanted.chunks(LOOK_AT) {
            if lacked.len() >= self.bounds.changes {
                is_cut = true;
                break;
            }
            let (of, some) = (space.clone(), some.to_vec());
            let more: Vec<_> = self
                .store
                .write_on_rows(move |write| write.lacked(&of, &some, room))
                .await
                .map_err(PeerError::Store)?;
            room -= more.iter().map(Lacked::kept_bytes).sum::<usize>().min(room);
            lacked.extend(more);
        }
        let mut handover = Handover::of(lacked);
        is_cut |= handover.cut(self.bounds.changes, self.bounds.bytes);
        let mut last = !asked;
        while let Some((batch, is_last)) = handover.next_batch() {
            let changes: Vec<Envelope> =
                self.store.write(move |write| write.hand_over(&batch)).await.map_err(PeerError::Store)?;
            self.send_batch(space, changes, is_last).await?;
            last = is_last;
        }
        if !last {
            self.send_batch(space, Vec::new(), true).await?;
        }
        Ok(is_cut)
    }

    /// Sends a batch, in as many frames as it needs, and waits until the other side has committed it.
    async fn send_batch(&mut self, space: &SpaceName, changes: Vec<Envelope>, last: bool) -> Result<(), PeerError> {
        let count = changes.len();
        self.handed_over += u64::try_from(changes.len()).unwrap_or(u64::MAX);
        let mut changes = changes.into_iter().peekable();
        loop {
            let (mut frame, mut bytes) = (Vec::new(), 0);
            while let Some(change) = changes.next_if(|change| {
                frame.is_empty() || (frame.len() < FRAME_CHANGES && bytes + change.change.len() <= FRAME_BYTES)
            }) {
                bytes += change.change.len();
                frame.push(change);
            }
            let whole = changes.peek().is_none();
            let (space, last) = (space.clone(), last && whole);
            self.channel.send(&PeerMessage::Changes { space, changes: frame, whole, last }).await?;
            if whole {
                break;
            }
        }
        self.confirmed(space, count).await
    }

    /// Waits until the other side has committed a batch of so many changes.
    async fn confirmed(&mut self, space: &SpaceName, count: usize) -> Result<(), PeerError> {
        let mut left = count;
        loop {
            match self.answer_of_peer().await? {
                PeerMessage::Received { taken } => {
                    // It may take more than this batch: what had waited for it.
                    self.report.sent = self.report.sent.saturating_add(taken).min(self.handed_over);
                    return Ok(());
                }
                PeerMessage::Declined { space: of, changes } if of == *space && changes.len() <= left => {
                    left -= changes.len();
                    let gone = self.store.write_on_rows(move |write| write.discard_declined(&of, &changes)).await;
                    gone.map_err(PeerError::Store).map(|_: usize| ())?;
                }
                _ => return Err(PeerError::Protocol("it did not confirm what it was sent".to_owned())),
            }
        }
    }

    /// Says which changes of a batch were discarded here before.
    async fn decline(&mut self, space: &SpaceName) -> Result<(), PeerError> {
        for changes in std::mem::take(&mut self.declined).chunks(DECLINED_AT_ONCE) {
            let declined = PeerMessage::Declined { space: space.clone(), changes: changes.to_vec() };
            self.channel.send(&declined).await?;
        }
        Ok(())
    }

    /// Takes changes in, and commits them when they are whole; or before, if they are more than can be held.
    pub(super) async fn take(
        &mut self,
        space: &SpaceName,
        changes: Vec<Envelope>,
        whole: bool,
    ) -> Result<(), PeerError> {
        self.check_space(space)?;
        self.stream.add(&changes);
        if self.stream.is_beyond(self.bounds) {
            return Err(PeerError::Protocol("it does not come to an end".to_owned()));
        }
        self.buffer.extend(changes);
        let bytes: usize = self.buffer.iter().map(|envelope| envelope.change.len()).sum();
        let too_many = self.buffer.len() > 2 * MOST_BATCHES_AT_ONCE * BATCH_CHANGES
            || bytes > 2 * MOST_BATCHES_AT_ONCE * BATCH_BYTES;
        let mut taken = 0;
        if (whole || too_many) && !self.buffer.is_empty() {
            let (of, changes) = (space.clone(), std::mem::take(&mut self.buffer));
            let received = self.store.write(move |write| write.take_from_peer(&of, changes)).await;
            let (received, declined) = received.map_err(PeerError::Store)?;
            self.declined.extend(declined);
            taken = u64::try_from(received.applied).unwrap_or(u64::MAX);
            self.report.received += taken;
            self.report.refused += u64::try_from(received.quarantined).unwrap_or(u64::MAX);
        }
        if whole {
            self.decline(space).await?;
            self.channel.send(&PeerMessage::Received { taken }).await?;
        }
        Ok(())
    }

    /// The stream that was taken in is over. `true` if it was as long as one may be: there may be more.
    pub(super) fn end_stream(&mut self) -> bool {
        std::mem::take(&mut self.stream).is_full(self.bounds)
    }

    /// The next message that is not a poke.
    pub(super) async fn answer_of_peer(&mut self) -> Result<PeerMessage, PeerError> {
        for _ in 0..MAX_POKES {
            match self.channel.receive().await? {
                None => return Err(PeerError::Broken("it was closed".to_owned())),
                Some(PeerMessage::Poke(space)) => self.note_poke(space),
                Some(message) => return Ok(message),
            }
        }
        Err(PeerError::Protocol("it pokes and does not answer".to_owned()))
    }

    pub(super) fn note_poke(&mut self, space: SpaceName) {
        if self.poked.len() < MAX_SPACES && self.allowed.includes(&space) {
            self.poked.insert(space);
        }
    }
}
