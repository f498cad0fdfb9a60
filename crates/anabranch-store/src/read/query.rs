//! SQL that applications write.

use rusqlite::types::ValueRef;
use serde_json::{Map, Value};

use super::Read;
use crate::error::StoreError;

/// The most rows that a query returns.
const MAX_QUERY_ROWS: usize = 1_000_000;

/// What a query found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QueryRows {
    /// The names of the columns, in the query's order.
    pub columns: Vec<String>,
    /// The rows, each with a value per column.
    pub rows: Vec<Vec<Value>>,
}

impl Read<'_> {
    /// Runs SQL that reads, over the collections' views, and returns each row as an object.
    ///
    /// # Errors
    /// [`StoreError::Query`] if the SQL is wrong, tries to write, or returns more than a million rows.
    pub fn query(&self, sql: &str, parameters: &[Value]) -> Result<Vec<Map<String, Value>>, StoreError> {
        let QueryRows { columns, rows } = self.query_rows(sql, parameters)?;
        Ok(rows.into_iter().map(|row| columns.iter().cloned().zip(row).collect()).collect())
    }

    /// As [`Read::query`], with the columns in the query's order, and known even if there are no rows.
    ///
    /// # Errors
    /// As [`Read::query`].
    pub fn query_rows(&self, sql: &str, parameters: &[Value]) -> Result<QueryRows, StoreError> {
        let failed = |error: rusqlite::Error| StoreError::Query(error.to_string());
        let mut statement = self.connection.prepare(sql).map_err(failed)?;
        if !statement.readonly() {
            return Err(StoreError::Query("a query only reads".to_owned()));
        }
        let columns: Vec<String> = statement.column_names().map(str::to_owned).collect();
        let parameters = parameters.iter().map(sql_value);
        let mut rows = statement.query(rusqlite::params_from_iter(parameters)).map_err(failed)?;
        let mut found = Vec::new();
        while let Some(row) = rows.next().map_err(failed)? {
            if found.len() == MAX_QUERY_ROWS {
                return Err(StoreError::Query("more than a million rows".to_owned()));
            }
            let value = |place| Ok(json_value(row.get_ref(place)?));
            found.push((0..columns.len()).map(value).collect::<Result<_, StoreError>>()?);
        }
        Ok(QueryRows { columns, rows: found })
    }
}

fn sql_value(value: &Value) -> rusqlite::types::Value {
    use rusqlite::types::Value as Sql;
    match value {
        Value::Null => Sql::Null,
        Value::Bool(flag) => Sql::Integer(i64::from(*flag)),
        Value::Number(number) => {
            number.as_i64().map_or_else(|| Sql::Real(number.as_f64().unwrap_or(f64::NAN)), Sql::Integer)
        }
        Value::String(text) => Sql::Text(text.clone()),
        Value::Array(_) | Value::Object(_) => Sql::Text(value.to_string()),
    }
}

fn json_value(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(integer) => integer.into(),
        ValueRef::Real(real) => real.into(),
        ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned().into(),
        ValueRef::Blob(bytes) => bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into(),
    }
}
