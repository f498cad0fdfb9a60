//! The table: policy × kind × values × stamps × ops, in all orders of arrival.

use anabranch_core::{Change, Collection};
use serde_json::{Value, json};

use super::oracle::{Write, settle};
use super::support::{KINDS, ORDERS, Replica, collection, field_by_field, id, read, write};

/// Ten years in a stamp.
const DECADE: i64 = (10 * 365 * 86_400_000) << 16;
/// Now.
const NOW: i64 = 1_800_000_000_000 << 16;

/// When the three write: in order, against it, at once, two at once, and with clocks ten years off.
const STAMPS: [[i64; 3]; 6] = [
    [NOW, NOW + 1, NOW + 2],
    [NOW + 2, NOW + 1, NOW],
    [NOW, NOW, NOW],
    [NOW + 1, NOW, NOW + 1],
    [NOW + DECADE, NOW, NOW - DECADE],
    [NOW - DECADE, NOW + DECADE, NOW],
];
/// How many ops each has made before.
const LEADS: [[i64; 3]; 3] = [[0, 0, 0], [2, 0, 1], [0, 3, 3]];

fn values(kind: &str) -> Vec<[Value; 3]> {
    if kind == "reference" {
        return vec![[id(3), id(1), id(2)], [id(7), id(7), id(7)], [id(5), id(6), id(5)], [id(1), json!(null), id(2)]];
    }
    vec![
        [json!("b"), json!("c"), json!("a")],
        [json!("same"), json!("same"), json!("same")],
        [json!(1), json!("two"), json!(1)],
        [json!(-2), json!(10), json!(9.5)],
        [json!(null), json!(true), json!(3)],
        [json!(null), json!(null), json!("x")],
        [json!("x"), json!([1, 2]), json!({ "a": null })],
    ]
}

/// The three writers' changes, and what the oracle is to know of each.
fn write_apart(base: &Replica, kind: &str, values: &[Value; 3], stamps: [i64; 3], leads: [i64; 3]) -> Vec<Writer> {
    let writers = (0..3usize).map(|which| {
        let number = u8::try_from(which + 1).unwrap();
        let mut replica = base.twin(number);
        let before = replica.document.heads();
        for character in 0..leads[which] {
            let typed = anabranch_core::document::Edit::Splice {
                field: super::support::field("text"),
                at: 0,
                delete: 0,
                insert: character.to_string(),
            };
            replica.edit(NOW - 5, &[typed]);
        }
        let made = replica.edit(stamps[which], &[write(kind, values[which].clone())]);
        // Beside it at most the genesis of the map, which the others make, too.
        assert!(made.len() == 1 || (made.len() == 2 && kind == "map"));
        let changes = replica.document.changes_since(&before).unwrap();
        let known = Write { value: values[which].clone(), stamp: stamps[which], lead: leads[which], writer: number };
        Writer { replica, changes, known }
    });
    writers.collect()
}

struct Writer {
    replica: Replica,
    changes: Vec<Change>,
    known: Write,
}

/// What a replica shows of the slot is what the oracle says of the writes that have arrived.
fn check(replica: &Replica, policy: &str, kind: &str, arrived: &[Write]) {
    // A custom policy settles whole fields; slots inside them then go by the last writer.
    let policy = if policy == "custom" && matches!(kind, "list" | "map") { "lww" } else { policy };
    let expected = settle(policy, arrived.to_vec());
    let all: Vec<&Value> = expected.iter().map(|write| &write.value).collect();
    let alone = expected.len() < 2;
    let shown = if policy == "custom" && !alone { json!(all) } else { expected[0].value.clone() };
    let state = replica.state();
    assert_eq!(read(kind, &state), shown, "{policy} {kind} {expected:?}");
    if all.iter().all(|value| *value == all[0]) {
        assert!(state.contests.is_empty(), "equal values are no contest: {policy} {kind}");
        return;
    }
    let contest = replica.contest();
    let seen = contest.contenders.iter().map(|one| (&one.value, one.stamp.raw(), one.actor.as_bytes()[1]));
    let told = expected.iter().map(|write| (&write.value, write.stamp, write.writer));
    assert!(seen.eq(told), "{policy} {kind} {contest:?}");
    assert_eq!((contest.field.as_str(), &contest.value), (kind, &shown));
    assert_eq!(contest.open, policy == "manual");
    assert!(contest.policy.to_string().starts_with(policy));
    assert!(contest.contenders.iter().all(|one| !one.resolution));
}

