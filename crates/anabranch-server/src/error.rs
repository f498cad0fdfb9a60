//! What can go wrong.

use std::net::SocketAddr;

/// What kind of trouble a backend is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BackendErrorKind {
    /// It may work when tried again: busy, out of space, interrupted.
    Retry,
    /// What is stored is not what was stored: a person must look, and probably restore a backup.
    Corrupt,
    /// Anything else; a bug, most likely.
    Internal,
}

/// A backend could not do what it was asked to do.
///
/// The text says what failed and with which code; it never contains anything that was stored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the backend failed ({kind:?}): {what}{}", code.map(|code| format!(" (code {code})")).unwrap_or_default())]
pub struct BackendError {
    kind: BackendErrorKind,
    what: &'static str,
    code: Option<i32>,
}

impl BackendError {
    /// An error of this kind; `what` names the step that failed.
    #[must_use]
    pub const fn new(kind: BackendErrorKind, what: &'static str) -> Self {
        Self { kind, what, code: None }
    }

    /// The same, with the storage engine's own code.
    #[must_use]
    pub const fn with_code(mut self, code: i32) -> Self {
        self.code = Some(code);
        self
    }

    /// What kind of trouble it is.
    #[must_use]
    pub const fn kind(&self) -> BackendErrorKind {
        self.kind
    }

    pub(crate) const fn corrupt(what: &'static str) -> Self {
        Self::new(BackendErrorKind::Corrupt, what)
    }

    pub(crate) const fn internal(what: &'static str) -> Self {
        Self::new(BackendErrorKind::Internal, what)
    }
}

/// A server could not be started, or had to stop.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// Everyone who can reach the address could read and write everything.
    #[error(
        "refusing to listen on {0}: the address is reachable from other machines and no authorization is \
         configured; set `authorizer`, listen on 127.0.0.1, or set `allow_public_without_auth`"
    )]
    PublicWithoutAuth(SocketAddr),
    /// An option is out of range.
    #[error("the option `{option}` must be {must_be}")]
    Option {
        /// Its name.
        option: &'static str,
        /// What it must be.
        must_be: &'static str,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The server's task panicked or was cancelled.
    #[error("the server's task ended abnormally")]
    Aborted,
}
