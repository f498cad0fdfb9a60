//! The runs of a column, one value at a time: a run is never expanded, and has one form.
//!
//! A column of numbers or strings is a sequence of runs, each a signed count: that many times one value, or,
//! negative, that many values that all differ from their neighbour, or zero and a number of nulls. Honest
//! writers make the runs as long as they can; any other form of the same values would have another hash and
//! come back altered, so it is refused.

use super::ChangeError;
use super::reader::Reader;

const SHORT: ChangeError = ChangeError::Inconsistent("columns of different lengths");
const FORM: ChangeError = ChangeError::NotCanonical("a run");

/// What a column's runs are made of.
pub(super) trait Item<'a>: Copy + PartialEq {
    fn read(reader: &mut Reader<'a>) -> Result<Self, ChangeError>;
}

impl Item<'_> for u64 {
    fn read(reader: &mut Reader<'_>) -> Result<Self, ChangeError> {
        reader.unsigned()
    }
}

impl Item<'_> for i64 {
    fn read(reader: &mut Reader<'_>) -> Result<Self, ChangeError> {
        reader.signed()
    }
}

/// A string and where in the chunk it begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Text<'a> {
    pub(super) at: usize,
    pub(super) text: &'a str,
}

impl PartialEq for Text<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl<'a> Item<'a> for Text<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, ChangeError> {
        let length = reader.bounded("a key's length", super::MAX_KEY_BYTES)?;
        let at = reader.at();
        let text = std::str::from_utf8(reader.take(length)?).map_err(|_| ChangeError::OutOfRange("a key"))?;
        Ok(Self { at, text })
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Run<T> {
    Nothing,
    Nulls,
    Repeated(T),
    Literal,
}

/// A column of runs. One that is not there is null all the way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Runs<'a, T> {
    column: Option<Reader<'a>>,
    run: Run<T>,
    left: u64,
    /// The value right before, if there is one; nulls come between.
    last: Option<T>,
    only_nulls: bool,
}

impl<'a, T: Item<'a>> Runs<'a, T> {
    pub(super) const fn new(column: Option<Reader<'a>>) -> Self {
        Self { column, run: Run::Nothing, left: 0, last: None, only_nulls: true }
    }

    pub(super) fn next(&mut self) -> Result<Option<T>, ChangeError> {
        let Some(reader) = &mut self.column else { return Ok(None) };
        if self.left == 0 {
            if reader.is_at_end() {
                return Err(SHORT);
            }
            (self.run, self.left) = next_run(reader, self.run, self.last)?;
        }
        self.left -= 1;
        self.last = match self.run {
            Run::Nothing | Run::Nulls => None,
            Run::Repeated(value) => Some(value),
            Run::Literal => {
                let value = T::read(reader)?;
                if self.last == Some(value) {
                    return Err(FORM);
                }
                Some(value)
            }
        };
        self.only_nulls &= self.last.is_none();
        Ok(self.last)
    }

    /// The next value of a column that has no nulls.
    pub(super) fn some(&mut self) -> Result<T, ChangeError> {
        self.next()?.ok_or(ChangeError::Inconsistent("a value is missing"))
    }

    /// Whether the column is there and not at its end.
    pub(super) fn has_more(&self) -> bool {
        self.left > 0 || self.column.is_some_and(|reader| !reader.is_at_end())
    }

    /// Checks that the column ends here.
    pub(super) fn end(&self) -> Result<(), ChangeError> {
        if self.has_more() {
            return Err(SHORT);
        }
        // Honest writers leave out a column of nothing but nulls.
        if self.column.is_some() && self.only_nulls { Err(ChangeError::NotCanonical("a column")) } else { Ok(()) }
    }
}

fn next_run<'a, T: Item<'a>>(
    reader: &mut Reader<'a>,
    before: Run<T>,
    last: Option<T>,
) -> Result<(Run<T>, u64), ChangeError> {
    let count = reader.signed()?;
    let (run, left) = match count {
        0 => (Run::Nulls, reader.unsigned()?),
        1.. => (Run::Repeated(T::read(reader)?), count.unsigned_abs()),
        _ => (Run::Literal, count.unsigned_abs()),
    };
    let canonical = match run {
        Run::Nulls => left > 0 && before != Run::Nulls,
        Run::Repeated(value) => left > 1 && last != Some(value),
        _ => before != Run::Literal,
    };
    if canonical { Ok((run, left)) } else { Err(FORM) }
}

/// A column of numbers, each written as its distance from the one before.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deltas<'a> {
    runs: Runs<'a, i64>,
    value: i64,
}

impl<'a> Deltas<'a> {
    pub(super) const fn new(column: Option<Reader<'a>>) -> Self {
        Self { runs: Runs::new(column), value: 0 }
    }

    pub(super) fn next(&mut self) -> Result<Option<i64>, ChangeError> {
        let Some(delta) = self.runs.next()? else { return Ok(None) };
        self.value = self.value.checked_add(delta).ok_or(ChangeError::OutOfRange("a counter"))?;
        Ok(Some(self.value))
    }

