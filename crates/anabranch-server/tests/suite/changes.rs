//! Changes as a replica would make them.

use std::collections::HashMap;

use anabranch_core::sync::{Offered, Pushable};
use anabranch_core::wire::{Answer, Envelope};
use anabranch_core::{Change, CollectionName, EntityId, Heads, ReplicaId, SpaceName, TransactionId};
use automerge::transaction::{CommitOptions, Transactable as _};
use automerge::{ActorId, Automerge, ROOT};

/// A writer with its own copy of every entity that it has written to.
#[derive(Clone)]
pub(crate) struct Author {
    actor: [u8; 16],
    documents: HashMap<EntityId, Automerge>,
}

impl Author {
    pub(crate) fn new(name: u8) -> Self {
        let mut actor = [name; 16];
        actor[0] = 1;
        Self::with_actor(actor)
    }

    pub(crate) fn with_actor(actor: [u8; 16]) -> Self {
        Self { actor, documents: HashMap::new() }
    }

    /// Edits an entity's title; the change depends on all that this author has of it.
    pub(crate) fn edit(&mut self, entity: EntityId, title: &str) -> Envelope {
        let actor = ActorId::from(self.actor);
        let document = self.documents.entry(entity).or_insert_with(|| Automerge::new().with_actor(actor));
        document.transact::<_, _, automerge::AutomergeError>(|tx| tx.put(ROOT, "title", title)).unwrap();
        let change = document.get_last_local_change().unwrap().raw_bytes().to_vec();
        Envelope { entity, collection: notes(), parent: None, transaction: None, change }
    }

    /// Takes over another's change.
    pub(crate) fn learn(&mut self, envelope: &Envelope) {
        let actor = ActorId::from(self.actor);
        let document = self.documents.entry(envelope.entity).or_insert_with(|| Automerge::new().with_actor(actor));
        let change = automerge::Change::from_bytes(envelope.change.clone()).unwrap();
        document.apply_changes([change]).unwrap();
    }

    /// The heads of an entity as Automerge computes them.
    pub(crate) fn heads(&self, entity: EntityId) -> Heads {
        let heads = self.documents[&entity].get_heads();
        Heads::new(heads.into_iter().map(|hash| anabranch_core::ChangeHash::from_bytes(hash.0)).collect())
    }
}

/// A marker that purges the version of an entity with these heads.
pub(crate) fn purge(entity: EntityId, heads: &Heads) -> Envelope {
    let build = |actor: &[u8]| {
        let mut document = Automerge::new().with_actor(ActorId::from(actor));
        let message = format!("$purge {}", heads.version());
        document.empty_commit(CommitOptions::default().with_time(0).with_message(message));
        Change::parse(document.get_last_local_change().unwrap().raw_bytes().to_vec()).unwrap()
    };
    // The actor is derived from the change with a blank one, so it is built twice.
    let marker = build(build(&[0; 16]).expected_derived_actor().as_bytes());
    assert_eq!(marker.purge_of(), Some(heads.version()));
    Envelope { entity, collection: notes(), parent: None, transaction: None, change: marker.into_bytes() }
}

/// What a replica makes of a change without dependencies whose place in the history is another's.
pub(crate) fn rewrite_of(original: &Envelope, title: &str) -> Envelope {
    let hash = Change::parse(original.change.clone()).unwrap().hash();
    let build = |actor: &[u8]| {
        let mut document = Automerge::new().with_actor(ActorId::from(actor));
        let mut transaction = document.transaction();
        transaction.put(ROOT, "title", title).unwrap();
        transaction.commit_with(CommitOptions::default().with_time(0).with_message(format!("$rewrite {hash}")));
        Change::parse(document.get_last_local_change().unwrap().raw_bytes().to_vec()).unwrap()
    };
    let rewrite = build(build(&[0; 16]).expected_derived_actor().as_bytes());
    assert_eq!(rewrite.rewrite_of().map(|it| it.original), Some(hash));
    Envelope { change: rewrite.into_bytes(), ..original.clone() }
}

/// The heads that consist of these changes.
pub(crate) fn heads_of<'a>(envelopes: impl IntoIterator<Item = &'a Envelope>) -> Heads {
    Heads::new(envelopes.into_iter().map(|e| Change::parse(e.change.clone()).unwrap().hash()).collect())
}

pub(crate) fn entity(n: u8) -> EntityId {
    EntityId::from_bytes([n; 16])
}

pub(crate) fn replica(n: u8) -> ReplicaId {
    ReplicaId::from_bytes([n; 16])
}

pub(crate) fn transaction(n: u8) -> Option<TransactionId> {
    Some(TransactionId::from_bytes([n; 16]))
}

pub(crate) fn space(name: &str) -> SpaceName {
    SpaceName::new(name).unwrap()
}

pub(crate) fn notes() -> CollectionName {
    CollectionName::new("notes").unwrap()
}

pub(crate) fn offered(envelopes: impl IntoIterator<Item = Envelope>) -> Vec<Pushable> {
    envelopes.into_iter().map(Offered::open).collect()
}

/// The place of an accepted change.
pub(crate) fn accepted(answer: &Answer) -> u64 {
    match answer {
        Answer::Accepted { seq } => *seq,
        other => panic!("not accepted: {other:?}"),
    }
}
