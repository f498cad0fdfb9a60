//! Building a page: what one push takes, in an order that the server can accept.
//!
//! The log's order is kept where it can be. Three things come before it: a change follows those it depends on, a
//! child follows its parent, and the changes of a transaction stand together. The last can be at odds with the
//! first two, in what others have written: then a parent is not waited for, or the transaction is torn.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::rc::Rc;

use anabranch_core::sync::{OutboxItem, OutboxRead, fits_transaction};
use anabranch_core::wire::Envelope;
use anabranch_core::{Change, CollectionName, EntityId, Schema, TransactionId, UnixMillis};
use rusqlite::{Connection, OptionalExtension as _, params};

use super::parents::Parents;
use super::waiting::Waiting;
use crate::cache::EntityKey;
use crate::error::StoreError;
use crate::rows::{self, EntityRow, RemoteKey, SpaceKey};
use crate::seal::ENTITY;

/// How deep what must come first may be nested before a transaction is torn.
const MAX_DEPTH: usize = 128;

/// A row's key in `changes`, its place in this replica's log.
type Seq = i64;
/// The pending changes of a transaction.
type Group = Rc<Vec<Seq>>;

/// Whether something could be put into the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Placed {
    Yes,
    /// There is no room left.
    Full,
    /// It would have to come before something that itself comes before it.
    Circular,
}

/// Stops at what could not be placed.
macro_rules! place {
    ($placed:expr) => {
        match $placed? {
            Placed::Yes => {}
            other => return Ok(other),
        }
    };
}

pub(super) struct PageBuilder<'a> {
    connection: &'a Connection,
    parents_of: Parents<'a>,
    remote: RemoteKey,
    space: SpaceKey,
    read: &'a OutboxRead,
    waiting: Waiting,
    items: Vec<OutboxItem>,
    bytes: usize,
    placed: HashSet<Seq>,
    /// The transactions that have been looked at; `None` for one that cannot stand together.
    groups: HashMap<TransactionId, Option<Group>>,
    groups_under_way: HashSet<TransactionId>,
    /// Parents that have been looked at, and whether that is over.
    parents: HashMap<EntityKey, bool>,
}

/// A pending change.
struct Row {
    seq: Seq,
    entity: EntityKey,
    id: EntityId,
    collection: CollectionName,
    transaction: Option<TransactionId>,
    bytes: Vec<u8>,
    /// The entity is purged, so this is a marker that was agreed to.
    agreed: bool,
}

impl<'a> PageBuilder<'a> {
    pub(super) fn new(
        connection: &'a Connection,
        schema: &'a Schema,
        now: UnixMillis,
        remote: RemoteKey,
        space: SpaceKey,
        read: &'a OutboxRead,
    ) -> Result<Self, StoreError> {
        let parents_of = Parents { connection, schema };
        let waiting = Waiting::find(parents_of, remote, now)?;
        Ok(Self {
            connection,
            parents_of,
            remote,
            space,
            read,
            waiting,
            items: Vec::new(),
            bytes: 0,
            placed: HashSet::new(),
            groups: HashMap::new(),
            groups_under_way: HashSet::new(),
            parents: HashMap::new(),
        })
    }

    /// Fills the page in the order of the log.
    pub(super) fn fill(mut self) -> Result<Vec<OutboxItem>, StoreError> {
        // CROSS JOIN: the outbox is read in its order, as far as the page goes.
        let mut statement = self.connection.prepare_cached(
            "SELECT o.change, o.entity FROM outbox o CROSS JOIN entities e ON e.key = o.entity \
             WHERE o.remote = ? AND o.state = 'pending' AND e.space = ? ORDER BY o.change",
        )?;
        let mut found = statement.query([self.remote, self.space])?;
        while let Some(row) = found.next()? {
            let (seq, entity) = (row.get(0)?, row.get(1)?);
            if !self.waiting.includes(entity, seq) && self.place_or_tear(seq)? == Placed::Full {
                break;
            }
        }
        Ok(self.items)
    }

