//! The client's session under a clock that cannot be relied on.

use anabranch_core::sync::{ClientConfig, ClientEvent, ClientSession, LinkCommand, MAX_BACKOFF_MILLIS};
use anabranch_core::{Actor, ReplicaId, SplitMix64};

/// Found by simulation: the clock was ten years ahead when the connection failed, and was put right; the next
/// attempt was ten years away.
#[test]
fn a_clock_that_is_set_back_does_not_put_off_the_next_attempt() {
    let (now, years) = (1_800_000_000_000, 10 * 365 * 24 * 60 * 60 * 1_000);
    let mut entropy = SplitMix64::new(1);
    let config = ClientConfig {
        replica: ReplicaId::mint(now, &mut entropy),
        actor: Actor::mint(&mut entropy),
        schema_version: 1,
    };
    let mut session = ClientSession::new(config, None, Vec::new(), 20);
    drop(session.handle(now + years, &mut entropy, ClientEvent::Start));
    let lost = ClientEvent::Disconnected { reason: "gone".to_owned(), retry_after_millis: None };
    let wait = session.handle(now + years, &mut entropy, lost).deadline.expect("a wait") - (now + years);
    let put_right = session.handle(now, &mut entropy, ClientEvent::Timer).deadline.expect("a wait");
    assert_eq!(put_right - now, wait);
    assert!(wait <= MAX_BACKOFF_MILLIS);
    assert_eq!(session.handle(put_right, &mut entropy, ClientEvent::Timer).link, Some(LinkCommand::Open));
}
