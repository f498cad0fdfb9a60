//! Who is asking: tokens, and where new ones come from.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use anabranch_core::sync::ErrorClass;
use secrecy::{ExposeSecret as _, SecretString};

use super::link::LinkError;

/// A bearer token. It goes into the `Authorization` header and nowhere else: it has no `Display`, and `Debug` does not
/// show it. It is wiped from memory when the last copy is dropped.
///
/// ```
/// # use anabranch::Token;
/// let token = Token::from("correct-horse");
/// assert_eq!(format!("{token:?}"), "Token([redacted])");
/// ```
#[derive(Clone)]
pub struct Token(Arc<SecretString>);

impl Token {
    /// The text, for a transport that sends it.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl PartialEq for Token {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

impl Eq for Token {}

impl From<&str> for Token {
    fn from(text: &str) -> Self {
        Self(Arc::new(text.into()))
    }
}

impl From<String> for Token {
    fn from(text: String) -> Self {
        Self(Arc::new(text.into()))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token([redacted])")
    }
}

/// What a token provider is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenRequest {
    /// A token to connect with; one that is still good will do.
    Any,
    /// Another one: the server has just refused the last.
    Fresh,
}

/// Why a provider gives no token. The text is for a person; it may be stored and shown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// Not now: tried again with backoff.
    #[error("no token: {0}")]
    Unavailable(String),
    /// Somebody has to sign in first: the sync waits until a token is set, or a person asks.
    #[error("signed out: {0}")]
    SignedOut(String),
}

type Answer = Pin<Box<dyn Future<Output = Result<Token, TokenError>> + Send>>;

/// Where a sync's tokens come from.
#[derive(Clone)]
pub(crate) enum TokenSource {
    Static(Token),
    Provider(Arc<dyn Fn(TokenRequest) -> Answer + Send + Sync>),
}

impl TokenSource {
    pub(crate) fn blocking(
        provide: impl Fn(TokenRequest) -> Result<Token, TokenError> + Send + Sync + 'static,
    ) -> Self {
        let provide = Arc::new(provide);
        Self::Provider(Arc::new(move |request| {
            let provide = Arc::clone(&provide);
            Box::pin(async move {
                // It may ask a keychain or a server: the event loop goes on meanwhile.
                let asked = tokio::task::spawn_blocking(move || provide(request)).await;
                asked.unwrap_or_else(|_| Err(TokenError::Unavailable("the token provider panicked".to_owned())))
            })
        }))
    }

    pub(crate) fn future<R>(provide: impl Fn(TokenRequest) -> R + Send + Sync + 'static) -> Self
    where
        R: Future<Output = Result<Token, TokenError>> + Send + 'static,
    {
        Self::Provider(Arc::new(move |request| Box::pin(provide(request))))
    }

    /// Whether asking again may give another token.
    pub(crate) const fn can_refresh(&self) -> bool {
        matches!(self, Self::Provider(_))
    }

    pub(crate) async fn token(&self, request: TokenRequest) -> Result<Token, LinkError> {
        match self {
            Self::Static(token) => Ok(token.clone()),
            Self::Provider(provide) => provide(request).await.map_err(|error| {
                let class = match error {
                    TokenError::Unavailable(_) => ErrorClass::Transient,
                    TokenError::SignedOut(_) => ErrorClass::Auth,
                };
                LinkError::new(error.to_string()).of_class(class)
            }),
        }
    }
}
