//! What a replica does while the power fails.

mod upgrades;

use anabranch_core::document::Edit;
use anabranch_core::sync::{AppendOutcome, Reoffer, WriteBatch};
use anabranch_core::wire::{Answer, Missing, RejectCode};
use anabranch_core::{ChangeHash, CollectionName, EntityId, FieldName};
use anabranch_store::{StoreError, Write};
use serde_json::{Map, Value, json};

use super::client::{Desk, LINEAGE, main_space};
use super::{FILE, Planted, Played, Workload};
use crate::disk::{Access, Fault};
use crate::failure::{Failure, broken, ensure};
use crate::file;
use crate::job::job;
use crate::log::Log;

use self::upgrades::{migration, upgrade};

macro_rules! workloads {
    ($($name:literal => $play:expr),* $(,)?) => {
        &[$(Workload { name: $name, play: $play }),*]
    };
}

pub(super) const ALL: &[Workload] = workloads![
    "replica: the first open of a new file" => |planted| {
        let mut desk = Desk::new(1, planted)?;
        desk.open()?;
        desk.played()
    },
    "replica: creations" => |planted| {
        let mut desk = started(2, planted, 0)?;
        for n in 0..6 {
            create(&mut desk, "notes", json!({ "title": n, "body": "some text", "tags": ["a"], "stars": 1 }))?;
        }
        desk.played()
    },
    "replica: edits of all kinds" => |planted| {
        let mut desk = started(3, planted, 8)?;
        desk.act(14)?;
        desk.played()
    },
    "replica: typing" => typing,
    "replica: many writes in one commit" => grouped,
    "replica: transactions" => transactions,
    "replica: refused writes beside good ones" => refused,
    "replica: deletions that take others along, and restoring" => deletions,
    "replica: purges" => purges,
    "replica: compaction, and edits after it" => compaction,
    "replica: pushes that are accepted" => |planted| {
        let mut desk = started(11, planted, 14)?;
        let mut server = Log::default();
        for _ in 0..4 {
            desk.push(&mut server)?;
        }
        desk.played()
    },
    "replica: pushes that are rejected and held" => rejected,
    "replica: pages that are pulled" => |planted| {
        let mut server = filled(12, 20)?;
        let mut desk = started(13, planted, 3)?;
        while desk.pull(&server)? {}
        desk.sync(&mut server)?;
        desk.played()
    },
    "replica: changes before what they depend on" => orphans,
    "replica: conflicts, and their resolution" => conflicts,
    "replica: another server history" => reoffered,
    "replica: a new version of the schema" => upgrade,
    "replica: a file of the first tables" => |planted| migration(planted, 1),
    "replica: a file of the second tables" => |planted| migration(planted, 2),
    "replica: a file of the third tables" => |planted| migration(planted, 3),
    "replica: opened and closed again and again" => |planted| {
        let mut desk = started(20, planted, 4)?;
        for _ in 0..4 {
            desk.act(2)?;
            desk.close();
        }
        desk.played()
    },
    "replica: checkpoints by another process" => checkpoints,
    "replica: two processes write" => two_processes,
    "replica: the schema is published" => |planted| {
        let mut desk = started(23, planted, 2)?;
        for _ in 0..2 {
            desk.write(|write| write.publish_schema(&main_space()))?;
        }
        desk.act(2)?;
        desk.played()
    },
    "replica: quarantine" => quarantine,
    "replica: a disk that is full now and then" => |planted| failing(planted, Access::Room),
    "replica: writes that fail now and then" => |planted| failing(planted, Access::Write),
    "replica: syncs that fail now and then" => |planted| failing(planted, Access::Sync),
    "replica: a first sync that fails, and so no write-ahead log" => |planted| {
        let mut desk = Desk::new(33, planted)?;
        desk.disk.fail(Fault { access: Access::Sync, at: 0, lasting: false });
        desk.act(6)?;
        desk.played()
    },
];

/// A desk whose log begins after some commits.
fn started(seed: u64, planted: Planted, commits: usize) -> Result<Desk, Failure> {
    let mut desk = Desk::new(seed, planted)?;
    desk.open()?;
    desk.act(commits)?;
    desk.begin()?;
    Ok(desk)
}

/// A server's log that another replica has filled.
fn filled(seed: u64, commits: usize) -> Result<Log, Failure> {
    let (mut author, mut server) = (Desk::new(seed, Planted::Nothing)?, Log::default());
    author.act(commits)?;
    author.sync(&mut server)?;
    Ok(server)
}

fn name(text: &str) -> Result<CollectionName, Failure> {
    CollectionName::new(text).map_err(broken("a name"))
}

fn set(field: &str, value: Value) -> Result<Edit, Failure> {
    Ok(Edit::Set { field: FieldName::new(field).map_err(broken("a name"))?, value })
}

fn map(value: Value) -> Map<String, Value> {
    if let Value::Object(map) = value { map } else { Map::new() }
}

