//! What a file says about what it holds, and what it offers to a server that has lost something.

mod support;

use anabranch_core::document::Edit;
use anabranch_core::segment::{Manifest, Piece};
use anabranch_core::sync::reconcile::{Item, Reconciler, Theirs, Then, answer_sketch};
use anabranch_core::sync::{FirstSync, FirstSyncStep, OutboxRead, SpaceProgress, WriteBatch};
use anabranch_core::wire::{Answer, Ask, Cursor, Mark, Reply, Wanted};
use anabranch_core::{Digest, EntityId, Heads, Lineage};
use anabranch_store::{Difference, Handover, Store, StoreError};
use serde_json::json;
use support::{Folder, create, edit, field, space};

const LINEAGE: Lineage = Lineage::from_bytes([7; 16]);

fn set(store: &Store, id: EntityId, title: &str) -> Result<bool, StoreError> {
    edit(store, id, vec![Edit::Set { field: field("title"), value: title.into() }])
}

fn heads(store: &Store, id: EntityId) -> Result<Heads, StoreError> {
    store.read(|read| read.heads_of(&space("main"), id))
}

/// Pushes everything to a server that accepts it.
fn push_all(store: &Store) -> Result<(), StoreError> {
    loop {
        let read = OutboxRead { space: space("main"), changes: 1_000, bytes: 1 << 20 };
        let page = store.outbox_page(1, read).wait()?;
        if page.items.is_empty() {
            return Ok(());
        }
        let mut batch = WriteBatch::empty(space("main"), LINEAGE);
        batch.answered = page.items.iter().map(|item| (item.key, Answer::Accepted { seq: 1 })).collect();
        store.write(move |write| write.apply_batch(1, batch)).wait()?;
    }
}

fn offer(store: &Store, id: EntityId, theirs: Heads) -> Result<usize, StoreError> {
    let mut batch = WriteBatch::empty(space("main"), LINEAGE);
    batch.offers = vec![Theirs { entity: id, heads: theirs }];
    store.write(move |write| write.apply_batch(1, batch)).wait()?;
    let read = OutboxRead { space: space("main"), changes: 1_000, bytes: 1 << 20 };
    Ok(store.outbox_page(1, read).wait()?.items.len())
}

fn compare(store: &Store, id: EntityId, heads: Heads) -> Result<Option<usize>, StoreError> {
    let theirs = vec![Theirs { entity: id, heads }];
    let compared = store.write_on_rows(move |write| write.compare(&space("main"), &theirs)).wait()?;
    Ok(compared[0].lacking.as_ref().map(Vec::len))
}

fn difference(store: &Store, id: EntityId, heads: Heads) -> Result<Option<Difference>, StoreError> {
    let theirs = vec![Theirs { entity: id, heads }];
    let found = store.write_on_rows(move |write| write.differences(&space("main"), &theirs, Some(1))).wait()?;
    Ok(found.first().map(|(_, difference)| *difference))
}

#[test]
fn what_a_server_lost_is_offered_and_no_more() -> Result<(), StoreError> {
    let folder = Folder::new();
    let store = folder.open("a.db");
    let id = create(&store, json!({ "title": "one" }))?;
    let first = heads(&store, id)?;
    set(&store, id, "two")?;
    let second = heads(&store, id)?;
    assert_eq!(difference(&store, id, first.clone())?, Some(Difference::Pending));
    push_all(&store)?;
    assert_eq!(difference(&store, id, second.clone())?, None);
    assert_eq!(difference(&store, id, first.clone())?, Some(Difference::MissingThere));
    assert_eq!(difference(&store, id, Heads::default())?, Some(Difference::MissingThere));
    assert_eq!(offer(&store, id, second.clone())?, 0);
    assert_eq!(offer(&store, id, first)?, 1);
    push_all(&store)?;
    assert_eq!(offer(&store, id, Heads::default())?, 2);
    let items = store.read(|read| read.items(&space("main")))?;
    assert_eq!(items, [Item::new(id, &second)]);
    Ok(())
}

/// The server may have all that waits: only its heads tell.
#[test]
fn what_waits_for_a_server_is_compared_with_it_in_any_case() -> Result<(), StoreError> {
    let folder = Folder::new();
    let store = folder.open("a.db");
    let id = create(&store, json!({ "title": "one" }))?;
    create(&store, json!({ "title": "two" }))?;
    push_all(&store)?;
    set(&store, id, "waits")?;
    let differing = || {
        let there = store.read(|read| read.items(&space("main")))?;
        let here = store.read(|read| read.items_for(1, &space("main"), None))?;
        let (mut reconciler, ask) = Reconciler::begin(here).expect("a sketch");
        let mut next = Then::Ask(ask);
        while let Then::Ask(Ask::Sketch(message)) = next {
            let answer = answer_sketch(there.clone(), &message).expect("an answer");
            next = reconciler.take(Reply::Sketch(answer)).expect("a step").then;
        }
        Ok::<_, StoreError>(reconciler.differing().iter().copied().collect::<Vec<_>>())
    };
    assert_eq!(differing()?, [id]);
    push_all(&store)?;
    assert_eq!(differing()?, []);
    Ok(())
}

