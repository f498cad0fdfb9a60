//! Purging: a marker that a server has to agree to, and nothing that brings the history back.

use anabranch_core::sync::reconcile::Theirs;
use anabranch_core::sync::{Reoffer, WriteBatch};
use anabranch_core::wire::{Answer, RejectCode};
use anabranch_core::{EntityId, Heads, Schema};
use anabranch_store::StoreError;
use serde_json::{Value, json};

use super::fleet::{Fleet, Outcome, Replica, fields, meet, name, schema, space};
use super::server::{LINEAGE, Server, feed, is_marker, outbox};

fn notes() -> Schema {
    schema(
        "[collections.notes.fields]\ntitle = { kind = \"register\" }\nbody = { kind = \"text\" }\n\
         up = { kind = \"reference\", to = \"notes\", parent = true }\n",
    )
}

fn logged(replica: &Replica, id: EntityId) -> Vec<String> {
    let log = replica.store.read(|read| read.log(&space(), Some(id))).expect("the log");
    log.into_iter().map(|entry| entry.hash).collect()
}

fn quarantined(replica: &Replica) -> Vec<Value> {
    replica.query("SELECT reason FROM quarantine").into_iter().map(|row| row["reason"].clone()).collect()
}

/// A deleted entity that is on the server and on all of these replicas.
fn deleted_everywhere(server: &Server, replicas: &[&Replica]) -> Result<EntityId, StoreError> {
    let id = replicas[0].create("notes", json!({ "title": "secret", "body": "text" }))?;
    replicas[0].set(id, "title", json!("more secret"))?;
    replicas[0].delete(id)?;
    server.push(replicas[0], true)?;
    for replica in &replicas[1..] {
        server.pull(replica)?;
    }
    Ok(id)
}

/// Only the marker is left, here and in whatever is derived.
fn assert_purged(replica: &Replica, id: EntityId) {
    let record = replica.record(id);
    assert!(record.purged && record.deleted && !record.can_purge && record.state.is_empty());
    assert_eq!(logged(replica, id).len(), 1, "the marker");
    for table in ["snapshots", "orphans", "links", "conflicts"] {
        assert_eq!(replica.count(table), 0, "{table}");
    }
    assert!(replica.query("SELECT * FROM notes").is_empty());
}

#[test]
fn only_what_a_server_has_can_be_purged_and_only_once_it_agrees() -> Outcome {
    let fleet = Fleet::new();
    let [a] = fleet.replicas(&notes());
    let server = Server::default();
    let id = a.create("notes", json!({ "title": "x" }))?;
    assert!(matches!(a.purge(id), Err(StoreError::NotPurgeable(_))), "it is not deleted");
    server.push(&a, true)?;
    assert!(!a.record(id).can_purge && matches!(a.purge(id), Err(StoreError::NotPurgeable(_))));
    a.delete(id)?;
    assert!(!a.record(id).can_purge && matches!(a.purge(id), Err(StoreError::NotPurgeable(_))), "it is pending");
    server.push(&a, true)?;
    assert!(a.record(id).can_purge);
    let history = logged(&a, id);
    a.purge(id)?;
    // Nothing is gone yet, and it is pending until the server has spoken.
    assert!(!a.record(id).purged && !a.record(id).can_purge && a.record(id).pending == 1);
    assert_eq!(logged(&a, id)[..history.len()], history);
    assert!(matches!(a.purge(id), Err(StoreError::NotPurgeable(_))));
    drop(a);
    let a = fleet.open("0.db", &notes());
    assert_eq!(a.document_state(id)?.fields["title"], json!("x"), "after a restart, too");
    let page = outbox(&a)?;
    assert!(page.items.len() == 1 && is_marker(&page.items[0].envelope.change));
    server.push(&a, true)?;
    assert_purged(&a, id);
    assert_eq!((a.record(id).pending, a.count("outbox"), a.count("quarantine")), (0, 0, 0));
    a.purge(id)?;
    for refused in [a.restore(id), a.set(id, "title", json!("y")).map(drop), a.delete(id).map(drop)] {
        assert!(matches!(refused, Err(StoreError::Purged(purged)) if purged == id), "{refused:?}");
    }
    let again = a.create_as("notes", Some(id), json!({}));
    assert!(matches!(again, Err(StoreError::Purged(_))), "its id is used up");
    drop(a);
    assert_purged(&fleet.open("0.db", &notes()), id);
    Ok(())
}

