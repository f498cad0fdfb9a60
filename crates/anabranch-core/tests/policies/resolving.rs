//! A person settles a conflict, and another person does, too.

use anabranch_core::document::{Choice, Contest, EditError};
use anabranch_core::{Digest, Schema};
use serde_json::{Value, json};

use super::support::{KINDS, POLICIES, Replica, at, collection, id, meet, read, write};

fn value(kind: &str, number: u8) -> Value {
    if kind == "reference" { id(number) } else { json!(format!("value {number}")) }
}

/// Two replicas that have written different values, and know it.
fn contested(policy: &str, kind: &str) -> (Replica, Replica) {
    let base = Replica::first(&collection(policy), kind, None);
    let (mut a, mut b) = (base.twin(1), base.twin(2));
    a.edit(5, &[write(kind, value(kind, 1))]);
    b.edit(6, &[write(kind, value(kind, 2))]);
    meet(&mut [&mut a, &mut b]);
    (a, b)
}

fn resolve(replica: &mut Replica, stamp: i64, choice: Choice) {
    let contest = replica.contest();
    let made = replica.document.resolve(&replica.collection, at(stamp), &contest.id, &choice).unwrap();
    assert_eq!(made.len(), 1, "one change, whatever is chosen");
}

fn refusal(replica: &Replica, contest: &Digest, choice: &Choice) -> EditError {
    let mut document = replica.document.clone();
    document.resolve(&replica.collection, at(50), contest, choice).unwrap_err()
}

#[test]
fn every_choice_settles_under_every_policy() {
    for policy in POLICIES {
        for kind in KINDS {
            for place in 0..3 {
                let (mut a, mut b) = contested(policy, kind);
                let (choice, expected) = match a.contest().contenders.get(place) {
                    Some(contender) => (Choice::This(place), contender.value.clone()),
                    None => (Choice::Value(value(kind, 3)), value(kind, 3)),
                };
                resolve(&mut a, 1, choice);
                meet(&mut [&mut a, &mut b]);
                assert_eq!((read(kind, &b.state()), b.contests().len()), (expected, 0), "{policy} {kind} {place}");
            }
        }
    }
}

#[test]
fn a_resolution_is_marked_and_wins_over_what_it_has_seen_by_no_clock() {
    for kind in KINDS {
        let (mut a, mut b) = contested("manual", kind);
        let mut c = a.twin(3);
        // The winner's own value, with a stamp that lies before both: a write all the same.
        let contest = a.contest();
        assert!(contest.open);
        resolve(&mut a, 1, Choice::This(0));
        c.edit(9, &[write(kind, value(kind, 9))]);
        meet(&mut [&mut a, &mut b, &mut c]);
        // What was written beside it opens a new item.
        let again = a.contest();
        assert!(again.open && again.id != contest.id, "{kind}");
        let marks: Vec<_> = again.contenders.iter().map(|one| (one.value.clone(), one.resolution)).collect();
        assert_eq!(marks, [(value(kind, 9), false), (contest.contenders[0].value.clone(), true)]);
        resolve(&mut b, 10, Choice::This(1));
        meet(&mut [&mut a, &mut b, &mut c]);
        assert!(a.contests().is_empty());
    }
}

#[test]
fn two_who_resolve_apart_end_with_one_outcome_and_no_open_item() {
    for kind in KINDS {
        // Whoever resolved later, by the clocks, has the last word; ties go by op id.
        for (stamps, winner) in [((20, 10), 1), ((10, 20), 2), ((10, 10), 2)] {
            let (mut a, mut b) = contested("manual", kind);
            let mut third = a.twin(3);
            resolve(&mut a, stamps.0, Choice::Value(value(kind, 1)));
            resolve(&mut b, stamps.1, Choice::Value(value(kind, 2)));
            meet(&mut [&mut a, &mut b, &mut third]);
            let contest = third.contest();
            assert!(!contest.open && contest.contenders.iter().all(|one| one.resolution), "{kind}");
            assert_eq!(read(kind, &third.state()), value(kind, winner), "{kind} {stamps:?}");
            assert_eq!(contest.contenders.len(), 2, "the other attempt is still readable");
            // It can be settled once more, for good.
            resolve(&mut third, 1, Choice::This(1));
            meet(&mut [&mut a, &mut b, &mut third]);
            assert_eq!((read(kind, &a.state()), a.contests().len()), (value(kind, 3 - winner), 0));
        }
    }
}

