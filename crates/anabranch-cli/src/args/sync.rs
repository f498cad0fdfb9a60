//! What goes between a replica and its server.

use std::path::PathBuf;

use clap::Args;

use super::InSpace;
use crate::error::CliError;

/// `--token-env`.
#[derive(Debug, Args)]
pub(crate) struct ServerToken {
    /// Sign in with the token in this environment variable.
    #[arg(long, value_name = "NAME")]
    pub(crate) token_env: Option<String>,
}

/// `sync`.
#[derive(Debug, Args)]
pub(crate) struct Sync {
    /// The replica.
    pub(crate) file: PathBuf,
    /// The server, like `http://127.0.0.1:7700`; the one of the last time by default.
    pub(crate) url: Option<String>,
    /// The server, too.
    #[arg(long, value_name = "URL", conflicts_with = "url")]
    pub(crate) server: Option<String>,
    /// Go on with the server even if its history is not the one synced with before: exchange what each side lacks.
    #[arg(long)]
    pub(crate) adopt: bool,
    /// Go on until ctrl-c: push and pull changes as they come, and print every change of the status.
    #[arg(long)]
    pub(crate) watch: bool,
    /// How long to try.
    #[arg(long, default_value_t = 300, value_name = "SECONDS", conflicts_with = "watch")]
    pub(crate) timeout: u32,
    /// Only these collections, from now on; `all` for all of them again.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub(crate) collections: Vec<String>,
    #[command(flatten)]
    pub(crate) token: ServerToken,
    #[command(flatten)]
    pub(crate) space: InSpace,
}

/// `verify`.
#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// The replica.
    pub(crate) file: PathBuf,
    /// The server, like `http://127.0.0.1:7700`; the one of the last sync by default.
    #[arg(long, value_name = "URL")]
    pub(crate) server: Option<String>,
    /// How long to try.
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    pub(crate) timeout: u32,
    #[command(flatten)]
    pub(crate) token: ServerToken,
}

/// `status`.
#[derive(Debug, Args)]
pub(crate) struct Status {
    /// The replica.
    pub(crate) file: PathBuf,
}

/// `outbox`.
#[derive(Debug, Args)]
pub(crate) struct Outbox {
    /// The replica.
    pub(crate) file: PathBuf,
    /// Only what the server has refused.
    #[arg(long)]
    pub(crate) refused: bool,
    /// How many changes at most.
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub(crate) limit: u32,
}

/// `resend`.
#[derive(Debug, Args)]
pub(crate) struct Resend {
    /// The replica.
    pub(crate) file: PathBuf,
    /// A change, as `outbox` prints it, or an entity, or the beginning of either; everything by default.
    pub(crate) id: Option<String>,
}

/// `discard`.
#[derive(Debug, Args)]
pub(crate) struct Discard {
    /// The replica.
    pub(crate) file: PathBuf,
    /// A change, as `outbox` prints it, or an entity for all that was refused of it, or the beginning of either.
    pub(crate) id: String,
}

/// `clone`.
#[derive(Debug, Args)]
pub(crate) struct Clone {
    /// The server, like `http://127.0.0.1:7700`.
    pub(crate) url: String,
    /// The new replica's file.
    pub(crate) file: PathBuf,
    /// How long to try.
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    pub(crate) timeout: u32,
    #[command(flatten)]
    pub(crate) token: ServerToken,
    #[command(flatten)]
    pub(crate) space: InSpace,
}

impl ServerToken {
    /// The token; `None` if no variable is named.
    pub(crate) fn read(&self) -> Result<Option<String>, CliError> {
        let unset = |name: &String| CliError::Usage(format!("the environment has no {name}"));
        self.token_env.as_ref().map(|name| std::env::var(name).map_err(|_| unset(name))).transpose()
    }
}
