//! References: what a deletion does to those who refer, here and after a merge.

use anabranch_core::sync::WriteBatch;
use anabranch_core::{EntityId, Lineage, Schema};
use anabranch_store::{ConflictKind, MAX_CASCADE, StoreError};
use serde_json::{Value, json};

use super::fleet::{Fleet, Outcome, Replica, fields, meet, name, schema, set, space};

/// Trees, in which a node refers to another in each of the ways there are.
fn nodes() -> Schema {
    schema(
        r#"
        [collections.nodes.fields]
        title = { kind = "register" }
        up = { kind = "reference", to = "nodes", on_delete = "cascade" }
        beside = { kind = "reference", to = "nodes", on_delete = "cascade" }
        needs = { kind = "reference", to = "nodes", on_delete = "restrict" }
        likes = { kind = "reference", to = "nodes", on_delete = "nullify" }
        knows = { kind = "reference", to = "nodes" }
        home = { kind = "reference", to = "nodes", parent = true }
        "#,
    )
}

fn node(replica: &Replica, references: &[(&str, EntityId)]) -> Result<EntityId, StoreError> {
    let fields: Value = references.iter().map(|(name, id)| ((*name).to_owned(), json!(id.to_string()))).collect();
    replica.create("nodes", fields)
}

#[test]
fn restrict_names_who_forbids_it() -> Outcome {
    let fleet = Fleet::new();
    let [a] = fleet.replicas(&nodes());
    let root = node(&a, &[])?;
    let by = node(&a, &[("needs", root)])?;
    let refused = a.delete(root);
    let Err(StoreError::Referenced { entity, by: named, field }) = refused else { panic!("{refused:?}") };
    assert_eq!((entity, named, field.as_str()), (root, by, "needs"));
    assert!(!a.deleted(root));
    // It stands in the way of a cascade from further up, too, and then nothing is deleted at all.
    let child = node(&a, &[("up", root)])?;
    let grandchild = node(&a, &[("up", child)])?;
    a.set(by, "needs", json!(grandchild.to_string()))?;
    let refused = a.delete(root);
    assert!(matches!(refused, Err(StoreError::Referenced { entity, .. }) if entity == grandchild));
    assert!(![root, child, grandchild].iter().any(|id| a.deleted(*id)));
    // Not if it goes itself, or has gone.
    a.set(by, "up", json!(child.to_string()))?;
    assert_eq!(a.delete(root)?, 4);
    let (root, other) = (node(&a, &[])?, node(&a, &[])?);
    let by = node(&a, &[("needs", root), ("knows", other)])?;
    a.delete(by)?;
    assert_eq!(a.delete(root)?, 1);
    // One who restricts itself is in nobody's way.
    let own = node(&a, &[])?;
    a.set(own, "needs", json!(own.to_string()))?;
    assert_eq!(a.delete(own)?, 1);
    Ok(())
}

#[test]
fn cascade_takes_levels_diamonds_and_cycles_along_in_one_transaction() -> Outcome {
    let fleet = Fleet::new();
    let [a, b] = fleet.replicas(&nodes());
    let root = node(&a, &[])?;
    let (left, right) = (node(&a, &[("up", root)])?, node(&a, &[("up", root)])?);
    let bottom = node(&a, &[("up", left), ("beside", right)])?;
    let deep = node(&a, &[("up", bottom)])?;
    let twice = node(&a, &[("up", root), ("beside", root)])?;
    let bystander = node(&a, &[("knows", deep), ("likes", right)])?;
    a.set(root, "up", json!(deep.to_string()))?;
    assert_eq!(a.delete(bottom)?, 6, "from anywhere in a cycle");
    for id in [root, left, right, bottom, deep, twice] {
        assert!(a.deleted(id));
    }
    assert!(!a.deleted(bystander));
    assert_eq!((a.get(bystander, "likes"), a.get(bystander, "knows")), (Value::Null, json!(deep.to_string())));
    meet(&[&a, &b])?;
    assert!(b.queue().is_empty(), "one who merely knows of it minds nothing");
    Ok(())
}

#[test]
fn nullify_clears_and_keep_keeps() -> Outcome {
    let fleet = Fleet::new();
    let [a] = fleet.replicas(&nodes());
    let root = node(&a, &[])?;
    let (likes, knows) = (node(&a, &[("likes", root), ("knows", root)])?, node(&a, &[("home", root)])?);
    assert_eq!(a.delete(root)?, 1);
    assert_eq!((a.get(likes, "likes"), a.get(likes, "knows")), (Value::Null, json!(root.to_string())));
    assert_eq!(a.get(knows, "home"), json!(root.to_string()));
    // A parent that has gone is flagged even if nothing was asked for.
    let queue = a.queue();
    assert_eq!((queue.len(), queue[0].entity, queue[0].kind), (1, knows, ConflictKind::Orphan));
    // References are looked up as they are now, also those written in the same commit.
    let (target, by) = (node(&a, &[])?, node(&a, &[])?);
    let written = a.store.write_on_rows(move |write| {
        write.edit(&space(), by, &[set("needs", json!(target.to_string()))])?;
        write.delete(&space(), target)
    });
    assert!(matches!(written.wait(), Err(StoreError::Referenced { .. })));
    assert_eq!(a.get(by, "needs"), Value::Null, "all or nothing");
    Ok(())
}

