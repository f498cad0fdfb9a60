//! Which changes of an entity another side lacks, by its log alone: no document is loaded.

use std::collections::HashSet;

use crate::id::{ChangeHash, Heads};
use crate::sync::reconcile::MAX_KNOWN;

/// What to do with a change of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visit {
    /// The other side lacks it.
    Lacked,
    /// The other side has it, or need not have it: it lies before a purge.
    Passed,
}

/// Goes through the log of one entity from its end, and tells which changes the other side lacks: those that are
/// neither among the ones it named nor before them.
#[derive(Clone, Debug)]
pub struct Walk {
    /// What the other side has: what it named, and what that depends on.
    known: HashSet<ChangeHash>,
    /// What is lacked or not looked at yet, and reached by what is lacked.
    open: HashSet<ChangeHash>,
}

impl Walk {
    /// A walk down from `heads`, for a side that has `known`.
    #[must_use]
    pub fn new(heads: &Heads, known: &[ChangeHash]) -> Self {
        let known: HashSet<_> = known.iter().copied().collect();
        let open = heads.hashes().iter().copied().filter(|head| !known.contains(head)).collect();
        Self { known, open }
    }

    /// Whether nothing further down is lacked.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.open.is_empty()
    }

    /// Takes the next change, which comes after all that depend on it.
    pub fn visit(&mut self, hash: ChangeHash, dependencies: &[ChangeHash]) -> Visit {
        if self.open.remove(&hash) {
            self.open.extend(dependencies.iter().filter(|dependency| !self.known.contains(*dependency)));
            return Visit::Lacked;
        }
        if self.known.contains(&hash) {
            for dependency in dependencies {
                self.open.remove(dependency);
                self.known.insert(*dependency);
            }
        }
        Visit::Passed
    }
}

/// A few of an entity's changes that tell another side what is here: the heads, and then ones that lie further and
/// further back. `newest_first` is the entity's log from its end.
#[must_use]
pub fn sample(heads: &Heads, newest_first: &[ChangeHash]) -> Vec<ChangeHash> {
    let mut chosen: Vec<ChangeHash> = heads.hashes().iter().copied().take(MAX_KNOWN / 2).collect();
    let mut at = 1;
    while chosen.len() < MAX_KNOWN
        && let Some(hash) = newest_first.get(at)
    {
        if !chosen.contains(hash) {
            chosen.push(*hash);
        }
        // One by one at first, then twice as far each time.
        at += (at / 4).max(1);
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(n: u8) -> ChangeHash {
        ChangeHash::from_bytes([n; 32])
    }

    fn lacked(heads: &[u8], known: &[u8], log: &[(u8, &[u8])]) -> (Vec<u8>, usize) {
        let heads = Heads::new(heads.iter().map(|n| hash(*n)).collect());
        let known: Vec<_> = known.iter().map(|n| hash(*n)).collect();
        let mut walk = Walk::new(&heads, &known);
        let (mut found, mut visited) = (Vec::new(), 0);
        for (n, dependencies) in log.iter().rev() {
            if walk.is_over() {
                break;
            }
            visited += 1;
            let dependencies: Vec<_> = dependencies.iter().map(|n| hash(*n)).collect();
            if walk.visit(hash(*n), &dependencies) == Visit::Lacked {
                found.push(*n);
            }
        }
        (found, visited)
    }

    #[test]
    fn a_walk_finds_what_is_lacked_and_no_more() {
        // 1 - 2 - 4 - 5, and 3 beside 2.
        let log: &[(u8, &[u8])] = &[(1, &[]), (2, &[1]), (3, &[1]), (4, &[2]), (5, &[3, 4])];
        assert_eq!(lacked(&[5], &[], log).0, [5, 4, 3, 2, 1]);
        assert_eq!(lacked(&[5], &[4], log).0, [5, 3]);
        assert_eq!(lacked(&[5], &[2, 9], log).0, [5, 4, 3]);
        assert_eq!(lacked(&[5], &[5], log), (Vec::new(), 0), "nothing is read");
        assert_eq!(lacked(&[5], &[3, 4], log), (vec![5], 1), "it ends where nothing more is lacked");
    }

    #[test]
    fn a_sample_is_small_and_reaches_far_back() {
        let log: Vec<_> = (0..100_000u32)
            .map(|n| {
                let mut bytes = [0; 32];
                bytes[..4].copy_from_slice(&n.to_le_bytes());
                ChangeHash::from_bytes(bytes)
            })
            .collect();
        let chosen = sample(&Heads::new(vec![log[0]]), &log);
        assert!(chosen.len() <= MAX_KNOWN, "{}", chosen.len());
        assert_eq!(chosen[..4], log[..4]);
        let last = log.iter().position(|hash| hash == chosen.last().expect("one")).expect("of the log");
        assert!(last > 10_000, "{last}");
        assert_eq!(sample(&Heads::new(vec![log[0]]), &log[..1]), [log[0]]);
    }
}
