//! What one replica has discarded and another still has.
//!
//! A change that its author has given up may have reached others before, and each of them offers it to the server and is
//! refused in its turn. Whoever hands it to a replica that has discarded it is told so. It is discarded there as well if
//! the server has refused it there, too, and it was not written there: then nobody has another decision to make.

use std::collections::BTreeMap;

use anabranch_core::document::{Document, Removal};
use anabranch_core::{ChangeHash, EntityId, SpaceName};
use rusqlite::params;
use tracing::info;

use crate::engine::Write;
use crate::error::StoreError;
use crate::receive::Received;
use crate::rows::{self, EntityRow};
use anabranch_core::wire::Envelope;

/// A change that came and was not taken, because it was discarded here before: its entity, and its hash.
pub type Declined = (EntityId, ChangeHash);

impl Write<'_> {
    /// As [`apply_peer`](Self::apply_peer); also tells what was not taken because it was discarded here before.
    ///
    /// # Errors
    /// If the database fails.
    pub fn take_from_peer(
        &mut self,
        space: &SpaceName,
        incoming: Vec<Envelope>,
    ) -> Result<(Received, Vec<Declined>), StoreError> {
        let received = self.apply_peer(space, incoming)?;
        Ok((received, std::mem::take(&mut self.declined).into_iter().collect()))
    }

    /// Another replica has discarded these. What others have written and the server has refused here, too, is discarded;
    /// the rest stays: a person may still decide otherwise, or the server take it. Returns how many went.
    ///
    /// # Errors
    /// If the database fails.
    pub fn discard_declined(&mut self, space: &SpaceName, declined: &[Declined]) -> Result<usize, StoreError> {
        let Some(space) = rows::space_key(&self.engine.connection, space)? else { return Ok(0) };
        let mut by_entity: BTreeMap<EntityId, Vec<ChangeHash>> = BTreeMap::new();
        for (entity, hash) in declined {
            by_entity.entry(*entity).or_default().push(*hash);
        }
        let mut gone = 0;
        for (entity, hashes) in by_entity {
            let Some(row) = rows::find_shared_entity(&self.engine.connection, space, entity)? else { continue };
            let document = self.engine.take_document(&row)?;
            let forms = forms(&document, &hashes);
            self.engine.cache.put(row.key, document);
            let mut removal = Removal::default();
            for hash in forms {
                if self.is_refused_of_others(&row, &hash)? {
                    removal.discard.insert(hash);
                }
            }
            if !removal.is_empty() {
                info!(entity = %row.id, "discarded: its author has given it up, and the server does not take it");
                gone += self.rewrite_history(&row, &removal)?.gone;
            }
        }
        Ok(gone)
    }

    /// Whether this is somebody else's, no server has it, and one has refused it.
    fn is_refused_of_others(&self, row: &EntityRow, hash: &ChangeHash) -> Result<bool, StoreError> {
        let mut refused = self.engine.connection.prepare_cached(
            "SELECT 1 FROM changes c JOIN outbox o ON o.change = c.seq \
             WHERE c.entity = ? AND c.hash = ? AND c.origin <> 'local' AND o.state = 'parked'",
        )?;
        let refused = refused.exists(params![row.key, hash.as_bytes()])?;
        Ok(refused && !self.is_accepted(row, hash)?)
    }
}

/// These changes, and what was written from them.
fn forms(document: &Document, hashes: &[ChangeHash]) -> Vec<ChangeHash> {
    let rewritten = document.rewrites().into_iter().filter(|(rewrite, _)| hashes.contains(&rewrite.original));
    let held = hashes.iter().copied().filter(|hash| document.has(hash));
    held.chain(rewritten.map(|(_, form)| form)).collect()
}