#[test]
fn a_cascade_is_bounded() -> Outcome {
    let fleet = Fleet::new();
    let [a] = fleet.replicas(&nodes());
    let grow = |count: usize| {
        a.store
            .write(move |write| {
                let root = write.create(&space(), &name("nodes"), None, &fields(json!({})))?;
                for _ in 0..count {
                    write.create(&space(), &name("nodes"), None, &fields(json!({ "up": root.to_string() })))?;
                }
                Ok::<_, StoreError>(root)
            })
            .wait()
    };
    // The first one counts.
    let (most, more) = (grow(MAX_CASCADE - 1)?, grow(MAX_CASCADE)?);
    assert!(matches!(a.delete(more), Err(StoreError::CascadeTooLarge(id)) if id == more));
    assert!(!a.deleted(more));
    assert_eq!(a.delete(most)?, MAX_CASCADE);
    Ok(())
}

/// Each way of referring that minds, with a reference that the deletion did not know of.
#[test]
fn a_reference_that_a_deletion_did_not_know_of_is_flagged_everywhere() -> Outcome {
    for (way, flagged) in
        [("up", true), ("beside", true), ("needs", true), ("likes", true), ("knows", false), ("home", true)]
    {
        for first in [0, 1] {
            let fleet = Fleet::new();
            let replicas = fleet.replicas::<3>(&nodes());
            let [a, b, c] = &replicas;
            let root = node(a, &[])?;
            meet(&[a, b, c])?;
            a.delete(root)?;
            let child = node(b, &[(way, root)])?;
            for place in [first, 1 - first] {
                c.pull(&replicas[place])?;
            }
            meet(&[a, b, c])?;
            assert_eq!(c.get(child, way), json!(root.to_string()), "{way}: nothing is cleared after a merge");
            assert!(!c.deleted(child), "{way}: nor deleted");
            let expected = if flagged { vec![child] } else { vec![] };
            let queue: Vec<_> = c.queue().iter().map(|item| item.entity).collect();
            assert_eq!(queue, expected, "{way}");
        }
    }
    Ok(())
}

#[test]
fn the_item_goes_with_its_reason() -> Outcome {
    let fleet = Fleet::new();
    let [a, b] = fleet.replicas(&nodes());
    type Cure = fn(&Replica, EntityId, EntityId) -> Outcome;
    let cures: [(&str, Cure); 4] = [
        ("the target is restored", |b, root, _| b.restore(root)),
        ("the child is deleted", |b, _, child| b.delete(child).map(drop)),
        ("the reference is cleared", |b, _, child| b.set(child, "up", Value::Null).map(drop)),
        ("the reference names another", |b, _, child| {
            let other = node(b, &[])?;
            b.set(child, "up", json!(other.to_string())).map(drop)
        }),
    ];
    for (what, cure) in cures {
        let root = node(&a, &[])?;
        meet(&[&a, &b])?;
        a.delete(root)?;
        let child = node(&b, &[("up", root)])?;
        meet(&[&a, &b])?;
        assert_eq!((a.queue().len(), b.queue().len()), (1, 1));
        cure(&b, root, child)?;
        assert!(b.queue().is_empty(), "{what}: here");
        meet(&[&a, &b])?;
        assert!(a.queue().is_empty(), "{what}: there");
    }
    // And comes back with it.
    let root = node(&a, &[])?;
    meet(&[&a, &b])?;
    a.delete(root)?;
    let child = node(&b, &[("up", root)])?;
    b.delete(child)?;
    meet(&[&a, &b])?;
    assert!(a.queue().is_empty());
    a.restore(child)?;
    assert_eq!(a.queue().len(), 1);
    meet(&[&a, &b])?;
    Ok(())
}

/// A reference to something that has not come yet is no orphan; it becomes one if what comes is deleted.
#[test]
fn a_target_that_is_not_here_yet_is_no_orphan() -> Outcome {
    let fleet = Fleet::new();
    let [a, b, c] = fleet.replicas(&nodes());
    let root = node(&a, &[])?;
    let child = node(&a, &[("up", root)])?;
    c.receive(a.changes(child, anabranch_core::Heads::default())?)?;
    assert!(c.queue().is_empty() && c.get(child, "up") == json!(root.to_string()));
    b.pull(&a)?;
    b.set(child, "title", json!("kept"))?;
    a.delete(root)?;
    meet(&[&a, &b, &c])?;
    // The child was deleted along, but edited meanwhile.
    assert!(c.deleted(root) && !c.deleted(child));
    assert_eq!(c.queue().len(), 1);
    Ok(())
}

/// Whoever drops what is deleted, as of a collection that is not wanted any more, does not know that it is.
#[test]
fn g08_what_has_been_dropped_makes_no_orphans() -> Outcome {
    let fleet = Fleet::new();
    let [a, b] = fleet.replicas(&schema(
        r#"
        [collections.folders.fields]
        title = { kind = "register" }
        [collections.notes.fields]
        folder = { kind = "reference", to = "folders", parent = true }
        "#,
    ));
    let folder = a.create("folders", json!({ "title": "gone" }))?;
    let note = a.create("notes", json!({ "folder": folder.to_string() }))?;
    a.delete(folder)?;
    let mut incoming = a.changes(folder, anabranch_core::Heads::default())?;
    incoming.extend(a.changes(note, anabranch_core::Heads::default())?);
    let batch = WriteBatch { incoming, ..WriteBatch::empty(space(), Lineage::from_bytes([7; 16])) };
    b.store.write(|write| write.ensure_remote("test", &[])).wait()?;
    b.store.write(move |write| write.apply_batch(1, batch)).wait()?;
    assert_eq!(b.queue().len(), 1);
    let notes = Some([name("notes")].into());
    b.store.write_on_rows(move |write| write.want_collections(1, &space(), notes)).wait()?;
    assert_eq!((b.queue().len(), b.count("entities")), (0, 1));
    assert_eq!(b.get(note, "folder"), json!(folder.to_string()));
    Ok(())
}
