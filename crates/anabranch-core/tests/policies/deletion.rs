//! Deletions beside edits and beside each other, at three replicas in every order.

use anabranch_core::document::Edit;
use anabranch_core::{Change, Collection, Deletion};
use serde_json::json;

use super::support::{ORDERS, Replica, at, collection, field, write};

fn collections() -> [Collection; 2] {
    let edit_wins = collection("lww");
    [edit_wins.clone(), Collection { deletion: Deletion::DeleteWins, ..edit_wins }]
}

/// One thing that a replica does while it is apart.
#[derive(Clone, Copy, Debug)]
enum Act {
    Edit,
    Type,
    Delete,
    Restore,
}
use Act::{Delete, Restore, Type};

fn act(replica: &mut Replica, act: Act, stamp: i64) {
    match act {
        Act::Edit => drop(replica.edit(stamp, &[write("register", json!(stamp))])),
        Type => {
            let insert = stamp.to_string();
            replica.edit(stamp, &[Edit::Splice { field: field("text"), at: 0, delete: 0, insert }]);
        }
        Delete => drop(replica.document.delete(at(stamp)).unwrap()),
        Restore => drop(replica.document.restore(at(stamp)).unwrap()),
    }
}

/// Whether the entity is deleted in the end, under `edit_wins` and under `delete_wins`, after the replicas have
/// acted apart; the same in every order of arrival.
fn outcome(before: &[Act], apart: [&[Act]; 3]) -> [bool; 2] {
    collections().map(|collection| {
        let mut base = Replica::first(&collection, "register", None);
        before.iter().zip(2..).for_each(|(what, stamp)| act(&mut base, *what, stamp));
        let heads = base.document.heads();
        let replicas: Vec<Replica> = apart
            .iter()
            .zip(1u8..)
            .map(|(acts, number)| {
                let mut replica = base.twin(number);
                acts.iter().zip(10..).for_each(|(what, stamp)| act(&mut replica, *what, stamp + i64::from(number)));
                replica
            })
            .collect();
        let made: Vec<Vec<Change>> =
            replicas.iter().map(|replica| replica.document.changes_since(&heads).unwrap()).collect();
        let ends = ORDERS.map(|order| {
            let mut replica = base.twin(9);
            order.iter().for_each(|which| drop(replica.document.apply(&made[*which]).unwrap()));
            replica.state()
        });
        assert!(ends.iter().all(|end| *end == ends[0]));
        ends[0].deleted
    })
}

/// What was done before, what the three do apart, and what comes of it.
type Case = (&'static [Act], [&'static [Act]; 3], [bool; 2], &'static str);

#[test]
fn a_deletion_meets_edits_and_other_deletions() {
    const E: &[Act] = &[Act::Edit];
    const D: &[Act] = &[Delete];
    const N: &[Act] = &[];
    let cases: [Case; 14] = [
        (N, [D, N, N], [true, true], "nobody objects"),
        (N, [D, E, N], [false, true], "an edit beside it"),
        (N, [D, &[Type], N], [false, true], "of any kind"),
        (N, [D, D, N], [true, true], "two delete"),
        (N, [D, D, E], [false, true], "two delete, one edits"),
        (N, [&[Act::Edit, Delete], N, N], [true, true], "an edit before it"),
        (N, [&[Act::Edit, Delete], &[Act::Edit, Delete], N], [true, true], "whoever edited has deleted"),
        (N, [&[Act::Edit, Delete], &[Act::Edit, Delete], E], [false, true], "but one"),
        (N, [&[Delete, Delete], &[Delete, Delete], N], [true, true], "deletions are no edits"),
        (N, [&[Delete, Delete], &[Delete, Delete, Delete], D], [true, true], "however many"),
        (D, [&[Restore], N, N], [false, false], "restored"),
        (D, [&[Restore], D, N], [false, true], "restored beside another deletion"),
        (D, [&[Restore, Delete], &[Restore, Delete], N], [true, true], "restored and deleted again, twice"),
        (D, [&[Restore], &[Restore, Delete], N], [false, true], "restored for good by one"),
    ];
    for (before, apart, expected, what) in cases {
        assert_eq!(outcome(before, apart), expected, "{what}: {before:?} {apart:?}");
    }
}

#[test]
fn a_deletion_with_the_edit_in_view_is_final_even_if_another_had_not_seen_it() {
    for collection in collections() {
        let base = Replica::first(&collection, "register", None);
        let (mut a, mut b, mut c) = (base.twin(1), base.twin(2), base.twin(3));
        act(&mut a, Delete, 5);
        act(&mut b, Act::Edit, 6);
        a.pull(&b);
        assert_eq!(a.state().deleted, collection.deletion == Deletion::DeleteWins);
        act(&mut a, Delete, 7);
        assert!(a.state().deleted);
        // One that has seen neither deletes, too: it does not bring the edit back.
        act(&mut c, Delete, 8);
        super::support::meet(&mut [&mut a, &mut b, &mut c]);
        assert!(c.state().deleted);
        act(&mut b, Restore, 9);
        super::support::meet(&mut [&mut a, &mut b, &mut c]);
        assert!(!c.state().deleted && c.state().fields.contains_key("register"));
    }
}

/// An edit of what was back, because of an earlier edit, is an edit like any other for a deletion beside it.
#[test]
fn an_edit_of_what_has_come_back_counts() {
    let [collection, _] = collections();
    let base = Replica::first(&collection, "register", None);
    let (mut a, mut b, mut c) = (base.twin(1), base.twin(2), base.twin(3));
    act(&mut a, Delete, 5);
    act(&mut b, Act::Edit, 6);
    c.pull(&b);
    act(&mut c, Delete, 7);
    a.pull(&b);
    assert!(!a.state().deleted);
    act(&mut a, Act::Edit, 8);
    super::support::meet(&mut [&mut a, &mut b, &mut c]);
    assert!(!b.state().deleted, "the second edit is beside the second deletion");
}
