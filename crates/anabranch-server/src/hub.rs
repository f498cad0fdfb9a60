//! Who wants to hear of which space's commits, and of who is there.
//!
//! Hints are merged per session and space (the highest place wins), and what a replica shows of itself is looked up
//! when it is told: a session that is busy or slow costs no memory and misses nothing.

mod board;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anabranch_core::sync::Showing;
use anabranch_core::{ReplicaId, SpaceName};
use tokio::sync::Notify;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use self::board::Boards;
use crate::backend::{Backend, Commit};

/// The sessions that follow spaces.
#[derive(Debug, Default)]
pub(crate) struct Hub {
    followers: Mutex<HashMap<SpaceName, HashMap<u64, Arc<Inbox>>>>,
    boards: Mutex<Boards>,
}

/// What a session has not yet been told.
#[derive(Debug, Default)]
struct Inbox {
    hints: Mutex<BTreeMap<SpaceName, u64>>,
    /// Who shows something else than was told.
    showing: Mutex<BTreeSet<(SpaceName, ReplicaId)>>,
    filled: Notify,
}

/// What a session is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// A space's log has grown.
    Commit(Commit),
    /// Somebody shows something else.
    Showing(Showing),
}

/// One session's place in the hub; it leaves when dropped.
#[derive(Debug)]
pub(crate) struct Subscription {
    hub: Arc<Hub>,
    session: u64,
    inbox: Arc<Inbox>,
    spaces: BTreeSet<SpaceName>,
}

impl Hub {
    /// A place for a session, which follows nothing yet. `session` must be unique.
    pub(crate) fn subscribe(self: &Arc<Self>, session: u64) -> Subscription {
        Subscription { hub: Arc::clone(self), session, inbox: Arc::default(), spaces: BTreeSet::new() }
    }

    /// Passes on the backend's hints until the backend is gone.
    pub(crate) async fn listen(&self, backend: Arc<dyn Backend>, mut commits: Receiver<Commit>) {
        loop {
            match commits.recv().await {
                Ok(commit) => self.publish(&commit),
                Err(RecvError::Lagged(lost)) => {
                    tracing::warn!(lost, "commit hints were lost; looking at every followed space");
                    self.look_everywhere(backend.as_ref()).await;
                }
                Err(RecvError::Closed) => return,
            }
        }
    }

    async fn look_everywhere(&self, backend: &dyn Backend) {
        let spaces: Vec<SpaceName> = locked(&self.followers).keys().cloned().collect();
        for space in spaces {
            match backend.head(space.clone()).await {
                Ok(head) => self.publish(&Commit { space, seq: head.seq }),
                // The space's next commit tells.
                Err(error) => tracing::warn!(%space, %error, "a head could not be read"),
            }
        }
    }

    /// Puts up what a replica shows, or takes it down, and lets the others know.
    fn show(&self, session: u64, showing: Showing) {
        let Showing { space, replica, data } = showing;
        if !locked(&self.boards).put(&space, replica, session, data) {
            return;
        }
        if let Some(inboxes) = locked(&self.followers).get(&space) {
            for inbox in inboxes.iter().filter(|(other, _)| **other != session).map(|(_, inbox)| inbox) {
                locked(&inbox.showing).insert((space.clone(), replica));
                inbox.filled.notify_one();
            }
        }
    }

    fn publish(&self, commit: &Commit) {
        if let Some(inboxes) = locked(&self.followers).get(&commit.space) {
            for inbox in inboxes.values() {
                let mut hints = locked(&inbox.hints);
                let seq = hints.entry(commit.space.clone()).or_default();
                *seq = commit.seq.max(*seq);
                inbox.filled.notify_one();
            }
        }
    }
}

impl Subscription {
    /// Follows just these spaces, which come in ascending order.
    pub(crate) fn follow<'a>(&mut self, spaces: impl Iterator<Item = &'a SpaceName> + Clone) {
        if spaces.clone().eq(&self.spaces) {
            return;
        }
        let wanted: BTreeSet<SpaceName> = spaces.cloned().collect();
        let mut followers = locked(&self.hub.followers);
        for space in wanted.difference(&self.spaces) {
            followers.entry(space.clone()).or_default().insert(self.session, Arc::clone(&self.inbox));
        }
        for space in self.spaces.difference(&wanted) {
            leave(&mut followers, space, self.session);
            locked(&self.inbox.hints).remove(space);
            locked(&self.inbox.showing).retain(|(other, _)| other != space);
        }
        drop(followers);
        // After the place is taken: whoever begins to show something meanwhile is told twice rather than never.
        for space in wanted.difference(&self.spaces) {
            let there = locked(&self.hub.boards).of(space);
            locked(&self.inbox.showing).extend(there.into_iter().map(|replica| (space.clone(), replica)));
            self.inbox.filled.notify_one();
        }
        for space in self.spaces.difference(&wanted) {
            self.take_down(space);
        }
        self.spaces = wanted;
    }

    /// Shows something to the others who follow the space.
    pub(crate) fn show(&self, showing: Showing) {
        self.hub.show(self.session, showing);
    }

    /// The next news. Nothing is lost if the future is dropped.
    pub(crate) async fn next(&self) -> News {
        loop {
            if let Some((space, seq)) = locked(&self.inbox.hints).pop_first() {
                return News::Commit(Commit { space, seq });
            }
            let shown = locked(&self.inbox.showing).pop_first();
            if let Some((space, replica)) = shown {
                let data = locked(&self.hub.boards).get(&space, replica);
                return News::Showing(Showing { space, replica, data });
            }
            self.inbox.filled.notified().await;
        }
    }

    fn take_down(&self, space: &SpaceName) {
        let own = locked(&self.hub.boards).of_session(space, self.session);
        if let Some(replica) = own {
            self.hub.show(self.session, Showing { space: space.clone(), replica, data: None });
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        for space in &self.spaces {
            self.take_down(space);
        }
        let mut followers = locked(&self.hub.followers);
        for space in &self.spaces {
            leave(&mut followers, space, self.session);
        }
    }
}