/// All orders in which the changes arrive one by one, at those who wrote and at one who did not.
fn in_all_orders(base: &Replica, policy: &str, kind: &str, writers: &[Writer]) {
    let mut ends = Vec::new();
    for order in ORDERS {
        let observer = base.twin(9);
        let own = writers[order[0]].replica.clone();
        for (mut replica, start) in [(observer, 0), (own, 1)] {
            let mut names = Vec::new();
            for step in start..3 {
                replica.document.apply(&writers[order[step]].changes).unwrap();
                let arrived: Vec<_> = order[..=step].iter().map(|which| writers[*which].known.clone()).collect();
                check(&replica, policy, kind, &arrived);
                names.extend(replica.contests().iter().map(|contest| contest.id));
            }
            let count = names.len();
            names.dedup();
            assert_eq!(names.len(), count, "a contest with one more value is another");
            ends.push(replica.state());
        }
    }
    assert!(ends.iter().all(|end| *end == ends[0]), "winner, contenders and id are the same everywhere");
}

fn run(policy: &str, collection: &Collection) {
    for kind in KINDS {
        // Nothing is written by a writer who clears what is clear, and a write-once slot must be free.
        let old = if kind == "reference" { id(99) } else { json!("old") };
        let bases = [Replica::first(collection, kind, None), Replica::first(collection, kind, Some(old))];
        for (base, free) in bases.iter().zip([true, false]) {
            for values in values(kind) {
                if (free && values.contains(&Value::Null)) || (!free && policy == "first_writer") {
                    continue;
                }
                for (place, stamps) in STAMPS.into_iter().enumerate() {
                    let leads = LEADS[(place + usize::from(free)) % LEADS.len()];
                    in_all_orders(base, policy, kind, &write_apart(base, kind, &values, stamps, leads));
                }
            }
        }
    }
}

/// One test per policy, so that they share the machine's cores.
macro_rules! table {
    ($($test:ident: $policy:literal;)*) => {
        $(#[test]
        fn $test() {
            run($policy, &collection($policy));
        })*
    };
}

table! {
    g08_lww_is_what_the_oracle_says: "lww";
    g08_first_writer_is_what_the_oracle_says: "first_writer";
    g08_causal_is_what_the_oracle_says: "causal";
    g08_max_is_what_the_oracle_says: "max";
    g08_min_is_what_the_oracle_says: "min";
    g08_manual_is_what_the_oracle_says: "manual";
    g08_custom_is_what_the_oracle_says: "custom";
}

#[test]
fn a_policy_means_the_same_for_a_field_as_for_a_collection() {
    for policy in super::support::POLICIES {
        for kind in KINDS {
            let (all, each) = (collection(policy), field_by_field(policy));
            let base = Replica::first(&all, kind, None);
            let values = values(kind)[0].clone();
            let mut merged = base.twin(9);
            for writer in write_apart(&base, kind, &values, STAMPS[4], LEADS[1]) {
                merged.document.apply(&writer.changes).unwrap();
            }
            assert_eq!(merged.document.state(Some(&each)).unwrap(), merged.state(), "{policy} {kind}");
            // A field's own policy is stronger than the collection's.
            let mixed = Collection { policy: Some(anabranch_core::Policy::Min), ..each };
            assert_eq!(merged.document.state(Some(&mixed)).unwrap(), merged.state(), "{policy} {kind}");
        }
    }
}

/// A stamp decides between writes that did not know of each other, and nothing else.
#[test]
fn a_clock_a_century_ahead_cannot_keep_a_field() {
    for kind in KINDS {
        for policy in ["lww", "manual", "causal"] {
            let value = |number: u8| if kind == "reference" { id(number) } else { json!(number) };
            let base = Replica::first(&collection(policy), kind, None);
            let (mut liar, mut honest, mut third) = (base.twin(3), base.twin(1), base.twin(2));
            let lie = liar.edit(NOW + 10 * DECADE, &[write(kind, value(1))]);
            let beside = third.edit(NOW, &[write(kind, value(2))]);
            honest.document.apply(&lie).unwrap();
            let after = honest.edit(NOW + 1, &[write(kind, value(3))]);
            // Whoever has seen the lie has overwritten it, in whatever order the rest arrives.
            for mut replica in [liar, honest, base.twin(8)] {
                for changes in [&lie, &after] {
                    replica.document.apply(changes).unwrap();
                }
                assert_eq!((read(kind, &replica.state()), replica.contests().len()), (value(3), 0), "{policy} {kind}");
                replica.document.apply(&beside).unwrap();
                assert_eq!(read(kind, &replica.state()), value(3), "{policy} {kind}: only the honest are compared");
                assert_eq!(replica.contest().contenders.len(), 2);
            }
        }
    }
}
