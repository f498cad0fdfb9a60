//! Random histories, pushed page by page to a server's real decisions.

#[path = "support/log.rs"]
mod log;
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicI64, Ordering};

use anabranch_core::document::Edit;
use anabranch_core::sync::{OutboxItem, OutboxRead, WriteBatch};
use anabranch_core::wire::{Answer, Missing, RejectCode};
use anabranch_core::{Change, ChangeHash, EntityId, Entropy as _, Lineage, SplitMix64, TransactionId};
use anabranch_store::{OutboxEntry, OutboxState, RemoteKey, Store, StoreError, Write};
use log::Log;
use serde_json::{Map, Value, json};
use support::{Folder, field, fields, name, space};

const SEEDS: u64 = 16;
/// The time on every clock here.
const NOW: i64 = 1_800_000_000_000;

struct Dice(SplitMix64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.0.next_u64() % u64::try_from(end.max(1)).expect("a number")).expect("a number")
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> Option<T> {
        (!from.is_empty()).then(|| from[self.below(from.len())].clone())
    }
}

impl Log {
    /// Takes a push. The change `refused`, if there is one, gets no answer but no.
    fn take(&mut self, items: &[OutboxItem], refused: Option<usize>) -> Vec<Answer> {
        let no = Answer::Rejected { code: RejectCode::Forbidden, message: "no".to_owned(), retryable: false };
        let group = refused.and_then(|at| items[at].envelope.transaction);
        let mut answers = Vec::new();
        let mut batch = Vec::new();
        for (at, item) in items.iter().enumerate() {
            let joined = group.is_some() && item.envelope.transaction == group;
            answers.push((refused == Some(at)).then(|| no.clone()).or_else(|| {
                let message = "another change was refused".to_owned();
                joined.then_some(Answer::Rejected { code: RejectCode::Transaction, message, retryable: true })
            }));
            if answers[at].is_none() {
                batch.push(item.envelope.clone());
            }
        }
        let mut given = self.append(batch).into_iter();
        answers.into_iter().map(|own| own.or_else(|| given.next()).expect("an answer")).collect()
    }

    /// The changes of each transaction; they stand together.
    fn transactions(&self) -> BTreeMap<TransactionId, BTreeSet<(EntityId, ChangeHash)>> {
        let mut found: BTreeMap<_, (u64, BTreeSet<_>)> = BTreeMap::new();
        for row in &self.rows {
            let Some(id) = row.offered.transaction else { continue };
            let (last, changes) = found.entry(id).or_insert((row.mark.seq - 1, BTreeSet::new()));
            assert_eq!(*last + 1, row.mark.seq, "a transaction is interrupted");
            *last = row.mark.seq;
            changes.insert((row.offered.entity, row.offered.change.hash()));
        }
        found.into_iter().map(|(id, (_, changes))| (id, changes)).collect()
    }
}

/// One random write to one of a few entities, so that they are joined in many ways.
fn write_something(write: &mut Write<'_>, dice: &mut Dice, ids: &mut Vec<EntityId>) -> Result<(), StoreError> {
    let main = space("main");
    let parent = dice.pick(ids).filter(|_| dice.below(2) == 0).map(|id| json!(id.to_string()));
    let Some(id) = dice.pick(ids).filter(|_| ids.len() > 8 || dice.below(3) > 0) else {
        let value = json!({ "title": dice.below(100), "parent": parent });
        ids.push(write.create(&main, &name("folders"), None, &fields(value))?);
        return Ok(());
    };
    let edit = match parent {
        Some(parent) if parent != json!(id.to_string()) => Edit::Set { field: field("parent"), value: parent },
        _ => Edit::Set { field: field("title"), value: json!(dice.below(1_000)) },
    };
    write.edit(&main, id, &[edit]).map(drop)
}

/// One write, or a transaction of a few.
fn write_some(store: &Store, dice: &mut Dice, ids: &mut Vec<EntityId>) -> Result<(), StoreError> {
    let (count, seed, mut known) = (dice.below(9), dice.0.next_u64(), ids.clone());
    let work = move |write: &mut Write<'_>| {
        let mut dice = Dice(SplitMix64::new(seed));
        (0..count.saturating_sub(3).max(1)).try_for_each(|_| write_something(write, &mut dice, &mut known))?;
        Ok::<_, StoreError>(known)
    };
    *ids = store.write(move |write| write.transaction(work)).wait()?;
    Ok(())
}

