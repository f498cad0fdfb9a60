//! Reading whole histories, entity by entity: what segments are made of.

use anabranch_core::{Change, CollectionName, EntityId, SpaceName};
use rusqlite::{Connection, params};

use super::reader::space_head;
use super::{blob, corrupt, failed, signed, unsigned};
use crate::backend::{Histories, HistoryPage, PageBudget};
use crate::error::BackendError;

/// Entities in a page, however short their histories are.
const MAX_ENTITIES: i64 = 4_096;

pub(super) fn collections(connection: &Connection, space: &SpaceName) -> Result<Vec<CollectionName>, BackendError> {
    let what = "reading a space's collections";
    let Some((id, _)) = space_head(connection, space)? else { return Ok(Vec::new()) };
    let mut statement = connection
        .prepare_cached("SELECT DISTINCT collection FROM entities WHERE space = ?1 ORDER BY collection")
        .map_err(failed(what))?;
    let names = statement.query_map([id], |row| row.get::<_, String>(0)).map_err(failed(what))?;
    names
        .map(|name| CollectionName::new(name.map_err(failed(what))?).map_err(|_| corrupt("a collection's name")))
        .collect()
}

pub(super) fn touched(
    connection: &Connection,
    space: &SpaceName,
    after: u64,
    up_to: u64,
) -> Result<Vec<(CollectionName, EntityId)>, BackendError> {
    let what = "reading which entities have changed";
    let Some((id, _)) = space_head(connection, space)? else { return Ok(Vec::new()) };
    let mut statement = connection
        .prepare_cached("SELECT DISTINCT collection, entity FROM changes WHERE space = ?1 AND seq > ?2 AND seq <= ?3")
        .map_err(failed(what))?;
    let mut rows = statement.query(params![id, signed(after)?, signed(up_to)?]).map_err(failed(what))?;
    let mut touched = Vec::new();
    while let Some(row) = rows.next().map_err(failed(what))? {
        let collection: String = row.get(0).map_err(failed(what))?;
        let collection = CollectionName::new(collection).map_err(|_| corrupt("a collection's name"))?;
        touched.push((collection, EntityId::from_bytes(blob(row, 1)?)));
    }
    Ok(touched)
}

pub(super) fn histories(
    connection: &Connection,
    space: &SpaceName,
    range: &Histories,
    budget: PageBudget,
) -> Result<HistoryPage, BackendError> {
    let mut page = HistoryPage::default();
    let Some((space, _)) = space_head(connection, space)? else { return Ok(page) };
    let mut bytes = 0;
    let entities = entities(connection, space, range)?;
    let full = i64::try_from(entities.len()).is_ok_and(|count| count > MAX_ENTITIES);
    for (place, entity) in entities.iter().enumerate() {
        if full && place + 1 == entities.len() {
            page.next = Some((*entity, 0));
            break;
        }
        let after = if *entity == range.from.0 { range.from.1 } else { 0 };
        if !history(connection, space, range.up_to, (*entity, after), budget, &mut bytes, &mut page)? {
            break;
        }
    }
    Ok(page)
}

/// The entities of a range; one more than a page holds, if there are.
fn entities(connection: &Connection, space: i64, range: &Histories) -> Result<Vec<EntityId>, BackendError> {
    let what = "reading a range of entities";
    let mut statement = connection
        .prepare_cached(
            "SELECT entity FROM entities WHERE space = ?1 AND entity >= ?2 AND (?3 IS NULL OR entity < ?3)
             AND collection = ?4 ORDER BY entity LIMIT ?5",
        )
        .map_err(failed(what))?;
    let to = range.to.as_ref().map(EntityId::as_bytes);
    let limit = MAX_ENTITIES + 1;
    let mut rows = statement
        .query(params![space, range.from.0.as_bytes(), to, range.collection.as_str(), limit])
        .map_err(failed(what))?;
    let mut entities = Vec::new();
    while let Some(row) = rows.next().map_err(failed(what))? {
        entities.push(EntityId::from_bytes(blob(row, 0)?));
    }
    Ok(entities)
}

/// Adds an entity's changes to a page. `false` if the page is full; it then says where it ends.
fn history(
    connection: &Connection,
    space: i64,
    up_to: u64,
    (entity, after): (EntityId, u64),
    budget: PageBudget,
    bytes: &mut usize,
    page: &mut HistoryPage,
) -> Result<bool, BackendError> {
    let what = "reading an entity's changes";
    let mut statement = connection
        .prepare_cached(
            // The pluses keep SQLite from going through the whole log in its order.
            "SELECT seq, hash, bytes FROM changes
             WHERE space = ?1 AND entity = ?2 AND +seq > ?3 AND +seq <= ?4 ORDER BY +seq",
        )
        .map_err(failed(what))?;
    let mut rows =
        statement.query(params![space, entity.as_bytes(), signed(after)?, signed(up_to)?]).map_err(failed(what))?;
    let mut last = after;
    while let Some(row) = rows.next().map_err(failed(what))? {
        if *bytes >= budget.bytes || page.changes.len() >= budget.changes {
            page.next = Some((entity, last));
            return Ok(false);
        }
        let change = Change::parse(row.get(2).map_err(failed(what))?).map_err(|_| corrupt("a change's bytes"))?;
        let hash: [u8; 32] = blob(row, 1)?;
        if change.hash().as_bytes() != &hash {
            return Err(corrupt("a change's hash"));
        }
        last = unsigned(row.get(0).map_err(failed(what))?)?;
        *bytes += change.bytes().len();
        page.changes.push((entity, change));
    }
    Ok(true)
}
