//! What a person can see of the outbox, and decide about what a server has refused.

use anabranch_core::document::Removal;
use anabranch_core::{ChangeHash, CollectionName, EntityId, SpaceName, Stamp, TransactionId, UnixMillis};
use rusqlite::{Row, params};
use serde::Serialize;

use super::answers::{FOLLOWS, HELD};
use super::parents::Parents;
use super::waiting::Waiting;
use crate::engine::Write;
use crate::error::StoreError;
use crate::read::Read;
use crate::rows::{self, EntityRow, RemoteKey};

/// A change that a server has not accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OutboxEntry {
    /// The server's address; none while no server is known.
    pub url: Option<String>,
    /// The entity's space.
    pub space: SpaceName,
    /// The entity.
    pub entity: EntityId,
    /// Its collection.
    pub collection: CollectionName,
    /// The change.
    pub change: ChangeHash,
    /// The transaction that it is part of.
    pub transaction: Option<TransactionId>,
    /// When it was written, by its writer's clock; none of a birth of a container, which is nobody's edit.
    pub written_at: Option<UnixMillis>,
    /// Its size.
    pub bytes: u64,
    /// How often the server has turned it down.
    pub attempts: u32,
    /// Where it stands.
    #[serde(flatten)]
    pub state: OutboxState,
}

/// Where a change in the outbox stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
#[non_exhaustive]
pub enum OutboxState {
    /// It goes with the next push.
    Pending,
    /// It is tried again at this time, by itself.
    Deferred {
        /// When.
        until: UnixMillis,
        /// Why it was put off.
        reason: String,
    },
    /// It follows a change of the same entity, or of a transaction, that waits or has been refused.
    Behind,
    /// Its entity's parent is not on the server, since that waits or has been refused itself.
    Held {
        /// The parent.
        parent: EntityId,
    },
    /// The server has refused it. It waits for a person: resend it, or discard it.
    Refused {
        /// Why, as a word; none for what was refused along with others of its transaction.
        code: Option<String>,
        /// Why, in the server's words.
        reason: String,
        /// When, by this replica's clock.
        at: Option<UnixMillis>,
    },
}

/// What a discard did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Discarded {
    /// Changes that are gone.
    pub discarded: usize,
    /// Later changes that were written again without them, and are offered to the server.
    pub rewritten: usize,
    /// Entities whose parent is gone with it: they were held, and go now. They still name a parent that is nowhere.
    pub left_alone: usize,
}

/// Which refused changes are to be offered again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resend {
    /// All of them.
    All,
    /// Those of an entity.
    Entity(SpaceName, EntityId),
    /// One, with its transaction, and with what else has been refused of its entity: that waits as a whole.
    Change(SpaceName, EntityId, ChangeHash),
}

const REASON: &str = "for an unknown reason";
/// What is joined by a transaction, as a condition on rows of `outbox`.
const JOINED: &str = "change IN (SELECT seq FROM changes WHERE txn = (SELECT txn FROM changes WHERE seq = ?1))";

/// Lets the children go of all entities of which something has been accepted, by what blocks them: few rows, where the
/// outbox may have many.
const RELEASE: &str = "UPDATE outbox INDEXED BY outbox_blocking \
     SET state = 'pending', attempts = 0, not_before = 0 \
     WHERE remote = ?1 AND (state = 'parked' OR not_before > 0) AND last_error IN (?3, ?4) AND entity IN ( \
         SELECT l.entity FROM json_each(?2) accepted \
             CROSS JOIN changes c ON c.seq = accepted.value \
             CROSS JOIN entities parent ON parent.key = c.entity \
             CROSS JOIN links l ON l.target = parent.id \
             CROSS JOIN entities child ON child.key = l.entity AND child.space = parent.space)";

impl Read<'_> {
    /// What waits in the outbox, in the order of this replica's log: everything, or only what has been refused. At
    /// most `limit`.
    ///
    /// # Errors
    /// If the database fails.
    pub fn outbox(&self, refused_only: bool, limit: u32, now: UnixMillis) -> Result<Vec<OutboxEntry>, StoreError> {
        let schema = rows::stored_schema(self.connection())?;
        let parents = Parents { connection: self.connection(), schema: &schema };
        let mut entries = Vec::new();
        for remote in rows::remotes(self.connection())? {
            let waiting = Waiting::find(parents, remote, now)?;
            let mut statement = self.connection().prepare_cached(
                "SELECT r.url, s.name AS space, e.id, e.collection, c.hash, c.txn, c.stamp, length(c.bytes) AS bytes, \
                     o.attempts, o.state, o.not_before, o.last_error, o.code, o.refused_at, o.entity, o.change \
                 FROM outbox o JOIN remotes r ON r.key = o.remote JOIN changes c ON c.seq = o.change \
                     JOIN entities e ON e.key = o.entity JOIN spaces s ON s.key = e.space \
                 WHERE o.remote = ?1 AND (?2 = 0 OR o.state = 'parked') ORDER BY o.change LIMIT ?3",
            )?;
            let mut found = statement.query(params![remote, refused_only, limit])?;
            while let Some(row) = found.next()? {
                entries.push(entry(row, &waiting, now)?);
            }
        }
        entries.truncate(usize::try_from(limit)?);
        Ok(entries)
    }
}

