//! The outbox as a state machine, against a model of the store, of the network and of a server, under random faults:
//! never stuck, never out of order, never twice in flight, nothing accepted twice.

mod world;

use std::collections::BTreeSet;

use anabranch_core::sync::ClientEvent;
use proptest::prelude::*;
use world::{Mood, World};

#[derive(Clone, Copy, Debug)]
enum Happening {
    /// Something is written to an entity of a space.
    Write(usize, u8),
    /// The link that is being opened is there, or not.
    Connect(bool),
    /// The server takes in the next message.
    Serve(Mood),
    /// The next answer arrives.
    Deliver,
    /// The connection breaks; what is under way is lost.
    Cut,
    /// Something on the way finds the last push too large.
    TooLarge,
    /// The store looks into the outbox for the oldest read.
    Read,
    /// What it has found arrives; more may have been written meanwhile.
    Found,
    /// Time passes, or the clock is set back.
    Pass(i64),
    Suspend,
    Start,
    /// The process dies and begins again from what was stored.
    Restart,
}

fn happening() -> impl Strategy<Value = Happening> {
    let mood = prop_oneof![
        6 => Just(Mood::Takes),
        1 => Just(Mood::TakesAndBreaks),
        1 => any::<bool>().prop_map(Mood::Rejects),
        1 => Just(Mood::Holds),
        1 => Just(Mood::Unavailable),
    ];
    prop_oneof![
        6 => (0usize..2, 0u8..4).prop_map(|(space, entity)| Happening::Write(space, entity)),
        4 => prop::bool::weighted(0.8).prop_map(Happening::Connect),
        8 => mood.prop_map(Happening::Serve),
        8 => Just(Happening::Deliver),
        1 => Just(Happening::Cut),
        1 => Just(Happening::TooLarge),
        8 => Just(Happening::Read),
        8 => Just(Happening::Found),
        4 => (-100_000_000i64..400_000).prop_map(Happening::Pass),
        1 => Just(Happening::Suspend),
        2 => Just(Happening::Start),
        1 => Just(Happening::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn g07_the_outbox_is_never_stuck_never_out_of_order_and_never_twice_in_flight(
        seed: u64,
        happenings in prop::collection::vec(happening(), 0..250),
    ) {
        let mut world = World::new(seed);
        for happening in happenings {
            world.happen(happening);
            if world.is_pending() && !world.is_under_way() && !world.suspended {
                prop_assert!(world.deadline.is_some(), "no next attempt after {:?}", happening);
            }
        }
        world.handle(ClientEvent::Start);
        world.heal();
        for log in &world.log {
            let once: BTreeSet<_> = log.iter().collect();
            prop_assert_eq!(once.len(), log.len(), "something was stored twice");
        }
        let sent: usize = world.log.iter().map(Vec::len).sum();
        let written = usize::try_from(world.next_key - 1).expect("small");
        prop_assert!(sent + world.outbox.len() >= written, "something is nowhere");
    }
}
