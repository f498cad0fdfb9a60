//! The table of a change's columns.

use super::ChangeError;
use super::reader::Reader;

/// The columns of a change's ops, by the number that stands for them in the table: id and type.
#[derive(Clone, Copy, Debug)]
pub(super) enum Column {
    ObjectActor = 0x01,
    ObjectCounter = 0x02,
    KeyActor = 0x11,
    KeyCounter = 0x13,
    KeyText = 0x15,
    Insert = 0x34,
    Action = 0x42,
    ValueMeta = 0x56,
    Value = 0x57,
    PredecessorCount = 0x70,
    PredecessorActor = 0x71,
    PredecessorCounter = 0x73,
}

const KNOWN: [Column; 12] = [
    Column::ObjectActor,
    Column::ObjectCounter,
    Column::KeyActor,
    Column::KeyCounter,
    Column::KeyText,
    Column::Insert,
    Column::Action,
    Column::ValueMeta,
    Column::Value,
    Column::PredecessorCount,
    Column::PredecessorActor,
    Column::PredecessorCounter,
];

/// Where each column is.
#[derive(Debug)]
pub(super) struct Columns<'a>([Option<Reader<'a>>; KNOWN.len()]);

impl<'a> Columns<'a> {
    /// Reads the table, and splits what follows it; nothing may be left.
    pub(super) fn read(mut reader: Reader<'a>) -> Result<Self, ChangeError> {
        // Marks (columns 0x94, 0xa5) are not part of the protocol; neither are deflated columns.
        let count = reader.length("the number of columns")?;
        if count > KNOWN.len() {
            return Err(ChangeError::Unknown("a column"));
        }
        let mut table = [(0, 0); KNOWN.len()];
        let mut from = 0;
        for entry in &mut table[..count] {
            let number = reader.unsigned()?;
            let place = KNOWN[from..].iter().position(|known| *known as u64 == number);
            from += place.ok_or(ChangeError::Unknown("a column"))? + 1;
            *entry = (from - 1, reader.length("a column's length")?);
        }
        let mut columns = [None; KNOWN.len()];
        for (place, length) in &table[..count] {
            if *length == 0 {
                return Err(ChangeError::NotCanonical("a column"));
            }
            columns[*place] = Some(reader.part(*length)?);
        }
        if reader.is_at_end() { Ok(Self(columns)) } else { Err(ChangeError::Length) }
    }

    pub(super) fn get(&self, column: Column) -> Option<Reader<'a>> {
        let place = KNOWN.iter().position(|known| *known as u64 == column as u64)?;
        self.0[place]
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }
}
