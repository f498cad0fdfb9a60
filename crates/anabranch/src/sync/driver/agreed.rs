//! Until when replica and server agreed. What the status claims must be certain.

use anabranch_core::UnixMillis;
use tracing::warn;

use super::Driver;
use crate::sync::websocket::SILENCE;

/// How long a dead link may go unnoticed.
const SILENCE_MILLIS: i64 = 1_000 * SILENCE.as_secs().cast_signed();

/// When replica and server last agreed, as far as this sync knows.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Agreed {
    at: Option<UnixMillis>,
    live: bool,
    /// The file does not know.
    unstored: bool,
}

impl Agreed {
    pub(super) fn until(at: Option<UnixMillis>) -> Self {
        Self { at, ..Self::default() }
    }

    pub(super) const fn at(self) -> Option<UnixMillis> {
        self.at
    }

    /// The file knows of an agreement at this time.
    pub(super) fn know(&mut self, at: Option<UnixMillis>) {
        self.at = self.at.max(at);
    }

    /// Takes note of whether they agree now. When they no longer do, for whatever reason, they did until then; but
    /// the link may have been dead for a while.
    pub(super) fn follow(&mut self, now: UnixMillis, live: bool) {
        if std::mem::replace(&mut self.live, live) && !live {
            let until = Some(now.saturating_sub(SILENCE_MILLIS));
            self.unstored |= until > self.at;
            self.at = self.at.max(until);
        }
    }

    /// What the file should be told.
    fn take_unstored(&mut self) -> Option<UnixMillis> {
        self.at.filter(|_| std::mem::take(&mut self.unstored))
    }
}

impl Driver {
    /// Stores until when they agreed, once the session is over: not with every edit that is on its way.
    pub(super) async fn store_agreement(&mut self) {
        if self.link.is_some() && self.outcome.is_none() {
            return;
        }
        let Some(at) = self.agreed.take_unstored() else { return };
        let remote = self.remote;
        if let Err(error) = self.store.write(move |write| write.note_agreement(remote, at)).await {
            warn!(%error, "the sync could not be stored");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;

    #[test]
    fn they_agreed_until_they_no_longer_did_and_not_later() {
        let mut agreed = Agreed::until(Some(0));
        agreed.follow(1, true);
        assert_eq!((agreed.at(), agreed.take_unstored()), (Some(0), None), "it goes on");
        // Live for three hours, then the device goes offline.
        agreed.follow(3 * HOUR, false);
        let until = Some(3 * HOUR - SILENCE_MILLIS);
        assert_eq!((agreed.at(), agreed.take_unstored(), agreed.take_unstored()), (until, until, None));
        // Eight hours later an attempt fails.
        agreed.follow(11 * HOUR, false);
        assert_eq!((agreed.at(), agreed.take_unstored()), (until, None));
    }

    #[test]
    fn what_is_known_is_not_made_older() {
        let mut agreed = Agreed::until(None);
        agreed.follow(HOUR, true);
        agreed.know(Some(HOUR));
        agreed.follow(HOUR + 1, false);
        assert_eq!((agreed.at(), agreed.take_unstored()), (Some(HOUR), None));
    }
}
