//! Operational transformation: what one edit of a text becomes beside another.

use anabranch_core::document::TextSplice;

/// An edit of a whole text: what stays, what comes and what goes, from the beginning on. What is behind the last
/// part stays. Lengths count Unicode scalar values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Operation {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Retain(usize),
    Insert(String),
    Delete(usize),
}

impl Operation {
    /// The edit that one splice is.
    pub(super) fn of(splice: &TextSplice) -> Self {
        let mut operation = Self::default();
        operation.retain(splice.at);
        operation.insert(&splice.insert);
        operation.delete(splice.delete);
        operation.trimmed()
    }

    /// The edit that several splices are, each counting its position after those before it.
    pub(super) fn of_all(splices: &[TextSplice]) -> Self {
        let mut whole = Self::default();
        // While they run from the beginning to the end of the text, each goes on where the last one ended.
        let mut end = 0;
        let mut ascending = true;
        for splice in splices {
            ascending &= splice.at >= end;
            if ascending {
                whole.retain(splice.at - end);
                whole.insert(&splice.insert);
                whole.delete(splice.delete);
                end = splice.at + length(&splice.insert);
            } else {
                whole = whole.then(&Self::of(splice));
            }
        }
        whole.trimmed()
    }

    /// Whether it changes nothing.
    pub(super) const fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// What stays behind the last change goes without saying.
    fn trimmed(mut self) -> Self {
        self.parts.pop_if(|last| matches!(last, Part::Retain(_)));
        self
    }

    /// The edit as splices, in order.
    pub(super) fn splices(&self) -> Vec<TextSplice> {
        let mut splices: Vec<TextSplice> = Vec::new();
        let mut at = 0;
        for part in &self.parts {
            match part {
                Part::Retain(count) => at += count,
                Part::Insert(text) => {
                    splices.push(TextSplice { at, delete: 0, insert: text.clone() });
                    at += length(text);
                }
                Part::Delete(count) => match splices.last_mut() {
                    Some(last) if last.delete == 0 && last.at + length(&last.insert) == at => last.delete = *count,
                    _ => splices.push(TextSplice { at, delete: *count, insert: String::new() }),
                },
            }
        }
        splices
    }

    /// Makes the edit.
    pub(super) fn apply(&self, text: &str) -> String {
        let mut rest = text;
        let mut result = String::with_capacity(text.len());
        for part in &self.parts {
            match part {
                Part::Retain(count) => {
                    let (kept, behind) = split(rest, *count);
                    result.push_str(kept);
                    rest = behind;
                }
                Part::Insert(text) => result.push_str(text),
                Part::Delete(count) => rest = split(rest, *count).1,
            }
        }
        result.push_str(rest);
        result
    }

    /// This edit and then another, as one.
    pub(super) fn then(&self, next: &Self) -> Self {
        let (mut first, mut second) = (Pieces::of(self), Pieces::of(next));
        let mut both = Self::default();
        while !(first.is_at_end() && second.is_at_end()) {
            match (first.peek(), second.peek()) {
                (Piece::Delete(count), _) => both.delete(first.skip(count)),
                (_, Piece::Insert(text)) => {
                    both.insert(text);
                    second.skip(length(text));
                }
                (piece, other) => {
                    let count = piece.length().min(other.length());
                    match (first.take(count), second.take(count)) {
                        (Piece::Insert(text), Piece::Retain(_)) => both.insert(text),
                        (Piece::Insert(_), _) => {}
                        (_, Piece::Delete(count)) => both.delete(count),
                        _ => both.retain(count),
                    }
                }
            }
        }
        both.trimmed()
    }

    /// Two edits of the same text, each as it is after the other: `a` then `b'` is `b` then `a'`. Where both
    /// insert at one place, this one's text comes first.
    pub(super) fn beside(&self, other: &Self) -> (Self, Self) {
        let (mut ours, mut theirs) = (Pieces::of(self), Pieces::of(other));
        let (mut a, mut b) = (Self::default(), Self::default());
        while !(ours.is_at_end() && theirs.is_at_end()) {
            match (ours.peek(), theirs.peek()) {
                (Piece::Insert(text), _) => {
                    a.insert(text);
                    b.retain(ours.skip(length(text)));
                }
                (_, Piece::Insert(text)) => {
                    b.insert(text);
                    a.retain(theirs.skip(length(text)));
                }
                (piece, other) => {
                    let count = piece.length().min(other.length());
                    match (ours.take(count), theirs.take(count)) {
                        (Piece::Retain(_), Piece::Retain(_)) => {
                            a.retain(count);
                            b.retain(count);
                        }
                        (Piece::Delete(_), Piece::Retain(_)) => a.delete(count),
                        (Piece::Retain(_), Piece::Delete(_)) => b.delete(count),
                        _ => {}
                    }
                }
            }
        }
        (a.trimmed(), b.trimmed())
    }