fn entry(row: &Row<'_>, waiting: &Waiting, now: UnixMillis) -> Result<OutboxEntry, StoreError> {
    let (hash, transaction): ([u8; 32], Option<Vec<u8>>) = (row.get("hash")?, row.get("txn")?);
    let stamp = Stamp::from_raw(row.get("stamp")?).unwrap_or_default();
    let (entity, seq, until): (i64, i64, UnixMillis) = (row.get("entity")?, row.get("change")?, row.get("not_before")?);
    let reason =
        || Ok::<_, StoreError>(row.get::<_, Option<String>>("last_error")?.unwrap_or_else(|| REASON.to_owned()));
    let state = if row.get::<_, String>("state")? == "parked" {
        let (code, reason): (Option<String>, String) = (row.get("code")?, reason()?);
        let words = code.as_ref().and_then(|code| reason.strip_prefix(code.as_str())?.strip_prefix(": "));
        OutboxState::Refused { reason: words.unwrap_or(&reason).to_owned(), code, at: row.get("refused_at")? }
    } else if let Some(parent) = waiting.held_by(entity) {
        OutboxState::Held { parent }
    } else if until > now {
        OutboxState::Deferred { until, reason: reason()? }
    } else if waiting.includes(entity, seq) {
        OutboxState::Behind
    } else {
        OutboxState::Pending
    };
    Ok(OutboxEntry {
        url: row.get("url")?,
        space: SpaceName::new(row.get::<_, String>("space")?)?,
        entity: row.get::<_, String>("id")?.parse()?,
        collection: CollectionName::new(row.get::<_, String>("collection")?)?,
        change: ChangeHash::from_bytes(hash),
        transaction: transaction.and_then(|id| rows::transaction_id(&id)),
        written_at: (stamp > Stamp::ZERO).then(|| stamp.millis()),
        bytes: row.get("bytes")?,
        attempts: row.get("attempts")?,
        state,
    })
}