#[test]
fn an_answer_that_was_lost_is_made_up_for() -> Outcome {
    let fleet = Fleet::new();
    let [a, b] = fleet.replicas(&notes());
    let server = Server::default();
    let id = deleted_everywhere(&server, &[&a, &b])?;
    a.purge(id)?;
    server.push(&a, false)?;
    assert!(!a.record(id).purged);
    // By the pull, or by the next push.
    server.pull(&a)?;
    assert_purged(&a, id);
    assert_eq!((a.record(id).pending, a.count("outbox")), (0, 0));
    b.purge(id)?;
    assert!(matches!(server.push(&b, true)?[..], [Answer::Duplicate { .. }]), "both make the same marker");
    assert_purged(&b, id);
    meet(&[&a, &b])
}

#[test]
fn a_replica_that_was_away_sets_its_edits_aside_and_nothing_comes_back() -> Outcome {
    let fleet = Fleet::new();
    let [a, away, third] = fleet.replicas(&notes());
    let server = Server::default();
    let id = deleted_everywhere(&server, &[&a, &away, &third])?;
    // While it is away it brings the entity back, and edits it.
    away.restore(id)?;
    away.set(id, "title", json!("precious"))?;
    let history = away.changes(id, Heads::default())?;
    a.purge(id)?;
    server.push(&a, true)?;
    server.pull(&away)?;
    assert_purged(&away, id);
    assert_eq!(quarantined(&away), ["the entity has been purged", "the entity has been purged"]);
    let set_aside = away.query("SELECT hex(bytes) AS bytes FROM quarantine");
    let precious: String = "precious".bytes().map(|byte| format!("{byte:02X}")).collect();
    assert!(set_aside.iter().any(|row| row["bytes"].as_str().is_some_and(|hex| hex.contains(&precious))));
    assert_eq!((away.record(id).pending, away.count("outbox")), (0, 0));
    // Old history arrives from a peer, and the log is read again from the start.
    third.receive(history.clone())?;
    assert_eq!(third.get(id, "title"), json!("precious"), "it has not heard yet");
    for replica in [&a, &away] {
        let received = replica.receive(history.clone())?;
        assert_eq!((received.applied, received.quarantined), (0, 0));
        replica.pull(&third)?;
        server.pull(replica)?;
        assert_purged(replica, id);
        assert_eq!(replica.count("orphans"), 0);
    }
    // Whoever hears of the marker from a peer obeys, too.
    third.pull(&a)?;
    assert_purged(&third, id);
    assert_eq!(quarantined(&third).len(), 2, "it had offered them to the server as its own");
    meet(&[&a, &away, &third])
}

#[test]
fn a_new_replica_ends_like_the_others_however_the_log_comes() -> Outcome {
    let fleet = Fleet::new();
    let [a, whole, one_by_one, backwards] = fleet.replicas(&notes());
    let server = Server::default();
    let id = deleted_everywhere(&server, &[&a])?;
    let kept = a.create("notes", json!({ "title": "kept", "up": id.to_string() }))?;
    server.push(&a, true)?;
    a.purge(id)?;
    server.push(&a, true)?;
    server.pull(&whole)?;
    let log = server.log.borrow().clone();
    for envelope in &log {
        feed(&one_by_one, vec![envelope.clone()])?;
    }
    for envelope in log.iter().rev() {
        feed(&backwards, vec![envelope.clone()])?;
    }
    for replica in [&whole, &one_by_one, &backwards] {
        assert_eq!(replica.shown(), a.shown());
        assert_eq!(replica.query("SELECT title FROM notes")[0]["title"], json!("kept"));
        assert_eq!((replica.count("quarantine"), replica.count("orphans")), (0, 0));
        assert_eq!(logged(replica, id).len(), 1);
        // Its child is an orphan: the parent has gone for good.
        assert_eq!(replica.queue().iter().map(|item| item.entity).collect::<Vec<_>>(), [kept]);
    }
    Ok(())
}

