//! What must not be pushed yet: refused and put-off changes, and everything that is joined to them.

use std::collections::{HashMap, HashSet};

use anabranch_core::sync::MAX_BACKOFF_MILLIS;
use anabranch_core::{EntityId, UnixMillis};
use rusqlite::params;

use super::answers::{FOLLOWS, HELD};
use super::parents::Parents;
use crate::cache::EntityKey;
use crate::engine::Write;
use crate::error::StoreError;
use crate::read::Read;
use crate::rows::{self, RemoteKey};

/// What waits of each entity.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// Its changes from this place of the log on.
    from: HashMap<EntityKey, i64>,
    /// The parents that keep entities waiting.
    held: HashMap<EntityKey, EntityId>,
}

/// A wait beyond the longest backoff was begun before the clock was set back; it is over. SQLite does not choose the
/// small index by itself.
const SELECT_BLOCKED: &str = "SELECT entity FROM outbox INDEXED BY outbox_blocking WHERE remote = ?1 AND (state = 'parked' OR not_before > 0) \
     AND (state = 'parked' OR not_before BETWEEN ?2 + 1 AND ?2 + ?3)";

impl Waiting {
    /// An entity waits as a whole while one of its changes is parked or put off. A transaction waits if one of its
    /// changes does, and with it the later changes of all its entities, and the transactions of those, and so on. An
    /// entity whose creation waits lets its children wait.
    pub(super) fn find(parents: Parents<'_>, remote: RemoteKey, now: UnixMillis) -> Result<Self, StoreError> {
        let connection = parents.connection;
        let mut waiting = Self::default();
        let mut blocked = connection.prepare_cached(SELECT_BLOCKED)?;
        let blocked = blocked.query_map([remote, now, MAX_BACKOFF_MILLIS], |row| row.get::<_, EntityKey>(0))?;
        let mut open = Vec::new();
        for entity in blocked {
            waiting.add(entity?, 0, &mut open);
        }
        let mut transactions_of = connection.prepare_cached(
            "SELECT DISTINCT c.txn FROM outbox o CROSS JOIN changes c ON c.seq = o.change \
             WHERE o.remote = ? AND o.entity = ? AND o.change >= ? AND o.change < ? AND c.txn IS NOT NULL",
        )?;
        let mut members_of = connection.prepare_cached(
            "SELECT c.entity, min(c.seq) FROM changes c CROSS JOIN outbox o ON o.remote = ? AND o.change = c.seq \
             WHERE c.txn = ? GROUP BY c.entity",
        )?;
        let mut seen = HashSet::new();
        while let Some((entity, from, to)) = open.pop() {
            let found = transactions_of
                .query_map([remote, entity, from, to], |row| row.get::<_, Vec<u8>>(0))?
                .collect::<Result<Vec<_>, _>>()?;
            for transaction in found.into_iter().filter(|transaction| seen.insert(transaction.clone())) {
                let members =
                    members_of.query_map(params![remote, transaction], |row| Ok((row.get(0)?, row.get(1)?)))?;
                for member in members {
                    let (entity, seq) = member?;
                    waiting.add(entity, seq, &mut open);
                }
            }
            waiting.hold_children(parents, remote, (entity, from), &mut open)?;
        }
        Ok(waiting)
    }

    /// Lets an entity wait from `from` on, and notes the part of its changes that did not wait before.
    fn add(&mut self, entity: EntityKey, from: i64, open: &mut Vec<(EntityKey, i64, i64)>) {
        let start = self.from.entry(entity).or_insert(i64::MAX);
        if from < *start {
            open.push((entity, from, *start));
            *start = from;
        }
    }

    /// Lets the children of an entity wait whose changes wait from a place of the log on, if its creation is among them.
    fn hold_children(
        &mut self,
        parents: Parents<'_>,
        remote: RemoteKey,
        (entity, from): (EntityKey, i64),
        open: &mut Vec<(EntityKey, i64, i64)>,
    ) -> Result<(), StoreError> {
        if !rows::birth_waits(parents.connection, remote, entity, from)? {
            return Ok(());
        }
        let Some(parent) = rows::entity_by_key(parents.connection, entity)? else { return Ok(()) };
        for child in parents.children_of(&parent)? {
            self.held.entry(child.key).or_insert(parent.id);
            self.add(child.key, 0, open);
        }
        Ok(())
    }

    /// The parent that keeps an entity waiting.
    pub(super) fn held_by(&self, entity: EntityKey) -> Option<EntityId> {
        self.held.get(&entity).copied()
    }

    /// Whether this change waits.
    pub(super) fn includes(&self, entity: EntityKey, seq: i64) -> bool {
        self.from.get(&entity).is_some_and(|start| *start <= seq)
    }
}

impl Read<'_> {
    /// Whether something in a remote's outbox waits for nothing but being pushed.
    ///
    /// # Errors
    /// If the database fails.
    pub fn could_push(&self, remote: RemoteKey, now: UnixMillis) -> Result<bool, StoreError> {
        let schema = rows::stored_schema(self.connection())?;
        let parents = Parents { connection: self.connection(), schema: &schema };
        let waiting = Waiting::find(parents, remote, now)?;
        let mut statement = self.connection().prepare_cached(
            "SELECT entity, change FROM outbox WHERE remote = ? AND state = 'pending' ORDER BY change",
        )?;
        let mut pending = statement.query([remote])?;
        while let Some(row) = pending.next()? {
            if !waiting.includes(row.get(0)?, row.get(1)?) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Changes that wait for something that must be on the server first: because their parent is not, or because the
    /// server says so.
    ///
    /// # Errors
    /// If the database fails.
    pub fn held(&self, now: UnixMillis) -> Result<u64, StoreError> {
        let schema = rows::stored_schema(self.connection())?;
        let parents = Parents { connection: self.connection(), schema: &schema };
        let mut held = 0;
        for remote in rows::remotes(self.connection())? {
            let waiting = Waiting::find(parents, remote, now)?;
            let mut statement = self.connection().prepare_cached(
                "SELECT entity, not_before > 0 AND coalesce(last_error, '') IN (?3, ?4) FROM outbox \
                 WHERE remote = ?1 AND state = 'pending' AND (?2 OR not_before > 0)",
            )?;
            let mut pending = statement.query(params![remote, !waiting.held.is_empty(), HELD, FOLLOWS])?;
            while let Some(row) = pending.next()? {
                held += u64::from(row.get(1)? || waiting.held_by(row.get(0)?).is_some());
            }
        }
        Ok(held)
    }
}

impl Write<'_> {
    /// Parks what is pending of the transactions of which a change is parked: none is accepted in part.
    pub(crate) fn park_transactions(&mut self, remote: RemoteKey) -> Result<(), StoreError> {
        let mut update = self.engine.connection.prepare_cached(
            "UPDATE outbox SET state = 'parked', refused_at = ?2, \
                 last_error = 'another change of the transaction was refused' \
             WHERE remote = ?1 AND state = 'pending' AND change IN (SELECT seq FROM changes WHERE txn IN ( \
                 SELECT c.txn FROM outbox p INDEXED BY outbox_blocking CROSS JOIN changes c ON c.seq = p.change \
                 WHERE p.remote = ?1 AND (p.state = 'parked' OR p.not_before > 0) AND p.state = 'parked' \
                   AND c.txn IS NOT NULL)) \
             RETURNING entity",
        )?;
        let parked =
            update.query_map([remote, self.now()], |row| row.get::<_, EntityKey>(0))?.collect::<Result<Vec<_>, _>>()?;
        drop(update);
        for entity in parked {
            self.dirty(entity);
        }
        Ok(())
    }
}
