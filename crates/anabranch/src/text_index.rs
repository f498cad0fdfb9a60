//! Positions in a text, in the units that different programs count.
//!
//! Every position in this library counts **Unicode scalar values** (`char`s), on every platform. Rust's strings
//! count UTF-8 bytes; JavaScript, Java, .NET and Apple's frameworks count UTF-16 units. These functions convert.
//! A position inside a character, or past the end, has no counterpart: `None`.
//!
//! ```
//! use anabranch::text_index;
//! let text = "größer 🏝️!";
//! assert_eq!(text_index::from_utf8(text, text.find('!').unwrap()), Some(9));
//! assert_eq!(text_index::to_utf8(text, 3), Some(4));
//! assert_eq!(text_index::to_utf16(text, 9), Some(10));
//! assert_eq!(text_index::from_utf16(text, 8), None, "in the middle of a character");
//! ```

/// The position of a UTF-8 byte offset.
#[must_use]
pub fn from_utf8(text: &str, offset: usize) -> Option<usize> {
    text.get(..offset).map(|before| before.chars().count())
}

/// The UTF-8 byte offset of a position.
#[must_use]
pub fn to_utf8(text: &str, at: usize) -> Option<usize> {
    let ends = std::iter::once(text.len());
    text.char_indices().map(|(offset, _)| offset).chain(ends).nth(at)
}

/// The position of an offset in UTF-16 units.
#[must_use]
pub fn from_utf16(text: &str, offset: usize) -> Option<usize> {
    let mut units = 0;
    for (at, c) in text.chars().enumerate() {
        if units >= offset {
            return (units == offset).then_some(at);
        }
        units += c.len_utf16();
    }
    (units == offset).then(|| text.chars().count())
}

/// The offset of a position in UTF-16 units.
#[must_use]
pub fn to_utf16(text: &str, at: usize) -> Option<usize> {
    let before = &text[..to_utf8(text, at)?];
    Some(before.chars().map(char::len_utf16).sum())
}

/// Replaces a part of a text, as a [`TextSplice`](crate::TextSplice) does. `None`, and nothing is done, if it is
/// not all there.
pub(crate) fn splice(text: &mut String, at: usize, delete: usize, insert: &str) -> Option<()> {
    let start = to_utf8(text, at)?;
    let end = start + to_utf8(&text[start..], delete)?;
    text.replace_range(start..end, insert);
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_position_has_an_offset_and_back(text in ".{0,12}") {
            let length = text.chars().count();
            for at in 0..=length {
                prop_assert_eq!(to_utf8(&text, at).and_then(|offset| from_utf8(&text, offset)), Some(at));
                prop_assert_eq!(to_utf16(&text, at).and_then(|offset| from_utf16(&text, offset)), Some(at));
            }
            prop_assert_eq!(to_utf8(&text, length + 1), None);
            prop_assert_eq!(to_utf16(&text, length + 1), None);
            prop_assert_eq!(from_utf8(&text, text.len() + 1), None);
            prop_assert_eq!(from_utf16(&text, text.encode_utf16().count() + 1), None);
            prop_assert_eq!(to_utf16(&text, length), Some(text.encode_utf16().count()));
        }
    }
}
