//! The token, and what the server has made of it.

use anabranch_core::UnixMillis;

use crate::sync::token::{TokenRequest, TokenSource};

/// A session that was opened with a fresh token and is refused within this time was not refused for the token's age.
const TOO_SOON_MILLIS: i64 = 60_000;

/// Where the sync's tokens come from, and whether another one may be tried when the server refuses one.
pub(super) struct Credentials {
    source: Option<TokenSource>,
    /// Raised by each token that is set.
    generation: u64,
    /// The one that the last connection was begun with.
    used: u64,
    /// The provider is, or has been, asked for a fresh token, and no session has been open since.
    refreshed: bool,
    /// When the session was opened, if that was with a fresh token and it has not caught up since.
    fresh_since: Option<UnixMillis>,
}

impl Credentials {
    pub(super) const fn new(source: Option<TokenSource>) -> Self {
        Self { source, generation: 0, used: 0, refreshed: false, fresh_since: None }
    }

    /// Another token takes the place of whatever there was.
    pub(super) fn set(&mut self, source: TokenSource) {
        self.source = Some(source);
        self.generation += 1;
        self.refreshed = false;
    }

    /// Whoever asks for a sync may have signed in meanwhile.
    pub(super) const fn person_asks(&mut self) {
        self.refreshed = false;
    }

    /// A connection is begun: where its token comes from, and which one.
    pub(super) fn begin(&mut self) -> (Option<TokenSource>, TokenRequest) {
        self.used = self.generation;
        let request = if self.refreshed { TokenRequest::Fresh } else { TokenRequest::Any };
        (self.source.clone(), request)
    }

    pub(super) fn opened(&mut self, now: UnixMillis) {
        self.fresh_since = std::mem::take(&mut self.refreshed).then_some(now);
    }

    pub(super) const fn caught_up(&mut self) {
        self.fresh_since = None;
        self.refreshed = false;
    }

    /// A connection was refused: whether another token is there to be tried at once. That is one that was set
    /// meanwhile, or a fresh one of the provider's: once for each time that a session was open.
    pub(super) fn may_try_again(&mut self) -> bool {
        if self.used < self.generation {
            return true;
        }
        let provider = self.source.as_ref().is_some_and(TokenSource::can_refresh);
        provider && !std::mem::replace(&mut self.refreshed, true)
    }

    /// As [`may_try_again`](Self::may_try_again), when it was an open session that the server has ended.
    pub(super) fn may_open_again(&mut self, now: UnixMillis) -> bool {
        let since = self.fresh_since.take().map(|since| now.saturating_sub(since));
        // Otherwise a server that takes a token and then refuses its session would be asked in a hot loop.
        self.refreshed |= since.is_some_and(|since| (0..TOO_SOON_MILLIS).contains(&since));
        self.may_try_again()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::token::Token;

    const MINUTE: i64 = 60_000;

    fn provided() -> Credentials {
        Credentials::new(Some(TokenSource::blocking(|_| Ok(Token::from("correct-horse")))))
    }

    #[test]
    fn a_fresh_token_is_asked_for_once_for_each_time_that_a_session_was_open() {
        let mut credentials = provided();
        assert!(credentials.begin().1 == TokenRequest::Any && credentials.may_try_again());
        assert!(credentials.begin().1 == TokenRequest::Fresh && !credentials.may_try_again());
        credentials.person_asks();
        assert!(credentials.may_try_again());
        // A first sync of twelve minutes, with tokens that last for five.
        for expired in [5, 10] {
            assert_eq!(credentials.begin().1, TokenRequest::Fresh);
            credentials.opened((expired - 5) * MINUTE);
            assert!(credentials.may_open_again(expired * MINUTE), "it expired once more");
        }
        credentials.opened(10 * MINUTE);
        assert_eq!(credentials.begin().1, TokenRequest::Any, "the connection broke: the token is still good");
    }

    #[test]
    fn a_server_that_takes_a_fresh_token_and_then_refuses_is_not_asked_in_a_hot_loop() {
        let mut credentials = provided();
        credentials.begin();
        credentials.opened(0);
        assert!(credentials.may_open_again(1_000), "the token was not fresh");
        credentials.begin();
        credentials.opened(2_000);
        assert!(!credentials.may_open_again(3_000));
        credentials.person_asks();
        assert!(credentials.may_try_again());
        credentials.begin();
        credentials.opened(4_000);
        credentials.caught_up();
        assert!(credentials.may_open_again(5_000), "it was good for something");
    }

    #[test]
    fn a_token_that_was_set_meanwhile_is_tried_before_anybody_is_asked() {
        let mut credentials = Credentials::new(Some(TokenSource::Static(Token::from("old"))));
        credentials.begin();
        credentials.opened(0);
        assert!(!credentials.may_open_again(1));
        credentials.set(TokenSource::Static(Token::from("new")));
        assert!(credentials.may_open_again(2));
        credentials.begin();
        assert!(!credentials.may_try_again(), "it has been tried");
    }
}
