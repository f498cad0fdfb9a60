//! Quotas, rates, and whose changes a session may bring: over real sockets.

use std::sync::Arc;

use anabranch_core::sync::{Access, Quota, ROW_BYTES};
use anabranch_core::wire::{Answer, ClientMessage, Envelope, Hello, RefusalCode, RejectCode, ServerMessage};
use anabranch_core::{Actor, ReplicaId, SpaceName, SplitMix64};
use anabranch_server::{HeaderMap, Rate, Rates, ServerOptions, SharedAccess};

use crate::changes::{Author, accepted, entity, heads_of, purge};
use crate::client::{Client, TestClock, post, pull, push, request, start_with};

/// May do everything, as whoever the `authorization` header names.
struct Named(String);

impl Access for Named {
    fn may_read(&self, _space: &SpaceName) -> bool {
        true
    }

    fn may_write(&self, space: &SpaceName) -> bool {
        space.as_str() != "closed"
    }

    fn principal(&self) -> Option<&str> {
        Some(&self.0)
    }
}

fn by_name(headers: &HeaderMap) -> Option<SharedAccess> {
    let name = headers.get("authorization")?.to_str().ok()?.strip_prefix("Bearer ")?;
    Some(Arc::new(Named(name.to_owned())))
}

fn is_quota(answer: &Answer) -> bool {
    matches!(answer, Answer::Rejected { code: RejectCode::Quota, retryable: false, .. })
}

/// What a change is counted with.
fn size(envelope: &Envelope) -> u64 {
    u64::try_from(envelope.change.len()).unwrap() + ROW_BYTES
}