fn leave(followers: &mut HashMap<SpaceName, HashMap<u64, Arc<Inbox>>>, space: &SpaceName, session: u64) {
    if let Some(inboxes) = followers.get_mut(space) {
        inboxes.remove(&session);
        if inboxes.is_empty() {
            followers.remove(space);
        }
    }
}

/// What is behind these locks is consistent at every step, so a panic elsewhere does not spoil it.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use tokio::sync::broadcast;

    use super::*;
    use crate::{SqliteBackend, SystemEnvironment};

    fn space(name: &str) -> SpaceName {
        SpaceName::new(name).unwrap()
    }

    #[tokio::test]
    async fn hints_are_merged_and_stop_when_no_longer_wanted() {
        let hub = Arc::new(Hub::default());
        let mut subscription = hub.subscribe(1);
        let (home, work) = (space("home"), space("work"));
        subscription.follow([&home].into_iter());
        for seq in [1, 3, 2] {
            hub.publish(&Commit { space: home.clone(), seq });
            hub.publish(&Commit { space: work.clone(), seq });
        }
        assert_eq!(subscription.next().await, News::Commit(Commit { space: home.clone(), seq: 3 }));
        assert!(locked(&subscription.inbox.hints).is_empty());
        subscription.follow([&work].into_iter());
        hub.publish(&Commit { space: home, seq: 4 });
        hub.publish(&Commit { space: work.clone(), seq: 4 });
        assert_eq!(subscription.next().await, News::Commit(Commit { space: work, seq: 4 }));
        drop(subscription);
        assert!(locked(&hub.followers).is_empty());
    }

    #[tokio::test]
    async fn what_is_shown_is_told_once_in_its_latest_form_and_ends_with_its_session() {
        let hub = Arc::new(Hub::default());
        let (mut ann, mut bob) = (hub.subscribe(1), hub.subscribe(2));
        let (home, replica) = (space("home"), ReplicaId::from_bytes([1; 16]));
        let showing = |data: Option<&[u8]>| Showing { space: home.clone(), replica, data: data.map(<[u8]>::to_vec) };
        ann.follow([&home].into_iter());
        for step in [b"a", b"b", b"c"] {
            ann.show(showing(Some(step)));
        }
        bob.follow([&home].into_iter());
        assert_eq!(bob.next().await, News::Showing(showing(Some(b"c"))));
        ann.show(showing(Some(b"d")));
        ann.show(showing(Some(b"e")));
        assert_eq!(bob.next().await, News::Showing(showing(Some(b"e"))));
        ann.show(showing(Some(b"e")));
        assert!(locked(&bob.inbox.showing).is_empty(), "the same again is no news");
        drop(ann);
        assert_eq!(bob.next().await, News::Showing(showing(None)));
        drop(bob);
        assert!(locked(&hub.boards).is_empty());
    }

    #[tokio::test]
    async fn a_session_that_is_back_is_not_taken_down_by_the_end_of_its_former_one() {
        let hub = Arc::new(Hub::default());
        let (mut before, mut after) = (hub.subscribe(1), hub.subscribe(2));
        let (home, replica) = (space("home"), ReplicaId::from_bytes([1; 16]));
        let showing = Showing { space: home.clone(), replica, data: Some(b"here".to_vec()) };
        before.follow([&home].into_iter());
        after.follow([&home].into_iter());
        before.show(showing.clone());
        after.show(showing);
        drop(before);
        assert_eq!(locked(&hub.boards).get(&home, replica), Some(b"here".to_vec()));
    }

    #[tokio::test]
    async fn after_lost_hints_every_followed_space_is_looked_at() {
        let backend: Arc<dyn Backend> = Arc::new(SqliteBackend::open_in_memory(Box::new(SystemEnvironment)).unwrap());
        let (commits, receiver) = broadcast::channel(1);
        for seq in 1..=3 {
            // Only the last one fits.
            commits.send(Commit { space: space("busy"), seq }).unwrap();
        }
        let hub = Arc::new(Hub::default());
        let mut subscription = hub.subscribe(1);
        let quiet = space("quiet");
        subscription.follow([&quiet].into_iter());
        let heard = async {
            tokio::select! {
                news = subscription.next() => assert_eq!(news, News::Commit(Commit { space: quiet, seq: 0 })),
                () = hub.listen(backend, receiver) => panic!("the channel is open"),
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(60), heard).await.expect("the test hangs");
    }
}
