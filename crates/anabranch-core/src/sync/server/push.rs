//! Pushes, and their answers.

use super::{Access, Call, MAX_OWN_SEQS, ServerSession, ServerStep};
use crate::id::ReplicaId;
use crate::name::SpaceName;
use crate::sync::append::{AppendOutcome, fits_transaction};
use crate::sync::cursor::seal_cursor;
use crate::sync::policy::open_batch;
use crate::wire::{Answer, Envelope, Limits, Push, Pushed, RefusalCode, RejectCode, ServerMessage};

impl ServerSession {
    pub(super) fn on_push(&mut self, access: &dyn Access, replica: ReplicaId, push: Push, step: &mut ServerStep) {
        let Push { id, space, changes, agreed } = push;
        if !access.may_write(&space) {
            let answer = Answer::Rejected {
                code: RejectCode::Forbidden,
                message: "no right to write to this space".to_owned(),
                retryable: false,
            };
            let answers = vec![answer; changes.len()];
            return step.send.push(ServerMessage::Pushed(Pushed { id, space, answers, mark: None, cursor: None }));
        }
        if !self.takes(&changes) {
            return self.refuse(RefusalCode::Protocol, "the push is larger than this server's limits", step);
        }
        let mut batch = open_batch(changes);
        for place in agreed {
            if let Some(Ok(offered)) = usize::try_from(place).ok().and_then(|place| batch.get_mut(place)) {
                offered.agreed = true;
            }
        }
        step.calls.push(Call::Append { id, space, replica, batch });
    }

    /// Whether a push keeps the limits. A single change, or a single transaction, cannot be divided: it keeps
    /// those of the protocol instead.
    fn takes(&self, changes: &[Envelope]) -> bool {
        let bytes: usize = changes.iter().map(|envelope| envelope.change.len()).sum();
        let within = |most: u32, value: usize| u32::try_from(value).is_ok_and(|value| value <= most);
        let Limits { push_changes, push_bytes } = self.config.limits;
        let transaction = changes.first().and_then(|envelope| envelope.transaction);
        let whole = transaction.is_some() && changes.iter().all(|envelope| envelope.transaction == transaction);
        let indivisible = (whole || changes.len() == 1) && fits_transaction(changes.len(), bytes);
        indivisible || (within(push_changes, changes.len()) && within(push_bytes, bytes))
    }

    pub(super) fn on_appended(
        &mut self,
        id: u64,
        space: SpaceName,
        outcome: Option<AppendOutcome>,
        step: &mut ServerStep,
    ) {
        let Some(AppendOutcome { answers, marks, head }) = outcome else {
            return self.refuse(RefusalCode::Unavailable, "the server could not store the changes", step);
        };
        let mut cursor = None;
        let elsewhere: usize =
            self.feeds.iter().filter(|(other, _)| **other != space).map(|(_, it)| it.own.len()).sum();
        if let Some(feed) = self.feeds.get_mut(&space) {
            feed.own.extend(marks.into_iter().map(|mark| (mark.seq, mark)));
            while !feed.own.is_empty() && feed.own.len() + elsewhere > MAX_OWN_SEQS {
                feed.own.pop_first();
            }
            if feed.skip_own() {
                cursor = Some(seal_cursor(self.config.lineage, &space, feed.sent));
            }
        }
        step.send.push(ServerMessage::Pushed(Pushed { id, space: space.clone(), answers, mark: head, cursor }));
        if let Some(feed) = self.feeds.get_mut(&space) {
            feed.known_head = feed.known_head.max(head.map_or(0, |mark| mark.seq));
            feed.pump(&space, step);
        }
    }
}
