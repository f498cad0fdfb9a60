//! The text that an editor shows, and what lies between it and the document. Pure: no threads, no IO.

use std::collections::BTreeMap;

use anabranch_core::document::TextSplice;

use super::operation::Operation;
use crate::text_index;

/// An editor's text beside a document's.
///
/// ```text
///   document ── in_flight ── pending ──┐
///                                      ├── what both will be
///   text ────────── incoming ──────────┘
/// ```
#[derive(Debug, Default)]
pub(super) struct Mirror {
    /// What the editor shows.
    text: String,
    /// The document's text as it was last seen.
    document: String,
    /// What others have written and the editor has not taken yet.
    incoming: Operation,
    /// What the editor has written and is being stored.
    in_flight: Operation,
    /// What the editor has written since.
    pending: Operation,
    cursors: BTreeMap<u64, usize>,
    next_cursor: u64,
}

impl Mirror {
    pub(super) fn new(text: String) -> Self {
        Self { document: text.clone(), text, ..Self::default() }
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The document's text as it was last seen.
    pub(super) fn document(&self) -> &str {
        &self.document
    }

    pub(super) fn length(&self) -> usize {
        self.text.chars().count()
    }

    /// The editor has made a splice. `None`, and nothing is done, if it does not fit the text.
    pub(super) fn splice(&mut self, splice: &TextSplice) -> Option<()> {
        text_index::splice(&mut self.text, splice.at, splice.delete, &splice.insert)?;
        let local = Operation::of(splice);
        self.cursors.values_mut().for_each(|at| *at = local.moved(*at, true));
        let (written, incoming) = local.beside(&self.incoming);
        self.pending = self.pending.then(&written);
        self.incoming = incoming;
        Some(())
    }

    /// The editor takes what others have written.
    pub(super) fn take(&mut self) -> Vec<TextSplice> {
        let incoming = std::mem::take(&mut self.incoming);
        if incoming.is_empty() {
            return Vec::new();
        }
        self.text = incoming.apply(&self.text);
        self.cursors.values_mut().for_each(|at| *at = incoming.moved(*at, false));
        incoming.splices()
    }

    /// Whether something of the editor's is not stored yet.
    pub(super) fn is_dirty(&self) -> bool {
        !(self.pending.is_empty() && self.in_flight.is_empty())
    }

    /// What is to be stored next, on top of the document as it was last seen.
    pub(super) fn begin(&mut self) -> Operation {
        self.in_flight = std::mem::take(&mut self.pending);
        self.in_flight.clone()
    }

    /// It has been stored, and this was written by others before it: as it is after what was in flight.
    pub(super) fn stored(&mut self, remote: &Operation) {
        let in_flight = std::mem::take(&mut self.in_flight);
        self.document = remote.apply(&in_flight.apply(&self.document));
        let (pending, remote) = self.pending.beside(remote);
        self.pending = pending;
        self.incoming = self.incoming.then(&remote);
    }

    /// It has not been stored: it is to be tried again.
    pub(super) fn refused(&mut self) {
        let in_flight = std::mem::take(&mut self.in_flight);
        self.pending = in_flight.then(&self.pending);
    }

    /// A new cursor; `None` if the text is shorter.
    pub(super) fn add_cursor(&mut self, at: usize) -> Option<u64> {
        (at <= self.length()).then(|| {
            self.next_cursor += 1;
            self.cursors.insert(self.next_cursor, at);
            self.next_cursor
        })
    }

    pub(super) fn cursor(&self, key: u64) -> usize {
        self.cursors.get(&key).copied().unwrap_or_default()
    }

    pub(super) fn move_cursor(&mut self, key: u64, at: usize) -> Option<()> {
        (at <= self.length()).then(|| {
            self.cursors.insert(key, at);
        })
    }

    pub(super) fn remove_cursor(&mut self, key: u64) {
        self.cursors.remove(&key);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::operation::tests::splices;
    use super::*;

    /// What can happen between an editor and its document.
    #[derive(Clone, Debug)]
    enum Event {
        /// The editor types.
        Local(usize, usize, String),
        /// Somebody else writes to the document.
        Remote(usize, usize, String),
        /// The editor takes what is there.
        Take,
        /// A write begins, unless one is under way.
        Begin,
        /// The write under way ends, well or not.
        End(bool),
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let splice = || (0..40_usize, 0..4_usize, "[a-cé🏝]{0,3}");
        let event = prop_oneof![
            3 => splice().prop_map(|(at, delete, insert)| Event::Local(at, delete, insert)),
            3 => splice().prop_map(|(at, delete, insert)| Event::Remote(at, delete, insert)),
            1 => Just(Event::Take),
            2 => Just(Event::Begin),
            2 => any::<bool>().prop_map(Event::End),
        ];
        prop::collection::vec(event, 0..60)
    }

    /// A document, and the editor's last view of it.
    #[derive(Default)]
    struct Document {
        text: String,
        since: Vec<TextSplice>,
        under_way: Option<Operation>,
    }

    impl Document {
        fn write(&mut self, (at, delete, insert): (usize, usize, String)) {
            let written = splices(&self.text, &[(at, delete, insert)]);
            self.text = Operation::of_all(&written).apply(&self.text);
            self.since.extend(written);
        }

        /// What the writer thread does.
        fn store(&mut self, mirror: &mut Mirror, done: bool) {
            let Some(local) = self.under_way.take() else { return };
            if !done {
                return mirror.refused();
            }
            let remote = Operation::of_all(&std::mem::take(&mut self.since));
            let (local, remote) = local.beside(&remote);
            self.text = local.apply(&self.text);
            mirror.stored(&remote);
        }
    }

    fn happen(event: Event, mirror: &mut Mirror, editor: &mut String, document: &mut Document) {
        match event {
            Event::Local(at, delete, insert) => {
                let splice = splices(editor, &[(at, delete, insert)]).remove(0);
                *editor = Operation::of(&splice).apply(editor);
                mirror.splice(&splice).expect("it fits");
            }
            Event::Remote(at, delete, insert) => document.write((at, delete, insert)),
            Event::Take => *editor = Operation::of_all(&mirror.take()).apply(editor),
            Event::Begin if document.under_way.is_none() => document.under_way = Some(mirror.begin()),
            Event::Begin => {}
            Event::End(done) => document.store(mirror, done),
        }
    }

    proptest! {
        #[test]
        fn editor_and_document_end_up_with_the_same_text(events in events()) {
            let (mut mirror, mut editor, mut document) = (Mirror::default(), String::new(), Document::default());
            for event in events {
                happen(event, &mut mirror, &mut editor, &mut document);
                prop_assert_eq!(mirror.text(), &editor);
            }
            for event in [Event::End(true), Event::Begin, Event::End(true), Event::Take] {
                happen(event, &mut mirror, &mut editor, &mut document);
            }
            prop_assert!(!mirror.is_dirty());
            prop_assert_eq!(mirror.text(), &editor);
            prop_assert_eq!(mirror.text(), &document.text);
            prop_assert_eq!(mirror.document(), &document.text);
        }
    }

    #[test]
    fn a_cursor_moves_with_the_text_around_it() {
        let mut mirror = Mirror::new("milk".to_owned());
        let [start, middle, end] = [0, 2, 4].map(|at| mirror.add_cursor(at).unwrap());
        assert_eq!(mirror.add_cursor(5), None);
        let remote = TextSplice { at: 4, delete: 0, insert: ", eggs".to_owned() };
        mirror.stored(&Operation::of(&remote));
        assert_eq!(mirror.take(), [remote]);
        assert_eq!([start, middle, end].map(|key| mirror.cursor(key)), [0, 2, 4], "others' text comes behind it");
        mirror.splice(&TextSplice { at: 0, delete: 3, insert: "oat ".to_owned() }).unwrap();
        assert_eq!(mirror.text(), "oat k, eggs");
        assert_eq!([start, middle, end].map(|key| mirror.cursor(key)), [4, 4, 5]);
        mirror.move_cursor(end, 11).unwrap();
        mirror.splice(&TextSplice { at: 11, delete: 0, insert: "!".to_owned() }).unwrap();
        assert_eq!(mirror.cursor(end), 12, "what is typed comes before it");
        mirror.remove_cursor(end);
        assert_eq!(mirror.splice(&TextSplice { at: 12, delete: 1, insert: String::new() }), None);
    }
}