fn create(desk: &mut Desk, collection: &str, fields: Value) -> Result<EntityId, Failure> {
    let collection = name(collection)?;
    desk.write(move |write| write.create(&main_space(), &collection, None, &map(fields)))
}

fn edit(desk: &mut Desk, id: EntityId, edits: Vec<Edit>) -> Result<bool, Failure> {
    desk.write(move |write| write.edit(&main_space(), id, &edits))
}

fn typing(planted: Planted) -> Result<Played, Failure> {
    let mut desk = started(4, planted, 0)?;
    let id = create(&mut desk, "notes", json!({ "body": "" }))?;
    let body = FieldName::new("body").map_err(broken("a name"))?;
    for (at, letter) in "an anabranch".chars().enumerate() {
        let edit = Edit::Splice { field: body.clone(), at, delete: 0, insert: letter.into() };
        self::edit(&mut desk, id, vec![edit])?;
    }
    desk.played()
}

fn grouped(planted: Planted) -> Result<Played, Failure> {
    let mut desk = started(5, planted, 2)?;
    let notes = name("notes")?;
    for _ in 0..3 {
        let mut jobs = Vec::new();
        for n in 0..12 {
            let (notes, fields) = (notes.clone(), map(json!({ "title": n, "body": "x".repeat(300) })));
            jobs.push(job(false, move |write| write.create(&main_space(), &notes, None, &fields)).0);
        }
        ensure(desk.open()?.commit(jobs).is_some(), || "a commit failed".to_owned())?;
        super::promise(&desk.disk)?;
    }
    desk.played()
}

fn transactions(planted: Planted) -> Result<Played, Failure> {
    let mut desk = started(6, planted, 0)?;
    let ids = (0..4).map(|_| create(&mut desk, "notes", json!({ "title": "old" }))).collect::<Result<Vec<_>, _>>()?;
    for round in 0..4 {
        let (ids, edits) = (ids.clone(), vec![set("title", json!(round))?]);
        desk.write(move |write| {
            write.transaction(|write| ids.iter().try_for_each(|id| write.edit(&main_space(), *id, &edits).map(drop)))
        })?;
    }
    desk.played()
}

