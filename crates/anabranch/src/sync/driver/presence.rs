//! What this replica shows of itself, and what the others show.

use std::sync::Arc;

use anabranch_core::sync::{ClientEvent, Showing, SpaceProgress};

use super::Driver;

impl Driver {
    /// What the server has not been told yet of what this replica shows.
    pub(super) fn show_news(&mut self) -> Vec<ClientEvent> {
        let own = self.shown.borrow_and_update().clone();
        let mut events = Vec::new();
        for (space, data) in &own {
            if self.told.get(space) != Some(data) {
                // Only those who follow a space are seen in it.
                if self.followed.insert(space.clone()) {
                    let progress = SpaceProgress::begin(space.clone());
                    events.push(ClientEvent::Follow(progress));
                }
                events.push(ClientEvent::Show { space: space.clone(), data: Some(data.clone()) });
            }
        }
        let gone = self.told.keys().filter(|space| !own.contains_key(*space));
        events.extend(gone.map(|space| ClientEvent::Show { space: space.clone(), data: None }));
        self.told = own;
        events
    }

    /// The same after a new session has begun: its server knows nothing.
    pub(super) fn show_anew(&mut self) -> Vec<ClientEvent> {
        self.told.clear();
        self.show_news()
    }

    pub(super) fn hear(&self, showing: Showing) {
        let space = showing.space.clone();
        if self.presence.hear(self.number, showing) {
            self.watchers.notify_presence(&space);
        }
    }

    /// Nobody is there any more, as far as this sync knows.
    pub(super) fn lose_sight(&self) {
        for space in Arc::clone(&self.presence).forget(self.number) {
            self.watchers.notify_presence(&space);
        }
    }
}
