//! Taking what can be taken of an entity's changes, some of which are bad.
//!
//! Each attempt is at as many changes as the last ones lead to expect, down to a single one, which is then refused. A
//! change that passes admission can still spoil the document in memory; that is set back to a copy, and never read
//! from the file again, so a hostile change costs about as much as an honest one.

use anabranch_core::document::{ApplyError, Document};
use anabranch_core::{Change, Collection};
use tracing::debug;

use crate::error::QuarantineReason;

/// After so many changes that spoil the document, what came with them is not tried any more. A page of a pull holds
/// about as many; a segment could hold thirty times that.
const MAX_SPOILING: usize = 1_000;

/// Why changes were not merged, and whether the document is as it was before.
pub(super) struct Refusal {
    pub(super) reason: QuarantineReason,
    pub(super) untouched: bool,
}

/// What was taken, and what was not.
pub(crate) struct Sifted {
    pub(crate) document: Document,
    /// For each change, why it was refused, if it was.
    pub(crate) refused: Vec<Option<QuarantineReason>>,
    attempts: usize,
}

/// Applies changes and proves that the state can be read afterwards: a row must follow from every document that is
/// stored.
pub(super) fn merge(document: &mut Document, changes: &[Change], schema: Option<&Collection>) -> Result<(), Refusal> {
    let refused = |error: ApplyError| Refusal { untouched: error.is_untouched(), reason: error.into() };
    document.apply(changes).map_err(refused)?;
    let state = document.state(schema).map(drop);
    state.map_err(|error| Refusal { reason: QuarantineReason::Refused(error.to_string()), untouched: false })
}

/// Applies what can be applied of changes, each of which comes after those it depends on.
pub(crate) fn sift(document: Document, changes: &[Change], schema: Option<&Collection>) -> Sifted {
    let sifted = sift_most(document, changes, schema, MAX_SPOILING);
    debug!(changes = changes.len(), attempts = sifted.attempts, "told good changes from bad ones");
    sifted
}

fn sift_most(document: Document, changes: &[Change], schema: Option<&Collection>, most: usize) -> Sifted {
    let mut sifted = Sifted { document, refused: Vec::with_capacity(changes.len()), attempts: 0 };
    // The document as it is, unless something has been taken since.
    let mut copy = None;
    let (mut size, mut spoiling) = ((changes.len() / 2).max(1), 0);
    while let Some(rest) = changes.get(sifted.refused.len()..).filter(|rest| !rest.is_empty()) {
        if spoiling >= most {
            sifted.refused.extend(rest.iter().map(|_| Some(QuarantineReason::NotTried)));
            break;
        }
        let tried = &rest[..size.min(rest.len())];
        let sound = copy.get_or_insert_with(|| sifted.document.clone());
        sifted.attempts += 1;
        match merge(&mut sifted.document, tried, schema) {
            Ok(()) => {
                sifted.refused.extend(tried.iter().map(|_| None));
                copy = None;
                size = tried.len() * 2;
            }
            Err(Refusal { reason, untouched }) => {
                if !untouched {
                    sifted.document = sound.clone();
                }
                size = (tried.len() / 2).max(1);
                if tried.len() == 1 {
                    spoiling += usize::from(!untouched);
                    sifted.refused.push(Some(reason));
                }
            }
        }
    }
    sifted
}

#[cfg(test)]
mod tests {
    use anabranch_core::{Actor, Schema, Stamp};
    use automerge::transaction::{CommitOptions, Transactable as _, Transaction};
    use automerge::{ActorId, Automerge, ObjType, ROOT};
    use serde_json::json;

    use super::*;

    /// A note, and changes beside one another on top of it: the bad ones make Automerge panic.
    struct Case {
        document: Document,
        automerge: Automerge,
        birth: automerge::legacy::OpId,
    }

