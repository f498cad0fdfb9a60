//! What differs between two states, for a person to look at.

use std::collections::BTreeSet;

use serde_json::Value;

use super::DELETED_KEY;
use super::state::State;
use super::text::TextSplice;
use super::write::shared_ends;

/// Beyond this many insertions and deletions two texts are not compared any closer. The search takes memory as
/// the square of this, and time as this times the texts' length.
const MAX_EDITS: usize = 400;

/// A field that differs.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldDiff {
    /// The field. `$deleted` stands for the entity itself: `false` to `true` for a deletion.
    pub field: String,
    /// Its value before; `None` if it had none.
    pub before: Option<Value>,
    /// Its value after; `None` if it has none.
    pub after: Option<Value>,
    /// If both values are strings, what turns the one into the other.
    pub splices: Vec<TextSplice>,
}

/// The fields that differ, sorted by name.
#[must_use]
pub fn diff(before: &State, after: &State) -> Vec<FieldDiff> {
    let names: BTreeSet<&String> = before.fields.keys().chain(after.fields.keys()).collect();
    let field = |name: &String| {
        let (before, after) = (before.fields.get(name).cloned(), after.fields.get(name).cloned());
        let splices = match (&before, &after) {
            (Some(Value::String(before)), Some(Value::String(after))) => splices(before, after),
            _ => Vec::new(),
        };
        FieldDiff { field: name.clone(), before, after, splices }
    };
    let fields = names.into_iter().map(field).filter(|field| field.before != field.after);
    let deleted = (before.deleted != after.deleted).then(|| FieldDiff {
        field: DELETED_KEY.to_owned(),
        before: Some(before.deleted.into()),
        after: Some(after.deleted.into()),
        splices: Vec::new(),
    });
    deleted.into_iter().chain(fields).collect()
}

/// The fewest insertions and deletions that turn a text into another, as far as they are few enough; else one
/// replacement of all that the two do not share at their ends.
fn splices(before: &str, after: &str) -> Vec<TextSplice> {
    let before: Vec<char> = before.chars().collect();
    let after: Vec<char> = after.chars().collect();
    let (prefix, suffix) = shared_ends(&before, &after);
    let old = &before[prefix..before.len() - suffix];
    let new = &after[prefix..after.len() - suffix];
    let kept = shared(old, new).unwrap_or_default();
    // What lies between one kept run and the next is replaced.
    let mut splices = Vec::new();
    let (mut x, mut y) = (0, 0);
    for (to_x, to_y, length) in kept.into_iter().chain([(old.len(), new.len(), 0)]) {
        if (x, y) != (to_x, to_y) {
            splices.push(TextSplice { at: prefix + y, delete: to_x - x, insert: new[y..to_y].iter().collect() });
        }
        (x, y) = (to_x + length, to_y + length);
    }
    splices
}

/// The runs that two texts share, as (place in the old, place in the new, length): the greedy algorithm of
/// Myers, *An O(ND) Difference Algorithm and Its Variations* (1986). `None` if too much differs.
fn shared(old: &[char], new: &[char]) -> Option<Vec<(usize, usize, usize)>> {
    let mut search = Search { old, new, rounds: Vec::new() };
    for edits in 0..=MAX_EDITS {
        let round: Vec<_> = (0..=edits).map(|inserted| search.furthest(edits, inserted)).collect();
        // The end lies where the insertions make up for the difference of the lengths.
        let end =
            |inserted: &usize| round[*inserted] == Some(old.len()) && old.len() + 2 * inserted == new.len() + edits;
        let end = (0..=edits).find(end);
        search.rounds.push(round);
        if let Some(inserted) = end {
            return Some(search.runs(edits, inserted));
        }
    }
    None
}

struct Search<'a> {
    old: &'a [char],
    new: &'a [char],
    /// For each number of edits, and each number of insertions among them, how much of the old text the longest
    /// match has used up; `None` where there is none.
    rounds: Vec<Vec<Option<usize>>>,
}

impl Search<'_> {
    /// Where a match begins to go on after its last edit, in the old text.
    fn start(&self, edits: usize, inserted: usize) -> Option<usize> {
        let Some(last) = edits.checked_sub(1).map(|last| &self.rounds[last]) else { return Some(0) };
        let deletion = last.get(inserted).copied().flatten().filter(|x| *x < self.old.len()).map(|x| x + 1);
        let insertion = inserted.checked_sub(1).and_then(|inserted| last[inserted]);
        let insertion = insertion.filter(|x| place_in_new(*x, edits, inserted) <= self.new.len());
        deletion.max(insertion)
    }

    fn furthest(&self, edits: usize, inserted: usize) -> Option<usize> {
        let x = self.start(edits, inserted)?;
        let y = place_in_new(x, edits, inserted);
        let run = self.old[x..].iter().zip(&self.new[y..]).take_while(|(old, new)| old == new).count();
        Some(x + run)
    }

    /// The runs on the way to the end, from the first on.
    fn runs(&self, mut edits: usize, mut inserted: usize) -> Vec<(usize, usize, usize)> {
        let mut runs = Vec::new();
        while let (Some(start), Some(end)) = (self.start(edits, inserted), self.rounds[edits][inserted]) {
            if end > start {
                runs.push((start, place_in_new(start, edits, inserted), end - start));
            }
            let Some(last) = edits.checked_sub(1) else { break };
            let by_deletion = self.rounds[last].get(inserted).copied().flatten().is_some_and(|x| x + 1 == start);
            (edits, inserted) = (last, if by_deletion { inserted } else { inserted - 1 });
        }
        runs.reverse();
        runs
    }
}

/// Where a match is in the new text: it has come as far as in the old one, less what was deleted, and with what
/// was inserted.
const fn place_in_new(x: usize, edits: usize, inserted: usize) -> usize {
    x + 2 * inserted - edits
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn applied(text: &str, splices: &[TextSplice]) -> String {
        let mut text: Vec<char> = text.chars().collect();
        for TextSplice { at, delete, insert } in splices {
            text.splice(*at..at + delete, insert.chars());
        }
        text.into_iter().collect()
    }

    /// The length of the longest common subsequence, the slow way.
    fn common(old: &[char], new: &[char]) -> usize {
        let mut lengths = vec![vec![0; new.len() + 1]; old.len() + 1];
        for (x, a) in old.iter().enumerate() {
            for (y, b) in new.iter().enumerate() {
                let longer = lengths[x][y + 1].max(lengths[x + 1][y]);
                lengths[x + 1][y + 1] = if a == b { lengths[x][y] + 1 } else { longer };
            }
        }
        lengths[old.len()][new.len()]
    }

    proptest! {
        #[test]
        fn splices_are_right_and_the_fewest(old in "[abcé😀]{0,24}", new in "[abcé😀]{0,24}") {
            let made = splices(&old, &new);
            prop_assert_eq!(applied(&old, &made), new.clone());
            let (old, new): (Vec<char>, Vec<char>) = (old.chars().collect(), new.chars().collect());
            let deleted: usize = made.iter().map(|splice| splice.delete).sum();
            prop_assert_eq!(deleted, old.len() - common(&old, &new));
        }
    }

    #[test]
    fn texts_that_share_little_are_replaced() {
        let (old, new) = ("a".repeat(1_000), "b".repeat(1_000));
        let all = TextSplice { at: 1, delete: 1_000, insert: new.clone() };
        assert_eq!(splices(&format!("({old})"), &format!("({new})")), [all]);
    }
}
