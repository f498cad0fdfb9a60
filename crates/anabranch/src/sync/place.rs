//! A server's place in the file: found by its address, and kept from being given to another meanwhile.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anabranch_core::SpaceName;
use anabranch_store::{Commit, RemoteKey, Store, StoreError, SyncLock};

use super::driver::Turns;
use crate::replica::Replica;

/// The remotes that syncs of one replica are under way with, and how many each.
#[derive(Debug, Default)]
pub(crate) struct InUse(Mutex<BTreeMap<RemoteKey, usize>>);

impl InUse {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<RemoteKey, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of one sync's server. It is in use until this is dropped.
pub(super) struct Place {
    store: Store,
    turns: Arc<Turns>,
    in_use: Arc<InUse>,
    url: String,
    key: RemoteKey,
    /// The turn to sync, if nothing is known of the server yet: such a place is given to another address by whoever
    /// has its turn.
    turn: Option<Arc<SyncLock>>,
}

impl Place {
    /// Finds the place of `url`, and makes these spaces known.
    pub(super) fn find(replica: &Replica, url: String, spaces: Vec<SpaceName>) -> Result<Self, StoreError> {
        let (turns, in_use) = (Arc::clone(&replica.inner.turns), Arc::clone(&replica.inner.in_use));
        let store = replica.store().clone();
        let (key, turn) = find(&store, &turns, &in_use, &url, spaces)?;
        Ok(Self { store, turns, in_use, url, key, turn })
    }

    pub(super) const fn key(&self) -> RemoteKey {
        self.key
    }

    /// The turn to sync with the server; `None` while another process has it.
    pub(super) fn take_turn(&self) -> Option<Arc<SyncLock>> {
        self.turns.take(&self.store, self.key)
    }

    /// There is nothing left to sync.
    pub(super) fn give_up_turn(&mut self) {
        self.turn = None;
    }

    /// For whoever has the turn: whether the place is still this server's.
    pub(super) fn is_still_ours(&self) -> Result<bool, StoreError> {
        let remotes = self.store.read(|read| read.snapshot(|read| read.remotes()))?;
        Ok(remotes.iter().any(|remote| remote.key == self.key && remote.url.as_deref() == Some(&self.url)))
    }

    /// Finds another place for the same server. Blocks.
    pub(super) fn move_on(&mut self) -> Result<(), StoreError> {
        let (key, turn) = find(&self.store, &self.turns, &self.in_use, &self.url, Vec::new())?;
        self.leave();
        (self.key, self.turn) = (key, turn);
        Ok(())
    }

    fn leave(&self) {
        let mut in_use = self.in_use.lock();
        if let Some(count) = in_use.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                in_use.remove(&self.key);
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leave();
    }
}

/// The place of `url`, marked as in use, with the turn to sync if it could be had.
fn find(
    store: &Store,
    turns: &Turns,
    in_use: &InUse,
    url: &str,
    spaces: Vec<SpaceName>,
) -> Result<(RemoteKey, Option<Arc<SyncLock>>), StoreError> {
    // Held meanwhile, so that two syncs that start together do not share a place.
    let mut in_use = in_use.lock();
    let remotes = store.read(|read| read.snapshot(|read| read.remotes()))?;
    let is_known = remotes.iter().any(|remote| remote.url.as_deref() == Some(url));
    // Nothing has ever reached it, and nobody syncs with it, here or in another process, as long as its turn is held.
    let mut unreached = remotes.iter().filter(|remote| remote.lineage.is_none() && !in_use.contains_key(&remote.key));
    let free = match is_known {
        true => None,
        false => unreached.find_map(|remote| turns.take(store, remote.key).zip(Some(remote.key))),
    };
    let is_alone = in_use.is_empty();
    let (address, free_key) = (url.to_owned(), free.as_ref().map(|(_, key)| *key));
    let key: Commit<RemoteKey, StoreError> = store.write(move |write| {
        spaces.iter().try_for_each(|space| write.ensure_space(space))?;
        if is_alone {
            write.begin_alone();
        }
        let key = write.ensure_remote(&address, free_key.as_slice())?;
        write.note_used(key)?;
        Ok(key)
    });
    let key = key.wait()?;
    *in_use.entry(key).or_default() += 1;
    let turn = free.filter(|(_, taken)| *taken == key).map(|(turn, _)| turn);
    Ok((key, turn))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_that_was_given_away_is_not_synced_with() -> Result<(), crate::Error> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let replica =
            Replica::open(folder.path().join("a.db"), crate::Schema::from_toml("version = 1\n[collections]")?)?;
        let mut place = Place::find(&replica, "http://one".to_owned(), Vec::new())?;
        let before = place.key();
        assert!(place.is_still_ours()?);
        // As another process does that has the turn.
        let taken: Commit<_, StoreError> =
            replica.store().write(move |write| write.ensure_remote("http://two", &[before]));
        assert_eq!(taken.wait()?, before);
        assert!(!place.is_still_ours()?);
        place.move_on()?;
        assert_ne!(place.key(), before);
        assert!(place.is_still_ours()?);
        Ok(())
    }
}
