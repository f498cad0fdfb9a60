//! Disks that are full and accesses that fail: a typed error, the file as it was, reads go on, and once the disk is
//! well again so is everything else.

use std::collections::BTreeSet;
use std::path::Path;

use anabranch_core::document::Edit;
use anabranch_core::sync::{OutboxRead, WriteBatch};
use anabranch_core::wire::{Answer, Cursor, Envelope, Mark};
use anabranch_core::{CollectionName, EntityId, ErrorKind, FieldName, ReplicaId, SplitMix64};
use anabranch_server::{Backend as _, BackendErrorKind, SqliteBackend};
use anabranch_store::{OpenMode, Store, StoreError, Write};
use serde_json::{Map, Value, json};

use super::client::{self, Desk, LINEAGE, main_space};
use super::timeline::shown;
use super::{FILE, Planted, agree, server};
use crate::bug;
use crate::clock::{Machine, VirtualTime, WallClock};
use crate::disk::{Access, Disk, Fault};
use crate::failure::{Failure, broken, ensure};
use crate::file;
use crate::workload;

/// How often a lasting fault is met before the disk is mended.
const PATIENCE: usize = 3;

/// What became of a run with a fault.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Survived {
    /// How often an access failed. 0: the run has fewer accesses than that.
    pub struck: u64,
    /// Operations that were refused, and later done.
    pub refused: usize,
}

/// Plays a replica's day on a disk with a fault: each write that is refused leaves the file as it was and succeeds
/// once the disk is mended; nothing that was reported as done is lost.
///
/// # Errors
/// [`Failure`] if it is otherwise.
pub fn survive_replica(fault: Fault) -> Result<Survived, Failure> {
    let disk = Disk::new(false)?;
    let (time, cast, mut survived) = (VirtualTime::new(), Cast::new()?, Survived::default());
    disk.fail(fault);
    let store = loop {
        match open(&disk, &time) {
            Ok(store) => break store,
            Err(error) => survived.refuse(&disk, error.kind(), &error)?,
        }
    };
    let mut known = BTreeSet::new();
    for (what, work) in STORY {
        let named = |failure: Failure| Failure::new(format!("{what}: {failure}"));
        let mut attempts = 0;
        loop {
            let before = shown(&disk.connect_unhurt(FILE)?)?;
            let own = cast.clone();
            let outcome = store.write(move |write| work(write, &own)).wait();
            attempts += 1;
            let Err(error) = outcome else { break };
            check_reading(&store, fault, &known).map_err(named)?;
            let unknown = matches!(error, StoreError::CommitUnknown(_));
            if attempts >= PATIENCE || !fault.lasting {
                survived.refuse(&disk, error.kind(), &error).map_err(named)?;
            } else {
                ensure(error.kind() == ErrorKind::Retry, || format!("{what}: {error} ({:?})", error.kind()))?;
            }
            ensure(attempts <= PATIENCE + 1, || format!("{what}: refused after the disk was mended: {error}"))?;
            if shown(&disk.connect_unhurt(FILE)?)? != before {
                ensure(unknown, || format!("{what}: refused, and has changed the file: {error}"))?;
                break;
            }
        }
        known = ids(&disk)?;
    }
    survived.struck += disk.mend();
    let wanted = told(&disk)?;
    drop(store);
    // Whoever opens it next finds all of it.
    ensure(told(&disk)? == wanted, || "closing the file has changed it".to_owned())?;
    let mut engine = client::open(&disk, &workload::schema(1, bug::Planted::default()), &time, 5)
        .map_err(broken("opening the file afterwards"))?;
    agree::check(&mut engine, &file::reader(&disk.path(FILE))?)?;
    ensure(wanted == cast.told, || "the file does not show what it shows without a fault".to_owned())?;
    Ok(survived)
}

impl Survived {
    /// The disk is mended because of this error, which must be one that goes away.
    fn refuse(&mut self, disk: &Disk, kind: ErrorKind, error: &impl std::fmt::Display) -> Result<(), Failure> {
        let struck = disk.mend();
        self.struck += struck;
        self.refused += 1;
        ensure(struck > 0, || format!("refused without a fault: {error}"))?;
        ensure(kind == ErrorKind::Retry, || format!("the error does not say that it goes away: {error} ({kind:?})"))
    }
}