    /// Places a change on which nothing else waits. If its transaction cannot stand together, it goes alone.
    fn place_or_tear(&mut self, seq: Seq) -> Result<Placed, StoreError> {
        let placed = self.place(seq, 0)?;
        if placed == Placed::Circular
            && let Some(transaction) = self.row(seq)?.transaction
        {
            self.groups.insert(transaction, None);
            return self.place(seq, 0);
        }
        Ok(placed)
    }

    /// Adds a change, with its transaction, after what must come first.
    fn place(&mut self, seq: Seq, depth: usize) -> Result<Placed, StoreError> {
        if self.placed.contains(&seq) {
            return Ok(Placed::Yes);
        }
        if depth > MAX_DEPTH {
            return Ok(Placed::Circular);
        }
        let row = self.row(seq)?;
        let Some((transaction, group)) = self.group_of(&row)? else { return self.place_alone(row, depth) };
        if !self.groups_under_way.insert(transaction) {
            return Ok(Placed::Circular);
        }
        let placed = self.place_group(&group, depth);
        self.groups_under_way.remove(&transaction);
        placed
    }

    fn place_alone(&mut self, mut row: Row, depth: usize) -> Result<Placed, StoreError> {
        if depth > 0 {
            // In the order of the log they have been placed: an entity's changes stand in it after their ancestors.
            place!(self.place_ancestors(std::slice::from_ref(&row), depth));
        }
        let mut parent = self.parent_of(row.entity, row.id, &row.collection)?;
        if let Some(above) = &parent {
            match self.place_parent(above, depth)? {
                Placed::Yes => {}
                Placed::Full => return Ok(Placed::Full),
                Placed::Circular => parent = None,
            }
        }
        if self.placed.contains(&row.seq) {
            // A parent's transaction has brought it along.
            return Ok(Placed::Yes);
        }
        if self.is_full(1, row.bytes.len()) {
            return Ok(Placed::Full);
        }
        row.transaction = row.transaction.filter(|id| !matches!(self.groups.get(id), Some(None)));
        self.push(row, parent.map(|parent| parent.id));
        Ok(Placed::Yes)
    }

    fn place_group(&mut self, group: &[Seq], depth: usize) -> Result<Placed, StoreError> {
        let rows = group.iter().map(|seq| self.row(*seq)).collect::<Result<Vec<_>, _>>()?;
        place!(self.place_ancestors(&rows, depth));
        let collections: BTreeMap<_, _> =
            rows.iter().map(|row| (row.entity, (row.id, row.collection.clone()))).collect();
        let mut parents = HashMap::new();
        for (entity, (id, collection)) in &collections {
            let Some(parent) = self.parent_of(*entity, *id, collection)? else { continue };
            let inside = collections.contains_key(&parent.key);
            match if inside { Placed::Yes } else { self.place_parent(&parent, depth)? } {
                Placed::Yes => drop(parents.insert(*entity, parent)),
                Placed::Full => return Ok(Placed::Full),
                Placed::Circular => {}
            }
        }
        if self.is_full(rows.len(), rows.iter().map(|row| row.bytes.len()).sum()) {
            return Ok(Placed::Full);
        }
        let mut by_entity: HashMap<EntityKey, Vec<Row>> = HashMap::new();
        let order = parents_first(rows.iter().map(|row| row.entity), &parents);
        rows.into_iter().for_each(|row| by_entity.entry(row.entity).or_default().push(row));
        for entity in order {
            let parent = parents.get(&entity).map(|parent| parent.id);
            by_entity.remove(&entity).into_iter().flatten().for_each(|row| self.push(row, parent));
        }
        Ok(Placed::Yes)
    }

