//! Keeps a session and its document together: one write at a time, and what is typed meanwhile goes into the next.

use std::sync::Arc;

use anabranch_core::document::{Edit, State as Document, TextSplice};
use anabranch_core::{EntityId, FieldName, Heads, SpaceName};
use anabranch_store::{Promise, StoreError, Write};
use tokio::sync::watch;
use tracing::warn;

use super::operation::Operation;
use super::{Shared, State};
use crate::error::Error;

/// What is done in one transaction.
struct Round {
    local: Operation,
    base: Heads,
    /// The text at the base, for when the document does not know the base any more.
    text: String,
    waiting: Vec<Promise<(), Error>>,
}

/// What came of it.
struct Outcome {
    /// What others have written since, as it is after what was written here.
    remote: Operation,
    heads: Heads,
}

/// Runs until the session has been dropped and everything is stored.
pub(super) async fn run(shared: Arc<Shared>, mut signal: watch::Receiver<u64>) {
    loop {
        let seen = signal.has_changed().unwrap_or(false);
        signal.mark_unchanged();
        let next = shared.lock().next(seen);
        match next {
            Next::Round(round) => shared.run(round).await,
            Next::Wait => tokio::select! {
                () = shared.wake.notified() => {}
                // It ends with the replica, which the session keeps open.
                changed = signal.changed() => if changed.is_err() { return } else { signal.mark_changed() },
            },
            Next::End => return,
        }
    }
}

enum Next {
    Round(Round),
    Wait,
    End,
}

impl State {
    /// What to do next; `seen` says that the entity has changed.
    fn next(&mut self, seen: bool) -> Next {
        if let Some(failure) = self.failure.as_ref().filter(|_| self.ended) {
            self.waiting.drain(..).for_each(|promise| promise.resolve(Err(again(failure).into())));
            return if self.closed { Next::End } else { Next::Wait };
        }
        // What has been refused is tried again when somebody types or asks; until then only others' text is taken.
        let (asked, dirty) = (!self.waiting.is_empty(), self.mirror.is_dirty());
        let write = asked || (dirty && (self.failure.is_none() || self.retry));
        if self.closed && !write {
            if dirty {
                warn!("a text session was dropped with text that could not be stored");
            }
            return Next::End;
        }
        if !(seen || write) {
            return Next::Wait;
        }
        let local = if write { self.mirror.begin() } else { Operation::default() };
        self.retry = false;
        let (base, text) = (self.base.clone(), self.mirror.document().to_owned());
        Next::Round(Round { local, base, text, waiting: std::mem::take(&mut self.waiting) })
    }

    fn settle(&mut self, result: Result<Outcome, StoreError>, tried: bool) {
        match result {
            Ok(Outcome { remote, heads }) => {
                self.mirror.stored(&remote);
                self.base = heads;
                if tried || !self.mirror.is_dirty() {
                    self.failure = None;
                }
            }
            Err(failure) => {
                self.mirror.refused();
                // It may have been stored: writing it again could double it.
                self.ended |= matches!(failure, StoreError::CommitUnknown(_));
                self.failure = Some(failure);
            }
        }
    }
}

impl Shared {
    async fn run(&self, round: Round) {
        let Round { local, base, text, waiting } = round;
        let tried = !local.is_empty() || !waiting.is_empty();
        let (space, id, field) = (self.space.clone(), self.id, self.field.clone());
        let work = move |write: &mut Write<'_>| {
            let remote = remote(write, &space, id, &field, (&base, &text))?;
            write_round(write, &space, id, &field, &local, remote)
        };
        let written = self.replica.store().write(work);
        let result = written.await;
        let outcome = match &result {
            Ok(_) => Ok(()),
            Err(failure) => Err(again(failure)),
        };
        self.lock().settle(result, tried);
        self.news.send_modify(|count| *count = count.wrapping_add(1));
        for promise in waiting {
            promise.resolve(match &outcome {
                Ok(()) => Ok(()),
                Err(failure) => Err(again(failure).into()),
            });
        }
    }
}

/// On the writer thread: what others have done to the text since it was seen.
fn remote(
    write: &mut Write<'_>,
    space: &SpaceName,
    id: EntityId,
    field: &FieldName,
    (base, text): (&Heads, &str),
) -> Result<Operation, StoreError> {
    let splices = match write.text_splices(space, id, field, base) {
        // The history was rewritten: something that was seen has been discarded, or stands under another name. So
        // it cannot say what has become of the text; the two texts can.
        Err(StoreError::UnknownVersion(_)) => TextSplice::between(text, &text_of(&write.state(space, id)?, field)),
        known => known?,
    };
    Ok(Operation::of_all(&splices))
}

/// Writes what the editor has, as it is after what others have written.
fn write_round(
    write: &mut Write<'_>,
    space: &SpaceName,
    id: EntityId,
    field: &FieldName,
    local: &Operation,
    remote: Operation,
) -> Result<Outcome, StoreError> {
    let (local, remote) = local.beside(&remote);
    let edit = |TextSplice { at, delete, insert }| Edit::Splice { field: field.clone(), at, delete, insert };
    let edits: Vec<_> = local.splices().into_iter().map(edit).collect();
    if !edits.is_empty() {
        write.edit(space, id, &edits)?;
    }
    Ok(Outcome { remote, heads: write.heads(space, id)? })
}

/// A field's text; a text that was never written is empty.
pub(super) fn text_of(state: &Document, field: &FieldName) -> String {
    state.fields.get(field.as_str()).and_then(|text| text.as_str()).unwrap_or_default().to_owned()
}

/// The same failure, for one more who waits for it.
pub(super) fn again(failure: &StoreError) -> StoreError {
    match failure {
        StoreError::NoEntity(id) => StoreError::NoEntity(*id),
        StoreError::Deleted(id) => StoreError::Deleted(*id),
        StoreError::Purged(id) => StoreError::Purged(*id),
        StoreError::UnknownVersion(id) => StoreError::UnknownVersion(*id),
        StoreError::NoCollection(name) => StoreError::NoCollection(name.clone()),
        StoreError::TransactionTooLarge => StoreError::TransactionTooLarge,
        StoreError::DamagedRow(what) => StoreError::DamagedRow(what),
        StoreError::OutOfRange => StoreError::OutOfRange,
        StoreError::Rule { entity, field, rule } => {
            StoreError::Rule { entity: *entity, field: field.clone(), rule: rule.clone() }
        }
        StoreError::Edit(error) => StoreError::Edit(error.clone()),
        StoreError::Damaged { entity, source } => StoreError::Damaged { entity: *entity, source: source.clone() },
        StoreError::CommitUnknown(reason) => StoreError::CommitUnknown(reason.clone()),
        StoreError::Closed => StoreError::Closed,
        StoreError::Panicked => StoreError::Panicked,
        other => StoreError::Aborted(other.to_string()),
    }
}
