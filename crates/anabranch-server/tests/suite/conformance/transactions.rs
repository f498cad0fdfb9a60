//! What every backend must do about transactions.

use anabranch_core::sync::{MAX_TRANSACTION_BYTES, MAX_TRANSACTION_CHANGES};
use anabranch_core::wire::{Answer, Mark, RejectCode};
use anabranch_server::PageBudget;

use super::{Storage, log, page, push, rejected_as};
use crate::changes::{Author, accepted, entity, space, transaction};

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