fn refused(planted: Planted) -> Result<Played, Failure> {
    let mut desk = started(7, planted, 0)?;
    let id = create(&mut desk, "notes", json!({ "title": "old" }))?;
    for round in 0..4 {
        let mut jobs = Vec::new();
        for title in [json!(round), json!("far too long"), json!("good")] {
            let edits = vec![set("title", title)?];
            jobs.push(job(false, move |write: &mut Write<'_>| write.edit(&main_space(), id, &edits)).0);
        }
        ensure(desk.open()?.commit(jobs).is_some(), || "a commit failed".to_owned())?;
        super::promise(&desk.disk)?;
    }
    desk.played()
}

fn deletions(planted: Planted) -> Result<Played, Failure> {
    let mut desk = started(8, planted, 0)?;
    let root = create(&mut desk, "notes", json!({ "title": "root" }))?;
    for n in 0..3 {
        create(&mut desk, "notes", json!({ "title": n, "friend": root.to_string() }))?;
    }
    for _ in 0..2 {
        let gone = desk.write(move |write| write.delete(&main_space(), root))?;
        ensure(gone > 0, || "nothing was deleted".to_owned())?;
        desk.write(move |write| write.restore(&main_space(), root))?;
    }
    desk.played()
}

fn purges(planted: Planted) -> Result<Played, Failure> {
    let (mut desk, mut server) = (Desk::new(9, planted)?, Log::default());
    let ids =
        (0..3).map(|_| create(&mut desk, "drafts", json!({ "body": "secret" }))).collect::<Result<Vec<_>, _>>()?;
    for id in &ids {
        let id = *id;
        desk.write(move |write| write.delete(&main_space(), id))?;
    }
    desk.sync(&mut server)?;
    desk.begin()?;
    for id in ids {
        desk.write(move |write| write.purge(&main_space(), id))?;
    }
    desk.sync(&mut server)?;
    desk.played()
}

fn compaction(planted: Planted) -> Result<Played, Failure> {
    let (mut desk, mut server) = (Desk::new(10, planted)?, Log::default());
    desk.act(16)?;
    desk.sync(&mut server)?;
    desk.begin()?;
    for key in 1..=4 {
        ensure(desk.open()?.compact(key).is_some(), || "a compaction failed".to_owned())?;
        super::promise(&desk.disk)?;
        desk.act(1)?;
    }
    desk.sync(&mut server)?;
    ensure(desk.open()?.compact(2).is_some(), || "a compaction failed".to_owned())?;
    desk.played()
}

fn rejected(planted: Planted) -> Result<Played, Failure> {
    let mut desk = started(14, planted, 12)?;
    let mut server = Log::default();
    let refusal = |code, retryable| Answer::Rejected { code, message: "no".to_owned(), retryable };
    let held = Answer::Held { missing: Missing::Change(ChangeHash::from_bytes([1; 32])) };
    for answer in [held, refusal(RejectCode::Forbidden, false), refusal(RejectCode::Transaction, true)] {
        desk.push_to(|batch| AppendOutcome { answers: vec![answer; batch.len()], ..AppendOutcome::default() })?;
        desk.act(2)?;
    }
    desk.push(&mut server)?;
    desk.played()
}

/// The pages come in the wrong order, as from a peer.
fn orphans(planted: Planted) -> Result<Played, Failure> {
    let mut author = Desk::new(15, Planted::Nothing)?;
    author.act(10)?;
    let mut all = author.everything()?;
    all.reverse();
    let mut desk = started(16, planted, 1)?;
    for part in all.chunks(6).map(<[_]>::to_vec) {
        desk.write(move |write| write.apply_peer(&main_space(), part))?;
    }
    desk.played()
}

fn conflicts(planted: Planted) -> Result<Played, Failure> {
    let (mut one, mut two, mut server) = (Desk::new(17, planted)?, Desk::new(18, Planted::Nothing)?, Log::default());
    let id = create(&mut one, "notes", json!({ "title": "old", "due": "old" }))?;
    one.sync(&mut server)?;
    two.sync(&mut server)?;
    edit(&mut one, id, vec![set("due", json!("one"))?, set("title", json!("one"))?])?;
    edit(&mut two, id, vec![set("due", json!("two"))?, set("title", json!("two"))?])?;
    two.sync(&mut server)?;
    one.begin()?;
    one.sync(&mut server)?;
    let reader = file::reader(&one.disk.path(FILE))?;
    let found = file::conflict_names(&reader)?;
    drop(reader);
    ensure(!found.is_empty(), || "there is no conflict".to_owned())?;
    for (space, id, conflict) in found {
        let choice = anabranch_core::document::Choice::This(0);
        one.write(move |write| match write.resolve(&space, id, &conflict, &choice) {
            Err(StoreError::ConflictChanged(_)) => Ok(()),
            other => other,
        })?;
    }
    one.sync(&mut server)?;
    one.played()
}

/// The server was restored, or replaced: what it has lost is offered again.
fn reoffered(planted: Planted) -> Result<Played, Failure> {
    let (mut desk, mut server) = (Desk::new(19, planted)?, Log::default());
    desk.act(8)?;
    desk.sync(&mut server)?;
    desk.begin()?;
    let remote = desk.remote;
    for reoffer in [Reoffer::Space, Reoffer::Everything] {
        let batch = WriteBatch { reoffer, ..WriteBatch::empty(main_space(), LINEAGE) };
        desk.write(move |write| write.apply_batch(remote, batch))?;
        desk.act(1)?;
    }
    let failed = desk.write(move |write| write.note_failure(remote, 3, "no route"));
    failed?;
    desk.sync(&mut server)?;
    desk.played()
}

/// Every other commit meets a fault; some come through all the same.
fn failing(planted: Planted, access: Access) -> Result<Played, Failure> {
    let mut desk = started(32, planted, 3)?;
    desk.open()?;
    desk.uncertain = true;
    for at in [0, 2, 1, 4, 3, 0] {
        desk.disk.fail(Fault { access, at, lasting: false });
        desk.act(1)?;
        desk.disk.mend();
        desk.act(1)?;
    }
    desk.played()
}

/// Others may fold the write-ahead log into the file at any time.
fn checkpoints(planted: Planted) -> Result<Played, Failure> {
    let mut desk = started(25, planted, 3)?;
    for mode in ["PASSIVE", "FULL", "RESTART", "TRUNCATE", "PASSIVE"] {
        desk.act(2)?;
        let other = desk.disk.connect(FILE)?;
        other.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(())).map_err(broken("a checkpoint"))?;
        super::promise(&desk.disk)?;
    }
    desk.played()
}

/// Two processes have the file open, and write by turns.
fn two_processes(planted: Planted) -> Result<Played, Failure> {
    let mut one = started(26, planted, 4)?;
    let mut two = Desk::new(27, planted)?;
    two.disk = one.disk.clone();
    for _ in 0..4 {
        one.act(1)?;
        two.act(2)?;
    }
    one.close();
    two.act(1)?;
    two.played()
}

fn quarantine(planted: Planted) -> Result<Played, Failure> {
    let mut author = Desk::new(28, Planted::Nothing)?;
    author.act(6)?;
    let honest = author.everything()?;
    let mut desk = started(29, planted, 2)?;
    for (number, mut envelope) in honest.into_iter().enumerate() {
        if number % 3 == 1
            && let Some(last) = envelope.change.last_mut()
        {
            *last ^= 1;
        }
        desk.write(move |write| write.apply_peer(&main_space(), vec![envelope]))?;
    }
    // What was refused comes again from an honest hand.
    let again = author.everything()?;
    desk.write(move |write| write.apply_peer(&main_space(), again))?;
    desk.played()
}