/// A server refuses a marker if something has come meanwhile: then the entity lives on as if nobody had asked.
#[test]
fn a_purge_that_comes_too_late_changes_nothing() -> Outcome {
    let fleet = Fleet::new();
    let [a, b] = fleet.replicas(&notes());
    let server = Server::default();
    let id = deleted_everywhere(&server, &[&a, &b])?;
    b.restore(id)?;
    b.set(id, "title", json!("wanted"))?;
    server.push(&b, true)?;
    a.purge(id)?;
    assert!(matches!(server.push(&a, true)?[..], [Answer::Rejected { .. }]));
    server.pull(&a)?;
    assert!(!a.record(id).purged && a.get(id, "title") == json!("wanted"));
    // It is edited and pushed like any other, and can be purged another time.
    a.set(id, "title", json!("edited"))?;
    let answers = server.push(&a, true)?;
    assert!(matches!(answers[..], [Answer::Accepted { .. }]), "{answers:?}");
    server.pull(&b)?;
    meet(&[&a, &b])?;
    a.delete(id)?;
    server.push(&a, true)?;
    a.purge(id)?;
    server.push(&a, true)?;
    assert_purged(&a, id);
    server.pull(&b)?;
    meet(&[&a, &b])
}

/// Found in review: a server that was restored to a time before the deletion refuses the marker as stale, and the
/// replica, which had nothing else left, took its marker back.
#[test]
fn a_server_that_was_restored_takes_no_marker_away() -> Outcome {
    let fleet = Fleet::new();
    let [a, b] = fleet.replicas(&notes());
    let server = Server::default();
    let id = deleted_everywhere(&server, &[&a, &b])?;
    a.purge(id)?;
    server.push(&a, true)?;
    let restored = Server::default();
    for envelope in &server.log.borrow()[..1] {
        restored.answer(envelope);
    }
    let reoffer = |replica: &Replica| {
        let batch = WriteBatch { reoffer: Reoffer::Space, ..WriteBatch::empty(space(), LINEAGE) };
        replica.store.write(move |write| write.apply_batch(1, batch)).wait()
    };
    reoffer(&a)?;
    assert!(matches!(restored.push(&a, true)?[..], [Answer::Rejected { code: RejectCode::Stale, .. }]));
    restored.pull(&a)?;
    assert_purged(&a, id);
    drop(a);
    let a = fleet.open("0.db", &notes());
    assert_purged(&a, id);
    // Another brings back what the server has lost, and then it agrees.
    reoffer(&b)?;
    restored.push(&b, true)?;
    a.set_clock(super::fleet::NOW + 10 * 60_000);
    assert!(matches!(restored.push(&a, true)?[..], [Answer::Accepted { .. }]));
    restored.pull(&b)?;
    assert_purged(&b, id);
    meet(&[&a, &b])
}

/// What was written on top of a marker that is under way is set aside when the server agrees.
#[test]
fn a_restoration_after_a_purge_that_is_under_way_is_set_aside() -> Outcome {
    let fleet = Fleet::new();
    let [a, b] = fleet.replicas(&notes());
    let server = Server::default();
    let id = deleted_everywhere(&server, &[&a, &b])?;
    a.purge(id)?;
    a.restore(id)?;
    assert!(!a.deleted(id));
    server.push(&a, true)?;
    server.pull(&b)?;
    assert_purged(&a, id);
    assert_purged(&b, id);
    assert_eq!(quarantined(&a), ["the entity has been purged"]);
    meet(&[&a, &b])
}

