//! Reconciling two sets of entities, without files and sockets.

#![expect(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]

mod side;

use std::collections::BTreeSet;

use anabranch_core::sync::reconcile::{
    Item, MAX_SKETCH_BYTES, MAX_VISITED, MAX_WANTED, Ranges, ReconcileError, Reconciler, Sketch, SketchError, Then,
    answer_sketch, reply,
};
use anabranch_core::wire::{Ask, Reply, Wanted};
use anabranch_core::{ChangeHash, EntityId, Entropy as _, Heads, SplitMix64};
use proptest::prelude::*;

use side::{Side, entity, reconcile, reconcile_while};

/// The figures.
const MOST_ROUND_TRIPS: usize = 6;
const MOST_BYTES: usize = 256 << 10;

#[test]
fn a_hundred_thousand_entities_of_which_a_hundred_differ() {
    let (mut here, mut there) = (Side::of(100_000).named(1), Side::of(100_000).named(2));
    let equal = reconcile(&mut here, &mut there);
    assert_eq!((equal.round_trips, equal.fetched, equal.offered), (1, 0, 0));
    println!("none differ: {equal}");
    assert!(equal.bytes < 2_000);

    // The other side moved on.
    for n in (0..100).map(|n| n * 997) {
        there.write(entity(n));
    }
    let behind = reconcile(&mut here, &mut there);
    println!("100 differ, all there: {behind}");
    assert_eq!((behind.fetched, behind.offered), (100, 0));
    assert!(behind.round_trips <= MOST_ROUND_TRIPS && behind.bytes <= MOST_BYTES, "{behind}");

    // Both sides did, apart.
    for n in (0..100).map(|n| n * 991 + 3) {
        let side = if n % 2 == 0 { &mut here } else { &mut there };
        side.write(entity(n));
    }
    let both = reconcile(&mut here, &mut there);
    println!("100 differ, here and there: {both}");
    assert_eq!(both.fetched + both.offered, 100);
    assert!(both.round_trips <= MOST_ROUND_TRIPS && both.bytes <= MOST_BYTES, "{both}");

    // And in the same entities.
    for n in (0..100).map(|n| n * 983 + 7) {
        here.write(entity(n));
        there.write(entity(n));
    }
    let forked = reconcile(&mut here, &mut there);
    println!("100 differ, each here and there: {forked}");
    assert_eq!((forked.fetched, forked.offered), (100, 100));
    assert!(forked.round_trips <= MOST_ROUND_TRIPS && forked.bytes <= MOST_BYTES, "{forked}");
    assert_eq!(reconcile(&mut here, &mut there).round_trips, 1);
}

#[test]
fn everything_differs_and_only_one_side_has_anything() {
    let (mut here, mut there) = (Side::default(), Side::of(20_000));
    let first = reconcile(&mut here, &mut there);
    assert_eq!((first.fetched, first.offered), (20_000, 0));
    let (mut here, mut there) = (Side::of(20_000), Side::default());
    let first = reconcile(&mut here, &mut there);
    assert_eq!((first.fetched, first.offered), (0, 20_000));
}

#[test]
fn a_long_entity_comes_in_pages() {
    let (mut here, mut there) = (Side::of(3).named(1), Side::of(3).named(2));
    (0..5_000).for_each(|_| there.write(entity(1)));
    there.write(entity(2));
    let paged = reconcile(&mut here, &mut there);
    assert_eq!(paged.fetched, 5_001);
    assert!(paged.pages > 2, "{paged}");
    assert_eq!(here, there);
}

/// Each of these takes a walk through a whole history to find one change.
#[test]
fn one_question_is_worth_only_so_much_work() {
    const LENGTH: usize = 300;
    let (mut here, mut there) = (Side::of(1).named(1), Side::of(1).named(2));
    there.write(entity(0));
    (0..LENGTH).for_each(|_| here.write(entity(0)));
    let Ok(Ok(Reply::Heads(heads))) = reply(&mut &here, &Ask::Heads(vec![entity(0)]), 0, 0) else { panic!("no heads") };
    reconcile(&mut there, &mut here);
    let mut wanted = vec![Wanted { entity: entity(0), known: heads[0].clone() }; MAX_WANTED];
    let mut questions = 0;
    while !wanted.is_empty() {
        let ask = Ask::Changes { wanted: wanted.clone(), skip: 0 };
        let Ok(Ok(Reply::Changes { changes, done, skip })) = reply(&mut &there, &ask, 1 << 20, 2_000) else {
            panic!("no changes")
        };
        let done = usize::try_from(done).unwrap();
        // Each brings the one change that is lacked.
        assert_eq!((changes.len(), skip), (done, 0));
        assert!(done <= MAX_VISITED / LENGTH + 1, "{done} histories at once");
        wanted.drain(..done);
        questions += 1;
    }
    assert!(questions > 1);
}

