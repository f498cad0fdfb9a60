//! The authorizer that reads tokens.

use std::collections::HashSet;
use std::future::ready;
use std::sync::{Arc, PoisonError, RwLock};

use anabranch_core::sync::Access;
use anabranch_core::{SpaceName, UnixMillis};
use axum::http::{HeaderMap, header};
use tokio::sync::watch;

use super::{Claims, TokenError, TokenSecret, millis};
use crate::access::{AuthorizeFuture, Authorizer, SharedAccess};

/// How far the clocks of whoever signs and of the server may be apart, in seconds.
const LEEWAY_SECONDS: u64 = 60;

/// Takes bearer tokens (`Authorization: Bearer …`) that were signed with a secret. See [`Claims`] for what they say.
///
/// Clones share what has been revoked.
///
/// ```
/// use std::sync::Arc;
/// use anabranch_server::{ServerOptions, TokenAuthorizer, TokenSecret};
/// let tokens = TokenAuthorizer::new(TokenSecret::new(b"32 random bytes, not this phrase")?);
/// let options = ServerOptions { authorizer: Some(Arc::new(tokens.clone())), ..ServerOptions::default() };
/// tokens.revoke_subject("bob"); // whose sessions end at once
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct TokenAuthorizer {
    secret: TokenSecret,
    audience: Option<String>,
    leeway_seconds: u64,
    revoked: Arc<Revoked>,
}

#[derive(Debug)]
struct Revoked {
    lists: RwLock<Lists>,
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Lists {
    ids: HashSet<String>,
    subjects: HashSet<String>,
}

impl TokenAuthorizer {
    /// Takes tokens signed with this secret that name no audience.
    #[must_use]
    pub fn new(secret: TokenSecret) -> Self {
        let revoked = Arc::new(Revoked { lists: RwLock::default(), changed: watch::Sender::new(()) });
        Self { secret, audience: None, leeway_seconds: LEEWAY_SECONDS, revoked }
    }

    /// Takes only tokens that name this audience: for a secret that other services use, too.
    #[must_use]
    pub fn audience(mut self, audience: impl Into<String>) -> Self {
        self.audience = Some(audience.into());
        self
    }

    /// How far the clock of whoever signs may be off; a minute if nothing is said.
    #[must_use]
    pub const fn leeway_seconds(mut self, seconds: u64) -> Self {
        self.leeway_seconds = seconds;
        self
    }

    /// Takes no token of this id (`jti`) any more, and ends its sessions. Kept in memory only: after a restart it must
    /// be said again, until the token has expired.
    pub fn revoke(&self, id: impl Into<String>) {
        self.revoked.change(|lists| lists.ids.insert(id.into()));
    }

    /// Takes no token of this subject (`sub`) any more, and ends its sessions. Kept in memory only.
    pub fn revoke_subject(&self, subject: impl Into<String>) {
        self.revoked.change(|lists| lists.subjects.insert(subject.into()));
    }

    /// Takes tokens of this subject again.
    pub fn restore_subject(&self, subject: &str) {
        self.revoked.change(|lists| lists.subjects.remove(subject));
    }

    /// What a token says, if it is good at this time.
    ///
    /// # Errors
    /// [`TokenError`] says why it is not. Whoever sent it is not told.
    pub fn check(&self, now: UnixMillis, token: &str) -> Result<Claims, TokenError> {
        let claims = self.secret.verify(token)?;
        let meant = match &self.audience {
            None => claims.audience.is_empty(),
            Some(audience) => claims.audience.contains(audience),
        };
        if !meant {
            return Err(TokenError::Audience);
        }
        if now >= self.end_of(&claims) || self.revoked.holds(&claims) {
            return Err(TokenError::Expired);
        }
        let early = |seconds: u64| now < millis(seconds.saturating_sub(self.leeway_seconds));
        if claims.not_before.is_some_and(early) { Err(TokenError::NotYet) } else { Ok(claims) }
    }

    fn end_of(&self, claims: &Claims) -> UnixMillis {
        millis(claims.expires_at.saturating_add(self.leeway_seconds))
    }
}

impl Revoked {
    fn change(&self, change: impl FnOnce(&mut Lists) -> bool) {
        let changed = change(&mut self.lists.write().unwrap_or_else(PoisonError::into_inner));
        if changed {
            self.changed.send_replace(());
        }
    }

