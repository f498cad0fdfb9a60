//! How a contested slot settles: a pure function of values, stamps and op ids. No Automerge here, so that
//! every policy can be checked against a simple model.

use std::cmp::Ordering;
use std::panic::{AssertUnwindSafe, catch_unwind};

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::value::compare;
use crate::id::{Actor, ChangeHash, Digest};
use crate::schema::Policy;
use crate::stamp::Stamp;

/// One value of a contest.
#[derive(Clone, Debug, PartialEq)]
pub struct Contender {
    /// The value, as this schema version reads it.
    pub value: Value,
    /// When it was written.
    pub stamp: Stamp,
    /// Who wrote it.
    pub actor: Actor,
    /// The change that wrote it.
    pub change: ChangeHash,
    /// Whether it was written to settle an earlier conflict.
    pub resolution: bool,
    /// The op's counter. Together with the actor it names the op; greater ones never happened before smaller.
    pub counter: u64,
}

impl Contender {
    const fn op(&self) -> (u64, &Actor) {
        (self.counter, &self.actor)
    }
}

/// Puts the contenders into the policy's order, the winner first and the others after it, best first. Returns
/// the value that is shown if it is not the winner's own.
pub(super) fn settle(policy: &Policy, contenders: &mut [Contender]) -> Option<Value> {
    contenders.sort_by(|a, b| order(policy, a, b));
    let Policy::Custom(custom) = policy else { return None };
    let function = custom.function()?;
    // A function that panics, which no replica can be spared, leaves the last writer's value everywhere.
    catch_unwind(AssertUnwindSafe(|| function(contenders))).ok()
}

fn order(policy: &Policy, a: &Contender, b: &Contender) -> Ordering {
    let last = || (b.stamp, b.op()).cmp(&(a.stamp, a.op()));
    let newest_op = || b.op().cmp(&a.op());
    match policy {
        Policy::Lww | Policy::Manual | Policy::Custom(_) => last(),
        Policy::FirstWriter => last().reverse(),
        Policy::Causal => newest_op(),
        Policy::Max => compare(&b.value, &a.value).then_with(newest_op),
        Policy::Min => compare(&a.value, &b.value).then_with(newest_op),
    }
}

/// Whether a person has to decide. A contest among resolutions only is settled: two people have decided apart.
pub(super) fn is_open(policy: &Policy, contenders: &[Contender]) -> bool {
    *policy == Policy::Manual && contenders.iter().any(|contender| !contender.resolution)
}

/// The name of a contest: the same on every replica that has the same ops in the slot.
pub(super) fn contest_id(contenders: &[Contender]) -> Digest {
    let mut ops: Vec<_> = contenders.iter().map(Contender::op).collect();
    ops.sort_unstable();
    let mut hasher = Sha256::new();
    for (counter, actor) in ops {
        hasher.update(counter.to_be_bytes());
        hasher.update([u8::try_from(actor.as_bytes().len()).unwrap_or(u8::MAX)]);
        hasher.update(actor.as_bytes());
    }
    Digest::from_bytes(hasher.finalize().into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::schema::{CustomPolicy, Functions};

    type Parts = (i64, u64, u8, i64);

    fn contender((stamp, counter, actor, value): Parts) -> Contender {
        Contender {
            value: json!(value),
            stamp: Stamp::from_raw(stamp).unwrap(),
            actor: Actor::from_bytes(&[actor]).unwrap(),
            change: ChangeHash::from_bytes([0; 32]),
            resolution: false,
            counter,
        }
    }

    /// The oracle: plain tuples, compared as tuples.
    fn expected(policy: &Policy, parts: &[Parts]) -> Parts {
        let all = parts.iter().copied();
        let winner = match policy {
            Policy::FirstWriter => all.min_by_key(|(stamp, counter, actor, _)| (*stamp, *counter, *actor)),
            Policy::Causal => all.max_by_key(|(_, counter, actor, _)| (*counter, *actor)),
            Policy::Max => all.max_by_key(|(_, counter, actor, value)| (*value, *counter, *actor)),
            Policy::Min => all.max_by_key(|(_, counter, actor, value)| (-value, *counter, *actor)),
            _ => all.max_by_key(|(stamp, counter, actor, _)| (*stamp, *counter, *actor)),
        };
        winner.unwrap()
    }

    proptest! {
        #[test]
        fn the_winner_does_not_depend_on_the_order(
            parts in prop::collection::btree_map((1u64..4, 0u8..4), (0i64..4, -2i64..3), 1..8),
            seed in any::<usize>(),
        ) {
            let mut parts: Vec<Parts> = parts.into_iter().map(|((c, a), (s, v))| (s, c, a, v)).collect();
            let length = parts.len();
            parts.rotate_left(seed % length);
            for policy in
                [Policy::Lww, Policy::FirstWriter, Policy::Causal, Policy::Max, Policy::Min, Policy::Manual]
            {
                let mut contenders: Vec<_> = parts.iter().copied().map(contender).collect();
                prop_assert_eq!(settle(&policy, &mut contenders), None);
                prop_assert_eq!(&contenders[0], &contender(expected(&policy, &parts)), "{}", policy);
            }
        }
    }

    #[test]
    fn a_function_that_panics_leaves_the_last_writer() {
        let mut functions = Functions::default();
        functions.policy("sum", 1, |all| json!(all.iter().filter_map(|one| one.value.as_i64()).sum::<i64>()));
        functions.policy("bad", 1, |_| panic!("no"));
        let custom = |name| {
            let mut schema = crate::Schema::from_toml(&format!(
                "version = 1\n[collections.a.fields]\nb = {{ kind = \"register\", policy = {{ custom = \"{name}\", version = 1 }} }}"
            ))
            .unwrap();
            schema.bind(&functions).unwrap();
            schema.collections["a"].fields["b"].policy.clone().unwrap()
        };
        let mut contenders = vec![contender((1, 1, 1, 20)), contender((2, 1, 2, 22))];
        assert_eq!(settle(&custom("sum"), &mut contenders), Some(json!(42)));
        assert_eq!(settle(&custom("bad"), &mut contenders), None);
        assert_eq!(contenders[0].value, json!(22));
        assert_eq!(settle(&Policy::Custom(CustomPolicy::new("sum", 1)), &mut contenders), None);
    }
}
