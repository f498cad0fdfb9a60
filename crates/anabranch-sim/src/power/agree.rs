//! Whether log, rows and outbox of a replica's file agree, by reading all three.

use std::collections::{BTreeMap, BTreeSet};

use anabranch_core::document::canonical_json;
use anabranch_core::{EntityId, SpaceName};
use anabranch_store::Engine;
use rusqlite::Connection;
use serde_json::Value;

use crate::failure::{Failure, broken, ensure};
use crate::file;
use crate::job::within;
use crate::model::Item;

/// Counts that must be zero.
const NEVER: &[(&str, &str)] = &[
    ("references to rows that are not there", "SELECT count(*) FROM pragma_foreign_key_check"),
    (
        "entities whose count of pending changes is not the outbox's",
        "SELECT count(*) FROM entities e WHERE pending <> \
         (SELECT count(DISTINCT change) FROM outbox o WHERE o.entity = e.key)",
    ),
    (
        "outbox rows of a change that is another entity's",
        "SELECT count(*) FROM outbox o LEFT JOIN changes c ON c.seq = o.change WHERE c.entity IS NOT o.entity",
    ),
    (
        "entities with unsent fields and nothing to send",
        "SELECT count(*) FROM entities WHERE pending = 0 AND dirty_fields <> '[]'",
    ),
    (
        "entities whose count of open conflicts is not the table's",
        "SELECT count(*) FROM entities e WHERE items <> \
         (SELECT count(*) FROM conflicts c WHERE c.entity = e.key AND c.open = 1)",
    ),
    (
        "changes in the log whose entity has no heads",
        "SELECT count(*) FROM changes c JOIN entities e ON e.key = c.entity WHERE length(e.heads) = 0",
    ),
];

/// Checks a file that an engine has open.
pub(super) fn check(engine: &mut Engine, reader: &Connection) -> Result<(), Failure> {
    for (what, sql) in NEVER {
        let count = file::number(reader, sql)?;
        ensure(count == 0, || format!("{count} {what}"))?;
    }
    check_heads(reader)?;
    check_rows(engine, reader)
}

/// The heads in an entity's row are those of the changes that the file holds of it, and none of those lacks another.
fn check_heads(reader: &Connection) -> Result<(), Failure> {
    let purged = file::purged(reader)?;
    // A marker is under way until a server has agreed; it belongs to the document only then.
    let markers = file::markers(reader)?.into_iter().filter(|(space, id, _)| purged.contains(&(space.clone(), *id)));
    let held = file::changes(reader)?.into_iter().chain(markers);
    let mut of_entity: BTreeMap<(SpaceName, EntityId), BTreeSet<[u8; 32]>> = BTreeMap::new();
    for (space, entity, hash) in held {
        of_entity.entry((space, entity)).or_default().insert(hash);
    }
    let mut needed: BTreeMap<(SpaceName, EntityId), BTreeSet<[u8; 32]>> = BTreeMap::new();
    for ((space, entity, _), dependency) in dependencies(reader)? {
        needed.entry((space, entity)).or_default().insert(dependency);
    }
    for entity in file::entities(reader)? {
        let key = (entity.space, entity.id);
        let (held, needed) = (of_entity.remove(&key).unwrap_or_default(), needed.remove(&key).unwrap_or_default());
        let heads: BTreeSet<[u8; 32]> = entity.heads.chunks_exact(32).filter_map(|head| head.try_into().ok()).collect();
        ensure(needed.is_subset(&held), || format!("entity {}: a change lacks what it needs", key.1))?;
        let ends: BTreeSet<[u8; 32]> = held.difference(&needed).copied().collect();
        ensure(heads == ends, || format!("entity {}: the row's heads are not the log's", key.1))?;
    }
    Ok(())
}

/// What each change depends on.
fn dependencies(reader: &Connection) -> Result<Vec<(Item, [u8; 32])>, Failure> {
    let sql = "SELECT s.name, e.id, c.bytes, 0 FROM changes c JOIN entities e ON e.key = c.entity \
               JOIN spaces s ON s.key = e.space UNION ALL \
               SELECT s.name, e.id, p.document, 1 FROM snapshots p JOIN entities e ON e.key = p.entity \
               JOIN spaces s ON s.key = e.space";
    let rows: Vec<(String, String, Vec<u8>, bool)> =
        file::rows(reader, sql, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?;
    let mut found = Vec::new();
    for (space, id, bytes, folded) in rows {
        let space = SpaceName::new(space).map_err(broken("a space's name"))?;
        let id: EntityId = id.parse().map_err(broken("an entity's id"))?;
        let changes = if folded {
            automerge::AutoCommit::load(&bytes).map_err(broken("loading a folded document"))?.get_changes(&[])
        } else {
            vec![automerge::Change::from_bytes(bytes).map_err(broken("reading a change"))?]
        };
        for change in changes {
            let item: Item = (space.clone(), id, change.hash().0);
            found.extend(change.deps().iter().map(|dependency| (item.clone(), dependency.0)));
        }
    }
    Ok(found)
}

/// Each row says what follows from the changes in the log.
fn check_rows(engine: &mut Engine, reader: &Connection) -> Result<(), Failure> {
    for entity in file::entities(reader)? {
        let (space, id) = (entity.space.clone(), entity.id);
        let (mut state, _) =
            within(engine, move |write| write.state(&space, id)).map_err(broken("loading a document"))?;
        state.deleted |= entity.purged;
        let digest = state.digest();
        let json = canonical_json(&Value::Object(state.fields));
        ensure(json == entity.state && entity.digest == digest.as_bytes() && state.deleted == entity.deleted, || {
            format!("entity {id}: the row does not show what the log says")
        })?;
    }
    Ok(())
}
