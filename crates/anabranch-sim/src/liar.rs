//! A server that lies: it leaves changes out, alters and invents them, repeats pages, hands out cursors that lead
//! nowhere, and says that it has stored what it has not.
//!
//! What is claimed: once an honest server with the honest log is in its place, under a new lineage, nothing of what the
//! replicas have written is missing, and all agree; of what the liar has invented all make the same.

use std::panic::{AssertUnwindSafe, catch_unwind};

use anabranch_core::SpaceName;
use anabranch_core::wire::{Answer, Cursor, Envelope, Reply, ServerMessage};
use automerge::Change;

use crate::bug::Bug;
use crate::dice::Dice;
use crate::failure::Failure;
use crate::file;
use crate::fleet::Fleet;
use crate::hostile::under_a_new_name;
use crate::model::Model;

impl Fleet {
    /// The server begins to lie; or it is found out, and an honest one takes its place, which has the honest log. Nobody
    /// trusts what the other one has said: the history goes on under a new lineage.
    pub(crate) fn lie(&mut self, pick: u64) -> Result<(), Failure> {
        if self.server.lying.take().is_some() {
            return self.unveil(pick);
        }
        self.note(format_args!("server: begins to lie"));
        self.has_lied = true;
        let mut dice = Dice::new(pick);
        for connection in self.connections.iter_mut().flatten() {
            connection.lies = Some(Dice::new(dice.any()));
        }
        self.server.lying = Some(dice);
        Ok(())
    }

    pub(crate) fn unveil(&mut self, pick: u64) -> Result<(), Failure> {
        self.server.lying = None;
        self.crash_server(pick)?;
        self.note(format_args!("server: an honest one takes the place of the liar"));
        let honest = match self.planted.is(Bug::KeepLineage) {
            true => self.server.disk.with(self.server.disk.log.clone())?,
            false => self.server.disk.renewed(pick, self.planted)?,
        };
        self.server.backup = None;
        self.replace_disk(honest)
    }
}

/// What the liar says instead; what it makes up is noted.
pub(crate) fn instead(dice: &mut Dice, mut message: ServerMessage, model: &mut Model) -> ServerMessage {
    if dice.once_in(2) {
        return message;
    }
    match &mut message {
        ServerMessage::Pushed(pushed) => {
            for answer in pushed.answers.iter_mut().filter(|answer| !matches!(answer, Answer::Accepted { .. })) {
                *answer = Answer::Duplicate { seq: 1 };
            }
        }
        ServerMessage::Changes { space, changes, cursor, .. } => {
            twist(dice, space, changes, model);
            if dice.once_in(6) {
                *cursor = Cursor(dice.any().to_be_bytes().to_vec());
            }
        }
        ServerMessage::Reconciled { space, reply: Reply::Changes { changes, .. }, .. } => {
            twist(dice, space, changes, model);
        }
        ServerMessage::Segment { bytes: Some(bytes), .. } => flip(dice, bytes, 0),
        _ => {}
    }
    message
}

/// One change is missing, twice there, altered, or followed by one that nobody has written; or the page is empty.
fn twist(dice: &mut Dice, space: &SpaceName, changes: &mut Vec<Envelope>, model: &mut Model) {
    let place = dice.below(changes.len());
    let Some(one) = changes.get(place).cloned() else { return };
    let is_marker = file::is_marker(&one.change);
    match dice.below(5) {
        0 => drop(changes.remove(place)),
        1 => changes.clear(),
        2 => changes.push(one),
        3 if !is_marker => {
            // Behind the checksum: the name of a change is that of the rest.
            flip(dice, &mut changes[place].change, 8);
            model.note_forged(space, &changes[place]);
        }
        _ if !is_marker => {
            if let Some(change) = invented(dice, &one) {
                let envelope = Envelope { change, transaction: None, ..one };
                model.note_forged(space, &envelope);
                changes.insert(place + 1, envelope);
            }
        }
        _ => {}
    }
}

/// The same again, under a new name and on top of it.
fn invented(dice: &mut Dice, like: &Envelope) -> Option<Vec<u8>> {
    let like = Change::from_bytes(like.change.clone()).ok().filter(|change| change.timestamp() != 0)?;
    let mut forged = under_a_new_name(&like, dice);
    (forged.deps, forged.start_op) = (vec![like.hash()], (like.max_op() + 1).try_into().ok()?);
    catch_unwind(AssertUnwindSafe(|| Change::from(forged).raw_bytes().to_vec())).ok()
}

fn flip(dice: &mut Dice, bytes: &mut [u8], from: usize) {
    let at = from + dice.below(bytes.len().saturating_sub(from));
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= 1 << dice.below(8);
    }
}
