//! What every backend must do about purge markers, and changes that were written again.

use anabranch_core::CollectionName;
use anabranch_core::sync::SpaceDigest;
use anabranch_core::wire::{Answer, Envelope, RejectCode};

use super::{Storage, log, push, rejected_as, verify};
use crate::changes::{Author, accepted, entity, heads_of, offered, purge, replica, rewrite_of, space, transaction};

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
