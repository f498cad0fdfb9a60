//! How a contested slot settles: a pure function of values, stamps and op ids. No Automerge here, so that
//! every policy can be checked against a simple model.

use serde_json::Value;

use crate::id::Actor;
use crate::schema::Policy;
use crate::stamp::Stamp;

/// The id of the op that wrote a value: greater ids never happened before smaller ones.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct OpId {
    pub(super) counter: u64,
    pub(super) actor: Actor,
}

/// One of several concurrent values.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) value: Value,
    pub(super) stamp: Stamp,
    pub(super) op: OpId,
}

/// The candidates' indices, the winner first and the others after it, best first.
pub(super) fn rank(policy: Policy, candidates: &[Candidate]) -> Vec<usize> {
    let mut ranked: Vec<usize> = (0..candidates.len()).collect();
    ranked.sort_by(|a, b| {
        let (a, b) = (&candidates[*a], &candidates[*b]);
        match policy {
            Policy::Lww => (b.stamp, &b.op).cmp(&(a.stamp, &a.op)),
            Policy::Causal => b.op.cmp(&a.op),
        }
    });
    ranked
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn candidate(stamp: i64, counter: u64, actor: u8) -> Candidate {
        Candidate {
            value: Value::Null,
            stamp: Stamp::from_raw(stamp).unwrap(),
            op: OpId { counter, actor: Actor::from_bytes(&[actor]).unwrap() },
        }
    }

    proptest! {
        #[test]
        fn the_winner_does_not_depend_on_the_order(
            parts in prop::collection::btree_set((0i64..4, 1u64..4, 0u8..4), 1..8),
            seed in any::<u64>(),
        ) {
            // The oracle: plain tuples, compared as tuples.
            let newest = parts.iter().max().copied().unwrap();
            let greatest = parts.iter().max_by_key(|(_, counter, actor)| (*counter, *actor)).copied().unwrap();
            let mut shuffled: Vec<_> = parts.into_iter().collect();
            let length = shuffled.len();
            shuffled.rotate_left(usize::try_from(seed % 8).unwrap() % length);
            let candidates: Vec<_> = shuffled.iter().map(|(s, c, a)| candidate(*s, *c, *a)).collect();
            prop_assert_eq!(shuffled[rank(Policy::Lww, &candidates)[0]], newest);
            let causal = shuffled[rank(Policy::Causal, &candidates)[0]];
            prop_assert_eq!((causal.1, causal.2), (greatest.1, greatest.2));
        }
    }
}