    /// Places the pending changes that these rows depend on, near or far, and that are not among them.
    fn place_ancestors(&mut self, rows: &[Row], depth: usize) -> Result<Placed, StoreError> {
        let own: HashSet<Seq> = rows.iter().map(|row| row.seq).collect();
        let mut open = Vec::new();
        for row in rows {
            open.extend(self.pending_dependencies(row)?);
        }
        let mut ancestors = BTreeSet::new();
        while let Some(seq) = open.pop() {
            if !own.contains(&seq) && !self.placed.contains(&seq) && ancestors.insert(seq) {
                open.extend(self.pending_dependencies(&self.row(seq)?)?);
            }
        }
        for seq in ancestors {
            place!(self.place(seq, depth + 1));
        }
        Ok(Placed::Yes)
    }

    /// Places what a parent still has to push.
    fn place_parent(&mut self, parent: &EntityRow, depth: usize) -> Result<Placed, StoreError> {
        match self.parents.get(&parent.key) {
            Some(true) => return Ok(Placed::Yes),
            Some(false) => return Ok(Placed::Circular),
            None => drop(self.parents.insert(parent.key, false)),
        }
        let placed = self.place_pending(parent.key, depth);
        if matches!(placed, Ok(Placed::Yes)) {
            self.parents.insert(parent.key, true);
        } else {
            self.parents.remove(&parent.key);
        }
        placed
    }

