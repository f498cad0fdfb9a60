//! Every trigger under every condition, and what keeps a scheduler from forgetting.

use proptest::prelude::*;

use super::*;
use crate::environment::SplitMix64;
use crate::sync::backoff::MAX_BACKOFF_MILLIS;

const NOW: UnixMillis = 1_000_000_000;
const SMALL: Work = Work { pending_bytes: 100, first_sync: false };
const LARGE: Work = Work { pending_bytes: 1 << 20, first_sync: false };
const FIRST: Work = Work { pending_bytes: 0, first_sync: true };

/// What the table says of one cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cell {
    /// It runs.
    Runs,
    /// It waits until the conditions change.
    Waits(Reason),
    /// It waits for this many milliseconds.
    For(i64, Reason),
}
use Cell::{For, Runs, Waits};

fn cell(conditions: &Conditions, situation: &Situation, trigger: Trigger) -> Cell {
    match decide(NOW, &Schedule::considerate(), conditions, situation, trigger) {
        Decision::Run { .. } => Runs,
        Decision::Defer(Deferral { until: None, because }) => Waits(because),
        Decision::Defer(Deferral { until: Some(until), because }) => For(until - NOW, because),
    }
}

type Row = (&'static str, Conditions, Situation, [Cell; 7]);

/// Columns: manual, network regained, poke, local write, retry, start, interval. All have just come.
fn rows() -> Vec<Row> {
    let fine = Conditions::default();
    let metered = Conditions { metered: true, ..fine };
    let saver = Conditions { battery_saver: true, ..fine };
    let background = Conditions { background: true, ..fine };
    let budget = |bytes, until| Conditions { budget: Some(Budget { bytes, until }), ..background };
    let plain = Situation {
        work: SMALL,
        asked_at: NOW,
        asked_last_at: NOW,
        interval_at: Some(NOW + 900_000),
        ..Situation::default()
    };
    let with = |work| Situation { work, ..plain };
    let (write, start, rest) =
        (For(1_000, Reason::Writing), For(3_000, Reason::Starting), For(900_000, Reason::Resting));
    let usual = [Runs, Runs, Runs, write, Runs, start, rest];
    let all_but_manual = |cell| [Runs, cell, cell, cell, cell, cell, cell];
    let backoff = |reason| {
        let wait = For(60_000, reason);
        [Runs, Runs, wait, wait, wait, wait, wait]
    };
    let saves = Waits(Reason::BatterySaver);
    let rate = For(500, Reason::RateLimited);
    vec![
        ("all is well", fine, plain, usual),
        ("much to push", fine, with(LARGE), usual),
        ("a first sync", fine, with(FIRST), usual),
        ("offline", Conditions { online: false, ..fine }, plain, all_but_manual(Waits(Reason::Offline))),
        ("metered, little", metered, plain, usual),
        ("metered, much", metered, with(LARGE), all_but_manual(Waits(Reason::Metered))),
        ("metered, a first sync", metered, with(FIRST), all_but_manual(Waits(Reason::Metered))),
        ("battery saver, little", saver, plain, [Runs, Runs, saves, write, Runs, saves, saves]),
        ("battery saver, much", saver, with(LARGE), all_but_manual(saves)),
        ("background, little", background, plain, usual),
        ("background, much", background, with(LARGE), all_but_manual(Waits(Reason::Background))),
        ("background, a first sync", background, with(FIRST), all_but_manual(Waits(Reason::Background))),
        ("background, much, and a budget for it", budget(2 << 20, NOW + 1), with(LARGE), usual),
        (
            "background, much, and a small budget",
            budget(9, NOW + 1),
            with(LARGE),
            all_but_manual(Waits(Reason::Background)),
        ),
        ("the budget's bytes are gone", budget(0, NOW + 1), plain, all_but_manual(Waits(Reason::Budget))),
        ("the budget's time is over", budget(9_999, NOW), plain, all_but_manual(Waits(Reason::Budget))),
        ("backoff", fine, Situation { retry_at: Some(NOW + 60_000), ..plain }, backoff(Reason::Backoff)),
        (
            "the circuit is open",
            fine,
            Situation { retry_at: Some(NOW + 60_000), circuit_open: true, ..plain },
            backoff(Reason::CircuitOpen),
        ),
        (
            "429 with Retry-After",
            fine,
            Situation { retry_at: Some(NOW + 60_000), server_asked_until: Some(NOW + 60_000), ..plain },
            [For(60_000, Reason::ServerAsked); 7],
        ),
        (
            "the token is refused",
            fine,
            Situation { auth_needed: true, ..plain },
            all_but_manual(Waits(Reason::AuthNeeded)),
        ),
        (
            "too many sessions",
            fine,
            Situation { rate_allows_at: NOW + 500, ..plain },
            [Runs, rate, rate, write, rate, start, rest],
        ),
        (
            "a wait from before the clock was set back by years",
            fine,
            Situation { retry_at: Some(NOW * 2), server_asked_until: Some(NOW * 2), ..plain },
            usual,
        ),
    ]
}

#[test]
fn every_trigger_under_every_condition() {
    for (name, conditions, situation, expected) in rows() {
        let found = Trigger::ALL.map(|trigger| cell(&conditions, &situation, trigger));
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn every_reason_is_in_the_table_and_has_words_for_a_person() {
    let found: Vec<Reason> = rows()
        .into_iter()
        .flat_map(|row| row.3)
        .filter_map(|cell| match cell {
            Runs => None,
            Waits(reason) | For(_, reason) => Some(reason),
        })
        .collect();
    let mut texts = std::collections::BTreeSet::new();
    for reason in Reason::ALL {
        assert!(found.contains(&reason), "{reason:?} is in no row");
        assert!(texts.insert(reason.text()), "{reason:?} says what another one says");
    }
}

#[test]
fn what_is_due_runs() {
    let conditions = Conditions::default();
    let ago = |millis| Situation {
        asked_at: NOW - millis,
        asked_last_at: NOW - 10,
        interval_at: Some(NOW),
        ..Situation::default()
    };
    assert_eq!(cell(&conditions, &ago(3_000), Trigger::Start), Runs);
    assert_eq!(cell(&conditions, &ago(0), Trigger::Interval), Runs);
    assert_eq!(cell(&conditions, &ago(9_000), Trigger::LocalWrite), For(990, Reason::Writing));
    assert_eq!(cell(&conditions, &ago(9_600), Trigger::LocalWrite), For(400, Reason::Writing), "writing has no end");
    assert_eq!(cell(&conditions, &ago(10_000), Trigger::LocalWrite), Runs);
}

#[test]
fn a_plain_start_runs_at_once_and_stays_live() {
    let mut scheduler = Scheduler::new(Schedule::default(), Conditions::default());
    for trigger in [Trigger::Start, Trigger::LocalWrite] {
        scheduler.ask(NOW, trigger);
        assert_eq!(scheduler.decide(NOW, FIRST), Decision::Run { keep_open: true });
    }
    assert!(!scheduler.gathers_writes());
}

#[test]
fn a_rate_limit_lets_a_burst_pass_and_then_an_even_flow() {
    let mut scheduler = Scheduler::new(Schedule::considerate(), Conditions::default());
    let mut run = |at| {
        scheduler.ask(at, Trigger::Poke);
        scheduler.decide(at, SMALL)
    };
    // Ten within a minute; one more is let in every six seconds.
    for _ in 0..11 {
        assert!(matches!(run(NOW), Decision::Run { .. }));
    }
    let later = Deferral { until: Some(NOW + 6_000), because: Reason::RateLimited };
    assert_eq!(run(NOW), Decision::Defer(later));
    assert!(matches!(run(NOW + 6_000), Decision::Run { .. }));
    assert!(matches!(run(NOW + 6_001), Decision::Defer(_)));
}

fn waits(scheduler: &mut Scheduler, now: UnixMillis) -> Option<i64> {
    match scheduler.decide(now, SMALL) {
        Decision::Defer(Deferral { until: Some(until), .. }) => Some(until - now),
        _ => None,
    }
}

#[test]
fn a_clock_that_is_put_right_does_not_lengthen_a_wait() {
    const HOUR: i64 = 3_600_000;
    let failed = |at, asked: Option<i64>| {
        let mut scheduler = Scheduler::new(Schedule::live(), Conditions::default());
        scheduler.failed(at, at + asked.unwrap_or(800), asked.map(|wait| at + wait), false);
        scheduler
    };
    // It was two hours ahead when the attempt failed.
    assert_eq!(waits(&mut failed(NOW + 2 * HOUR, None), NOW), Some(800));
    assert_eq!(waits(&mut failed(NOW + 2 * HOUR, Some(HOUR)), NOW), Some(HOUR));
    // Or that was before a restart, and only the file knows of it.
    let mut scheduler = Scheduler::new(Schedule::live(), Conditions::default());
    scheduler.failed(NOW, NOW + 2 * HOUR, None, false);
    assert_eq!(waits(&mut scheduler, NOW), Some(MAX_BACKOFF_MILLIS));
}

#[test]
fn what_a_person_insists_on_goes_on_until_the_device_changes_once_more() {
    let offline = Conditions { online: false, ..Conditions::default() };
    let mut scheduler = Scheduler::new(Schedule::live(), offline);
    scheduler.ask(NOW, Trigger::Manual);
    assert!(matches!(scheduler.decide(NOW, SMALL), Decision::Run { .. }));
    assert_eq!(scheduler.must_stop(NOW, LARGE), None);
    scheduler.set_conditions(NOW, offline);
    assert_eq!(scheduler.must_stop(NOW, LARGE), None, "nothing has changed");
    scheduler.set_conditions(NOW, Conditions { metered: true, ..Conditions::default() });
    assert_eq!(scheduler.must_stop(NOW, LARGE).map(|deferral| deferral.because), Some(Reason::Metered));
    // While something else connects, too.
    scheduler.ask(NOW, Trigger::Manual);
    scheduler.satisfied();
    assert_eq!(scheduler.must_stop(NOW, LARGE), None);
    // What begins by itself keeps to the guardrails again.
    scheduler.ask(NOW, Trigger::NetworkRegained);
    assert!(matches!(scheduler.decide(NOW, SMALL), Decision::Run { .. }));
    assert!(scheduler.must_stop(NOW, LARGE).is_some());
}

#[test]
fn a_connection_that_may_be_kept_open_again_is_asked_for() {
    let background = Conditions { background: true, ..Conditions::default() };
    let mut scheduler = Scheduler::new(Schedule::live(), background);
    scheduler.rest(NOW, &mut SplitMix64::new(1));
    scheduler.set_conditions(NOW, Conditions { metered: true, ..background });
    assert!(matches!(scheduler.decide(NOW, SMALL), Decision::Defer(_)));
    scheduler.set_conditions(NOW, Conditions::default());
    assert_eq!(scheduler.decide(NOW, SMALL), Decision::Run { keep_open: true });
}

#[test]
fn a_budget_ends_once() {
    let budget = Some(Budget { bytes: 9, until: NOW + 5 });
    let scheduler = Scheduler::new(Schedule::live(), Conditions { budget, ..Conditions::default() });
    assert_eq!(
        [NOW, NOW + 4, NOW + 5, NOW + 6].map(|now| scheduler.budget_ends(now)),
        [Some(NOW + 5), Some(NOW + 5), None, None]
    );
}

#[test]
fn looks_for_news_are_spread() {
    let mut entropy = SplitMix64::new(7);
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..50 {
        let mut scheduler = Scheduler::new(Schedule::live(), Conditions::default());
        scheduler.rest(NOW, &mut entropy);
        let Decision::Defer(Deferral { until: Some(until), because: Reason::Resting }) = scheduler.decide(NOW, SMALL)
        else {
            panic!("it rests first");
        };
        assert!((900_000..=1_800_000).contains(&(until - NOW)));
        seen.insert((until - NOW) / 180_000);
        assert!(matches!(scheduler.decide(until, SMALL), Decision::Run { .. }));
    }
    assert!(seen.len() >= 5, "{seen:?}");
}

#[derive(Clone, Debug)]
enum Happening {
    Ask(usize),
    Pass(i64),
    Conditions { online: bool, metered: bool, saver: bool, background: bool },
    Fail(i64, bool),
    Succeed,
    Rest,
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        (0usize..7).prop_map(Happening::Ask),
        (-40_000_000i64..2_000_000).prop_map(Happening::Pass),
        any::<(bool, bool, bool, bool)>().prop_map(|(online, metered, saver, background)| Happening::Conditions {
            online,
            metered,
            saver,
            background
        }),
        (0i64..300_000, any::<bool>()).prop_map(|(wait, asked)| Happening::Fail(wait, asked)),
        Just(Happening::Succeed),
        Just(Happening::Rest),
    ]
}

proptest! {
    /// Whatever happens, and however the clock jumps: what is asked for on a healthy device runs, at the latest at
    /// the times that the deferrals name.
    #[test]
    fn nothing_that_was_asked_for_is_forgotten(happenings in prop::collection::vec(happening(), 0..60), large: bool) {
        let mut scheduler = Scheduler::new(Schedule::considerate(), Conditions::default());
        let mut entropy = SplitMix64::new(1);
        let mut now = NOW;
        let work = if large { LARGE } else { SMALL };
        for happening in happenings {
            match happening {
                Happening::Ask(place) => scheduler.ask(now, Trigger::ALL[place]),
                Happening::Pass(millis) => now += millis,
                Happening::Conditions { online, metered, saver: battery_saver, background } => {
                    scheduler.set_conditions(now, Conditions { online, metered, battery_saver, background, budget: None });
                }
                Happening::Fail(wait, asked) => {
                    scheduler.failed(now, now + wait, asked.then_some(now + wait), wait > 250_000);
                }
                Happening::Succeed => scheduler.succeeded(),
                Happening::Rest => scheduler.rest(now, &mut entropy),
            }
            if let Decision::Defer(Deferral { until: Some(until), .. }) = scheduler.decide(now, work) {
                prop_assert!(until > now, "a deferral that is over");
            }
        }
        scheduler.set_conditions(now, Conditions::default());
        scheduler.ask(now, Trigger::LocalWrite);
        for _ in 0..20 {
            match scheduler.decide(now, work) {
                Decision::Run { .. } => return Ok(()),
                Decision::Defer(Deferral { until, .. }) => now = until.expect("only the conditions wait without end"),
            }
        }
        prop_assert!(false, "it never runs");
    }
}