/// Pushes pages until nothing is left that can be pushed, or at most `pages`.
fn push(
    store: &Store,
    remote: RemoteKey,
    log: &mut Log,
    dice: &mut Dice,
    (pages, refusals): (usize, bool),
) -> Result<(), StoreError> {
    for _ in 0..pages {
        let (changes, bytes) = (1 + u32::try_from(dice.below(8))?, 300 + u32::try_from(dice.below(1_500))?);
        let items = store.outbox_page(remote, OutboxRead { space: space("main"), changes, bytes }).wait()?.items;
        if items.is_empty() {
            break;
        }
        let one = items[0].envelope.transaction.is_some()
            && items.iter().all(|item| item.envelope.transaction == items[0].envelope.transaction);
        let size: usize = items.iter().map(|item| item.envelope.change.len()).sum();
        let within = items.len() <= usize::try_from(changes)? && size <= usize::try_from(bytes)?;
        assert!(within || one || items.len() == 1, "only what cannot be divided goes over the limits");
        let refused = (refusals && dice.below(6) == 0).then(|| dice.below(items.len()));
        let answers = log.take(&items, refused);
        for (at, answer) in answers.iter().enumerate() {
            let expected = match answer {
                Answer::Accepted { .. } | Answer::Duplicate { .. } => true,
                // A parent may have been refused,
                Answer::Held { missing: Missing::Parent(_) } | Answer::Rejected { .. } => refusals,
                // or what comes before it in this very page.
                Answer::Held { missing: Missing::Change(hash) } => items[..at].iter().any(|item| {
                    item.envelope.entity == items[at].envelope.entity
                        && Change::parse(item.envelope.change.clone()).is_ok_and(|change| change.hash() == *hash)
                }),
            };
            assert!(expected, "{answer:?}");
        }
        let answered = items.iter().map(|item| item.key).zip(answers).collect();
        let batch = WriteBatch { answered, ..WriteBatch::empty(space("main"), Lineage::from_bytes([7; 16])) };
        store.write(move |write| write.apply_batch(remote, batch)).wait()?;
    }
    Ok(())
}

fn pull(store: &Store, remote: RemoteKey, log: &Log) -> Result<(), StoreError> {
    let batch =
        WriteBatch { incoming: log.envelopes(), ..WriteBatch::empty(space("main"), Lineage::from_bytes([7; 16])) };
    let received = store.write(move |write| write.apply_batch(remote, batch)).wait()?;
    assert_eq!((received.orphaned, received.quarantined), (0, 0));
    Ok(())
}

/// Two writers, one server; then one of them offers everything to a second server.
#[test]
fn g06_every_page_of_honest_writers_is_accepted_and_every_transaction_arrives_whole() -> Result<(), StoreError> {
    for seed in 0..SEEDS {
        let mut dice = Dice(SplitMix64::new(seed));
        let folder = Folder::new();
        let stores = [folder.open("a.db"), folder.open("b.db")];
        let (mut log, mut ids) = (Log::default(), [Vec::new(), Vec::new()]);
        for _ in 0..25 {
            let one = dice.below(2);
            match dice.below(5) {
                0 => {
                    pull(&stores[one], 1, &log)?;
                    ids[one] =
                        log.entities.keys().chain(&ids[one]).copied().collect::<BTreeSet<_>>().into_iter().collect();
                }
                1 => push(&stores[one], 1, &mut log, &mut dice, (2, false))?,
                _ => write_some(&stores[one], &mut dice, &mut ids[one])?,
            }
        }
        for _ in 0..2 {
            for store in &stores {
                push(store, 1, &mut log, &mut dice, (usize::MAX, false))?;
                pull(store, 1, &log)?;
            }
        }
        let counts = stores.iter().map(|store| store.read(|read| read.totals()));
        assert!(counts.collect::<Result<Vec<_>, _>>()?.iter().all(|totals| totals.pending == 0), "seed {seed}");
        let mut second = Log::default();
        let remote = stores[1].write(|write| write.ensure_remote("http://second", &[1])).wait()?;
        push(&stores[1], remote, &mut second, &mut dice, (usize::MAX, false))?;
        assert_eq!(second.rows.len(), log.rows.len(), "seed {seed}");
        assert_eq!(second.transactions(), log.transactions(), "seed {seed}");
    }
    Ok(())
}

fn column(store: &Store, sql: &str) -> Result<Vec<(i64, i64, Value, bool)>, StoreError> {
    let rows = store.read(|read| read.query(sql, &[]))?;
    let entries = store.read(|read| read.outbox(false, 1_000, NOW))?;
    let is_held = |entry: &OutboxEntry| matches!(entry.state, OutboxState::Held { .. });
    let held: BTreeSet<_> = entries.into_iter().filter(is_held).map(|entry| entry.entity.to_string()).collect();
    let number = |value: &Value| value.as_i64().unwrap_or_default();
    let blocked = |r: &Map<String, Value>| r["blocked"] == 1 || r["id"].as_str().is_some_and(|id| held.contains(id));
    Ok(rows.iter().map(|r| (number(&r["seq"]), number(&r["entity"]), r["txn"].clone(), blocked(r))).collect())
}