#[test]
fn a_plain_write_beside_two_resolutions_opens_a_new_item() {
    let (mut a, mut b) = contested("manual", "register");
    let mut c = a.twin(3);
    resolve(&mut a, 10, Choice::This(0));
    resolve(&mut b, 11, Choice::This(1));
    c.edit(12, &[write("register", value("register", 3))]);
    meet(&mut [&mut a, &mut b]);
    assert!(!a.contest().open);
    meet(&mut [&mut a, &mut b, &mut c]);
    let contest = b.contest();
    assert!(contest.open);
    assert_eq!(contest.contenders.iter().filter(|one| one.resolution).count(), 2);
}

#[test]
fn a_conflict_that_is_no_longer_what_it_was_is_not_resolved() {
    let (mut a, mut b) = contested("manual", "register");
    let seen = a.contest();
    let mut c = a.twin(3);
    let stale = |replica: &Replica, seen: &Contest| {
        matches!(refusal(replica, &seen.id, &Choice::This(0)), EditError::ConflictChanged)
    };
    // A value has come: one who has not seen the first write disagrees, too.
    let mut late = Replica::first(&collection("manual"), "register", None).twin(4);
    late.edit(30, &[write("register", json!("late"))]);
    c.pull(&late);
    assert_ne!(c.contest().id, seen.id);
    assert!(stale(&c, &seen), "a value has come");
    assert!(!stale_ok(&a, &seen), "still the same where it has not");
    // A value has gone: somebody has settled it.
    b.edit(7, &[write("register", json!("settled"))]);
    a.pull(&b);
    assert!(stale(&a, &seen), "it has been settled");
    let (a, _) = contested("manual", "register");
    let id = a.contest().id;
    let error = refusal(&a, &id, &Choice::This(2));
    assert!(matches!(error, EditError::NoContender { place: 2, count: 2 }));
    assert!(matches!(refusal(&a, &Digest::of(b"other"), &Choice::This(0)), EditError::ConflictChanged));
}

fn stale_ok(replica: &Replica, seen: &Contest) -> bool {
    let mut document = replica.document.clone();
    document.resolve(&replica.collection, at(50), &seen.id, &Choice::This(0)).is_err()
}

#[test]
fn a_resolution_obeys_kind_and_rules() {
    let (a, _) = contested("manual", "reference");
    let error = refusal(&a, &a.contest().id, &Choice::Value(json!("no id")));
    assert!(matches!(error, EditError::WrongKind { .. }));
    let (mut a, _) = contested("manual", "register");
    let rules = "version = 1\n[collections.notes]\npolicy = \"manual\"\n[collections.notes.fields]\n\
                 register = { kind = \"register\", max_length = 6 }\ntext = { kind = \"text\" }\n";
    a.collection = Schema::from_toml(rules).unwrap().collections["notes"].clone();
    let id = a.contest().id;
    for choice in [Choice::This(0), Choice::Value(json!("too long"))] {
        assert!(matches!(refusal(&a, &id, &choice), EditError::Rule { .. }));
    }
    a.document.resolve(&a.collection.clone(), at(50), &id, &Choice::Value(json!("fits"))).unwrap();
    assert!(a.contests().is_empty());
}

#[test]
fn writing_the_value_that_wins_already_settles_the_conflict() {
    for policy in POLICIES {
        for kind in KINDS {
            let (mut a, mut b) = contested(policy, kind);
            let winner = a.contest().contenders[0].value.clone();
            assert_eq!(a.edit(1, &[write(kind, winner.clone())]).len(), 1, "{policy} {kind}");
            meet(&mut [&mut a, &mut b]);
            assert_eq!((read(kind, &b.state()), b.contests().len()), (winner, 0), "{policy} {kind}");
        }
    }
}
