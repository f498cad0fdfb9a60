//! Damaged files: after a byte of a replica's file has changed, whatever is read of it is what was written, or an error
//! that says so; and a check of the file names what has become different.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anabranch::testing::{Clock, Server, Snapshot};
use anabranch::{EntityId, EntityRecord, Error, ErrorKind, Replica, Schema};
use anabranch_core::{Entropy as _, SplitMix64};
use serde_json::{Value, json};

const SCHEMA: &str = r#"
    version = 1
    [collections.folders.fields]
    name = { kind = "register" }
    [collections.notes.fields]
    title = { kind = "register", indexed = true }
    body = { kind = "text" }
    stars = { kind = "counter" }
    tags = { kind = "set" }
    due = { kind = "register", policy = "manual" }
    folder = { kind = "reference", to = "folders" }
"#;
/// A hang guard, not a measurement.
const GUARD: Duration = Duration::from_secs(60);

fn schema() -> Schema {
    Schema::from_toml(SCHEMA).expect("the schema")
}

/// A file with all that a file holds: folded and unfolded histories, conflicts, references, deleted entities, and
/// changes that wait for the server. And what it says.
struct Golden {
    folder: tempfile::TempDir,
    clock: Clock,
    server: Server,
    snapshot: Snapshot,
    bytes: Vec<u8>,
    ids: Vec<EntityId>,
    records: BTreeMap<EntityId, EntityRecord>,
    histories: BTreeMap<EntityId, Vec<String>>,
    tables: Vec<String>,
    synced: BTreeMap<EntityId, EntityRecord>,
    server_digest: Option<anabranch::Digest>,
}

impl Golden {
    fn new() -> Result<Self, Error> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let clock = Clock::at(1_750_000_000_000);
        let server = Server::new(&clock);
        let a = open(&clock, &folder.path().join("a.db"))?;
        let b = open(&clock, &folder.path().join("b.db"))?;
        let (notes, theirs) = (a.space("main")?.untyped("notes")?, b.space("main")?.untyped("notes")?);
        let home = a.space("main")?.untyped("folders")?.create(json!({ "name": "home" })).wait()?;
        let mut ids = vec![home];
        for n in 0..16 {
            let note =
                json!({ "title": format!("note {n}"), "body": "milk", "tags": ["a", "b"], "folder": home.to_string() });
            ids.push(notes.create(note).wait()?);
        }
        sync(&a, &server)?;
        sync(&b, &server)?;
        for (n, id) in ids[1..].iter().enumerate() {
            notes.edit(*id, |note| note.splice("body", 4, 0, " and eggs").increment("stars", 2)).wait()?;
            theirs.edit(*id, |note| note.set("title", format!("theirs {n}")).splice("body", 0, 0, "oat ")).wait()?;
            if n % 3 == 0 {
                notes.edit(*id, |note| note.set("due", "monday")).wait()?;
                theirs.edit(*id, |note| note.set("due", "tuesday")).wait()?;
            }
        }
        // Enough of it that it is folded.
        for n in 0..250 {
            notes.edit(ids[3], |note| note.splice("body", n, 0, "x")).wait()?;
        }
        notes.delete(ids[5]).wait()?;
        sync(&b, &server)?;
        sync(&a, &server)?;
        for id in &ids[6..9] {
            notes.edit(*id, |note| note.set("title", "waits")).wait()?;
        }
        ids.push(notes.create(json!({ "title": "new and waiting", "body": "only here" })).wait()?);
        let (records, histories) = (records(&a, &ids)?, histories(&a, &ids)?);
        // The file is closed with the last handle.
        drop((a, b, notes, theirs));
        let file = folder.path().join("a.db");
        let (bytes, snapshot) = (fs::read(&file).expect("the file"), server.snapshot());
        let tables = tables(&file).expect("the golden file can be read");
        let mut golden = Self {
            folder,
            clock,
            server,
            snapshot,
            bytes,
            ids,
            records,
            histories,
            tables,
            synced: BTreeMap::new(),
            server_digest: None,
        };
        let honest = golden.copy(&golden.bytes);
        let replica = open(&golden.clock, &honest)?;
        sync(&replica, &golden.server)?;
        golden.synced = self::records(&replica, &golden.ids)?;
        golden.server_digest = golden.server.digest("main");
        Ok(golden)
    }

    /// A file of its own, with nothing beside it.
    fn copy(&self, bytes: &[u8]) -> PathBuf {
        let folder = self.folder.path().join("copy");
        if folder.exists() {
            fs::remove_dir_all(&folder).expect("the folder goes");
        }
        fs::create_dir(&folder).expect("a folder");
        let file = folder.join("a.db");
        fs::write(&file, bytes).expect("a file");
        self.server.restore(&self.snapshot);
        file
    }
}

