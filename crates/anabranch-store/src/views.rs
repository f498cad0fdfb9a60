//! One SQL view per collection, with a column per field.

use std::fmt::Write as _;

use anabranch_core::{Collection, CollectionName, Kind, Schema};
use rusqlite::Connection;

use crate::error::StoreError;

/// A view or the index of a field.
pub(crate) struct Definition {
    pub(crate) name: String,
    /// The table that it is of; a view is of itself.
    pub(crate) of: Option<&'static str>,
    pub(crate) sql: String,
}

/// The views and field indexes of a schema.
///
/// Names need no escaping beyond quotes: they are checked identifiers.
pub(crate) fn definitions(schema: &Schema) -> Vec<Definition> {
    let mut all = Vec::new();
    for (name, collection) in &schema.collections {
        all.push(Definition { name: name.to_string(), of: None, sql: view(name, collection) });
        for field in collection.fields.iter().filter(|(_, field)| field.indexed).map(|(field, _)| field) {
            let index = format!("field:{name}.{field}");
            let sql = format!(
                "CREATE INDEX \"{index}\" ON entities (json_extract(state, '$.{field}')) \
                 WHERE collection = '{name}' AND deleted = 0 AND born = 1"
            );
            all.push(Definition { name: index, of: Some("entities"), sql });
        }
    }
    for (name, sql) in [("$log", LOG), ("$conflicts", CONFLICTS)] {
        all.push(Definition { name: name.to_owned(), of: None, sql: sql.to_owned() });
    }
    all
}

const LOG: &str = "CREATE VIEW \"$log\" AS \
     SELECT c.seq, s.name AS space, e.collection, e.id, lower(hex(c.hash)) AS hash, c.origin, \
            strftime('%Y-%m-%dT%H:%M:%fZ', (c.stamp >> 16) / 1000.0, 'unixepoch') AS written_at, \
            length(c.bytes) AS bytes, \
            EXISTS (SELECT 1 FROM outbox o WHERE o.change = c.seq) AS pending \
     FROM changes c JOIN entities e ON e.key = c.entity JOIN spaces s ON s.key = e.space";

const CONFLICTS: &str = "CREATE VIEW \"$conflicts\" AS \
     SELECT s.name AS space, e.collection, e.id, lower(hex(c.id)) AS conflict, c.kind, c.open, c.field, c.reason, \
            json_extract(c.detail, '$.value') AS value, json_extract(c.detail, '$.contenders') AS contenders \
     FROM conflicts c JOIN entities e ON e.key = c.entity JOIN spaces s ON s.key = e.space \
     WHERE e.collection <> '$schema'";

/// Makes views and field indexes match the schema.
pub(crate) fn rebuild(connection: &Connection, schema: &Schema) -> Result<(), StoreError> {
    drop_all(connection, "true")?;
    for definition in definitions(schema) {
        connection.execute_batch(&definition.sql)?;
    }
    Ok(())
}

/// Drops the indexes of fields; [`rebuild`] makes them again.
pub(crate) fn drop_indexes(connection: &Connection) -> Result<(), StoreError> {
    drop_all(connection, "type = 'index'")
}

fn drop_all(connection: &Connection, which: &str) -> Result<(), StoreError> {
    let mut statement = connection.prepare(&format!(
        "SELECT upper(type), name FROM sqlite_schema \
         WHERE (type = 'view' OR (type = 'index' AND name LIKE 'field:%')) AND {which}"
    ))?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let existing: Vec<(String, String)> = rows.collect::<Result<_, _>>()?;
    drop(statement);
    for (kind, name) in existing {
        connection.execute_batch(&format!("DROP {kind} \"{name}\""))?;
    }
    Ok(())
}

fn view(name: &CollectionName, collection: &Collection) -> String {
    let mut sql = format!("CREATE VIEW \"{name}\" AS SELECT e.id AS id");
    for (field, definition) in &collection.fields {
        let value = format!("json_extract(e.state, '$.{field}')");
        let column = match definition.kind {
            Kind::Register | Kind::Reference => value,
            Kind::Counter => format!("coalesce({value}, 0)"),
            Kind::Text => format!("coalesce({value}, '')"),
            Kind::List | Kind::Set => format!("coalesce({value}, '[]')"),
            Kind::Map => format!("coalesce({value}, '{{}}')"),
        };
        // Writing to a string cannot fail.
        write!(sql, ", {column} AS \"{field}\"").unwrap_or_default();
    }
    write!(
        sql,
        ", (SELECT name FROM spaces WHERE key = e.space) AS \"$space\" \
         FROM entities e WHERE e.collection = '{name}' AND e.deleted = 0 AND e.born = 1 AND e.damaged < 2"
    )
    .unwrap_or_default();
    sql
}
