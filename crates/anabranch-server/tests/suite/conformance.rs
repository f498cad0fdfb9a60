//! What every backend must do, whatever it stores in.

use std::collections::BTreeMap;
use std::sync::Arc;

use anabranch_core::sync::reconcile::{Item, Reconciler, Then};
use anabranch_core::sync::{LogPage, MAX_TRANSACTION_BYTES, MAX_TRANSACTION_CHANGES, SpaceDigest, next_chain};
use anabranch_core::wire::{Answer, Ask, Envelope, Mark, Missing, RejectCode, Reply, Wanted};
use anabranch_core::{Change, CollectionName, Digest, SpaceName};
use anabranch_server::{Backend, Commit, Histories, PageBudget};

use crate::changes::{
    Author, accepted, entity, heads_of, notes, offered, purge, replica, rewrite_of, space, transaction,
};

/// A fresh place to store in. It can be opened again after what it returned has been dropped.
pub(crate) trait Storage {
    fn fresh() -> Self;
    fn open(&self) -> Arc<dyn Backend>;
    /// Whether what was stored is still there when it is opened again.
    const DURABLE: bool;
}

/// Makes a test of each requirement, for one storage.
macro_rules! conformance {
    ($storage:ty: $($requirement:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $requirement() {
                crate::conformance::$requirement(<$storage as crate::conformance::Storage>::fresh()).await;
            }
        )*
    };
    ($storage:ty) => {
        crate::conformance::conformance! {
            $storage:
            concurrent_writers_leave_no_gap,
            the_chain_verifies_from_scratch,
            a_duplicate_is_stored_once,
            what_misses_something_is_held,
            another_collection_is_rejected,
            a_fork_is_rejected,
            what_skips_its_actors_previous_change_is_rejected,
            an_answer_that_is_already_there_is_kept,
            a_transaction_is_all_or_nothing,
            a_transaction_has_a_size,
            a_page_never_splits_a_transaction,
            a_page_keeps_its_budget,
            what_was_stored_is_the_same_after_reopening,
            an_unknown_mark_is_noticed,
            spaces_do_not_leak,
            the_overview_is_right,
            a_marker_purges_the_version_that_it_names,
            of_a_change_and_what_was_written_from_it_one_is_taken,
            a_marker_that_is_not_accepted_purges_nothing,
            whoever_has_something_in_the_log_is_told_its_end,
            a_marker_that_was_agreed_to_before_is_taken,
            a_reconcile_tells_what_the_space_holds,
            commits_are_announced,
            histories_are_the_log_entity_by_entity,
            spaces_are_listed_in_order,
            quotas_are_kept,
            a_replica_belongs_to_whoever_stored_for_it_first,
        }
    };
}
pub(crate) use conformance;

pub(crate) use crate::authors::{
    a_replica_belongs_to_whoever_stored_for_it_first, quotas_are_kept, spaces_are_listed_in_order,
};

pub(crate) async fn histories_are_the_log_entity_by_entity(storage: impl Storage) {
    let backend = storage.open();
    let (home, mut author) = (space("home"), Author::new(1));
    let mut envelopes = Vec::new();
    for round in 0..3 {
        envelopes.extend((1..=5).map(|n| author.edit(entity(n), &format!("{round}"))));
    }
    push(&backend, &home, envelopes.clone()).await;
    push(&backend, &space("other"), vec![Author::new(2).edit(entity(9), "elsewhere")]).await;
    assert_eq!(backend.collections(home.clone()).await.unwrap(), [notes()]);
    assert_eq!(backend.collections(space("nowhere")).await.unwrap(), []);
    let touched = backend.touched(home.clone(), 10, 12).await.unwrap();
    assert_eq!(touched, [(notes(), entity(1)), (notes(), entity(2))]);
    // All of it in the order of entities, whatever the size of the pages; and parts of it.
    for (from, to, up_to) in [(0, None, 15), (0, None, 7), (2, None, 15), (2, Some(4), 15)] {
        let mut expected: Vec<_> = envelopes[..up_to].to_vec();
        expected.retain(|envelope| envelope.entity >= entity(from) && to.is_none_or(|to| envelope.entity < entity(to)));
        expected.sort_by_key(|envelope| envelope.entity);
        let expected: Vec<_> = expected.into_iter().map(|envelope| (envelope.entity, envelope.change)).collect();
        for budget in [ALL, PageBudget { bytes: 1, changes: 9 }, PageBudget { bytes: usize::MAX, changes: 2 }] {
            let (mut read, mut next) = (Vec::new(), Some((entity(from), 0)));
            while let Some(from) = next {
                let up_to = u64::try_from(up_to).unwrap();
                let range = Histories { collection: notes(), from, to: to.map(entity), up_to };
                let page = backend.histories(home.clone(), range, budget).await.unwrap();
                assert!(!page.changes.is_empty() || page.next.is_none(), "no page is empty for nothing");
                read.extend(page.changes.into_iter().map(|(id, change)| (id, change.into_bytes())));
                next = page.next;
            }
            assert_eq!(read, expected, "{from} to {to:?} up to {up_to}, {budget:?}");
        }
    }
    let nothing = Histories { collection: notes(), from: (entity(0), 0), to: None, up_to: 15 };
    assert!(backend.histories(space("nowhere"), nothing, ALL).await.unwrap().changes.is_empty());
}