    /// Where a position is after the edit. An insertion right there pushes it on only if `pushed`.
    pub(super) fn moved(&self, at: usize, pushed: bool) -> usize {
        let (mut rest, mut moved) = (at, 0);
        for part in &self.parts {
            match part {
                Part::Retain(count) if *count > rest => break,
                Part::Retain(count) => (rest, moved) = (rest - count, moved + count),
                Part::Insert(_) if rest == 0 && !pushed => break,
                Part::Insert(text) => moved += length(text),
                Part::Delete(count) => rest = rest.saturating_sub(*count),
            }
        }
        moved + rest
    }

    fn retain(&mut self, count: usize) {
        match self.parts.last_mut() {
            _ if count == 0 => {}
            Some(Part::Retain(last)) => *last += count,
            _ => self.parts.push(Part::Retain(count)),
        }
    }

    /// At one place insertions come before deletions, so that equal edits have equal parts.
    fn insert(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        let at = self.parts.len() - usize::from(matches!(self.parts.last(), Some(Part::Delete(_))));
        match at.checked_sub(1).map(|before| &mut self.parts[before]) {
            Some(Part::Insert(last)) => last.push_str(text),
            _ => self.parts.insert(at, Part::Insert(text.to_owned())),
        }
    }

    fn delete(&mut self, count: usize) {
        match self.parts.last_mut() {
            _ if count == 0 => {}
            Some(Part::Delete(last)) => *last += count,
            _ => self.parts.push(Part::Delete(count)),
        }
    }
}

fn length(text: &str) -> usize {
    text.chars().count()
}

/// The first characters of a text, and the rest.
fn split(text: &str, count: usize) -> (&str, &str) {
    let end = text.char_indices().nth(count).map_or(text.len(), |(offset, _)| offset);
    text.split_at(end)
}

/// A part, or a piece of one.
#[derive(Clone, Copy, Debug)]
enum Piece<'a> {
    Retain(usize),
    Insert(&'a str),
    Delete(usize),
}

impl Piece<'_> {
    fn length(self) -> usize {
        match self {
            Self::Retain(count) | Self::Delete(count) => count,
            Self::Insert(text) => length(text),
        }
    }
}

/// Reads an operation piece by piece. Behind the end everything stays.
struct Pieces<'a> {
    parts: std::slice::Iter<'a, Part>,
    current: Option<Piece<'a>>,
}

impl<'a> Pieces<'a> {
    fn of(operation: &'a Operation) -> Self {
        let mut pieces = Self { parts: operation.parts.iter(), current: None };
        pieces.advance();
        pieces
    }

    fn advance(&mut self) {
        self.current = self.parts.next().map(|part| match part {
            Part::Retain(count) => Piece::Retain(*count),
            Part::Insert(text) => Piece::Insert(text),
            Part::Delete(count) => Piece::Delete(*count),
        });
    }

    const fn is_at_end(&self) -> bool {
        self.current.is_none()
    }

