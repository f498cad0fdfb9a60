//! One durable edit of a small note, beside the same by hand: bare Automerge and SQLite.
//!
//! By hand means: change the document, append the change to a table and rewrite the state's row, in one
//! transaction with `synchronous=FULL`. Ours does that, and the outbox, the view, the schema's checks and the
//! status beside it. Single edits wait for the disk in both; in groups ours shares one fsync.
#![allow(missing_docs, reason = "criterion's macros make public items")]

use anabranch::{Collection, EntityId, Replica, Schema};
use automerge::transaction::{CommitOptions, Transactable};
use automerge::{AutoSerde, Automerge, AutomergeError, ROOT};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rusqlite::Connection;
use serde_json::json;
use tempfile::TempDir;

const SCHEMA: &str = r#"
    version = 1
    [collections.notes.fields]
    title = { kind = "register" }
    author = { kind = "register" }
    folder = { kind = "register" }
    due = { kind = "register" }
    done = { kind = "register" }
"#;

struct Ours {
    notes: Collection,
    id: EntityId,
    _folder: TempDir,
}

impl Ours {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let schema = Schema::from_toml(SCHEMA).expect("a schema");
        let replica = Replica::open(folder.path().join("ours.db"), schema).expect("a replica");
        let notes = replica.space("main").and_then(|space| space.untyped("notes")).expect("the notes");
        let fields = json!({ "title": "a note", "author": "ada", "folder": "inbox", "due": null, "done": false });
        let id = notes.create(fields).wait().expect("the note");
        Self { notes, id, _folder: folder }
    }

    fn edit(&self, round: u64) {
        let edit = self.notes.edit(self.id, |note| note.set("title", format!("title {round}")));
        edit.wait().expect("the edit");
    }

    fn edit_many(&self, round: u64, count: u64) {
        let edits: Vec<_> = (0..count)
            .map(|n| self.notes.edit(self.id, |note| note.set("title", format!("title {round}.{n}"))))
            .collect();
        for edit in edits {
            edit.wait().expect("the edit");
        }
    }
}

struct ByHand {
    document: Automerge,
    connection: Connection,
    _folder: TempDir,
}

impl ByHand {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let connection = Connection::open(folder.path().join("bare.db")).expect("a database");
        connection.pragma_update(None, "journal_mode", "wal").expect("WAL");
        connection.pragma_update(None, "synchronous", "full").expect("FULL");
        let tables = "CREATE TABLE changes (seq INTEGER PRIMARY KEY, bytes BLOB);
                      CREATE TABLE notes (id INTEGER PRIMARY KEY, state TEXT);";
        connection.execute_batch(tables).expect("tables");
        let mut bare = Self { document: Automerge::new(), connection, _folder: folder };
        for field in ["title", "author", "folder", "due", "done"] {
            bare.put(field, "a value");
        }
        bare
    }

    fn put(&mut self, field: &str, value: &str) {
        let put = self.document.transact_with::<_, _, AutomergeError, _>(
            |()| CommitOptions::default().with_time(1),
            |transaction| transaction.put(ROOT, field, value),
        );
        put.expect("the change");
    }

    fn edit(&mut self, round: u64) {
        self.put("title", &format!("title {round}"));
        let change = self.document.get_last_local_change().expect("a change");
        let state = serde_json::to_string(&AutoSerde::from(&self.document)).expect("the state");
        let transaction = self.connection.transaction().expect("a transaction");
        transaction.execute("INSERT INTO changes (bytes) VALUES (?)", [change.raw_bytes()]).expect("the change");
        transaction.execute("INSERT OR REPLACE INTO notes VALUES (1, ?)", [state]).expect("the state");
        transaction.commit().expect("the commit");
    }
}

fn durable_edit(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("durable_edit");
    group.sample_size(20);
    let ours = Ours::new();
    let mut round = 0;
    group.bench_function("anabranch", |bencher| {
        bencher.iter(|| {
            round += 1;
            ours.edit(round);
        });
    });
    let mut bare = ByHand::new();
    group.bench_function("automerge_and_sqlite_by_hand", |bencher| {
        bencher.iter(|| {
            round += 1;
            bare.edit(round);
        });
    });
    for count in [10u64, 100, 1_000] {
        group.throughput(Throughput::Elements(count));
        group.bench_with_input(BenchmarkId::new("anabranch_in_flight", count), &count, |bencher, count| {
            bencher.iter(|| {
                round += 1;
                ours.edit_many(round, *count);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, durable_edit);
criterion_main!(benches);
