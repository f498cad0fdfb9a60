//! The replica's store: change log, entities, outbox and sync state in one SQLite file.
//!
//! Data comes in through one writer thread, which owns the write connection and shares one fsync between all
//! writes that wait for it ([`Store::write`]). Reads have connections of their own and never load a document
//! ([`Store::read`]).
//!
//! What is deliberately absent: the network, an async runtime, a storage trait. The client's store *is*
//! SQLite, and any SQLite tool can read its views. For simulations the same code runs without the thread:
//! [`Engine`].

mod aside;
mod attempts;
mod cache;
mod check;
mod commit;
mod compaction;
mod conflicts;
mod damage;
mod declined;
mod delete;
mod engine;
mod error;
mod file;
mod first_sync;
mod handover;
mod history;
mod local;
mod local_only;
mod log;
mod outbox;
mod read;
mod receive;
mod reconcile;
mod repair;
mod rewrite;
mod rows;
mod seal;
mod sign_out;
mod store;
mod subset;
mod sync_lock;
mod transaction;
mod unchecked;
mod views;
mod wal;
mod witness;

pub use aside::{
    MAX_ALL_ORPHANS, MAX_ORPHAN_BYTES, MAX_ORPHAN_MILLIS, MAX_ORPHANS, MAX_QUARANTINED, MAX_QUARANTINED_BYTES,
};
pub use attempts::{Attempt, FirstRefusal, Unsent};
pub use cache::EntityKey;
pub use check::{Finding, check};
pub use commit::{Commit, Promise};
pub use conflicts::{Conflict, ConflictKind, ConflictValue};
pub use damage::{DamagedEntity, LostChange};
pub use declined::Declined;
pub use delete::MAX_CASCADE;
pub use engine::{Committed, Engine, Job, Stats, Touched, Undo, Write};
pub use error::{QuarantineReason, StoreError};
pub use handover::{BATCH_BYTES, BATCH_CHANGES, Handover, Lacked, MOST_BATCHES_AT_ONCE};
pub use history::Mine;
pub use outbox::{Discarded, OutboxEntry, OutboxPage, OutboxState, Resend};
pub use read::{EntityRecord, FirstSyncTotals, LogEntry, QueryRows, Read, RemoteState, Totals};
pub use receive::Received;
pub use reconcile::Difference;
pub use repair::{Repaired, repair};
pub use rows::{Origin, RemoteKey};
pub use store::{OpenMode, Store};
pub use sync_lock::SyncLock;
pub use witness::{Loss, LostFile};
