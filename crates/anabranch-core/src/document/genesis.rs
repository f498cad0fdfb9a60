//! Geneses: the changes in which containers and counters are born, the same bytes on every replica.
//!
//! Two replicas that create the same container concurrently must not hide each other's edits. A genesis has
//! no dependencies, stamp zero, and bytes fixed by (collection, field, kind); so both make the same change,
//! and the container is one. Its actor is derived from its own bytes, so nobody can pass another change off
//! as the genesis.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use automerge::transaction::{CommitOptions, Transactable as _};
use automerge::{ActorId, Automerge, ChangeMetadata, ObjId, ObjType, ROOT, ScalarValue, TextEncoding, Value};

use super::error::DocumentError;
use crate::change::Change;
use crate::id::Actor;
use crate::name::{CollectionName, FieldName};
use crate::schema::Kind;

/// Geneses kept per thread; field names of foreign documents must not fill memory.
const MAX_CACHED: usize = 4_096;
/// Tells the genesis of a set from that of a map (a collection name has no `#`).
const SET_SUFFIX: &str = "#set";

/// The birth of one field's container or counter.
#[derive(Debug)]
pub(super) struct Genesis {
    pub(super) change: Change,
    /// The container, or for a counter the op that holds it.
    pub(super) object: ObjId,
}

type Key = (CollectionName, FieldName, Kind);

thread_local! {
    static CACHE: RefCell<HashMap<Key, Arc<Genesis>>> = RefCell::default();
}

/// The genesis of a field of one of the kinds that have one.
pub(super) fn genesis(
    collection: &CollectionName,
    field: &FieldName,
    kind: Kind,
) -> Result<Arc<Genesis>, DocumentError> {
    let key = (collection.clone(), field.clone(), kind);
    if let Some(known) = CACHE.with_borrow(|cache| cache.get(&key).cloned()) {
        return Ok(known);
    }
    let made = Arc::new(make(collection, field, kind)?);
    CACHE.with_borrow_mut(|cache| {
        if cache.len() >= MAX_CACHED {
            cache.clear();
        }
        cache.insert(key, Arc::clone(&made));
    });
    Ok(made)
}

/// Whether a change is the birth of a container or counter, and so nobody's edit.
pub(super) fn is_genesis(change: &ChangeMetadata<'_>) -> bool {
    let about = change.message.as_deref().map(|message| message.strip_suffix(SET_SUFFIX).unwrap_or(message));
    change.actor.to_bytes().first() == Some(&Actor::DERIVED)
        && (change.seq, change.timestamp, change.max_op) == (1, 0, 1)
        && change.deps.is_empty()
        && about.is_some_and(|name| CollectionName::new(name).is_ok())
}

/// Whether an op at a root key is the birth of a container or counter, rather than a register's value.
pub(super) fn is_birth(value: &Value<'_>, id: &ObjId) -> bool {
    let born = value.is_object() || value.is_counter();
    born && matches!(id, ObjId::Id(1, actor, _) if actor.to_bytes().first() == Some(&Actor::DERIVED))
}

fn make(collection: &CollectionName, field: &FieldName, kind: Kind) -> Result<Genesis, DocumentError> {
    // The derived actor is a digest of the change with a blank actor, so the change is built twice.
    let blank = build(collection, field, kind, &ActorId::from([0; 16]))?;
    let actor = ActorId::from(blank.expected_derived_actor().as_bytes());
    let change = build(collection, field, kind, &actor)?;
    Ok(Genesis { change, object: ObjId::Id(1, actor, 0) })
}

fn build(collection: &CollectionName, field: &FieldName, kind: Kind, actor: &ActorId) -> Result<Change, DocumentError> {
    let mut document = Automerge::new_with_encoding(TextEncoding::UnicodeCodePoint).with_actor(actor.clone());
    let mut transaction = document.transaction();
    let object = match kind {
        Kind::Text => Some(ObjType::Text),
        Kind::List => Some(ObjType::List),
        Kind::Map | Kind::Set => Some(ObjType::Map),
        Kind::Counter | Kind::Register | Kind::Reference => None,
    };
    match object {
        Some(object) => transaction.put_object(ROOT, field.as_str(), object).map(drop)?,
        None => transaction.put(ROOT, field.as_str(), ScalarValue::counter(0))?,
    }
    let mut message = collection.to_string();
    if kind == Kind::Set {
        message.push_str(SET_SUFFIX);
    }
    transaction.commit_with(CommitOptions::default().with_message(message).with_time(0));
    let change = document.get_last_local_change().ok_or(DocumentError::Damaged)?;
    Change::parse(change.raw_bytes().to_vec()).map_err(|_| DocumentError::Damaged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stamp::Stamp;

    const KINDS: [Kind; 5] = [Kind::Counter, Kind::Text, Kind::List, Kind::Map, Kind::Set];

    fn of(collection: &str, field: &str, kind: Kind) -> Change {
        let (collection, field) = (CollectionName::new(collection).unwrap(), FieldName::new(field).unwrap());
        genesis(&collection, &field, kind).unwrap().change.clone()
    }

    #[test]
    fn a_genesis_certifies_itself_and_depends_on_nothing() {
        for kind in KINDS {
            let change = of("notes", "body", kind);
            assert!(change.actor().is_derived());
            assert!(change.dependencies().is_empty());
            assert_eq!((change.seq(), change.start_op(), change.stamp()), (1, 1, Stamp::ZERO));
            assert_eq!(change.expected_derived_actor(), *change.actor());
            assert_eq!(Change::parse(change.bytes().to_vec()).as_ref(), Ok(&change));
        }
    }

    #[test]
    fn a_genesis_is_the_same_on_every_replica_and_of_every_version() {
        // These hashes are part of the format: were they to change, every field would be split in two.
        let known = [
            "66319648cc73dc63d97fa66e2612d87411d911921d2c5aff0938581808a29836",
            "79ed3167155f3162ad2307c11b8eae158436fa579ceb460c968e8012875dc7e9",
            "9c97a06ffb46fb240ab19ed2c61135e08b978e1b722913972e7afc594193bc52",
            "8241916e4bbff7c20be2a0cc4367d109ab324fd73d9e7be528815e6200a83fa2",
            "b4dacc9a79709c970b28971cd41c871894d88677e1384d61a0f738dce0500204",
        ];
        for (kind, hash) in KINDS.into_iter().zip(known) {
            let elsewhere = std::thread::spawn(move || of("notes", "body", kind)).join().unwrap();
            assert_eq!(elsewhere, of("notes", "body", kind));
            assert_eq!(elsewhere.hash().to_string(), hash, "{kind:?}");
        }
    }

    #[test]
    fn every_collection_field_and_kind_has_a_genesis_of_its_own() {
        let mut actors = std::collections::BTreeSet::new();
        for collection in ["notes", "lists"] {
            for field in ["body", "title"] {
                for kind in KINDS {
                    assert!(actors.insert(of(collection, field, kind).actor().clone()));
                }
            }
        }
    }

    #[test]
    fn another_change_cannot_claim_the_actor_of_a_genesis() {
        let change = of("notes", "body", Kind::Text);
        let document = Automerge::new_with_encoding(TextEncoding::UnicodeCodePoint);
        let mut document = document.with_actor(ActorId::from(change.actor().as_bytes()));
        let mut transaction = document.transaction();
        transaction.put(ROOT, "body", "mine").unwrap();
        transaction.commit_with(CommitOptions::default().with_time(0));
        let forged = document.get_last_local_change().unwrap().raw_bytes().to_vec();
        assert_eq!(Change::parse(forged), Err(crate::change::ChangeError::ForgedActor));
    }
}
