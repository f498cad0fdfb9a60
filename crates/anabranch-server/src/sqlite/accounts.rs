//! Who keeps how much, and whose a replica is.

use anabranch_core::ReplicaId;
use anabranch_core::sync::{LogRow, stored_bytes};
use rusqlite::{Connection, OptionalExtension as _, params};

use super::{failed, signed, unsigned};
use crate::backend::Author;
use crate::error::BackendError;

/// What is known of an author before an append.
pub(super) struct Account {
    /// What its principal has pushed, in all spaces.
    pub(super) bytes: u64,
    /// The replica is its principal's, or nobody's yet.
    pub(super) owns_replica: bool,
}

/// The half of a replica's id that its actors carry.
fn half(replica: &ReplicaId) -> &[u8] {
    &replica.as_bytes()[8..]
}

pub(super) fn of(connection: &Connection, author: &Author) -> Result<Account, BackendError> {
    let what = "looking up a principal";
    let Some(principal) = &author.principal else { return Ok(Account { bytes: 0, owns_replica: true }) };
    let known: Option<(i64, i64)> = connection
        .prepare_cached("SELECT id, bytes FROM principals WHERE name = ?1")
        .and_then(|mut it| it.query_row([principal], |row| Ok((row.get(0)?, row.get(1)?))).optional())
        .map_err(failed(what))?;
    let owner: Option<i64> = connection
        .prepare_cached("SELECT principal FROM replicas WHERE half = ?1")
        .and_then(|mut it| it.query_row([half(&author.replica)], |row| row.get(0)).optional())
        .map_err(failed(what))?;
    let owns_replica = owner.is_none_or(|owner| known.is_some_and(|(id, _)| id == owner));
    Ok(Account { bytes: unsigned(known.map_or(0, |(_, bytes)| bytes))?, owns_replica })
}

/// Adds what has been stored to the accounts of the space and of the principal.
pub(super) fn book(connection: &Connection, space: i64, author: &Author, rows: &[LogRow]) -> Result<(), BackendError> {
    let what = "booking what was stored";
    let bytes = signed(rows.iter().map(|row| stored_bytes(&row.offered.change)).sum())?;
    connection
        .prepare_cached("UPDATE spaces SET bytes = bytes + ?2 WHERE id = ?1")
        .and_then(|mut it| it.execute([space, bytes]))
        .map_err(failed(what))?;
    let Some(principal) = &author.principal else { return Ok(()) };
    let id: i64 = connection
        .prepare_cached(
            "INSERT INTO principals (name, bytes) VALUES (?1, ?2)
             ON CONFLICT (name) DO UPDATE SET bytes = bytes + excluded.bytes RETURNING id",
        )
        .and_then(|mut it| it.query_row(params![principal, bytes], |row| row.get(0)))
        .map_err(failed(what))?;
    connection
        .prepare_cached("INSERT INTO replicas (half, principal) VALUES (?1, ?2) ON CONFLICT DO NOTHING")
        .and_then(|mut it| it.execute(params![half(&author.replica), id]))
        .map_err(failed(what))?;
    Ok(())
}
