//! An intruder who has got hold of a token, or of a place among the peers: changes that nobody's replica has written.
//!
//! What is claimed of such changes: nothing breaks, every replica takes or refuses the same, and whatever the honest
//! have written is there in the end.

use std::panic::{AssertUnwindSafe, catch_unwind};

use anabranch_core::SpaceName;
use anabranch_core::sync::Offered;
use anabranch_core::wire::Envelope;
use automerge::{ActorId, Change, ExpandedChange};

use crate::dice::Dice;
use crate::exchange::Parcel;
use crate::failure::Failure;
use crate::file;
use crate::fleet::Fleet;
use crate::model::hash_of;

impl Fleet {
    /// Somebody forges a change from what the server holds, and pushes it, or hands it to a client.
    pub(crate) fn intrude(&mut self, client: usize, pick: u64) -> Result<(), Failure> {
        let mut dice = Dice::new(pick);
        let Some((space, forged)) = self.forge(&mut dice) else { return Ok(()) };
        self.model.note_forged(&space, &forged);
        if dice.once_in(3) {
            self.note(format_args!("an intruder, as a peer, sends a change to client {client}"));
            self.parcels.push(Parcel::new(client, space, vec![forged]));
            return Ok(());
        }
        if !self.server.up {
            return Ok(());
        }
        let outcome = self.server.append(&space, vec![Offered::open(forged)], &mut self.model);
        self.note(format_args!("an intruder pushes to {space}: {:?}", outcome.answers));
        let grown = outcome.marks.last().map(|mark| (space, mark.seq));
        self.spread(usize::MAX, grown);
        self.check_server()
    }

    /// A change of the log under another name, in another place of the history, or with a lie in its header.
    fn forge(&self, dice: &mut Dice) -> Option<(SpaceName, Envelope)> {
        let space = dice.one_of(&self.spaces)?.clone();
        let rows = self.server.disk.log.rows(&space);
        let row = dice.one_of(rows)?;
        let body = Change::from_bytes(row.offered.change.bytes().to_vec()).ok()?;
        if file::is_marker(row.offered.change.bytes()) || body.timestamp() == 0 {
            return None;
        }
        let of_entity: Vec<Change> = rows
            .iter()
            .filter(|other| other.offered.entity == row.offered.entity)
            .filter_map(|other| Change::from_bytes(other.offered.change.bytes().to_vec()).ok())
            .collect();
        let before = dice.one_of(&of_entity)?;
        let mut forged = body.decode();
        forged.hash = None;
        forged.message = None;
        forged.actor_id = ActorId::from(dice.any().to_be_bytes().map(|byte| byte & 0x7f));
        forged.seq = 1;
        forged.deps = vec![before.hash()];
        forged.start_op = (before.max_op() + 1).try_into().ok()?;
        if dice.once_in(2) {
            lie(&mut forged, dice)?;
        }
        let encode = || Change::from(forged).raw_bytes().to_vec();
        let mut bytes = catch_unwind(AssertUnwindSafe(encode)).ok()?;
        if dice.once_in(6) {
            let at = dice.below(bytes.len());
            *bytes.get_mut(at)? ^= 1 << dice.below(8);
        }
        let mut envelope = Envelope::from(row.offered.clone());
        (envelope.change, envelope.transaction) = (bytes, None);
        Some((space, envelope))
    }
}

fn lie(forged: &mut ExpandedChange, dice: &mut Dice) -> Option<()> {
    match dice.below(6) {
        0 => forged.seq = 2 + dice.any() % 5,
        1 => forged.start_op = (forged.start_op.get() + 1 + dice.any() % 9).try_into().ok()?,
        2 => forged.start_op = (1 + dice.any() % forged.start_op.get()).try_into().ok()?,
        3 => forged.time = -1,
        4 => forged.deps.clear(),
        _ => forged.deps = vec![automerge::ChangeHash([7; 32])],
    }
    Some(())
}

/// The name of a change that an intruder made.
pub(crate) fn name_of(space: &SpaceName, forged: &Envelope) -> crate::model::Item {
    (space.clone(), forged.entity, hash_of(&forged.change))
}
