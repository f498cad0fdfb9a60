//! Files and schemas of earlier versions.

use anabranch_core::Schema;
use rusqlite::Connection;

use super::{name, started};
use crate::bug;
use crate::disk::Disk;
use crate::failure::{Failure, broken};
use crate::log::Log;
use crate::power::client::Desk;
use crate::power::{FILE, Planted, Played};

pub(super) fn upgrade(planted: Planted) -> Result<Played, Failure> {
    let mut desk = started(21, planted, 12)?;
    let text = workload_schema()?;
    desk.schema = text;
    desk.act(3)?;
    desk.played()
}

/// The workload's schema, one version further: other policies, a new field and a new collection.
fn workload_schema() -> Result<Schema, Failure> {
    let mut schema = crate::workload::schema(1, bug::Planted::default());
    let more = Schema::from_toml(
        "version = 1\n[collections.rooms.fields]\ntitle = { kind = \"register\" }\n\
         seen = { kind = \"register\", default = \"no\" }\n",
    );
    let more = more.map_err(broken("a schema"))?;
    let rooms = more.collection("rooms").cloned().unwrap_or_default();
    if let Some(notes) = schema.collections.get_mut(&name("notes")?) {
        notes.fields.extend(
            rooms.fields.iter().filter(|(field, _)| field.as_str() == "seen").map(|(k, v)| (k.clone(), v.clone())),
        );
    }
    schema.collections.insert(name("rooms")?, rooms);
    schema.version += 1;
    Ok(schema)
}

/// What brings a file from the version that is its place to the next, as released files know it.
const TABLES: [&[&str]; 3] = [
    &[include_str!("../../../../anabranch-store/src/tables.sql")],
    &[include_str!("../../../../anabranch-store/src/tables-2.sql")],
    &[
        include_str!("../../../../anabranch-store/src/tables-3-schedule.sql"),
        include_str!("../../../../anabranch-store/src/tables-3-identity.sql"),
        include_str!("../../../../anabranch-store/src/tables-3-segments.sql"),
    ],
];

/// A file as an earlier release wrote it is opened by this one.
pub(super) fn migration(planted: Planted, version: usize) -> Result<Played, Failure> {
    let (mut now, mut server) = (Desk::new(22, Planted::Nothing)?, Log::default());
    now.act(10)?;
    now.push(&mut server)?;
    now.close();
    let mut desk = Desk::new(24, planted)?;
    write_as_earlier(&now.disk, &desk.disk, version).map_err(broken("writing a file of an earlier release"))?;
    desk.begin()?;
    desk.act(2)?;
    desk.played()
}

fn write_as_earlier(now: &Disk, then: &Disk, version: usize) -> rusqlite::Result<()> {
    let file = Connection::open(then.path(FILE))?;
    file.pragma_update(None, "foreign_keys", false)?;
    for tables in TABLES[..version].iter().copied().flatten() {
        file.execute_batch(tables)?;
    }
    file.execute_batch(&format!(
        "PRAGMA application_id = 0x416e6162; PRAGMA user_version = {version}; DELETE FROM remotes"
    ))?;
    file.execute("ATTACH ? AS newer", [now.path(FILE).to_str()])?;
    let mut tables =
        file.prepare("SELECT name FROM main.sqlite_schema WHERE type = 'table' AND sql LIKE 'CREATE%STRICT%'")?;
    let tables = tables.query_map([], |row| row.get(0))?.collect::<Result<Vec<String>, _>>()?;
    for table in tables {
        let mut columns = file.prepare("SELECT group_concat(name) FROM pragma_table_info(?, 'main')")?;
        let columns: String = columns.query_row([&table], |row| row.get(0))?;
        file.execute_batch(&format!("INSERT INTO {table} ({columns}) SELECT {columns} FROM newer.{table}"))?;
    }
    if version == 1 {
        file.execute_batch("UPDATE meta SET value = 1 WHERE key = 'projection'")?;
    }
    file.execute_batch("DETACH newer; PRAGMA journal_mode = wal")
}