fn open(clock: &Clock, file: &Path) -> Result<Replica, Error> {
    Replica::at(file).environment(clock.environment()).open_or_create(schema())
}

fn sync(replica: &Replica, server: &Server) -> Result<(), Error> {
    replica.sync("memory:").space("main")?.transport(server.link()).now(GUARD).wait().map(drop)
}

fn records(replica: &Replica, ids: &[EntityId]) -> Result<BTreeMap<EntityId, EntityRecord>, Error> {
    let space = replica.space("main")?;
    let mut found = BTreeMap::new();
    for id in ids {
        // A deleted one is not shown.
        found.extend(space.get(*id)?.map(|record| (*id, record)));
    }
    Ok(found)
}

fn histories(replica: &Replica, ids: &[EntityId]) -> Result<BTreeMap<EntityId, Vec<String>>, Error> {
    ids.iter().map(|id| Ok((*id, history(replica, *id)?))).collect()
}

fn history(replica: &Replica, id: EntityId) -> Result<Vec<String>, Error> {
    let entries = replica.space("main")?.history(id, None, 10_000).wait()?;
    Ok(entries.iter().map(|entry| format!("{entry:?}")).collect())
}

/// What queries over the views return, as any tool would run them.
fn tables(file: &Path) -> Result<Vec<String>, rusqlite::Error> {
    let connection = rusqlite::Connection::open_with_flags(
        format!("file:{}?immutable=1", file.display()),
        rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY | rusqlite::OpenFlags::SQLITE_OPEN_URI,
    )?;
    let mut all = Vec::new();
    for sql in [
        "SELECT * FROM folders",
        "SELECT * FROM notes",
        "SELECT * FROM notes WHERE title > 'theirs 1' ORDER BY title",
        "SELECT * FROM \"$log\" ORDER BY seq",
        "SELECT * FROM \"$conflicts\" ORDER BY id, conflict",
    ] {
        let mut statement = connection.prepare(sql)?;
        let columns = statement.column_count();
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let values: Result<Vec<_>, _> = (0..columns).map(|place| row.get_ref(place)).collect();
            all.push(format!("{:?}", values?));
        }
    }
    all.sort();
    Ok(all)
}

/// How often what happened.
#[derive(Debug, Default)]
struct Tally {
    queries_changed: usize,
    named: usize,
    not_opened: usize,
    damage_told: usize,
    synced: usize,
    healed: usize,
}

fn told(error: &Error) -> bool {
    error.kind() == ErrorKind::Damaged
}

/// What belongs to the entity itself; when it was last synced, say, does not.
fn essence(record: &EntityRecord) -> Value {
    json!([
        record.id,
        record.collection,
        record.state,
        record.version,
        record.deleted,
        record.created_at,
        record.updated_at
    ])
}

fn right(found: &EntityRecord, golden: &Golden) -> bool {
    [&golden.records, &golden.synced]
        .iter()
        .any(|records| records.get(&found.id).is_some_and(|it| essence(it) == essence(found)))
}