const ALL: PageBudget = PageBudget { bytes: usize::MAX, changes: usize::MAX };

async fn push(backend: &Arc<dyn Backend>, space: &SpaceName, envelopes: Vec<Envelope>) -> (Vec<Answer>, Vec<Mark>) {
    let outcome = backend.append(space.clone(), replica(1), offered(envelopes)).await.unwrap();
    (outcome.answers, outcome.marks)
}

async fn page(
    backend: &Arc<dyn Backend>,
    space: &SpaceName,
    after: Mark,
    budget: PageBudget,
) -> (Vec<(Mark, Envelope)>, bool) {
    match backend.read(space.clone(), after, vec![after], budget).await.unwrap() {
        LogPage::Rows { rows, more } => (rows, more),
        LogPage::Unknown => panic!("the log does not know its own mark"),
    }
}

async fn log(backend: &Arc<dyn Backend>, space: &SpaceName) -> Vec<(Mark, Envelope)> {
    let (rows, more) = page(backend, space, Mark::START, ALL).await;
    assert!(!more);
    rows
}

/// The sequence has no gap, and the chain is the one that anybody would compute.
fn verify(log: &[(Mark, Envelope)]) {
    let mut before = Mark::START;
    for (mark, envelope) in log {
        let hash = Change::parse(envelope.change.clone()).unwrap().hash();
        let chain = next_chain(&before.chain, &envelope.entity, &hash, envelope.transaction.as_ref());
        assert_eq!(*mark, Mark { seq: before.seq + 1, chain });
        before = *mark;
    }
}

fn rejected_as(answer: &Answer) -> RejectCode {
    match answer {
        Answer::Rejected { code, .. } => *code,
        other => panic!("not rejected: {other:?}"),
    }
}

pub(crate) async fn concurrent_writers_leave_no_gap(storage: impl Storage) {
    let backend = storage.open();
    let home = space("home");
    let mut tasks = Vec::new();
    for name in 1..=8 {
        let (backend, home) = (Arc::clone(&backend), home.clone());
        tasks.push(tokio::spawn(async move {
            let mut author = Author::new(name);
            let mut seqs = Vec::new();
            for round in 0..20 {
                // One entity of its own, and one that all write to.
                let batch =
                    vec![author.edit(entity(name), &round.to_string()), author.edit(entity(99), &round.to_string())];
                let (answers, marks) = push(&backend, &home, batch).await;
                assert_eq!(
                    answers.iter().map(accepted).collect::<Vec<_>>(),
                    marks.iter().map(|mark| mark.seq).collect::<Vec<_>>()
                );
                seqs.extend(marks.iter().map(|mark| mark.seq));
            }
            seqs
        }));
    }
    let mut seqs = Vec::new();
    for task in tasks {
        seqs.extend(task.await.unwrap());
    }
    seqs.sort_unstable();
    assert_eq!(seqs, (1..=320).collect::<Vec<u64>>());
    let log = log(&backend, &home).await;
    assert_eq!(log.len(), 320);
    verify(&log);
    assert_eq!(backend.head(home).await.unwrap(), log.last().unwrap().0);
}

pub(crate) async fn the_chain_verifies_from_scratch(storage: impl Storage) {
    let backend = storage.open();
    let home = space("home");
    let mut author = Author::new(1);
    let mut alone = author.edit(entity(1), "a");
    alone.parent = Some(entity(1));
    let mut joined = vec![author.edit(entity(1), "b"), author.edit(entity(2), "c")];
    for envelope in &mut joined {
        envelope.transaction = transaction(7);
    }
    let mut pushed = vec![alone.clone()];
    pushed.extend(joined.clone());
    let (_, mut marks) = push(&backend, &home, vec![alone]).await;
    marks.extend(push(&backend, &home, joined).await.1);
    let log = log(&backend, &home).await;
    verify(&log);
    assert_eq!(log, marks.into_iter().zip(pushed).collect::<Vec<_>>());
}

pub(crate) async fn a_duplicate_is_stored_once(storage: impl Storage) {
    let backend = storage.open();
    let home = space("home");
    let mut author = Author::new(1);
    let batch = vec![author.edit(entity(1), "a"), author.edit(entity(1), "b")];
    push(&backend, &home, batch.clone()).await;
    let before = log(&backend, &home).await;
    let (answers, marks) = push(&backend, &home, batch.clone()).await;
    assert_eq!(answers, [Answer::Duplicate { seq: 1 }, Answer::Duplicate { seq: 2 }]);
    assert!(marks.is_empty());
    // Also within one batch, and beside something new.
    let next = author.edit(entity(1), "c");
    let (answers, marks) = push(&backend, &home, vec![batch[0].clone(), next.clone(), next]).await;
    assert_eq!(answers, [Answer::Duplicate { seq: 1 }, Answer::Accepted { seq: 3 }, Answer::Duplicate { seq: 3 }]);
    assert_eq!(marks.len(), 1);
    let after = log(&backend, &home).await;
    assert_eq!(after[..2], before);
    assert_eq!(after.len(), 3);
}

