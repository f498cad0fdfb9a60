//! The pure heart of Anabranch: no IO, no clock, no randomness of its own.
//!
//! What is here: [ids](EntityId) and [names](SpaceName), the [hybrid logical clock](Clock), the [`Schema`],
//! [documents](document) (the one place that knows Automerge), [changes as bytes](Change), the
//! [wire format](wire), and the [sync state machines](sync) of client and server.
//!
//! What is deliberately absent: sockets, files, threads, clocks, operating-system randomness. A driver
//! passes `(now, entropy, event)` to a state machine, commits the one batch it returns, and then sends the
//! messages it returns. That is what lets a simulator run a whole fleet in one thread.

mod change;
pub mod document;
mod environment;
mod error;
mod id;
mod name;
#[cfg(feature = "planted")]
pub mod planted;
mod schema;
pub mod segment;
mod stamp;
pub mod sync;
pub mod wire;

pub use change::{
    Change, ChangeError, MAX_CHANGE_BYTES, MAX_CHANGE_OPS, MAX_CHANGE_PREDECESSORS, MAX_DEPENDENCIES, MAX_DEPTH,
    MAX_KEY_BYTES, MAX_KEYS_BYTES, MAX_MESSAGE_BYTES, MAX_OP, MAX_OTHER_ACTORS, Rewrite,
};
pub use environment::{Entropy, Environment, SplitMix64, UnixMillis};
pub use error::ErrorKind;
pub use id::{Actor, ChangeHash, Digest, EntityId, Heads, Lineage, ParseIdError, ReplicaId, TransactionId};
pub use name::{CollectionName, FieldName, MAX_NAME_BYTES, NameError, RESERVED_COLLECTIONS, SpaceName};
pub use schema::{
    Check, Collection, CustomCheck, CustomPolicy, Deletion, Effect, Field, Functions, Kind, Lens, MAX_COLLECTIONS,
    MAX_FIELDS, MAX_PATTERN_BYTES, OnDelete, Policy, Rule, Rules, Schema, SchemaChange, SchemaError, Settle, ValueType,
};
pub use stamp::{Clock, ClockSkew, MAX_DRIFT_MILLIS, Stamp};
