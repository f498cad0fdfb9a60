//! [`Set`].

use std::collections::{BTreeSet, btree_set};
use std::fmt;
use std::ops::Deref;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A field of members that merges by member: a concurrent addition wins over a removal.
///
/// Reads as a [`BTreeSet`]. A member is what serde makes a string, a number or a boolean of: a `String`, an
/// integer, an enum without data.
///
/// ```
/// use anabranch::Set;
/// let mut tags: Set<String> = ["home".to_owned()].into();
/// tags.insert("food".to_owned());
/// tags.remove("home");
/// assert!(tags.contains("food") && tags.len() == 1);
/// ```
#[derive(Clone)]
pub struct Set<T> {
    members: BTreeSet<T>,
    /// Those that were inserted one by one, even if they were there: a concurrent removal must not win.
    inserted: BTreeSet<T>,
}

impl<T> Set<T> {
    /// A set without members.
    #[must_use]
    pub const fn new() -> Self {
        Self { members: BTreeSet::new(), inserted: BTreeSet::new() }
    }

    /// The members that were inserted one by one.
    pub(super) const fn inserted(&self) -> &BTreeSet<T> {
        &self.inserted
    }
}

impl<T: Ord + Clone> Set<T> {
    /// Adds a member; says whether it is new.
    ///
    /// In an edit this counts even if the member is there already: if another replica removes it meanwhile, it
    /// stays.
    pub fn insert(&mut self, member: T) -> bool {
        self.inserted.insert(member.clone());
        self.members.insert(member)
    }

    /// Removes a member; says whether it was there.
    pub fn remove<Q: Ord + ?Sized>(&mut self, member: &Q) -> bool
    where
        T: std::borrow::Borrow<Q>,
    {
        self.inserted.remove(member);
        self.members.remove(member)
    }

    /// Keeps only the members for which `keep` holds.
    pub fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        self.members.retain(|member| keep(member));
        let Self { members, inserted } = self;
        inserted.retain(|member| members.contains(member));
    }

    /// Removes all members.
    pub fn clear(&mut self) {
        self.retain(|_| false);
    }
}

impl<T> Deref for Set<T> {
    type Target = BTreeSet<T>;

    fn deref(&self) -> &BTreeSet<T> {
        &self.members
    }
}

impl<T> From<BTreeSet<T>> for Set<T> {
    fn from(members: BTreeSet<T>) -> Self {
        Self { members, inserted: BTreeSet::new() }
    }
}

impl<T: Ord> FromIterator<T> for Set<T> {
    fn from_iter<I: IntoIterator<Item = T>>(members: I) -> Self {
        members.into_iter().collect::<BTreeSet<_>>().into()
    }
}

impl<T: Ord, const N: usize> From<[T; N]> for Set<T> {
    fn from(members: [T; N]) -> Self {
        members.into_iter().collect()
    }
}

impl<T: Ord + Clone> Extend<T> for Set<T> {
    fn extend<I: IntoIterator<Item = T>>(&mut self, members: I) {
        for member in members {
            self.insert(member);
        }
    }
}

impl<T> IntoIterator for Set<T> {
    type Item = T;
    type IntoIter = btree_set::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        self.members.into_iter()
    }
}

impl<'a, T> IntoIterator for &'a Set<T> {
    type Item = &'a T;
    type IntoIter = btree_set::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.members.iter()
    }
}

impl<T> Default for Set<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: PartialEq> PartialEq for Set<T> {
    fn eq(&self, other: &Self) -> bool {
        self.members == other.members
    }
}

impl<T: Eq> Eq for Set<T> {}

impl<T: fmt::Debug> fmt::Debug for Set<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.members, f)
    }
}

impl<T: Serialize> Serialize for Set<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(&self.members)
    }
}

impl<'de, T: Ord + Deserialize<'de>> Deserialize<'de> for Set<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        BTreeSet::deserialize(deserializer).map(Self::from)
    }
}