#[test]
fn two_versions_that_are_purged_apart_leave_both_markers() -> Outcome {
    let fleet = Fleet::new();
    let [a, b, c] = fleet.replicas(&notes());
    let (left, right) = (Server::default(), Server::default());
    let id = deleted_everywhere(&left, &[&a, &b, &c])?;
    // The second server has one more deletion.
    b.delete(id)?;
    b.receive(a.changes(id, Heads::default())?)?;
    for envelope in b.changes(id, Heads::default())? {
        right.answer(&envelope);
    }
    right.push(&b, true)?;
    a.purge(id)?;
    left.push(&a, true)?;
    b.purge(id)?;
    right.push(&b, true)?;
    for replica in [&a, &b, &c] {
        left.pull(replica)?;
        right.pull(replica)?;
        assert_eq!(logged(replica, id).len(), 2);
        assert!(replica.record(id).purged);
    }
    meet(&[&a, &b, &c])
}

/// Found by simulation: a marker that was under way was forgotten when another came, and the server had it.
#[test]
fn a_marker_that_is_under_way_outlives_another() -> Outcome {
    let fleet = Fleet::new();
    let [a, b] = fleet.replicas(&notes());
    let server = Server::default();
    let id = deleted_everywhere(&server, &[&a, &b])?;
    a.purge(id)?;
    b.delete(id)?;
    server.push(&b, true)?;
    b.purge(id)?;
    server.push(&b, true)?;
    let page = server.log.borrow().clone();
    // Its marker is stored, and the answer does not arrive; what arrives was sent before.
    server.push(&a, false)?;
    feed(&a, page)?;
    assert!(a.record(id).purged && a.record(id).pending == 1);
    assert!(matches!(server.push(&a, true)?[..], [Answer::Duplicate { .. }]));
    server.pull(&b)?;
    for replica in [&a, &b] {
        assert_eq!((logged(replica, id).len(), replica.count("outbox")), (2, 0));
    }
    meet(&[&a, &b])
}

/// A document that has been folded is forgotten as well.
#[test]
fn a_folded_history_goes_as_well() -> Outcome {
    let fleet = Fleet::new();
    let [a, b] = fleet.replicas(&notes());
    let server = Server::default();
    let id =
        a.store.write(|write| write.create(&space(), &name("notes"), None, &fields(json!({ "body": "" })))).wait()?;
    for number in 0..400i64 {
        a.set(id, "title", json!(format!("{number} {}", "long ".repeat(20))))?;
    }
    server.push(&a, true)?;
    a.delete(id)?;
    server.push(&a, true)?;
    // The writer folds when it has nothing else to do, and it has been told to do something since.
    a.set(a.create("notes", json!({}))?, "title", json!("x"))?;
    server.push(&a, true)?;
    assert_eq!(a.count("snapshots"), 1);
    a.purge(id)?;
    let mut pushed = outbox(&a)?.items;
    assert!(pushed.pop().is_some_and(|item| is_marker(&item.envelope.change)) && pushed.is_empty());
    server.push(&a, true)?;
    server.pull(&b)?;
    for replica in [&a, &b] {
        let rows = replica.query(&format!(
            "SELECT count(*) AS n FROM changes c JOIN entities e ON e.key = c.entity WHERE e.id = '{id}'"
        ));
        assert_eq!((rows[0]["n"].clone(), replica.count("snapshots")), (json!(1), 0));
    }
    assert_eq!(a.changes(id, Heads::default())?.len(), 1);
    meet(&[&a, &b])
}

/// Found by simulation: a marker was folded, and so not found in the log any more.
#[test]
fn a_marker_is_never_folded() -> Outcome {
    let fleet = Fleet::new();
    let [a, b] = fleet.replicas(&notes());
    let server = Server::default();
    let id = deleted_everywhere(&server, &[&a, &b])?;
    a.purge(id)?;
    server.push(&a, true)?;
    let folded = a.store.write(|write| (1..4).map(|key| write.compact(key)).collect::<Result<Vec<_>, _>>()).wait()?;
    assert_eq!(folded, [false; 3]);
    assert_purged(&a, id);
    server.pull(&b)?;
    meet(&[&a, &b])
}

