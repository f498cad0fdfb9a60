//! A server's file on a recording disk.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anabranch_core::sync::{AppendOutcome, Offered, Pushable};
use anabranch_core::wire::{Answer, Envelope};
use anabranch_core::{Entropy, Environment, ReplicaId, SpaceName, SplitMix64, UnixMillis};
use anabranch_server::{Backend as _, SqliteBackend};
use rusqlite::Connection;
use sha2::{Digest as _, Sha256};

use super::client::{Desk, main_space};
use super::{FILE, Planted, Played, Subject, Workload};
use crate::disk::{Access, Disk, Fault};
use crate::failure::{Failure, broken, ensure};
use crate::file;
use crate::log::Log;
use crate::model::hash_of;

pub(super) const ALL: &[Workload] = &[
    Workload { name: "server: the first open of a new file", play: |planted| Shop::new(planted)?.played() },
    Workload { name: "server: pushes", play: |planted| Shop::new(planted)?.begun()?.taking(1, 30)?.played() },
    Workload {
        name: "server: pushes that come again",
        play: |planted| {
            let mut shop = Shop::new(planted)?.begun()?.taking(2, 12)?;
            let all = shop.pushed.clone();
            all.into_iter().try_for_each(|(space, batch)| shop.append(&space, batch))?;
            shop.played()
        },
    },
    Workload {
        name: "server: two spaces, and many pushes in one commit",
        play: |planted| {
            let mut shop = Shop::new(planted)?.begun()?;
            let other = SpaceName::new("work").map_err(broken("a name"))?;
            let batches = pages(3, 24)?;
            for (number, pair) in batches.chunks(4).enumerate() {
                let space = if number.is_multiple_of(2) { main_space() } else { other.clone() };
                shop.append_together(&space, pair)?;
            }
            shop.played()
        },
    },
    Workload {
        name: "server: opened and closed again and again",
        play: |planted| {
            let mut shop = Shop::new(planted)?;
            for (number, batch) in pages(4, 20)?.into_iter().enumerate() {
                shop.append(&main_space(), batch)?;
                if number % 3 == 2 {
                    shop.backend = None;
                }
            }
            shop.played()
        },
    },
    Workload {
        name: "server: checkpoints by another process",
        play: |planted| {
            let mut shop = Shop::new(planted)?.begun()?;
            for batch in pages(5, 20)? {
                shop.append(&main_space(), batch)?;
                let other = shop.disk.connect(FILE)?;
                other.query_row("PRAGMA wal_checkpoint(FULL)", [], |_| Ok(())).map_err(broken("a checkpoint"))?;
                super::promise(&shop.disk)?;
            }
            shop.played()
        },
    },
    Workload { name: "server: purge markers", play: purges },
    Workload { name: "server: a file of the first tables", play: migration },
    Workload { name: "server: syncs that fail now and then", play: failing },
    Workload {
        name: "server: a first sync that fails, and so no write-ahead log",
        play: |planted| {
            let disk = Disk::new(true)?;
            disk.fail(Fault { access: Access::Sync, at: 0, lasting: false });
            Shop::on(disk, planted)?.taking(9, 6)?.played()
        },
    },
];

struct Fixed(SplitMix64);

impl Environment for Fixed {
    fn now(&self) -> UnixMillis {
        1_800_000_000_000
    }

    fn entropy(&mut self) -> &mut dyn Entropy {
        &mut self.0
    }
}

/// A server's backend on a disk.
struct Shop {
    disk: Disk,
    backend: Option<Arc<SqliteBackend>>,
    runtime: tokio::runtime::Runtime,
    pushed: Vec<(SpaceName, Vec<Envelope>)>,
    planted: Planted,
}

fn open(disk: &Disk) -> Result<SqliteBackend, Failure> {
    SqliteBackend::open(disk.path(FILE), Box::new(Fixed(SplitMix64::new(1))))
        .map_err(broken("opening the server's file"))
}

pub(super) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread().build().map_err(broken("starting a runtime"))
}

pub(super) fn offered(batch: &[Envelope]) -> Vec<Pushable> {
    batch.iter().cloned().map(Offered::open).collect()
}

/// What a replica pushes, in pages.
pub(super) fn pages(seed: u64, commits: usize) -> Result<Vec<Vec<Envelope>>, Failure> {
    let (mut desk, mut pages, mut log) = (Desk::new(seed, Planted::Nothing)?, Vec::new(), Log::default());
    desk.act(commits)?;
    loop {
        let mut page = Vec::new();
        desk.push_to(|batch| {
            page.clone_from(&batch);
            log.append(&main_space(), batch.into_iter().map(Offered::open).collect())
        })?;
        if page.is_empty() {
            return Ok(pages);
        }
        pages.push(page);
    }
}

impl Shop {
    fn new(planted: Planted) -> Result<Self, Failure> {
        Self::on(Disk::new(true)?, planted)
    }

