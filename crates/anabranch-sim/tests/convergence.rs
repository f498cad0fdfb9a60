//! Any interleaving converges; the simulator is deterministic; a few seeds of the standard profile run clean.

use anabranch_sim::{Fleet, FleetOptions, Op, Run, Story};
use proptest::prelude::*;

fn op() -> impl Strategy<Value = Op> {
    let client = 0usize..5;
    prop_oneof![
        6 => (client.clone(), any::<u64>()).prop_map(|(client, pick)| Op::Edit { client, pick }),
        30 => any::<u64>().prop_map(|pick| Op::Step { pick }),
        2 => (0u32..5_000).prop_map(|millis| Op::Pass { millis }),
        1 => Just(Op::Wait),
        1 => (client.clone(), any::<u64>()).prop_map(|(client, pick)| Op::Cut { client, pick }),
        2 => (client.clone(), client.clone(), any::<u64>())
            .prop_map(|(client, with, pick)| Op::Exchange { client, with, pick }),
        1 => (client, any::<u64>()).prop_map(|(client, pick)| Op::RestartClient { client, pick }),
        1 => any::<u64>().prop_map(|pick| Op::CrashServer { pick }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_interleaving_of_edits_pushes_pulls_exchanges_and_restarts_converges(
        seed: u64,
        replicas in 2usize..=5,
        ops in prop::collection::vec(op(), 1..250),
    ) {
        let mut fleet = Fleet::new(FleetOptions { seed, replicas, trace: false, bug: None })
            .map_err(|failure| TestCaseError::fail(failure.to_string()))?;
        for op in ops {
            fleet.apply(op).map_err(|failure| TestCaseError::fail(failure.to_string()))?;
        }
        fleet.heal(seed).map_err(|failure| TestCaseError::fail(failure.to_string()))?;
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..8 {
        let (one, other) = (Run::of(seed).make(), Run::of(seed).make());
        assert_eq!((one.digest, one.events, one.bytes), (other.digest, other.events, other.bytes), "seed {seed}");
    }
    assert_ne!(Run::of(1).make().digest, Run::of(2).make().digest);
}

#[test]
fn the_standard_profile_runs_clean() {
    let failures: Vec<_> = (0..50)
        .map(|seed| Run::of(seed).make())
        .filter(|report| report.failure.is_some())
        .map(|report| format!("{}\n    {}", report.failure.clone().unwrap_or_default(), report.command()))
        .collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn what_has_failed_once_does_not_fail_again() {
    for Story { run, text } in Story::all() {
        let seed = run.seed;
        assert_eq!(run.make().failure, None, "seed {seed}: {text}");
    }
}