/// The rest of a transaction does not wait for ever for a change of an entity that has been purged meanwhile.
#[test]
fn a_transaction_goes_on_without_what_has_been_purged() -> Outcome {
    let fleet = Fleet::new();
    let [a, b] = fleet.replicas(&notes());
    let server = Server::default();
    let (gone, kept) = (a.create("notes", json!({ "title": "one" }))?, a.create("notes", json!({ "title": "two" }))?);
    server.push(&a, true)?;
    server.pull(&b)?;
    a.delete(gone)?;
    server.push(&a, true)?;
    a.purge(gone)?;
    server.push(&a, true)?;
    let title = |title: &str| {
        [anabranch_core::document::Edit::Set { field: super::fleet::field("title"), value: json!(title) }]
    };
    let (one, two) = (title("1"), title("2"));
    b.store
        .write(move |write| {
            write.transaction(|write| {
                write.edit(&space(), gone, &one)?;
                write.edit(&space(), kept, &two)
            })
        })
        .wait()?;
    // The server refuses the one, and the other with it; then the marker comes.
    let keys: Vec<_> = outbox(&b)?.items.iter().map(|item| (item.key, item.envelope.entity)).collect();
    let refused = |code, retryable| Answer::Rejected { code, message: String::new(), retryable };
    let answered = keys.iter().map(|(key, entity)| match *entity == gone {
        true => (*key, refused(RejectCode::Purged, false)),
        false => (*key, refused(RejectCode::Transaction, true)),
    });
    let batch = WriteBatch { answered: answered.collect(), ..WriteBatch::empty(space(), LINEAGE) };
    b.store.write(move |write| write.apply_batch(1, batch)).wait()?;
    assert!(outbox(&b)?.items.is_empty());
    server.pull(&b)?;
    assert_eq!(outbox(&b)?.items.iter().map(|item| item.envelope.entity).collect::<Vec<_>>(), [kept]);
    server.push(&b, true)?;
    assert_eq!((b.record(kept).pending, b.record(gone).purged), (0, true));
    server.pull(&a)?;
    assert_eq!(a.get(kept, "title"), json!("2"));
    Ok(())
}

/// Found by simulation: the history was offered again before the marker, was refused, and kept the marker waiting.
#[test]
fn g07_what_two_have_purged_goes_though_a_server_that_lost_it_has_heard_of_one_only() -> Outcome {
    for reconciled in [true, false] {
        let fleet = Fleet::new();
        let [a, b] = fleet.replicas(&notes());
        let id = deleted_everywhere(&Server::default(), &[&a, &b])?;
        a.purge(id)?;
        b.purge(id)?;
        let server = Server::default();
        assert!(matches!(server.push(&a, true)?[..], [Answer::Accepted { .. }]), "all it hears of is the marker");
        let mut batch = WriteBatch::empty(space(), LINEAGE);
        if reconciled {
            let heads = a.store.read(|read| read.heads_of(&space(), id))?;
            batch.offers = vec![Theirs { entity: id, heads }];
        } else {
            batch.reoffer = Reoffer::Space;
        }
        b.store.write(move |write| write.apply_batch(1, batch)).wait()?;
        let answers = server.push(&b, true)?;
        let refused = |answer: &Answer| matches!(answer, Answer::Rejected { code: RejectCode::Purged, .. });
        assert!(reconciled == answers.is_empty() && answers.iter().any(refused) != reconciled, "{answers:?}");
        let answers = server.push(&b, true)?;
        assert!(matches!(answers[..], [] | [Answer::Duplicate { .. }]), "{answers:?}");
        assert_purged(&b, id);
        assert_eq!((b.count("outbox"), b.count("quarantine")), (0, 0), "nothing of it stays anywhere");
        meet(&[&a, &b])?;
    }
    Ok(())
}