    fn on(disk: Disk, planted: Planted) -> Result<Self, Failure> {
        planted.plant(&disk);
        let mut shop = Self { disk, backend: None, runtime: runtime()?, pushed: Vec::new(), planted };
        shop.open()?;
        Ok(shop)
    }

    fn open(&mut self) -> Result<(), Failure> {
        if self.backend.is_none() {
            self.backend = Some(Arc::new(open(&self.disk)?));
            super::promise(&self.disk)?;
        }
        Ok(())
    }

    /// The log begins here.
    fn begun(mut self) -> Result<Self, Failure> {
        self.backend = None;
        self.disk = Disk::holding(&self.disk.files(), true)?;
        self.planted.plant(&self.disk);
        Ok(self)
    }

    fn taking(mut self, seed: u64, commits: usize) -> Result<Self, Failure> {
        pages(seed, commits)?.into_iter().try_for_each(|batch| self.append(&main_space(), batch))?;
        Ok(self)
    }

    fn append(&mut self, space: &SpaceName, batch: Vec<Envelope>) -> Result<(), Failure> {
        self.append_together(space, &[batch])
    }

    /// All of it is under way at once.
    fn append_together(&mut self, space: &SpaceName, batches: &[Vec<Envelope>]) -> Result<(), Failure> {
        self.open()?;
        let who = ReplicaId::from_bytes([1; 16]);
        let outcomes = self.runtime.block_on(async {
            let mut tasks = Vec::new();
            for batch in batches {
                let (backend, space, batch) = (self.backend.clone(), space.clone(), offered(batch));
                tasks.push(tokio::spawn(async move {
                    let backend = backend.ok_or_else(|| Failure::new("the backend is gone"))?;
                    backend.append(space, who, batch).await.map_err(broken("an append"))
                }));
            }
            let mut outcomes = Vec::new();
            for task in tasks {
                outcomes.push(task.await.map_err(broken("an append's task")));
            }
            outcomes
        });
        for outcome in outcomes {
            outcome??;
        }
        super::promise(&self.disk)?;
        self.pushed.extend(batches.iter().map(|batch| (space.clone(), batch.clone())));
        Ok(())
    }

    fn played(mut self) -> Result<Played, Failure> {
        self.backend = None;
        let Self { disk, pushed, .. } = self;
        let files = disk.files();
        let connection = Disk::holding(&files, false)?.connect(FILE)?;
        let log = rows(&connection)?;
        Ok(Played { disk, subject: Box::new(Server { pushed, log }) })
    }
}

/// What is refused is pushed again, while the syncs still fail and after that.
fn failing(planted: Planted) -> Result<Played, Failure> {
    let mut shop = Shop::new(planted)?.begun()?;
    shop.open()?;
    for (number, batch) in pages(10, 40)?.into_iter().enumerate() {
        let at = u64::try_from(number % 2).unwrap_or(0);
        shop.disk.fail(Fault { access: Access::Sync, at, lasting: number % 3 != 1 });
        let mut attempts = 0;
        while let Err(failure) = shop.append(&main_space(), batch.clone()) {
            attempts += 1;
            ensure(attempts < 3 || shop.disk.mend() > 0, || format!("refused without a fault: {failure}"))?;
        }
        shop.disk.mend();
    }
    shop.played()
}

fn purges(planted: Planted) -> Result<Played, Failure> {
    let (mut desk, mut log, mut pages) = (Desk::new(6, Planted::Nothing)?, Log::default(), Vec::new());
    let drafts = anabranch_core::CollectionName::new("drafts").map_err(broken("a name"))?;
    for round in 0..9 {
        match round % 3 {
            0 => {
                let drafts = drafts.clone();
                let fields = serde_json::Map::new();
                let id = desk.write(move |write| write.create(&main_space(), &drafts, None, &fields))?;
                desk.write(move |write| write.delete(&main_space(), id))?;
            }
            1 => {
                let reader = file::reader(&desk.disk.path(FILE))?;
                let found = file::purgeable(&reader)?;
                drop(reader);
                for (space, id) in found {
                    desk.write(move |write| write.purge(&space, id))?;
                }
            }
            _ => desk.act(1)?,
        }
        desk.push_to(|batch| {
            pages.push(batch.clone());
            log.append(&main_space(), batch.into_iter().map(Offered::open).collect())
        })?;
    }
    let mut shop = Shop::new(planted)?.begun()?;
    pages.into_iter().try_for_each(|batch| shop.append(&main_space(), batch))?;
    shop.played()
}

fn migration(planted: Planted) -> Result<Played, Failure> {
    let mut shop = Shop::new(planted)?.taking(7, 10)?;
    shop.backend = None;
    let file = shop.disk.connect(FILE)?;
    file.execute_batch(
        "DROP TABLE replicas; DROP TABLE principals; DROP TABLE rewrites; ALTER TABLE spaces DROP COLUMN bytes; \
         ALTER TABLE entities DROP COLUMN bytes; ALTER TABLE entities DROP COLUMN purged; PRAGMA user_version = 1",
    )
    .map_err(broken("writing a file of an earlier release"))?;
    drop(file);
    shop.begun()?.taking(8, 4)?.played()
}

