//! Pushing: one push in flight per space, and the answers to it.

use super::{ClientSession, ClientStep, Halt, Link, Outbox, OutboxItem, OutboxRead, SpaceSync, WriteBatch};
use crate::environment::UnixMillis;
use crate::name::SpaceName;
use crate::wire::{ClientMessage, Limits, MAX_CURSOR_BYTES, Push, Pushed};

impl ClientSession {
    pub(super) fn on_local_write(&mut self, name: &SpaceName, step: &mut ClientStep) {
        let Some(space) = self.spaces.get_mut(name) else { return };
        match (&mut space.outbox, self.link) {
            (Outbox::Reading { again }, _) => *again = true,
            (Outbox::Empty, Link::Open { limits }) => {
                self.told_caught_up = false;
                space.read_outbox(name, limits, step);
            }
            // After the push in flight, or after the welcome, the outbox is read anyway.
            _ => {}
        }
    }

    pub(super) fn on_outbox(
        &mut self,
        name: SpaceName,
        items: Vec<OutboxItem>,
        retry_at: Option<UnixMillis>,
        step: &mut ClientStep,
    ) {
        let Link::Open { limits } = self.link else { return };
        let Some(space) = self.spaces.get_mut(&name) else { return };
        let Outbox::Reading { again } = space.outbox else { return };
        space.retry_at = retry_at;
        if items.is_empty() {
            space.outbox = Outbox::Empty;
            if again {
                space.read_outbox(&name, limits, step);
            }
            return;
        }
        let id = self.next_push;
        self.next_push += 1;
        let agreed = (0..).zip(&items).filter(|(_, item)| item.agreed).map(|(place, _)| place).collect();
        let bytes = items.iter().map(|item| item.envelope.change.len()).sum();
        let (keys, changes) = items.into_iter().map(|item| (item.key, item.envelope)).unzip();
        space.outbox = Outbox::Pushing { id, keys, bytes };
        step.send.push(ClientMessage::Push(Push { id, space: name, changes, agreed }));
    }

    pub(super) fn on_pushed(&mut self, pushed: Pushed, step: &mut ClientStep) {
        let (Link::Open { limits }, Some(lineage)) = (self.link, self.lineage) else { return };
        let Pushed { id, space: name, answers, mark, cursor } = pushed;
        let Some(space) = self.spaces.get_mut(&name) else { return };
        let keys = match &mut space.outbox {
            Outbox::Pushing { id: expected, keys, .. } if *expected == id && keys.len() == answers.len() => {
                std::mem::take(keys)
            }
            _ => return self.halt(Halt::Protocol("the server answered what was not asked".to_owned()), step),
        };
        if mark.is_some() {
            // Not before: a server that says welcome and then fails at once is not well.
            self.backoff.succeed();
        }
        let mut batch = WriteBatch::empty(name.clone(), lineage);
        if mark.is_some() && !space.verified && space.ack.is_some() {
            // The old mark gives way to one of a log that has not been seen to hold it.
            batch.owes_reconcile = true;
            space.owe_reconcile();
        }
        let stands = !space.owes_reconcile && !space.first.is_wider();
        let cursor = cursor.filter(|cursor| stands && cursor.0.len() <= MAX_CURSOR_BYTES);
        space.ack = mark.or(space.ack);
        space.cursor = cursor.clone().or_else(|| space.cursor.take());
        batch.answered = keys.into_iter().zip(answers).collect();
        batch.ack = mark;
        batch.cursor = cursor;
        step.batch = Some(batch);
        if space.reconciling.is_none() {
            space.read_outbox(&name, limits, step);
        } else {
            space.outbox = Outbox::Unknown;
        }
    }
}

impl SpaceSync {
    pub(super) fn read_outbox(&mut self, name: &SpaceName, limits: Limits, step: &mut ClientStep) {
        self.outbox = Outbox::Reading { again: false };
        let Limits { push_changes: changes, push_bytes: bytes } = limits;
        step.reads.push(OutboxRead { space: name.clone(), changes, bytes });
    }
}
