//! Entities as structs: what an edit writes, what merges, and what a schema is made of.

#[path = "../support/mod.rs"]
mod support;

mod defaults;
mod edits;
mod entities;
mod fields;
mod listing;
mod merging;
mod schema;
