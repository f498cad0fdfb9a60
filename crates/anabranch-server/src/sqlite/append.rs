//! One append, inside the writer's transaction: core decides, this stores.

use std::collections::BTreeMap;

use anabranch_core::sync::{
    Added, AppendOutcome, LogIndex, LogRow, Offered, Pushable, Used, advance_heads, append, stored_bytes,
};
use anabranch_core::wire::{Answer, Mark};
use anabranch_core::{
    Actor, ChangeHash, CollectionName, EntityId, Heads, ReplicaId, Rewrite, SpaceName, TransactionId, UnixMillis,
};
use rusqlite::{Connection, OptionalExtension as _, Params, named_params, params};

use super::accounts::{self, Account};
use super::reader::space_head;
use super::{corrupt, failed, signed, unsigned};
use crate::backend::Author;
use crate::error::BackendError;

pub(super) fn append_one(
    connection: &Connection,
    space: &SpaceName,
    author: &Author,
    received_at: UnixMillis,
    batch: Vec<Pushable>,
) -> Result<AppendOutcome, BackendError> {
    let found = space_head(connection, space)?;
    let head = found.map_or(Mark::START, |(_, head)| head);
    let account = accounts::of(connection, author)?;
    let mut index = Index { connection, space: found.map(|(id, _)| id), author, account, space_bytes: None };
    let appended = append(&mut index, head, batch)?;
    if let Some(last) = appended.rows.last() {
        let id = move_head(connection, space, last.mark)?;
        store_changes(connection, id, &appended.rows, author.replica, received_at)?;
        store_rewrites(connection, id, &appended.rows)?;
        advance_entities(connection, id, &appended.rows)?;
        accounts::book(connection, id, author, &appended.rows)?;
    }
    Ok(appended.outcome(head))
}

/// What the transaction sees of a space.
struct Index<'a> {
    connection: &'a Connection,
    /// `None`: nothing has ever been written to it.
    space: Option<i64>,
    author: &'a Author,
    account: Account,
    /// What the space holds, once it has been asked for.
    space_bytes: Option<u64>,
}

impl Index<'_> {
    fn one<T: rusqlite::types::FromSql>(&self, sql: &str, params: impl Params) -> Result<Option<T>, BackendError> {
        self.connection
            .prepare_cached(sql)
            .and_then(|mut statement| statement.query_row(params, |row| row.get(0)).optional())
            .map_err(failed("looking into the log"))
    }
}

impl LogIndex for Index<'_> {
    type Error = BackendError;

    fn seq_of(&mut self, entity: &EntityId, hash: &ChangeHash) -> Result<Option<u64>, BackendError> {
        let Some(space) = self.space else { return Ok(None) };
        let sql = "SELECT seq FROM changes WHERE space = ?1 AND entity = ?2 AND hash = ?3";
        self.one::<i64>(sql, params![space, entity.as_bytes(), hash.as_bytes()])?.map(unsigned).transpose()
    }

    fn collection_of(&mut self, entity: &EntityId) -> Result<Option<CollectionName>, BackendError> {
        let Some(space) = self.space else { return Ok(None) };
        let sql = "SELECT collection FROM entities WHERE space = ?1 AND entity = ?2";
        let name: Option<String> = self.one(sql, params![space, entity.as_bytes()])?;
        name.map(|name| CollectionName::new(name).map_err(|_| corrupt("a collection's name"))).transpose()
    }

    fn hash_at(&mut self, entity: &EntityId, actor: &Actor, seq: u64) -> Result<Option<ChangeHash>, BackendError> {
        let (Some(space), Ok(seq)) = (self.space, i64::try_from(seq)) else { return Ok(None) };
        let sql = "SELECT hash FROM changes WHERE space = ?1 AND entity = ?2 AND actor = ?3 AND actor_seq = ?4";
        let hash: Option<Vec<u8>> = self.one(sql, params![space, entity.as_bytes(), actor.as_bytes(), seq])?;
        hash.map(|hash| ChangeHash::try_from(hash.as_slice()).map_err(|_| corrupt("a change's hash"))).transpose()
    }

    fn heads(&mut self, entity: &EntityId) -> Result<Heads, BackendError> {
        self.space.map_or(Ok(Heads::default()), |space| Ok(entity_heads(self.connection, space, entity)?.0))
    }

    fn rewritten(&mut self, entity: &EntityId, of: &Rewrite) -> Result<bool, BackendError> {
        let Some(space) = self.space else { return Ok(false) };
        let sql = "SELECT 1 FROM rewrites WHERE space = ?1 AND entity = ?2 AND original = ?3 AND part = ?4";
        Ok(self.one::<i64>(sql, params![space, entity.as_bytes(), of.original.as_bytes(), of.part])?.is_some())
    }

    fn purged(&mut self, entity: &EntityId) -> Result<bool, BackendError> {
        let Some(space) = self.space else { return Ok(false) };
        let sql = "SELECT purged FROM entities WHERE space = ?1 AND entity = ?2";
        Ok(self.one(sql, params![space, entity.as_bytes()])?.unwrap_or(false))
    }

    fn policy(&mut self, offered: &Offered, added: Added) -> Result<Option<Answer>, BackendError> {
        let Author { replica, relay, quota, .. } = self.author;
        if let Some(answer) = relay.objection(replica, self.account.owns_replica, &offered.change) {
            return Ok(Some(answer));
        }
        let (mut entity, mut in_space) = (0, 0);
        if let Some(space) = self.space {
            let sql = "SELECT bytes FROM entities WHERE space = ?1 AND entity = ?2";
            entity = self.one(sql, params![space, offered.entity.as_bytes()])?.unwrap_or_default();
            in_space = match self.space_bytes {
                Some(bytes) => bytes,
                None => self.one("SELECT bytes FROM spaces WHERE id = ?1", [space])?.unwrap_or_default(),
            };
            self.space_bytes = Some(in_space);
        }
        let used = Used { entity, space: in_space, principal: self.account.bytes };
        Ok(quota.objection(used.and(added.entity, added.space), &offered.change))
    }
}

