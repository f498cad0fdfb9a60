//! Deals a trace out to several replicas, as sessions that happen at the same time.
//!
//! One person typed the trace from front to back, so the position of a later keystroke counts what the earlier
//! ones had typed. A replica that is cut off sees the shared beginning and its own share, and nothing of the
//! others'. Each keystroke is therefore moved to where its writer would have made it: behind the same
//! character, or the nearest one before it that this replica has. What it would have deleted of another's
//! share stays. With one replica all of this changes nothing, and the trace is typed as it was.

use super::trace::{Patch, Trace, Txn};
use crate::error::CliError;

/// With several replicas, this part of the trace is typed before they are cut off: the text that they share.
const SHARED_PART: usize = 10;
/// The most characters in a block, so that no edit looks at all of a long text.
const BLOCK: usize = 1_024;

/// A trace, dealt out.
pub(super) struct Deal {
    /// What is typed and synced before the replicas are cut off.
    pub(super) before: Vec<Txn>,
    /// What each of them types then.
    pub(super) shares: Vec<Vec<Txn>>,
}

/// Deals a trace out to `replicas` replicas.
pub(super) fn deal(trace: &Trace, replicas: usize) -> Result<Deal, CliError> {
    let shared = if replicas > 1 { trace.txns.len().div_ceil(SHARED_PART) } else { 0 };
    let (before, rest) = trace.txns.split_at(shared);
    let mut text = Text::new(&trace.start_content);
    let mut number = 0;
    let mut play = |text: &mut Text, txns: &[Txn]| -> Result<Vec<Txn>, CliError> {
        let mut share = Vec::with_capacity(txns.len());
        for txn in txns {
            let mut patches = Vec::with_capacity(txn.patches.len());
            for patch in &txn.patches {
                text.replace(patch, &mut patches).ok_or_else(|| {
                    CliError::Usage(format!("{}: transaction {number} edits beyond the text's end", trace.source))
                })?;
            }
            number += 1;
            share.push(Txn { patches });
        }
        Ok(share)
    };
    let before = play(&mut text, before)?;
    text.make_shared();
    let mut shares = Vec::with_capacity(replicas);
    for share in rest.chunks(rest.len().div_ceil(replicas).max(1)) {
        text.switch_writer();
        shares.push(play(&mut text, share)?);
    }
    shares.resize_with(replicas, Vec::new);
    Ok(Deal { before, shares })
}

/// A character that is, or was, in the text.
#[derive(Clone, Copy)]
struct Char {
    /// In the text as the trace has it.
    stands: bool,
    /// In the text as this share's writer has it.
    seen: bool,
    /// Of the text that all writers share.
    shared: bool,
}

/// Characters that follow one another, with their counts.
#[derive(Default)]
struct Block {
    chars: Vec<Char>,
    standing: usize,
    seen: usize,
}

/// The text as the trace and as one writer have it, side by side.
struct Text {
    blocks: Vec<Block>,
}

impl Block {
    fn of(chars: Vec<Char>) -> Self {
        let mut block = Self { chars, ..Self::default() };
        block.count();
        block
    }

    fn count(&mut self) {
        self.standing = self.chars.iter().filter(|char| char.stands).count();
        self.seen = self.chars.iter().filter(|char| char.seen).count();
    }
}

impl Text {
    fn new(start: &str) -> Self {
        let chars = vec![Char { stands: true, seen: true, shared: true }; start.chars().count()];
        let blocks: Vec<_> = chars.chunks(BLOCK).map(|chars| Block::of(chars.to_vec())).collect();
        Self { blocks: if blocks.is_empty() { vec![Block::default()] } else { blocks } }
    }

    /// Everything that stands is what all writers begin with.
    fn make_shared(&mut self) {
        for block in &mut self.blocks {
            block.chars.retain(|char| char.stands);
            block.chars.iter_mut().for_each(|char| char.shared = true);
            block.count();
        }
    }

    /// The next writer sees what is shared, and nothing of what the others have done.
    fn switch_writer(&mut self) {
        for block in &mut self.blocks {
            block.chars.iter_mut().for_each(|char| char.seen = char.shared);
            block.count();
        }
    }

    /// Makes an edit of the trace; what the writer does for it is appended to `done`. `None` if it lies beyond
    /// the text.
    fn replace(&mut self, Patch(at, delete, insert): &Patch, done: &mut Vec<Patch>) -> Option<()> {
        let (block, index, here) = self.find(*at)?;
        let runs = self.delete(block, index, *delete)?;
        self.insert(block, index, insert.chars().count());
        match runs.as_slice() {
            [] => {}
            [(0, length)] => {
                done.push(Patch(here, *length, insert.clone()));
                return Some(());
            }
            runs => done.extend(runs.iter().map(|(skipped, length)| Patch(here + skipped, *length, String::new()))),
        }
        if !insert.is_empty() {
            done.push(Patch(here, 0, insert.clone()));
        }
        Some(())
    }

    /// The place behind the first `at` standing characters: its block, the index there, and how many characters
    /// the writer sees before it.
    fn find(&self, at: usize) -> Option<(usize, usize, usize)> {
        let (mut left, mut seen) = (at, 0);
        for (number, block) in self.blocks.iter().enumerate() {
            if left > block.standing {
                left -= block.standing;
                seen += block.seen;
                continue;
            }
            let mut index = 0;
            while left > 0 {
                let char = block.chars[index];
                left -= usize::from(char.stands);
                seen += usize::from(char.seen);
                index += 1;
            }
            return Some((number, index, seen));
        }
        None
    }