pub(crate) async fn what_misses_something_is_held(storage: impl Storage) {
    let backend = storage.open();
    let home = space("home");
    let mut author = Author::new(1);
    let (first, second) = (author.edit(entity(1), "a"), author.edit(entity(1), "b"));
    let missing = Missing::Change(Change::parse(first.change.clone()).unwrap().hash());
    let (answers, marks) = push(&backend, &home, vec![second.clone()]).await;
    assert_eq!(answers, [Answer::Held { missing }]);
    assert!(marks.is_empty() && log(&backend, &home).await.is_empty());
    assert!(backend.is_empty().await.unwrap());

    let mut child = author.edit(entity(2), "child");
    child.parent = Some(entity(1));
    let (answers, _) = push(&backend, &home, vec![child.clone()]).await;
    assert_eq!(answers, [Answer::Held { missing: Missing::Parent(entity(1)) }]);

    let (answers, _) = push(&backend, &home, vec![first, second, child]).await;
    assert_eq!(answers.iter().map(accepted).collect::<Vec<_>>(), [1, 2, 3]);
}

/// Each change by itself is fine, and so is what it builds on; no replica takes such a one.
pub(crate) async fn what_skips_its_actors_previous_change_is_rejected(storage: impl Storage) {
    let backend = storage.open();
    let home = space("home");
    let (mut ann, mut bob) = (Author::new(1), Author::new(2));
    let (first, others) = (ann.edit(entity(1), "a"), bob.edit(entity(1), "b"));
    ann.learn(&others);
    let second = ann.edit(entity(1), "c");
    assert_eq!(Change::parse(second.change.clone()).unwrap().dependencies().len(), 2);
    let others_hash = Change::parse(others.change.clone()).unwrap().hash();
    let lies = [
        relabelled(&second, |change| change.deps = vec![automerge::ChangeHash(*others_hash.as_bytes())]),
        relabelled(&second, |change| change.seq = 3),
    ];
    // In one batch with what comes before, and once that is stored.
    let (answers, _) = push(&backend, &home, vec![first, others, lies[0].clone(), lies[1].clone()]).await;
    assert_eq!((accepted(&answers[0]), accepted(&answers[1])), (1, 2));
    let (later, marks) = push(&backend, &home, lies.to_vec()).await;
    for answer in answers[2..].iter().chain(&later) {
        assert_eq!(rejected_as(answer), RejectCode::Malformed);
    }
    assert!(marks.is_empty());
    assert_eq!(accepted(&push(&backend, &home, vec![second]).await.0[0]), 3);
}

/// The same change with another header.
fn relabelled(envelope: &Envelope, lie: impl FnOnce(&mut automerge::ExpandedChange)) -> Envelope {
    let mut change = automerge::Change::from_bytes(envelope.change.clone()).unwrap().decode();
    change.hash = None;
    lie(&mut change);
    Envelope { change: automerge::Change::from(change).raw_bytes().to_vec(), ..envelope.clone() }
}

pub(crate) async fn another_collection_is_rejected(storage: impl Storage) {
    let backend = storage.open();
    let home = space("home");
    let mut author = Author::new(1);
    push(&backend, &home, vec![author.edit(entity(1), "a")]).await;
    let mut other = author.edit(entity(1), "b");
    other.collection = CollectionName::new("folders").unwrap();
    let (answers, marks) = push(&backend, &home, vec![other]).await;
    assert_eq!(rejected_as(&answers[0]), RejectCode::WrongCollection);
    assert!(marks.is_empty());
}

pub(crate) async fn a_fork_is_rejected(storage: impl Storage) {
    let backend = storage.open();
    let home = space("home");
    let mut author = Author::new(1);
    push(&backend, &home, vec![author.edit(entity(1), "a")]).await;
    let mut copy = author.clone();
    let (mine, theirs) = (author.edit(entity(1), "b"), copy.edit(entity(1), "c"));
    push(&backend, &home, vec![mine]).await;
    // The copy's next change misses the refused one; a change of another entity is none of its business.
    let after = copy.edit(entity(1), "d");
    let (answers, marks) = push(&backend, &home, vec![theirs, after, copy.edit(entity(2), "e")]).await;
    assert_eq!(rejected_as(&answers[0]), RejectCode::Fork);
    assert!(matches!(answers[1], Answer::Held { .. }));
    assert_eq!(accepted(&answers[2]), 3);
    assert_eq!(marks.len(), 1);
    verify(&log(&backend, &home).await);
}

