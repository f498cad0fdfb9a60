//! What needs a person's eye: contested values, broken rules and orphaned references, as rows.
//!
//! All of it is derived: contests and broken rules from the entity's own state, orphans from the entities that
//! its references name. So replicas that hold the same changes have the same rows, and no row is ever sent.

use anabranch_core::document::{Contender, Contest, State};
use anabranch_core::{
    Actor, ChangeHash, Collection, CollectionName, Digest, EntityId, Field, Kind, OnDelete, SpaceName, UnixMillis,
};
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cache::EntityKey;
use crate::error::StoreError;
use crate::read::Read;
use crate::rows::EntityRow;

/// The most rows of one entity, orphans that come later aside.
const MAX_ROWS: usize = 1_000;

/// Something about an entity that a person may have to decide.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Conflict {
    /// Names it: the same on every replica, and another once a value has come or gone.
    pub id: Digest,
    /// The entity's space.
    pub space: SpaceName,
    /// The entity.
    pub entity: EntityId,
    /// The entity's collection.
    pub collection: CollectionName,
    /// What it is.
    pub kind: ConflictKind,
    /// Whether it waits for a person. One that does not was settled by the field's policy.
    pub open: bool,
    /// The field, with the path into it: `title`, `address.city`, `steps.3`.
    pub field: String,
    /// The policy that settled it for the time being, or the rule that is broken.
    pub reason: String,
    /// The value that is shown.
    pub value: Value,
    /// All contested values, the winner's first. Empty unless the kind is [`ConflictKind::Values`].
    pub contenders: Vec<ConflictValue>,
}

/// What a [`Conflict`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ConflictKind {
    /// Several values were written at the same time.
    Values,
    /// A merge has broken a rule of the field.
    Rule,
    /// A reference names an entity that has been deleted.
    Orphan,
}

impl ConflictKind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Values => "values",
            Self::Rule => "rule",
            Self::Orphan => "orphan",
        }
    }

    fn parse(text: &str) -> Result<Self, StoreError> {
        let kinds = [Self::Values, Self::Rule, Self::Orphan];
        kinds.into_iter().find(|kind| kind.as_str() == text).ok_or(StoreError::DamagedRow("a conflict's kind"))
    }
}

/// One of several contested values.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConflictValue {
    /// The value.
    pub value: Value,
    /// When it was written, by the writer's clock.
    pub written_at: UnixMillis,
    /// Who wrote it; [`Actor::is_of`] tells whether that was this replica.
    pub actor: Actor,
    /// The change that wrote it.
    pub change: ChangeHash,
    /// Whether it was written to settle an earlier conflict.
    pub resolution: bool,
}

/// The column of the same name.
#[derive(Default, Serialize, Deserialize)]
struct Detail {
    value: Value,
    contenders: Vec<ConflictValue>,
}

/// What a flush counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) contested: usize,
    pub(crate) open: i64,
}

/// A row to be.
struct Item {
    id: Digest,
    kind: ConflictKind,
    open: bool,
    field: String,
    reason: String,
    detail: Detail,
}

/// Replaces an entity's rows by what its state and its references say.
pub(crate) fn rewrite(
    connection: &Connection,
    row: &EntityRow,
    state: &State,
    schema: Option<&Collection>,
) -> Result<Counts, StoreError> {
    connection.prepare_cached("DELETE FROM conflicts WHERE entity = ?")?.execute([row.key])?;
    link(connection, row, state, schema)?;
    // Nobody has to decide anything about what is deleted.
    if state.deleted || state.collection.is_none() {
        return Ok(Counts { contested: state.contests.len(), open: 0 });
    }
    // What no policy settles comes first, so that the bound never cuts it off.
    let mut items = orphans(connection, row, schema)?;
    for breach in &state.breaches {
        let reason = format!("{}: {}", breach.rule.name(), breach.rule);
        let value = state.fields.get(breach.field.as_str()).cloned().unwrap_or_default();
        items.push(Item {
            id: Digest::of(format!("rule {} {}", breach.field, breach.rule.name()).as_bytes()),
            kind: ConflictKind::Rule,
            open: true,
            field: breach.field.to_string(),
            reason,
            detail: Detail { value, contenders: Vec::new() },
        });
    }
    items.extend(state.contests.iter().map(contested));
    items.iter().take(MAX_ROWS).try_for_each(|item| insert(connection, row.key, item))?;
    let mut open = connection.prepare_cached("SELECT count(*) FROM conflicts WHERE entity = ? AND open = 1")?;
    Ok(Counts { contested: state.contests.len(), open: open.query_row([row.key], |found| found.get(0))? })
}