fn open(disk: &Disk, time: &VirtualTime) -> Result<Store, StoreError> {
    let machine = Machine { clock: WallClock::new(time), entropy: SplitMix64::new(3) };
    let schema = workload::schema(1, bug::Planted::default());
    let path = disk.path(FILE);
    Store::open_with(
        Path::new(&path),
        OpenMode::Either(schema),
        &workload::functions(bug::Planted::default()),
        Box::new(machine),
    )
}

/// A disk that cannot be written can be read.
fn check_reading(store: &Store, fault: Fault, known: &BTreeSet<String>) -> Result<(), Failure> {
    let ids = store.read(|read| read.query("SELECT id FROM entities", &[]));
    match ids {
        Ok(rows) => {
            let ids = rows.iter().filter_map(|row| Some(row.get("id")?.as_str()?.to_owned())).collect();
            ensure(known.is_subset(&ids), || "what was stored cannot be read while the disk fails".to_owned())
        }
        Err(error) => {
            let may_fail = matches!(fault.access, Access::Read | Access::Memory) && error.kind() == ErrorKind::Retry;
            ensure(may_fail, || format!("reading failed: {error}"))
        }
    }
}

fn ids(disk: &Disk) -> Result<BTreeSet<String>, Failure> {
    let rows = file::rows(&disk.connect_unhurt(FILE)?, "SELECT id FROM entities", [], |row| row.get(0))?;
    Ok(rows.into_iter().collect())
}

