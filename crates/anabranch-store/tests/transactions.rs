//! Transactions in one file, and on their way to a server.

mod support;

use anabranch_core::document::Edit;
use anabranch_core::sync::{MAX_TRANSACTION_CHANGES, OutboxRead, Reoffer, WriteBatch};
use anabranch_core::wire::{Answer, Envelope, Missing, RejectCode};
use anabranch_core::{ChangeHash, EntityId, Entropy, Environment, Heads, Lineage, SplitMix64, TransactionId};
use anabranch_store::{OpenMode, OutboxPage, Store, StoreError, Write};
use serde_json::{Value, json};
use support::{Folder, create, edit, field, fields, name, schema, space};

const LINEAGE: Lineage = Lineage::from_bytes([7; 16]);

fn set(title: &str) -> [Edit; 1] {
    [Edit::Set { field: field("title"), value: json!(title) }]
}

fn into(folder: EntityId) -> [Edit; 1] {
    [Edit::Set { field: field("parent"), value: json!(folder.to_string()) }]
}

fn make(write: &mut Write<'_>, collection: &str, value: Value) -> Result<EntityId, StoreError> {
    write.create(&space("main"), &name(collection), None, &fields(value))
}

fn note(store: &Store, title: &str) -> Result<EntityId, StoreError> {
    create(store, json!({ "title": title }))
}

/// Gives all of them this title, in one transaction.
fn title_all(store: &Store, title: &'static str, ids: &[EntityId]) -> Result<(), StoreError> {
    let ids = ids.to_vec();
    let together = move |write: &mut Write<'_>| {
        ids.iter().try_for_each(|id| write.edit(&space("main"), *id, &set(title)).map(drop))
    };
    store.write(move |write| write.transaction(together)).wait()
}

fn outbox(store: &Store, changes: u32) -> Result<OutboxPage, StoreError> {
    store.outbox_page(1, OutboxRead { space: space("main"), changes, bytes: 1 << 20 }).wait()
}

fn answer(store: &Store, answered: Vec<(i64, Answer)>) -> Result<(), StoreError> {
    let batch = WriteBatch { answered, ..WriteBatch::empty(space("main"), LINEAGE) };
    store.write(move |write| write.apply_batch(1, batch).map(drop)).wait()
}

fn accept(store: &Store, page: &OutboxPage) -> Result<(), StoreError> {
    answer(store, page.items.iter().map(|item| (item.key, Answer::Accepted { seq: 1 })).collect())
}

fn refused(code: RejectCode, retryable: bool) -> Answer {
    Answer::Rejected { code, message: "no".to_owned(), retryable }
}

/// The page's changes: whose they are, and a number for each transaction.
fn shape(page: &OutboxPage) -> Vec<(EntityId, Option<usize>)> {
    let mut seen: Vec<TransactionId> = Vec::new();
    let mut number = |id| {
        seen.iter().position(|known| *known == id).unwrap_or_else(|| {
            seen.push(id);
            seen.len() - 1
        })
    };
    page.items.iter().map(|item| (item.envelope.entity, item.envelope.transaction.map(&mut number))).collect()
}

fn query(store: &Store, sql: &str) -> Result<Vec<Value>, StoreError> {
    let rows = store.read(|read| read.query(sql, &[]))?;
    Ok(rows.into_iter().map(Value::Object).collect())
}

