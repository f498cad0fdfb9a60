//! Who is there just now: cursors, selections, "is typing". Shown, never stored.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anabranch_core::sync::Showing;
use anabranch_core::wire::MAX_PRESENCE_BYTES;
use anabranch_core::{ReplicaId, SpaceName};
use serde::Serialize;
use serde_json::Value;
use tokio::sync::watch;

use crate::collection::Space;
use crate::error::Error;
use crate::watch::{Scope, Watch};

/// The most others that are kept of one space and one server. A server passes on no more, if it is an honest one.
const MAX_PRESENT: usize = 256;

/// What replicas show of themselves in a space while they sync it: a cursor, a name, "is typing". Made by
/// [`Space::presence`].
///
/// It is never stored, here or on a server, and needs a live sync ([`Sync::start`](crate::Sync::start)). What a replica
/// shows is gone for the others when its sync stops, and at most 75 seconds after its device has vanished.
///
/// ```
/// # use anabranch::{Replica, Schema};
/// # fn main() -> Result<(), anabranch::Error> {
/// # let folder = tempfile::tempdir().expect("a temporary folder");
/// # let schema = Schema::from_toml("version = 1\n[collections.notes.fields]\ntitle = { kind = \"register\" }")?;
/// # let replica = Replica::open(folder.path().join("a.db"), schema)?;
/// let presence = replica.space("home")?.presence();
/// presence.show(&serde_json::json!({ "name": "Ann", "cursor": 42 }))?;
/// for other in presence.others() {
///     println!("{} is here: {}", other.replica, other.data);
/// }
/// presence.hide();
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Presence {
    space: Space,
}

/// Another replica that is there.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Present {
    /// Which one.
    pub replica: ReplicaId,
    /// What it shows.
    pub data: Value,
}

impl Space {
    /// Who is there just now, and what this replica shows the others.
    #[must_use]
    pub fn presence(&self) -> Presence {
        Presence { space: self.clone() }
    }
}

impl Presence {
    /// Shows `data` to the others in place of what was shown before. What comes faster than the connection takes it
    /// coalesces; the latest arrives. Nothing of it is kept when the replica is closed.
    ///
    /// # Errors
    /// If `data` is no JSON, or more than 1,024 bytes of it.
    pub fn show(&self, data: &impl Serialize) -> Result<(), Error> {
        let data = serde_json::to_vec(data).map_err(|error| Error::invalid(error.to_string()))?;
        if data.len() > MAX_PRESENCE_BYTES {
            let length = data.len();
            return Err(Error::invalid(format!("presence has {length} bytes, {MAX_PRESENCE_BYTES} are allowed")));
        }
        self.board().show(self.space.name().clone(), Some(data));
        Ok(())
    }

    /// Shows nothing any more.
    pub fn hide(&self) {
        self.board().show(self.space.name().clone(), None);
    }

    /// The others who are there, in the order of their ids.
    #[must_use]
    pub fn others(&self) -> Vec<Present> {
        self.board().others(self.space.name())
    }

    /// Watches the others.
    #[must_use]
    pub fn watch(&self) -> Watch<Vec<Present>> {
        let presence = self.clone();
        let scope = Scope::Presence(self.space.name().clone());
        Watch::new(self.space.replica(), scope, move || Ok(presence.others()))
    }

    fn board(&self) -> &Board {
        &self.space.replica().inner.presence
    }
}

/// What this replica shows, and what its syncs have heard of others.
pub(crate) struct Board {
    own: watch::Sender<BTreeMap<SpaceName, Vec<u8>>>,
    others: Mutex<Others>,
}

type Others = BTreeMap<SpaceName, BTreeMap<(ReplicaId, SyncNumber), Value>>;

/// Which of the replica's syncs has heard it.
type SyncNumber = u64;

impl Default for Board {
    fn default() -> Self {
        Self { own: watch::Sender::new(BTreeMap::new()), others: Mutex::default() }
    }
}

impl fmt::Debug for Board {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Board").finish_non_exhaustive()
    }
}