    fn holds(&self, claims: &Claims) -> bool {
        let lists = self.lists.read().unwrap_or_else(PoisonError::into_inner);
        lists.subjects.contains(&claims.subject) || claims.id.as_ref().is_some_and(|id| lists.ids.contains(id))
    }
}

impl Authorizer for TokenAuthorizer {
    fn authorize<'a>(&'a self, now: UnixMillis, headers: &'a HeaderMap) -> AuthorizeFuture<'a> {
        let checked = bearer(headers).ok_or(TokenError::Malformed).and_then(|token| self.check(now, token));
        Box::pin(ready(match checked {
            Ok(claims) => {
                let ends_at = self.end_of(&claims);
                let access: SharedAccess =
                    Arc::new(TokenAccess { claims, ends_at, revoked: Arc::clone(&self.revoked) });
                Some(access)
            }
            Err(reason) => {
                tracing::debug!(%reason, "a token is refused");
                None
            }
        }))
    }

    fn changes(&self) -> Option<watch::Receiver<()>> {
        Some(self.revoked.changed.subscribe())
    }
}

/// The token of the one `Authorization` header.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (value, None) = (values.next()?, values.next()) else { return None };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// What a session with a token may do.
struct TokenAccess {
    claims: Claims,
    ends_at: UnixMillis,
    revoked: Arc<Revoked>,
}

impl Access for TokenAccess {
    fn may_read(&self, space: &SpaceName) -> bool {
        self.claims.rights(space).read
    }

    fn may_write(&self, space: &SpaceName) -> bool {
        self.claims.rights(space).write
    }

    fn ends_at(&self) -> Option<UnixMillis> {
        Some(if self.revoked.holds(&self.claims) { UnixMillis::MIN } else { self.ends_at })
    }

    fn principal(&self) -> Option<&str> {
        Some(&self.claims.subject)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims() -> Claims {
        Claims {
            subject: "ann".to_owned(),
            id: Some("1".to_owned()),
            audience: Vec::new(),
            not_before: Some(1_000),
            expires_at: 2_000,
            spaces: [("home".parse().unwrap(), "rw".parse().unwrap())].into(),
        }
    }

    fn secret() -> TokenSecret {
        TokenSecret::new(&[7; 32]).unwrap()
    }

    #[test]
    fn a_token_has_its_time_give_or_take_the_leeway() {
        let (tokens, token) = (TokenAuthorizer::new(secret()), secret().sign(&claims()).unwrap());
        let at = |seconds: UnixMillis| tokens.check(seconds * 1_000, &token).err();
        assert_eq!(at(939), Some(TokenError::NotYet));
        assert_eq!((at(940), at(2_059)), (None, None));
        assert_eq!(at(2_060), Some(TokenError::Expired));
        let exact = tokens.clone().leeway_seconds(0);
        assert_eq!(exact.check(2_000_000, &token), Err(TokenError::Expired));
    }

    #[test]
    fn an_audience_is_matched_on_both_sides() {
        let plain = secret().sign(&claims()).unwrap();
        let audience = vec!["notes".to_owned(), "mail".to_owned()];
        let named = secret().sign(&Claims { audience, ..claims() }).unwrap();
        let any = TokenAuthorizer::new(secret());
        let notes = any.clone().audience("notes");
        let check = |tokens: &TokenAuthorizer, token: &str| tokens.check(1_500_000, token).err();
        assert_eq!((check(&any, &plain), check(&notes, &named)), (None, None));
        let refused = Some(TokenError::Audience);
        assert_eq!((check(&any, &named), check(&notes, &plain)), (refused, refused));
        assert_eq!(check(&any.audience("other"), &named), refused);
    }

    #[test]
    fn what_is_revoked_is_over() {
        let (tokens, token) = (TokenAuthorizer::new(secret()), secret().sign(&claims()).unwrap());
        let changes = tokens.changes().unwrap();
        tokens.revoke("2");
        assert!(tokens.check(1_500_000, &token).is_ok());
        tokens.clone().revoke_subject("ann");
        assert_eq!(tokens.check(1_500_000, &token), Err(TokenError::Expired));
        assert!(changes.has_changed().unwrap());
        tokens.restore_subject("ann");
        assert!(tokens.check(1_500_000, &token).is_ok());
        tokens.revoke("1");
        assert_eq!(tokens.check(1_500_000, &token), Err(TokenError::Expired));
    }

    #[test]
    fn one_header_says_bearer() {
        let of = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, value.parse().unwrap());
            }
            bearer(&headers).map(str::to_owned)
        };
        assert_eq!(of(&["Bearer a.b.c"]), Some("a.b.c".to_owned()));
        assert_eq!(of(&["bearer a.b.c"]), Some("a.b.c".to_owned()));
        for bad in [&[][..], &["Basic a"], &["Bearer"], &["Bearer a", "Bearer b"]] {
            assert_eq!(of(bad), None, "{bad:?}");
        }
    }
}
