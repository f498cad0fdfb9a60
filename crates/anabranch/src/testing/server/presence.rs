//! Who is there: what each session shows, and what each has been told.

use std::collections::BTreeMap;

use anabranch_core::sync::{ServerEvent, Showing};
use anabranch_core::{ReplicaId, SpaceName};

type Place = (SpaceName, ReplicaId);

/// What is shown to whom.
#[derive(Debug, Default)]
pub(super) struct Shown(BTreeMap<Place, (u64, Vec<u8>)>);

/// What a session has been told.
#[derive(Debug, Default)]
pub(super) struct Told(BTreeMap<Place, Vec<u8>>);

impl Shown {
    pub(super) fn put(&mut self, session: u64, showing: Showing) {
        let Showing { space, replica, data } = showing;
        match data {
            Some(data) => drop(self.0.insert((space, replica), (session, data))),
            None => drop(self.0.remove(&(space, replica))),
        }
    }

    /// The session is over. Says whether it had shown anything.
    pub(super) fn leave(&mut self, session: u64) -> bool {
        let before = self.0.len();
        self.0.retain(|_, (of, _)| *of != session);
        self.0.len() < before
    }
}

impl Told {
    /// What the session has to be told about the spaces that it follows.
    pub(super) fn news<'a>(
        &mut self,
        shown: &Shown,
        live: impl Iterator<Item = &'a SpaceName> + Clone,
    ) -> Vec<ServerEvent> {
        let now: BTreeMap<Place, Vec<u8>> = shown
            .0
            .iter()
            .filter(|((space, _), _)| live.clone().any(|live| live == space))
            .map(|(place, (_, data))| (place.clone(), data.clone()))
            .collect();
        let before = std::mem::replace(&mut self.0, now);
        let gone = before.keys().filter(|place| !self.0.contains_key(*place)).map(|place| (place, None));
        let new = self.0.iter().filter(|(place, data)| before.get(*place) != Some(*data));
        let all = gone.chain(new.map(|(place, data)| (place, Some(data.clone()))));
        all.map(|((space, replica), data)| {
            ServerEvent::Presence(Showing { space: space.clone(), replica: *replica, data })
        })
        .collect()
    }
}
