//! A change chunk taken apart into header and columns, to be altered and sealed again with a right checksum.

use anabranch_core::Actor;
use sha2::{Digest as _, Sha256};

/// The columns by number.
pub mod column {
    pub const OBJECT_ACTOR: u64 = 0x01;
    pub const OBJECT_COUNTER: u64 = 0x02;
    pub const KEY_ACTOR: u64 = 0x11;
    pub const KEY_COUNTER: u64 = 0x13;
    pub const KEY_TEXT: u64 = 0x15;
    pub const INSERT: u64 = 0x34;
    pub const ACTION: u64 = 0x42;
    pub const VALUE_META: u64 = 0x56;
    pub const VALUE: u64 = 0x57;
    pub const PREDECESSOR_COUNT: u64 = 0x70;
    pub const PREDECESSOR_ACTOR: u64 = 0x71;
    pub const PREDECESSOR_COUNTER: u64 = 0x73;
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    pub dependencies: Vec<[u8; 32]>,
    pub actor: Vec<u8>,
    pub seq: u64,
    pub start_op: u64,
    pub time: i64,
    pub message: Vec<u8>,
    pub others: Vec<Vec<u8>>,
    /// Number and data of each column.
    pub columns: Vec<(u64, Vec<u8>)>,
    pub rest: Vec<u8>,
}

impl Chunk {
    /// A change without anything before it.
    pub fn first(actor: &[u8], columns: Vec<(u64, Vec<u8>)>) -> Self {
        let actor = actor.to_vec();
        let (dependencies, message, others, rest) = Default::default();
        Self { dependencies, actor, seq: 1, start_op: 1, time: 5, message, others, columns, rest }
    }

    /// Takes an honest chunk apart.
    pub fn open(chunk: &[u8]) -> Self {
        let mut cursor = Cursor(&chunk[9..]);
        cursor.number();
        let dependencies = cursor.number();
        let dependencies = (0..dependencies).map(|_| cursor.take(32).try_into().unwrap()).collect();
        let actor = cursor.prefixed();
        let (seq, start_op) = (cursor.number(), cursor.number());
        // An honest stamp is not negative: the signed number reads as an unsigned one.
        let time = i64::try_from(cursor.number()).unwrap();
        let message = cursor.prefixed();
        let others = cursor.number();
        let others = (0..others).map(|_| cursor.prefixed()).collect();
        let columns = cursor.number();
        let table: Vec<_> = (0..columns).map(|_| (cursor.number(), cursor.length())).collect();
        let columns = table.into_iter().map(|(number, length)| (number, cursor.take(length))).collect();
        let rest = cursor.0.to_vec();
        Self { dependencies, actor, seq, start_op, time, message, others, columns, rest }
    }

    pub fn column(&mut self, number: u64) -> &mut Vec<u8> {
        let place = self.columns.iter().position(|(known, _)| *known >= number).unwrap_or(self.columns.len());
        if self.columns.get(place).is_none_or(|(known, _)| *known != number) {
            self.columns.insert(place, (number, Vec::new()));
        }
        &mut self.columns[place].1
    }

    /// Puts it together with the right length and checksum.
    pub fn seal(&self) -> Vec<u8> {
        let mut body = unsigned(count(&self.dependencies));
        body.extend(self.dependencies.iter().flatten());
        body.extend(prefixed(&self.actor));
        body.extend(unsigned(self.seq));
        body.extend(unsigned(self.start_op));
        body.extend(signed(self.time));
        body.extend(prefixed(&self.message));
        body.extend(unsigned(count(&self.others)));
        body.extend(self.others.iter().flat_map(|actor| prefixed(actor)));
        body.extend(unsigned(count(&self.columns)));
        for (number, data) in &self.columns {
            body.extend(unsigned(*number));
            body.extend(unsigned(count(data)));
        }
        body.extend(self.columns.iter().flat_map(|(_, data)| data));
        body.extend(&self.rest);
        wrap(&body)
    }

    /// The same under the derived actor that certifies it, if it claims one.
    pub fn certified(mut self) -> Self {
        if self.actor.first() == Some(&Actor::DERIVED) {
            self.actor = vec![0; 16];
            let blank = self.seal();
            self.actor = Actor::derived(&blank[8..]).as_bytes().to_vec();
        }
        self
    }
}

struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    fn take(&mut self, count: usize) -> Vec<u8> {
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        taken.to_vec()
    }

    fn number(&mut self) -> u64 {
        let end = self.0.iter().position(|byte| byte & 0x80 == 0).unwrap();
        self.take(end + 1).iter().rev().fold(0, |value, byte| value << 7 | u64::from(byte & 0x7f))
    }

    fn length(&mut self) -> usize {
        usize::try_from(self.number()).unwrap()
    }

    fn prefixed(&mut self) -> Vec<u8> {
        let length = self.length();
        self.take(length)
    }
}

/// A change chunk around a body.
pub fn wrap(body: &[u8]) -> Vec<u8> {
    let mut chunk = vec![0x85, 0x6f, 0x4a, 0x83, 0, 0, 0, 0, 1];
    chunk.extend(unsigned(count(body)));
    chunk.extend(body);
    reseal(&mut chunk);
    chunk
}

/// Sets the right checksum.
pub fn reseal(chunk: &mut [u8]) {
    let hash: [u8; 32] = Sha256::digest(&chunk[8..]).into();
    chunk[4..8].copy_from_slice(&hash[..4]);
}

pub fn unsigned(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let byte = u8::try_from(value & 0x7f).unwrap();
        value >>= 7;
        if value == 0 {
            bytes.push(byte);
            return bytes;
        }
        bytes.push(byte | 0x80);
    }
}

pub fn signed(mut value: i64) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let byte = u8::try_from(value & 0x7f).unwrap();
        value >>= 7;
        if (value == 0 && byte & 0x40 == 0) || (value == -1 && byte & 0x40 != 0) {
            bytes.push(byte);
            return bytes;
        }
        bytes.push(byte | 0x80);
    }
}

/// Runs of one value each: how many times, and the value's bytes.
pub fn runs(runs: &[(i64, &[u8])]) -> Vec<u8> {
    let run = |(times, value): &(i64, &[u8])| [signed(if *times == 1 { -1 } else { *times }), value.to_vec()].concat();
    runs.iter().flat_map(run).collect()
}

fn prefixed(bytes: &[u8]) -> Vec<u8> {
    [unsigned(count(bytes)), bytes.to_vec()].concat()
}

fn count<T>(items: &[T]) -> u64 {
    u64::try_from(items.len()).unwrap()
}
