//! An intruder who has got hold of a token, or of a place among the peers: changes that nobody's replica has written.
//!
//! What is claimed of such changes: nothing breaks, every replica takes or refuses the same, and whatever the honest
//! have written is there in the end.

use std::num::NonZeroU64;
use std::panic::{AssertUnwindSafe, catch_unwind};

use anabranch_core::sync::Offered;
use anabranch_core::wire::Envelope;
use anabranch_core::{ReplicaId, SpaceName};
use automerge::legacy::{ElementId, Key, Op, OpId, OpType};
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
        let ahead = if dice.once_in(3) { None } else { self.forge_ahead(client, &mut dice)? };
        if ahead.is_some() {
            self.note(format_args!("an intruder names what only client {client} knows"));
        }
        let Some((space, forged)) = ahead.or_else(|| self.forge(&mut dice)) else { return Ok(()) };
        self.model.note_forged(&space, &forged);
        if dice.once_in(3) {
            self.note(format_args!("an intruder, as a peer, sends a change to client {client}"));
            self.parcels.push(Parcel::new(client, space, vec![forged]));
            return Ok(());
        }
        if !self.server.up {
            return Ok(());
        }
        self.model.note_parents(&space, std::slice::from_ref(&forged));
        let who = ReplicaId::from_bytes([0x66; 16]);
        let outcome =
            self.server.append(&space, who, vec![Offered::open(forged)], &mut self.model)?.unwrap_or_default();
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
        let mut forged = under_a_new_name(&body, dice);
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

    /// A change that names ops of one which the client has not pushed yet, and does not build on that: the client knows
    /// them before, all others learn of them afterwards.
    fn forge_ahead(&self, client: usize, dice: &mut Dice) -> Result<Option<(SpaceName, Envelope)>, Failure> {
        let Some(process) = &self.clients[client].process else { return Ok(None) };
        let unsent = file::unsent(&process.reader)?;
        let Some((space, envelope)) = dice.one_of(&unsent) else { return Ok(None) };
        let Ok(unseen) = Change::from_bytes(envelope.change.clone()) else { return Ok(None) };
        if file::is_marker(&envelope.change) || unseen.timestamp() == 0 {
            return Ok(None);
        }
        // It builds on another branch, and a longer one: no op may name one that is not older by its counter.
        let rows = self.server.disk.log.rows(space).iter().filter(|row| row.offered.entity == envelope.entity);
        let changes = rows.filter_map(|row| Change::from_bytes(row.offered.change.bytes().to_vec()).ok());
        let longer: Vec<Change> = changes.filter(|change| change.max_op() >= unseen.start_op().get()).collect();
        let Some(before) = dice.one_of(&longer) else { return Ok(None) };
        let Some(start_op) = NonZeroU64::new(before.max_op() + 1) else { return Ok(None) };
        let mut forged = under_a_new_name(&unseen, dice);
        (forged.deps, forged.start_op) = (vec![before.hash()], start_op);
        let ops = std::mem::take(&mut forged.operations);
        let named = (unseen.start_op().get()..start_op.get()).zip(ops);
        forged.operations = named.filter_map(|(name, op)| naming(&OpId::new(name, unseen.actor_id()), op)).collect();
        if forged.operations.is_empty() {
            return Ok(None);
        }
        let encode = || Change::from(forged).raw_bytes().to_vec();
        let Ok(bytes) = catch_unwind(AssertUnwindSafe(encode)) else { return Ok(None) };
        Ok(Some((space.clone(), Envelope { change: bytes, transaction: None, ..envelope.clone() })))
    }
}

/// An op like the one of this name, but after it, or in its place.
fn naming(name: &OpId, mut op: Op) -> Option<Op> {
    if op.insert {
        op.key = Key::Seq(ElementId::Id(name.clone()));
    } else if matches!((&op.key, &op.action), (Key::Map(_), OpType::Put(_))) {
        op.pred = vec![name.clone()].into();
    } else {
        return None;
    }
    Some(op)
}

/// The same again, as the first change of somebody nobody knows.
pub(crate) fn under_a_new_name(change: &Change, dice: &mut Dice) -> ExpandedChange {
    let mut forged = change.decode();
    forged.hash = None;
    forged.message = None;
    forged.actor_id = ActorId::from(dice.any().to_be_bytes().map(|byte| byte & 0x7f));
    forged.seq = 1;
    forged
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
