//! A bounded cursor over a chunk's bytes: numbers in their one canonical form, and the parts of a header.

use super::{ChangeError, MAX_DEPENDENCIES, MAX_MESSAGE_BYTES, MAX_OTHER_ACTORS};
use crate::id::{Actor, ChangeHash};

/// A cursor over a chunk; every read is checked against its end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) const fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at }
    }

    /// Where the next read begins, counted from the beginning of the chunk.
    pub(super) const fn at(&self) -> usize {
        self.at
    }

    pub(super) const fn is_at_end(&self) -> bool {
        self.at >= self.bytes.len()
    }

    /// A reader over the next bytes alone, which this one skips.
    pub(super) fn part(&mut self, length: usize) -> Result<Self, ChangeError> {
        let at = self.at;
        self.take(length)?;
        Ok(Self { bytes: self.bytes.get(..self.at).ok_or(ChangeError::Length)?, at })
    }

    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], ChangeError> {
        let end = self.at.checked_add(count).ok_or(ChangeError::Length)?;
        let taken = self.bytes.get(self.at..end).ok_or(ChangeError::Length)?;
        self.at = end;
        Ok(taken)
    }

    /// An unsigned LEB128 number in its shortest form.
    pub(super) fn unsigned(&mut self) -> Result<u64, ChangeError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                if byte == 0 && shift > 0 {
                    break; // a padded form: the same number would have two hashes
                }
                return Ok(value);
            }
        }
        Err(ChangeError::OutOfRange("a number"))
    }

    /// A signed LEB128 number in its shortest form.
    pub(super) fn signed(&mut self) -> Result<i64, ChangeError> {
        let mut value = 0i64;
        let mut previous = 0u8;
        for shift in (0..70).step_by(7) {
            let byte = self.take(1)?[0];
            if shift < 63 {
                value |= i64::from(byte & 0x7f) << shift;
            } else {
                // Only the sign is left.
                if byte != 0x00 && byte != 0x7f {
                    break;
                }
                value |= i64::from(byte & 1) << 63;
            }
            if byte & 0x80 == 0 {
                let sign = byte & 0x40 != 0;
                let padded =
                    shift > 0 && ((byte == 0 && previous & 0x40 == 0) || (byte == 0x7f && previous & 0x40 != 0));
                if padded {
                    break;
                }
                if sign && shift < 57 {
                    value |= -1i64 << (shift + 7);
                }
                return Ok(value);
            }
            previous = byte;
        }
        Err(ChangeError::OutOfRange("a number"))
    }

    pub(super) fn length(&mut self, what: &'static str) -> Result<usize, ChangeError> {
        usize::try_from(self.unsigned()?).map_err(|_| ChangeError::OutOfRange(what))
    }

    pub(super) fn bounded(&mut self, what: &'static str, most: usize) -> Result<usize, ChangeError> {
        let length = self.length(what)?;
        if length > most { Err(ChangeError::OutOfRange(what)) } else { Ok(length) }
    }

    pub(super) fn dependencies(&mut self) -> Result<Vec<ChangeHash>, ChangeError> {
        let what = "the number of dependencies";
        let count = self.bounded(what, MAX_DEPENDENCIES)?;
        let mut hashes = Vec::with_capacity(count);
        for chunk in self.take(count * 32)?.chunks_exact(32) {
            let hash = ChangeHash::try_from(chunk).map_err(|_| ChangeError::Length)?;
            if hashes.last().is_some_and(|last| *last >= hash) {
                return Err(ChangeError::OutOfRange("the order of the dependencies"));
            }
            hashes.push(hash);
        }
        Ok(hashes)
    }

    pub(super) fn actor(&mut self) -> Result<&'a [u8], ChangeError> {
        let what = "an actor's length";
        match self.bounded(what, Actor::MAX_BYTES)? {
            0 => Err(ChangeError::OutOfRange(what)),
            length => self.take(length),
        }
    }

    /// The actors that the ops name beside the change's own: sorted, without repeats.
    pub(super) fn other_actors(&mut self, own: &[u8]) -> Result<Vec<&'a [u8]>, ChangeError> {
        let count = self.bounded("the number of actors", MAX_OTHER_ACTORS)?;
        let mut actors: Vec<&[u8]> = Vec::with_capacity(count);
        for _ in 0..count {
            let actor = self.actor()?;
            if actor == own || actors.last().is_some_and(|last| *last >= actor) {
                return Err(ChangeError::OutOfRange("the order of the actors"));
            }
            actors.push(actor);
        }
        Ok(actors)
    }

    pub(super) fn message(&mut self) -> Result<&'a str, ChangeError> {
        let length = self.bounded("the message's length", MAX_MESSAGE_BYTES)?;
        let message = self.take(length)?;
        std::str::from_utf8(message).map_err(|_| ChangeError::OutOfRange("the message"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn signed_numbers_have_one_form(value in any::<i64>()) {
            let mut bytes = Vec::new();
            let mut rest = value;
            loop {
                let byte = u8::try_from(rest & 0x7f).unwrap();
                rest >>= 7;
                let done = (rest == 0 && byte & 0x40 == 0) || (rest == -1 && byte & 0x40 != 0);
                bytes.push(if done { byte } else { byte | 0x80 });
                if done { break; }
            }
            prop_assert_eq!(Reader::new(&bytes, 0).signed(), Ok(value));
            let last = bytes.len() - 1;
            bytes[last] |= 0x80;
            bytes.push(if value < 0 { 0x7f } else { 0 });
            let padded = Reader::new(&bytes, 0).signed();
            prop_assert!(padded.is_err());
        }
    }
}
