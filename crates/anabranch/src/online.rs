//! The part of the status that lives in memory: each sync of a replica has its own.

use std::collections::BTreeMap;

use anabranch_core::UnixMillis;
use anabranch_core::sync::Deferral;
use anabranch_store::RemoteKey;

use crate::status::{Pace, Phase};

/// How one sync stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Online {
    /// What it syncs with; `None` before there was any.
    pub(crate) remote: Option<RemoteKey>,
    pub(crate) phase: Phase,
    pub(crate) online: bool,
    pub(crate) behind: Option<u64>,
    pub(crate) deferred: Option<Deferral>,
    /// Replica and server agreed at this time; the file may not know yet.
    pub(crate) agreed_at: Option<UnixMillis>,
    /// What could not be stored: that the file cannot be written, say.
    pub(crate) trouble: Option<String>,
    pub(crate) pace: Pace,
}

/// The syncs of one replica. Of several that are under way, the status tells of the one that was started last.
#[derive(Debug, Default)]
pub(crate) struct Syncs {
    started: u64,
    under_way: BTreeMap<u64, Online>,
    /// What the one that ended last has left.
    rest: Online,
}

impl Syncs {
    /// A sync begins. Returns its number.
    pub(crate) fn begin(&mut self, remote: RemoteKey, agreed_at: Option<UnixMillis>) -> u64 {
        self.started += 1;
        let online = Online { remote: Some(remote), agreed_at, ..Online::default() };
        self.under_way.insert(self.started, online);
        self.started
    }

    /// Changes how a sync stands. Returns whether that is to be seen.
    pub(crate) fn change(&mut self, number: u64, change: impl FnOnce(&mut Online)) -> bool {
        let before = self.shown();
        if let Some(online) = self.under_way.get_mut(&number) {
            change(online);
        }
        self.shown() != before
    }

    /// A sync has ended. Why it will not go on must stay to be seen, but not what troubled it meanwhile.
    pub(crate) fn end(&mut self, number: u64) {
        let Some(online) = self.under_way.remove(&number) else { return };
        let phase = if online.phase == Phase::Halted { Phase::Halted } else { Phase::Idle };
        let Online { remote, agreed_at, pace, .. } = online;
        self.rest = Online { remote, phase, agreed_at, pace, ..Online::default() };
    }

    /// What the status tells.
    pub(crate) fn shown(&self) -> Online {
        let mut shown = self.under_way.last_key_value().map_or(&self.rest, |(_, online)| online).clone();
        let same = self.under_way.values().filter(|online| online.remote == shown.remote);
        shown.agreed_at = same.map(|online| online.agreed_at).max().flatten().max(shown.agreed_at);
        shown
    }

    /// Whether one of them follows the changes of this remote as they come.
    pub(crate) fn follows(&self, remote: Option<RemoteKey>) -> bool {
        self.under_way.values().any(|online| online.remote == remote && online.phase == Phase::Live)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_that_was_started_last_is_told_of_and_then_the_one_before_it_again() {
        let mut syncs = Syncs::default();
        let (lasting, short) = (syncs.begin(1, None), syncs.begin(2, Some(5)));
        assert!(!syncs.change(lasting, |online| online.phase = Phase::Live), "it is hidden");
        assert!(syncs.change(short, |online| online.phase = Phase::Halted));
        assert_eq!((syncs.shown().remote, syncs.shown().phase), (Some(2), Phase::Halted));
        assert!(syncs.follows(Some(1)) && !syncs.follows(Some(2)));
        syncs.end(short);
        assert_eq!((syncs.shown().remote, syncs.shown().phase), (Some(1), Phase::Live));
        syncs.end(lasting);
        assert_eq!((syncs.shown().remote, syncs.shown().phase), (Some(1), Phase::Idle));
    }

    #[test]
    fn why_a_sync_ended_stays_to_be_seen_and_what_troubled_it_does_not() {
        let mut syncs = Syncs::default();
        let number = syncs.begin(1, None);
        syncs.change(number, |online| {
            (online.phase, online.trouble, online.agreed_at) = (Phase::Halted, Some("no room".to_owned()), Some(7));
        });
        syncs.end(number);
        let Online { phase, trouble, agreed_at, .. } = syncs.shown();
        assert_eq!((phase, trouble, agreed_at), (Phase::Halted, None, Some(7)));
    }
}