pub(crate) async fn an_answer_that_is_already_there_is_kept(storage: impl Storage) {
    let backend = storage.open();
    let mut author = Author::new(1);
    let mut broken = author.edit(entity(1), "a");
    broken.change[6] ^= 1;
    let good = author.edit(entity(2), "b");
    let (answers, marks) = push(&backend, &space("home"), vec![broken, good]).await;
    assert_eq!(rejected_as(&answers[0]), RejectCode::Malformed);
    assert_eq!(accepted(&answers[1]), 1);
    assert_eq!(marks.len(), 1);
}

pub(crate) async fn a_transaction_is_all_or_nothing(storage: impl Storage) {
    let backend = storage.open();
    let home = space("home");
    let mut author = Author::new(1);
    let (first, second) = (author.edit(entity(1), "a"), author.edit(entity(1), "b"));
    let mut good = author.edit(entity(2), "c");
    let mut held = second.clone();
    let alone = author.edit(entity(3), "d");
    good.transaction = transaction(1);
    held.transaction = transaction(1);
    let (answers, marks) = push(&backend, &home, vec![good.clone(), held, alone]).await;
    assert_eq!(rejected_as(&answers[0]), RejectCode::Transaction);
    assert!(matches!(answers[1], Answer::Held { .. }));
    assert_eq!(accepted(&answers[2]), 1);
    assert_eq!(marks.len(), 1);
    assert_eq!(log(&backend, &home).await.len(), 1);

    // What is no change belongs to its transaction all the same.
    let mut torn = vec![author.edit(entity(4), "e"), author.edit(entity(5), "f"), author.edit(entity(6), "g")];
    torn[1].change.truncate(12);
    torn.iter_mut().for_each(|envelope| envelope.transaction = transaction(2));
    let (answers, marks) = push(&backend, &home, torn).await;
    assert_eq!(
        answers.iter().map(rejected_as).collect::<Vec<_>>(),
        [RejectCode::Transaction, RejectCode::Malformed, RejectCode::Transaction]
    );
    assert!(marks.is_empty());

    // With what was missing, it is accepted as a whole.
    let mut whole = vec![first, second, good];
    for envelope in &mut whole {
        envelope.transaction = transaction(1);
    }
    let (answers, _) = push(&backend, &home, whole).await;
    assert_eq!(answers.iter().map(accepted).collect::<Vec<_>>(), [2, 3, 4]);
}

pub(crate) async fn a_transaction_has_a_size(storage: impl Storage) {
    let backend = storage.open();
    let home = space("home");
    let group = |name: u8, count: usize, length: usize| -> Vec<_> {
        let mut author = Author::new(name);
        let entities = (0..=u8::MAX).map(entity).cycle();
        let titles = (0..count).map(|n| format!("{n}{}", "x".repeat(length)));
        let mut group: Vec<_> = entities.zip(titles).map(|(entity, title)| author.edit(entity, &title)).collect();
        group.iter_mut().for_each(|envelope| envelope.transaction = transaction(name));
        group
    };
    let beyond = group(1, MAX_TRANSACTION_CHANGES + 1, 1);
    let heavy = group(2, 2, MAX_TRANSACTION_BYTES / 2);
    let (answers, marks) = push(&backend, &home, [beyond, heavy].concat()).await;
    assert!(answers.iter().all(|answer| rejected_as(answer) == RejectCode::Transaction) && marks.is_empty());
    let (_, marks) = push(&backend, &home, group(3, MAX_TRANSACTION_CHANGES, 1)).await;
    assert_eq!(marks.len(), MAX_TRANSACTION_CHANGES);
    // A change alone may be larger.
    let (_, marks) = push(&backend, &home, group(4, 1, MAX_TRANSACTION_BYTES + 1)).await;
    assert_eq!(marks.len(), 1);
}

pub(crate) async fn a_page_never_splits_a_transaction(storage: impl Storage) {
    let backend = storage.open();
    let home = space("home");
    let mut author = Author::new(1);
    // Sizes of what was accepted as a whole, in order; two transactions stand next to each other, and two
    // pushes with the same transaction id are two.
    let groups =
        [(None, 1), (transaction(1), 3), (transaction(2), 2), (None, 1), (transaction(3), 4), (transaction(3), 2)];
    let mut ends = Vec::new();
    let mut total = 0;
    for (transaction, size) in groups {
        let mut batch: Vec<_> = (0..size).map(|n| author.edit(entity(n), &total.to_string())).collect();
        batch.iter_mut().for_each(|envelope| envelope.transaction = transaction);
        push(&backend, &home, batch).await;
        total += u64::from(size);
        ends.push(total);
    }
    let whole = log(&backend, &home).await;
    for changes in 0..6 {
        let budget = PageBudget { bytes: usize::MAX, changes };
        let (mut read, mut after, mut more) = (Vec::new(), Mark::START, true);
        while more {
            let (rows, rest) = page(&backend, &home, after, budget).await;
            after = rows.last().unwrap().0;
            assert!(ends.contains(&after.seq), "a page of {changes} ends at {}", after.seq);
            let one_group = ends.iter().filter(|end| (rows[0].0.seq..=after.seq).contains(*end)).count() == 1;
            assert!(rows.len() <= changes || one_group);
            read.extend(rows);
            more = rest;
        }
        assert_eq!(read, whole);
    }
}