impl Board {
    fn show(&self, space: SpaceName, data: Option<Vec<u8>>) {
        self.own.send_if_modified(|own| match data {
            Some(data) => own.insert(space, data.clone()).is_none_or(|before| before != data),
            None => own.remove(&space).is_some(),
        });
    }

    fn others(&self, space: &SpaceName) -> Vec<Present> {
        let others = self.lock();
        let mut present: Vec<Present> = Vec::new();
        for ((replica, _), data) in others.get(space).into_iter().flatten() {
            // Heard of by two servers: once.
            if present.last().is_none_or(|last| last.replica != *replica) {
                present.push(Present { replica: *replica, data: data.clone() });
            }
        }
        present
    }

    /// Follows what this replica shows.
    pub(crate) fn own(&self) -> watch::Receiver<BTreeMap<SpaceName, Vec<u8>>> {
        self.own.subscribe()
    }

    /// Takes in what a sync has heard. Says whether anything is new.
    pub(crate) fn hear(&self, number: SyncNumber, showing: Showing) -> bool {
        let Showing { space, replica, data } = showing;
        // What cannot be read is nothing.
        let value = data.filter(|data| data.len() <= MAX_PRESENCE_BYTES);
        let value: Option<Value> = value.and_then(|data| serde_json::from_slice(&data).ok());
        let mut others = self.lock();
        let Some(value) = value else {
            let Some(there) = others.get_mut(&space) else { return false };
            let left = there.remove(&(replica, number)).is_some();
            if there.is_empty() {
                others.remove(&space);
            }
            return left;
        };
        let there = others.entry(space).or_default();
        if there.len() >= MAX_PRESENT && !there.contains_key(&(replica, number)) {
            return false;
        }
        there.insert((replica, number), value.clone()).is_none_or(|before| before != value)
    }

    /// Forgets what a sync has heard: its connection is gone. Returns the spaces in which somebody was there.
    pub(crate) fn forget(&self, number: SyncNumber) -> Vec<SpaceName> {
        let mut others = self.lock();
        let mut spaces = Vec::new();
        others.retain(|space, there| {
            let before = there.len();
            there.retain(|(_, of), _| *of != number);
            if there.len() < before {
                spaces.push(space.clone());
            }
            !there.is_empty()
        });
        spaces
    }

    fn lock(&self) -> MutexGuard<'_, Others> {
        self.others.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn showing(replica: u8, data: Option<&[u8]>) -> Showing {
        let space = SpaceName::new("home").unwrap();
        Showing { space, replica: ReplicaId::from_bytes([replica; 16]), data: data.map(<[u8]>::to_vec) }
    }

    #[test]
    fn whoever_is_heard_of_by_two_syncs_is_there_once_and_until_both_are_gone() {
        let (board, space) = (Board::default(), SpaceName::new("home").unwrap());
        assert!(board.hear(1, showing(1, Some(b"1"))));
        assert!(board.hear(2, showing(1, Some(b"1"))));
        assert!(!board.hear(2, showing(1, Some(b"1"))), "the same again is no news");
        assert_eq!(board.others(&space).len(), 1);
        assert_eq!(board.forget(1), std::slice::from_ref(&space));
        assert_eq!(board.others(&space).len(), 1);
        assert!(board.hear(2, showing(1, None)));
        assert!(board.others(&space).is_empty());
    }

    #[test]
    fn what_a_bad_server_says_is_bounded() {
        let (board, space) = (Board::default(), SpaceName::new("home").unwrap());
        assert!(!board.hear(1, showing(1, Some(b"{ no json"))));
        assert!(!board.hear(1, showing(1, Some(&[b'1'; MAX_PRESENCE_BYTES + 1]))));
        for replica in 0..2 * MAX_PRESENT {
            let replica = ReplicaId::from_bytes(u128::try_from(replica).unwrap().to_be_bytes());
            board.hear(1, Showing { replica, ..showing(0, Some(b"1")) });
        }
        assert_eq!(board.others(&space).len(), MAX_PRESENT);
    }
}