    /// Deletes standing characters from a place on. Returns the runs that the writer deletes of what it sees,
    /// each with the number of seen characters that it skips before.
    fn delete(&mut self, mut block: usize, mut index: usize, mut count: usize) -> Option<Vec<(usize, usize)>> {
        let mut runs: Vec<(usize, usize)> = Vec::new();
        let mut skipped = 0;
        while count > 0 {
            let current = self.blocks.get_mut(block)?;
            let Some(char) = current.chars.get_mut(index) else {
                (block, index) = (block + 1, 0);
                continue;
            };
            match (char.stands, char.seen) {
                (true, seen) => {
                    (char.stands, char.seen) = (false, false);
                    current.standing -= 1;
                    count -= 1;
                    if seen {
                        current.seen -= 1;
                        match runs.last_mut() {
                            Some((at, length)) if *at == skipped => *length += 1,
                            _ => runs.push((skipped, 1)),
                        }
                    }
                }
                (false, true) => skipped += 1,
                (false, false) => {}
            }
            index += 1;
        }
        Some(runs)
    }

    fn insert(&mut self, block: usize, index: usize, count: usize) {
        let typed = Char { stands: true, seen: true, shared: false };
        let into = &mut self.blocks[block];
        into.chars.splice(index..index, std::iter::repeat_n(typed, count));
        into.standing += count;
        into.seen += count;
        if into.chars.len() > 2 * BLOCK {
            let split: Vec<_> = into.chars.chunks(BLOCK).map(|chars| Block::of(chars.to_vec())).collect();
            self.blocks.splice(block..=block, split);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(text: &str, txns: &[Txn]) -> String {
        let mut text: Vec<char> = text.chars().collect();
        for Patch(at, delete, insert) in txns.iter().flat_map(|txn| &txn.patches) {
            text.splice(at..&(at + delete), insert.chars());
        }
        text.into_iter().collect()
    }

    fn trace(start: &str, patches: &[(usize, usize, &str)]) -> Trace {
        let txn =
            |&(at, delete, insert): &(usize, usize, &str)| Txn { patches: vec![Patch(at, delete, insert.to_owned())] };
        Trace { start_content: start.to_owned(), txns: patches.iter().map(txn).collect(), ..Trace::default() }
    }

    #[test]
    fn one_replica_types_the_trace_as_it_was() {
        let trace = Trace::load(None).unwrap();
        let deal = deal(&trace, 1).unwrap();
        assert!(deal.before.is_empty());
        assert_eq!(deal.shares[0].len(), trace.txns.len());
        for (dealt, typed) in deal.shares[0].iter().zip(&trace.txns) {
            assert_eq!(dealt.patches, typed.patches);
        }
    }

    #[test]
    fn each_writer_edits_behind_the_characters_that_it_knows() {
        // The first transaction is shared; then one writes "big ", and another deletes "red ", which stands
        // further to the right in the trace, and types at the end.
        let trace = trace("a red ", &[(6, 0, "car"), (2, 0, "big "), (0, 1, "A"), (6, 4, ""), (9, 0, "!")]);
        let deal = deal(&trace, 2).unwrap();
        let shared = apply("a red ", &deal.before);
        assert_eq!(shared, "a red car");
        assert_eq!(apply(&shared, &deal.shares[0]), "A big red car");
        assert_eq!(apply(&shared, &deal.shares[1]), "a car!");
    }

    #[test]
    fn what_another_has_written_is_not_deleted() {
        let trace = trace("", &[(0, 0, "ab"), (1, 0, "xy"), (0, 3, "Q")]);
        let deal = deal(&trace, 2).unwrap();
        assert_eq!(apply("ab", &deal.shares[0]), "axyb");
        assert_eq!(apply("ab", &deal.shares[1]), "Qb");
    }

    #[test]
    fn every_share_fits_its_own_text_however_many_there_are() {
        let trace = Trace::load(None).unwrap();
        for replicas in 1..=9 {
            let deal = deal(&trace, replicas).unwrap();
            assert_eq!(deal.shares.len(), replicas);
            let shared = apply(&trace.start_content, &deal.before);
            // `apply` panics if a position is out of range.
            deal.shares.iter().for_each(|share| drop(apply(&shared, share)));
        }
    }

    #[test]
    fn an_edit_beyond_the_end_is_refused() {
        for patch in [(3, 0, "x"), (1, 2, "")] {
            assert!(deal(&trace("ab", &[patch]), 1).is_err());
        }
    }

    #[test]
    fn a_long_text_is_split_into_blocks() {
        let long = "x".repeat(10 * BLOCK);
        let trace = trace("", &[(0, 0, &long), (5_000, 3, "y"), (10 * BLOCK - 2, 0, "z")]);
        let deal = deal(&trace, 1).unwrap();
        assert_eq!(deal.shares[0][1].patches, [Patch(5_000, 3, "y".to_owned())]);
        assert_eq!(deal.shares[0][2].patches, [Patch(10 * BLOCK - 2, 0, "z".to_owned())]);
    }
}
