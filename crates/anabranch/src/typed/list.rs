//! [`List`].

use std::fmt;
use std::ops::{Deref, DerefMut};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A field that merges element by element: what replicas insert, remove and change in it apart all happens.
///
/// Reads as a slice. In an edit each insertion and removal is recorded as what it is; an element that is changed
/// in place (by index, `iter_mut`, …) stays the same element, and only what differs in it is written. Elements
/// are anything that serde serialises: numbers, strings, structs, [`Map`](super::Map)s and lists again.
///
/// ```
/// use anabranch::List;
/// let mut steps: List<String> = vec!["boil".to_owned(), "serve".to_owned()].into();
/// steps.insert(1, "stir".to_owned());
/// steps[0].push_str(" water");
/// assert_eq!(steps.join(", "), "boil water, stir, serve");
/// ```
#[derive(Clone)]
pub struct List<T> {
    items: Vec<T>,
    /// Where each item stood when the list was read; `None` for those that have come since. What is there
    /// ascends, for nothing here moves an item.
    origins: Vec<Option<usize>>,
}

impl<T> List<T> {
    /// A list without elements.
    #[must_use]
    pub const fn new() -> Self {
        Self { items: Vec::new(), origins: Vec::new() }
    }

    /// Adds an element to the end.
    pub fn push(&mut self, item: T) {
        self.insert(self.items.len(), item);
    }

    /// Inserts an element before the one at `at`.
    ///
    /// # Panics
    /// If `at` is past the end.
    pub fn insert(&mut self, at: usize, item: T) {
        self.items.insert(at, item);
        self.origins.insert(at, None);
    }

    /// Removes the element at `at`, and returns it.
    ///
    /// # Panics
    /// If there is none.
    pub fn remove(&mut self, at: usize) -> T {
        self.origins.remove(at);
        self.items.remove(at)
    }

    /// Removes the last element, and returns it.
    pub fn pop(&mut self) -> Option<T> {
        self.origins.pop();
        self.items.pop()
    }

    /// Keeps only the elements for which `keep` holds.
    pub fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        let kept: Vec<bool> = self.items.iter().map(&mut keep).collect();
        let (mut items, mut origins) = (kept.iter(), kept.iter());
        self.items.retain(|_| items.next().copied().unwrap_or(true));
        self.origins.retain(|_| origins.next().copied().unwrap_or(true));
    }

    /// Keeps only the first `length` elements.
    pub fn truncate(&mut self, length: usize) {
        self.items.truncate(length);
        self.origins.truncate(length);
    }

    /// Removes all elements.
    pub fn clear(&mut self) {
        self.truncate(0);
    }

    /// Where each element stood when the list was read.
    pub(super) fn origins(&self) -> &[Option<usize>] {
        &self.origins
    }
}

impl<T> Deref for List<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.items
    }
}

impl<T> DerefMut for List<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.items
    }
}

impl<T> From<Vec<T>> for List<T> {
    fn from(items: Vec<T>) -> Self {
        let origins = vec![None; items.len()];
        Self { items, origins }
    }
}

impl<T, const N: usize> From<[T; N]> for List<T> {
    fn from(items: [T; N]) -> Self {
        Vec::from(items).into()
    }
}

impl<T> From<List<T>> for Vec<T> {
    fn from(list: List<T>) -> Self {
        list.items
    }
}

impl<T> FromIterator<T> for List<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        items.into_iter().collect::<Vec<_>>().into()
    }
}

impl<T> Extend<T> for List<T> {
    fn extend<I: IntoIterator<Item = T>>(&mut self, items: I) {
        for item in items {
            self.push(item);
        }
    }
}

impl<T> IntoIterator for List<T> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        self.items.into_iter()
    }
}

impl<'a, T> IntoIterator for &'a List<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.items.iter()
    }
}

impl<'a, T> IntoIterator for &'a mut List<T> {
    type Item = &'a mut T;
    type IntoIter = std::slice::IterMut<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.items.iter_mut()
    }
}

impl<T> Default for List<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: PartialEq> PartialEq for List<T> {
    fn eq(&self, other: &Self) -> bool {
        self.items == other.items
    }
}

impl<T: Eq> Eq for List<T> {}

impl<T: fmt::Debug> fmt::Debug for List<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.items, f)
    }
}

impl<T: Serialize> Serialize for List<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(&self.items)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let items = Vec::deserialize(deserializer)?;
        let origins = (0..items.len()).map(Some).collect();
        Ok(Self { items, origins })
    }
}
