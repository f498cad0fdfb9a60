//! What this file holds, for whoever reconciles with it.

use std::collections::{HashMap, HashSet};

use anabranch_core::sync::reconcile::{Compared, Item, MAX_ITEMS, MAX_KNOWN, Theirs, sample};
use anabranch_core::{Change, ChangeHash, CollectionName, EntityId, Heads, SpaceName};
use rusqlite::{Connection, OptionalExtension as _};

use crate::engine::Write;
use crate::error::StoreError;
use crate::local_only::NOT_LOCAL;
use crate::read::Read;
use crate::rows::{self, EntityRow, HEADS, Origin, RemoteKey, SpaceKey};

/// Heads of a folded document that are named among what is here.
const FOLDED_HEADS: usize = 8;

/// How an entity differs between this file and another side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Difference {
    /// All that the other side lacks waits in the outbox: the next sync brings it there.
    Pending,
    /// The other side lacks something that does not wait in the outbox: it was accepted once, and is lost there.
    MissingThere,
    /// The other side has something that this file lacks, or has refused, and nothing of the entity waits in the outbox.
    /// Whether the other side has lost something as well shows once it is here.
    MissingHere,
    /// The other side has something that this file lacks, and something waits in the outbox here.
    Different,
}

impl Read<'_> {
    /// Every entity of a space, as an item; one more than [`MAX_ITEMS`] at most. No document is loaded.
    ///
    /// # Errors
    /// If the database fails.
    pub fn items(&self, space: &SpaceName) -> Result<Vec<Item>, StoreError> {
        self.items_of(space, None)
    }

    /// As [`items`](Self::items), of some collections only, and of what the system keeps beside them.
    ///
    /// # Errors
    /// If the database fails.
    pub fn items_of(&self, space: &SpaceName, of: Option<&[CollectionName]>) -> Result<Vec<Item>, StoreError> {
        let of = of.map(serde_json::to_string).transpose().map_err(|_| StoreError::OutOfRange)?;
        let mut statement = self.connection().prepare_cached(&format!(
            "SELECT e.id, {HEADS} AS heads FROM entities e JOIN spaces s ON s.key = e.space \
             WHERE s.name = ?1 AND length({HEADS}) > 0 AND {NOT_LOCAL} \
             AND (?3 IS NULL OR e.collection LIKE '$%' OR e.collection IN (SELECT value FROM json_each(?3))) LIMIT ?2"
        ))?;
        let mut rows = statement.query(rusqlite::params![space.as_str(), i64::try_from(MAX_ITEMS + 1)?, of])?;
        let mut items = Vec::new();
        while let Some(row) = rows.next()? {
            items.push(Item::new(row.get::<_, String>(0)?.parse()?, &rows::heads_of(row, "heads")?));
        }
        Ok(items)
    }

    /// As [`items_of`](Self::items_of), to reconcile with a server: an entity of which something waits for that has an
    /// item that no other side has. It counts as one that differs, and so the server shows what of it has come there.
    ///
    /// # Errors
    /// If the database fails.
    pub fn items_for(
        &self,
        remote: RemoteKey,
        space: &SpaceName,
        of: Option<&[CollectionName]>,
    ) -> Result<Vec<Item>, StoreError> {
        let mut items = self.items_of(space, of)?;
        let mut statement = self.connection().prepare_cached(
            "SELECT DISTINCT e.id FROM outbox o JOIN entities e ON e.key = o.entity JOIN spaces s ON s.key = e.space \
             WHERE o.remote = ?1 AND s.name = ?2",
        )?;
        let mut waiting = HashSet::new();
        let mut rows = statement.query(rusqlite::params![remote, space.as_str()])?;
        while let Some(row) = rows.next()? {
            waiting.insert(row.get::<_, String>(0)?.parse::<EntityId>()?);
        }
        for item in items.iter_mut().filter(|item| waiting.contains(&item.entity())) {
            *item = Item::new(item.entity(), &Heads::default());
        }
        Ok(items)
    }

    /// The heads of an entity; none if nothing of it is here.
    ///
    /// # Errors
    /// If the database fails.
    pub fn heads_of(&self, space: &SpaceName, id: EntityId) -> Result<Heads, StoreError> {
        let Some(space) = rows::space_key(self.connection(), space)? else { return Ok(Heads::default()) };
        let row = rows::find_shared_entity(self.connection(), space, id)?;
        row.map_or(Ok(Heads::default()), |row| rows::entity_heads(self.connection(), row.key))
    }
}