#[test]
fn a_transaction_that_fails_leaves_nothing_even_if_the_write_goes_on() -> Result<(), StoreError> {
    let folder = Folder::new();
    let store = folder.open("a.db");
    let old = note(&store, "old")?;
    let before = query(&store, "SELECT title FROM notes")?;
    let goes_on = store.write(move |write| {
        write.edit(&space("main"), old, &set("before"))?;
        let failed = write.transaction(|write| {
            make(write, "notes", json!({ "title": "a", "body": "text" }))?;
            write.edit(&space("main"), old, &set("within"))?;
            // A transaction inside is a part of it, and can fail alone.
            let inner = write.transaction(|write| {
                make(write, "notes", json!({ "title": "b" }))?;
                write.edit(&space("main"), old, &[Edit::Increment { field: field("title"), by: 1 }])
            });
            assert!(inner.is_err());
            assert_eq!(write.state(&space("main"), old)?.fields["title"], "within", "it reads its own writes");
            write.delete(&space("main"), EntityId::from_bytes([9; 16]))
        });
        assert!(matches!(failed, Err(StoreError::NoEntity(_))));
        assert_eq!(write.state(&space("main"), old)?.fields["title"], "before");
        write.edit(&space("main"), old, &set("after"))
    });
    goes_on.wait()?;
    assert_eq!(before, [json!({ "title": "old" })]);
    assert_eq!(query(&store, "SELECT title FROM notes")?, [json!({ "title": "after" })]);
    let panicked = store.write(move |write| {
        write.transaction(|write| -> Result<(), StoreError> {
            make(write, "notes", json!({ "title": "a" }))?;
            panic!("an application's bug");
        })
    });
    assert!(matches!(panicked.wait(), Err(StoreError::Panicked)));
    assert_eq!(query(&store, "SELECT count(*) AS n FROM changes WHERE txn IS NOT NULL")?, [json!({ "n": 0 })]);
    assert_eq!(query(&store, "SELECT count(*) AS n FROM entities")?, [json!({ "n": 1 })]);
    assert_eq!(outbox(&store, 10)?.items.len(), 3);
    Ok(())
}

#[test]
fn everything_in_a_transaction_shares_its_id_and_a_change_alone_needs_none() -> Result<(), StoreError> {
    let folder = Folder::new();
    let store = folder.open("a.db");
    let both = |write: &mut Write<'_>| {
        make(write, "notes", json!({ "title": "a", "body": "text" }))?;
        write.transaction(|write| make(write, "notes", json!({ "title": "b", "stars": 3 })))
    };
    store.write(move |write| write.transaction(both)).wait()?;
    store.write(|write| write.transaction(|write| make(write, "notes", json!({ "title": "c" })))).wait()?;
    let counts = query(&store, "SELECT count(*) AS n FROM changes GROUP BY txn ORDER BY txn IS NULL")?;
    assert_eq!(counts, [json!({ "n": 4 }), json!({ "n": 1 })], "two creations and their geneses; one alone");
    let page = outbox(&store, 10)?;
    let ids: Vec<_> = shape(&page).into_iter().map(|(_, transaction)| transaction).collect();
    assert_eq!(ids, [Some(0), Some(0), Some(0), Some(0), None]);
    Ok(())
}

#[test]
fn a_transaction_keeps_to_one_space_and_a_stated_size() -> Result<(), StoreError> {
    let folder = Folder::new();
    let store = folder.open("a.db");
    let spaces = store.write(|write| {
        write.transaction(|write| {
            make(write, "notes", json!({ "title": "here" }))?;
            write.create(&space("other"), &name("notes"), None, &fields(json!({ "title": "there" })))
        })
    });
    assert!(matches!(spaces.wait(), Err(StoreError::TransactionSpaces)));
    let sized = |count: usize, length: usize| {
        store
            .write(move |write| {
                let title = "x".repeat(length);
                write.transaction(|write| {
                    (0..count).try_for_each(|_| make(write, "notes", json!({ "title": title })).map(drop))
                })
            })
            .wait()
    };
    assert!(matches!(sized(MAX_TRANSACTION_CHANGES + 1, 1), Err(StoreError::TransactionTooLarge)));
    assert!(matches!(sized(3, 100 << 10), Err(StoreError::TransactionTooLarge)));
    assert_eq!(query(&store, "SELECT count(*) AS n FROM changes")?, [json!({ "n": 0 })]);
    sized(1, 300 << 10)?;
    sized(MAX_TRANSACTION_CHANGES, 1)?;
    let page = outbox(&store, 10)?;
    assert_eq!(page.items.len(), 1);
    accept(&store, &page)?;
    assert_eq!(outbox(&store, 10)?.items.len(), MAX_TRANSACTION_CHANGES, "it travels alone, and whole");
    Ok(())
}

