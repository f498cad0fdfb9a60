//! [`Text`].

use std::fmt;
use std::ops::{Bound, Deref, RangeBounds};

use anabranch_core::document::TextSplice;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::text_index::{self, splice};

/// Splices that a text remembers. One that is changed more often is compared as a whole.
const MAX_SPLICES: usize = 4_096;

/// A field that merges character by character: what is typed into it on two replicas apart is all there.
///
/// Reads as a `str`. Every position counts Unicode scalar values (`char`s); [`text_index`] converts from and to
/// other units. In an edit each insertion and removal is recorded as what it is; a text that is replaced, as in
/// `note.body = "new".into()`, becomes the smallest difference.
///
/// ```
/// use anabranch::Text;
/// let mut body = Text::from("milk");
/// body.push_str(", eggs");
/// body.insert(0, "oat ");
/// body.replace(4..8, "drink");
/// assert_eq!(body, "oat drink, eggs");
/// assert!(body.starts_with("oat"));
/// ```
#[derive(Clone, Default)]
pub struct Text {
    text: String,
    /// Its length in characters: to count them at every change would make a text that is built piecewise quadratic.
    length: usize,
    /// What has been done to it, in order, since it was read.
    splices: Vec<TextSplice>,
    /// The length in characters of what the last of the splices inserts.
    inserted: usize,
}

impl Text {
    /// An empty text.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The text as a string slice.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Its length in Unicode scalar values, as positions count them. ([`str::len`] counts bytes.)
    #[must_use]
    pub const fn length(&self) -> usize {
        self.length
    }

    /// Adds to the end.
    pub fn push_str(&mut self, more: &str) {
        self.splice(self.length(), 0, more);
    }

    /// Adds one character to the end.
    pub fn push(&mut self, more: char) {
        self.push_str(more.encode_utf8(&mut [0; 4]));
    }

    /// Inserts before the character at `at`.
    ///
    /// # Panics
    /// If `at` is past the end.
    pub fn insert(&mut self, at: usize, more: &str) {
        self.splice(at, 0, more);
    }

    /// Removes a range of characters.
    ///
    /// # Panics
    /// If the range is not within the text.
    pub fn remove(&mut self, range: impl RangeBounds<usize>) {
        self.replace(range, "");
    }

    /// Replaces a range of characters.
    ///
    /// # Panics
    /// If the range is not within the text.
    pub fn replace(&mut self, range: impl RangeBounds<usize>, with: &str) {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(before) => *before + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(last) => *last + 1,
            Bound::Excluded(end) => *end,
            Bound::Unbounded => self.length(),
        };
        assert!(start <= end, "the range {start}..{end} is none");
        self.splice(start, end - start, with);
    }

    /// Removes everything.
    pub fn clear(&mut self) {
        self.splice(0, self.length(), "");
    }

    /// Replaces `delete` characters from `at` on.
    ///
    /// # Panics
    /// If they are not all there.
    pub fn splice(&mut self, at: usize, delete: usize, insert: &str) {
        if (at, delete) == (self.length, 0) {
            self.text.push_str(insert);
        } else {
            let done = splice(&mut self.text, at, delete, insert);
            assert!(
                done.is_some(),
                "{at}..{} is past the end, the length is {}",
                at.saturating_add(delete),
                self.length
            );
        }
        if delete == 0 && insert.is_empty() {
            return;
        }
        let inserted = insert.chars().count();
        self.length = self.length - delete + inserted;
        if let Some(last) = self.splices.last_mut()
            && at == last.at + self.inserted
        {
            last.delete += delete;
            last.insert.push_str(insert);
            self.inserted += inserted;
            return;
        }
        if self.splices.len() == MAX_SPLICES {
            // What is left will not lead from the old text to the new one, and that is noticed.
            self.splices.clear();
        }
        self.splices.push(TextSplice { at, delete, insert: insert.to_owned() });
        self.inserted = inserted;
    }

    /// The splices that lead from a text to this one; `None` if those remembered do not.
    pub(super) fn splices_from(&self, before: &str) -> Option<&[TextSplice]> {
        let mut text = before.to_owned();
        for TextSplice { at, delete, insert } in &self.splices {
            splice(&mut text, *at, *delete, insert)?;
        }
        (text == self.text).then_some(&self.splices)
    }

    /// The position of a UTF-8 byte offset, as [`str::find`] returns it.
    #[must_use]
    pub fn position(&self, offset: usize) -> Option<usize> {
        text_index::from_utf8(&self.text, offset)
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        &self.text
    }
}

impl AsRef<str> for Text {
    fn as_ref(&self) -> &str {
        &self.text
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        let length = text.chars().count();
        Self { text, length, splices: Vec::new(), inserted: 0 }
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl From<Text> for String {
    fn from(text: Text) -> Self {
        text.text
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Text {}

impl PartialEq<str> for Text {
    fn eq(&self, other: &str) -> bool {
        self.text == other
    }
}

impl PartialEq<&str> for Text {
    fn eq(&self, other: &&str) -> bool {
        self.text == *other
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.text, f)
    }
}

impl fmt::Write for Text {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        self.push_str(more);
        Ok(())
    }
}

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::from)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn lengths_and_splices_keep_up_with_the_text(
            start in "[aé🏝]{0,6}",
            edits in prop::collection::vec((0..10_usize, 0..4_usize, "[bü🏔]{0,3}", any::<bool>()), 0..12),
        ) {
            let mut text = Text::from(start.as_str());
            let mut model: Vec<char> = start.chars().collect();
            for (at, delete, insert, push) in edits {
                let at = if push { model.len() } else { at.min(model.len()) };
                let delete = delete.min(model.len() - at);
                if push { text.push_str(&insert) } else { text.splice(at, delete, &insert) }
                model.splice(at..at + delete, insert.chars());
                prop_assert_eq!(text.as_str(), model.iter().collect::<String>());
                prop_assert_eq!(text.length(), model.len());
                prop_assert_eq!(text.inserted, text.splices.last().map_or(0, |last| last.insert.chars().count()));
            }
            prop_assert!(text.splices_from(&start).is_some());
        }
    }

    #[test]
    fn what_is_pushed_piecewise_is_one_splice() {
        let mut text = Text::from("ä");
        "öüß".chars().for_each(|c| text.push(c));
        assert_eq!(text.splices, [TextSplice { at: 1, delete: 0, insert: "öüß".to_owned() }]);
    }
}