pub(crate) async fn a_page_keeps_its_budget(storage: impl Storage) {
    let backend = storage.open();
    let home = space("home");
    let mut author = Author::new(1);
    let large = "x".repeat(5_000);
    let batch: Vec<_> = ["a", "b", &large, "c", "d"].map(|title| author.edit(entity(1), title)).into();
    let small = batch[3..].iter().map(|envelope| envelope.change.len()).sum();
    push(&backend, &home, batch).await;
    let budget = PageBudget { bytes: small, changes: 100 };
    let mut after = Mark::START;
    for (places, rest) in [(1..=2, true), (3..=3, true), (4..=5, false)] {
        let (rows, more) = page(&backend, &home, after, budget).await;
        assert_eq!(rows.iter().map(|(mark, _)| mark.seq).collect::<Vec<_>>(), places.collect::<Vec<_>>());
        assert_eq!(more, rest);
        after = rows.last().unwrap().0;
    }
    assert_eq!(page(&backend, &home, after, budget).await, (Vec::new(), false));
}

pub(crate) async fn what_was_stored_is_the_same_after_reopening<S: Storage>(storage: S) {
    if !S::DURABLE {
        return;
    }
    let backend = storage.open();
    let home = space("home");
    let mut author = Author::new(1);
    let batch: Vec<_> = (0..9).map(|n| author.edit(entity(n % 3), &n.to_string())).collect();
    push(&backend, &home, batch.clone()).await;
    let before = (backend.lineage(), log(&backend, &home).await, backend.overview(home.clone()).await.unwrap());
    drop(backend);
    let backend = storage.open();
    let after = (backend.lineage(), log(&backend, &home).await, backend.overview(home.clone()).await.unwrap());
    assert_eq!(before, after);
    let (answers, _) = push(&backend, &home, vec![batch[4].clone(), author.edit(entity(1), "more")]).await;
    assert_eq!(answers, [Answer::Duplicate { seq: 5 }, Answer::Accepted { seq: 10 }]);
    verify(&log(&backend, &home).await);
}

pub(crate) async fn an_unknown_mark_is_noticed(storage: impl Storage) {
    let backend = storage.open();
    let home = space("home");
    let mut author = Author::new(1);
    let (_, marks) = push(&backend, &home, vec![author.edit(entity(1), "a"), author.edit(entity(1), "b")]).await;
    let other_chain = Mark { seq: 1, chain: Digest::of(b"another log") };
    let beyond = Mark { seq: 3, chain: marks[1].chain };
    let far_beyond = Mark { seq: u64::MAX, chain: marks[1].chain };
    let read = async |space: &str, after, check: &[Mark]| {
        backend.read(crate::changes::space(space), after, check.to_vec(), ALL).await.unwrap()
    };
    assert!(matches!(read("home", marks[0], &marks).await, LogPage::Rows { rows, .. } if rows.len() == 1));
    for bad in [other_chain, beyond, far_beyond, Mark { seq: 0, chain: marks[0].chain }] {
        assert!(matches!(read("home", Mark::START, &[marks[0], bad]).await, LogPage::Unknown), "{bad:?}");
        assert!(matches!(read("home", bad, &[]).await, LogPage::Unknown), "{bad:?}");
    }
    // A space that was never written to has no marks at all.
    assert!(matches!(read("other", Mark::START, &[marks[0]]).await, LogPage::Unknown));
    assert!(matches!(read("other", marks[0], &[]).await, LogPage::Unknown));
    assert!(matches!(read("other", Mark::START, &[]).await, LogPage::Rows { rows, more: false } if rows.is_empty()));
}

pub(crate) async fn spaces_do_not_leak(storage: impl Storage) {
    let backend = storage.open();
    let (home, work) = (space("home"), space("work"));
    let mut author = Author::new(1);
    let (first, second) = (author.edit(entity(1), "a"), author.edit(entity(1), "b"));
    push(&backend, &home, vec![first.clone()]).await;
    // Neither dependencies nor parents nor collections nor writers reach over.
    let (answers, _) = push(&backend, &work, vec![second]).await;
    assert!(matches!(answers[0], Answer::Held { .. }));
    let mut child = author.edit(entity(2), "c");
    child.parent = Some(entity(1));
    let (answers, _) = push(&backend, &work, vec![child]).await;
    assert!(matches!(answers[0], Answer::Held { missing: Missing::Parent(_) }));
    let mut theirs = Author::new(1).edit(entity(1), "other");
    theirs.collection = CollectionName::new("folders").unwrap();
    let (answers, _) = push(&backend, &work, vec![theirs.clone()]).await;
    assert_eq!(accepted(&answers[0]), 1);
    assert_eq!(log(&backend, &home).await.into_iter().map(|(_, envelope)| envelope).collect::<Vec<_>>(), [first]);
    assert_eq!(log(&backend, &work).await.into_iter().map(|(_, envelope)| envelope).collect::<Vec<_>>(), [theirs]);
}

