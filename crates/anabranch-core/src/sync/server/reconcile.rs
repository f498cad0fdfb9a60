//! Answering the questions of a reconcile. The session remembers nothing between two of them.

use crate::name::SpaceName;
use crate::sync::cursor::seal_cursor;
use crate::sync::reconcile::{MAX_ASKED, MAX_KNOWN, MAX_SKETCH_BYTES, MAX_WANTED, SketchError};
use crate::sync::server::{Access, Call, ServerSession, ServerStep};
use crate::wire::{Ask, MAX_PULL_COLLECTIONS, Mark, RefusalCode, Reply, ServerMessage};

impl ServerSession {
    pub(super) fn on_reconcile(&mut self, access: &dyn Access, space: SpaceName, ask: Ask, step: &mut ServerStep) {
        if !access.may_read(&space) {
            return self.refuse(RefusalCode::Forbidden, "no right to read this space", step);
        }
        if !keeps_limits(&ask) {
            return self.refuse(RefusalCode::Protocol, "the question is larger than one may be", step);
        }
        step.calls.push(Call::Reconcile { space, ask });
    }

    pub(super) fn on_reconciled(
        &mut self,
        access: &dyn Access,
        space: SpaceName,
        outcome: Option<(Mark, Result<Reply, SketchError>)>,
        step: &mut ServerStep,
    ) {
        if !access.may_read(&space) {
            return self.refuse(RefusalCode::Forbidden, "the right to read has ended", step);
        }
        let Some((mark, reply)) = outcome else {
            return self.refuse(RefusalCode::Unavailable, "the server could not read what it holds", step);
        };
        let reply = match reply {
            Ok(reply) => reply,
            Err(SketchError::TooMany) => Reply::TooMany,
            Err(error) => return self.refuse(RefusalCode::Protocol, &error.to_string(), step),
        };
        let at = (reply != Reply::TooMany).then(|| (seal_cursor(self.config.lineage, &space, mark), mark));
        step.send.push(ServerMessage::Reconciled { space, reply, at });
    }
}

fn keeps_limits(ask: &Ask) -> bool {
    match ask {
        Ask::Sketch(message) => message.len() <= MAX_SKETCH_BYTES,
        Ask::SketchOf { collections, message } => {
            message.len() <= MAX_SKETCH_BYTES && collections.len() <= MAX_PULL_COLLECTIONS
        }
        Ask::Heads(entities) => (1..=MAX_ASKED).contains(&entities.len()),
        Ask::Changes { wanted, .. } => {
            (1..=MAX_WANTED).contains(&wanted.len()) && wanted.iter().all(|wanted| wanted.known.len() <= MAX_KNOWN)
        }
    }
}
