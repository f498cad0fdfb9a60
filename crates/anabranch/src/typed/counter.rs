//! [`Counter`].

use std::fmt;
use std::ops::{AddAssign, SubAssign};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A field that sums: what replicas add and subtract apart is all counted.
///
/// Setting it, as in `note.stars = 5.into()`, adds the difference. An edit that would take it out of the range
/// of an `i64` is refused.
///
/// ```
/// use anabranch::Counter;
/// let mut stars = Counter::from(2);
/// stars += 3;
/// stars -= 1;
/// assert_eq!(stars.value(), 4);
/// ```
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Counter {
    /// Wider than what is stored, so that leaving the range is noticed and not wrapped.
    value: i128,
}

impl Counter {
    /// Its value.
    #[must_use]
    pub fn value(&self) -> i64 {
        let nearest = if self.value < 0 { i64::MIN } else { i64::MAX };
        i64::try_from(self.value).unwrap_or(nearest)
    }
}

impl AddAssign<i64> for Counter {
    fn add_assign(&mut self, by: i64) {
        self.value = self.value.saturating_add(by.into());
    }
}

impl SubAssign<i64> for Counter {
    fn sub_assign(&mut self, by: i64) {
        self.value = self.value.saturating_sub(by.into());
    }
}

impl From<i64> for Counter {
    fn from(value: i64) -> Self {
        Self { value: value.into() }
    }
}

impl PartialEq<i64> for Counter {
    fn eq(&self, other: &i64) -> bool {
        self.value == i128::from(*other)
    }
}

impl fmt::Debug for Counter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.value, f)
    }
}

impl fmt::Display for Counter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.value, f)
    }
}

impl Serialize for Counter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let value = i64::try_from(self.value).map_err(|_| serde::ser::Error::custom("a counter has 64 bits"))?;
        serializer.serialize_i64(value)
    }
}

impl<'de> Deserialize<'de> for Counter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        i64::deserialize(deserializer).map(Self::from)
    }
}
