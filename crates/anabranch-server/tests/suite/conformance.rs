//! What every backend must do, whatever it stores in.

mod purges;
mod reading;
mod transactions;

use std::sync::Arc;

use anabranch_core::sync::{LogPage, next_chain};
use anabranch_core::wire::{Answer, Envelope, Mark, Missing, RejectCode};
use anabranch_core::{Change, CollectionName, SpaceName};
use anabranch_server::{Backend, Commit, PageBudget};

use crate::changes::{Author, accepted, entity, offered, replica, space, transaction};

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
pub(crate) use purges::{
    a_marker_purges_the_version_that_it_names, a_marker_that_is_not_accepted_purges_nothing,
    a_marker_that_was_agreed_to_before_is_taken, of_a_change_and_what_was_written_from_it_one_is_taken,
};
pub(crate) use reading::{
    a_page_keeps_its_budget, a_reconcile_tells_what_the_space_holds, an_unknown_mark_is_noticed,
    histories_are_the_log_entity_by_entity, spaces_do_not_leak, the_overview_is_right,
};
pub(crate) use transactions::{
    a_page_never_splits_a_transaction, a_transaction_has_a_size, a_transaction_is_all_or_nothing,
};

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
    // Both in one push: the first of them is taken.
    let mut twin = author.clone();
    let (answers, _) = push(&backend, &home, vec![author.edit(entity(3), "f"), twin.edit(entity(3), "g")]).await;
    assert_eq!((accepted(&answers[0]), rejected_as(&answers[1])), (4, RejectCode::Fork));
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