/// A row of a log: space, place, chain, entity, hash.
type Row = (String, i64, [u8; 32], Vec<u8>, [u8; 32]);

/// A server's file, and its log when nothing was lost.
struct Server {
    pushed: Vec<(SpaceName, Vec<Envelope>)>,
    log: Vec<Row>,
}

impl Subject for Server {
    fn check(&self, disk: &Disk) -> Result<(), Failure> {
        let backend = open(disk)?;
        let reader = disk.connect(FILE)?;
        check_log(&reader)?;
        // Pushing all of it again leads to the same log, to the last byte of its chain; and again to nothing new.
        let runtime = runtime()?;
        for again in [false, true] {
            for (space, batch) in &self.pushed {
                let append = backend.append(space.clone(), ReplicaId::from_bytes([1; 16]), offered(batch));
                let AppendOutcome { answers, .. } = runtime.block_on(append).map_err(broken("pushing again"))?;
                let fresh = answers.iter().filter(|answer| matches!(answer, Answer::Accepted { .. })).count();
                ensure(!again || fresh == 0, || format!("{fresh} changes were stored twice"))?;
            }
        }
        ensure(rows(&reader)? == self.log, || "pushing again does not lead to the same log".to_owned())?;
        check_log(&reader)
    }
}

fn rows(reader: &Connection) -> Result<Vec<Row>, Failure> {
    let sql = "SELECT s.name, c.seq, c.chain, c.entity, c.hash FROM changes c JOIN spaces s ON s.id = c.space \
               ORDER BY s.name, c.seq";
    file::rows(reader, sql, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)))
}

/// No gap, the chain is unbroken, what is stored is what was named, and counters and heads are the log's.
pub(super) fn check_log(reader: &Connection) -> Result<(), Failure> {
    let sql = "SELECT s.name, c.seq, c.chain, c.entity, c.txn, c.bytes, c.hash FROM changes c \
               JOIN spaces s ON s.id = c.space ORDER BY s.name, c.seq";
    let found = file::rows(reader, sql, [], |row| {
        let (entity, txn, bytes): (Vec<u8>, Option<Vec<u8>>, Vec<u8>) = (row.get(3)?, row.get(4)?, row.get(5)?);
        Ok((
            row.get::<_, String>(0)?,
            row.get::<_, i64>(1)?,
            row.get::<_, [u8; 32]>(2)?,
            entity,
            txn,
            bytes,
            row.get::<_, [u8; 32]>(6)?,
        ))
    })?;
    let mut ends: BTreeMap<String, (i64, [u8; 32])> = BTreeMap::new();
    let mut heads: BTreeMap<(String, Vec<u8>), BTreeSet<[u8; 32]>> = BTreeMap::new();
    for (space, seq, stored, entity, txn, bytes, name) in found {
        let (last, chain) = ends.get(&space).copied().unwrap_or_default();
        ensure(seq == last + 1, || format!("{space} has place {seq} after {last}"))?;
        let hash = hash_of(&bytes);
        ensure(hash == name, || format!("place {seq} of {space} is not what it is called"))?;
        let mut hasher = Sha256::new();
        hasher.update(chain);
        hasher.update(&entity);
        hasher.update(hash);
        hasher.update(txn.unwrap_or_default());
        let chain: [u8; 32] = hasher.finalize().into();
        ensure(chain == stored, || format!("the chain of {space} breaks at {seq}"))?;
        ends.insert(space.clone(), (seq, chain));
        let change = automerge::Change::from_bytes(bytes).map_err(broken("reading a stored change"))?;
        let heads = heads.entry((space, entity)).or_default();
        heads.retain(|head| !change.deps().iter().any(|dependency| dependency.0 == *head));
        heads.insert(hash);
    }
    let counters = file::rows(reader, "SELECT name, seq, chain FROM spaces", [], |row| {
        Ok((row.get::<_, String>(0)?, (row.get(1)?, row.get(2)?)))
    })?;
    ensure(counters.into_iter().collect::<BTreeMap<_, _>>() == ends, || "a counter is not its log's end".to_owned())?;
    let sql = "SELECT s.name, e.entity, e.heads, e.purged FROM entities e JOIN spaces s ON s.id = e.space";
    let found = file::rows(reader, sql, [], |row| {
        Ok((row.get::<_, String>(0)?, row.get::<_, Vec<u8>>(1)?, row.get::<_, Vec<u8>>(2)?, row.get::<_, bool>(3)?))
    })?;
    ensure(found.len() == heads.len(), || "there are entities without a log".to_owned())?;
    for (space, entity, stored, purged) in found {
        let stored: BTreeSet<[u8; 32]> = stored.chunks_exact(32).filter_map(|head| head.try_into().ok()).collect();
        // Of a purged entity only the markers count.
        ensure(purged || heads.get(&(space, entity)) == Some(&stored), || {
            "an entity's heads are not its log's".to_owned()
        })?;
    }
    Ok(())
}
