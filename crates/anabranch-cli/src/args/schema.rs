//! Schemas.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// `schema`.
#[derive(Debug, Subcommand)]
pub(crate) enum Schema {
    /// Tell what going from one schema to another does to data that is there.
    Diff(SchemaDiff),
    /// Bring a replica to a new version of its schema.
    Apply(SchemaApply),
}

/// `schema apply`.
#[derive(Debug, Args)]
pub(crate) struct SchemaApply {
    /// The replica.
    pub(crate) file: PathBuf,
    /// The new schema.
    #[arg(value_name = "SCHEMA.toml")]
    pub(crate) schema: PathBuf,
}

/// `schema diff`.
#[derive(Debug, Args)]
pub(crate) struct SchemaDiff {
    /// The schema before.
    #[arg(value_name = "OLD.toml")]
    pub(crate) old: PathBuf,
    /// The schema after.
    #[arg(value_name = "NEW.toml")]
    pub(crate) new: PathBuf,
}
