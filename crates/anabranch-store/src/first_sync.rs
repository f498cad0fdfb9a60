//! First sync: segments become rows, most of them without a document.

use std::collections::HashMap;

use anabranch_core::document::Plain;
use anabranch_core::segment::{Manifest, Piece, Segment, SegmentEntity};
use anabranch_core::sync::{FirstSync, FirstSyncStep};
use anabranch_core::wire::{Cursor, Envelope, Mark};
use anabranch_core::{Actor, Change, Collection, CollectionName, Digest, EntityId, Kind, SpaceName};
use rusqlite::{Connection, OptionalExtension as _, params};

use crate::cache::EntityKey;
use crate::conflicts;
use crate::engine::Write;
use crate::error::StoreError;
use crate::receive::Received;
use crate::rows::{self, EntityRow, Origin, RemoteKey, SpaceKey};

impl Write<'_> {
    /// Carries out what a session decided about a space's first sync.
    pub(crate) fn take_first_sync(
        &mut self,
        remote: RemoteKey,
        space: SpaceKey,
        step: FirstSyncStep,
    ) -> Result<Received, StoreError> {
        match step {
            FirstSyncStep::Plan(plan) => {
                remember(&self.engine.connection, remote, space, &plan)?;
                Ok(Received::default())
            }
            FirstSyncStep::Apply(segment) => {
                let mut done = self.engine.connection.prepare_cached(
                    "UPDATE first_sync_pieces SET applied = 1 WHERE remote = ? AND space = ? AND digest = ?",
                )?;
                done.execute(params![remote, space, segment.digest.as_bytes()])?;
                drop(done);
                self.apply_segment(remote, space, *segment)
            }
        }
    }

    fn apply_segment(&mut self, remote: RemoteKey, space: SpaceKey, segment: Segment) -> Result<Received, StoreError> {
        let mut received = Received::default();
        let schema = std::sync::Arc::clone(&self.engine.schema);
        let schema = schema.collection(segment.collection.as_str());
        let mut taking = Taking {
            remote,
            space,
            name: rows::space_name(&self.engine.connection, space)?,
            collection: segment.collection,
            schema,
            refers: schema.is_some_and(|schema| schema.fields.values().any(|field| field.kind == Kind::Reference)),
            alone: rows::remotes(&self.engine.connection)? == [remote],
            actors: HashMap::new(),
        };
        for entity in segment.entities {
            self.take_entity(&mut taking, entity, &mut received)?;
        }
        self.pending.clock_moved = true;
        Ok(received)
    }

    /// A new entity with a plain history is written as it is; every other goes the ordinary way of changes.
    fn take_entity(
        &mut self,
        taking: &mut Taking<'_>,
        entity: SegmentEntity,
        received: &mut Received,
    ) -> Result<(), StoreError> {
        let SegmentEntity { id, changes, plain } = entity;
        let key = match &plain {
            Some(_) if self.engine.is_local(&taking.collection) => None,
            Some(plain) => self.insert_plain(taking, id, &changes, plain)?,
            None => None,
        };
        let (Some(plain), Some(key)) = (plain, key) else {
            let envelope = |change: Change| Envelope {
                entity: id,
                collection: taking.collection.clone(),
                parent: None,
                transaction: None,
                change: change.into_bytes(),
            };
            let envelopes = changes.into_iter().map(envelope).collect();
            return self.receive_entity(taking.space, id, envelopes, Origin::Remote(taking.remote), received);
        };
        let row = EntityRow { key, space: taking.space, id, collection: taking.collection.clone(), damaged: false };
        self.log_plain(taking, &row, &changes, received)?;
        if taking.refers || !plain.state.breaches.is_empty() {
            let counts = conflicts::rewrite(&self.engine.connection, &row, &plain.state, taking.schema)?;
            let mut update = self.engine.connection.prepare_cached("UPDATE entities SET items = ? WHERE key = ?")?;
            update.execute(params![counts.open, key])?;
        }
        if plain.state.deleted {
            self.engine.flush_referring(&row, self.pending)?;
        }
        self.pending.touch(taking.name.clone(), &row);
        Ok(())
    }

    /// The key of the entity's new row; `None` if it has one already.
    fn insert_plain(
        &self,
        taking: &Taking<'_>,
        id: EntityId,
        changes: &[Change],
        plain: &Plain,
    ) -> Result<Option<EntityKey>, StoreError> {
        let Plain { state, fields, digest, heads } = plain;
        let bytes: usize = changes.iter().map(|change| change.bytes().len()).sum();
        let connection = &self.engine.connection;
        let mut insert = connection.prepare_cached(
            "INSERT INTO entities (space, id, collection, state, digest, heads, created_at, updated_at, deleted, born, \
             last_sync_at, log_bytes) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 1, ?, ?) ON CONFLICT DO NOTHING",
        )?;
        let inserted = insert.execute(params![
            taking.space,
            id.to_string(),
            taking.collection.as_str(),
            fields,
            digest.as_bytes(),
            heads.to_bytes(),
            state.created.millis(),
            state.updated.millis(),
            state.deleted,
            self.now(),
            i64::try_from(bytes)?,
        ])?;
        if inserted == 0 {
            return Ok(None);
        }
        let key = connection.last_insert_rowid();
        connection.prepare_cached("INSERT INTO unchecked (entity) VALUES (?)")?.execute([key])?;
        Ok(Some(key))
    }

    fn log_plain(
        &mut self,
        taking: &mut Taking<'_>,
        row: &EntityRow,
        changes: &[Change],
        received: &mut Received,
    ) -> Result<(), StoreError> {
        let origin = Origin::Remote(taking.remote);
        let now = self.now();
        for change in changes {
            if let Err(skew) = self.engine.clock.observe(change.stamp(), now) {
                received.skew = Some(skew);
            }
            let actor = taking.actor(&self.engine.connection, change.actor())?;
            let seq = rows::insert_change_of(&self.engine.connection, row.key, change, actor, None, origin)?;
            if !taking.alone {
                self.offer(row, seq, Some(taking.remote))?;
            }
            received.applied += 1;
        }
        Ok(())
    }
}