    impl Case {
        fn new() -> Self {
            let schema = Schema::from_toml("version = 1\n[collections.notes.fields]\ntitle = { kind = \"register\" }");
            let schema = schema.unwrap();
            let actor = Actor::from_bytes(&[1; 16]).unwrap();
            let mut document = Document::new(&actor);
            let fields = json!({ "title": "x" });
            let notes = anabranch_core::CollectionName::new("notes").unwrap();
            let stamp = Stamp::from_raw(1 << 16).unwrap();
            let collection = schema.collection("notes").unwrap();
            let changes = document.create(&notes, collection, stamp, fields.as_object().unwrap()).unwrap();
            let mut automerge = Automerge::new();
            for change in &changes {
                automerge.apply_changes([automerge::Change::from_bytes(change.bytes().to_vec()).unwrap()]).unwrap();
            }
            let birth = automerge::legacy::OpId::new(1, &ActorId::from(actor.as_bytes()));
            Self { document, automerge, birth }
        }

        fn written(&self, n: u16, write: impl FnOnce(&mut Transaction<'_>)) -> automerge::Change {
            let [a, b] = n.to_be_bytes();
            let mut document = self.automerge.clone().with_actor(ActorId::from([2, a, b]));
            let mut transaction = document.transaction();
            write(&mut transaction);
            transaction.commit_with(CommitOptions::default().with_time(5));
            document.get_last_local_change().unwrap()
        }

        fn good(&self, n: u16) -> Change {
            let change = self.written(n, |transaction| transaction.put(ROOT, format!("k{n}"), 1).unwrap());
            Change::parse(change.raw_bytes().to_vec()).unwrap()
        }

        fn bad(&self, n: u16) -> Change {
            let mut expanded = self
                .written(n, |transaction| {
                    let text = transaction.put_object(ROOT, "title", ObjType::Text).unwrap();
                    transaction.splice_text(&text, 0, 0, "ab").unwrap();
                })
                .decode();
            expanded.hash = None;
            // An element that is none.
            expanded.operations[2].key =
                automerge::legacy::Key::Seq(automerge::legacy::ElementId::Id(self.birth.clone()));
            Change::parse(automerge::Change::from(expanded).raw_bytes().to_vec()).unwrap()
        }

        fn changes(&self, count: u16, is_bad: impl Fn(u16) -> bool) -> Vec<Change> {
            (0..count).map(|n| if is_bad(n) { self.bad(n) } else { self.good(n) }).collect()
        }
    }

    #[test]
    fn only_bad_changes_are_refused_in_few_attempts() {
        let case = Case::new();
        let is_bad = |n: u16| [0, 150, 151, 299].contains(&n);
        let changes = case.changes(300, is_bad);
        let Sifted { document, refused, attempts } = sift(case.document.clone(), &changes, None);
        for ((n, change), refused) in (0..).zip(&changes).zip(&refused) {
            assert_eq!((refused.is_some(), document.has(&change.hash())), (is_bad(n), !is_bad(n)), "{n}");
        }
        assert!(attempts < 80, "{attempts}");
        let mut straight = case.document.clone();
        let good: Vec<_> = changes.iter().zip(&refused).filter(|(_, refused)| refused.is_none()).collect();
        straight.apply(&good.into_iter().map(|(change, _)| change.clone()).collect::<Vec<_>>()).unwrap();
        assert_eq!(document.state(None).unwrap(), straight.state(None).unwrap());
        assert_eq!(document.heads(), straight.heads());
        document.fold().unwrap();
    }

    #[test]
    fn g11_after_many_that_spoil_the_document_no_more_are_tried() {
        let case = Case::new();
        let changes = case.changes(60, |n| n % 2 == 1);
        let Sifted { document, refused, attempts } = sift_most(case.document.clone(), &changes, None, 5);
        let tried = refused.iter().take_while(|refused| **refused != Some(QuarantineReason::NotTried)).count();
        assert_eq!((tried, refused.len()), (10, 60), "the fifth bad one is the tenth");
        assert!(attempts < 30, "{attempts}");
        assert_eq!(changes.iter().filter(|change| document.has(&change.hash())).count(), 5);
        assert!(document.state(None).is_ok());
    }
}
