//! Foreign changes: what is read, what is merged, and what is not.

mod forks;
mod order;
pub(crate) mod sift;

use std::collections::{HashMap, HashSet};

use anabranch_core::document::Document;
use anabranch_core::sync::{FirstSyncStep, Reoffer, WriteBatch};
use anabranch_core::wire::Envelope;
use anabranch_core::{Change, ChangeError, ChangeHash, ClockSkew, CollectionName, EntityId, SpaceName, TransactionId};
use rusqlite::params;

use self::forks::Settled;
use crate::engine::{SignOut, Write};
use crate::error::{QuarantineReason, StoreError};
use crate::rows::{self, EntityRow, Origin, RemoteKey, SpaceKey};
use crate::{first_sync, subset};

pub(crate) use self::order::in_causal_order;

/// What became of a batch of foreign changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Changes that were new and have been applied.
    pub applied: usize,
    /// Changes that were here already.
    pub known: usize,
    /// Changes that wait for others.
    pub orphaned: usize,
    /// Changes that were refused.
    pub quarantined: usize,
    /// A stamp was too far ahead; the local clock did not follow it.
    pub skew: Option<ClockSkew>,
}

/// What an envelope brings, read once: reading a hostile change takes its time.
pub(crate) struct Incoming {
    pub(crate) collection: CollectionName,
    transaction: Option<TransactionId>,
    change: Result<Change, (ChangeError, Vec<u8>)>,
}

impl Incoming {
    fn read(envelope: Envelope) -> Self {
        let Envelope { collection, transaction, change, .. } = envelope;
        let change = Change::parse(change.clone()).map_err(|error| (error, change));
        Self { collection, transaction, change }
    }

    pub(crate) fn hash(&self) -> Option<ChangeHash> {
        self.change.as_ref().ok().map(Change::hash)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        match &self.change {
            Ok(change) => change.bytes(),
            Err((_, bytes)) => bytes,
        }
    }
}

/// A change with what its envelope said.
pub(crate) struct Arrival {
    pub(crate) change: Change,
    pub(crate) transaction: Option<Vec<u8>>,
    /// It has waited for others. Not everyone may have what comes with the batch that freed it.
    pub(crate) orphaned: bool,
}

