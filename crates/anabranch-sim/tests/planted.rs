//! The checkers find what they are there to find.

use anabranch_sim::{Bug, Run, find};

/// Seeds within which a bug must show here.
const SEEDS: u64 = 60;

/// Bugs that take more seeds than a daily test has time for. The full table, within 2,000 seeds, is printed by
/// `cargo run --release -p anabranch-sim --features planted -- --planted`; that takes too long for `.ci/run` as well.
const SLOW: [Bug; 8] = [
    Bug::ForgetAckMark,
    Bug::ForgetToHold,
    Bug::ForgetOffers,
    Bug::ReuseActorAfterRestore,
    Bug::DropGoodHalf,
    Bug::AdmitAnyName,
    Bug::KeepLineage,
    Bug::SettleRewritten,
];

/// How many seeds to try: `ANABRANCH_SEEDS` for all bugs.
fn effort() -> (u64, bool) {
    let given = std::env::var("ANABRANCH_SEEDS").ok().and_then(|seeds| seeds.parse().ok());
    given.map_or((SEEDS, false), |seeds| (seeds, true))
}

#[test]
fn every_planted_bug_is_found_and_without_it_the_same_seed_passes() {
    let (seeds, all) = effort();
    let mut missed = Vec::new();
    for bug in Bug::ALL.into_iter().filter(|bug| all || !SLOW.contains(bug)) {
        match find(bug, seeds) {
            Some((seed, failure)) => println!("{:26} {:>4} seeds  {failure}", format!("{bug:?}"), seed + 1),
            None => missed.push(bug),
        }
    }
    assert!(missed.is_empty(), "not found within {seeds} seeds: {missed:?}");
}

#[test]
fn a_failing_run_shrinks_to_one_that_still_fails_and_can_be_replayed() {
    let planted = |run: Run| Run { bug: Some(Bug::CursorOffByOne), ..run };
    let (seed, _) = find(Bug::CursorOffByOne, SEEDS).expect("found");
    let report = planted(Run::of(seed)).make();
    let all: u64 = report.operations.values().sum();
    let smallest = report.shrink();
    let left: u64 = smallest.operations.values().sum();
    assert!(smallest.failure.is_some() && left * 4 < all, "{left} of {all} operations are left");
    let command = smallest.command();
    let keep = command.split(" --keep ").nth(1).and_then(|rest| rest.split(' ').next()).expect("what is kept");
    let again = Run { replicas: Some(smallest.replicas), keep: Some(keep.parse().expect("a list")), ..Run::of(seed) };
    let again = planted(again).make();
    assert_eq!((again.failure, again.digest), (smallest.failure, smallest.digest), "the command replays it");
}
