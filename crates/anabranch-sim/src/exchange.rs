//! Two clients without a server, over a path that may lose, repeat, delay and reorder.

use std::collections::BTreeMap;

use anabranch_core::wire::Envelope;
use anabranch_core::{EntityId, Heads, SpaceName};

use crate::dice::Dice;
use crate::failure::Failure;
use crate::file;
use crate::fleet::Fleet;

/// Changes on their way from one client to another.
#[derive(Clone, Debug)]
pub(crate) struct Parcel {
    to: usize,
    /// Who hears of what is not taken; nobody if it came from an intruder.
    from: Option<usize>,
    space: SpaceName,
    changes: Vec<Envelope>,
}

impl Parcel {
    pub(crate) const fn new(to: usize, space: SpaceName, changes: Vec<Envelope>) -> Self {
        Self { to, from: None, space, changes }
    }
}

impl Fleet {
    /// Sends each of the two what the other lacks. The parcels arrive later, if at all.
    pub(crate) fn exchange(&mut self, one: usize, other: usize, pick: u64) -> Result<(), Failure> {
        if one == other || self.clients[one].process.is_none() || self.clients[other].process.is_none() {
            return Ok(());
        }
        let mut dice = Dice::new(pick);
        for space in self.spaces.clone() {
            let mut parcels = vec![self.hand_over(one, other, &space)?];
            if !dice.once_in(4) {
                parcels.push(self.hand_over(other, one, &space)?);
            }
            for parcel in parcels.into_iter().filter(|parcel| !parcel.changes.is_empty()) {
                let (to, count) = (parcel.to, parcel.changes.len());
                self.note(format_args!("client {one} and client {other}: {count} changes under way to client {to}"));
                self.post(parcel, &mut dice);
            }
        }
        Ok(())
    }

    /// Puts a parcel on its way: whole, in halves, twice, or only a part of it.
    fn post(&mut self, mut parcel: Parcel, dice: &mut Dice) {
        match dice.below(6) {
            0 => {
                let second = parcel.changes.split_off(parcel.changes.len() / 2);
                self.parcels.push(Parcel { changes: second, ..parcel.clone() });
            }
            1 => self.parcels.push(parcel.clone()),
            2 => {
                let lost = dice.below(parcel.changes.len());
                parcel.changes.remove(lost);
            }
            3 => parcel.changes.reverse(),
            _ => {}
        }
        self.parcels.push(parcel);
    }

    /// A parcel arrives.
    pub(crate) fn deliver(&mut self, place: usize, pick: u64) -> Result<(), Failure> {
        let parcel = self.parcels.swap_remove(place);
        if Dice::new(!pick).once_in(10) {
            return Ok(());
        }
        let Parcel { to, from, space, changes } = parcel;
        let of = space.clone();
        let received = self.within(to, "applying a peer's changes", move |write| write.take_from_peer(&of, changes))?;
        let Some((received, declined)) = received else { return Ok(()) };
        self.note(format_args!("client {to}: from a peer: {received:?}"));
        self.check_quarantined(to, received.quarantined)?;
        match from.filter(|_| !declined.is_empty() && !Dice::new(pick).once_in(4)) {
            Some(from) => self.hear_declined(from, &space, declined),
            None => Ok(()),
        }
    }

    fn hand_over(&mut self, from: usize, to: usize, space: &SpaceName) -> Result<Parcel, Failure> {
        let theirs: BTreeMap<EntityId, Heads> = self.heads(to, space)?.into_iter().collect();
        let mut wanted = self.heads(from, space)?;
        wanted.retain(|(id, heads)| !heads.is_empty() && theirs.get(id) != Some(heads));
        let wanted: Vec<(EntityId, Heads)> =
            wanted.into_iter().map(|(id, _)| (id, theirs.get(&id).cloned().unwrap_or_default())).collect();
        let of = space.clone();
        let changes = self.within(from, "collecting changes for a peer", move |write| {
            let mut changes = Vec::new();
            for (id, known) in wanted {
                changes.extend(write.changes_beyond(&of, id, &known)?);
            }
            Ok(changes)
        })?;
        Ok(Parcel { to, from: Some(from), space: space.clone(), changes: changes.unwrap_or_default() })
    }

    fn heads(&self, client: usize, space: &SpaceName) -> Result<Vec<(EntityId, Heads)>, Failure> {
        let process = self.clients[client].process.as_ref();
        process.map_or(Ok(Vec::new()), |process| file::heads(&process.reader, space, None))
    }
}
