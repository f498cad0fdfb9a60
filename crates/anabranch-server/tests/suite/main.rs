//! The tests of the server from outside: every backend against the conformance suite, and a real server with
//! real sockets.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod authors;
mod changes;
mod client;
mod conformance;
mod full;
mod limits;
mod policies;
mod segments;
mod sqlite;
mod sync;
mod tokens;
