//! For applications' own tests: a clock to set, a server in memory, and a link that fails when it is told to.
//!
//! ```
//! use anabranch::testing::{Clock, Server};
//! use anabranch::{Replica, Schema};
//! use std::time::Duration;
//!
//! # fn main() -> Result<(), anabranch::Error> {
//! # let folder = tempfile::tempdir().expect("a temporary folder");
//! # let schema = Schema::from_toml("version = 1\n[collections.notes.fields]\ntitle = { kind = \"register\" }")?;
//! let clock = Clock::at(1_750_000_000_000);
//! let server = Server::new(&clock);
//! let link = server.link();
//! let phone = Replica::at(folder.path().join("phone.db")).environment(clock.environment()).open_or_create(schema)?;
//! phone.space("home")?.untyped("notes")?.create(serde_json::json!({ "title": "Lunch" })).wait()?;
//!
//! link.go_offline();
//! let sync = phone.sync("memory:").transport(link.clone()).start()?;
//! assert_eq!(phone.status()?.pending, 1); // safe here, and nowhere else yet
//!
//! link.go_online();
//! sync.retry_now();
//! sync.caught_up().wait()?;
//! assert_eq!(phone.status()?.pending, 0);
//! assert!(server.changes("home") > 0);
//! # Ok(())
//! # }
//! ```

mod clock;
mod link;
mod server;

pub use clock::Clock;
pub use link::{Faults, Link};
pub use server::{Refusal, Server, Snapshot};
