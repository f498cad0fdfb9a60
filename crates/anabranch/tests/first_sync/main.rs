//! First sync by segments: the same as replaying the log, wherever it is interrupted.

#[path = "../support/mod.rs"]
mod support;

mod fleet;
mod interrupted;
mod subsets;
mod whole;
