//! What the device is like, and what there is to do.

use super::{Reason, Schedule, Trigger};
use crate::environment::UnixMillis;

/// What the application knows of the device. By default: online, and nothing to be careful about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conditions {
    /// Whether there is a network, as far as the system knows.
    pub online: bool,
    /// Whether bytes cost money.
    pub metered: bool,
    /// Whether the device saves its battery.
    pub battery_saver: bool,
    /// Whether the application is in the background.
    pub background: bool,
    /// What the system grants for background work, if it sets a limit.
    pub budget: Option<Budget>,
}

/// What is left of what the system grants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Bytes, both ways together.
    pub bytes: u64,
    /// Until this time.
    pub until: UnixMillis,
}

/// What there is to transfer, as far as it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// The size of what waits in the outbox.
    pub pending_bytes: u64,
    /// Whether a space has never been pulled: nobody knows how large it is.
    pub first_sync: bool,
}

impl Default for Conditions {
    fn default() -> Self {
        Self { online: true, metered: false, battery_saver: false, background: false, budget: None }
    }
}

impl Conditions {
    /// Whether it matters how much there is to transfer.
    #[must_use]
    pub const fn are_restricted(&self) -> bool {
        self.metered || self.battery_saver || self.background || self.budget.is_some()
    }

    /// Why something of this size must not be transferred now, if that is so.
    #[must_use]
    pub fn forbid(&self, now: UnixMillis, schedule: &Schedule, work: &Work, trigger: Trigger) -> Option<Reason> {
        if self.budget.is_some_and(|budget| budget.bytes == 0 || budget.until <= now) {
            return Some(Reason::Budget);
        }
        // A change that was just typed may go where a first sync has to wait.
        let large = work.first_sync || work.pending_bytes > schedule.small_bytes;
        // Whoever grants a budget has counted on its being used.
        let granted = self.budget.is_some_and(|budget| budget.bytes >= work.pending_bytes);
        let idle = matches!(trigger, Trigger::Interval | Trigger::Poke | Trigger::Start);
        match () {
            () if self.metered && large => Some(Reason::Metered),
            () if self.battery_saver && (large || idle) && !granted => Some(Reason::BatterySaver),
            () if self.background && large && !granted => Some(Reason::Background),
            () => None,
        }
    }
}