/// Looks at a damaged file from all sides. `Err` says what was wrong.
fn examine(golden: &Golden, bytes: &[u8], tally: &mut Tally) -> Result<(), String> {
    let file = golden.copy(bytes);
    let findings = match Replica::at(&file).check_file() {
        Ok(findings) => findings.len(),
        Err(error) if told(&error) => 1,
        Err(error) => return Err(format!("the check fails: {error} ({:?})", error.kind())),
    };
    tally.named += usize::from(findings > 0);
    if tables(&file).ok().as_ref() != Some(&golden.tables) {
        tally.queries_changed += 1;
        if findings == 0 {
            return Err("a query returns something else, and the check names nothing".to_owned());
        }
    }
    if fs::read(&file).expect("the file") != bytes {
        return Err("the check has changed the file".to_owned());
    }
    let replica = match open(&golden.clock, &file) {
        Ok(replica) => replica,
        Err(error) if told(&error) => {
            tally.not_opened += 1;
            return Ok(());
        }
        Err(error) => return Err(format!("opening: {error} ({:?})", error.kind())),
    };
    let mut damage = read_all(&replica, golden)?;
    let outcome = (0..4).map(|_| sync(&replica, &golden.server)).find(Result::is_ok);
    match outcome {
        Some(_) => tally.synced += 1,
        None => match sync(&replica, &golden.server) {
            Err(error) if !told(&error) => return Err(format!("the sync: {error} ({:?})", error.kind())),
            _ => damage = true,
        },
    }
    damage |= read_all(&replica, golden)?;
    damage |= replica.damaged().map_or(true, |damaged| !damaged.is_empty());
    tally.damage_told += usize::from(damage);
    let whole = outcome.is_some() && golden.server.digest("main") == golden.server_digest;
    if !whole && !damage {
        return Err("the server does not have everything, and nothing is said of damage".to_owned());
    }
    drop(replica);
    match open(&golden.clock, &file) {
        Ok(replica) => {
            let told = read_all(&replica, golden)? || replica.damaged().is_ok_and(|damaged| !damaged.is_empty());
            tally.healed += usize::from(damage && !told && whole);
            Ok(())
        }
        Err(error) if told(&error) => Ok(()),
        Err(error) => Err(format!("opening again: {error} ({:?})", error.kind())),
    }
}

/// Reads every entity and every history. `true` if one of them is said to be damaged.
fn read_all(replica: &Replica, golden: &Golden) -> Result<bool, String> {
    let space = match replica.space("main") {
        Ok(space) => space,
        Err(error) => return if told(&error) { Ok(true) } else { Err(error.to_string()) },
    };
    let mut damaged = false;
    for id in &golden.ids {
        match space.get(*id) {
            Ok(Some(record)) if right(&record, golden) => {}
            Ok(None) if !golden.records.contains_key(id) || !golden.synced.contains_key(id) => {}
            Ok(found) => {
                return Err(format!(
                    "get returns {:?} instead of {:?}",
                    found.as_ref().map(essence),
                    golden.records.get(id).map(essence)
                ));
            }
            Err(error) if told(&error) => damaged = true,
            Err(error) => return Err(format!("get: {error} ({:?})", error.kind())),
        }
        match history(replica, *id) {
            Ok(history) => {
                let wanted = &golden.histories[id];
                // What the sync has brought comes on top.
                if !wanted.iter().all(|entry| history.contains(entry)) {
                    return Err(format!("a history of {} changes instead of {}", history.len(), wanted.len()));
                }
            }
            Err(error) if told(&error) => damaged = true,
            Err(error) => return Err(format!("history: {error} ({:?})", error.kind())),
        }
    }
    Ok(damaged)
}

