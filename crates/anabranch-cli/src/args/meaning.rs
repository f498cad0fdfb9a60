//! What is contested, and what has been.

use std::path::PathBuf;

use clap::Args;

use super::InSpace;

/// `conflicts`.
#[derive(Debug, Args)]
pub(crate) struct Conflicts {
    /// The replica.
    pub(crate) file: PathBuf,
    /// One entity only, with what a policy has settled: its id, or the beginning of it.
    pub(crate) id: Option<String>,
    /// How many at most.
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub(crate) limit: u32,
    #[command(flatten)]
    pub(crate) space: InSpace,
}

/// `resolve`.
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("choice").required(true)))]
pub(crate) struct Resolve {
    /// The replica.
    pub(crate) file: PathBuf,
    /// The entity: its id, or the beginning of it.
    pub(crate) id: String,
    /// The field, with the path into it, as `conflicts` prints it.
    pub(crate) field: String,
    /// Take the value of this number, as `conflicts` prints it.
    #[arg(long, value_name = "N", group = "choice")]
    pub(crate) take: Option<usize>,
    /// Take another value: text.
    #[arg(long, value_name = "TEXT", group = "choice")]
    pub(crate) value: Option<String>,
    /// Take another value: JSON.
    #[arg(long, value_name = "JSON", group = "choice")]
    pub(crate) json_value: Option<String>,
    #[command(flatten)]
    pub(crate) space: InSpace,
}

/// `why`.
#[derive(Debug, Args)]
pub(crate) struct Why {
    /// The replica.
    pub(crate) file: PathBuf,
    /// The entity: its id, or the beginning of it.
    pub(crate) id: String,
    /// The field.
    pub(crate) field: String,
    #[command(flatten)]
    pub(crate) space: InSpace,
}

/// `history`.
#[derive(Debug, Args)]
pub(crate) struct History {
    /// The replica.
    pub(crate) file: PathBuf,
    /// The entity: its id, or the beginning of it.
    pub(crate) id: String,
    /// How many changes at most.
    #[arg(long, default_value_t = 50, value_name = "N")]
    pub(crate) limit: usize,
    #[command(flatten)]
    pub(crate) space: InSpace,
}

/// `diff`.
#[derive(Debug, Args)]
pub(crate) struct Diff {
    /// The replica.
    pub(crate) file: PathBuf,
    /// The entity: its id, or the beginning of it.
    pub(crate) id: String,
    /// From right after this change, as `history` prints it; by default, from before the newest one.
    pub(crate) from: Option<String>,
    /// To right after this change; by default, to now.
    pub(crate) to: Option<String>,
    #[command(flatten)]
    pub(crate) space: InSpace,
}