    pub(super) fn end(&self) -> Result<(), ChangeError> {
        self.runs.end()
    }
}

/// A column of booleans: how many times false, then true, then false, and so on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Booleans<'a> {
    column: Reader<'a>,
    value: bool,
    left: u64,
    begun: bool,
}

impl<'a> Booleans<'a> {
    pub(super) const fn new(column: Reader<'a>) -> Self {
        Self { column, value: true, left: 0, begun: false }
    }

    pub(super) fn next(&mut self) -> Result<bool, ChangeError> {
        while self.left == 0 {
            if self.column.is_at_end() {
                return Err(SHORT);
            }
            self.left = self.column.unsigned()?;
            if self.left == 0 && self.begun {
                return Err(FORM);
            }
            self.value = !self.value;
            self.begun = true;
        }
        self.left -= 1;
        Ok(self.value)
    }

    pub(super) fn end(&self) -> Result<(), ChangeError> {
        if self.left > 0 || !self.column.is_at_end() { Err(SHORT) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(bytes: &[u8], rows: usize) -> Result<Vec<Option<u64>>, ChangeError> {
        let mut runs = Runs::new(Some(Reader::new(bytes, 0)));
        let values = (0..rows).map(|_| runs.next()).collect::<Result<Vec<_>, _>>()?;
        runs.end().map(|()| values)
    }

    #[test]
    fn runs_read_as_they_were_written() {
        // Twice 7; the literals 8, 9; one null; three times 9.
        let bytes = [2, 7, 0x7e, 8, 9, 0, 1, 3, 9];
        let nines = [Some(9); 3];
        let values = [&[Some(7), Some(7), Some(8), Some(9), None][..], &nines].concat();
        assert_eq!(numbers(&bytes, 8), Ok(values));
        assert_eq!(numbers(&bytes, 7), Err(SHORT));
        assert_eq!(numbers(&bytes, 9), Err(SHORT));
    }

    #[test]
    fn a_column_that_is_not_there_is_null() {
        let mut runs = Runs::<u64>::new(None);
        assert_eq!(runs.next(), Ok(None));
        assert_eq!(runs.end(), Ok(()));
        assert!(!runs.has_more());
    }

    #[test]
    fn every_other_form_of_the_same_values_is_refused() {
        let not_canonical: [(&[u8], usize); 9] = [
            (&[1, 7], 1),                // a run of one
            (&[2, 7, 2, 7], 4),          // two runs of one value
            (&[0x7e, 7, 7], 2),          // neighbours that are the same
            (&[0x7f, 7, 0x7f, 8], 2),    // two literals in a row
            (&[2, 7, 0x7f, 7], 3),       // a literal that goes on with the run
            (&[0x7f, 7, 2, 7], 3),       // a run that goes on with the literal
            (&[0, 1, 0, 1, 0x7f, 7], 3), // two runs of nulls
            (&[0, 0, 0x7f, 7], 1),       // no nulls
            (&[0, 2], 2),                // nothing but nulls
        ];
        for (bytes, rows) in not_canonical {
            assert!(matches!(numbers(bytes, rows), Err(ChangeError::NotCanonical(_))), "{bytes:?}");
        }
    }

    #[test]
    fn a_run_of_any_length_costs_nothing() {
        // i64::MAX times 7.
        let bytes = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x00, 7];
        let mut runs = Runs::<u64>::new(Some(Reader::new(&bytes, 0)));
        assert_eq!(runs.next(), Ok(Some(7)));
        assert!(runs.has_more());
    }

    #[test]
    fn deltas_add_up_and_never_overflow() {
        let mut deltas = Deltas::new(Some(Reader::new(&[0x7e, 5, 0x7d, 0, 1, 2, 1], 0)));
        let values: Vec<_> = (0..5).map(|_| deltas.next().unwrap()).collect();
        assert_eq!(values, [Some(5), Some(2), None, Some(3), Some(4)]);
        let most = [2, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x00];
        let mut deltas = Deltas::new(Some(Reader::new(&most, 0)));
        assert_eq!(deltas.next(), Ok(Some(i64::MAX)));
        assert_eq!(deltas.next(), Err(ChangeError::OutOfRange("a counter")));
    }

    #[test]
    fn booleans_alternate() {
        let read = |bytes: &[u8], rows: usize| {
            let mut column = Booleans::new(Reader::new(bytes, 0));
            let values = (0..rows).map(|_| column.next()).collect::<Result<Vec<_>, _>>()?;
            column.end().map(|()| values)
        };
        assert_eq!(read(&[0, 2, 1], 3), Ok(vec![true, true, false]));
        assert_eq!(read(&[1], 1), Ok(vec![false]));
        assert_eq!(read(&[1, 0, 1], 2), Err(FORM));
        assert_eq!(read(&[0], 1), Err(SHORT));
        assert_eq!(read(&[3], 2), Err(SHORT));
    }
}
