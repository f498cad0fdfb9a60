//! The wire format: [messages](ClientMessage) and the [frames](encode) that carry them.
//!
//! One frame carries one message: two bytes of magic, a version, flags, the length of the body, a checksum, and
//! the body itself, a bincode 2 value that may be deflated. Every size has a bound; nothing on the wire is
//! recursive.
//! The byte-for-byte layout is documented in `docs/src/wire-format.md`.

mod codec;
mod message;
mod peer;

pub use codec::{
    DecodeError, EncodeError, HEADER_BYTES, MAX_FRAME_BYTES, PROTOCOL_VERSION, body_length, decode, encode, split,
};
pub use message::{
    Answer, Ask, ClientMessage, Cursor, Envelope, Hello, Limits, MAX_CURSOR_BYTES, MAX_PRESENCE_BYTES,
    MAX_PULL_COLLECTIONS, Mark, Missing, Pull, Push, Pushed, RefusalCode, RejectCode, Reply, ServerMessage, Wanted,
    Welcome,
};
pub use peer::{PeerHello, PeerMessage};