/// A server that refuses here and there: what is left in the outbox is what was refused or put off, the children of what
/// could not be created, and what is joined to that by entity or transaction, and nothing else.
#[test]
fn g07_what_is_left_is_what_is_joined_to_a_refusal() -> Result<(), StoreError> {
    for seed in 0..SEEDS {
        let mut dice = Dice(SplitMix64::new(seed));
        let folder = Folder::new();
        let store = folder.open("a.db");
        let (mut log, mut ids) = (Log::default(), Vec::new());
        for _ in 0..25 {
            write_some(&store, &mut dice, &mut ids)?;
            if dice.below(3) == 0 {
                push(&store, 1, &mut log, &mut dice, (2, true))?;
            }
        }
        push(&store, 1, &mut log, &mut dice, (usize::MAX, true))?;
        let rows = column(
            &store,
            "SELECT c.seq, c.entity, e.id, c.txn, o.state = 'parked' OR o.not_before > 0 AS blocked \
             FROM outbox o JOIN changes c ON c.seq = o.change JOIN entities e ON e.key = c.entity",
        )?;
        let mut joined: BTreeSet<i64> = rows.iter().filter(|row| row.3).map(|row| row.0).collect();
        let blocked: BTreeSet<i64> = rows.iter().filter(|row| row.3).map(|row| row.1).collect();
        loop {
            let follows = |row: &&(i64, i64, Value, bool)| {
                let joins = |other: &(i64, i64, Value, bool)| {
                    let same = other.1 == row.1 && other.0 < row.0;
                    joined.contains(&other.0) && (same || (!other.2.is_null() && other.2 == row.2))
                };
                !joined.contains(&row.0) && (blocked.contains(&row.1) || rows.iter().any(joins))
            };
            let more: Vec<i64> = rows.iter().filter(follows).map(|row| row.0).collect();
            if more.is_empty() {
                break;
            }
            joined.extend(more);
        }
        assert_eq!(joined, rows.iter().map(|row| row.0).collect(), "seed {seed}");
        // A transaction is there whole, or waits whole.
        let waiting: BTreeSet<_> = rows.iter().filter(|row| !row.2.is_null()).map(|row| row.2.to_string()).collect();
        for id in log.transactions().keys() {
            let hex: String = id.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
            assert!(!waiting.contains(&json!(hex).to_string()), "seed {seed}: {id} is here and there");
        }
    }
    Ok(())
}

/// A server that is set back to what it was: the answer "held" names what it lacks, and that is offered again, until
/// all is there, however the entities are joined.
#[test]
fn g07_what_a_server_has_lost_is_offered_again_until_nothing_is_held() -> Result<(), StoreError> {
    for seed in 0..4 * SEEDS {
        let mut dice = Dice(SplitMix64::new(seed));
        let folder = Folder::new();
        let (store, clock) = folder.open_at("a.db", seed);
        let (mut log, mut ids) = (Log::default(), Vec::new());
        let mut backup = log.clone();
        for _ in 0..12 {
            write_some(&store, &mut dice, &mut ids)?;
            match dice.below(4) {
                0 => push(&store, 1, &mut log, &mut dice, (usize::MAX, true))?,
                1 => backup = log.clone(),
                _ => {}
            }
        }
        log = backup;
        write_some(&store, &mut dice, &mut ids)?;
        drain(&store, &mut log, &clock, seed)?;
    }
    Ok(())
}

/// Pushes until the outbox is empty but for what is parked and what is joined to that, each page when it is due.
fn drain(store: &Store, log: &mut Log, clock: &AtomicI64, seed: u64) -> Result<(), StoreError> {
    // A hold is over after a try or two: the one lacked something, the other brings it.
    for _ in 0..200 {
        let read = OutboxRead { space: space("main"), changes: 20, bytes: 100_000 };
        let page = store.outbox_page(1, read).wait()?;
        if page.items.is_empty() {
            let Some(at) = page.retry_at else { return Ok(()) };
            clock.fetch_max(at, Ordering::Relaxed);
            continue;
        }
        let answers = log.take(&page.items, None);
        let answered = page.items.iter().map(|item| item.key).zip(answers).collect();
        let batch = WriteBatch { answered, ..WriteBatch::empty(space("main"), Lineage::from_bytes([7; 16])) };
        store.write(move |write| write.apply_batch(1, batch)).wait()?;
    }
    panic!("seed {seed}: the outbox never comes to rest");
}
