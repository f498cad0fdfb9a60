//! Deterministic simulation: whole fleets in one thread, from one seed.
//!
//! The code under test is real: the store's engine on real SQLite files, the session machines of client and
//! server, the wire format. What is simulated is everything around it: time, links, processes that die, clocks
//! that jump, disks that are replaced by older copies. A [`Fleet`] does one [`Op`] after the other; a
//! [`Run`] draws them from a seed, then ends all faults and demands that everyone agrees within bounded time.
//!
//! The checkers judge by a model of their own (sets of hashes, and who promised what): they read the files
//! with plain SQL, compute hashes, chains and sums, and settle contested values, deletions, rules and references
//! for themselves.
//!
//! Disks are tested alone: a [`Workload`] loses the power at every write and sync of a recording [`Disk`], and
//! [`survive_replica`] and [`survive_server`] play a day on one that fails.
//!
//! What is simulated, what is assumed, and what is not covered: `docs/src/testing.md`.

mod batch;
mod bug;
mod check;
mod client;
mod clock;
mod crash;
mod database;
mod decide;
mod dice;
mod disk;
mod exchange;
mod failure;
mod fault;
mod file;
mod fleet;
mod heal;
mod history;
mod hostile;
mod job;
mod liar;
mod log;
mod loss;
mod medium;
mod model;
mod op;
mod outage;
mod power;
mod run;
mod segments;
mod server;
mod shrink;
mod step;
mod storage;
mod stories;
mod subset;
mod trace;
mod trouble;
mod verdict;
mod workload;
mod write;

pub use batch::{find, run_all, set_up_process};
pub use bug::Bug;
pub use crash::Effort;
pub use dice::Dice;
pub use disk::{Access, Disk, Fault};
pub use failure::Failure;
pub use fleet::{Fleet, FleetOptions};
pub use op::Op;
pub use power::{Planted as PowerBug, PowerReport, Survived, Workload, survive_replica, survive_server};
pub use run::{Report, Run, STANDARD_STEPS};
pub use shrink::Keep;
pub use stories::Story;
pub mod fuzz;