    fn place_pending(&mut self, entity: EntityKey, depth: usize) -> Result<Placed, StoreError> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT change FROM outbox WHERE remote = ? AND entity = ? ORDER BY change LIMIT ?")?;
        let mut found = statement.query(params![self.remote, entity, self.read.changes])?;
        while let Some(row) = found.next()? {
            let seq = row.get(0)?;
            if self.waiting.includes(entity, seq) {
                break;
            }
            place!(self.place(seq, depth + 1));
        }
        Ok(Placed::Yes)
    }

    fn is_full(&self, count: usize, bytes: usize) -> bool {
        let over = |limit: u32, value: usize| u32::try_from(value).map_or(true, |value| value > limit);
        !self.items.is_empty()
            && (over(self.read.changes, self.items.len() + count) || over(self.read.bytes, self.bytes + bytes))
    }

    fn push(&mut self, row: Row, parent: Option<EntityId>) {
        let Row { seq, id, collection, transaction, bytes, agreed, .. } = row;
        self.placed.insert(seq);
        self.bytes += bytes.len();
        let envelope = Envelope { entity: id, collection, parent, transaction, change: bytes };
        self.items.push(OutboxItem { key: seq, envelope, agreed });
    }

    fn row(&self, seq: Seq) -> Result<Row, StoreError> {
        let mut statement = self.connection.prepare_cached(&format!(
            "SELECT c.entity, e.id, e.collection, c.txn, c.bytes, e.purged, is_sound({ENTITY}, e.seal), c.hash, o.entity \
             FROM changes c JOIN entities e ON e.key = c.entity LEFT JOIN outbox o ON o.remote = ? AND o.change = c.seq \
             WHERE c.seq = ?"
        ))?;
        let mut found = statement.query([self.remote, seq])?;
        let row = found.next()?.ok_or(StoreError::DamagedRow("a pending change is not in the log"))?;
        self.verify(row)?;
        let (transaction, bytes): (Option<Vec<u8>>, Vec<u8>) = (row.get(3)?, row.get(4)?);
        Ok(Row {
            seq,
            entity: row.get(0)?,
            id: row.get::<_, String>(1)?.parse()?,
            collection: CollectionName::new(row.get::<_, String>(2)?)?,
            transaction: transaction.and_then(|id| rows::transaction_id(&id)),
            bytes,
            agreed: row.get(5)?,
        })
    }

    /// Nothing leaves this file that is not what was written.
    fn verify(&self, row: &rusqlite::Row<'_>) -> Result<(), StoreError> {
        let entity: EntityKey = row.get(0)?;
        let owner: Option<EntityKey> = row.get(8)?;
        let (bytes, hash): (Vec<u8>, Vec<u8>) = (row.get(4)?, row.get(7)?);
        let reason = if !row.get::<_, bool>(6)? {
            "its row is not what was written"
        } else if Change::parse(bytes).map_or(true, |change| *change.hash().as_bytes() != *hash) {
            "a change of it is not what was written"
        } else if owner.is_some_and(|owner| owner != entity) {
            "the outbox has it under another name"
        } else {
            return Ok(());
        };
        rows::suspect(self.connection, entity)?;
        if let Some(owner) = owner {
            rows::suspect(self.connection, owner)?;
        }
        Err(StoreError::DamagedEntity { entity: row.get::<_, String>(1)?.parse()?, reason })
    }

    fn pending_dependencies(&self, row: &Row) -> Result<Vec<Seq>, StoreError> {
        let mut statement = self.connection.prepare_cached(
            "SELECT c.seq FROM changes c JOIN outbox o ON o.remote = ? AND o.change = c.seq AND o.state = 'pending' \
             WHERE c.entity = ? AND c.hash = ?",
        )?;
        let mut pending = Vec::new();
        // What cannot be read is sent as it is, and refused: it must not keep the others waiting.
        let Ok(change) = Change::parse(row.bytes.clone()) else { return Ok(pending) };
        for hash in change.dependencies() {
            let parameters = params![self.remote, row.entity, hash.as_bytes()];
            pending.extend(statement.query_row(parameters, |found| found.get::<_, Seq>(0)).optional()?);
        }
        Ok(pending)
    }

    /// The pending changes that stand together with this one, itself among them.
    fn group_of(&mut self, row: &Row) -> Result<Option<(TransactionId, Group)>, StoreError> {
        let Some(transaction) = row.transaction else { return Ok(None) };
        if let Some(known) = self.groups.get(&transaction) {
            return Ok(known.clone().map(|group| (transaction, group)));
        }
        let mut statement = self.connection.prepare_cached(
            "SELECT c.seq, length(c.bytes) FROM changes c \
             JOIN outbox o ON o.remote = ? AND o.change = c.seq AND o.state = 'pending' \
             JOIN entities e ON e.key = c.entity AND e.space = ? WHERE c.txn = ? ORDER BY c.seq",
        )?;
        let parameters = params![self.remote, self.space, transaction.as_bytes()];
        let found = statement.query_map(parameters, |row| Ok((row.get::<_, Seq>(0)?, row.get::<_, usize>(1)?)))?;
        let found = found.collect::<Result<Vec<_>, _>>()?;
        // Only what others wrote can be larger, and no server would take it whole.
        let whole = fits_transaction(found.len(), found.iter().map(|(_, length)| length).sum());
        let group = whole.then(|| Rc::new(found.into_iter().map(|(seq, _)| seq).collect()));
        self.groups.insert(transaction, group.clone());
        Ok(group.map(|group| (transaction, group)))
    }

    fn parent_of(
        &self,
        entity: EntityKey,
        id: EntityId,
        collection: &CollectionName,
    ) -> Result<Option<EntityRow>, StoreError> {
        let row = EntityRow { key: entity, space: self.space, id, collection: collection.clone(), damaged: false };
        self.parents_of.parent_of(&row)
    }
}

/// The entities of a transaction in the order in which they first come, but each after its parent.
fn parents_first(entities: impl Iterator<Item = EntityKey>, parents: &HashMap<EntityKey, EntityRow>) -> Vec<EntityKey> {
    let (mut order, mut seen) = (Vec::new(), HashSet::new());
    for entity in entities {
        let mut line = Vec::new();
        let mut next = Some(entity);
        while let Some(entity) = next.filter(|entity| seen.insert(*entity)) {
            line.push(entity);
            next = parents.get(&entity).map(|parent| parent.key);
        }
        order.extend(line.into_iter().rev());
    }
    order
}
