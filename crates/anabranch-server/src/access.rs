//! Who may read and write which space.

use std::fmt;
use std::future::{Future, ready};
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;

use anabranch_core::sync::Access;
use anabranch_core::{SpaceName, UnixMillis};
use axum::http::HeaderMap;
use tokio::sync::watch;

/// What one session may do. It is asked on every message, so a right can end while the session lasts.
pub type SharedAccess = Arc<dyn Access + Send + Sync>;

/// What [`Authorizer::authorize`] returns.
pub type AuthorizeFuture<'a> = Pin<Box<dyn Future<Output = Option<SharedAccess>> + Send + 'a>>;

/// Says from a request's headers what its sender may do.
///
/// [`TokenAuthorizer`](crate::TokenAuthorizer) reads bearer tokens. A function will do for an application's own rules:
///
/// ```
/// use std::sync::Arc;
/// use anabranch_server::{Authorizer, HeaderMap, OpenAccess, ServerOptions, SharedAccess};
/// let authorize = |headers: &HeaderMap| {
///     let known = headers.get("authorization").is_some_and(|token| token == "Bearer correct-horse");
///     known.then(|| -> SharedAccess { Arc::new(OpenAccess) })
/// };
/// let options = ServerOptions { authorizer: Some(Arc::new(authorize)), ..ServerOptions::default() };
/// ```
pub trait Authorizer: Send + Sync + 'static {
    /// What the sender of these headers may do at this time; `None` refuses the request (401), in the same words
    /// whatever the reason. It has ten seconds.
    fn authorize<'a>(&'a self, now: UnixMillis, headers: &'a HeaderMap) -> AuthorizeFuture<'a>;

    /// Where to hear that rights have been changed or revoked: each change makes every session look at its
    /// [`Access`] again. Without it, a session looks when it is next sent something, and every half minute.
    fn changes(&self) -> Option<watch::Receiver<()>> {
        None
    }
}

impl<F> Authorizer for F
where
    F: Fn(&HeaderMap) -> Option<SharedAccess> + Send + Sync + 'static,
{
    fn authorize<'a>(&'a self, _now: UnixMillis, headers: &'a HeaderMap) -> AuthorizeFuture<'a> {
        Box::pin(ready(self(headers)))
    }
}

/// Everyone may do everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenAccess;

impl Access for OpenAccess {
    fn may_read(&self, _space: &SpaceName) -> bool {
        true
    }

    fn may_write(&self, _space: &SpaceName) -> bool {
        true
    }
}

/// One space, or all whose names begin alike: `home`, `team:*`, `*`.
///
/// ```
/// use anabranch_core::SpaceName;
/// use anabranch_server::SpacePattern;
/// let teams: SpacePattern = "team:*".parse()?;
/// assert!(teams.covers(&SpaceName::new("team:blue")?) && !teams.covers(&SpaceName::new("teams")?));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpacePattern {
    name: String,
    /// The name is only the beginning.
    open: bool,
}

/// A text that is no [`SpacePattern`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a pattern is the name of a space, or the beginning of one and `*`")]
pub struct PatternError;

impl SpacePattern {
    /// Whether the space is among those that are meant.
    #[must_use]
    pub fn covers(&self, space: &SpaceName) -> bool {
        if self.open { space.as_str().starts_with(&self.name) } else { space.as_str() == self.name }
    }
}

impl FromStr for SpacePattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let (name, open) = text.strip_suffix('*').map_or((text, false), |beginning| (beginning, true));
        if (open && name.is_empty()) || SpaceName::new(name).is_ok() {
            Ok(Self { name: name.to_owned(), open })
        } else {
            Err(PatternError)
        }
    }
}

impl fmt::Display for SpacePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.name, if self.open { "*" } else { "" })
    }
}

impl fmt::Debug for SpacePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_a_name_or_a_beginning() {
        let covers = |pattern: &str, space: &str| {
            pattern.parse::<SpacePattern>().unwrap().covers(&SpaceName::new(space).unwrap())
        };
        assert!(covers("home", "home") && !covers("home", "home2") && !covers("home", "hom"));
        assert!(covers("home*", "home") && covers("home*", "home2") && !covers("home*", "hom"));
        assert!(covers("*", "anything"));
        for bad in ["", "a*b", "**", "../x", "a b", &"x".repeat(65)] {
            assert!(bad.parse::<SpacePattern>().is_err(), "{bad}");
        }
    }
}