#[test]
fn a_page_never_cuts_a_transaction_also_after_a_restart() -> Result<(), StoreError> {
    let folder = Folder::new();
    let store = folder.open("a.db");
    let (a, b, c) = (note(&store, "a")?, note(&store, "b")?, note(&store, "c")?);
    title_all(&store, "one", &[a, b, c])?;
    edit(&store, a, set("late").to_vec())?;
    title_all(&store, "two", &[c, a])?;
    drop(store);
    let store = folder.open("a.db");
    let mut pages = Vec::new();
    loop {
        let page = outbox(&store, 4)?;
        if page.items.is_empty() {
            break;
        }
        accept(&store, &page)?;
        pages.push(shape(&page));
    }
    let alone = |id| (id, None);
    let first = |id| (id, Some(0));
    assert_eq!(pages[0], [alone(a), alone(b), alone(c)]);
    assert_eq!(pages[1], [first(a), first(b), first(c), alone(a)]);
    assert_eq!(pages[2], [first(c), first(a)]);
    assert_eq!(pages.len(), 3);
    Ok(())
}

#[test]
fn g06_parents_come_before_a_transaction_or_first_inside_it() -> Result<(), StoreError> {
    let folder = Folder::new();
    let store = folder.open("a.db");
    let outside = EntityId::from_bytes([1; 16]);
    let (parent, child) = (EntityId::from_bytes([2; 16]), EntityId::from_bytes([3; 16]));
    store
        .write(move |write| {
            write.transaction(|write| {
                let (main, folders) = (space("main"), name("folders"));
                let in_parent = fields(json!({ "title": "child", "parent": parent.to_string() }));
                write.create(&main, &folders, Some(child), &in_parent)?;
                make(write, "notes", json!({ "title": "beside" }))?;
                let in_outside = fields(json!({ "title": "parent", "parent": outside.to_string() }));
                write.create(&main, &folders, Some(parent), &in_outside)
            })?;
            write.create(&space("main"), &name("folders"), Some(outside), &fields(json!({ "title": "outside" })))
        })
        .wait()?;
    let page = outbox(&store, 10)?;
    let order: Vec<_> = page.items.iter().map(|item| (item.envelope.entity, item.envelope.parent)).collect();
    assert_eq!(order[0], (outside, None));
    assert_eq!(order[1], (parent, Some(outside)));
    assert_eq!(order[2], (child, Some(parent)));
    assert_eq!(shape(&page).iter().map(|(_, id)| *id).collect::<Vec<_>>(), [None, Some(0), Some(0), Some(0)]);
    assert_eq!(shape(&outbox(&store, 2)?), [(outside, None)], "what comes before it can be pushed before it");
    Ok(())
}

/// The new folder stands in a transaction with a later change of the note that waits for it.
#[test]
fn what_a_transaction_needs_first_does_not_wait_for_a_parent_inside_it() -> Result<(), StoreError> {
    let folder = Folder::new();
    let store = folder.open("a.db");
    let children = store
        .write(|write| (0..3).map(|n| make(write, "folders", json!({ "title": n }))).collect::<Result<Vec<_>, _>>())
        .wait()?;
    let moved = children.clone();
    let parent = store
        .write(move |write| {
            write.transaction(|write| {
                let parent = make(write, "folders", json!({ "title": "new" }))?;
                for child in &moved {
                    write.edit(&space("main"), *child, &into(parent))?;
                }
                Ok::<_, StoreError>(parent)
            })
        })
        .wait()?;
    let page = outbox(&store, 100)?;
    let order: Vec<_> = page.items.iter().map(|item| (item.envelope.entity, item.envelope.parent)).collect();
    let creations = children.iter().map(|child| (*child, None));
    let moves = children.iter().map(|child| (*child, Some(parent)));
    let expected: Vec<_> = creations.chain([(parent, None)]).chain(moves).collect();
    assert_eq!(order, expected);
    Ok(())
}

#[test]
fn g07_what_is_joined_to_a_parked_change_waits_and_nothing_else_does() -> Result<(), StoreError> {
    let folder = Folder::new();
    let store = folder.open("a.db");
    let ids = (0..5).map(|_| note(&store, "new")).collect::<Result<Vec<_>, _>>()?;
    let [e, f, g, h, other] = ids[..] else { unreachable!("five notes") };
    // Two transactions join e with f, and f with g; a third joins g with h, but comes before the others.
    title_all(&store, "early", &[g, h])?;
    title_all(&store, "one", &[e, f])?;
    title_all(&store, "two", &[f, g])?;
    for id in [g, h, other] {
        edit(&store, id, set("late").to_vec())?;
    }
    let page = outbox(&store, 100)?;
    answer(&store, vec![(page.items[0].key, refused(RejectCode::Forbidden, false))])?;
    let expected =
        [(f, None), (g, None), (h, None), (other, None), (g, Some(0)), (h, Some(0)), (h, None), (other, None)];
    assert_eq!(shape(&outbox(&store, 100)?), expected);
    assert_eq!(store.read(|read| read.totals())?.parked, 1, "the transactions wait; they have not been refused");
    // Once what was refused is accepted (the server has lost its refusals), everything goes on, whole.
    let batch = WriteBatch { reoffer: Reoffer::Space, ..WriteBatch::empty(space("main"), LINEAGE) };
    store.write(move |write| write.apply_batch(1, batch).map(drop)).wait()?;
    assert_eq!(outbox(&store, 100)?.items.len(), 14);
    Ok(())
}