/// Found by simulation: a server had lost its newest changes, and all clients reconciled at once. Between two pages
/// another client brought what this one had said that it knows; the server's list became shorter, and what was counted
/// as sent were others.
#[test]
fn g10_no_page_is_missed_if_the_other_side_learns_meanwhile_what_is_known_here() {
    let (mut here, mut there) = (Side::of(1).named(1), Side::of(1).named(2));
    (there.expects_again, here.expects_again) = (true, true);
    (0..300).for_each(|_| there.write(entity(0)));
    there.bring(&mut here, entity(0));
    (0..300).for_each(|_| here.write(entity(0)));
    (0..3_000).for_each(|_| there.write(entity(0)));
    let another = here.clone();
    let mut pages = 0;
    let done = reconcile_while(&mut here, &mut there, |there| {
        pages += 1;
        if pages == 1 {
            another.bring(there, entity(0));
        }
    });
    assert!(done.pages > 1, "{done}");
    assert_eq!(here, there);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_differs_is_found_and_nothing_else(
        count in 0u32..300,
        ours in prop::collection::vec(0u32..400, 0..60),
        theirs in prop::collection::vec(0u32..400, 0..60),
    ) {
        let (mut here, mut there) = (Side::of(count).named(1), Side::of(count).named(2));
        ours.iter().for_each(|n| here.write(entity(*n)));
        theirs.iter().for_each(|n| there.write(entity(*n)));
        let expected: BTreeSet<_> = ours.iter().chain(&theirs).map(|n| entity(*n)).collect();
        let done = reconcile(&mut here, &mut there);
        prop_assert_eq!(done.differing, expected);
        prop_assert_eq!(here, there);
    }

    #[test]
    fn no_message_panics_and_no_answer_is_larger_than_a_message_may_be(
        seed: u64,
        cuts in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        length: prop::sample::Index,
    ) {
        let items = |from: u64| -> Vec<Item> {
            let mut entropy = SplitMix64::new(from);
            let item = |_| Item::new(EntityId::mint(1, &mut entropy), &Heads::default());
            (0..600).map(item).collect()
        };
        let mut messages = vec![Ranges::of(items(seed)).unwrap().open().unwrap()];
        messages.push(answer_sketch(items(seed + 1), &messages[0]).unwrap());
        for mut message in messages {
            for (at, byte) in &cuts {
                let at = at.index(message.len());
                message[at] = *byte;
            }
            message.truncate(length.index(message.len()) + 1);
            if let Ok(answer) = answer_sketch(items(seed), &message) {
                prop_assert!(answer.len() <= MAX_SKETCH_BYTES + 4_096);
            }
            let mut initiator = Ranges::of(items(seed)).unwrap();
            initiator.open().unwrap();
            drop(initiator.take(&message, &mut BTreeSet::new()));
        }
    }
}

#[test]
fn what_was_not_asked_for_ends_the_reconcile() {
    let items = |n: u8| vec![Item::new(entity(1), &Heads::new(vec![ChangeHash::from_bytes([n; 32])]))];
    let begun = || {
        let (mut reconciler, ask) = Reconciler::begin(items(1)).unwrap();
        let Ask::Sketch(sketch) = ask else { panic!("a sketch comes first") };
        let answer = answer_sketch(items(2), &sketch).unwrap();
        let step = reconciler.take(Reply::Sketch(answer)).unwrap();
        assert_eq!(step.then, Then::Ask(Ask::Heads(vec![entity(1)])));
        reconciler
    };
    let unasked = [
        Reply::Sketch(Vec::new()),
        Reply::Heads(Vec::new()),
        Reply::Heads(vec![Vec::new(), Vec::new()]),
        Reply::Changes { changes: Vec::new(), done: 1, skip: 0 },
    ];
    for reply in unasked {
        assert_eq!(begun().take(reply), Err(ReconcileError::Unasked));
    }
    assert_eq!(begun().take(Reply::TooMany), Err(SketchError::TooMany.into()));

    // A reply that brings nothing would be asked for again, for ever.
    let idle = [
        Reply::Changes { changes: Vec::new(), done: 0, skip: 0 },
        Reply::Changes { changes: Vec::new(), done: 0, skip: 1 },
        Reply::Changes { changes: Vec::new(), done: 1, skip: 1 },
        Reply::Changes { changes: Vec::new(), done: 2, skip: 0 },
    ];
    for reply in idle {
        let mut reconciler = begun();
        let step = reconciler.take(Reply::Heads(vec![vec![ChangeHash::from_bytes([2; 32])]])).unwrap();
        let Then::Compare(theirs) = step.then else { panic!("the store is asked") };
        let lacking = Some(vec![ChangeHash::from_bytes([1; 32])]);
        let compared = vec![anabranch_core::sync::reconcile::Compared { entity: theirs[0].entity, lacking }];
        assert!(matches!(reconciler.compared(compared).unwrap().then, Then::Ask(Ask::Changes { .. })));
        assert_eq!(reconciler.take(reply), Err(ReconcileError::Unasked));
    }
}

#[test]
fn a_message_that_is_too_long_is_not_looked_at() {
    assert_eq!(answer_sketch(Vec::new(), &vec![0; MAX_SKETCH_BYTES + 1]), Err(SketchError::TooLong));
}

#[test]
fn random_bytes_are_no_sketch() {
    let mut entropy = SplitMix64::new(1);
    for length in 0..2_000 {
        let mut bytes = vec![0; length % 200];
        entropy.fill(&mut bytes);
        // The version, so that more than the first byte is read.
        if let Some(first) = bytes.first_mut() {
            *first = 0x61;
        }
        drop(answer_sketch(vec![Item::new(entity(1), &Heads::default())], &bytes));
    }
}
