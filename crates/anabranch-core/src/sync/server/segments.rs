//! First sync: a pull from the beginning that is answered by segments, if the space has any.

use super::{Access, Call, MAX_SPACES, ServerSession, ServerStep};
use crate::id::Digest;
use crate::name::SpaceName;
use crate::segment::{MAX_SEGMENTS, Manifest, Piece};
use crate::sync::cursor::seal_cursor;
use crate::wire::{Mark, Pull, RefusalCode, ServerMessage};

impl ServerSession {
    pub(super) fn ask_for_segments(&mut self, pull: Pull, step: &mut ServerStep) {
        if self.asked.len() >= MAX_SPACES && !self.asked.contains_key(&pull.space) {
            return self.refuse(RefusalCode::Protocol, "too many spaces in one session", step);
        }
        let Some(stand) = self.start_of(&pull.space, pull.cursor.as_ref()) else {
            return step.send.push(ServerMessage::CursorUnknown { space: pull.space });
        };
        let check = [Some(stand), pull.ack].into_iter().flatten().filter(|mark| mark.seq > 0).collect();
        step.calls.push(Call::Manifest { space: pull.space.clone(), check });
        self.asked.insert(pull.space.clone(), pull);
    }

    pub(super) fn on_manifest(
        &mut self,
        access: &dyn Access,
        space: &SpaceName,
        known: bool,
        outcome: Option<(Mark, Vec<Piece>)>,
        step: &mut ServerStep,
    ) {
        // A later pull of the same space has taken its place.
        let Some(pull) = self.asked.remove(space) else { return };
        if !access.may_read(space) {
            return self.refuse(RefusalCode::Forbidden, "the right to read has ended", step);
        }
        let Some(stand) = self.start_of(space, pull.cursor.as_ref()).filter(|_| known) else {
            return step.send.push(ServerMessage::CursorUnknown { space: space.clone() });
        };
        let Some((mark, mut pieces)) = outcome.filter(|(_, pieces)| pieces.len() <= MAX_SEGMENTS) else {
            return self.pull_log(Pull { cursor: None, ..pull }, step);
        };
        if let Some(wanted) = &pull.collections {
            pieces.retain(|piece| piece.collection.is_system() || wanted.contains(&piece.collection));
        }
        // What the client has already goes on where it has come to.
        let from = if pull.cursor.is_some() && stand.seq < mark.seq { stand } else { mark };
        let cursor = seal_cursor(self.config.lineage, space, from);
        let mark = if stand.seq > mark.seq { stand } else { mark };
        let manifest = Manifest { mark, cursor, pieces };
        step.send.push(ServerMessage::Manifest { space: space.clone(), manifest });
    }

    pub(super) fn on_segment_wanted(
        &mut self,
        access: &dyn Access,
        space: SpaceName,
        digest: Digest,
        step: &mut ServerStep,
    ) {
        if !access.may_read(&space) {
            return self.refuse(RefusalCode::Forbidden, "no right to read this space", step);
        }
        step.calls.push(Call::Segment { space, digest });
    }

    pub(super) fn on_segment(
        &mut self,
        access: &dyn Access,
        space: SpaceName,
        digest: Digest,
        outcome: Option<Vec<u8>>,
        step: &mut ServerStep,
    ) {
        if !access.may_read(&space) {
            return self.refuse(RefusalCode::Forbidden, "the right to read has ended", step);
        }
        step.send.push(ServerMessage::Segment { space, digest, bytes: outcome });
    }
}