impl Write<'_> {
    /// What this replica lacks of what another side has, in the same order.
    ///
    /// # Errors
    /// If the database fails, or a document cannot be loaded: only what has been folded needs one.
    pub fn compare(&mut self, space: &SpaceName, theirs: &[Theirs]) -> Result<Vec<Compared>, StoreError> {
        let space = rows::ensure_space(&self.engine.connection, space)?;
        let compare = |theirs: &Theirs| Ok(Compared { entity: theirs.entity, lacking: self.lacking(space, theirs)? });
        theirs.iter().map(compare).collect()
    }

    /// If something is lacking: what is here of the entity, in a few hashes.
    fn lacking(&mut self, space: SpaceKey, theirs: &Theirs) -> Result<Option<Vec<ChangeHash>>, StoreError> {
        let Some(row) = rows::find_shared_entity(&self.engine.connection, space, theirs.entity)? else {
            return Ok((!theirs.heads.is_empty()).then(Vec::new));
        };
        for head in theirs.heads.hashes() {
            if !self.holds(&row, head)? {
                return known(&self.engine.connection, &row).map(Some);
            }
        }
        Ok(None)
    }

    /// How these entities differ from what another side has of them: the ones that do.
    ///
    /// # Errors
    /// If the database fails, or a document cannot be loaded.
    pub fn differences(
        &mut self,
        space: &SpaceName,
        theirs: &[Theirs],
        remote: Option<RemoteKey>,
    ) -> Result<Vec<(EntityId, Difference)>, StoreError> {
        let Some(space) = rows::space_key(&self.engine.connection, space)? else {
            return Ok(theirs.iter().map(|theirs| (theirs.entity, Difference::MissingHere)).collect());
        };
        let mut found = Vec::new();
        for theirs in theirs {
            let difference = match rows::find_shared_entity(&self.engine.connection, space, theirs.entity)? {
                Some(row) => self.difference(&row, theirs, remote)?,
                None => (!theirs.heads.is_empty()).then_some(Difference::MissingHere),
            };
            found.extend(difference.map(|difference| (theirs.entity, difference)));
        }
        Ok(found)
    }

    fn difference(
        &mut self,
        row: &EntityRow,
        theirs: &Theirs,
        remote: Option<RemoteKey>,
    ) -> Result<Option<Difference>, StoreError> {
        if rows::entity_heads(&self.engine.connection, row.key)? == theirs.heads {
            return Ok(None);
        }
        let document = self.engine.take_document(row)?;
        let lacking = theirs.heads.hashes().iter().any(|head| !document.has(head));
        let beyond = document.changes_since(&theirs.heads);
        self.engine.cache.put(row.key, document);
        if lacking {
            let mut waits = self
                .engine
                .connection
                .prepare_cached("SELECT 1 FROM outbox WHERE entity = ?1 AND (?2 IS NULL OR remote = ?2)")?;
            let waits = waits.exists(rusqlite::params![row.key, remote])?;
            return Ok(Some(if waits { Difference::Different } else { Difference::MissingHere }));
        }
        let beyond = beyond.map_err(|source| StoreError::Damaged { entity: row.id, source })?;
        for change in &beyond {
            let mut waits = self.engine.connection.prepare_cached(
                "SELECT 1 FROM outbox o JOIN changes c ON c.seq = o.change \
                 WHERE c.entity = ?1 AND c.hash = ?2 AND (?3 IS NULL OR o.remote = ?3)",
            )?;
            if !waits.exists(rusqlite::params![row.key, change.hash().as_bytes(), remote])? {
                return Ok(Some(Difference::MissingThere));
            }
        }
        Ok((!beyond.is_empty()).then_some(Difference::Pending))
    }

    fn holds(&mut self, row: &EntityRow, hash: &ChangeHash) -> Result<bool, StoreError> {
        let connection = &self.engine.connection;
        if rows::change_seq(connection, row.key, hash)?.is_some() {
            return Ok(true);
        }
        let folded = folded_heads(connection, row)?;
        if folded.is_empty() || folded.contains(hash) {
            return Ok(!folded.is_empty());
        }
        let document = self.engine.take_document(row)?;
        let holds = document.has(hash);
        self.engine.cache.put(row.key, document);
        Ok(holds)
    }

    /// Offers what is here of an entity beyond the heads that a server has of it.
    pub(crate) fn offer_beyond(
        &mut self,
        remote: RemoteKey,
        space: SpaceKey,
        theirs: &Theirs,
    ) -> Result<(), StoreError> {
        let Some(row) = rows::find_shared_entity(&self.engine.connection, space, theirs.entity)? else { return Ok(()) };
        for head in theirs.heads.hashes() {
            let logged = rows::change_seq(&self.engine.connection, row.key, head)?;
            if let Some(marker) = logged.map(|seq| self.marker_at(seq)).transpose()?.flatten() {
                // Somebody has purged the same, and the server has agreed.
                self.take_marker(&row, &marker, Origin::Remote(remote))?;
            }
        }
        let waiting = self.waiting_of(remote, &row)?;
        let document = self.engine.take_document(&row)?;
        let beyond = document.changes_since(&theirs.heads);
        let held = waiting.into_iter().filter(|(hash, _)| document.has(hash)).collect();
        self.engine.cache.put(row.key, document);
        let beyond = beyond.map_err(|source| StoreError::Damaged { entity: row.id, source })?;
        self.settle_but(remote, &row, held, &beyond)?;
        let mut unfolded = false;
        for change in beyond {
            let mut seq = rows::change_seq(&self.engine.connection, row.key, &change.hash())?;
            if seq.is_none() && !std::mem::replace(&mut unfolded, true) {
                self.unfold(&row)?;
                seq = rows::change_seq(&self.engine.connection, row.key, &change.hash())?;
            }
            let Some(seq) = seq else { return Err(StoreError::DamagedRow("a change is not in the log")) };
            let mut insert = self
                .engine
                .connection
                .prepare_cached("INSERT OR IGNORE INTO outbox (remote, change, entity) VALUES (?, ?, ?)")?;
            insert.execute([remote, seq, row.key])?;
            drop(insert);
            self.dirty(row.key).recount = true;
            self.pending.pushable.insert(row.space);
        }
        Ok(())
    }

    /// What waits of an entity for a server, by hash.
    fn waiting_of(&self, remote: RemoteKey, row: &EntityRow) -> Result<HashMap<ChangeHash, i64>, StoreError> {
        let mut statement = self.engine.connection.prepare_cached(
            "SELECT c.hash, c.seq FROM outbox o JOIN changes c ON c.seq = o.change \
             WHERE o.remote = ?1 AND o.entity = ?2",
        )?;
        let waiting = statement.query_map([remote, row.key], |found| {
            Ok((ChangeHash::from_bytes(found.get::<_, [u8; 32]>(0)?), found.get(1)?))
        })?;
        Ok(waiting.collect::<Result<_, _>>()?)
    }

    /// The server has what waits and is not beyond its heads: somebody else has brought it there, and in a reconcile
    /// it does not send what is here. If that stayed, a person could give it up as refused.
    fn settle_but(
        &mut self,
        remote: RemoteKey,
        row: &EntityRow,
        mut held: HashMap<ChangeHash, i64>,
        beyond: &[Change],
    ) -> Result<(), StoreError> {
        for change in beyond {
            held.remove(&change.hash());
        }
        if held.is_empty() {
            return Ok(());
        }
        let seqs: Vec<i64> = held.into_values().collect();
        for seq in &seqs {
            self.settle(remote, row.key, *seq)?;
        }
        self.release_children(remote, &seqs)?;
        self.dirty(row.key).synced = true;
        self.pending.pushable.insert(row.space);
        Ok(())
    }
}

fn folded_heads(connection: &Connection, row: &EntityRow) -> Result<Vec<ChangeHash>, StoreError> {
    let mut statement = connection.prepare_cached("SELECT heads FROM snapshots WHERE entity = ?")?;
    let heads: Option<Vec<u8>> = statement.query_row([row.key], |row| row.get(0)).optional()?;
    Ok(Heads::from_bytes(&heads.unwrap_or_default())?.hashes().to_vec())
}

/// What is here of an entity, in a few hashes.
fn known(connection: &Connection, row: &EntityRow) -> Result<Vec<ChangeHash>, StoreError> {
    let mut statement = connection.prepare_cached("SELECT hash FROM changes WHERE entity = ? ORDER BY seq DESC")?;
    let hashes = statement.query_map([row.key], |row| row.get::<_, [u8; 32]>(0))?;
    let newest_first = hashes.map(|hash| Ok(ChangeHash::from_bytes(hash?))).collect::<Result<Vec<_>, StoreError>>()?;
    let mut known = sample(&rows::entity_heads(connection, row.key)?, &newest_first);
    known.truncate(MAX_KNOWN - FOLDED_HEADS);
    known.extend(folded_heads(connection, row)?.into_iter().take(FOLDED_HEADS));
    Ok(known)
}
