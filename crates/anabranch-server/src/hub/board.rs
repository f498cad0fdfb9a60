//! What the replicas of a space show of themselves just now. In memory only, and bounded.

use std::collections::{BTreeMap, HashMap};

use anabranch_core::{ReplicaId, SpaceName};

/// The most replicas that show something in one space. Who comes later is not seen until somebody leaves.
pub(super) const MAX_SHOWN: usize = 256;
/// The most that is shown in all spaces together.
pub(super) const MAX_SHOWN_ANYWHERE: usize = 8_192;

/// Every space's board.
#[derive(Debug, Default)]
pub(super) struct Boards {
    spaces: HashMap<SpaceName, BTreeMap<ReplicaId, Shown>>,
    shown: usize,
}

#[derive(Debug)]
struct Shown {
    /// A replica that has connected anew is not taken down by the end of its former session.
    session: u64,
    data: Vec<u8>,
}

impl Boards {
    /// Puts up what a replica shows, or takes it down. Says whether that changes what others see.
    pub(super) fn put(&mut self, space: &SpaceName, replica: ReplicaId, session: u64, data: Option<Vec<u8>>) -> bool {
        let Some(data) = data else { return self.remove(space, replica, session) };
        let board = self.spaces.entry(space.clone()).or_default();
        let room = board.len() < MAX_SHOWN && self.shown < MAX_SHOWN_ANYWHERE;
        match board.get_mut(&replica) {
            Some(shown) => {
                shown.session = session;
                let news = shown.data != data;
                shown.data = data;
                news
            }
            None if room => {
                self.shown += 1;
                board.insert(replica, Shown { session, data }).is_none()
            }
            None => {
                self.tidy(space);
                false
            }
        }
    }

    fn remove(&mut self, space: &SpaceName, replica: ReplicaId, session: u64) -> bool {
        let Some(board) = self.spaces.get_mut(space) else { return false };
        let own = board.get(&replica).is_some_and(|shown| shown.session == session);
        if own {
            board.remove(&replica);
            self.shown -= 1;
            self.tidy(space);
        }
        own
    }

    fn tidy(&mut self, space: &SpaceName) {
        if self.spaces.get(space).is_some_and(BTreeMap::is_empty) {
            self.spaces.remove(space);
        }
    }

    /// What a replica shows.
    pub(super) fn get(&self, space: &SpaceName, replica: ReplicaId) -> Option<Vec<u8>> {
        self.spaces.get(space)?.get(&replica).map(|shown| shown.data.clone())
    }

    /// Who shows something in a space.
    pub(super) fn of(&self, space: &SpaceName) -> Vec<ReplicaId> {
        self.spaces.get(space).map(|board| board.keys().copied().collect()).unwrap_or_default()
    }

    /// Whom a session has put up in a space. A session speaks for one replica, so at most one.
    pub(super) fn of_session(&self, space: &SpaceName, session: u64) -> Option<ReplicaId> {
        self.spaces.get(space)?.iter().find(|(_, shown)| shown.session == session).map(|(replica, _)| *replica)
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.spaces.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_board_takes_nobody_else_and_lets_go_of_its_own() {
        let (mut boards, space) = (Boards::default(), SpaceName::new("home").unwrap());
        let replica = |n: usize| ReplicaId::from_bytes(u128::try_from(n).unwrap().to_be_bytes());
        for n in 0..MAX_SHOWN {
            assert!(boards.put(&space, replica(n), 1, Some(vec![0])));
        }
        assert!(!boards.put(&space, replica(MAX_SHOWN), 2, Some(vec![0])));
        assert!(boards.put(&space, replica(0), 1, Some(vec![1])), "who is there may still change");
        assert!(!boards.put(&space, replica(0), 2, None), "another session's");
        assert!(boards.put(&space, replica(0), 1, None));
        assert!(boards.put(&space, replica(MAX_SHOWN), 2, Some(vec![0])));
        assert_eq!(boards.of(&space).len(), MAX_SHOWN);
    }

    #[test]
    fn all_boards_together_are_bounded() {
        let mut boards = Boards::default();
        let replica = ReplicaId::from_bytes([1; 16]);
        let space = |n: usize| SpaceName::new(n.to_string()).unwrap();
        for n in 0..MAX_SHOWN_ANYWHERE {
            assert!(boards.put(&space(n), replica, 1, Some(vec![0])));
        }
        let late = space(MAX_SHOWN_ANYWHERE);
        assert!(!boards.put(&late, replica, 1, Some(vec![0])));
        assert_eq!(boards.spaces.len(), MAX_SHOWN_ANYWHERE, "not even an empty board is left");
        assert!(boards.put(&space(0), replica, 1, None));
        assert!(boards.put(&late, replica, 1, Some(vec![0])));
    }
}
