//! What differs between two states, for a person to look at, and between two texts, for an edit to write.

use std::collections::BTreeSet;

use serde_json::Value;

use super::DELETED_KEY;
use super::state::State;
use super::text::TextSplice;
use super::write::shared_ends;

/// Beyond this many insertions and deletions two texts are not compared any closer. The search takes memory as
/// the square of this, and time as this times the texts' length.
const MAX_EDITS: usize = 400;

/// From this many characters on, what two texts share is no chance.
const LONG_RUN: usize = 4;

/// What two texts share: its place in the old one, its place in the new one, and its length.
type Run = (usize, usize, usize);

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

impl TextSplice {
    /// What turns a text into another: the fewest insertions and deletions, as far as they are few enough; else one
    /// replacement of all that the two do not share at their ends.
    ///
    /// ```
    /// use anabranch_core::document::TextSplice;
    ///
    /// let splices = TextSplice::between("milk, eggs", "milk");
    /// assert_eq!(splices, [TextSplice { at: 4, delete: 6, insert: String::new() }]);
    /// ```
    #[must_use]
    pub fn between(before: &str, after: &str) -> Vec<Self> {
        splices(before, after)
    }
}

/// The fewest insertions and deletions that turn a text into another, as far as they are few enough; else one
/// replacement of all that the two do not share at their ends.
fn splices(before: &str, after: &str) -> Vec<TextSplice> {
    let before: Vec<char> = before.chars().collect();
    let after: Vec<char> = after.chars().collect();
    between(&before, &after, |old, new| shared(old, new).unwrap_or_default())
}

/// What writes a text anew: as [`splices`], but letters that the two share by chance are not kept. They would have
/// others' concurrent edits of the old text, and undos of it, strike in the midst of the new one.
pub(super) fn rewrite(before: &str, after: &str) -> Vec<TextSplice> {
    let before: Vec<char> = before.chars().collect();
    let after: Vec<char> = after.chars().collect();
    between(&before, &after, |old, new| {
        let kept = shared(old, new).or_else(|| shared_words(old, new)).unwrap_or_default();
        meant(&kept, old.len(), new.len())
    })
}

/// The splices between the runs that are kept of what two texts do not share at their ends.
fn between(before: &[char], after: &[char], kept: impl FnOnce(&[char], &[char]) -> Vec<Run>) -> Vec<TextSplice> {
    let (prefix, suffix) = shared_ends(before, after);
    let old = &before[prefix..before.len() - suffix];
    let new = &after[prefix..after.len() - suffix];
    // What lies between one kept run and the next is replaced.
    let mut splices = Vec::new();
    let (mut x, mut y) = (0, 0);
    for (to_x, to_y, length) in kept(old, new).into_iter().chain([(old.len(), new.len(), 0)]) {
        if (x, y) != (to_x, to_y) {
            splices.push(TextSplice { at: prefix + y, delete: to_x - x, insert: new[y..to_y].iter().collect() });
        }
        (x, y) = (to_x + length, to_y + length);
    }
    splices
}

/// The runs that are not shared by chance: the long ones, and between two of them the short ones, if they are no less
/// than what changes around them.
fn meant(runs: &[Run], old: usize, new: usize) -> Vec<Run> {
    let mut meant = Vec::with_capacity(runs.len());
    let (mut last, mut short) = ((0, 0, 0), Vec::new());
    for run in runs.iter().copied().chain([(old, new, 0)]) {
        if (1..LONG_RUN).contains(&run.2) {
            short.push(run);
            continue;
        }
        let kept: usize = short.iter().map(|(.., length)| length).sum();
        let mut changed = 0;
        for next in short.iter().copied().chain([run]) {
            let (x, y, length) = std::mem::replace(&mut last, next);
            changed += (next.0 - x - length).max(next.1 - y - length);
        }
        if kept >= changed {
            meant.append(&mut short);
        }
        short.clear();
        meant.extend((run.2 > 0).then_some(run));
    }
    meant
}

/// The runs of whole words that two texts share.
fn shared_words(old: &[char], new: &[char]) -> Option<Vec<Run>> {
    let words = |text| <[char]>::chunk_by(text, |a, b| a.is_alphanumeric() && b.is_alphanumeric()).collect::<Vec<_>>();
    let (old, new) = (words(old), words(new));
    let length = |words: &[&[char]]| words.iter().map(|word| word.len()).sum::<usize>();
    let runs = shared(&old, &new)?.into_iter();
    Some(runs.map(|(x, y, count)| (length(&old[..x]), length(&new[..y]), length(&old[x..x + count]))).collect())
}

