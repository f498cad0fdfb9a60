//! A change taken apart, and put together again: what a segment leaves out follows from the rest.

use sha2::{Digest as _, Sha256};

use super::reader::Reader;
use super::{CHUNK_TYPE_CHANGE, Change, ChangeError, MAGIC};
use crate::id::{Actor, ChangeHash};
use crate::stamp::Stamp;

/// What a change's chunk holds, field by field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parts<'a> {
    pub(crate) dependencies: &'a [ChangeHash],
    pub(crate) actor: &'a Actor,
    pub(crate) seq: u64,
    pub(crate) start_op: u64,
    pub(crate) stamp: Stamp,
    pub(crate) message: &'a str,
    pub(crate) others: Vec<&'a [u8]>,
    /// The table of columns, and the columns.
    pub(crate) columns: &'a [u8],
}

impl Change {
    pub(crate) fn parts(&self) -> Result<Parts<'_>, ChangeError> {
        let mut reader = Reader::new(&self.bytes, 9);
        reader.length("the length")?;
        reader.dependencies()?;
        let own = reader.actor()?;
        reader.unsigned()?;
        reader.unsigned()?;
        reader.signed()?;
        let message = reader.message()?;
        let others = reader.other_actors(own)?;
        let columns = self.bytes.get(reader.at()..).ok_or(ChangeError::Length)?;
        let Self { dependencies, actor, seq, start_op, stamp, .. } = self;
        let (seq, start_op, stamp) = (*seq, *start_op, *stamp);
        Ok(Parts { dependencies, actor, seq, start_op, stamp, message, others, columns })
    }
}

impl Parts<'_> {
    /// The change of these parts, read as any other: the parts may come from outside.
    pub(crate) fn assemble(&self) -> Result<Change, ChangeError> {
        let mut body = Vec::with_capacity(self.columns.len() + self.message.len() + 96 + 32 * self.dependencies.len());
        unsigned(&mut body, length(self.dependencies.len())?);
        for dependency in self.dependencies {
            body.extend_from_slice(dependency.as_bytes());
        }
        bytes(&mut body, self.actor.as_bytes())?;
        unsigned(&mut body, self.seq);
        unsigned(&mut body, self.start_op);
        signed(&mut body, self.stamp.raw());
        bytes(&mut body, self.message.as_bytes())?;
        unsigned(&mut body, length(self.others.len())?);
        self.others.iter().try_for_each(|other| bytes(&mut body, other))?;
        body.extend_from_slice(self.columns);
        let mut chunk = Vec::with_capacity(body.len() + 14);
        chunk.extend_from_slice(&MAGIC);
        chunk.extend_from_slice(&[0; 4]);
        chunk.push(CHUNK_TYPE_CHANGE);
        unsigned(&mut chunk, length(body.len())?);
        chunk.extend_from_slice(&body);
        let hash: [u8; 32] = Sha256::digest(&chunk[8..]).into();
        chunk[4..8].copy_from_slice(&hash[..4]);
        Change::read(chunk, ChangeHash::from_bytes(hash))
    }
}

fn length(length: usize) -> Result<u64, ChangeError> {
    u64::try_from(length).map_err(|_| ChangeError::TooLarge)
}

fn bytes(chunk: &mut Vec<u8>, part: &[u8]) -> Result<(), ChangeError> {
    unsigned(chunk, length(part.len())?);
    chunk.extend_from_slice(part);
    Ok(())
}

/// LEB128 in its shortest form.
fn unsigned(chunk: &mut Vec<u8>, mut value: u64) {
    loop {
        let [low, ..] = value.to_le_bytes();
        value >>= 7;
        if value == 0 {
            return chunk.push(low & 0x7f);
        }
        chunk.push(low | 0x80);
    }
}

fn signed(chunk: &mut Vec<u8>, mut value: i64) {
    loop {
        let [low, ..] = value.to_le_bytes();
        let low = low & 0x7f;
        value >>= 7;
        if (value == 0 && low & 0x40 == 0) || (value == -1 && low & 0x40 != 0) {
            return chunk.push(low);
        }
        chunk.push(low | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_are_read_as_they_were_written(large in any::<u64>(), small in any::<i64>()) {
            let mut chunk = Vec::new();
            unsigned(&mut chunk, large);
            signed(&mut chunk, small);
            let mut reader = Reader::new(&chunk, 0);
            prop_assert_eq!(reader.unsigned(), Ok(large));
            prop_assert_eq!(reader.signed(), Ok(small));
            prop_assert!(reader.is_at_end());
        }
    }
}
