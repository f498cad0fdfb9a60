//! Sync as plain state machines: [`ClientSession`] and [`ServerSession`].
//!
//! Each takes an event and returns what to do. The driver commits the batch, *then* sends the messages, and
//! reports back; a machine advances only on what has been committed. Neither machine touches a socket, a
//! file or a clock.

mod append;
mod backoff;
mod class;
mod client;
mod cursor;
mod digest;
mod peering;
mod policy;
pub mod reconcile;
mod schedule;
mod server;
mod watchdog;

pub use append::{
    Added, AppendOutcome, Appended, LogIndex, LogRow, MAX_TRANSACTION_BYTES, MAX_TRANSACTION_CHANGES, Offered,
    Pushable, Unreadable, advance_heads, append, fits_transaction, next_chain,
};
pub use backoff::{Backoff, CIRCUIT_FAILURES, MAX_BACKOFF_MILLIS};
pub use class::ErrorClass;
pub use client::{
    Adopt, ClientConfig, ClientEvent, ClientSession, ClientStep, FirstSync, FirstSyncStep, Halt, LinkCommand, Look,
    MAX_PUSH_BYTES, MAX_PUSH_CHANGES, OutboxItem, OutboxRead, Reoffer, SegmentReply, SpaceProgress, SyncEvent,
    WriteBatch,
};
pub use cursor::seal_cursor;
pub use digest::SpaceDigest;
pub use peering::{
    Handshake, MAX_TOKEN_BYTES, MIN_TOKEN_BYTES, PeerRole, PeerSeal, PeerToken, PeerTokenError, SEAL_BYTES,
};
pub use policy::{MAX_BATCH_OPS, Quota, ROW_BYTES, Relay, Used, open_batch, stored_bytes};
pub use schedule::{
    Budget, Conditions, Decision, Deferral, MAX_RETRY_AFTER_MILLIS, Reason, Schedule, Scheduler, Situation, Trigger,
    Work, decide,
};
pub use server::{
    Access, Call, CallResult, LogPage, PAGE_BYTES, PAGE_CHANGES, ServerConfig, ServerEvent, ServerSession, ServerStep,
    Showing, WINDOW_PAGES,
};
pub use watchdog::{WATCHDOG_MILLIS, Watchdog};
