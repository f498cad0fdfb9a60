//! Hybrid logical time: one number that orders concurrent writes.
//!
//! After Kulkarni et al., *Logical Physical Clocks and Consistent Snapshots in Globally Distributed
//! Databases* (2014), packed into one integer. A stamp only ever breaks ties between *concurrent* writes;
//! causality comes first, so a wrong clock cannot keep a field.

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::environment::UnixMillis;

/// How far ahead of corrected time a foreign stamp may be and still move the local clock: five minutes.
pub const MAX_DRIFT_MILLIS: UnixMillis = 5 * 60 * 1000;

const COUNTER_BITS: u32 = 16;
/// The latest time a stamp can hold (the year 6429).
const MAX_MILLIS: i64 = (1 << (63 - COUNTER_BITS)) - 1;

/// A moment of hybrid logical time: `unix_millis << 16 | counter`, never negative.
///
/// It is stored as the `time` of the Automerge change, so it costs nothing extra.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Stamp(i64);

impl Stamp {
    /// Before every other stamp; the stamp of geneses.
    pub const ZERO: Self = Self(0);

    /// The stamp with this raw value, or `None` if it is negative.
    #[must_use]
    pub const fn from_raw(raw: i64) -> Option<Self> {
        if raw < 0 { None } else { Some(Self(raw)) }
    }

    /// The first stamp of the given millisecond; times outside the representable range are clamped.
    #[must_use]
    pub const fn at(millis: UnixMillis) -> Self {
        let clamped = if millis < 0 {
            0
        } else if millis > MAX_MILLIS {
            MAX_MILLIS
        } else {
            millis
        };
        Self(clamped << COUNTER_BITS)
    }

    /// The raw value.
    #[must_use]
    pub const fn raw(self) -> i64 {
        self.0
    }

    /// The wall-clock part, in milliseconds since the Unix epoch.
    #[must_use]
    pub const fn millis(self) -> UnixMillis {
        self.0 >> COUNTER_BITS
    }

    const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// A foreign stamp was too far ahead of this replica's time; the local clock did not follow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockSkew {
    /// How far ahead the stamp was, in milliseconds.
    pub ahead_millis: i64,
}

/// A replica's hybrid logical clock.
///
/// ```
/// use anabranch_core::{Clock, Stamp};
/// let mut clock = Clock::default();
/// let first = clock.tick(1_000);
/// let second = clock.tick(900); // the wall clock went backwards: the stamp does not
/// assert!(second > first && first == Stamp::at(1_000));
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock {
    last: Stamp,
}

impl Clock {
    /// A clock that continues after `last`.
    #[must_use]
    pub const fn after(last: Stamp) -> Self {
        Self { last }
    }

    /// The last stamp given or seen.
    #[must_use]
    pub const fn last(&self) -> Stamp {
        self.last
    }

    /// A new stamp, later than every stamp given or followed before.
    ///
    /// A clock that was found more than [`MAX_DRIFT_MILLIS`] ahead of `now` (the wall clock had been wrong,
    /// and was put right) starts again from `now`: causality still protects the order of writes.
    pub fn tick(&mut self, now: UnixMillis) -> Stamp {
        let wall = Stamp::at(now);
        let runaway = self.last.millis().saturating_sub(wall.millis()) > MAX_DRIFT_MILLIS;
        self.last = if wall > self.last || runaway { wall } else { self.last.next() };
        self.last
    }

    /// Follows a foreign stamp, so that later local stamps are greater.
    ///
    /// # Errors
    /// [`ClockSkew`] if the stamp is more than [`MAX_DRIFT_MILLIS`] ahead of `now`; the clock did not move.
    pub fn observe(&mut self, stamp: Stamp, now: UnixMillis) -> Result<(), ClockSkew> {
        let ahead_millis = stamp.millis().saturating_sub(now);
        if ahead_millis > MAX_DRIFT_MILLIS {
            return Err(ClockSkew { ahead_millis });
        }
        self.last = self.last.max(stamp);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn stamps_rise_while_the_wall_clock_wobbles(start in 0i64..1 << 40, steps in prop::collection::vec(-60_000i64..60_000, 1..200)) {
            let mut clock = Clock::default();
            let mut now = start;
            let mut last = clock.tick(now);
            for step in steps {
                now = (now + step).max(last.millis() - MAX_DRIFT_MILLIS);
                let next = clock.tick(now);
                prop_assert!(next > last);
                last = next;
            }
        }

        #[test]
        fn a_stamp_after_an_observed_one_is_greater(now in 0i64..1 << 40, ahead in 0i64..MAX_DRIFT_MILLIS) {
            let mut clock = Clock::default();
            let foreign = Stamp::at(now + ahead);
            prop_assert!(clock.observe(foreign, now).is_ok());
            prop_assert!(clock.tick(now) > foreign);
        }
    }

    #[test]
    fn a_clock_a_century_ahead_is_not_followed() {
        let mut clock = Clock::default();
        let far = Stamp::at(1_000 + 100 * 365 * 86_400_000);
        assert!(clock.observe(far, 1_000).is_err());
        assert_eq!(clock.tick(1_000), Stamp::at(1_000));
    }

    #[test]
    fn a_runaway_clock_restarts_from_corrected_time() {
        let mut clock = Clock::after(Stamp::at(10_000_000_000));
        assert_eq!(clock.tick(1_000), Stamp::at(1_000));
    }

    #[test]
    fn the_extremes_are_representable() {
        assert_eq!(Stamp::at(i64::MIN), Stamp::ZERO);
        assert_eq!(Stamp::at(i64::MAX).millis(), MAX_MILLIS);
        assert_eq!(Stamp::from_raw(-1), None);
    }
}
