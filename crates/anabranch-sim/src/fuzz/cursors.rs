//! Cursors as clients send them: opaque to them, and so anything.

use anabranch_core::sync::{Call, ServerConfig, ServerEvent, ServerSession, ServerStep, seal_cursor};
use anabranch_core::wire::{ClientMessage, Cursor, Limits, MAX_CURSOR_BYTES, Mark, Pull, ServerMessage};
use anabranch_core::{Digest, Lineage, SpaceName};

use super::honest::{self, LINEAGE};
use super::{Everything, Input, altered};

/// Pulls from a cursor that is these bytes, or an honest one altered by them.
///
/// # Panics
/// If the session neither reads from the place that the cursor names, nor says that it does not know it: that is what
/// the fuzzer looks for.
pub fn cursor_decode(bytes: &[u8]) {
    let mut input = Input(bytes);
    let home = honest::space("home");
    let cursor = match input.next() % 4 {
        0 => Cursor(input.0.to_vec()),
        kind => Cursor(altered(honest_cursor(kind, &home, &mut input).0, &mut input)),
    };
    let from_log = pulled(&home, &cursor, false);
    let from_segments = pulled(&home, &cursor, true);
    assert_eq!(from_log, from_segments, "both ways look at a cursor alike");
    if let Some(mark) = from_log {
        assert!(cursor.0.len() <= MAX_CURSOR_BYTES, "a client could not store it");
        // What was read is what is written, however it was written before.
        assert_eq!(pulled(&home, &seal_cursor(LINEAGE, &home, mark), false), Some(mark));
    }
}

/// A cursor of this server, of another, or of another space.
fn honest_cursor(kind: u8, home: &SpaceName, input: &mut Input<'_>) -> Cursor {
    let mark = Mark { seq: u64::from(input.next()) << (8 * (input.next() % 8)), chain: Digest::of(&[input.next()]) };
    match kind {
        1 => seal_cursor(LINEAGE, home, mark),
        2 => seal_cursor(Lineage::from_bytes([8; 16]), home, mark),
        _ => seal_cursor(LINEAGE, &honest::space("work"), mark),
    }
}

/// Where a pull with this cursor starts; `None` if the server does not know it.
fn pulled(home: &SpaceName, cursor: &Cursor, segments: bool) -> Option<Mark> {
    let limits = Limits { push_changes: 1, push_bytes: 1 };
    let mut session = ServerSession::new(ServerConfig { lineage: LINEAGE, empty: false, limits });
    let hello = ClientMessage::Hello(honest::hello(1, Some(LINEAGE)));
    session.handle(0, &Everything, ServerEvent::Message(hello));
    let pull = Pull { segments, ..Pull::all(home.clone(), Some(cursor.clone()), None) };
    let ServerStep { calls, send, close, .. } =
        session.handle(0, &Everything, ServerEvent::Message(ClientMessage::Pull(pull)));
    assert!(!close, "a wrong cursor ends no session");
    match (&calls[..], &send[..]) {
        ([], [ServerMessage::CursorUnknown { space }]) if space == home => None,
        ([Call::Read { after, check, .. }], []) => {
            // The chain of every place but the beginning is looked at.
            assert_eq!(check.contains(after), after.seq > 0);
            // The beginning has no chain that could be wrong.
            Some(if after.seq > 0 { *after } else { Mark::START })
        }
        ([Call::Manifest { check, .. }], []) => Some(check.first().copied().unwrap_or(Mark::START)),
        other => panic!("a pull was answered by {other:?}"),
    }
}
