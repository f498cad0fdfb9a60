//! Who has written which ops: what it takes to tell whether the name of an op stands for one that exists.

use std::collections::HashMap;

use crate::change::Change;

/// The ops of every actor of a document.
///
/// An actor's place is a number that lasts as long as the document is in memory, and means nothing elsewhere.
#[derive(Clone, Debug, Default)]
pub(super) struct Past {
    places: HashMap<Vec<u8>, u32>,
    /// For each place, the actor's changes in the order of their sequence numbers.
    changes: Vec<Vec<Extent>>,
}

/// The counters of a change's ops, ends included; a change without ops ends before it begins.
#[derive(Clone, Copy, Debug)]
struct Extent {
    first: u64,
    last: u64,
}

/// The name of an op within a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Name {
    pub(super) place: u32,
    pub(super) counter: u32,
}

impl Past {
    pub(super) fn place(&self, actor: &[u8]) -> Option<u32> {
        self.places.get(actor).copied()
    }

    /// The actor's last sequence number; 0 if there is none.
    pub(super) fn last_seq(&self, actor: &[u8]) -> u64 {
        self.place(actor).map_or(0, |place| count(self.of(place)))
    }

    /// How many changes each actor has, by place.
    pub(super) fn lengths(&self) -> Vec<u64> {
        self.changes.iter().map(|changes| count(changes)).collect()
    }

    /// Adds an actor's next change.
    pub(super) fn push(&mut self, actor: &[u8], first: u64, last: u64) -> u32 {
        let place = self.place(actor).unwrap_or_else(|| {
            let place = u32::try_from(self.changes.len()).unwrap_or(u32::MAX);
            self.changes.push(Vec::new());
            self.places.insert(actor.to_vec(), place);
            place
        });
        if let Some(changes) = self.changes.get_mut(index(place)) {
            changes.push(Extent { first, last });
        }
        place
    }

    /// Takes changes back that were the last to be pushed; they come in the order in which they were pushed.
    pub(super) fn take_back(&mut self, changes: &[&Change]) {
        for change in changes.iter().rev() {
            let actor = change.actor().as_bytes();
            let Some(place) = self.place(actor) else { continue };
            if let Some(theirs) = self.changes.get_mut(index(place)) {
                theirs.pop();
            }
            if self.of(place).is_empty() && index(place) + 1 == self.changes.len() {
                self.changes.pop();
                self.places.remove(actor);
            }
        }
    }

    /// The sequence number of the change that an op belongs to, if there is such an op.
    pub(super) fn seq_of(&self, name: Name) -> Option<u64> {
        let counter = u64::from(name.counter);
        let changes = self.of(name.place);
        let before = changes.partition_point(|change| change.last < counter);
        (changes.get(before)?.first <= counter).then(|| count(&changes[..=before]))
    }

    fn of(&self, place: u32) -> &[Extent] {
        self.changes.get(index(place)).map_or(&[], Vec::as_slice)
    }
}

/// A place as an index.
pub(super) fn index(place: u32) -> usize {
    usize::try_from(place).unwrap_or(usize::MAX)
}

fn count(changes: &[Extent]) -> u64 {
    u64::try_from(changes.len()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_op_is_found_in_its_change_and_a_gap_in_none() {
        let mut past = Past::default();
        let a = past.push(b"a", 1, 3);
        assert_eq!(past.push(b"b", 4, 4), a + 1);
        past.push(b"a", 5, 4); // a change without ops
        past.push(b"a", 8, 9);
        let seq = |counter| past.seq_of(Name { place: a, counter });
        let found: Vec<_> = (0..=10).map(seq).collect();
        let (one, three) = (Some(1), Some(3));
        assert_eq!(found, [None, one, one, one, None, None, None, None, three, three, None]);
        assert_eq!(past.seq_of(Name { place: 7, counter: 1 }), None);
        assert_eq!((past.last_seq(b"a"), past.last_seq(b"b"), past.last_seq(b"c")), (3, 1, 0));
    }
}