/// What is the same for all entities of a segment.
struct Taking<'s> {
    remote: RemoteKey,
    space: SpaceKey,
    name: SpaceName,
    collection: CollectionName,
    schema: Option<&'s Collection>,
    /// Entities of the collection refer to others.
    refers: bool,
    /// There is no other server that the changes must be offered to.
    alone: bool,
    actors: HashMap<Actor, i64>,
}

impl Taking<'_> {
    fn actor(&mut self, connection: &Connection, actor: &Actor) -> Result<i64, StoreError> {
        if let Some(key) = self.actors.get(actor) {
            return Ok(*key);
        }
        let key = rows::actor_key(connection, actor)?;
        self.actors.insert(actor.clone(), key);
        Ok(key)
    }
}

fn remember(connection: &Connection, remote: RemoteKey, space: SpaceKey, plan: &FirstSync) -> Result<(), StoreError> {
    forget(connection, remote, space)?;
    let FirstSync { manifest: Manifest { mark, cursor, pieces }, applied } = plan;
    connection.execute(
        "INSERT INTO first_syncs (remote, space, seq, chain, cursor) VALUES (?, ?, ?, ?, ?)",
        params![remote, space, i64::try_from(mark.seq)?, mark.chain.as_bytes(), cursor.0],
    )?;
    let mut insert = connection.prepare_cached(
        "INSERT INTO first_sync_pieces (remote, space, place, digest, collection, entities, bytes, applied) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
    )?;
    for (place, (piece, applied)) in (0i64..).zip(pieces.iter().zip(applied)) {
        let Piece { digest, collection, entities, bytes } = piece;
        let collection = collection.as_str();
        insert.execute(params![remote, space, place, digest.as_bytes(), collection, entities, bytes, applied])?;
    }
    Ok(())
}

/// The first sync has ended, or begins anew.
pub(crate) fn forget(connection: &Connection, remote: RemoteKey, space: SpaceKey) -> Result<(), StoreError> {
    connection.prepare_cached("DELETE FROM first_syncs WHERE remote = ? AND space = ?")?.execute([remote, space])?;
    Ok(())
}

/// The first sync of a space that is under way.
pub(crate) fn under_way(
    connection: &Connection,
    remote: RemoteKey,
    space: SpaceKey,
) -> Result<Option<FirstSync>, StoreError> {
    let mut select =
        connection.prepare_cached("SELECT seq, chain, cursor FROM first_syncs WHERE remote = ? AND space = ?")?;
    let found = select.query_row([remote, space], |row| {
        let mark = Mark { seq: row.get(0)?, chain: Digest::from_bytes(row.get(1)?) };
        Ok((mark, Cursor(row.get(2)?)))
    });
    let Some((mark, cursor)) = found.optional()? else { return Ok(None) };
    let mut select = connection.prepare_cached(
        "SELECT digest, collection, entities, bytes, applied FROM first_sync_pieces WHERE remote = ? AND space = ? \
         ORDER BY place",
    )?;
    let mut found = select.query([remote, space])?;
    let (mut pieces, mut applied) = (Vec::new(), Vec::new());
    while let Some(row) = found.next()? {
        let collection = CollectionName::new(row.get::<_, String>(1)?)?;
        let (digest, entities, bytes) = (Digest::from_bytes(row.get(0)?), row.get(2)?, row.get(3)?);
        pieces.push(Piece { digest, collection, entities, bytes });
        applied.push(row.get(4)?);
    }
    Ok(Some(FirstSync { manifest: Manifest { mark, cursor, pieces }, applied }))
}
