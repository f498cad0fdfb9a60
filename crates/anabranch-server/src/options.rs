//! What a server can be told, and the limits it always keeps.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::sync::{MAX_PUSH_BYTES, MAX_PUSH_CHANGES, PAGE_BYTES, PAGE_CHANGES, Quota, Relay};
use anabranch_core::wire::{HEADER_BYTES, Limits, MAX_FRAME_BYTES};
use anabranch_core::{Environment, SpaceName};

use crate::access::{Authorizer, SpacePattern};
use crate::backend::PageBudget;
use crate::environment::SystemEnvironment;
use crate::error::ServerError;
use crate::rate::Rates;
use crate::segments::SegmentOptions;

/// The largest frame with its header: the largest message of a WebSocket.
pub(crate) const MAX_MESSAGE_BYTES: usize = MAX_FRAME_BYTES + HEADER_BYTES;
/// The largest body of a `POST`.
pub(crate) const MAX_BODY_BYTES: usize = 2 * MAX_MESSAGE_BYTES;
/// How long a request's headers may take, and how long a connection may wait between two requests.
pub(crate) const HEADER_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a request's body may take.
pub(crate) const BODY_TIMEOUT: Duration = Duration::from_secs(60);
/// The largest head of a request.
pub(crate) const MAX_HEAD_BYTES: usize = 32 << 10;
/// How long an [`Authorizer`] may take.
pub(crate) const AUTHORIZE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may take from the upgrade to its first message. A sign of life is not enough.
pub(crate) const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a message that is larger than [`FREE_BYTES`] may be on its way. It is looked at with every sign of life,
/// and at least every [`IDLE_TIMEOUT`].
pub(crate) const MESSAGE_TIMEOUT: Duration = Duration::from_secs(30);
/// What each connection may receive ahead of what is made use of, without taking from the shared memory.
pub(crate) const FREE_BYTES: usize = 64 << 10;
/// How long a session waits for its part of the shared memory.
pub(crate) const MEMORY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long whoever looks through all of a space waits for the turn.
pub(crate) const SCAN_TIMEOUT: Duration = Duration::from_secs(30);
/// As how many messages one counts that makes the server look through a space: a question of a reconcile.
pub(crate) const SCAN_MESSAGES: usize = 10;
/// What a pushed change takes in memory, beside its bytes, while it is stored.
pub(crate) const CHANGE_BYTES: usize = 1 << 10;
/// A session looks at its rights this often, whatever happens.
pub(crate) const RIGHTS_CHECK: Duration = Duration::from_secs(30);
/// Whoever has too many sessions may try again after this long.
pub(crate) const SESSIONS_RETRY: Duration = Duration::from_secs(4);
/// A peer that does not take a message for this long is gone.
pub(crate) const SEND_TIMEOUT: Duration = Duration::from_secs(30);
/// A silent peer is asked for a sign of life after this long,
pub(crate) const PING_AFTER: Duration = Duration::from_secs(30);
/// and is gone after this long.
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// Signs of life (pings and pongs) that a peer may give in [`PING_AFTER`].
pub(crate) const MAX_SIGNS: u32 = 100;
/// How long a peer may take to answer the end of a session.
pub(crate) const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long sessions may take to finish what they are doing when the server stops.
pub(crate) const SHUTDOWN_GRACE: Duration = Duration::from_secs(10);
/// How long to wait when no connection can be accepted (no more file descriptors, for instance).
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// A WebSocket's buffers. The library's own defaults cost 128 KiB a connection.
pub(crate) const SOCKET_BUFFER_BYTES: usize = 8 << 10;
/// What may wait to be written to a WebSocket: one message. The next one waits for it.
pub(crate) const MAX_SOCKET_BACKLOG_BYTES: usize = MAX_MESSAGE_BYTES + (64 << 10);

/// The highest settings that keep every page of changes, whole transactions and all, within a frame.
const MOST: Limits = Limits { push_changes: 4_000, push_bytes: 1 << 20 };
const MOST_CONNECTIONS: u32 = 1 << 20;
/// Less would not do for the largest page and the largest segment: one principal has an eighth of it for those.
const LEAST_MEMORY: usize = 32 << 20;

/// The relay policies of the spaces.
#[derive(Debug)]
pub(crate) struct Relays(pub(crate) Vec<SpacePattern>);

impl Relays {
    pub(crate) fn of(&self, space: &SpaceName) -> Relay {
        if self.0.iter().any(|own| own.covers(space)) { Relay::Own } else { Relay::Members }
    }
}

