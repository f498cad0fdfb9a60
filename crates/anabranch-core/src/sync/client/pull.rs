//! Pulling: what is asked for, and the changes that come.

use super::{ClientSession, ClientStep, Halt, SpaceSync, WriteBatch};
use crate::name::SpaceName;
use crate::wire::{ClientMessage, Cursor, Envelope, MAX_CURSOR_BYTES, Pull};

impl ClientSession {
    pub(super) fn on_changes(
        &mut self,
        name: SpaceName,
        changes: Vec<Envelope>,
        cursor: Cursor,
        more: bool,
        step: &mut ClientStep,
    ) {
        let Some(lineage) = self.lineage else { return };
        let Some(space) = self.spaces.get_mut(&name) else { return };
        if cursor.0.len() > MAX_CURSOR_BYTES {
            return self.halt(Halt::Protocol("the server sent a cursor that is too long".to_owned()), step);
        }
        if !changes.is_empty() {
            self.told_caught_up = false;
            step.send.push(ClientMessage::Received { space: name.clone() });
        }
        space.verified = true;
        space.pulled = !more && space.reconciling.is_none();
        space.first.reached();
        space.count_down(changes.len());
        let reconciles = !more && space.owes_reconcile && space.reconciling.is_none();
        // A cursor would say that the space need not be reconciled any more.
        let cursor = Some(cursor).filter(|cursor| !space.owes_reconcile && space.cursor.as_ref() != Some(cursor));
        if cursor.is_some() || !changes.is_empty() {
            space.cursor = cursor.clone().or_else(|| space.cursor.take());
            let mut batch = WriteBatch::empty(name.clone(), lineage);
            batch.incoming = changes;
            batch.cursor = cursor;
            step.batch = Some(batch);
        }
        if reconciles && let Some(space) = self.spaces.get_mut(&name) {
            space.begin_reconcile(&name, step);
        }
    }
}

impl SpaceSync {
    pub(super) fn pull(&mut self, name: &SpaceName) -> ClientMessage {
        self.first.ask_nothing();
        if self.verified
            && let Some(digest) = self.first.ask()
        {
            return ClientMessage::Segment { space: name.clone(), digest };
        }
        let begins = self.cursor.is_none() || self.first.is_wider();
        let segments = begins && self.first.wants_segments();
        let cursor = self.cursor.clone().filter(|_| !begins || segments);
        let collections = self.first.collections.clone();
        ClientMessage::Pull(Pull { collections, segments, ..Pull::all(name.clone(), cursor, self.ack) })
    }
}
