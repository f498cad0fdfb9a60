//! Which entity has to be on a server before another.

use anabranch_core::{CollectionName, Schema};
use rusqlite::{Connection, OptionalExtension as _, params};

use crate::cache::EntityKey;
use crate::error::StoreError;
use crate::rows::{self, EntityRow, SpaceKey};

/// How many parents above a child are looked for.
const MAX_PARENTS: usize = 32;

/// Looks up parents as the rows have them.
#[derive(Clone, Copy)]
pub(super) struct Parents<'a> {
    pub(super) connection: &'a Connection,
    pub(super) schema: &'a Schema,
}

impl Parents<'_> {
    /// The parent that must be on the server first, if the entity has one that is here. In a cycle of parents,
    /// which concurrent writes can make, none comes first: they would wait for each other for ever.
    pub(super) fn parent_of(&self, row: &EntityRow) -> Result<Option<EntityRow>, StoreError> {
        let parent = self.named_parent(row.space, row.key, &row.collection)?;
        let mut above = parent.clone();
        for _ in 0..MAX_PARENTS {
            let Some(ancestor) = above else { break };
            if ancestor.key == row.key {
                return Ok(None);
            }
            above = self.named_parent(row.space, ancestor.key, &ancestor.collection)?;
        }
        Ok(parent)
    }

    /// The entity that an entity's state names as its parent, if that is here.
    fn named_parent(
        &self,
        space: SpaceKey,
        entity: EntityKey,
        collection: &CollectionName,
    ) -> Result<Option<EntityRow>, StoreError> {
        let Some(field) = self.schema.collection(collection.as_str()).and_then(|c| c.parent_field()) else {
            return Ok(None);
        };
        let mut statement =
            self.connection.prepare_cached("SELECT target FROM links WHERE entity = ? AND field = ?")?;
        let target: Option<String> =
            statement.query_row(params![entity, field.as_str()], |row| row.get(0)).optional()?;
        let parent = target.and_then(|id| id.parse().ok());
        let Some(parent) = parent else { return Ok(None) };
        let row = rows::find_entity(self.connection, space, parent)?;
        // One that is here in fragments only cannot be pushed, so nothing can wait for it.
        let mut born = self.connection.prepare_cached("SELECT 1 FROM entities WHERE key = ? AND born = 1")?;
        row.map_or(Ok(None), |row| Ok(born.exists([row.key])?.then_some(row)))
    }

    /// The entities whose parent this one is.
    pub(super) fn children_of(&self, parent: &EntityRow) -> Result<Vec<EntityRow>, StoreError> {
        let mut statement = self.connection.prepare_cached(
            "SELECT DISTINCT l.entity FROM links l JOIN entities e ON e.key = l.entity \
             WHERE l.target = ? AND e.space = ?",
        )?;
        let found = statement.query_map(params![parent.id.to_string(), parent.space], |row| row.get(0))?;
        let mut children = Vec::new();
        for key in found.collect::<Result<Vec<EntityKey>, _>>()? {
            let Some(child) = rows::entity_by_key(self.connection, key)? else { continue };
            if self.parent_of(&child)?.is_some_and(|above| above.key == parent.key) {
                children.push(child);
            }
        }
        Ok(children)
    }
}
