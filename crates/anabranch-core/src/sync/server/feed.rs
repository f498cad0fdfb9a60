//! The changes of one space, on their way to the client.

use std::collections::BTreeMap;
use std::mem;

use super::{Call, ServerStep, WINDOW_PAGES};
use crate::id::Lineage;
use crate::name::{CollectionName, SpaceName};
use crate::sync::cursor::seal_cursor;
use crate::wire::{Envelope, Mark, ServerMessage};

/// The flow of one space's changes to the client.
#[derive(Debug)]
pub(super) struct Feed {
    pub(super) sent: Mark,
    pub(super) live: bool,
    pub(super) reading: bool,
    /// The answer to a pull must come, even if it is empty.
    pub(super) answer_due: bool,
    /// The client has been told how much more there is.
    pub(super) told_behind: bool,
    pub(super) unconfirmed: u32,
    /// The client has been told that more waits than its window lets through.
    pub(super) poked: bool,
    pub(super) more: bool,
    /// The log is known to reach this far.
    pub(super) known_head: u64,
    pub(super) collections: Option<Vec<CollectionName>>,
    /// Places that this session itself pushed.
    pub(super) own: BTreeMap<u64, Mark>,
}

impl Feed {
    pub(super) fn send_page(
        &mut self,
        lineage: Lineage,
        space: &SpaceName,
        rows: Vec<(Mark, Envelope)>,
        more: bool,
        step: &mut ServerStep,
    ) {
        if let Some((last, _)) = rows.last() {
            self.sent = *last;
            self.known_head = self.known_head.max(last.seq);
        }
        self.more = more;
        if more && !std::mem::replace(&mut self.told_behind, more) {
            step.calls.push(Call::Head { space: space.clone() });
        }
        self.told_behind &= more;
        let moved = !rows.is_empty();
        let mut changes = Vec::with_capacity(rows.len());
        for (mark, envelope) in rows {
            if self.own.remove(&mark.seq).is_none() && self.wants(&envelope.collection) {
                changes.push(envelope);
            }
        }
        let skipped = self.skip_own();
        if moved || skipped || mem::take(&mut self.answer_due) {
            // Whoever is told "more" is told when there is no more.
            self.answer_due = more;
            self.unconfirmed += u32::from(!changes.is_empty());
            let cursor = seal_cursor(lineage, space, self.sent);
            step.send.push(ServerMessage::Changes { space: space.clone(), changes, cursor, more: self.more });
        }
        self.pump(space, step);
    }

    /// Whether changes of a collection are sent. What the system keeps in a space is everybody's.
    pub(super) fn wants(&self, collection: &CollectionName) -> bool {
        collection.is_system() || self.collections.as_ref().is_none_or(|wanted| wanted.contains(collection))
    }

    /// Moves over places that this session pushed itself and that come right after what was sent.
    pub(super) fn skip_own(&mut self) -> bool {
        if self.reading {
            return false; // the page under way starts after the old place
        }
        let before = self.sent.seq;
        while let Some(mark) = self.own.remove(&(self.sent.seq + 1)) {
            self.sent = mark;
        }
        self.sent.seq > before
    }

    /// Reads on if there is something to read and the client keeps up.
    pub(super) fn pump(&mut self, space: &SpaceName, step: &mut ServerStep) {
        let behind = self.live && self.known_head > self.sent.seq;
        if self.reading || !(self.more || behind) {
            return;
        }
        if self.unconfirmed < WINDOW_PAGES {
            self.reading = true;
            self.poked = false;
            step.calls.push(Call::Read { space: space.clone(), after: self.sent, check: Vec::new() });
        } else if !self.more && !mem::replace(&mut self.poked, true) {
            // It thinks that it has everything.
            step.send.push(ServerMessage::Poke { space: space.clone() });
        }
    }
}