/// How a server runs.
///
/// ```
/// use anabranch_server::ServerOptions;
/// let options = ServerOptions { max_connections: 100, ..ServerOptions::default() };
/// ```
pub struct ServerOptions {
    /// Says who may do what. `None` (the default): everyone may do everything, and the server listens on
    /// loopback addresses only.
    pub authorizer: Option<Arc<dyn Authorizer>>,
    /// Listen on any address although everyone may do everything.
    pub allow_public_without_auth: bool,
    /// Without `authorizer`, requests of web pages (those with an `Origin` header) are refused unless their
    /// origin is listed here, like `https://app.example`: else every page that a browser on this machine
    /// opens could read and write everything.
    pub allowed_origins: Vec<String>,
    /// What is taken in one push: at most 4,000 changes and 1 MiB. A single change, or a single transaction, is
    /// taken even if it is larger than this.
    pub limits: Limits,
    /// What is sent in one page of changes: at most 4,000 changes and 1 MiB. A single change, or a single
    /// transaction, is sent even if it is larger than this.
    pub page: PageBudget,
    /// Connections at the same time, sessions included; whoever comes later waits.
    pub max_connections: u32,
    /// How the segments of first syncs are built and kept.
    pub segments: SegmentOptions,
    /// Connections from one IPv4 address, or one IPv6 network of 64 bits; whoever comes later is cut off. Behind a proxy
    /// all come from one.
    pub max_connections_per_address: u32,
    /// Sessions of one principal at the same time, where it is known who that is; one more is answered 429.
    pub max_sessions_per_principal: u32,
    /// What all sessions together may hold of what they receive, store and send, in bytes: at least 32 MiB. Beside it a
    /// connection takes about 100 KiB, and a session that makes the most of its limits 2 MiB.
    pub max_memory: usize,
    /// How much is kept of an entity, of a space, and of what one principal pushes.
    pub quota: Quota,
    /// How much one principal, and one space, may ask for in a time.
    pub rates: Rates,
    /// The spaces to which a session brings the changes of its own replica only ([`Relay::Own`]). In all others, any
    /// writer may bring any member's changes.
    pub relay_own: Vec<SpacePattern>,
    /// Where the time comes from.
    pub environment: Box<dyn Environment>,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            authorizer: None,
            allow_public_without_auth: false,
            allowed_origins: Vec::new(),
            limits: Limits { push_changes: MAX_PUSH_CHANGES, push_bytes: MAX_PUSH_BYTES },
            page: PageBudget { bytes: PAGE_BYTES, changes: PAGE_CHANGES },
            max_connections: 4_096,
            segments: SegmentOptions::default(),
            max_connections_per_address: 512,
            max_sessions_per_principal: 128,
            max_memory: 512 << 20,
            quota: Quota::default(),
            rates: Rates::default(),
            relay_own: Vec::new(),
            environment: Box::new(SystemEnvironment),
        }
    }
}

impl fmt::Debug for ServerOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerOptions")
            .field("authorizer", &self.authorizer.is_some())
            .field("allow_public_without_auth", &self.allow_public_without_auth)
            .field("allowed_origins", &self.allowed_origins)
            .field("limits", &self.limits)
            .field("page", &self.page)
            .field("max_connections", &self.max_connections)
            .field("segments", &self.segments)
            .field("max_connections_per_address", &self.max_connections_per_address)
            .field("max_sessions_per_principal", &self.max_sessions_per_principal)
            .field("max_memory", &self.max_memory)
            .field("quota", &self.quota)
            .field("rates", &self.rates)
            .field("relay_own", &self.relay_own)
            .finish_non_exhaustive()
    }
}

impl ServerOptions {
    pub(crate) fn check(&self, address: SocketAddr) -> Result<(), ServerError> {
        let local = address.ip().to_canonical().is_loopback();
        if !local && self.authorizer.is_none() && !self.allow_public_without_auth {
            return Err(ServerError::PublicWithoutAuth(address));
        }
        let within = |option, must_be, value: u32, most| {
            if (1..=most).contains(&value) { Ok(()) } else { Err(ServerError::Option { option, must_be }) }
        };
        let small = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        within("limits.push_changes", "1 to 4,000", self.limits.push_changes, MOST.push_changes)?;
        within("limits.push_bytes", "1 byte to 1 MiB", self.limits.push_bytes, MOST.push_bytes)?;
        within("page.changes", "1 to 4,000", small(self.page.changes), MOST.push_changes)?;
        within("page.bytes", "1 byte to 1 MiB", small(self.page.bytes), MOST.push_bytes)?;
        within("max_connections", "1 to 1,048,576", self.max_connections, MOST_CONNECTIONS)?;
        let per_address = self.max_connections_per_address;
        within("max_connections_per_address", "1 to 1,048,576", per_address, MOST_CONNECTIONS)?;
        let per_principal = self.max_sessions_per_principal;
        within("max_sessions_per_principal", "1 to 1,048,576", per_principal, MOST_CONNECTIONS)?;
        if self.max_memory < LEAST_MEMORY {
            return Err(ServerError::Option { option: "max_memory", must_be: "at least 32 MiB" });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(address: &str, options: &ServerOptions) -> Result<(), ServerError> {
        options.check(address.parse().unwrap())
    }

    #[test]
    fn a_public_address_needs_authorization_or_an_order() {
        let mut options = ServerOptions::default();
        for address in ["127.0.0.1:0", "127.9.9.9:80", "[::1]:0", "[::ffff:127.0.0.1]:0"] {
            check(address, &options).unwrap();
        }
        for address in ["0.0.0.0:0", "192.168.1.2:80", "[::]:0"] {
            assert!(matches!(check(address, &options), Err(ServerError::PublicWithoutAuth(_))));
        }
        options.allow_public_without_auth = true;
        check("0.0.0.0:0", &options).unwrap();
    }

    #[test]
    fn limits_that_would_not_fit_a_frame_are_refused() {
        let limits = Limits { push_changes: 1, push_bytes: (1 << 20) + 1 };
        let options = ServerOptions { limits, ..ServerOptions::default() };
        assert!(matches!(check("[::1]:0", &options), Err(ServerError::Option { option: "limits.push_bytes", .. })));
        let page = PageBudget { bytes: 1 << 10, changes: 4_001 };
        let options = ServerOptions { page, ..ServerOptions::default() };
        assert!(matches!(check("[::1]:0", &options), Err(ServerError::Option { option: "page.changes", .. })));
    }
}
