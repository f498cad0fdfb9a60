//! What becomes of one altered change: through `Change::parse` and `Document::apply`, with a document that knows
//! what the honest one was written on.

use anabranch_core::Change;
use anabranch_core::document::{ApplyError, Document};

use super::fleet;
use super::mutation::{Choose, mutate};

/// A history with the documents that have its beginnings, so that a trial need not build them.
pub struct History {
    pub changes: Vec<Change>,
    documents: Vec<Document>,
}

impl History {
    pub fn new(changes: Vec<Change>) -> Self {
        let mut document = Document::new(&fleet::actor(9));
        let mut documents = Vec::new();
        for change in &changes {
            documents.push(document.clone());
            document.apply(std::slice::from_ref(change)).unwrap();
        }
        Self { changes, documents }
    }
}

/// How far an altered change came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    Unaltered,
    Unread,
    Refused,
    /// Automerge saw it, and panicked, within its bounds.
    Panicked,
    /// Automerge saw it, and gave it back as another, or refused it.
    Altered,
    /// It is a change like any other.
    Taken,
}

/// Alters a change of the history and has it applied.
///
/// # Panics
/// If something is wrong: a refusal leaves traces, the honest change is refused, or what was taken cannot be kept.
pub fn run(choose: &mut impl Choose, history: &History) -> (Outcome, String) {
    // The later ones have more to name.
    let place = choose.below(history.changes.len()).max(choose.below(history.changes.len()));
    let honest = &history.changes[place];
    let bytes = mutate(choose, &history.changes, honest);
    if bytes == honest.bytes() {
        return (Outcome::Unaltered, String::new());
    }
    let change = match Change::parse(bytes) {
        Ok(change) => change,
        Err(error) => return (Outcome::Unread, error.to_string()),
    };
    let mut document = history.documents[place].clone();
    let before = document.heads();
    match document.apply(std::slice::from_ref(&change)) {
        Ok(_) => {
            check_taken(&document, &change);
            (Outcome::Taken, String::new())
        }
        Err(error) if error.is_untouched() => {
            assert_eq!(document.heads(), before);
            assert_eq!(document.apply(std::slice::from_ref(honest)).map(|new| new.len()), Ok(1), "the honest one");
            (Outcome::Refused, kind(&error).to_owned())
        }
        Err(ApplyError::Poisoned) => (Outcome::Panicked, String::new()),
        Err(error) => (Outcome::Altered, kind(&error).to_owned()),
    }
}

/// The document can be read, saved and loaded.
fn check_taken(document: &Document, change: &Change) {
    let state = document.state(Some(&fleet::notes())).unwrap_or_else(|error| panic!("{error}: {change:?}"));
    let folded = document.fold().unwrap_or_else(|error| panic!("{error}: {change:?}"));
    let back = Document::load(&fleet::actor(9), Some(&folded.bytes), Vec::new()).unwrap();
    assert_eq!(back.state(Some(&fleet::notes())).unwrap(), state);
    assert_eq!(back.change(&change.hash()).as_ref(), Some(change));
}

fn kind(error: &ApplyError) -> &'static str {
    match error {
        ApplyError::MissingDependency(_) => "a dependency is missing",
        ApplyError::OutOfSequence(_) => "out of sequence",
        ApplyError::Fork { .. } => "a fork",
        ApplyError::StartOp(_) => "its first op",
        ApplyError::NotInPast(_) => "names what it cannot know",
        ApplyError::Misplaced(_) => "takes an op for what it is not",
        ApplyError::TooDeep(_) => "too deep",
        ApplyError::Unreadable(_) => "unreadable",
        ApplyError::Refused => "refused",
        ApplyError::Altered(_) => "altered",
        _ => "another",
    }
}