/// Moves the space's counter, and returns the space's key.
fn move_head(connection: &Connection, space: &SpaceName, head: Mark) -> Result<i64, BackendError> {
    let sql = "INSERT INTO spaces (name, seq, chain) VALUES (?1, ?2, ?3)
               ON CONFLICT (name) DO UPDATE SET seq = excluded.seq, chain = excluded.chain RETURNING id";
    let seq = signed(head.seq)?;
    connection
        .prepare_cached(sql)
        .and_then(|mut statement| {
            statement.query_row(params![space.as_str(), seq, head.chain.as_bytes()], |row| row.get(0))
        })
        .map_err(failed("moving a space's head"))
}

fn store_changes(
    connection: &Connection,
    space: i64,
    rows: &[LogRow],
    replica: ReplicaId,
    received_at: UnixMillis,
) -> Result<(), BackendError> {
    let what = "storing a change";
    let mut statement = connection
        .prepare_cached(
            "INSERT INTO changes (space, seq, chain, entity, hash, collection, actor, actor_seq, parent, txn, joined,
                 replica, received_at, bytes)
             VALUES (:space, :seq, :chain, :entity, :hash, :collection, :actor, :actor_seq, :parent, :txn, :joined,
                 :replica, :received_at, :bytes)",
        )
        .map_err(failed(what))?;
    let mut before: Option<TransactionId> = None;
    for LogRow { mark, offered } in rows {
        let change = &offered.change;
        let joined = before.is_some() && before == offered.transaction;
        before = offered.transaction;
        statement
            .execute(named_params! {
                ":space": space,
                ":seq": signed(mark.seq)?,
                ":chain": mark.chain.as_bytes(),
                ":entity": offered.entity.as_bytes(),
                ":hash": change.hash().as_bytes(),
                ":collection": offered.collection.as_str(),
                ":actor": change.actor().as_bytes(),
                ":actor_seq": signed(change.seq())?,
                ":parent": offered.parent.as_ref().map(EntityId::as_bytes),
                ":txn": offered.transaction.as_ref().map(TransactionId::as_bytes),
                ":joined": joined,
                ":replica": replica.as_bytes(),
                ":received_at": received_at,
                ":bytes": change.bytes(),
            })
            .map_err(failed(what))?;
    }
    Ok(())
}

/// Remembers which changes the rows were written from.
fn store_rewrites(connection: &Connection, space: i64, rows: &[LogRow]) -> Result<(), BackendError> {
    let what = "storing what a change was written from";
    let mut statement = connection
        .prepare_cached("INSERT OR IGNORE INTO rewrites (space, entity, original, part) VALUES (?1, ?2, ?3, ?4)")
        .map_err(failed(what))?;
    for LogRow { offered, .. } in rows {
        let Some(Rewrite { original, part }) = offered.change.rewrite_of() else { continue };
        statement
            .execute(params![space, offered.entity.as_bytes(), original.as_bytes(), part])
            .map_err(failed(what))?;
    }
    Ok(())
}

/// Moves the heads of the entities that the rows belong to. No document is loaded: dependencies are enough.
fn advance_entities(connection: &Connection, space: i64, rows: &[LogRow]) -> Result<(), BackendError> {
    let mut touched: BTreeMap<EntityId, (&CollectionName, Heads, bool, u64)> = BTreeMap::new();
    for LogRow { offered, .. } in rows {
        let (_, heads, purged, bytes) = match touched.entry(offered.entity) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => {
                let (heads, purged) = entity_heads(connection, space, &offered.entity)?;
                entry.insert((&offered.collection, heads, purged, 0))
            }
        };
        advance_heads(heads, purged, &offered.change);
        *bytes += stored_bytes(&offered.change);
    }
    let what = "storing an entity's heads";
    let mut statement = connection
        .prepare_cached(
            "INSERT INTO entities (space, entity, collection, heads, purged, bytes) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT (space, entity) DO UPDATE SET heads = excluded.heads, purged = excluded.purged,
                 bytes = bytes + excluded.bytes",
        )
        .map_err(failed(what))?;
    for (entity, (collection, heads, purged, bytes)) in touched {
        statement
            .execute(params![space, entity.as_bytes(), collection.as_str(), heads.to_bytes(), purged, signed(bytes)?])
            .map_err(failed(what))?;
    }
    Ok(())
}

/// An entity's heads, and whether it has been purged.
pub(super) fn entity_heads(
    connection: &Connection,
    space: i64,
    entity: &EntityId,
) -> Result<(Heads, bool), BackendError> {
    let found: Option<(Vec<u8>, bool)> = connection
        .prepare_cached("SELECT heads, purged FROM entities WHERE space = ?1 AND entity = ?2")
        .and_then(|mut statement| {
            statement.query_row(params![space, entity.as_bytes()], |row| Ok((row.get(0)?, row.get(1)?))).optional()
        })
        .map_err(failed("reading an entity's heads"))?;
    let Some((heads, purged)) = found else { return Ok((Heads::default(), false)) };
    Ok((Heads::from_bytes(&heads).map_err(|_| corrupt("an entity's heads"))?, purged))
}