/// What the entities say, without what follows from the moment at which it was written.
fn told(disk: &Disk) -> Result<Vec<(String, String, bool, i64)>, Failure> {
    let sql = "SELECT id, state, deleted, pending FROM entities ORDER BY id";
    file::rows(&disk.connect_unhurt(FILE)?, sql, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
}

/// What the story is about.
#[derive(Clone)]
struct Cast {
    foreign: Vec<Envelope>,
    told: Vec<(String, String, bool, i64)>,
}

impl Cast {
    fn new() -> Result<Self, Failure> {
        static CAST: std::sync::OnceLock<Result<Cast, Failure>> = std::sync::OnceLock::new();
        CAST.get_or_init(Self::rehearse).clone()
    }

    /// Plays the story without a fault.
    fn rehearse() -> Result<Self, Failure> {
        let mut author = Desk::new(31, Planted::Nothing)?;
        author.act(8)?;
        let mut cast = Self { foreign: author.everything()?, told: Vec::new() };
        let (disk, time) = (Disk::new(false)?, VirtualTime::new());
        let store = open(&disk, &time).map_err(broken("opening a file"))?;
        for (what, work) in STORY {
            let own = cast.clone();
            let done = store.write(move |write| work(write, &own)).wait();
            done.map_err(|error| Failure::new(format!("{what}: {error}")))?;
        }
        cast.told = told(&disk)?;
        Ok(cast)
    }
}

type Act = fn(&mut Write<'_>, &Cast) -> Result<(), StoreError>;

/// Each can be done again if it was not done.
const STORY: &[(&str, Act)] = &[
    ("a creation", |write, _| create(write, "a", json!({ "title": "a", "body": "x".repeat(300) }))),
    ("another", |write, _| create(write, "b", json!({ "title": "b", "friend": id("a").to_string() }))),
    ("an edit", |write, _| set(write, "a", "title", json!("edited"))),
    ("a transaction", |write, _| {
        write.transaction(|write| {
            set(write, "a", "rank", json!(1))?;
            set(write, "b", "rank", json!(2))
        })
    }),
    ("pulled changes", |write, cast| {
        let mut batch = WriteBatch::empty(main_space(), LINEAGE);
        batch.incoming.clone_from(&cast.foreign);
        batch.cursor = Some(Cursor(vec![1]));
        batch.ack = Some(Mark::START);
        write.apply_batch(1, batch).map(drop)
    }),
    ("a conflict with them", |write, _| set(write, "a", "due", json!("then"))),
    ("answers", |write, _| {
        let read = OutboxRead { space: main_space(), changes: 100, bytes: 1 << 20 };
        let page = write.outbox_page(1, &read)?;
        let mut batch = WriteBatch::empty(main_space(), LINEAGE);
        batch.answered = page.items.iter().map(|item| (item.key, Answer::Duplicate { seq: 1 })).collect();
        write.apply_batch(1, batch).map(drop)
    }),
    ("a compaction", |write, _| write.compact(1).map(drop)),
    ("a long value", |write, _| set(write, "a", "rank", json!("long ".repeat(8_000)))),
    ("a deletion", |write, _| write.delete(&main_space(), id("b")).map(drop)),
    ("a restoration", |write, _| write.restore(&main_space(), id("b"))),
    ("many creations", |write, _| {
        (0..20).try_for_each(|n| create(write, &format!("m{n}"), json!({ "title": n, "body": "y".repeat(50) })))
    }),
    ("a last edit", |write, _| set(write, "b", "title", json!("last"))),
];

fn notes() -> CollectionName {
    CollectionName::new("notes").expect("the name is good")
}

fn id(name: &str) -> EntityId {
    // Not a name that the other replica makes up as well.
    EntityId::named(&notes(), &format!("story {name}"))
}

fn create(write: &mut Write<'_>, name: &str, fields: Value) -> Result<(), StoreError> {
    let fields = if let Value::Object(fields) = fields { fields } else { Map::new() };
    write.create(&main_space(), &notes(), Some(id(name)), &fields).map(drop)
}

fn set(write: &mut Write<'_>, name: &str, field: &str, value: Value) -> Result<(), StoreError> {
    let edit = Edit::Set { field: FieldName::new(field)?, value };
    write.edit(&main_space(), id(name), &[edit]).map(drop)
}

/// As [`survive_replica`], for a server's file: each push that is refused can be repeated, and the log has no gap.
///
/// # Errors
/// [`Failure`] if it is otherwise.
pub fn survive_server(fault: Fault) -> Result<Survived, Failure> {
    static PAGES: std::sync::OnceLock<Result<Vec<Vec<Envelope>>, Failure>> = std::sync::OnceLock::new();
    let pages = PAGES.get_or_init(|| server::pages(41, 16)).clone()?;
    let (disk, runtime, mut survived) = (Disk::new(false)?, server::runtime()?, Survived::default());
    disk.fail(fault);
    let backend = loop {
        let machine = Machine { clock: WallClock::new(&VirtualTime::new()), entropy: SplitMix64::new(3) };
        match SqliteBackend::open(disk.path(FILE), Box::new(machine)) {
            Ok(backend) => break backend,
            // The error of an open is for a person; that it goes away is seen here.
            Err(error) => survived.refuse(&disk, ErrorKind::Retry, &error)?,
        }
    };
    let (who, mut stored) = (ReplicaId::from_bytes([1; 16]), Vec::new());
    for page in pages {
        let mut attempts = 0;
        loop {
            let before = shown(&disk.connect_unhurt(FILE)?)?;
            let append = backend.append(main_space(), who, server::offered(&page));
            let outcome = runtime.block_on(append);
            attempts += 1;
            let Err(error) = outcome else { break };
            let head = runtime.block_on(backend.head(main_space()));
            let may_fail = matches!(fault.access, Access::Read | Access::Memory);
            ensure(head.is_ok() || may_fail, || format!("the log cannot be read: {head:?}"))?;
            ensure(error.kind() == BackendErrorKind::Retry, || format!("{error} ({:?})", error.kind()))?;
            if attempts >= PATIENCE || !fault.lasting {
                survived.refuse(&disk, ErrorKind::Retry, &error)?;
            }
            ensure(attempts <= PATIENCE + 1, || format!("refused after the disk was mended: {error}"))?;
            let after = shown(&disk.connect_unhurt(FILE)?)?;
            ensure(after == before, || format!("refused, and has changed the file: {error}"))?;
        }
        stored.push(page);
    }
    survived.struck += disk.mend();
    drop(backend);
    let reader = disk.connect(FILE)?;
    server::check_log(&reader)?;
    let (held, wanted) = (file::number(&reader, "SELECT count(*) FROM changes")?, stored.concat().len());
    ensure(usize::try_from(held) == Ok(wanted), || format!("{held} changes are stored of {wanted}"))?;
    Ok(survived)
}
