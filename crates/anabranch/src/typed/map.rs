//! [`Map`].

use std::collections::{BTreeMap, BTreeSet, btree_map};
use std::fmt;
use std::ops::Deref;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A field that merges key by key. Keys are strings.
///
/// Reads as a [`BTreeMap`]. In an edit an entry that is changed in place stays the same entry, and only what
/// differs in it is written. Values are anything that serde serialises: numbers, strings, structs,
/// [`List`](super::List)s and maps again. Two replicas that add the same key apart contest it: the field's policy
/// says whose value shows.
///
/// ```
/// use anabranch::Map;
/// let mut stock = Map::new();
/// stock.insert("oats", 2);
/// *stock.entry("oats").or_insert(0) += 1;
/// assert_eq!(stock.get("oats"), Some(&3));
/// ```
#[derive(Clone)]
pub struct Map<T> {
    entries: BTreeMap<String, T>,
    /// The keys that were inserted one by one, even if the value is what was there: that settles a contest.
    inserted: BTreeSet<String>,
}

impl<T> Map<T> {
    /// A map without entries.
    #[must_use]
    pub const fn new() -> Self {
        Self { entries: BTreeMap::new(), inserted: BTreeSet::new() }
    }

    /// Adds or replaces an entry; returns the value that was there.
    ///
    /// In an edit this settles what is contested at the key, even if the value is the one that shows.
    pub fn insert(&mut self, key: impl Into<String>, value: T) -> Option<T> {
        let key = key.into();
        self.inserted.insert(key.clone());
        self.entries.insert(key, value)
    }

    /// Removes an entry; returns its value.
    pub fn remove(&mut self, key: &str) -> Option<T> {
        self.inserted.remove(key);
        self.entries.remove(key)
    }

    /// An entry's value, to be changed in place.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut T> {
        self.entries.get_mut(key)
    }

    /// An entry that is there or not, to be changed in place or added, as of a [`BTreeMap`].
    pub fn entry(&mut self, key: impl Into<String>) -> btree_map::Entry<'_, String, T> {
        self.entries.entry(key.into())
    }

    /// All entries, their values to be changed in place.
    pub fn iter_mut(&mut self) -> btree_map::IterMut<'_, String, T> {
        self.entries.iter_mut()
    }

    /// Keeps only the entries for which `keep` holds.
    pub fn retain(&mut self, keep: impl FnMut(&String, &mut T) -> bool) {
        self.entries.retain(keep);
        let Self { entries, inserted } = self;
        inserted.retain(|key| entries.contains_key(key));
    }

    /// Removes all entries.
    pub fn clear(&mut self) {
        self.retain(|_, _| false);
    }

    /// The keys that were inserted one by one.
    pub(super) const fn inserted(&self) -> &BTreeSet<String> {
        &self.inserted
    }
}

impl<T> Deref for Map<T> {
    type Target = BTreeMap<String, T>;

    fn deref(&self) -> &BTreeMap<String, T> {
        &self.entries
    }
}

impl<T> From<BTreeMap<String, T>> for Map<T> {
    fn from(entries: BTreeMap<String, T>) -> Self {
        Self { entries, inserted: BTreeSet::new() }
    }
}

impl<K: Into<String>, T> FromIterator<(K, T)> for Map<T> {
    fn from_iter<I: IntoIterator<Item = (K, T)>>(entries: I) -> Self {
        let entries = entries.into_iter().map(|(key, value)| (key.into(), value));
        entries.collect::<BTreeMap<_, _>>().into()
    }
}

impl<K: Into<String>, T, const N: usize> From<[(K, T); N]> for Map<T> {
    fn from(entries: [(K, T); N]) -> Self {
        entries.into_iter().collect()
    }
}

impl<K: Into<String>, T> Extend<(K, T)> for Map<T> {
    fn extend<I: IntoIterator<Item = (K, T)>>(&mut self, entries: I) {
        for (key, value) in entries {
            self.insert(key, value);
        }
    }
}

impl<T> IntoIterator for Map<T> {
    type Item = (String, T);
    type IntoIter = btree_map::IntoIter<String, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.entries.into_iter()
    }
}

impl<'a, T> IntoIterator for &'a Map<T> {
    type Item = (&'a String, &'a T);
    type IntoIter = btree_map::Iter<'a, String, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.entries.iter()
    }
}

impl<'a, T> IntoIterator for &'a mut Map<T> {
    type Item = (&'a String, &'a mut T);
    type IntoIter = btree_map::IterMut<'a, String, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter_mut()
    }
}

impl<T> Default for Map<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: PartialEq> PartialEq for Map<T> {
    fn eq(&self, other: &Self) -> bool {
        self.entries == other.entries
    }
}

impl<T: Eq> Eq for Map<T> {}

impl<T: fmt::Debug> fmt::Debug for Map<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.entries, f)
    }
}

impl<T: Serialize> Serialize for Map<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(&self.entries)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Map<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        BTreeMap::deserialize(deserializer).map(Self::from)
    }
}