/// Looks again at an entity's references, after one of the entities that they name has come or gone.
pub(crate) fn look_again(
    connection: &Connection,
    row: &EntityRow,
    schema: Option<&Collection>,
) -> Result<(), StoreError> {
    connection.prepare_cached("DELETE FROM conflicts WHERE entity = ? AND kind = 'orphan'")?.execute([row.key])?;
    let mut alive = connection.prepare_cached("SELECT 1 FROM entities WHERE key = ? AND deleted = 0 AND born = 1")?;
    if alive.exists([row.key])? {
        for item in orphans(connection, row, schema)? {
            insert(connection, row.key, &item)?;
        }
    }
    let mut count = connection.prepare_cached(
        "UPDATE entities SET items = (SELECT count(*) FROM conflicts WHERE entity = ?1 AND open = 1) WHERE key = ?1",
    )?;
    count.execute([row.key])?;
    Ok(())
}

/// CROSS JOIN, so that for the sake of the order not all entities of the space are looked at.
const REFERRING: &str = "SELECT l.entity, l.field FROM links l CROSS JOIN entities e ON e.key = l.entity \
     WHERE l.target = ? AND e.space = ? AND e.deleted = 0 ORDER BY e.id, l.field";

/// The live entities whose references name this one.
pub(crate) fn referring(connection: &Connection, row: &EntityRow) -> Result<Vec<(EntityKey, String)>, StoreError> {
    let mut statement = connection.prepare_cached(REFERRING)?;
    let rows =
        statement.query_map(params![row.id.to_string(), row.space], |found| Ok((found.get(0)?, found.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Notes which entities this one refers to.
fn link(
    connection: &Connection,
    row: &EntityRow,
    state: &State,
    schema: Option<&Collection>,
) -> Result<(), StoreError> {
    let Some(schema) = schema.filter(|schema| schema.fields.values().any(|field| field.kind == Kind::Reference)) else {
        return Ok(());
    };
    for name in schema.fields.iter().filter(|(_, field)| field.kind == Kind::Reference).map(|(name, _)| name) {
        let target = state.fields.get(name.as_str()).and_then(Value::as_str);
        let target: Option<EntityId> = target.and_then(|text| text.parse().ok());
        match target {
            Some(target) => connection
                .prepare_cached(
                    "INSERT INTO links (entity, field, target) VALUES (?1, ?2, ?3) \
                     ON CONFLICT DO UPDATE SET target = ?3 WHERE target <> ?3",
                )?
                .execute(params![row.key, name.as_str(), target.to_string()])?,
            None => connection
                .prepare_cached("DELETE FROM links WHERE entity = ? AND field = ?")?
                .execute(params![row.key, name.as_str()])?,
        };
    }
    Ok(())
}

/// The references of an entity that name a deleted one. One that is not here at all is no orphan: it may come.
fn orphans(connection: &Connection, row: &EntityRow, schema: Option<&Collection>) -> Result<Vec<Item>, StoreError> {
    let mut items = Vec::new();
    let guarded =
        |(_, field): &(_, &Field)| field.kind == Kind::Reference && (field.parent || field.on_delete != OnDelete::Keep);
    for (name, _) in schema.into_iter().flat_map(|schema| &schema.fields).filter(guarded) {
        let mut statement = connection.prepare_cached(
            "SELECT l.target FROM links l JOIN entities t ON t.space = ?3 AND t.id = l.target \
             WHERE l.entity = ?1 AND l.field = ?2 AND t.deleted = 1",
        )?;
        let target: Option<String> =
            statement.query_row(params![row.key, name.as_str(), row.space], |found| found.get(0)).optional()?;
        items.extend(target.map(|target| Item {
            id: Digest::of(format!("orphan {name} {target}").as_bytes()),
            kind: ConflictKind::Orphan,
            open: true,
            field: name.to_string(),
            reason: "the entity that it refers to has been deleted".to_owned(),
            detail: Detail { value: target.into(), contenders: Vec::new() },
        }));
    }
    Ok(items)
}

fn contested(contest: &Contest) -> Item {
    let contender = |one: &Contender| ConflictValue {
        value: one.value.clone(),
        written_at: one.stamp.millis(),
        actor: one.actor.clone(),
        change: one.change,
        resolution: one.resolution,
    };
    let contenders: Vec<_> = contest.contenders.iter().map(contender).collect();
    Item {
        id: contest.id,
        kind: ConflictKind::Values,
        open: contest.open,
        field: contest.place(),
        reason: contest.policy.to_string(),
        detail: Detail { value: contest.value.clone(), contenders },
    }
}

fn insert(connection: &Connection, entity: EntityKey, item: &Item) -> Result<(), StoreError> {
    let mut statement = connection.prepare_cached(
        "INSERT OR REPLACE INTO conflicts (entity, id, kind, open, field, reason, detail) VALUES (?, ?, ?, ?, ?, ?, ?)",
    )?;
    let detail = serde_json::to_string(&item.detail).map_err(|_| StoreError::OutOfRange)?;
    let kind = item.kind.as_str();
    statement.execute(params![entity, item.id.as_bytes(), kind, item.open, item.field, item.reason, detail])?;
    Ok(())
}

const COLUMNS: &str = "SELECT c.id, s.name, e.id, e.collection, c.kind, c.open, c.field, c.reason, c.detail \
     FROM conflicts c JOIN entities e ON e.key = c.entity JOIN spaces s ON s.key = e.space";

impl Read<'_> {
    /// All conflicts of an entity, those that wait for a person first.
    ///
    /// # Errors
    /// If the database fails.
    pub fn conflicts(&self, space: &SpaceName, id: EntityId) -> Result<Vec<Conflict>, StoreError> {
        let sql = format!("{COLUMNS} WHERE s.name = ? AND e.id = ? ORDER BY c.open DESC, c.field, c.id");
        let mut statement = self.connection().prepare_cached(&sql)?;
        let mut rows = statement.query(params![space.as_str(), id.to_string()])?;
        let mut conflicts = Vec::new();
        while let Some(row) = rows.next()? {
            conflicts.push(conflict(row)?);
        }
        Ok(conflicts)
    }

    /// The queue: what waits for a person in a space, in the order of entity and field, at most `limit`.
    ///
    /// # Errors
    /// If the database fails.
    pub fn open_conflicts(&self, space: &SpaceName, limit: u32) -> Result<Vec<Conflict>, StoreError> {
        let sql = format!("{COLUMNS} WHERE c.open = 1 AND s.name = ? ORDER BY e.id, c.field, c.id LIMIT ?");
        let mut statement = self.connection().prepare_cached(&sql)?;
        let mut rows = statement.query(params![space.as_str(), limit])?;
        let mut conflicts = Vec::new();
        while let Some(row) = rows.next()? {
            conflicts.push(conflict(row)?);
        }
        Ok(conflicts)
    }
}

fn conflict(row: &Row<'_>) -> Result<Conflict, StoreError> {
    let detail: String = row.get(8)?;
    let detail: Detail =
        serde_json::from_str(&detail).map_err(|_| StoreError::DamagedRow("a conflict's detail cannot be read"))?;
    Ok(Conflict {
        id: Digest::from_bytes(row.get(0)?),
        space: SpaceName::new(row.get::<_, String>(1)?)?,
        entity: row.get::<_, String>(2)?.parse()?,
        collection: CollectionName::new(row.get::<_, String>(3)?)?,
        kind: ConflictKind::parse(&row.get::<_, String>(4)?)?,
        open: row.get(5)?,
        field: row.get(6)?,
        reason: row.get(7)?,
        value: detail.value,
        contenders: detail.contenders,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It used to look at all entities of the space, for the sake of the order.
    #[test]
    fn referring_entities_are_found_by_their_links() {
        let plan = crate::file::plan(REFERRING);
        assert!(plan[0].contains("links_by_target (target=?)"), "{plan:#?}");
        assert!(plan[1].ends_with("e USING INTEGER PRIMARY KEY (rowid=?)"), "{plan:#?}");
    }
}