#[test]
fn a_transaction_is_parked_whole_with_its_reasons() -> Result<(), StoreError> {
    let folder = Folder::new();
    let store = folder.open("a.db");
    let (a, b, c) = (note(&store, "a")?, note(&store, "b")?, note(&store, "c")?);
    accept(&store, &outbox(&store, 10)?)?;
    title_all(&store, "one", &[a, b, c])?;
    let page = outbox(&store, 10)?;
    let rest = refused(RejectCode::Transaction, true);
    let answers = [rest.clone(), refused(RejectCode::Forbidden, false), rest];
    answer(&store, page.items.iter().map(|item| item.key).zip(answers).collect())?;
    drop(store);
    let store = folder.open("a.db");
    let parked = query(&store, "SELECT state, last_error FROM outbox ORDER BY change")?;
    let joined = json!({ "state": "parked", "last_error": "another change of the transaction was refused" });
    assert_eq!(parked, [joined.clone(), json!({ "state": "parked", "last_error": "Forbidden: no" }), joined]);
    assert_eq!(store.read(|read| read.totals())?.parked, 3);
    let page = outbox(&store, 10)?;
    assert!(page.items.is_empty() && page.retry_at.is_none());
    Ok(())
}

struct Later(i64, SplitMix64);

impl Environment for Later {
    fn now(&self) -> i64 {
        self.0
    }
    fn entropy(&mut self) -> &mut dyn Entropy {
        &mut self.1
    }
}

#[test]
fn a_transaction_that_is_held_comes_back_whole() -> Result<(), StoreError> {
    let folder = Folder::new();
    let store = folder.open("a.db");
    let (a, b) = (note(&store, "a")?, note(&store, "b")?);
    accept(&store, &outbox(&store, 10)?)?;
    title_all(&store, "one", &[a, b])?;
    let page = outbox(&store, 10)?;
    let held = Answer::Held { missing: Missing::Change(ChangeHash::from_bytes([1; 32])) };
    answer(&store, vec![(page.items[0].key, held), (page.items[1].key, refused(RejectCode::Transaction, true))])?;
    let page = outbox(&store, 10)?;
    assert!(page.items.is_empty(), "also what the server was not asked for: it is joined");
    let retry_at = page.retry_at.expect("a retry");
    drop(store);
    let environment = Box::new(Later(retry_at + 2_000, SplitMix64::new(5)));
    let store = Store::open(&folder.path("a.db"), OpenMode::Either(schema()), environment)?;
    assert_eq!(shape(&outbox(&store, 10)?), [(a, None), (a, Some(0)), (b, Some(0))]);
    Ok(())
}

#[test]
fn folded_changes_have_left_their_transaction_when_they_are_offered_again() -> Result<(), StoreError> {
    let folder = Folder::new();
    let store = folder.open("a.db");
    let (a, b, c) = (note(&store, "a")?, note(&store, "b")?, note(&store, "c")?);
    title_all(&store, "one", &[a, b, c])?;
    accept(&store, &outbox(&store, 10)?)?;
    let key = query(&store, &format!("SELECT key FROM entities WHERE id = '{b}'"))?[0]["key"].as_i64();
    assert!(store.write(move |write| write.compact(key.unwrap_or_default())).wait()?);
    let batch = WriteBatch { reoffer: Reoffer::Everything, ..WriteBatch::empty(space("main"), LINEAGE) };
    store.write(move |write| write.apply_batch(1, batch).map(drop)).wait()?;
    let mut page = shape(&outbox(&store, 10)?);
    assert_eq!(page.iter().filter(|(_, transaction)| transaction.is_some()).count(), 2);
    page.retain(|(id, _)| *id == b);
    assert_eq!(page, [(b, None), (b, None)]);
    Ok(())
}

