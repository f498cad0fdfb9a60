//! Deletions beside edits, deletions and new children, under both policies, in each order of arrival.

use anabranch_core::{EntityId, Schema};
use anabranch_store::{ConflictKind, StoreError};
use serde_json::json;

use super::fleet::{Fleet, Outcome, Replica, exchange, increment, meet, schema, type_at};

const POLICIES: [&str; 2] = ["edit_wins", "delete_wins"];

fn notes(policy: &str) -> Schema {
    schema(&format!(
        r#"
        [collections.folders]
        deletion = "{policy}"
        [collections.folders.fields]
        title = {{ kind = "register" }}
        [collections.notes]
        deletion = "{policy}"
        [collections.notes.fields]
        title = {{ kind = "register" }}
        body = {{ kind = "text" }}
        stars = {{ kind = "counter" }}
        folder = {{ kind = "reference", to = "folders", parent = true, on_delete = "cascade" }}
        "#
    ))
}

/// Two replicas act apart; a third hears of it in either order. All must show the same; the third is returned.
fn apart(
    policy: &str,
    acts: impl Fn(&Replica, &Replica, EntityId) -> Outcome,
) -> Result<(Fleet, [Replica; 3], EntityId), StoreError> {
    let mut shown = None;
    for first in [0, 1] {
        let fleet = Fleet::new();
        let replicas = fleet.replicas::<4>(&notes(policy));
        let id = replicas[0].create("notes", json!({ "title": "x", "body": "text" }))?;
        let [a, b, c, d] = &replicas;
        meet(&[a, b, c])?;
        acts(a, b, id)?;
        for place in [first, 1 - first] {
            c.pull(&replicas[place])?;
        }
        // One that has nothing yet gets everything at once.
        d.pull(c)?;
        assert_eq!(d.shown(), c.shown());
        meet(&[a, b, c])?;
        assert_eq!(c.record(id).state, c.document_state(id)?.fields);
        // In either order the same, if the ids are the same: all that is random follows from the seeds.
        let now = c.shown();
        assert_eq!(*shown.get_or_insert(now.clone()), now);
        if first == 1 {
            let [a, b, c, _] = replicas;
            return Ok((fleet, [a, b, c], id));
        }
    }
    unreachable!("the second round returns")
}

#[test]
fn g08_a_deletion_against_an_edit() -> Outcome {
    for policy in POLICIES {
        let (_fleet, [a, b, c], id) = apart(policy, |a, b, id| {
            a.delete(id)?;
            b.edit(id, vec![type_at("body", 4, "!"), increment("stars", 2)]).map(drop)
        })?;
        let deleted = policy == "delete_wins";
        assert_eq!(c.deleted(id), deleted, "{policy}");
        assert_eq!(c.query("SELECT * FROM notes").is_empty(), deleted);
        // Nothing of the edit is lost, whatever became of the entity.
        assert_eq!((c.get(id, "body"), c.get(id, "stars")), (json!("text!"), json!(2)));
        if deleted {
            assert!(matches!(c.set(id, "title", json!("y")), Err(StoreError::Deleted(_))));
            c.restore(id)?;
        } else {
            // Deleted again, with the edit in view, it stays deleted.
            c.delete(id)?;
            meet(&[&a, &b, &c])?;
            assert!(a.deleted(id));
            b.restore(id)?;
        }
        meet(&[&a, &b, &c])?;
        assert!(!a.deleted(id) && a.get(id, "body") == json!("text!"), "{policy}: restored");
    }
    Ok(())
}

#[test]
fn g08_a_deletion_against_a_deletion() -> Outcome {
    for policy in POLICIES {
        let (_fleet, [a, b, c], id) = apart(policy, |a, b, id| {
            a.delete(id)?;
            // Twice, and after an edit of its own: still nobody wants it.
            b.set(id, "title", json!("y"))?;
            b.delete(id)?;
            b.delete(id).map(drop)
        })?;
        assert!(c.deleted(id), "{policy}");
        c.restore(id)?;
        meet(&[&a, &b, &c])?;
        assert!(!a.deleted(id), "a restoration takes all deletions back");
    }
    Ok(())
}

#[test]
fn a_deletion_beside_a_restoration() -> Outcome {
    for policy in POLICIES {
        let fleet = Fleet::new();
        let [a, b] = fleet.replicas(&notes(policy));
        let id = a.create("notes", json!({ "title": "x" }))?;
        a.delete(id)?;
        meet(&[&a, &b])?;
        a.restore(id)?;
        b.delete(id)?;
        meet(&[&a, &b])?;
        assert_eq!(a.deleted(id), policy == "delete_wins", "{policy}");
    }
    Ok(())
}

/// Found here: both replicas deleted twice, and each second deletion was taken for an edit beside the other's
/// first, so the entity came back.
#[test]
fn two_who_delete_twice_do_not_bring_an_entity_back() -> Outcome {
    for policy in POLICIES {
        let (_fleet, [a, ..], id) = apart(policy, |a, b, id| {
            for replica in [a, b, a, b] {
                replica.delete(id)?;
            }
            Ok(())
        })?;
        assert!(a.deleted(id), "{policy}");
    }
    Ok(())
}

#[test]
fn g08_a_parents_deletion_against_a_new_child() -> Outcome {
    for policy in POLICIES {
        for first in [0, 1] {
            let fleet = Fleet::new();
            let replicas = fleet.replicas::<3>(&notes(policy));
            let [a, b, c] = &replicas;
            let folder = a.create("folders", json!({ "title": "f" }))?;
            let known = a.create("notes", json!({ "folder": folder.to_string() }))?;
            meet(&[a, b, c])?;
            assert_eq!(a.delete(folder)?, 2, "what was known goes along");
            let child = b.create("notes", json!({ "title": "new", "folder": folder.to_string() }))?;
            for place in [first, 1 - first] {
                c.pull(&replicas[place])?;
            }
            meet(&[a, b, c])?;
            // Nothing is deleted silently, and nothing comes back: a person is asked.
            assert!(c.deleted(folder) && c.deleted(known) && !c.deleted(child), "{policy}");
            let queue = c.queue();
            assert_eq!(queue.len(), 1, "{policy}");
            assert_eq!(
                (queue[0].kind, queue[0].entity, queue[0].field.as_str()),
                (ConflictKind::Orphan, child, "folder")
            );
            assert_eq!(queue[0].value, json!(folder.to_string()));
            assert_eq!(c.record(child).open_conflicts, 1);
            c.restore(folder)?;
            exchange(&[a, b, c])?;
            assert!(a.queue().is_empty() && !a.deleted(folder), "the parent is back");
            meet(&[a, b, c])?;
        }
    }
    Ok(())
}
