//! What a server's answers do to the outbox.

use std::collections::BTreeSet;

use anabranch_core::sync::Backoff;
use anabranch_core::wire::{Answer, Missing, RejectCode};
use rusqlite::{OptionalExtension as _, params};

use crate::cache::EntityKey;
use crate::engine::Write;
use crate::error::StoreError;
use crate::rows::{self, Origin, RemoteKey, SpaceKey};

/// How often a change is offered to a server that lacks what it depends on.
const MAX_HELD_ATTEMPTS: u32 = 16;
/// Why a change is put off or parked that the server holds back, which has lost what it depends on.
pub(super) const HELD: &str = "held: the server lacks what it depends on";
/// Why a change is put off that depends on another in the outbox.
pub(super) const FOLLOWS: &str = "held: it follows what the server has not taken yet";
/// Why a change is put off that was answered along with another of its transaction.
const NOT_ALONE: &str = "another change of the transaction was not accepted yet";

impl Write<'_> {
    /// Acts on the server's answers about what was pushed.
    pub(crate) fn take_answers(
        &mut self,
        remote: RemoteKey,
        space: SpaceKey,
        answered: Vec<(i64, Answer)>,
    ) -> Result<(), StoreError> {
        let mut lacking = BTreeSet::new();
        let refused =
            answered.iter().any(|(_, answer)| matches!(answer, Answer::Held { .. } | Answer::Rejected { .. }));
        let accepted: Vec<i64> = answered
            .iter()
            .filter(|(_, answer)| matches!(answer, Answer::Accepted { .. } | Answer::Duplicate { .. }))
            .map(|(seq, _)| *seq)
            .collect();
        for (seq, answer) in answered {
            lacking.extend(self.take_answer(remote, space, seq, answer)?);
        }
        self.release_children(remote, &accepted)?;
        if refused {
            self.park_transactions(remote)?;
        }
        let held = !lacking.is_empty();
        for entity in lacking {
            if let Some(row) = rows::entity_by_key(&self.engine.connection, entity)? {
                self.reoffer_entity(remote, &row)?;
            }
        }
        if held {
            self.retry_together(remote, space)?;
        }
        Ok(())
    }

    /// Acts on the server's answer about one pushed change. Returns the entity of which the server lacks
    /// something that it once had, if that is what it says.
    fn take_answer(
        &mut self,
        remote: RemoteKey,
        space: SpaceKey,
        seq: i64,
        answer: Answer,
    ) -> Result<Option<EntityKey>, StoreError> {
        let mut select = self
            .engine
            .connection
            .prepare_cached("SELECT entity, attempts FROM outbox WHERE remote = ? AND change = ?")?;
        let found = select.query_row([remote, seq], |row| Ok((row.get(0)?, row.get::<_, u32>(1)?))).optional()?;
        drop(select);
        let Some((entity, attempts)) = found else {
            let is_there = matches!(answer, Answer::Accepted { .. } | Answer::Duplicate { .. });
            // Answered before, in a session whose last words were lost; or else it was written again while it was under
            // way, and the server will not tell in this session what it has of it.
            let mut overtaken = self.engine.connection.prepare_cached("SELECT 1 FROM overtaken WHERE seq = ?")?;
            return if is_there && overtaken.exists([seq])? { Err(StoreError::Overtaken) } else { Ok(None) };
        };
        match answer {
            Answer::Accepted { .. } | Answer::Duplicate { .. } => {
                let marker = self.marker_at(seq)?;
                self.settle(remote, entity, seq)?;
                self.dirty(entity).synced = true;
                if let Some((marker, row)) = marker.zip(rows::entity_by_key(&self.engine.connection, entity)?) {
                    // The server has agreed to the purge.
                    self.take_marker(&row, &marker, Origin::Remote(remote))?;
                }
            }
            Answer::Held { missing } if self.is_pending(remote, space, entity, &missing)? => {
                // It goes when that goes; if that has been refused, nothing is tried until somebody decides.
                if !self.has_refused(remote, space, entity, &missing)? {
                    self.retry_later(remote, seq, attempts, FOLLOWS)?;
                }
            }
            Answer::Held { missing } if attempts < MAX_HELD_ATTEMPTS => {
                self.retry_later(remote, seq, attempts, HELD)?;
                return match missing {
                    Missing::Change(_) => Ok(Some(entity)),
                    Missing::Parent(parent) => {
                        Ok(rows::find_entity(&self.engine.connection, space, parent)?.map(|row| row.key))
                    }
                };
            }
            Answer::Held { .. } => self.park(remote, entity, seq, None, HELD)?,
            // The server holds changes of the entity that this replica has not seen: nothing is purged.
            Answer::Rejected { code: RejectCode::Stale, message, .. } => {
                if !self.withdraw_marker(entity, seq)? {
                    // A server that was restored from a backup: somebody may have what it lacks.
                    self.retry_later(remote, seq, attempts, &message)?;
                }
            }
            // It was offered again before this replica's own marker.
            Answer::Rejected { code: RejectCode::Purged, .. } if self.purge_as_well(entity)? => {}
            Answer::Rejected { code: code @ (RejectCode::Fork | RejectCode::Superseded), .. }
                if self.settle_rejected_fork(entity, seq, code)? => {}
            Answer::Rejected { code: RejectCode::Transaction, retryable: true, .. } => {
                self.retry_later(remote, seq, attempts, NOT_ALONE)?;
            }
            Answer::Rejected { retryable: true, message, .. } => self.retry_later(remote, seq, attempts, &message)?,
            Answer::Rejected { code, message, .. } => self.park(remote, entity, seq, Some(code), &message)?,
        }
        Ok(None)
    }

    /// Whether what a server lacks has never been accepted by it: then it has not lost anything.
    fn is_pending(
        &self,
        remote: RemoteKey,
        space: SpaceKey,
        entity: EntityKey,
        missing: &Missing,
    ) -> Result<bool, StoreError> {
        let connection = &self.engine.connection;
        let seq = match missing {
            Missing::Change(hash) => rows::change_seq(connection, entity, hash)?,
            Missing::Parent(parent) => match rows::find_entity(connection, space, *parent)? {
                Some(row) => return rows::birth_waits(connection, remote, row.key, 0),
                None => None,
            },
        };
        let mut pending = connection.prepare_cached("SELECT 1 FROM outbox WHERE remote = ? AND change = ?")?;
        seq.map_or(Ok(false), |seq| Ok(pending.exists([remote, seq])?))
    }

    /// Whether a change has been refused of the entity of which a server lacks something.
    fn has_refused(
        &self,
        remote: RemoteKey,
        space: SpaceKey,
        entity: EntityKey,
        missing: &Missing,
    ) -> Result<bool, StoreError> {
        let connection = &self.engine.connection;
        let entity = match missing {
            Missing::Change(_) => Some(entity),
            Missing::Parent(parent) => rows::find_entity(connection, space, *parent)?.map(|row| row.key),
        };
        let mut refused = connection.prepare_cached(
            "SELECT 1 FROM outbox INDEXED BY outbox_blocking \
             WHERE remote = ? AND entity = ? AND (state = 'parked' OR not_before > 0) AND state = 'parked'",
        )?;
        entity.map_or(Ok(false), |entity| Ok(refused.exists([remote, entity])?))
    }

    /// The server has a change. `false` if it was not waiting for that.
    pub(crate) fn settle(&mut self, remote: RemoteKey, entity: i64, seq: i64) -> Result<bool, StoreError> {
        let connection = &self.engine.connection;
        let deleted =
            connection.prepare_cached("DELETE FROM outbox WHERE remote = ? AND change = ?")?.execute([remote, seq])?;
        let elsewhere = connection.prepare_cached("SELECT 1 FROM outbox WHERE change = ?")?.exists([seq])?;
        self.dirty(entity).pending -= i64::from(deleted > 0 && !elsewhere);
        Ok(deleted > 0)
    }

    /// What is held may wait for something that is held as well, here: they are tried again together, or each
    /// would find the other waiting whenever its own turn comes.
    fn retry_together(&mut self, remote: RemoteKey, space: SpaceKey) -> Result<(), StoreError> {
        let mut update = self.engine.connection.prepare_cached(
            "WITH held AS (SELECT o.change, o.not_before FROM outbox o JOIN entities e ON e.key = o.entity \
                 WHERE o.remote = ?1 AND e.space = ?2 AND o.state = 'pending' AND o.not_before > 0 \
                   AND o.last_error IN (?4, ?5, ?6)) \
             UPDATE outbox SET not_before = coalesce((SELECT min(not_before) FROM held WHERE not_before > ?3), not_before) \
             WHERE remote = ?1 AND change IN (SELECT change FROM held)",
        )?;
        update.execute(params![remote, space, self.now(), HELD, FOLLOWS, NOT_ALONE])?;
        Ok(())
    }

    fn retry_later(&mut self, remote: RemoteKey, seq: i64, attempts: u32, error: &str) -> Result<(), StoreError> {
        let wait = Backoff::after(attempts).fail(None, self.engine.environment.entropy());
        let not_before = self.now().saturating_add(wait);
        let mut update = self.engine.connection.prepare_cached(
            "UPDATE outbox SET attempts = attempts + 1, not_before = ?, last_error = ? WHERE remote = ? AND change = ?",
        )?;
        update.execute(params![not_before, error, remote, seq])?;
        Ok(())
    }

    fn park(
        &mut self,
        remote: RemoteKey,
        entity: i64,
        seq: i64,
        code: Option<RejectCode>,
        message: &str,
    ) -> Result<(), StoreError> {
        let code = code.map(|code| format!("{code:?}"));
        let error = code.as_ref().map_or_else(|| message.to_owned(), |code| format!("{code}: {message}"));
        let mut update = self.engine.connection.prepare_cached(
            "UPDATE outbox SET state = 'parked', attempts = attempts + 1, last_error = ?, code = ?, refused_at = ? \
             WHERE remote = ? AND change = ?",
        )?;
        update.execute(params![error, code, self.now(), remote, seq])?;
        drop(update);
        self.dirty(entity);
        Ok(())
    }
}
