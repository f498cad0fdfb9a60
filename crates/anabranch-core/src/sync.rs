//! Sync as plain state machines: [`ClientSession`] and [`ServerSession`].
//!
//! Each takes an event and returns what to do. The driver commits the batch, *then* sends the messages, and
//! reports back; a machine advances only on what has been committed. Neither machine touches a socket, a
//! file or a clock.

mod append;
mod backoff;
mod client;
mod cursor;
mod digest;
mod policy;
mod server;

pub use append::{
    Added, Appended, LogIndex, LogRow, MAX_TRANSACTION_BYTES, MAX_TRANSACTION_CHANGES, Offered, Pushable, Unreadable,
    advance_heads, append, fits_transaction, next_chain,
};
pub use backoff::{Backoff, MAX_BACKOFF_MILLIS};
pub use client::{
    ClientConfig, ClientEvent, ClientSession, ClientStep, Halt, LinkCommand, MAX_PUSH_BYTES, MAX_PUSH_CHANGES,
    OutboxItem, OutboxRead, Reoffer, SpaceProgress, SyncEvent, WriteBatch,
};
pub use digest::SpaceDigest;
pub use policy::{MAX_BATCH_OPS, Quota, ROW_BYTES, Relay, Used, open_batch, stored_bytes};
pub use server::{
    Access, Call, CallResult, LogPage, PAGE_BYTES, PAGE_CHANGES, ServerConfig, ServerEvent, ServerSession, ServerStep,
    Showing, WINDOW_PAGES,
};
