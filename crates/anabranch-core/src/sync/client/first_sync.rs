//! First sync: a space's segments one after the other, then its log.
//!
//! One segment at a time is under way, and each is applied in one commit that says so. Whenever the client is
//! killed or the link cut, no more than the segment under way is fetched again.

use std::collections::BTreeSet;

use super::step::{ClientStep, FirstSync, FirstSyncStep, Halt, SyncEvent, WriteBatch};
use super::{ClientSession, Link, SpaceSync};
use crate::id::Digest;
use crate::name::{CollectionName, SpaceName};
use crate::segment::{MAX_SEGMENT_BYTES, MAX_SEGMENTS, Manifest, Segment};
use crate::wire::{Cursor, MAX_CURSOR_BYTES, ServerMessage};

/// How often segments are asked for that then are not there, or are none, before the log is read instead.
const MAX_DISAPPOINTMENTS: u32 = 3;

/// The first sync of one space, in one session.
#[derive(Debug)]
pub(super) struct First {
    pub(super) collections: Option<Vec<CollectionName>>,
    /// The collections that the cursor stands for, while others are to come.
    had: Option<Vec<CollectionName>>,
    plan: Option<FirstSync>,
    /// The segment that has been asked for.
    asked: Option<Digest>,
    /// The plan does not hold any more: the server is asked for another, and what has been applied is left out.
    stale: bool,
    disappointments: u32,
    /// The log is read from the beginning, whatever segments there are.
    by_log: bool,
}

impl First {
    pub(super) const fn new(
        collections: Option<Vec<CollectionName>>,
        had: Option<Vec<CollectionName>>,
        plan: Option<FirstSync>,
    ) -> Self {
        Self { collections, had, plan, asked: None, stale: false, disappointments: 0, by_log: false }
    }

    /// Whether more is wanted than what the cursor stands for.
    pub(super) const fn is_wider(&self) -> bool {
        self.had.is_some()
    }

    /// Whether something of what is wanted has not come at all yet.
    pub(super) const fn is_under_way(&self) -> bool {
        self.plan.is_some() || self.had.is_some()
    }

    /// The server does not have the history that this began with. What has come is kept, and the rest is planned anew.
    pub(super) const fn plan_anew(&mut self) {
        (self.stale, self.asked) = (true, None);
    }

    pub(super) const fn wants_segments(&self) -> bool {
        !self.by_log
    }

    /// The space has a cursor that stands for all that is wanted.
    pub(super) fn reached(&mut self) {
        (self.had, self.plan, self.asked, self.stale) = (None, None, None, false);
    }

    /// Whether there is a plan, and something left of it.
    fn goes_on(&self) -> bool {
        !self.stale && self.plan.as_ref().is_some_and(|plan| plan.next().is_some())
    }

    /// Nothing has been asked for over this link.
    pub(super) fn ask_nothing(&mut self) {
        self.asked = None;
    }

    /// The next segment to ask for, if a plan is being followed.
    pub(super) fn ask(&mut self) -> Option<Digest> {
        self.asked = self.plan.as_ref().filter(|_| !self.stale).and_then(FirstSync::next);
        self.asked
    }

    /// The server has lost history: what it has is compared with what is here, change by change.
    pub(super) fn forget(&mut self) {
        self.reached();
        self.by_log = true;
    }

    /// What is to be done by a manifest: what an earlier one brought is left out, and so are the collections
    /// that are here already.
    fn plan(&self, manifest: Manifest) -> FirstSync {
        let done: BTreeSet<Digest> = self.plan.iter().flat_map(FirstSync::done).collect();
        let applied = manifest.pieces.iter();
        let applied = applied.map(|piece| done.contains(&piece.digest) || self.has(&piece.collection)).collect();
        FirstSync { manifest, applied }
    }

    fn has(&self, collection: &CollectionName) -> bool {
        self.had.as_ref().is_some_and(|had| had.contains(collection))
    }

    fn disappoint(&mut self) {
        self.disappointments += 1;
        (self.asked, self.stale) = (None, true);
        self.by_log |= self.disappointments >= MAX_DISAPPOINTMENTS;
    }
}

impl FirstSync {
    /// The first segment that has not been applied.
    fn next(&self) -> Option<Digest> {
        let missing = self.manifest.pieces.iter().zip(&self.applied).find(|(_, applied)| !**applied);
        missing.map(|(piece, _)| piece.digest)
    }

    fn done(&self) -> impl Iterator<Item = Digest> {
        self.manifest.pieces.iter().zip(&self.applied).filter(|(_, applied)| **applied).map(|(piece, _)| piece.digest)
    }

    fn mark_applied(&mut self, digest: &Digest) {
        for (piece, applied) in self.manifest.pieces.iter().zip(&mut self.applied) {
            *applied |= piece.digest == *digest;
        }
    }
}