pub(crate) async fn the_overview_is_right(storage: impl Storage) {
    let backend = storage.open();
    let home = space("home");
    let empty = backend.overview(home.clone()).await.unwrap();
    assert_eq!((empty.head, empty.entities, empty.changes), (Mark::START, 0, 0));
    assert_eq!(empty.digest, SpaceDigest::default().finish());
    assert!(backend.is_empty().await.unwrap());

    // Two writers: concurrent heads, then a merge of one entity.
    let (mut ada, mut bob) = (Author::new(1), Author::new(2));
    let mut all = Author::new(3);
    let mut pushed = Vec::new();
    for n in [200, 7, 40] {
        let (mine, theirs) = (ada.edit(entity(n), "mine"), bob.edit(entity(n), "theirs"));
        pushed.extend([mine, theirs]);
    }
    ada.learn(&pushed[1]);
    pushed.push(ada.edit(entity(200), "merged"));
    pushed.iter().for_each(|envelope| all.learn(envelope));
    push(&backend, &home, pushed).await;

    let heads: BTreeMap<_, _> = [200, 7, 40].map(|n| (entity(n), all.heads(entity(n)))).into();
    assert_eq!(heads.values().map(|heads| heads.hashes().len()).collect::<Vec<_>>(), [2, 2, 1]);
    let mut digest = SpaceDigest::default();
    heads.iter().for_each(|(entity, heads)| digest.add(entity, heads));
    let overview = backend.overview(home.clone()).await.unwrap();
    assert_eq!((overview.head.seq, overview.entities, overview.changes), (7, 3, 7));
    assert_eq!(overview.head, backend.head(home).await.unwrap());
    assert_eq!(overview.digest, digest.finish());
    assert!(!backend.is_empty().await.unwrap());
    assert_eq!(pushed_collection(&backend).await, notes());
}

pub(crate) async fn a_marker_purges_the_version_that_it_names<S: Storage>(storage: S) {
    let mut backend = storage.open();
    let home = space("home");
    let (mut ada, mut bob) = (Author::new(1), Author::new(2));
    let (mine, theirs, other) = (ada.edit(entity(1), "a"), bob.edit(entity(1), "b"), ada.edit(entity(2), "c"));
    push(&backend, &home, vec![mine.clone(), theirs.clone(), other.clone()]).await;
    let seen = heads_of([&mine, &theirs]);
    let (stale, marker) = (purge(entity(1), &heads_of([&mine])), purge(entity(1), &seen));
    let (answers, marks) = push(&backend, &home, vec![stale.clone()]).await;
    assert_eq!(rejected_as(&answers[0]), RejectCode::Stale);
    assert!(matches!(answers[0], Answer::Rejected { retryable: false, .. }) && marks.is_empty());
    assert_eq!(push(&backend, &home, vec![marker.clone()]).await.0, [Answer::Accepted { seq: 4 }]);
    if S::DURABLE {
        drop(backend);
        backend = storage.open();
    }
    // Nothing of it is taken any more, not even kept waiting; what is here already is no news.
    ada.edit(entity(1), "never pushed");
    let (answers, _) = push(&backend, &home, vec![bob.edit(entity(1), "d"), ada.edit(entity(1), "e"), mine]).await;
    assert_eq!(rejected_as(&answers[0]), RejectCode::Purged);
    assert!(matches!(answers[1], Answer::Rejected { code: RejectCode::Purged, retryable: false, .. }));
    assert_eq!(answers[2], Answer::Duplicate { seq: 1 });
    // Two replicas may purge at the same time, from different versions.
    let (answers, _) = push(&backend, &home, vec![marker.clone(), stale.clone(), ada.edit(entity(2), "f")]).await;
    assert_eq!(answers[0], Answer::Duplicate { seq: 4 });
    assert_eq!(answers[1..].iter().map(accepted).collect::<Vec<_>>(), [5, 6]);
    let mut digest = SpaceDigest::default();
    digest.add(&entity(1), &heads_of([&marker, &stale]));
    digest.add(&entity(2), &ada.heads(entity(2)));
    assert_eq!(backend.overview(home.clone()).await.unwrap().digest, digest.finish());
    verify(&log(&backend, &home).await);
    // Another space's entity of the same name lives on.
    assert_eq!(accepted(&push(&backend, &space("work"), vec![theirs]).await.0[0]), 1);
}

