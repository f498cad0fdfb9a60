//! What every backend must do about who appends: quotas, and whose a replica is. A part of the conformance suite.

use std::sync::Arc;

use anabranch_core::sync::{ROW_BYTES, Relay};
use anabranch_core::wire::{Answer, Envelope, RejectCode};
use anabranch_core::{Actor, ReplicaId, SpaceName, SplitMix64};
use anabranch_server::{Author as By, Backend, Quota};

use crate::changes::{Author, accepted, entity, offered, space};
use crate::conformance::Storage;

async fn append(backend: &Arc<dyn Backend>, space: &SpaceName, by: &By, envelopes: Vec<Envelope>) -> Vec<Answer> {
    backend.append_by(space.clone(), by.clone(), offered(envelopes)).await.unwrap().answers
}

fn code(answer: &Answer) -> Option<RejectCode> {
    match answer {
        Answer::Rejected { code, .. } => Some(*code),
        _ => None,
    }
}

pub(crate) async fn spaces_are_listed_in_order<S: Storage>(storage: S) {
    let backend = storage.open();
    assert!(backend.spaces(None, 10).await.unwrap().is_empty());
    let mut author = Author::new(1);
    let by = By::new(ReplicaId::from_bytes([1; 16]));
    for name in ["b", "c", "a"] {
        append(&backend, &space(name), &by, vec![author.edit(entity(1), name)]).await;
        author = Author::new(1);
    }
    // What was refused leaves no space behind.
    let none = Quota { space: 0, ..Quota::default() };
    append(&backend, &space("0"), &By { quota: none, ..by }, vec![author.edit(entity(1), "x")]).await;
    let names = async |after: Option<&str>, most| backend.spaces(after.map(space), most).await.unwrap();
    assert_eq!(names(None, 10).await, [space("a"), space("b"), space("c")]);
    assert_eq!(names(None, 2).await, [space("a"), space("b")]);
    assert_eq!(names(Some("b"), 2).await, [space("c")]);
    assert!(names(Some("c"), 2).await.is_empty());
}

pub(crate) async fn quotas_are_kept<S: Storage>(storage: S) {
    let mut author = Author::new(1);
    let changes: Vec<_> = (0..3).map(|n| author.edit(entity(1), &n.to_string())).collect();
    let size = |change: &Envelope| u64::try_from(change.change.len()).unwrap() + ROW_BYTES;
    let two = changes[..2].iter().map(size).sum();
    let (home, replica) = (space("home"), ReplicaId::from_bytes([1; 16]));
    let limited = |quota| By { principal: Some("ann".to_owned()), quota, ..By::new(replica) };
    let roomy = Quota::default();
    {
        let backend = storage.open();
        let answers = append(&backend, &home, &limited(Quota { entity: two, ..roomy }), changes.clone()).await;
        assert_eq!((accepted(&answers[0]), accepted(&answers[1]), code(&answers[2])), (1, 2, Some(RejectCode::Quota)));
    }
    // What is kept is known after reopening, where it is kept at all.
    let backend = storage.open();
    if !S::DURABLE {
        append(&backend, &home, &limited(roomy), changes[..2].to_vec()).await;
    }
    for quota in [Quota { entity: two, ..roomy }, Quota { space: two, ..roomy }, Quota { principal: two, ..roomy }] {
        let answers = append(&backend, &home, &limited(quota), changes[2..].to_vec()).await;
        assert_eq!(code(&answers[0]), Some(RejectCode::Quota), "{quota:?}");
    }
    // The principal's is for all spaces, and nobody else's.
    let elsewhere = vec![Author::new(2).edit(entity(2), "x")];
    let quota = Quota { principal: two, ..roomy };
    let answers = append(&backend, &space("work"), &limited(quota), elsewhere.clone()).await;
    assert_eq!(code(&answers[0]), Some(RejectCode::Quota));
    let bob = By { principal: Some("bob".to_owned()), ..limited(quota) };
    assert_eq!(accepted(&append(&backend, &space("work"), &bob, elsewhere).await[0]), 1);
    assert_eq!(accepted(&append(&backend, &home, &limited(roomy), changes[2..].to_vec()).await[0]), 3);
}

pub(crate) async fn a_replica_belongs_to_whoever_stored_for_it_first<S: Storage>(storage: S) {
    let mut entropy = SplitMix64::new(1);
    let replica = ReplicaId::mint(1_800_000_000_000, &mut entropy);
    let actor = Actor::mint(&replica, &mut entropy);
    let mut author = Author::with_actor(actor.as_bytes().try_into().unwrap());
    let (home, members) = (space("home"), space("members"));
    let by = |principal: &str, relay| By { principal: Some(principal.to_owned()), relay, ..By::new(replica) };
    let (first, second) = (author.edit(entity(1), "a"), author.edit(entity(1), "b"));
    {
        let backend = storage.open();
        // Nobody's yet; a refusal makes it nobody's either.
        let by_another =
            By { principal: Some("eve".to_owned()), relay: Relay::Own, ..By::new(ReplicaId::from_bytes([9; 16])) };
        let answers = append(&backend, &home, &by_another, vec![first.clone()]).await;
        assert!(matches!(answers[..], [Answer::Rejected { code: RejectCode::Forbidden, retryable: true, .. }]));
        // Wherever it is stored, under whatever policy.
        assert_eq!(accepted(&append(&backend, &members, &by("ann", Relay::Members), vec![first.clone()]).await[0]), 1);
    }
    let backend = storage.open();
    if !S::DURABLE {
        append(&backend, &members, &by("ann", Relay::Members), vec![first.clone()]).await;
    }
    let answers = append(&backend, &home, &by("eve", Relay::Own), vec![first.clone()]).await;
    assert_eq!(code(&answers[0]), Some(RejectCode::Forbidden));
    assert_eq!(accepted(&append(&backend, &home, &by("ann", Relay::Own), vec![first.clone(), second]).await[0]), 1);
    // What is there is a duplicate, whoever brings it.
    assert_eq!(append(&backend, &home, &by("eve", Relay::Own), vec![first]).await, [Answer::Duplicate { seq: 1 }]);
}
