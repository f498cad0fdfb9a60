//! Replicas that sync with each other.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};

/// `peer`.
#[derive(Debug, Subcommand)]
pub(crate) enum Peer {
    /// Listen for replicas that dial, and answer them until ctrl-c.
    Listen(PeerListen),
    /// Exchange changes with a replica that listens, both ways.
    Dial(PeerDial),
}

/// What peers share.
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("token").required(true)))]
pub(crate) struct PeerToken {
    /// The file that holds the token: a long random text, the same for both. White space around it does not count.
    #[arg(long, value_name = "FILE", group = "token")]
    pub(crate) token_file: Option<PathBuf>,
    /// The environment variable that holds it.
    #[arg(long, value_name = "NAME", group = "token")]
    pub(crate) token_env: Option<String>,
    /// Exchange this space only; may be given several times. All spaces by default.
    #[arg(long = "space", value_name = "NAME")]
    pub(crate) spaces: Vec<String>,
}

/// `peer listen`.
#[derive(Debug, Args)]
pub(crate) struct PeerListen {
    /// The replica.
    pub(crate) file: PathBuf,
    /// The address to listen on; port 0 takes any free one.
    #[arg(long, default_value = "127.0.0.1:7701", value_name = "ADDR")]
    pub(crate) addr: SocketAddr,
    /// Stop after the first session.
    #[arg(long)]
    pub(crate) once: bool,
    #[command(flatten)]
    pub(crate) token: PeerToken,
}

/// `peer dial`.
#[derive(Debug, Args)]
pub(crate) struct PeerDial {
    /// The replica.
    pub(crate) file: PathBuf,
    /// Where the other listens, like `192.168.1.20:7701`.
    #[arg(value_name = "HOST:PORT")]
    pub(crate) address: String,
    /// Go on until ctrl-c, or until the connection breaks: exchange changes as they come.
    #[arg(long)]
    pub(crate) watch: bool,
    /// How long to try.
    #[arg(long, default_value_t = 300, value_name = "SECONDS", conflicts_with = "watch")]
    pub(crate) timeout: u32,
    #[command(flatten)]
    pub(crate) token: PeerToken,
}
