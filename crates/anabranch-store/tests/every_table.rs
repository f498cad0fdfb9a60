//! What goes has to go from every table. The tables come from the file itself, so one that is added later cannot be
//! forgotten: it is filled here, and found again if nobody empties it.

mod support;

use std::path::Path;

use anabranch_core::{EntityId, Schema};
use anabranch_store::{OpenMode, Store, StoreError};
use rusqlite::types::Value;
use rusqlite::{Connection, params, params_from_iter};
use serde_json::json;
use support::{Folder, environment, fields, name, seal, space};

type Outcome = Result<(), StoreError>;

const SCHEMA: &str = r#"
    version = 1
    [collections.notes.fields]
    title = { kind = "register" }
    [collections.folders.fields]
    title = { kind = "register" }
    [collections.drafts]
    local = true
    [collections.drafts.fields]
    title = { kind = "register" }
"#;

fn open(path: &Path) -> Store {
    let schema = Schema::from_toml(SCHEMA).expect("a schema");
    Store::open(path, OpenMode::Either(schema), environment()).expect("a replica")
}

fn create(store: &Store, at: &'static str, collection: &'static str) -> Result<EntityId, StoreError> {
    let fields = fields(json!({ "title": collection }));
    store.write(move |write| write.create(&space(at), &name(collection), None, &fields)).wait()
}

/// A second connection to a replica's file.
struct File(Connection);

impl File {
    fn open(path: &Path) -> Self {
        let connection = Connection::open(path).expect("a file");
        connection.pragma_update(None, "foreign_keys", false).expect("a pragma");
        Self(connection)
    }

