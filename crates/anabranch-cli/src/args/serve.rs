//! The server, and tokens for it.

use std::net::SocketAddr;
use std::path::PathBuf;

use anabranch_server::{PatternError, Rights, SpacePattern, TokenError};
use clap::Args;

/// `serve`.
#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// Where the server keeps its data.
    #[arg(default_value = "./anabranch-data")]
    pub(crate) dir: PathBuf,
    /// The address to listen on; port 0 takes any free one.
    #[arg(long, default_value = "127.0.0.1:7700", value_name = "ADDR")]
    pub(crate) listen: SocketAddr,
    /// Ask for bearer tokens that are signed with the secret in this file (HS256, at least 32 bytes).
    #[arg(long, value_name = "FILE")]
    pub(crate) auth_secret_file: Option<PathBuf>,
    /// Take only tokens for this audience.
    #[arg(long, value_name = "NAME", requires = "auth_secret_file")]
    pub(crate) auth_audience: Option<String>,
    /// Listen on an address that other machines reach, although everyone may read and write everything.
    #[arg(long)]
    pub(crate) allow_public_without_auth: bool,
    /// Spaces to which a replica brings its own changes only, like `home` or `team:*`; may be given again.
    #[arg(long, value_name = "SPACES")]
    pub(crate) relay_own: Vec<SpacePattern>,
    /// How many connections at the same time.
    #[arg(long, default_value_t = 4_096, value_name = "N")]
    pub(crate) max_connections: u32,
    /// How many from one address; behind a proxy, as many as in all.
    #[arg(long, default_value_t = 512, value_name = "N")]
    pub(crate) max_connections_per_address: u32,
    /// What all sessions together may hold in memory, in MiB.
    #[arg(long, default_value_t = 512, value_name = "MIB")]
    pub(crate) max_memory: u32,
    /// How much is kept of one entity, in MiB.
    #[arg(long, default_value_t = 256, value_name = "MIB")]
    pub(crate) quota_entity: u32,
    /// How much is kept of one space, in MiB.
    #[arg(long, default_value_t = 8_192, value_name = "MIB")]
    pub(crate) quota_space: u32,
    /// How much is kept of what one principal pushes, in MiB.
    #[arg(long, default_value_t = 32_768, value_name = "MIB")]
    pub(crate) quota_principal: u32,
}

/// `token`.
#[derive(Debug, Args)]
pub(crate) struct Token {
    /// The file with the secret, as the server has it.
    #[arg(long, value_name = "FILE")]
    pub(crate) secret_file: PathBuf,
    /// What may be done where, like `home:rw` or `team:*:r`; may be given again.
    #[arg(long = "space", value_name = "SPACES:RIGHTS", required = true, value_parser = grant)]
    pub(crate) spaces: Vec<(SpacePattern, Rights)>,
    /// How long it is good: `90s`, `15m`, `1h`, `30d`.
    #[arg(long, default_value = "1h", value_parser = seconds)]
    pub(crate) ttl: u64,
    /// Whom it is for: whose quotas and rates count.
    #[arg(long, default_value = "dev", value_name = "NAME")]
    pub(crate) subject: String,
    /// Which audience it is for.
    #[arg(long, value_name = "NAME")]
    pub(crate) audience: Option<String>,
}

fn grant(text: &str) -> Result<(SpacePattern, Rights), String> {
    // A space's name may hold colons; its rights do not.
    let (space, rights) = text.rsplit_once(':').ok_or("it is written SPACES:RIGHTS, like home:rw")?;
    let space = space.parse().map_err(|error: PatternError| error.to_string())?;
    Ok((space, rights.parse().map_err(|error: TokenError| error.to_string())?))
}

fn seconds(text: &str) -> Result<u64, String> {
    let how = || "a time is written like 90s, 15m, 1h or 30d".to_owned();
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(how)?;
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(how()),
    };
    let seconds = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    seconds.filter(|seconds| (1..=100 * 365 * 86_400).contains(seconds)).ok_or_else(how)
}