impl Write<'_> {
    /// Offers refused changes again; what was put off is tried at once. Returns how many.
    ///
    /// # Errors
    /// [`StoreError::NoEntity`] if there is no such entity, or if the database fails.
    pub fn resend(&mut self, which: &Resend) -> Result<usize, StoreError> {
        const BLOCKED: &str = "(state = 'parked' OR not_before > 0)";
        let connection = &self.engine.connection;
        let select = |condition: &str, parameters: &[&dyn rusqlite::ToSql]| {
            let sql = format!("SELECT DISTINCT change FROM outbox WHERE {BLOCKED} AND {condition}");
            let mut statement = connection.prepare(&sql)?;
            let found = statement.query_map(parameters, |row| row.get::<_, i64>(0))?;
            found.collect::<Result<Vec<_>, _>>()
        };
        let mut seqs = match which {
            Resend::All => select("1", &[])?,
            Resend::Entity(space, id) => select("entity = ?", &[&self.entity(space, *id)?.key])?,
            Resend::Change(space, id, hash) => {
                let key = self.entity(space, *id)?.key;
                match rows::change_seq(connection, key, hash)? {
                    Some(_) => select("entity = ?", &[&key])?,
                    None => Vec::new(),
                }
            }
        };
        for seq in seqs.clone() {
            seqs.extend(select(JOINED, &[&seq])?);
        }
        seqs.sort_unstable();
        seqs.dedup();
        let mut update = connection.prepare(
            "UPDATE outbox SET state = 'pending', attempts = 0, not_before = 0, last_error = NULL, code = NULL, \
             refused_at = NULL WHERE change = ? RETURNING entity",
        )?;
        let mut entities = Vec::new();
        for seq in &seqs {
            entities.extend(update.query_map([seq], |row| row.get::<_, i64>(0))?.collect::<Result<Vec<_>, _>>()?);
        }
        drop(update);
        for key in entities {
            if let Some(row) = rows::entity_by_key(&self.engine.connection, key)? {
                self.pending.pushable.insert(row.space);
                self.dirty(key);
            }
        }
        self.pending.sync_state = true;
        Ok(seqs.len())
    }

    /// Gives up what a server has refused of an entity: one change, or all. The entity is rebuilt without it, later
    /// edits are written again and offered, and what goes does not come back from a peer. A transaction goes whole,
    /// with what it did to other entities. The birth of a container, which is nobody's edit, is offered again if a later
    /// edit needs it. If an entity goes, its children stay: they are not held any more, and what
    /// to do with them is for the application to say.
    ///
    /// # Errors
    /// [`StoreError::NotRefused`] if there is nothing like that; nothing has changed then.
    pub fn discard(
        &mut self,
        space: &SpaceName,
        id: EntityId,
        change: Option<ChangeHash>,
    ) -> Result<Discarded, StoreError> {
        let row = self.entity(space, id)?;
        let mut done = Discarded::default();
        let chosen = self.to_discard(&row, change)?;
        if chosen.is_empty() {
            return Err(StoreError::NotRefused(id));
        }
        for (key, hashes) in chosen {
            let Some(row) = rows::entity_by_key(&self.engine.connection, key)? else { continue };
            for hash in &hashes {
                if self.is_accepted(&row, hash)? {
                    // Another server has it.
                    return Err(StoreError::NotRefused(row.id));
                }
            }
            let count = hashes.len();
            let children = self.children_of(&row)?;
            let rewrote = self.rewrite_history(&row, &Removal::discarding(hashes))?;
            if children > 0 && !self.is_born(&row)? {
                done.left_alone += children;
                self.pending.pushable.insert(row.space);
            }
            done.discarded += rewrote.gone.saturating_sub(rewrote.rewritten).max(count.saturating_sub(rewrote.kept));
            done.rewritten += rewrote.rewritten;
        }
        Ok(done)
    }

    fn children_of(&self, row: &EntityRow) -> Result<usize, StoreError> {
        let parents = Parents { connection: &self.engine.connection, schema: &self.engine.schema };
        Ok(parents.children_of(row)?.len())
    }

    fn is_born(&mut self, row: &EntityRow) -> Result<bool, StoreError> {
        let document = self.engine.take_document(row)?;
        let is_born = document.is_born();
        self.engine.cache.put(row.key, document);
        Ok(is_born)
    }

    /// The refused changes of an entity, and what is joined to them by transaction, by entity.
    fn to_discard(
        &self,
        row: &EntityRow,
        change: Option<ChangeHash>,
    ) -> Result<Vec<(i64, Vec<ChangeHash>)>, StoreError> {
        let mut statement = self.engine.connection.prepare_cached(
            "WITH refused AS (SELECT c.seq, c.txn FROM outbox o JOIN changes c ON c.seq = o.change \
                 WHERE o.entity = ?1 AND o.state = 'parked' AND (?2 IS NULL OR c.hash = ?2)) \
             SELECT DISTINCT c.entity, c.hash FROM changes c JOIN outbox o ON o.change = c.seq \
             WHERE c.seq IN (SELECT seq FROM refused) \
                OR c.txn IN (SELECT txn FROM refused WHERE txn IS NOT NULL) ORDER BY c.entity, c.seq",
        )?;
        let mut found = statement.query(params![row.key, change.map(|hash| hash.as_bytes().to_vec())])?;
        let mut by_entity: Vec<(i64, Vec<ChangeHash>)> = Vec::new();
        while let Some(found) = found.next()? {
            let (entity, hash): (i64, [u8; 32]) = (found.get(0)?, found.get(1)?);
            match by_entity.last_mut() {
                Some((last, hashes)) if *last == entity => hashes.push(ChangeHash::from_bytes(hash)),
                _ => by_entity.push((entity, vec![ChangeHash::from_bytes(hash)])),
            }
        }
        Ok(by_entity)
    }

    /// Entities of which these changes have just been accepted let their children go, which had been held back.
    pub(crate) fn release_children(&mut self, remote: RemoteKey, accepted: &[i64]) -> Result<(), StoreError> {
        let connection = &self.engine.connection;
        let mut held = connection.prepare_cached(
            "SELECT 1 FROM outbox INDEXED BY outbox_blocking WHERE remote = ? \
             AND (state = 'parked' OR not_before > 0) AND last_error IN (?, ?) LIMIT 1",
        )?;
        if !held.exists(params![remote, HELD, FOLLOWS])? {
            return Ok(());
        }
        let accepted = serde_json::to_string(accepted).map_err(|_| StoreError::OutOfRange)?;
        connection.prepare_cached(RELEASE)?.execute(params![remote, accepted, HELD, FOLLOWS])?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It used to go through the whole outbox, once for each change that was accepted.
    #[test]
    fn children_are_found_by_what_was_accepted() {
        let plan = crate::file::plan(RELEASE);
        assert!(plan[0].ends_with("outbox USING INDEX outbox_blocking (remote=? AND entity=?)"), "{plan:#?}");
        assert!(!plan.iter().any(|step| step.starts_with("SCAN") && !step.contains("accepted")), "{plan:#?}");
    }
}