    fn number(&self, sql: &str, parameters: impl rusqlite::Params) -> i64 {
        self.0.query_row(sql, parameters, |row| row.get(0)).unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    fn entity(&self, id: EntityId) -> i64 {
        self.number("SELECT key FROM entities WHERE id = ?", [id.to_string()])
    }

    /// Tables with a column of this name, or one that refers to this table.
    fn tables(&self, column: &str, target: &str) -> Vec<(String, String)> {
        let mut statement = self
            .0
            .prepare(
                "SELECT t.name, c.name FROM sqlite_schema t JOIN pragma_table_info(t.name) c WHERE t.type = 'table' \
                 AND (c.name = ?1 OR EXISTS (SELECT 1 FROM pragma_foreign_key_list(t.name) f \
                     WHERE f.\"table\" = ?2 AND f.\"from\" = c.name)) ORDER BY t.name",
            )
            .expect("a query");
        let found = statement.query_map([column, target], |row| Ok((row.get(0)?, row.get(1)?)));
        found.expect("tables").collect::<Result<_, _>>().expect("tables")
    }

    /// Puts a row about this entity and space into a table.
    fn fill(&self, table: &str, entity: i64, space: i64) {
        let mut columns = self.0.prepare("SELECT name, type, pk FROM pragma_table_info(?)").expect("a query");
        let columns = columns
            .query_map([table], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .and_then(Iterator::collect::<Result<Vec<(String, String, i64)>, _>>)
            .expect("columns");
        let keys = columns.iter().filter(|(_, _, key)| *key > 0).count();
        let values = columns.iter().map(|(name, kind, key)| match (name.as_str(), kind.as_str()) {
            ("entity", _) => Value::Integer(entity),
            ("space", _) => Value::Integer(space),
            (_, "INTEGER") if *key > 0 && keys == 1 => Value::Null,
            (_, "INTEGER") => Value::Integer(1),
            (_, "BLOB") => Value::Blob(entity.to_le_bytes().to_vec()),
            _ => Value::Text("1".to_owned()),
        });
        let places = vec!["?"; columns.len()].join(", ");
        let sql = format!("INSERT OR IGNORE INTO \"{table}\" VALUES ({places})");
        self.0.execute(&sql, params_from_iter(values)).unwrap_or_else(|error| panic!("{table}: {error}"));
    }

    fn rows(&self, (table, column): &(String, String), key: i64) -> i64 {
        self.number(&format!("SELECT count(*) FROM \"{table}\" WHERE \"{column}\" = ?"), [key])
    }

    /// The tables that have a row about this.
    fn mention(&self, tables: &[(String, String)], key: i64) -> Vec<String> {
        tables.iter().filter(|table| self.rows(table, key) > 0).map(|(table, _)| table.clone()).collect()
    }
}

#[test]
fn an_entity_that_is_not_wanted_any_more_leaves_no_row_in_any_table() -> Outcome {
    let folder = Folder::new();
    let path = folder.path("a.db");
    let store = open(&path);
    let ids = [create(&store, "main", "notes")?, create(&store, "main", "folders")?];
    let [gone, kept] = ids;
    let file = File::open(&path);
    let (gone, kept, main) = (file.entity(gone), file.entity(kept), file.number("SELECT key FROM spaces", []));
    let tables = file.tables("entity", "entities");
    assert!(tables.len() >= 9, "{tables:?}");
    for (table, _) in &tables {
        file.fill(table, gone, main);
        file.fill(table, kept, main);
    }
    assert_eq!(file.mention(&tables, gone).len(), tables.len(), "each has a row of it");
    // What waits to be sent keeps its entity here, so nothing may.
    file.0.execute_batch("DELETE FROM outbox; UPDATE entities SET pending = 0")?;
    ids.iter().for_each(|id| seal(&file.0, &id.to_string()));
    let before = file.mention(&tables, kept);
    let wanted = [name("folders")].into();
    store.write(move |write| write.want_collections(1, &space("main"), Some(wanted))).wait()?;
    assert_eq!(file.mention(&tables, gone), [""; 0]);
    assert_eq!(file.number("SELECT count(*) FROM entities WHERE key = ?", [gone]), 0);
    assert_eq!(file.mention(&tables, kept), before);
    Ok(())
}

#[test]
fn a_sign_out_leaves_no_row_of_what_is_synced_in_any_table() -> Outcome {
    let folder = Folder::new();
    let path = folder.path("a.db");
    let store = open(&path);
    let [synced, local] = [create(&store, "main", "notes")?, create(&store, "own", "drafts")?];
    let unsent = store.read(|read| read.unsent())?;
    let file = File::open(&path);
    let (synced, local) = (file.entity(synced), file.entity(local));
    let space_of = |name: &str| file.number("SELECT key FROM spaces WHERE name = ?", [name]);
    let (main, own) = (space_of("main"), space_of("own"));
    let (of_entities, of_spaces) = (file.tables("entity", "entities"), file.tables("space", "spaces"));
    let of_remotes = file.tables("remote", "remotes");
    for (table, _) in of_entities.iter().chain(&of_spaces).chain(&of_remotes) {
        // Rows that stay must not be made up, or they could not be read any more.
        if table != "entities" && table != "changes" {
            file.fill(table, synced, main);
        }
    }
    let kept: Vec<_> = of_entities.iter().filter(|table| file.rows(table, local) > 0).cloned().collect();
    assert!(kept.iter().any(|(table, _)| table == "changes"));
    store.write(move |write| write.sign_out(&unsent)).wait()?;
    assert_eq!(file.mention(&of_entities, synced), [""; 0]);
    assert_eq!(file.mention(&of_spaces, main), [""; 0]);
    assert_eq!(file.mention(&of_remotes, 1), [""; 0]);
    assert_eq!(file.number("SELECT count(*) FROM spaces WHERE key = ?", [main]), 0);
    assert_eq!(file.number("SELECT count(*) FROM entities WHERE key = ?", [synced]), 0);
    assert!(kept.iter().all(|table| file.rows(table, local) > 0), "what is local-only stays");
    assert_eq!(file.number("SELECT count(*) FROM spaces WHERE key = ?", [own]), 1);
    let left = file
        .number("SELECT count(*) FROM meta WHERE key NOT IN ('schema', 'projection', 'clock', 'format')", params![]);
    assert_eq!(left, 0, "nor who the replica was");
    Ok(())
}
