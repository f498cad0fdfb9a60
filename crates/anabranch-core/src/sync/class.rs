//! What kind of failure it was: that decides what happens next.

use serde::Serialize;

/// The kind of a failed attempt, or of a refused change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorClass {
    /// It may well work the next time: tried again, after a wait.
    #[default]
    Transient,
    /// The server will not have this change: it is set aside with the server's words, and the rest goes on.
    Rejected,
    /// Who asks is not known or not allowed: a new token is asked for once, then a person is needed.
    Auth,
    /// Larger than the other side takes: sent again in smaller pieces, and set aside if it is one piece already.
    TooLarge,
    /// The two clocks are too far apart: tried again, for a clock can be put right.
    Clock,
}

impl ErrorClass {
    /// The class of an HTTP status that is not a success.
    #[must_use]
    pub const fn of_http_status(status: u16) -> Self {
        match status {
            401 | 403 => Self::Auth,
            413 => Self::TooLarge,
            _ => Self::Transient,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_says_what_to_do() {
        let classes = [401, 403, 413, 429, 500, 503].map(ErrorClass::of_http_status);
        let [auth, large, later] = [ErrorClass::Auth, ErrorClass::TooLarge, ErrorClass::Transient];
        assert_eq!(classes, [auth, auth, large, later, later, later]);
    }
}