pub(crate) async fn a_marker_that_is_not_accepted_purges_nothing(storage: impl Storage) {
    let backend = storage.open();
    let home = space("home");
    let mut author = Author::new(1);
    let first = author.edit(entity(1), "a");
    // Refused with its transaction, and of another collection.
    let mut marker = purge(entity(1), &heads_of([&first]));
    author.edit(entity(2), "never pushed");
    let mut held = author.edit(entity(2), "b");
    marker.transaction = transaction(1);
    held.transaction = transaction(1);
    let mut stray = purge(entity(1), &heads_of([&first]));
    stray.collection = CollectionName::new("folders").unwrap();
    let (answers, _) = push(&backend, &home, vec![first.clone(), marker.clone(), held, stray]).await;
    assert_eq!(accepted(&answers[0]), 1);
    assert_eq!(rejected_as(&answers[1]), RejectCode::Transaction);
    assert!(matches!(answers[2], Answer::Held { .. }));
    assert_eq!(rejected_as(&answers[3]), RejectCode::WrongCollection);
    // In one batch with what it purges, and with what comes too late.
    let second = author.edit(entity(1), "d");
    let now = purge(entity(1), &heads_of([&second]));
    let batch = vec![marker, second.clone(), now, author.edit(entity(1), "e")];
    let (answers, _) = push(&backend, &home, batch).await;
    assert_eq!(accepted(&answers[0]), 2, "by now it is the version on the server");
    assert_eq!(rejected_as(&answers[1]), RejectCode::Purged);
    assert_eq!(accepted(&answers[2]), 3);
    assert_eq!(rejected_as(&answers[3]), RejectCode::Purged);
    let batch =
        vec![author.edit(entity(3), "f"), purge(entity(3), &author.heads(entity(3))), author.edit(entity(3), "g")];
    let (answers, _) = push(&backend, &home, batch).await;
    assert_eq!(answers[..2].iter().map(accepted).collect::<Vec<_>>(), [4, 5]);
    assert_eq!(rejected_as(&answers[2]), RejectCode::Purged);
    // One that is not here yet: its changes come too late.
    let unborn = author.edit(entity(4), "h");
    let batch = vec![purge(entity(4), &heads_of([&first])), unborn];
    let (answers, _) = push(&backend, &home, batch).await;
    assert_eq!(accepted(&answers[0]), 6);
    assert_eq!(rejected_as(&answers[1]), RejectCode::Purged);
}

async fn pushed_collection(backend: &Arc<dyn Backend>) -> CollectionName {
    log(backend, &space("home")).await.remove(0).1.collection
}

pub(crate) async fn commits_are_announced(storage: impl Storage) {
    let backend = storage.open();
    let mut commits = backend.commits();
    let mut author = Author::new(1);
    push(&backend, &space("home"), vec![author.edit(entity(1), "a"), author.edit(entity(1), "b")]).await;
    push(&backend, &space("home"), Vec::new()).await;
    push(&backend, &space("work"), vec![author.edit(entity(2), "c")]).await;
    assert_eq!(commits.recv().await.unwrap(), Commit { space: space("home"), seq: 2 });
    assert_eq!(commits.recv().await.unwrap(), Commit { space: space("work"), seq: 1 });
}

pub(crate) async fn of_a_change_and_what_was_written_from_it_one_is_taken<S: Storage>(storage: S) {
    let mut backend = storage.open();
    let home = space("home");
    let (mut ada, mut bob) = (Author::new(1), Author::new(2));
    let (original, other) = (ada.edit(entity(1), "a"), bob.edit(entity(1), "b"));
    let (rewrite, of_other) = (rewrite_of(&original, "a"), rewrite_of(&other, "b"));
    // Whichever comes first; and within one push as well.
    let (answers, _) = push(&backend, &home, vec![original.clone(), rewrite.clone(), of_other.clone()]).await;
    assert_eq!((accepted(&answers[0]), accepted(&answers[2])), (1, 2));
    assert!(matches!(answers[1], Answer::Rejected { code: RejectCode::Superseded, retryable: true, .. }));
    let (answers, _) = push(&backend, &home, vec![other.clone()]).await;
    assert_eq!(rejected_as(&answers[0]), RejectCode::Superseded);
    if S::DURABLE {
        drop(backend);
        backend = storage.open();
    }
    let (answers, marks) = push(&backend, &home, vec![rewrite, other]).await;
    assert!(answers.iter().all(|answer| rejected_as(answer) == RejectCode::Superseded) && marks.is_empty());
    assert_eq!(push(&backend, &home, vec![of_other]).await.0, [Answer::Duplicate { seq: 2 }]);
    // Another entity may have a change of the same hash.
    let elsewhere = Envelope { entity: entity(2), ..rewrite_of(&original, "a") };
    assert_eq!(accepted(&push(&backend, &home, vec![elsewhere]).await.0[0]), 3);
}

pub(crate) async fn whoever_has_something_in_the_log_is_told_its_end(storage: impl Storage) {
    let backend = storage.open();
    let home = space("home");
    let mut author = Author::new(1);
    let (first, second) = (author.edit(entity(1), "a"), author.edit(entity(1), "b"));
    let append = async |batch| backend.append(home.clone(), replica(1), offered(batch)).await.unwrap();
    assert_eq!(append(vec![second.clone()]).await.head, None, "it was held, so nothing of it is there");
    let accepted = append(vec![first.clone()]).await;
    assert_eq!(accepted.head, accepted.marks.last().copied());
    append(vec![second]).await;
    // The answer to the first push was lost, and others have pushed meanwhile.
    let again = append(vec![first]).await;
    assert_eq!(again.answers, [Answer::Duplicate { seq: 1 }]);
    assert_eq!((again.marks.len(), again.head), (0, Some(backend.head(home.clone()).await.unwrap())));
}