    fn peek(&self) -> Piece<'a> {
        self.current.unwrap_or(Piece::Retain(usize::MAX))
    }

    /// Takes this much of the current piece.
    fn take(&mut self, count: usize) -> Piece<'a> {
        let piece = self.peek();
        if self.is_at_end() {
            return Piece::Retain(count);
        }
        let (taken, rest) = match piece {
            Piece::Retain(all) => (Piece::Retain(count), Piece::Retain(all - count)),
            Piece::Delete(all) => (Piece::Delete(count), Piece::Delete(all - count)),
            Piece::Insert(text) => {
                let (taken, rest) = split(text, count);
                (Piece::Insert(taken), Piece::Insert(rest))
            }
        };
        if rest.length() == 0 {
            self.advance()
        } else {
            self.current = Some(rest)
        }
        taken
    }

    /// Passes over this much of the current piece, and returns how much that was.
    fn skip(&mut self, count: usize) -> usize {
        self.take(count);
        count
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Splices that fit a text of this length, one after the other.
    pub(crate) fn splices(text: &str, raw: &[(usize, usize, String)]) -> Vec<TextSplice> {
        let mut left = length(text);
        let mut splices = Vec::new();
        for (at, delete, insert) in raw {
            let at = at % (left + 1);
            let delete = (*delete).min(left - at);
            left = left - delete + length(insert);
            splices.push(TextSplice { at, delete, insert: insert.clone() });
        }
        splices
    }

    pub(crate) fn raw() -> impl Strategy<Value = Vec<(usize, usize, String)>> {
        prop::collection::vec((0..40_usize, 0..4_usize, "[a-cé🏝]{0,3}"), 0..6)
    }

    /// The model: one splice after the other on plain characters.
    fn spliced(text: &str, splices: &[TextSplice]) -> String {
        let mut chars: Vec<char> = text.chars().collect();
        for TextSplice { at, delete, insert } in splices {
            chars.splice(at..&(at + delete), insert.chars());
        }
        chars.into_iter().collect()
    }

    fn operation(text: &str, raw: &[(usize, usize, String)]) -> Operation {
        Operation::of_all(&splices(text, raw))
    }

    proptest! {
        #[test]
        fn an_operation_does_what_its_splices_do(text in ".{0,12}", raw in raw()) {
            let given = splices(&text, &raw);
            let operation = Operation::of_all(&given);
            prop_assert_eq!(operation.apply(&text), spliced(&text, &given));
            prop_assert_eq!(spliced(&text, &operation.splices()), spliced(&text, &given));
            prop_assert_eq!(Operation::of_all(&operation.splices()), operation);
        }

        #[test]
        fn one_after_the_other_is_one(text in ".{0,12}", first in raw(), second in raw()) {
            let first = operation(&text, &first);
            let middle = first.apply(&text);
            let second = operation(&middle, &second);
            prop_assert_eq!(first.then(&second).apply(&text), second.apply(&middle));
        }

        #[test]
        fn composition_is_associative(text in ".{0,12}", a in raw(), b in raw(), c in raw()) {
            let a = operation(&text, &a);
            let b = operation(&a.apply(&text), &b);
            let c = operation(&b.apply(&a.apply(&text)), &c);
            let (left, right) = (a.then(&b).then(&c), a.then(&b.then(&c)));
            prop_assert_eq!(left.apply(&text), right.apply(&text));
        }

        /// TP1.
        #[test]
        fn either_order_leads_to_the_same_text(text in ".{0,12}", a in raw(), b in raw()) {
            let (a, b) = (operation(&text, &a), operation(&text, &b));
            let (a_after_b, b_after_a) = a.beside(&b);
            prop_assert_eq!(b_after_a.apply(&a.apply(&text)), a_after_b.apply(&b.apply(&text)));
        }

        /// Everything inserted is still there, and everything deleted by either is gone.
        #[test]
        fn nothing_is_lost_beside_another(a in raw(), b in raw()) {
            let text = "0123456789";
            let (a, b) = (operation(text, &a), operation(text, &b));
            let both = b.beside(&a).0.apply(&a.apply(text));
            for digit in text.chars() {
                let kept = a.apply(text).contains(digit) && b.apply(text).contains(digit);
                prop_assert_eq!(both.contains(digit), kept);
            }
            let inserted = |text: &str| text.chars().filter(|c| !c.is_ascii_digit()).count();
            prop_assert_eq!(inserted(&both), inserted(&a.apply(text)) + inserted(&b.apply(text)));
        }

        #[test]
        fn a_position_stays_between_the_same_characters(text in "[a-z]{0,12}", raw in raw(), at in 0..13_usize) {
            let at = at.min(length(&text));
            let operation = operation(&text, &raw);
            // The same edit with a mark at the position, which no edit knows of.
            for pushed in [false, true] {
                let moved = operation.moved(at, pushed);
                let mark = Operation::of(&TextSplice { at, delete: 0, insert: "|".to_owned() });
                let (mark, operation) = if pushed {
                    let (operation, mark) = operation.beside(&mark);
                    (mark, operation)
                } else {
                    mark.beside(&operation)
                };
                drop(operation);
                let expected = Operation::of(&TextSplice { at: moved, delete: 0, insert: "|".to_owned() });
                prop_assert_eq!(mark, expected);
            }
        }
    }

    #[test]
    fn of_two_insertions_at_one_place_ours_comes_first() {
        let insert = |text: &str| Operation::of(&TextSplice { at: 1, delete: 0, insert: text.to_owned() });
        let (ours, theirs) = insert("ours").beside(&insert("theirs"));
        assert_eq!(ours.apply("atheirsb"), "aourstheirsb");
        assert_eq!(theirs.apply("aoursb"), "aourstheirsb");
    }
}
