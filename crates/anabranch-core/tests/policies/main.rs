//! What concurrent writes come to: every policy on every kind of slot, in every order of arrival, against an
//! oracle of its own; and what a person can do about it.

#![expect(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]

mod deletion;
mod merging;
mod oracle;
mod resolving;
mod support;
mod table;
mod write_once;
