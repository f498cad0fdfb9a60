//! What a space holds, for whoever reconciles with it: rows only.

use anabranch_core::sync::Offered;
use anabranch_core::sync::reconcile::{Item, MAX_ITEMS, ReconcileIndex, reply};
use anabranch_core::wire::{Ask, Mark};
use anabranch_core::{Change, CollectionName, EntityId, Heads, SpaceName, TransactionId};
use rusqlite::{Connection, params};

use super::append::entity_heads;
use super::reader::{optional_blob, space_head};
use super::{blob, corrupt, failed};
use crate::backend::{PageBudget, Reconciled};
use crate::error::BackendError;

pub(super) fn answer(
    connection: &Connection,
    space: &SpaceName,
    ask: &Ask,
    budget: PageBudget,
) -> Result<Reconciled, BackendError> {
    let found = space_head(connection, space)?;
    let mut index = Index { connection, space: found.map(|(id, _)| id) };
    let reply = reply(&mut index, ask, budget.bytes, budget.changes)?;
    Ok((found.map_or(Mark::START, |(_, head)| head), reply))
}

/// What the transaction sees of a space.
struct Index<'a> {
    connection: &'a Connection,
    /// `None`: nothing has ever been written to it.
    space: Option<i64>,
}

impl ReconcileIndex for Index<'_> {
    type Error = BackendError;

    fn items(&mut self, of: Option<&[CollectionName]>) -> Result<Vec<Item>, BackendError> {
        let Some(space) = self.space else { return Ok(Vec::new()) };
        let what = "reading a space's entities";
        let mut statement = self
            .connection
            .prepare_cached(
                "SELECT entity, heads FROM entities WHERE space = ?1 \
                 AND (?3 IS NULL OR collection LIKE '$%' OR collection IN (SELECT value FROM json_each(?3))) LIMIT ?2",
            )
            .map_err(failed(what))?;
        let most = i64::try_from(MAX_ITEMS + 1).unwrap_or(i64::MAX);
        let of = of.map(serde_json::to_string).transpose().map_err(|_| corrupt("a collection's name"))?;
        let mut rows = statement.query(params![space, most, of]).map_err(failed(what))?;
        let mut items = Vec::new();
        while let Some(row) = rows.next().map_err(failed(what))? {
            let heads = row.get_ref(1).ok().and_then(|value| value.as_blob().ok());
            let heads = heads.and_then(|bytes| Heads::from_bytes(bytes).ok());
            let heads = heads.ok_or_else(|| corrupt("an entity's heads"))?;
            items.push(Item::new(EntityId::from_bytes(blob(row, 0)?), &heads));
        }
        Ok(items)
    }

    fn heads(&mut self, entity: &EntityId) -> Result<Heads, BackendError> {
        self.space.map_or(Ok(Heads::default()), |space| Ok(entity_heads(self.connection, space, entity)?.0))
    }

    fn newest_first(&mut self, entity: &EntityId, each: &mut dyn FnMut(Offered) -> bool) -> Result<(), BackendError> {
        let Some(space) = self.space else { return Ok(()) };
        for seq in self.places(space, entity)?.into_iter().rev() {
            if !each(self.change(space, seq, *entity)?) {
                break;
            }
        }
        Ok(())
    }
}

impl Index<'_> {
    /// The places of an entity's changes, in order. The index on changes finds them; only numbers are sorted.
    fn places(&self, space: i64, entity: &EntityId) -> Result<Vec<i64>, BackendError> {
        let what = "looking for an entity's changes";
        let mut statement = self
            .connection
            .prepare_cached("SELECT seq FROM changes WHERE space = ?1 AND entity = ?2")
            .map_err(failed(what))?;
        let rows = statement.query_map(params![space, entity.as_bytes()], |row| row.get(0)).map_err(failed(what))?;
        let mut places = rows.collect::<Result<Vec<i64>, _>>().map_err(failed(what))?;
        places.sort_unstable();
        Ok(places)
    }

    fn change(&self, space: i64, seq: i64, entity: EntityId) -> Result<Offered, BackendError> {
        let what = "reading a change";
        let mut statement = self
            .connection
            .prepare_cached("SELECT collection, parent, txn, hash, bytes FROM changes WHERE space = ?1 AND seq = ?2")
            .map_err(failed(what))?;
        let mut rows = statement.query([space, seq]).map_err(failed(what))?;
        let row = rows.next().map_err(failed(what))?.ok_or_else(|| corrupt("a place of the log"))?;
        let collection: String = row.get(0).map_err(failed(what))?;
        let change = Change::parse(row.get(4).map_err(failed(what))?).map_err(|_| corrupt("a change's bytes"))?;
        let hash: [u8; 32] = blob(row, 3)?;
        if change.hash().as_bytes() != &hash {
            return Err(corrupt("a change's hash"));
        }
        Ok(Offered {
            entity,
            collection: CollectionName::new(collection).map_err(|_| corrupt("a collection's name"))?,
            parent: optional_blob(row, 1)?.map(EntityId::from_bytes),
            transaction: optional_blob(row, 2)?.map(TransactionId::from_bytes),
            change,
            agreed: false,
        })
    }
}