/// Takes what a peer says is so.
fn receive(store: &Store, changes: Vec<Envelope>) -> Result<(), StoreError> {
    store.write(move |write| write.apply_peer(&space("main"), changes).map(drop)).wait()
}

fn changes_of(store: &Store, id: EntityId) -> Result<Vec<Envelope>, StoreError> {
    store.write(move |write| write.changes_beyond(&space("main"), id, &Heads::default())).wait()
}

#[test]
fn transactions_that_cannot_be_honest_are_torn_rather_than_kept_for_ever() -> Result<(), StoreError> {
    let folder = Folder::new();
    let (one, two) = (folder.open("1.db"), folder.open("2.db"));
    let (e, f) = (note(&one, "e")?, note(&one, "f")?);
    for title in ["first", "second"] {
        edit(&one, e, set(title).to_vec())?;
        edit(&one, f, set(title).to_vec())?;
    }
    // Each needs the other first.
    let (mut of_e, mut of_f) = (changes_of(&one, e)?, changes_of(&one, f)?);
    let id = |n| Some(TransactionId::from_bytes([n; 16]));
    (of_e[1].transaction, of_e[2].transaction) = (id(1), id(2));
    (of_f[1].transaction, of_f[2].transaction) = (id(2), id(1));
    of_e.append(&mut of_f);
    receive(&two, of_e)?;
    let page = shape(&outbox(&two, 100)?);
    assert_eq!(page.len(), 6);
    let whole: Vec<_> = page.iter().enumerate().filter(|(_, (_, transaction))| transaction.is_some()).collect();
    assert_eq!(whole.len(), 2, "one is torn, so that the other can stand");
    assert_eq!(whole[0].0 + 1, whole[1].0);

    // Larger than any server takes at once.
    let big = (0..=MAX_TRANSACTION_CHANGES).map(|_| note(&one, "many")).collect::<Result<Vec<_>, _>>()?;
    let mut many = Vec::new();
    for id in big {
        many.append(&mut changes_of(&one, id)?);
    }
    many.iter_mut().for_each(|envelope| envelope.transaction = id(3));
    let count = many.len();
    let three = folder.open("3.db");
    receive(&three, many)?;
    let page = outbox(&three, 10)?;
    assert!(page.items.len() == 10 && count > 10 && page.items.iter().all(|item| item.envelope.transaction.is_none()));
    Ok(())
}

/// The process, or the machine, stops while the transaction is being written: whatever of the write-ahead log
/// has reached the disk by then, all of the transaction is there or nothing.
#[test]
fn g03_a_crash_at_any_point_leaves_all_of_a_transaction_or_nothing() -> Result<(), StoreError> {
    let folder = Folder::new();
    let ids = {
        let store = folder.open("a.db");
        (0..4).map(|_| note(&store, "old")).collect::<Result<Vec<_>, _>>()?
    };
    let store = folder.open("a.db");
    edit(&store, ids[0], set("old").to_vec())?;
    let wal = |folder: &Folder| std::fs::read(folder.path("a.db-wal")).expect("the write-ahead log");
    let before = wal(&folder).len();
    title_all(&store, "new", &ids)?;
    let file = std::fs::read(folder.path("a.db")).expect("the file");
    let log = wal(&folder);
    let (mut nothing, mut all) = (0, 0);
    for end in (before..log.len()).step_by(1_021).chain([log.len()]) {
        let crashed = Folder::new();
        std::fs::write(crashed.path("a.db"), &file).expect("a copy");
        std::fs::write(crashed.path("a.db-wal"), &log[..end]).expect("a copy");
        let store = crashed.open("a.db");
        let titles = query(&store, "SELECT title, count(*) AS n FROM notes GROUP BY title")?;
        let logged = query(&store, "SELECT count(*) AS n FROM changes WHERE txn IS NOT NULL")?[0]["n"].clone();
        if titles == [json!({ "title": "old", "n": 4 })] && logged == 0 {
            nothing += 1;
        } else if titles == [json!({ "title": "new", "n": 4 })] && logged == 4 {
            all += 1;
        } else {
            panic!("after {end} bytes: {titles:?}, {logged}");
        }
    }
    assert!(nothing > 10 && all >= 1, "{nothing} and {all}");
    Ok(())
}
