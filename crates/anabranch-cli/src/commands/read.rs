//! The commands that only read: `get`, `list`, `query`, `log`.

use anabranch::{EntityRecord, FieldName};
use anabranch_core::document::canonical_json;
use serde_json::{Map, Value, json};

use crate::args::{Get, List, Log, Query};
use crate::commands;
use crate::commands::edit::record;
use crate::error::CliError;
use crate::output::{Cell, Output, Table, count, plain, printable};

/// The widest cell of a table of entities.
const CELL_WIDTH: usize = 32;
/// The widest cell of a query's table.
const QUERY_CELL_WIDTH: usize = 200;
/// When geneses are written, which are the same on every replica.
const EPOCH: &str = "1970-01-01T00:00:00.000";
/// The digits of a hash that a person is shown.
const SHORT_HASH: usize = 12;

pub(crate) fn get(arguments: &Get, output: &mut Output) -> Result<(), CliError> {
    let replica = commands::open(&arguments.file)?;
    let record = record(&replica.space(&arguments.space.space)?, &arguments.id)?;
    if arguments.state {
        return output.line(canonical_json(&Value::Object(record.state)));
    }
    if output.is_json() {
        return output.json(&record);
    }
    output.line(format!("{} {}{}", record.collection, record.id, if record.deleted { " (deleted)" } else { "" }))?;
    let declared = replica.schema().collection(record.collection.as_str());
    let declared = declared.map(|collection| collection.fields.keys().map(FieldName::as_str).collect::<Vec<_>>());
    let declared = declared.unwrap_or_default();
    let others = record.state.keys().map(String::as_str).filter(|field| !declared.contains(field));
    let fields: Vec<_> = declared.iter().copied().chain(others).collect();
    let width = fields.iter().map(|field| field.len()).max().unwrap_or(0);
    for field in fields {
        let Some(value) = record.state.get(field) else { continue };
        for (at, line) in value_lines(value).iter().enumerate() {
            output.line(format!("  {:<width$}  {line}", if at == 0 { field } else { "" }))?;
        }
    }
    describe(&record, output)
}

/// A text keeps its lines; everything else is one.
fn value_lines(value: &Value) -> Vec<String> {
    match value {
        Value::String(text) if !text.is_empty() => text.lines().map(printable).collect(),
        other => vec![plain(other)],
    }
}

fn describe(record: &EntityRecord, output: &mut Output) -> Result<(), CliError> {
    let pending = match record.pending {
        0 => "nothing pending".to_owned(),
        pending => format!("{} pending ({})", count(pending, "change"), record.dirty_fields.join(", ")),
    };
    let contested = match record.conflicts {
        0 => String::new(),
        conflicts => format!(", {} contested", count(conflicts, "value")),
    };
    let open = match record.open_conflicts {
        0 => String::new(),
        open => format!(", {} to decide", count(open, "conflict")),
    };
    output.line(format!("  {pending}{contested}{open}, version {:.SHORT_HASH$}", record.version.to_string()))
}

pub(crate) fn list(arguments: &List, output: &mut Output) -> Result<(), CliError> {
    let replica = commands::open(&arguments.file)?;
    let schema = commands::collection(&replica, &arguments.collection)?;
    let collection = replica.space(&arguments.space.space)?.untyped(&arguments.collection)?;
    let limit = usize::try_from(arguments.limit).unwrap_or(usize::MAX);
    // One more than asked for tells whether there are more.
    let mut records = collection.list(None, arguments.limit.saturating_add(1))?;
    let more = records.len() > limit;
    records.truncate(limit);
    if output.is_json() {
        return output.json(&records);
    }
    let mut table = Table::new(["id"].into_iter().chain(schema.fields.keys().map(FieldName::as_str)));
    for record in &records {
        let field = |name: &FieldName| Cell::value(record.state.get(name.as_str()).unwrap_or(&Value::Null), CELL_WIDTH);
        table.row([Cell::text(record.id)].into_iter().chain(schema.fields.keys().map(field)).collect());
    }
    table.print(output)?;
    if more { output.line(format!("… and more: --limit is {limit}")) } else { Ok(()) }
}

pub(crate) fn query(arguments: &Query, output: &mut Output) -> Result<(), CliError> {
    let replica = commands::open(&arguments.file)?;
    let found = replica.query_rows(&arguments.sql, &[])?;
    if output.is_json() {
        let object = |row: Vec<Value>| found.columns.iter().cloned().zip(row).collect::<Map<_, _>>();
        return output.json(&found.rows.into_iter().map(object).collect::<Vec<_>>());
    }
    let mut table = Table::new(&found.columns);
    for row in &found.rows {
        table.row(row.iter().map(|value| Cell::value(value, QUERY_CELL_WIDTH)).collect());
    }
    table.print(output)
}

pub(crate) fn log(arguments: &Log, output: &mut Output) -> Result<(), CliError> {
    let replica = commands::open(&arguments.file)?;
    let space = replica.space(&arguments.space.space)?;
    let id = arguments.id.as_deref().map(|prefix| Ok::<_, CliError>(record(&space, prefix)?.id)).transpose()?;
    let entries = space.log(id)?;
    if output.is_json() {
        return output.json(&json!(entries));
    }
    let mut table = Table::new(["seq", "written at", "origin", "pending", "collection", "id", "bytes", "change"]);
    for entry in &entries {
        table.row(vec![
            Cell::number(entry.seq),
            Cell::text(if entry.written_at.starts_with(EPOCH) { "genesis" } else { &entry.written_at }),
            Cell::text(&entry.origin),
            Cell::text(if entry.pending { "yes" } else { "" }),
            Cell::text(&entry.collection),
            Cell::text(entry.id),
            Cell::number(entry.bytes),
            Cell::text(format_args!("{:.SHORT_HASH$}", entry.hash)),
        ]);
    }
    table.print(output)
}