#[test]
fn a_file_knows_what_it_lacks_even_if_it_has_folded_what_it_has() -> Result<(), StoreError> {
    let folder = Folder::new();
    let (one, two) = (folder.open("one.db"), folder.open("two.db"));
    let id = create(&one, json!({ "title": "one" }))?;
    let first = heads(&one, id)?;
    for n in 0..10 {
        set(&one, id, &n.to_string())?;
    }
    push_all(&one)?;
    let folded = heads(&one, id)?;
    let compact = one.write(|write| write.compact(1));
    assert!(compact.wait()?, "it is folded");
    set(&one, id, "after")?;
    let newest = heads(&one, id)?;
    for known in [&first, &folded, &newest] {
        assert_eq!(compare(&one, id, known.clone())?, None, "it is here");
    }
    let foreign = Heads::new(vec![anabranch_core::ChangeHash::from_bytes([9; 32])]);
    assert!(compare(&one, id, foreign.clone())?.is_some_and(|known| known >= 2), "it says what it has");
    assert_eq!(compare(&two, id, foreign.clone())?, Some(0), "there is nothing to say");
    assert_eq!(difference(&one, id, foreign.clone())?, Some(Difference::Different));
    assert_eq!(difference(&two, id, foreign)?, Some(Difference::MissingHere));

    // Somebody who has the first change only gets the folded ones as well, in causal order.
    // Whether they are kept until then, extracted again, or some of them.
    let handed_over = |room| {
        let wanted = vec![Wanted { entity: id, known: first.hashes().to_vec() }];
        let changes = one.write(move |write| {
            let mut handover = Handover::of(write.lacked(&space("main"), &wanted, room)?);
            let mut changes = Vec::new();
            while let Some((batch, _)) = handover.next_batch() {
                assert!(batch.iter().map(|lacked| lacked.kept_bytes()).sum::<usize>() <= room);
                changes.extend(write.hand_over(&batch)?);
            }
            Ok::<_, StoreError>(changes)
        });
        changes.wait()
    };
    let kept = handed_over(usize::MAX)?;
    assert_eq!(kept.len(), 11);
    assert_eq!(handed_over(0)?, kept);
    assert_eq!(handed_over(500)?, kept);
    // And a server that has lost all of it is offered all of it.
    assert_eq!(offer(&one, id, Heads::default())?, 12);
    Ok(())
}

fn progress(store: &Store) -> Result<SpaceProgress, StoreError> {
    let remotes = store.read(|read| read.remotes())?;
    Ok(remotes[0].spaces[0].clone())
}

/// Whatever else comes, until there is a cursor.
#[test]
fn g10_a_file_remembers_that_a_reconcile_is_owed() -> Result<(), StoreError> {
    let folder = Folder::new();
    let apply = |batch: WriteBatch| {
        let store = folder.open("a.db");
        store.write(move |write| write.apply_batch(1, batch)).wait()?;
        drop(store);
        progress(&folder.open("a.db"))
    };
    let batch = || WriteBatch::empty(space("main"), LINEAGE);
    let (digest, mark) = (Digest::of(b"1"), |seq| Some(Mark { seq, chain: Digest::of(b"chain") }));
    let piece = Piece { digest, collection: field("notes").as_str().parse().expect("a name"), entities: 1, bytes: 1 };
    let manifest = Manifest { mark: mark(3).expect("a mark"), cursor: Cursor(vec![3]), pieces: vec![piece] };
    let plan = FirstSync { manifest, applied: vec![false] };
    for step in [None, Some(FirstSyncStep::Plan(plan.clone()))] {
        let known = apply(WriteBatch { cursor: Some(Cursor(vec![1])), ack: mark(1), ..batch() })?;
        assert_eq!((known.cursor, known.ack, known.owes_reconcile), (Some(Cursor(vec![1])), mark(1), false));
        let under_way = step.is_some().then(|| plan.clone());
        apply(WriteBatch { first_sync: step, ..batch() })?;
        let known = apply(WriteBatch { owes_reconcile: true, ..batch() })?;
        assert_eq!((known.cursor, known.owes_reconcile, known.first_sync), (None, true, under_way.clone()));
        let known = apply(WriteBatch { ack: mark(2), ..batch() })?;
        assert_eq!((known.ack, known.owes_reconcile, known.first_sync), (mark(2), true, under_way));
        let known = apply(WriteBatch { cursor: Some(Cursor(vec![2])), ..batch() })?;
        assert_eq!((known.cursor, known.owes_reconcile, known.first_sync), (Some(Cursor(vec![2])), false, None));
    }
    Ok(())
}