/// `ANABRANCH_FLIPS` sets another number, `ANABRANCH_FLIP_SEED` other places.
#[test]
fn g11_after_any_flipped_byte_what_is_read_is_right_or_said_to_be_damaged() -> Result<(), Error> {
    let number = |name: &str| std::env::var(name).ok().and_then(|number| number.parse().ok());
    let (flips, seed): (u64, u64) =
        (number("ANABRANCH_FLIPS").unwrap_or(30), number("ANABRANCH_FLIP_SEED").unwrap_or(1));
    let golden = Golden::new()?;
    let (mut dice, mut tally, mut wrong) = (SplitMix64::new(seed), Tally::default(), Vec::new());
    let length = u64::try_from(golden.bytes.len()).expect("a length");
    for n in 0..flips {
        let place = usize::try_from(dice.next_u64() % length).expect("a place");
        let flip = u8::try_from(dice.next_u64() % 255 + 1).expect("a byte");
        let mut bytes = golden.bytes.clone();
        bytes[place] ^= flip;
        if let Err(what) = examine(&golden, &bytes, &mut tally) {
            let page = place / 4096 + 1;
            wrong.push(format!("flip {n}: byte {place} (page {page}, +{}) ^ {flip:#04x}: {what}", place % 4096));
        }
    }
    println!("{} bytes, {flips} flips: {tally:?}", golden.bytes.len());
    assert!(wrong.is_empty(), "{} of {flips}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(tally.named > 0 && tally.damage_told > 0, "{tally:?}");
    Ok(())
}

/// Found by flips: a place in the outbox whose state nobody knows was never pushed, and nothing was said.
#[test]
fn a_place_in_the_outbox_that_says_nothing_known_is_mended() -> Result<(), Error> {
    let golden = Golden::new()?;
    for spoil in ["state = 'pendinX'", "state = 'qarked'", "remote = 9"] {
        let file = golden.copy(&golden.bytes);
        let connection = rusqlite::Connection::open(&file).expect("the file");
        connection.pragma_update(None, "foreign_keys", false).expect("a pragma");
        let spoil = format!("UPDATE outbox SET {spoil} WHERE change = (SELECT min(change) FROM outbox)");
        assert_eq!(connection.execute(&spoil, []), Ok(1));
        // It is closed, so that all of it is in the file.
        drop(connection);
        let bytes = fs::read(&file).expect("the file");
        let mut tally = Tally::default();
        examine(&golden, &bytes, &mut tally).unwrap_or_else(|wrong| panic!("{spoil}: {wrong}"));
        assert_eq!((tally.named, tally.synced), (1, 1), "{spoil}: {tally:?}");
        assert_eq!(golden.server.digest("main"), golden.server_digest, "{spoil}: the server has all of it");
    }
    Ok(())
}

/// Found by flips: a table without one of its columns was an error of the program, not of the file.
#[test]
fn a_table_whose_definition_has_changed_is_damaged() -> Result<(), Error> {
    let golden = Golden::new()?;
    for (table, column) in [("sync_state", "ack_chain"), ("remotes", "next_attempt_at"), ("changes", "actor_seq")] {
        let file = golden.copy(&golden.bytes);
        let connection = rusqlite::Connection::open(&file).expect("the file");
        connection.pragma_update(None, "writable_schema", true).expect("a pragma");
        let rename = "UPDATE sqlite_schema SET sql = replace(sql, ?2, 'x' || substr(?2, 2)) WHERE name = ?1";
        assert_eq!(connection.execute(rename, [table, column]), Ok(1));
        drop(connection);
        let bytes = fs::read(&file).expect("the file");
        let mut tally = Tally::default();
        examine(&golden, &bytes, &mut tally).unwrap_or_else(|wrong| panic!("{column}: {wrong}"));
        assert_eq!((tally.named, tally.not_opened), (1, 1), "{column}: {tally:?}");
    }
    Ok(())
}

/// The place of a change's bytes in the file: the newest of an entity.
fn newest_change(golden: &Golden, id: EntityId) -> (usize, String) {
    let file = golden.copy(&golden.bytes);
    let connection = rusqlite::Connection::open(&file).expect("the file");
    let sql = "SELECT bytes, lower(hex(hash)) FROM changes WHERE entity = (SELECT key FROM entities WHERE id = ?) \
               ORDER BY seq DESC LIMIT 1";
    let (bytes, hash): (Vec<u8>, String) =
        connection.query_row(sql, [id.to_string()], |row| Ok((row.get(0)?, row.get(1)?))).expect("a change");
    let place = golden.bytes.windows(bytes.len()).position(|window| window == bytes).expect("it is in the file");
    (place + bytes.len() / 2, hash)
}

fn with_damage_at(golden: &Golden, place: usize) -> PathBuf {
    let mut bytes = golden.bytes.clone();
    bytes[place] ^= 0x10;
    golden.copy(&bytes)
}

/// The writer looks at what was found damaged before it does anything else.
fn looked_at(replica: &Replica, golden: &Golden) -> Result<(), Error> {
    history(replica, golden.ids[0]).map(drop)
}

#[test]
fn what_the_server_has_of_a_damaged_entity_comes_back() -> Result<(), Error> {
    let golden = Golden::new()?;
    // Nothing of it is pending.
    let id = golden.ids[10];
    let (place, _) = newest_change(&golden, id);
    let replica = open(&golden.clock, &with_damage_at(&golden, place))?;
    let space = replica.space("main")?;
    let error = space.edit(id, |note| note.set("title", "no")).wait().expect_err("its history is damaged");
    assert_eq!(error.kind(), ErrorKind::Damaged);
    assert!(error.to_string().contains(&id.to_string()), "{error}");
    looked_at(&replica, &golden)?;
    let shown = space.get(id)?.expect("its row is whole");
    assert_eq!(essence(&shown), essence(&golden.records[&id]));
    let damaged = replica.damaged()?;
    assert_eq!((damaged.len(), damaged[0].id, damaged[0].missing, damaged[0].lost.len()), (1, id, 1, 0));
    assert_eq!(replica.status()?.damaged, 1);
    sync(&replica, &golden.server)?;
    assert_eq!(replica.damaged()?, []);
    assert_eq!(essence(&space.get(id)?.expect("the note")), essence(&golden.synced[&id]));
    assert_eq!(history(&replica, id)?.len(), golden.histories[&id].len());
    space.edit(id, |note| note.set("title", "yes")).wait()?;
    Ok(())
}

#[test]
fn what_no_server_had_is_lost_by_name() -> Result<(), Error> {
    let golden = Golden::new()?;
    let id = golden.ids[7];
    let (place, hash) = newest_change(&golden, id);
    let replica = open(&golden.clock, &with_damage_at(&golden, place))?;
    let space = replica.space("main")?;
    assert!(space.edit(id, |note| note.set("title", "no")).wait().is_err());
    looked_at(&replica, &golden)?;
    let damaged = replica.damaged()?;
    assert_eq!((damaged.len(), damaged[0].missing), (1, 0));
    let lost: Vec<&str> = damaged[0].lost.iter().map(|lost| lost.hash.as_str()).collect();
    assert_eq!(lost, [hash.as_str()]);
    assert_eq!(space.get(id)?.expect("what it said").state["title"], "waits");
    sync(&replica, &golden.server)?;
    assert_eq!(replica.damaged()?.len(), 1, "until somebody has heard of it");
    assert!(space.accept_damage(id).wait()?);
    assert!(!space.accept_damage(id).wait()?);
    assert_ne!(space.get(id)?.expect("what is left").state["title"], "waits");
    space.edit(id, |note| note.set("title", "again")).wait()?;
    sync(&replica, &golden.server)?;
    assert_eq!((replica.status()?.pending, replica.status()?.damaged), (0, 0));
    Ok(())
}

/// `ANABRANCH_REPAIRS` sets another number of damaged pages.
#[test]
fn a_repair_saves_what_can_be_read_and_keeps_the_damaged_file() -> Result<(), Error> {
    let pages: u64 = std::env::var("ANABRANCH_REPAIRS").ok().and_then(|number| number.parse().ok()).unwrap_or(6);
    let golden = Golden::new()?;
    let (mut dice, mut saved) = (SplitMix64::new(7), 0);
    let all = u64::try_from(golden.bytes.len() / 4096).expect("pages");
    for n in 0..pages {
        let page = usize::try_from(1 + dice.next_u64() % (all - 1)).expect("a page");
        let mut bytes = golden.bytes.clone();
        bytes[page * 4096..(page + 1) * 4096].fill(if n % 2 == 0 { 0 } else { 0xa5 });
        let file = golden.copy(&bytes);
        let repaired = match Replica::at(&file).environment(golden.clock.environment()).repair(Some(schema())) {
            Ok(repaired) => repaired,
            Err(error) => {
                assert!(told(&error), "page {page}: {error} ({:?})", error.kind());
                assert_eq!(fs::read(&file).expect("the file"), bytes, "page {page}: it is where it was");
                println!("page {page}: {error}");
                continue;
            }
        };
        let Some(original) = &repaired.original else { continue };
        assert_eq!(fs::read(original).expect("the damaged file"), bytes, "page {page}");
        let replica = open(&golden.clock, &file)?;
        let quiet = repaired.unsaved.is_empty() && repaired.damaged.is_empty();
        let mut there = 0;
        for id in &golden.ids {
            if let Ok(Some(record)) = replica.space("main")?.get(*id) {
                assert!(right(&record, &golden), "page {page}: {record:?}");
                there += 1;
            }
        }
        assert!(!quiet || there == golden.ids.len(), "page {page}: {there} of {}", golden.ids.len());
        sync(&replica, &golden.server)?;
        let whole = golden.server.digest("main") == golden.server_digest;
        assert!(whole || !quiet, "page {page}: not everything is on the server, and nothing is said");
        saved += 1;
        println!("page {page}: {there} entities, {:?}, {} damaged", repaired.unsaved, repaired.damaged.len());
    }
    assert!(saved * 2 > pages, "{saved} of {pages}");
    Ok(())
}
