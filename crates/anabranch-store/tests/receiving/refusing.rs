//! What is not taken and not sent: what is too much, too late, damaged, or was never refused.

use anabranch_core::sync::{ErrorClass, WriteBatch};
use anabranch_core::wire::{Answer, Missing, RejectCode};
use anabranch_core::{ChangeHash, EntityId};
use anabranch_store::{Attempt, OutboxState, Resend, StoreError};
use serde_json::json;

use super::{LINEAGE, all_changes, answer, outbox, pull, set};
use crate::support::{Folder, create, space};

/// What an entity holds back for want of one change is bounded; what is beyond comes again from the server.
#[test]
fn only_so_many_changes_of_an_entity_wait_for_others() -> Result<(), StoreError> {
    const MOST: usize = 1_000;
    let folder = Folder::new();
    let (one, two) = (folder.open("1.db"), folder.open("2.db"));
    let id = create(&one, json!({ "title": "0" }))?;
    one.write(move |write| {
        (1..=MOST + 1).try_for_each(|n| write.edit(&space("main"), id, &set(&n.to_string())).map(drop))
    })
    .wait()?;
    let mut changes = all_changes(&one, id)?;
    let creation = changes.remove(0);
    assert_eq!(changes.len(), MOST + 1);
    let received = pull(&two, changes.clone())?;
    assert_eq!((received.orphaned, received.quarantined, received.applied), (MOST, 1, 0));
    assert_eq!(pull(&two, vec![creation])?.applied, MOST + 1);
    let again = pull(&two, changes)?;
    assert_eq!((again.applied, again.known), (1, MOST));
    let digest = |store: &anabranch_store::Store| store.read(|read| read.state_digest(&space("main")));
    assert_eq!(digest(&one)?, digest(&two)?);
    Ok(())
}

/// Whoever goes on in the transaction that has erased everything would write into a file that is nobody's.
#[test]
fn nothing_is_taken_in_after_a_sign_out_even_in_its_own_transaction() -> Result<(), StoreError> {
    let folder = Folder::new();
    let (one, two) = (folder.open("1.db"), folder.open("2.db"));
    let id = create(&one, json!({ "title": "one" }))?;
    let changes = all_changes(&one, id)?;
    let seen = two.read(|read| read.unsent())?;
    let (from_peer, from_server) = (changes.clone(), changes);
    let done = two.write_on_rows(move |write| -> Result<(), StoreError> {
        write.sign_out(&seen)?;
        let batch = WriteBatch { incoming: from_server, ..WriteBatch::empty(space("main"), LINEAGE) };
        let refused = (write.apply_peer(&space("main"), from_peer).err(), write.apply_batch(1, batch).err());
        assert!(matches!(refused, (Some(StoreError::SignedOut), Some(StoreError::SignedOut))), "{refused:?}");
        Ok(())
    });
    done.wait()?;
    assert_eq!(two.read(|read| read.spaces())?, []);
    Ok(())
}

/// What kind of failure it was decides who may hurry the next attempt, after a restart as well.
#[test]
fn every_kind_of_failure_is_remembered_as_what_it_was() -> Result<(), StoreError> {
    let folder = Folder::new();
    for class in
        [ErrorClass::Rejected, ErrorClass::Auth, ErrorClass::TooLarge, ErrorClass::Clock, ErrorClass::Transient]
    {
        let store = folder.open("1.db");
        let reason = "because".to_owned();
        let attempt = Attempt { failures: 3, reason, class, next_attempt_at: Some(7), server_asked_until: Some(5) };
        store.write(move |write| write.note_attempt(1, &attempt)).wait()?;
        drop(store);
        let remote = folder.open("1.db").read(|read| read.remotes())?.remove(0);
        assert_eq!((remote.error_class, remote.failures), (Some(class), 3));
        assert_eq!((remote.next_attempt_at, remote.server_asked_until), (Some(7), Some(5)));
        assert_eq!(remote.last_error.as_deref(), Some("because"));
    }
    Ok(())
}

/// A server that holds a change again and again, for want of what nobody here has, is not asked for ever.
#[test]
fn g07_what_a_server_holds_for_ever_is_for_a_person_to_decide() -> Result<(), StoreError> {
    let folder = Folder::new();
    let store = folder.open("1.db");
    create(&store, json!({ "title": "one" }))?;
    let key = outbox(&store, 1)?.items[0].key;
    let missing = Missing::Parent(EntityId::from_bytes([9; 16]));
    let mut tries = 0;
    while store.read(|read| read.totals())?.parked == 0 {
        answer(&store, vec![(key, Answer::Held { missing })])?;
        tries += 1;
        assert!(tries < 100, "it is tried for ever");
    }
    assert!(tries > 10, "it is given up after {tries}");
    let entry = store.read(|read| read.outbox(false, 10, i64::MAX))?.remove(0);
    assert!(matches!(entry.state, OutboxState::Refused { code: None, .. }), "{entry:?}");
    let unknown = Resend::Change(space("main"), entry.entity, ChangeHash::from_bytes([1; 32]));
    assert_eq!(store.write(move |write| write.resend(&unknown)).wait()?, 0, "another change");
    assert!(outbox(&store, 10)?.items.is_empty());
    let this = Resend::Change(space("main"), entry.entity, entry.change);
    assert_eq!(store.write(move |write| write.resend(&this)).wait()?, 1);
    assert_eq!(outbox(&store, 10)?.items.len(), 1);
    Ok(())
}

/// Others have it already: it cannot be taken back any more.
#[test]
fn what_another_server_has_accepted_is_not_discarded() -> Result<(), StoreError> {
    let folder = Folder::new();
    let store = folder.open("1.db");
    let id = create(&store, json!({ "title": "one" }))?;
    let key = outbox(&store, 1)?.items[0].key;
    let other = store.write(|write| write.ensure_remote("https://elsewhere.example", &[])).wait()?;
    let refused = Answer::Rejected { code: RejectCode::Forbidden, message: "no".to_owned(), retryable: false };
    answer(&store, vec![(key, refused)])?;
    let batch =
        WriteBatch { answered: vec![(key, Answer::Accepted { seq: 1 })], ..WriteBatch::empty(space("main"), LINEAGE) };
    store.write(move |write| write.apply_batch(other, batch).map(drop)).wait()?;
    let discarded = store.write(move |write| write.discard(&space("main"), id, None)).wait();
    assert!(matches!(discarded, Err(StoreError::NotRefused(entity)) if entity == id), "{discarded:?}");
    assert!(store.read(|read| read.entity(&space("main"), id))?.is_some());
    Ok(())
}

/// A change, an entity's row and the outbox, each altered behind the library's back.
#[test]
fn nothing_leaves_the_file_that_is_not_what_was_written() -> Result<(), StoreError> {
    for damage in [
        "UPDATE changes SET bytes = zeroblob(length(bytes)) WHERE seq = 1",
        "UPDATE entities SET state = '{\"title\": \"forged\"}' WHERE key = 1",
        "UPDATE outbox SET entity = 2 WHERE change = 1",
    ] {
        let folder = Folder::new();
        let store = folder.open("1.db");
        let (first, other) = (create(&store, json!({ "title": "one" }))?, create(&store, json!({ "title": "two" }))?);
        let raw = rusqlite::Connection::open(folder.path("1.db"))?;
        assert_eq!(raw.execute(damage, [])?, 1, "{damage}");
        let sent = outbox(&store, 10);
        let found = matches!(&sent, Err(StoreError::DamagedEntity { entity, .. }) if [first, other].contains(entity));
        assert!(found, "{damage}: {sent:?}");
    }
    Ok(())
}