#[tokio::test]
async fn an_entity_a_space_and_a_principal_have_their_quotas() {
    let mut author = Author::new(1);
    let changes: Vec<_> = (0..6).map(|n| author.edit(entity(1), &n.to_string())).collect();
    let room = |count: usize| changes[..count].iter().map(size).sum::<u64>();
    let roomy = Quota::default();
    let cases = [
        (Quota { entity: room(4), ..roomy }, "the entity"),
        (Quota { space: room(4), ..roomy }, "the space"),
        (Quota { principal: room(4), ..roomy }, "you have"),
    ];
    for (quota, whose) in cases {
        let options = ServerOptions { authorizer: Some(Arc::new(by_name)), quota, ..ServerOptions::default() };
        let server = start_with(options).await;
        let mut client = Client::welcome(server.local_addr(), "ann", 1).await;
        // Whether what is there came before or with the same push makes no difference.
        assert_eq!(accepted(&client.push(1, changes[..2].to_vec()).await.answers[0]), 1);
        let answers = client.push(2, changes[1..].to_vec()).await.answers;
        assert_eq!(
            answers[..3],
            [Answer::Duplicate { seq: 2 }, Answer::Accepted { seq: 3 }, Answer::Accepted { seq: 4 }]
        );
        assert!(is_quota(&answers[3]), "{answers:?}");
        let Answer::Rejected { message, .. } = &answers[3] else { panic!("{answers:?}") };
        assert!(message.starts_with(whose), "{message}");
        // What depends on it is held, as ever, and not kept anywhere.
        assert!(matches!(answers[4], Answer::Held { .. }));
        // What is there can be read, and is answered as before.
        assert_eq!(client.pull(None).await.0, changes[..4]);
        assert_eq!(client.push(3, changes[..1].to_vec()).await.answers, [Answer::Duplicate { seq: 1 }]);
        // Another entity, and another principal, are no nearer to the first two limits, and the third is ann's own.
        let other = Author::new(2).edit(entity(2), "x");
        assert_eq!(is_quota(&client.push(4, vec![other.clone()]).await.answers[0]), whose != "the entity");
        let mut bob = Client::welcome(server.local_addr(), "bob", 2).await;
        let mut more = Author::new(3);
        assert_eq!(is_quota(&bob.push(1, vec![more.edit(entity(3), "x")]).await.answers[0]), whose == "the space");
        // A full entity can be purged.
        let marker = purge(entity(1), &heads_of(&changes[3..4]));
        assert_eq!(is_quota(&bob.push(2, vec![marker]).await.answers[0]), whose == "the space");
        client.leave().await;
        bob.leave().await;
        server.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn a_transaction_that_meets_a_quota_is_refused_whole_and_counts_nothing() {
    let mut author = Author::new(1);
    let mut batch: Vec<_> = (0..3).map(|n| author.edit(entity(n), "x")).collect();
    batch.iter_mut().for_each(|envelope| envelope.transaction = crate::changes::transaction(1));
    let quota = Quota { space: batch[..2].iter().map(size).sum(), ..Quota::default() };
    let server = start_with(ServerOptions { quota, ..ServerOptions::default() }).await;
    let (mut client, _) = Client::connect(server.local_addr(), 1).await;
    let answers = client.push(1, batch.clone()).await.answers;
    assert!(is_quota(&answers[2]));
    assert!(answers[..2].iter().all(|answer| matches!(answer, Answer::Rejected { code: RejectCode::Transaction, .. })));
    batch.iter_mut().for_each(|envelope| envelope.transaction = None);
    let answers = client.push(2, batch).await.answers;
    assert_eq!(answers[..2], [Answer::Accepted { seq: 1 }, Answer::Accepted { seq: 2 }]);
    assert!(is_quota(&answers[2]));
    client.leave().await;
    server.shutdown().await.unwrap();
}

/// A replica, an actor of it, and that actor's author.
fn replica_with_author(seed: u64) -> (ReplicaId, Actor, Author) {
    let mut entropy = SplitMix64::new(seed);
    let replica = ReplicaId::mint(1_800_000_000_000, &mut entropy);
    let actor = Actor::mint(&replica, &mut entropy);
    let author = Author::with_actor(actor.as_bytes().try_into().unwrap());
    (replica, actor, author)
}

async fn session(address: std::net::SocketAddr, principal: &str, replica: ReplicaId, actor: &Actor) -> Client {
    let mut client = Client::open(address, Some(principal)).await.unwrap();
    let hello = Hello { replica, actor: actor.clone(), schema_version: 1, lineage: None };
    client.send(&ClientMessage::Hello(hello)).await;
    assert!(matches!(client.receive().await, ServerMessage::Welcome(_)));
    client
}

fn not_own(answer: &Answer) -> bool {
    // It is taken as a duplicate once its author has brought it, so it is worth another try.
    matches!(answer, Answer::Rejected { code: RejectCode::Forbidden, retryable: true, .. })
}

#[tokio::test]
async fn g11_where_a_replica_brings_its_own_changes_only_nobody_uses_anothers_actor() {
    let relay_own = vec!["ho*".parse().unwrap()];
    let options = ServerOptions { authorizer: Some(Arc::new(by_name)), relay_own, ..ServerOptions::default() };
    let server = start_with(options).await;
    let address = server.local_addr();
    let (ann, ann_actor, mut by_ann) = replica_with_author(1);
    let (eve, eve_actor, mut by_eve) = replica_with_author(2);

    let mut anns = session(address, "ann", ann, &ann_actor).await;
    let first = by_ann.edit(entity(1), "ann's");
    assert_eq!(accepted(&anns.push(1, vec![first.clone()]).await.answers[0]), 1);
    let second = by_ann.edit(entity(1), "ann's, too");

    // Another replica brings a change by ann's actor: in its own name, claiming the actor, and claiming the replica.
    let mut eves = session(address, "eve", eve, &eve_actor).await;
    assert!(not_own(&eves.push(1, vec![second.clone()]).await.answers[0]));
    assert_eq!(eves.push(2, vec![first]).await.answers, [Answer::Duplicate { seq: 1 }]);
    let mut claims_actor = session(address, "eve", eve, &ann_actor).await;
    assert!(not_own(&claims_actor.push(1, vec![second.clone()]).await.answers[0]));
    let mut claims_replica = session(address, "eve", ann, &ann_actor).await;
    assert!(not_own(&claims_replica.push(1, vec![second.clone()]).await.answers[0]));
    // A replica is known by half of its id: another that shares it is taken for the same.
    let mut alike = *ann.as_bytes();
    alike[0] ^= 1;
    let mut looks_alike = session(address, "eve", ReplicaId::from_bytes(alike), &ann_actor).await;
    assert!(not_own(&looks_alike.push(1, vec![second.clone()]).await.answers[0]));

    // Her own changes are taken, and those that certify themselves.
    by_eve.learn(&anns.pull(None).await.0[0]);
    let mine = by_eve.edit(entity(1), "eve's");
    assert_eq!(accepted(&eves.push(3, vec![mine]).await.answers[0]), 2);
    let marker = purge(entity(9), &heads_of([&by_eve.edit(entity(9), "x")]));
    assert_eq!(accepted(&eves.push(4, vec![marker]).await.answers[0]), 3);
    // Ann herself comes back, with another actor of the same replica, and what she had not sent yet.
    let mut back = session(address, "ann", ann, &Actor::mint(&ann, &mut SplitMix64::new(7))).await;
    assert_eq!(accepted(&back.push(1, vec![second]).await.answers[0]), 4);
    server.abort().await;
}

#[tokio::test]
async fn elsewhere_any_writer_brings_any_members_changes() {
    let server = start_with(ServerOptions { authorizer: Some(Arc::new(by_name)), ..ServerOptions::default() }).await;
    let (_, _, mut by_ann) = replica_with_author(1);
    let (eve, eve_actor, _) = replica_with_author(2);
    let mut eves = session(server.local_addr(), "eve", eve, &eve_actor).await;
    let change = by_ann.edit(entity(1), "by way of a peer");
    assert_eq!(accepted(&eves.push(1, vec![change]).await.answers[0]), 1);
    eves.leave().await;
    server.shutdown().await.unwrap();
}

fn too_many(message: &ServerMessage) -> u32 {
    let ServerMessage::Refused { code: RefusalCode::Unavailable, retry_after_millis: Some(wait), .. } = message else {
        panic!("not refused: {message:?}")
    };
    *wait
}

#[tokio::test]
async fn a_principal_that_asks_too_much_is_told_when_to_come_back() {
    let clock = TestClock::new(1_800_000_000);
    let rates = Rates { messages: Rate { per_second: 1, burst: 6 }, ..Rates::default() };
    let options = ServerOptions {
        authorizer: Some(Arc::new(by_name)),
        environment: Box::new(clock.clone()),
        rates,
        ..ServerOptions::default()
    };
    let server = start_with(options).await;
    // The upgrade, the hello, and four more.
    let mut ann = Client::welcome(server.local_addr(), "ann", 1).await;
    for id in 0..4 {
        ann.push(id, Vec::new()).await;
    }
    ann.send(&push(5, Vec::new())).await;
    assert_eq!(too_many(&ann.receive().await), 1_000);
    assert_eq!(ann.next().await, Err(Some(1008)));
    let header = "authorization: Bearer ann\r\n";
    assert_eq!(Client::open(server.local_addr(), Some("ann")).await.err(), Some(429));
    assert_eq!(request(server.local_addr(), "GET", "/v1/spaces/home", header, b"").await.0, 429);
    assert_eq!(request(server.local_addr(), "POST", "/v1/sync", header, b"").await.0, 429);
    // Bob has rates of his own, and ann another chance later.
    Client::welcome(server.local_addr(), "bob", 2).await.leave().await;
    clock.set(1_800_000_002);
    Client::welcome(server.local_addr(), "ann", 1).await.leave().await;
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn bytes_and_the_changes_of_a_space_have_their_rates() {
    let clock = TestClock::new(1_800_000_000);
    let rates = Rates {
        bytes: Rate { per_second: 1_000, burst: 20_000 },
        changes: Rate { per_second: 1, burst: 3 },
        ..Rates::default()
    };
    let options = ServerOptions {
        authorizer: Some(Arc::new(by_name)),
        environment: Box::new(clock),
        rates,
        ..ServerOptions::default()
    };
    let server = start_with(options).await;
    let mut author = Author::new(1);
    let mut changes = |count: usize| -> Vec<_> { (0..count).map(|_| author.edit(entity(1), "x")).collect() };
    let mut ann = Client::welcome(server.local_addr(), "ann", 1).await;
    ann.push(1, changes(2)).await;
    // Who may not write uses nothing up: these ten are not counted.
    let closed = ClientMessage::Push(anabranch_core::wire::Push {
        id: 2,
        space: SpaceName::new("closed").unwrap(),
        changes: changes(10),
        agreed: Vec::new(),
    });
    ann.send(&closed).await;
    assert!(matches!(ann.receive().await, ServerMessage::Pushed(_)));
    // The space's rate is everybody's.
    let mut bob = Client::welcome(server.local_addr(), "bob", 2).await;
    bob.send(&push(1, changes(2))).await;
    assert_eq!(too_many(&bob.receive().await), 1_000);
    // Ann's bytes are hers alone.
    let large = ClientMessage::Presence { space: crate::changes::space("home"), data: Some(noise(30_000)) };
    ann.send(&large).await;
    let wait = too_many(&ann.receive().await);
    // More than all that she may send at once is taken when nothing else has been sent for a while.
    assert!((100..1_000).contains(&wait), "{wait}");
    Client::welcome(server.local_addr(), "bob", 2).await.leave().await;
    server.shutdown().await.unwrap();
}

/// Bytes that cannot be deflated.
fn noise(count: usize) -> Vec<u8> {
    use anabranch_core::Entropy as _;
    let (mut bytes, mut entropy) = (vec![0; count], SplitMix64::new(5));
    entropy.fill(&mut bytes);
    bytes
}

#[tokio::test]
async fn where_nobody_is_asked_who_they_are_only_spaces_have_rates() {
    let once = Rate { per_second: 1, burst: 1 };
    let rates = Rates { messages: once, bytes: once, changes: Rates::default().changes };
    let server = start_with(ServerOptions { rates, ..ServerOptions::default() }).await;
    for _ in 0..5 {
        let messages = post(server.local_addr(), &[crate::client::hello(1, None), pull(None, false)]).await;
        assert!(matches!(messages[1], ServerMessage::Changes { .. }));
    }
    server.shutdown().await.unwrap();
}