/// The runs that two texts share, of characters or of words: the greedy algorithm of
/// Myers, *An O(ND) Difference Algorithm and Its Variations* (1986). `None` if too much differs.
fn shared<T: PartialEq>(old: &[T], new: &[T]) -> Option<Vec<Run>> {
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

struct Search<'a, T> {
    old: &'a [T],
    new: &'a [T],
    /// For each number of edits, and each number of insertions among them, how much of the old text the longest
    /// match has used up; `None` where there is none.
    rounds: Vec<Vec<Option<usize>>>,
}

impl<T: PartialEq> Search<'_, T> {
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
    fn runs(&self, mut edits: usize, mut inserted: usize) -> Vec<Run> {
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

        #[test]
        fn a_rewrite_is_right(old in "[abcé😀 ]{0,24}", new in "[abcé😀 ]{0,24}") {
            prop_assert_eq!(applied(&old, &rewrite(&old, &new)), new.clone());
            let (old, new): (Vec<char>, Vec<char>) = (old.chars().collect(), new.chars().collect());
            for (x, y, length) in shared_words(&old, &new).unwrap() {
                prop_assert_eq!(&old[x..x + length], &new[y..y + length]);
            }
        }
    }

    #[track_caller]
    fn rewrites(old: &str, new: &str, expected: &[(usize, usize, &str)]) {
        let made = rewrite(old, new);
        assert_eq!(applied(old, &made), new);
        let made: Vec<_> = made.iter().map(|splice| (splice.at, splice.delete, splice.insert.as_str())).collect();
        assert_eq!(made, expected, "{old:?} to {new:?}");
    }

    #[test]
    fn a_rewrite_keeps_nothing_by_chance() {
        rewrites("mine", "a long text of b's", &[(0, 4, "a long text of b's")]);
        rewrites("mine", "lime", &[(0, 3, "lim")]);
        let (old, new) = ("Call the plumber about the leak.", "Bread, eggs and oat milk, please.");
        rewrites(old, new, &[(0, 31, "Bread, eggs and oat milk, please")]);
        // One sentence of several is another; the rest is as it was.
        let around = |sentence: &str| format!("Teh first. {sentence} The last, tpyed badly.");
        let fixed = |sentence: &str| around(sentence).replace("Teh", "The").replace("tpy", "typ");
        let expected = [(1, 2, "he"), (11, 31, &new[..32]), (56, 2, "yp")];
        rewrites(&around(old), &fixed(new), &expected);
    }

    #[test]
    fn a_small_edit_stays_small() {
        rewrites("the qick brwn fox", "the quick brown fox jumps", &[(5, 0, "u"), (12, 0, "o"), (19, 0, " jumps")]);
        rewrites("I recieve and beleive", "I receive and believe", &[(5, 2, "ei"), (17, 2, "ie")]);
        rewrites("1.2.3", "2.2.4", &[(0, 1, "2"), (4, 1, "4")]);
        rewrites("a1 b2 c3", "a2 b3 c4", &[(1, 1, "2"), (4, 1, "3"), (7, 1, "4")]);
        rewrites("one two", "one, two, three", &[(3, 0, ","), (8, 0, ", three")]);
        rewrites("same", "same", &[]);
        rewrites("", "new", &[(0, 0, "new")]);
    }

    #[test]
    fn a_long_text_that_differs_in_many_places_keeps_its_words() {
        let old: String = (0..150).map(|number| format!("{number} apples, ")).collect();
        let new = old.replace("apples", "oranges");
        let made = rewrite(&old, &new);
        assert_eq!(applied(&old, &made), new);
        assert_eq!(made.len(), 150);
        let deleted: usize = made.iter().map(|splice| splice.delete).sum();
        // The end of the last word is one with the end of the text.
        assert_eq!(deleted, 150 * "apples".len() - "es".len());
    }

    #[test]
    fn texts_that_share_little_are_replaced() {
        let (old, new) = ("a".repeat(1_000), "b".repeat(1_000));
        let all = TextSplice { at: 1, delete: 1_000, insert: new.clone() };
        assert_eq!(splices(&format!("({old})"), &format!("({new})")), [all]);
    }
}