impl Write<'_> {
    /// Commits what a step of the sync with `remote` decided.
    ///
    /// # Errors
    /// If the database fails. A bad change is no error: it is quarantined.
    pub fn apply_batch(&mut self, remote: RemoteKey, batch: WriteBatch) -> Result<Received, StoreError> {
        if self.engine.sign_out != SignOut::No {
            return Err(StoreError::SignedOut);
        }
        let WriteBatch {
            space,
            lineage,
            incoming,
            mut first_sync,
            answered,
            mut cursor,
            ack,
            owes_reconcile,
            reoffer,
            offers,
            caught_up_at,
            subset_revision,
        } = batch;
        let space = rows::ensure_space(&self.engine.connection, &space)?;
        if !subset::is_current(&self.engine.connection, remote, space, subset_revision)? {
            cursor = None;
            first_sync = first_sync.filter(|step| !matches!(step, FirstSyncStep::Plan(_)));
        }
        self.pending.sync_state = true;
        let mut received = self.receive(space, incoming, Origin::Remote(remote))?;
        if let Some(step) = first_sync {
            received = self.take_first_sync(remote, space, step)?;
        }
        self.take_answers(remote, space, answered)?;
        let connection = &self.engine.connection;
        let mut update = connection.prepare_cached("UPDATE remotes SET lineage = ? WHERE key = ?")?;
        update.execute(params![lineage.as_bytes(), remote])?;
        drop(update);
        let mut insert = connection.prepare_cached("INSERT OR IGNORE INTO sync_state (remote, space) VALUES (?, ?)")?;
        insert.execute([remote, space])?;
        drop(insert);
        for theirs in &offers {
            self.offer_beyond(remote, space, theirs)?;
        }
        let connection = &self.engine.connection;
        match reoffer {
            Reoffer::Nothing => {}
            Reoffer::Refused => self.forget_refusals(remote, space)?,
            Reoffer::Space => {
                connection.execute(
                    "UPDATE sync_state SET cursor = NULL, ack_seq = NULL, ack_chain = NULL \
                     WHERE remote = ? AND space = ?",
                    [remote, space],
                )?;
                first_sync::forget(&self.engine.connection, remote, space)?;
                self.reoffer_space(remote, space)?;
            }
            Reoffer::Everything => {
                connection.execute(
                    "UPDATE sync_state SET cursor = NULL, ack_seq = NULL, ack_chain = NULL WHERE remote = ?",
                    [remote],
                )?;
                connection.execute("DELETE FROM first_syncs WHERE remote = ?", [remote])?;
                self.reoffer_everything(remote)?;
            }
        }
        if cursor.is_some() && self.engine.outdated.remove(&space) {
            // The session does not know yet that there is something to be fetched again.
            return Err(StoreError::DamagedRow("an entity was found damaged; the sync begins again to fetch it"));
        }
        let connection = &self.engine.connection;
        if let Some(cursor) = cursor {
            first_sync::forget(connection, remote, space)?;
            subset::reached(connection, remote, space)?;
            let mut update =
                connection.prepare_cached("UPDATE sync_state SET cursor = ? WHERE remote = ? AND space = ?")?;
            update.execute(params![cursor.0, remote, space])?;
        }
        if owes_reconcile {
            rows::owe_reconcile(connection, remote, space)?;
        }
        if let Some(ack) = ack {
            let mut update = connection
                .prepare_cached("UPDATE sync_state SET ack_seq = ?, ack_chain = ? WHERE remote = ? AND space = ?")?;
            update.execute(params![i64::try_from(ack.seq)?, ack.chain.as_bytes(), remote, space])?;
        }
        if let Some(at) = caught_up_at {
            self.drop_unwanted(remote)?;
            let connection = &self.engine.connection;
            let mut update = connection.prepare_cached("UPDATE sync_state SET last_success_at = ? WHERE remote = ?")?;
            update.execute([at, remote])?;
            drop(update);
            self.forget_attempts(remote)?;
        }
        Ok(received)
    }

    /// Takes in changes from another replica; they are offered to every server, too.
    ///
    /// # Errors
    /// If the database fails. A bad change is no error: it is quarantined.
    pub fn apply_peer(&mut self, space: &SpaceName, incoming: Vec<Envelope>) -> Result<Received, StoreError> {
        if self.engine.sign_out != SignOut::No {
            return Err(StoreError::SignedOut);
        }
        let space = rows::ensure_space(&self.engine.connection, space)?;
        self.receive(space, incoming, Origin::Peer)
    }

    fn receive(&mut self, space: SpaceKey, incoming: Vec<Envelope>, origin: Origin) -> Result<Received, StoreError> {
        let mut received = Received::default();
        // One load and one batch per entity, however its changes are interleaved with others'.
        let mut order: Vec<(EntityId, Vec<Envelope>)> = Vec::new();
        let mut places: HashMap<EntityId, usize> = HashMap::new();
        for envelope in incoming {
            let place = *places.entry(envelope.entity).or_insert_with(|| {
                order.push((envelope.entity, Vec::new()));
                order.len() - 1
            });
            order[place].1.push(envelope);
        }
        for (id, envelopes) in order {
            self.receive_entity(space, id, envelopes, origin, &mut received)?;
        }
        // What has been set aside is told in the status.
        self.pending.sync_state |= received.quarantined + received.orphaned > 0;
        Ok(received)
    }

    pub(crate) fn receive_entity(
        &mut self,
        space: SpaceKey,
        id: EntityId,
        envelopes: Vec<Envelope>,
        origin: Origin,
        received: &mut Received,
    ) -> Result<(), StoreError> {
        // What cannot be read must not decide anything, such as the collection.
        let incoming: Vec<Incoming> = envelopes.into_iter().map(Incoming::read).collect();
        let readable = incoming.iter().find(|it| it.change.is_ok());
        let Some(first) = readable.or_else(|| incoming.first()) else { return Ok(()) };
        let row = match rows::find_entity(&self.engine.connection, space, id)? {
            Some(row) => rows::with_collection(&self.engine.connection, row, &first.collection)?,
            None => {
                let row = rows::insert_entity(&self.engine.connection, space, id, &first.collection)?;
                self.engine.cache.put(row.key, Document::new(&self.engine.actor));
                row
            }
        };
        if self.engine.is_local(&row.collection) {
            return self.keep_out(&row, incoming, received);
        }
        let incoming = self.take_markers(&row, incoming, origin, received)?;
        let mut arrivals = Vec::with_capacity(incoming.len());
        for one in incoming {
            if let Some(arrival) = self.admit(&row, one, origin, received)? {
                arrivals.push(arrival);
            }
        }
        // Not for a peer's sake: one that brings the same again and again must not make a change of it each time.
        if matches!(origin, Origin::Remote(_)) {
            self.dirty(row.key).synced = true;
        }
        if arrivals.is_empty() {
            return Ok(());
        }
        // What has waited here counts for less than the same from a server.
        let come: HashSet<ChangeHash> = arrivals.iter().map(|arrival| arrival.change.hash()).collect();
        let orphans = self.take_orphans(&row)?.into_iter();
        arrivals.extend(orphans.filter(|orphan| !come.contains(&orphan.change.hash())));
        self.apply_arrivals(&row, arrivals, origin, received)
    }

    /// Takes the purge markers out. Nothing is left to apply if the entity is purged: it is history that others
    /// have not purged yet, or will set aside when they do.
    fn take_markers(
        &mut self,
        row: &EntityRow,
        mut incoming: Vec<Incoming>,
        origin: Origin,
        received: &mut Received,
    ) -> Result<Vec<Incoming>, StoreError> {
        let changes = incoming.iter().filter_map(|one| one.change.as_ref().ok());
        let mut markers = 0;
        for marker in changes.filter(|change| change.purge_of().is_some()) {
            let counter =
                if self.take_marker(row, marker, origin)? { &mut received.applied } else { &mut received.known };
            *counter += 1;
            markers += 1;
        }
        if self.is_purged(row)? {
            received.known += incoming.len() - markers;
            incoming.clear();
        }
        Ok(incoming)
    }

    /// Looks at one change. `None` if there is nothing to apply: it is here already, or was refused.
    fn admit(
        &mut self,
        row: &EntityRow,
        incoming: Incoming,
        origin: Origin,
        received: &mut Received,
    ) -> Result<Option<Arrival>, StoreError> {
        if let Err(reason) = same_collection(&row.collection, &incoming.collection) {
            // The envelope is what is wrong: the same change may come in a right one.
            self.quarantine(row, None, incoming.bytes(), &reason, received)?;
            return Ok(None);
        }
        let Incoming { change, transaction, .. } = incoming;
        let change = match change {
            Ok(change) => change,
            Err((error, bytes)) => {
                self.quarantine(row, None, &bytes, &error.into(), received)?;
                return Ok(None);
            }
        };
        let now = self.now();
        if let Err(skew) = self.engine.clock.observe(change.stamp(), now) {
            received.skew = Some(skew);
        }
        self.pending.clock_moved = true;
        if let Some(seq) = rows::change_seq(&self.engine.connection, row.key, &change.hash())? {
            received.known += 1;
            if let Origin::Remote(remote) = origin {
                // The server has it: the answer to our push was lost on the way, or somebody else has brought what was
                // refused here. What had to wait for it goes now.
                if self.settle(remote, row.key, seq)? {
                    self.release_children(remote, &[seq])?;
                    self.pending.pushable.insert(row.space);
                }
            }
            return Ok(None);
        }
        let transaction = transaction.map(|id| id.as_bytes().to_vec());
        Ok(Some(Arrival { change, transaction, orphaned: false }))
    }

    fn apply_arrivals(
        &mut self,
        row: &EntityRow,
        arrivals: Vec<Arrival>,
        origin: Origin,
        received: &mut Received,
    ) -> Result<(), StoreError> {
        self.used.push(row.key);
        let arrivals = self.new_arrivals(row, arrivals, received)?;
        let Settled { arrivals, mut waiting, later } = self.settle_forks(row, arrivals, origin, received)?;
        let mut document = self.engine.take_document(row)?;
        let (ready, without_past) = in_causal_order(&document, arrivals);
        waiting.extend(without_past);
        for arrival in waiting {
            self.orphan(row, &arrival, origin, received)?;
        }
        let changes: Vec<Change> = ready.iter().map(|arrival| arrival.change.clone()).collect();
        let refused = self.take_changes(row, &mut document, &changes)?;
        for (arrival, refused) in ready.iter().zip(refused) {
            if let Some(reason) = refused {
                self.quarantine(row, Some(arrival.change.hash()), arrival.change.bytes(), &reason, received)?;
            } else {
                self.log_foreign(row, arrival, origin)?;
                received.applied += 1;
            }
        }
        self.engine.cache.put(row.key, document);
        if later.is_empty() { Ok(()) } else { self.yield_to_forms(row, &later) }
    }

    /// Those that the document does not have.
    fn new_arrivals(
        &mut self,
        row: &EntityRow,
        arrivals: Vec<Arrival>,
        received: &mut Received,
    ) -> Result<Vec<Arrival>, StoreError> {
        let document = self.engine.take_document(row)?;
        let before = arrivals.len();
        let arrivals: Vec<_> = arrivals.into_iter().filter(|a| !document.has(&a.change.hash())).collect();
        self.engine.cache.put(row.key, document);
        received.known += before - arrivals.len();
        Ok(arrivals)
    }

    /// Merges changes; for each, why it was refused, if it was.
    fn take_changes(
        &self,
        row: &EntityRow,
        document: &mut Document,
        changes: &[Change],
    ) -> Result<Vec<Option<QuarantineReason>>, StoreError> {
        let schema = self.engine.schema.collection(row.collection.as_str());
        let Err(refusal) = sift::merge(document, changes, schema) else { return Ok(vec![None; changes.len()]) };
        if !refusal.untouched {
            // What is in memory may be poisoned.
            *document = rows::load_document(&self.engine.connection, row, &self.engine.actor)?;
        }
        if changes.len() == 1 {
            return Ok(vec![Some(refusal.reason)]);
        }
        let sifted = sift::sift(document.clone(), changes, schema);
        *document = sifted.document;
        Ok(sifted.refused)
    }

    fn log_foreign(&mut self, row: &EntityRow, arrival: &Arrival, origin: Origin) -> Result<(), StoreError> {
        let Arrival { change, transaction, orphaned } = arrival;
        // Whoever brought an orphan need not be who brought what it waited for: it is offered to every server.
        let origin = if *orphaned { Origin::Peer } else { origin };
        let seq = rows::insert_change(&self.engine.connection, row.key, change, transaction.as_deref(), origin)?;
        self.forget_quarantined(row, &change.hash())?;
        let except = if let Origin::Remote(remote) = origin { Some(remote) } else { None };
        self.offer(row, seq, except)?;
        let dirty = self.dirty(row.key);
        dirty.document = true;
        dirty.added_bytes += change.bytes().len();
        Ok(())
    }
}

pub(crate) fn same_collection(ours: &CollectionName, theirs: &CollectionName) -> Result<(), QuarantineReason> {
    if ours == theirs { Ok(()) } else { Err(QuarantineReason::WrongCollection) }
}