/// What has come for a segment.
pub(super) fn read(digest: &Digest, bytes: Option<Vec<u8>>) -> Option<Result<Box<Segment>, String>> {
    let bytes = bytes?;
    Some(Segment::open(digest, &bytes, None).map(Box::new).map_err(|error| error.to_string()))
}

impl ClientSession {
    pub(super) fn on_manifest(&mut self, name: SpaceName, manifest: Manifest, step: &mut ClientStep) {
        let Some(lineage) = self.lineage else { return };
        let Some(space) = self.spaces.get_mut(&name) else { return };
        let sizes = manifest.pieces.iter().map(|piece| usize::try_from(piece.bytes).unwrap_or(usize::MAX));
        let fits = manifest.cursor.0.len() <= MAX_CURSOR_BYTES
            && manifest.pieces.len() <= MAX_SEGMENTS
            && sizes.max().is_none_or(|largest| largest <= MAX_SEGMENT_BYTES);
        let expected = space.cursor.is_none() || space.first.is_wider();
        if !fits || !expected || space.first.by_log || space.first.asked.is_some() {
            return self.halt(Halt::Protocol("the server offers segments that nobody asked for".to_owned()), step);
        }
        self.told_caught_up = false;
        space.verified = true;
        if space.first.goes_on() {
            // It was asked for to see whether the server's log is still the same.
            return step.send.push(space.pull(&name));
        }
        // A server that does not have this place later on was restored.
        let ack = space.ack.filter(|ack| ack.seq >= manifest.mark.seq).or(Some(manifest.mark));
        let plan = space.first.plan(manifest);
        let mut batch = WriteBatch::empty(name.clone(), lineage);
        batch.ack = ack.filter(|ack| ack.seq > 0);
        space.ack = batch.ack.or(space.ack);
        batch.first_sync = Some(FirstSyncStep::Plan(plan.clone()));
        if plan.next().is_none() {
            space.finish_first(plan.manifest.cursor, &mut batch);
        } else {
            (space.first.plan, space.first.stale) = (Some(plan), false);
        }
        step.batch = Some(batch);
        space.go_on(&name, step);
    }

    pub(super) fn on_segment(
        &mut self,
        name: SpaceName,
        digest: Digest,
        segment: Option<Result<Box<Segment>, String>>,
        step: &mut ClientStep,
    ) {
        let (Link::Open { .. }, Some(lineage)) = (self.link, self.lineage) else { return };
        let Some(space) = self.spaces.get_mut(&name) else { return };
        if space.first.asked != Some(digest) {
            return; // late words of an earlier link
        }
        let Some(plan) = &mut space.first.plan else { return };
        match segment {
            Some(Ok(segment)) if segment.digest == digest => {
                plan.mark_applied(&digest);
                let mut batch = WriteBatch::empty(name.clone(), lineage);
                batch.first_sync = Some(FirstSyncStep::Apply(segment));
                if plan.next().is_none() {
                    let cursor = plan.manifest.cursor.clone();
                    space.finish_first(cursor, &mut batch);
                }
                step.batch = Some(batch);
                self.backoff.succeed();
            }
            other => {
                let reason = match other {
                    None => "the server does not have it any more".to_owned(),
                    Some(Ok(_)) => "it is another one".to_owned(),
                    Some(Err(reason)) => reason,
                };
                space.first.disappoint();
                step.events.push(SyncEvent::SegmentRefused { space: name.clone(), reason });
            }
        }
        space.go_on(&name, step);
    }
}

impl SpaceSync {
    /// All segments have been applied. If the space is reconciled now, it gets its cursor from that.
    fn finish_first(&mut self, cursor: Cursor, batch: &mut WriteBatch) {
        if !self.owes_reconcile {
            batch.cursor = Some(cursor.clone());
            self.cursor = Some(cursor);
        }
        self.first.reached();
    }

    /// After a piece of a first sync.
    pub(super) fn go_on(&mut self, name: &SpaceName, step: &mut ClientStep) {
        if self.owes_reconcile && !self.first.is_under_way() {
            self.begin_reconcile(name, step);
        } else {
            step.send.push(self.pull(name));
        }
    }
}

/// What a server has answered about a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentReply {
    /// The space.
    pub space: SpaceName,
    /// The segment's name.
    pub digest: Digest,
    /// Its bytes; `None` if the server does not have it any more.
    pub bytes: Option<Vec<u8>>,
}

impl ServerMessage {
    /// The segment in the message, which a driver may read beside other work.
    ///
    /// # Errors
    /// The message itself, if it is another one.
    pub fn into_segment(self) -> Result<SegmentReply, Box<Self>> {
        match self {
            Self::Segment { space, digest, bytes } => Ok(SegmentReply { space, digest, bytes }),
            other => Err(Box::new(other)),
        }
    }
}