pub(crate) async fn a_marker_that_was_agreed_to_before_is_taken(storage: impl Storage) {
    let backend = storage.open();
    let home = space("home");
    let mut author = Author::new(1);
    push(&backend, &home, vec![author.edit(entity(1), "a")]).await;
    // What it names came after the backup that this log was restored from.
    author.edit(entity(1), "b");
    let marker = purge(entity(1), &author.heads(entity(1)));
    let (answers, _) = push(&backend, &home, vec![marker.clone()]).await;
    assert_eq!(rejected_as(&answers[0]), RejectCode::Stale);
    let mut agreed = offered([marker]);
    agreed.iter_mut().flatten().for_each(|offered| offered.agreed = true);
    let outcome = backend.append(home.clone(), replica(1), agreed).await.unwrap();
    assert_eq!(accepted(&outcome.answers[0]), 2);
    let (answers, _) = push(&backend, &home, vec![author.edit(entity(1), "c")]).await;
    assert_eq!(rejected_as(&answers[0]), RejectCode::Purged);
}

pub(crate) async fn a_reconcile_tells_what_the_space_holds(storage: impl Storage) {
    let backend = storage.open();
    let (home, away) = (space("home"), space("away"));
    let (mut author, mut other) = (Author::new(1), Author::new(2));
    let kept: Vec<_> = (0..3).map(|n| author.edit(entity(1), &n.to_string())).collect();
    push(&backend, &home, kept.clone()).await;
    push(&backend, &home, vec![author.edit(entity(2), "x")]).await;
    let mut sharing = other.edit(entity(3), "y");
    sharing.parent = Some(entity(1));
    push(&backend, &home, vec![sharing.clone()]).await;
    // Another space has nothing to do with it.
    push(&backend, &away, vec![Author::new(3).edit(entity(4), "z")]).await;

    let ask = async |ask: Ask, budget| backend.reconcile(home.clone(), ask, budget).await.unwrap();
    let items = [author.heads(entity(1)), author.heads(entity(2)), other.heads(entity(3))];
    let items: Vec<_> = (1..).zip(&items).map(|(n, heads)| Item::new(entity(n), heads)).collect();
    let (mut same, first) = Reconciler::begin(items.clone()).unwrap();
    let (mark, reply) = ask(first, ALL).await;
    assert_eq!(mark, backend.head(home.clone()).await.unwrap());
    assert_eq!(same.take(reply.unwrap()).unwrap().then, Then::Done);
    assert!(same.differing().is_empty());

    let (mut apart, first) = Reconciler::begin(items[..2].to_vec()).unwrap();
    apart.take(ask(first, ALL).await.1.unwrap()).unwrap();
    assert_eq!(apart.differing().iter().copied().collect::<Vec<_>>(), [entity(3)]);
    let heads = ask(Ask::Heads(vec![entity(1), entity(4)]), ALL).await.1.unwrap();
    assert_eq!(heads, Reply::Heads(vec![author.heads(entity(1)).hashes().to_vec(), Vec::new()]));

    // What lies behind a change that is known is not sent, and the rest comes in pages.
    let known = heads_of(&kept[..1]).hashes().to_vec();
    let wanted = vec![
        Wanted { entity: entity(1), known: known.clone() },
        Wanted { entity: entity(2), known: author.heads(entity(2)).hashes().to_vec() },
        Wanted { entity: entity(3), known: Vec::new() },
    ];
    let all = ask(Ask::Changes { wanted: wanted.clone(), skip: 0 }, ALL).await.1.unwrap();
    let expected = vec![kept[1].clone(), kept[2].clone(), sharing.clone()];
    assert_eq!(all, Reply::Changes { changes: expected, done: 3, skip: 0 });
    let one = PageBudget { bytes: usize::MAX, changes: 1 };
    let page = ask(Ask::Changes { wanted: wanted.clone(), skip: 0 }, one).await.1.unwrap();
    assert_eq!(page, Reply::Changes { changes: vec![kept[1].clone()], done: 0, skip: 1 });
    let page = ask(Ask::Changes { wanted: wanted.clone(), skip: 1 }, one).await.1.unwrap();
    assert_eq!(page, Reply::Changes { changes: vec![kept[2].clone()], done: 2, skip: 0 });
    let page = ask(Ask::Changes { wanted: wanted[2..].to_vec(), skip: 0 }, one).await.1.unwrap();
    assert_eq!(page, Reply::Changes { changes: vec![sharing], done: 1, skip: 0 });

    // Of what is purged, only the marker is there.
    let marker = purge(entity(1), &author.heads(entity(1)));
    push(&backend, &home, vec![marker.clone()]).await;
    let purged = ask(Ask::Changes { wanted: vec![Wanted { entity: entity(1), known }], skip: 0 }, ALL).await;
    assert_eq!(purged.1.unwrap(), Reply::Changes { changes: vec![marker], done: 1, skip: 0 });

    let (_, unreadable) = ask(Ask::Sketch(vec![9]), ALL).await;
    assert!(unreadable.is_err());
}
