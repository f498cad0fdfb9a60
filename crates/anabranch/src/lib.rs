//! Offline-first replication: apps that work with no network and lose nothing.
//!
//! Every entity is a CRDT document; one SQLite file holds the change log, the outbox and a queryable view of
//! the current state, and they move together. Replicas sync through a server or straight with each other,
//! and always converge.
//!
//! ```
//! use anabranch::{Counter, Entity, Replica, Text, schema};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Entity, Serialize, Deserialize, Default)]
//! struct Note {
//!     title: String,      // a register: the last writer wins
//!     body: Text,         // merges by character
//!     stars: Counter,     // sums
//! }
//!
//! # fn main() -> Result<(), anabranch::Error> {
//! # let folder = tempfile::tempdir().expect("a temporary folder");
//! let phone = Replica::open(folder.path().join("phone.db"), schema![Note])?;
//! let laptop = Replica::open(folder.path().join("laptop.db"), schema![Note])?;
//!
//! let notes = phone.space("home")?.collection::<Note>();
//! let id = notes.create(Note { body: "milk".into(), ..Note::default() }).wait()?; // fsynced
//! phone.exchange(&laptop)?;
//!
//! // Apart, both edit the same note.
//! notes.edit(id, |note| note.body.push_str(", eggs")).wait()?;
//! let there = laptop.space("home")?.collection::<Note>();
//! let edit = there.edit(id, |note| {
//!     note.body.insert(0, "oat ");
//!     note.stars += 1;
//! });
//! edit.wait()?;
//!
//! phone.exchange(&laptop)?;
//! let note = there.get(id)?.expect("the note");
//! assert_eq!(note.body, "oat milk, eggs");
//! assert_eq!(note.stars, 1);
//! # Ok(())
//! # }
//! ```
//!
//! # The handles
//! - [`Replica`] is one open file: cheap to clone, `Send + Sync`. [`Space`] and [`Collection`] hang from it.
//! - **[`Entity`]** makes a struct a collection. The types of its fields say how they merge: [`Text`], [`Counter`],
//!   [`Set`], [`List`], [`Map`], [`Reference`]; every other type is a register. [`Space::untyped`] is the same with JSON.
//! - **Reads are synchronous** and never load a document. **Writes return a [`Commit`]**: started at once,
//!   resolved after the fsync, by `.await` or [`Commit::wait`].
//! - [`Watch`] gives the latest value, then coalesced changes: to be asked, awaited, streamed, or by a callback.
//! - [`TextSession`] puts a text field under an editor.
//! - [`Replica::sync`] pushes, pulls and follows a server; [`Replica::peer`] and [`Replica::exchange`] need none.
//!   [`Replica::status`] and [`Replica::events`] say how it stands.
//! - [`testing`] has a server in memory, a link with faults and a clock to set, for your own tests.
//!
//! No call needs an async runtime: the library runs its own thread for the event loop. Being offline is never
//! an error of a local call.

mod clone;
mod collection;
mod conflicts;
mod damage;
mod edits;
mod environment;
mod error;
mod events;
mod exchange;
mod history;
mod online;
mod outbox;
mod peer;
mod presence;
mod replica;
mod status;
mod sync;
pub mod testing;
pub mod text_index;
mod text_session;
mod transaction;
mod typed;
mod watch;

pub use anabranch_core::document::{
    Action, Contender, Contest, Explanation, FieldDiff, HistoryEntry, State, TextSplice,
};
pub use anabranch_core::document::{Edit, Path, Step};
pub use anabranch_core::sync::{
    Budget, Conditions, Deferral, ErrorClass, MAX_TRANSACTION_BYTES, MAX_TRANSACTION_CHANGES, PeerToken,
    PeerTokenError, Reason, Schedule, Trigger,
};
pub use anabranch_core::{
    ChangeHash, CollectionName, Digest, EntityId, Entropy, Environment, ErrorKind, FieldName, Heads, Lineage,
    ReplicaId, Rule, Schema, SchemaError, SpaceName, UnixMillis,
};
pub use anabranch_derive::Entity;
pub use anabranch_store::{
    Conflict, ConflictKind, ConflictValue, DamagedEntity, Difference, Discarded, EntityRecord, Finding, FirstRefusal,
    LogEntry, Loss, LostChange, LostFile, Mine, OutboxEntry, OutboxState, QueryRows, Repaired, Resend, StoreError,
    Unsent,
};
pub use collection::{Collection, Json, Space};
pub use conflicts::Choice;
pub use edits::Edits;
pub use environment::SystemEnvironment;
pub use error::Error;
pub use events::{Event, Events};
pub use exchange::Exchanged;
pub use peer::{Peer, PeerHandle, PeerListener, PeerReport};
pub use presence::{Presence, Present};
pub use replica::{OpenOptions, Replica};
pub use status::{FirstSyncProgress, Phase, Status};
pub use sync::{
    DifferingEntity, FarEnd, Link, LinkError, Sync, SyncHandle, SyncReport, Token, TokenError, TokenRequest, Transport,
    VerifyReport, WebSocket,
};
pub use text_session::{TextCursor, TextSession};
pub use transaction::Transaction;
#[doc(hidden)]
pub use typed::private as __private;
pub use typed::{Counter, Entity, List, Listed, Map, Part, Record, Reference, Set, Text};
pub use watch::{Subscription, Watch, WatchStream};

/// A write under way: resolves once it is fsynced, by `.await` or [`wait`](anabranch_store::Commit::wait).
pub type Commit<T> = anabranch_store::Commit<T, Error>;

/// Compiles and runs the README's example.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;

/// Compiles and runs the examples of the guides.
#[cfg(doctest)]
mod guides {
    #[doc = include_str!("../../../docs/src/backups.md")]
    struct Backups;
    #[doc = include_str!("../../../docs/src/conflicts.md")]
    struct Conflicts;
    #[doc = include_str!("../../../docs/src/evolving.md")]
    struct Evolving;
    #[doc = include_str!("../../../docs/src/history.md")]
    struct History;
    #[doc = include_str!("../../../docs/src/saved.md")]
    struct Saved;
    #[doc = include_str!("../../../docs/src/scheduling.md")]
    struct Scheduling;
    #[doc = include_str!("../../../docs/src/first-sync.md")]
    struct FirstSync;
    #[doc = include_str!("../../../docs/src/peers.md")]
    struct Peers;
}
