//! Entities whose rows were derived without a document: their documents are looked at when they are first loaded,
//! or when there is nothing else to do. What does not come to what the row says is repaired, and noted.

use anabranch_core::document::Document;
use anabranch_core::{Change, ErrorKind};
use tracing::warn;

use crate::cache::EntityKey;
use crate::engine::{Committed, Dirty, Engine, Job, Pending, Undo, Write};
use crate::error::{QuarantineReason, StoreError};
use crate::receive::sift::{Sifted, sift};
use crate::rows::{self, EntityRow};

/// Entities that an idle writer looks at in one commit: a write that comes meanwhile waits a few milliseconds.
const SWEEP: u32 = 128;

impl Engine {
    pub(crate) fn is_unchecked(&self, key: EntityKey) -> Result<bool, StoreError> {
        Ok(self.connection.prepare_cached("SELECT 1 FROM unchecked WHERE entity = ?")?.exists([key])?)
    }

    /// Loads a document that has never been loaded here, as if its changes came just now.
    pub(crate) fn load_unchecked(&mut self, row: &EntityRow) -> Result<Document, StoreError> {
        let changes = rows::logged_changes(&self.connection, row.key)?;
        let mut document = Document::new(&self.actor);
        let sound = document.apply(&changes).is_ok();
        self.connection.prepare_cached("DELETE FROM unchecked WHERE entity = ?")?.execute([row.key])?;
        // Rows that are derived again after an upgrade need not agree with what was there.
        if sound && (self.projecting || self.row_is_of(row, &document)?) {
            return Ok(document);
        }
        self.repair(row, changes)
    }

    fn row_is_of(&self, row: &EntityRow, document: &Document) -> Result<bool, StoreError> {
        let Ok(state) = document.state(self.schema.collection(row.collection.as_str())) else { return Ok(false) };
        let mut select = self.connection.prepare_cached("SELECT digest, heads FROM entities WHERE key = ?")?;
        let (digest, heads): (Vec<u8>, Vec<u8>) =
            select.query_row([row.key], |found| Ok((found.get(0)?, found.get(1)?)))?;
        Ok(digest == state.digest().as_bytes() && heads == document.heads().to_bytes())
    }

    /// Takes what can be taken of the changes; the rest goes to quarantine, and the row follows from what was taken.
    fn repair(&mut self, row: &EntityRow, changes: Vec<Change>) -> Result<Document, StoreError> {
        warn!(entity = %row.id, "what a segment brought is not what its document comes to; repairing");
        let schema = std::sync::Arc::clone(&self.schema);
        let schema = schema.collection(row.collection.as_str());
        let Sifted { document, refused, .. } = sift(Document::new(&self.actor), &changes, schema);
        for (change, reason) in changes.iter().zip(refused) {
            if let Some(reason) = reason {
                self.refuse_logged(row, change, &reason)?;
            }
        }
        if self.projecting {
            return Ok(document);
        }
        self.cache.put(row.key, document.clone());
        let mut pending = Pending::default();
        pending.dirty.insert(row.key, Dirty { document: true, recount: true, ..Dirty::default() });
        self.flush(&mut pending)?;
        self.repaired.extend(pending.touched());
        drop(self.cache.take(row.key));
        Ok(document)
    }

    fn refuse_logged(&mut self, row: &EntityRow, change: &Change, reason: &QuarantineReason) -> Result<(), StoreError> {
        let seq = rows::change_seq(&self.connection, row.key, &change.hash())?;
        self.connection.prepare_cached("DELETE FROM outbox WHERE change = ?")?.execute([seq])?;
        self.connection.prepare_cached("DELETE FROM changes WHERE seq = ?")?.execute([seq])?;
        self.quarantine_logged(row, change, reason)
    }

    /// Looks at a few entities that have not been looked at, unless a first sync is under way. `None` if there are
    /// none, or that failed.
    pub fn sweep(&mut self) -> Option<Committed> {
        if self.sweeping {
            return None;
        }
        let due = "SELECT EXISTS (SELECT 1 FROM unchecked) AND NOT EXISTS (SELECT 1 FROM first_syncs)";
        let due = self.connection.prepare_cached(due).and_then(|mut due| due.query_row([], |row| row.get(0)));
        if self.unwanted.is_some() || due.unwrap_or(false) { self.commit(vec![Box::new(Sweep)]) } else { None }
    }
}

struct Sweep;

impl Job for Sweep {
    fn run(&mut self, write: &mut Write<'_>) -> Result<(), Undo> {
        // A panic would leave it so, too.
        write.engine.sweeping = true;
        write.sweep().map_err(|failure| {
            warn!(kind = ?failure.kind(), "looking at entities failed");
            Undo
        })?;
        write.engine.sweeping = false;
        Ok(())
    }

    fn finish(self: Box<Self>, _outcome: Result<(), StoreError>) {}
}

impl Write<'_> {
    fn sweep(&mut self) -> Result<(), StoreError> {
        if let Some(remote) = self.engine.unwanted.take() {
            return self.drop_unwanted(remote);
        }
        let mut select = self.engine.connection.prepare_cached("SELECT entity FROM unchecked LIMIT ?")?;
        let keys: Vec<EntityKey> = select.query_map([SWEEP], |row| row.get(0))?.collect::<Result<_, _>>()?;
        drop(select);
        for key in keys {
            let looked_at = match rows::entity_by_key(&self.engine.connection, key)? {
                Some(row) => self.engine.take_document(&row).map(drop),
                None => Ok(()),
            };
            if let Err(failure) = looked_at {
                if failure.kind() == ErrorKind::Retry {
                    return Err(failure);
                }
                // Whoever needs it is told again; the others go on.
                warn!(kind = ?failure.kind(), "an entity cannot be looked at");
            }
            self.engine.connection.prepare_cached("DELETE FROM unchecked WHERE entity = ?")?.execute([key])?;
        }
        Ok(())
    }
}
