//! The server's side of a session: rights that end while the backend works, backends that fail, and bounds.

use anabranch_core::sync::reconcile::SketchError;
use anabranch_core::sync::{
    Access, AppendOutcome, Call, CallResult, LogPage, ServerConfig, ServerEvent, ServerSession, ServerStep,
};
use anabranch_core::wire::{Ask, ClientMessage, Hello, Limits, Mark, Pull, Push, RefusalCode, Reply, ServerMessage};
use anabranch_core::{Actor, Digest, EntityId, Lineage, ReplicaId, SpaceName, SplitMix64};

use super::{Everyone, NOW, main_space, page};

/// All rights have ended.
struct Nobody;

impl Access for Nobody {
    fn may_read(&self, _: &SpaceName) -> bool {
        false
    }

    fn may_write(&self, _: &SpaceName) -> bool {
        false
    }
}

/// A session that has been greeted.
fn server() -> ServerSession {
    let limits = Limits { push_changes: 100_000, push_bytes: 1 << 20 };
    let mut server = ServerSession::new(ServerConfig { lineage: Lineage::from_bytes([1; 16]), empty: false, limits });
    let mut entropy = SplitMix64::new(1);
    let replica = ReplicaId::mint(NOW, &mut entropy);
    let actor = Actor::mint(&replica, &mut entropy);
    asked(&mut server, ClientMessage::Hello(Hello { replica, actor, schema_version: 1, lineage: None }));
    server
}

fn asked(server: &mut ServerSession, message: ClientMessage) -> ServerStep {
    server.handle(NOW, &Everyone, ServerEvent::Message(message))
}

fn mark(seq: u64) -> Mark {
    Mark { seq, chain: Digest::from_bytes([0; 32]) }
}

fn refusal(step: &ServerStep) -> Option<RefusalCode> {
    match &step.send[..] {
        [ServerMessage::Refused { code, .. }] if step.close => Some(*code),
        _ => None,
    }
}

/// What the backend finds, for each thing that it can be asked to read.
fn results(
    rows: Option<LogPage>,
    reply: Option<(Mark, Result<Reply, SketchError>)>,
) -> [(ClientMessage, CallResult); 4] {
    let (space, digest) = (main_space(), Digest::from_bytes([2; 32]));
    let all = Pull::all(main_space(), None, None);
    [
        (ClientMessage::Pull(all.clone()), CallResult::Read { space: space.clone(), outcome: rows }),
        (
            ClientMessage::Reconcile { space: space.clone(), ask: Ask::Heads(vec![EntityId::from_bytes([1; 16])]) },
            CallResult::Reconciled { space: space.clone(), outcome: reply },
        ),
        (
            ClientMessage::Pull(Pull { segments: true, ..all }),
            CallResult::Manifest { space: space.clone(), known: true, outcome: Some((mark(1), Vec::new())) },
        ),
        (
            ClientMessage::Segment { space: space.clone(), digest },
            CallResult::Segment { space, digest, outcome: Some(vec![1]) },
        ),
    ]
}

/// What was allowed when it was asked is not said any more.
#[test]
fn nothing_that_was_read_is_sent_after_the_right_to_read_has_ended() {
    let rows =
        || LogPage::Rows { rows: page(1).into_iter().map(|envelope| (mark(1), envelope)).collect(), more: false };
    let reply = || (mark(1), Ok(Reply::Heads(Vec::new())));
    for (question, answer) in results(Some(rows()), Some(reply())) {
        let mut allowed = server();
        assert_eq!(asked(&mut allowed, question.clone()).calls.len(), 1, "{question:?}");
        let step = allowed.handle(NOW, &Everyone, ServerEvent::Result(answer.clone()));
        let did_something = !step.send.is_empty() || !step.calls.is_empty();
        assert!(!step.close && did_something, "{step:?}");
        let mut ended = server();
        drop(asked(&mut ended, question));
        let step = ended.handle(NOW, &Nobody, ServerEvent::Result(answer));
        assert_eq!((refusal(&step), step.calls.len()), (Some(RefusalCode::Forbidden), 0), "{step:?}");
    }
}

#[test]
fn a_backend_that_cannot_read_ends_the_session_and_not_the_replica_s_trust() {
    for (question, answer) in results(None, None).into_iter().take(2) {
        let mut server = server();
        drop(asked(&mut server, question));
        let step = server.handle(NOW, &Everyone, ServerEvent::Result(answer));
        assert_eq!(refusal(&step), Some(RefusalCode::Unavailable), "{step:?}");
    }
    let too_many = Some((mark(1), Err(SketchError::TooMany)));
    let [_, (question, answer), ..] = results(None, too_many);
    let mut server = server();
    drop(asked(&mut server, question));
    let step = server.handle(NOW, &Everyone, ServerEvent::Result(answer));
    assert_eq!(step.send, [ServerMessage::Reconciled { space: main_space(), reply: Reply::TooMany, at: None }]);
}

#[test]
fn a_session_follows_only_so_many_spaces() {
    for segments in [false, true] {
        let mut server = server();
        let mut pull = |number: u32| {
            let space = SpaceName::new(format!("space{number}")).expect("a name");
            asked(&mut server, ClientMessage::Pull(Pull { segments, ..Pull::all(space, None, None) }))
        };
        for number in 0..1_024 {
            assert!(!pull(number).close, "{number}");
        }
        assert!(!pull(7).close, "one of them again");
        assert_eq!(refusal(&pull(1_024)), Some(RefusalCode::Protocol));
    }
}

/// A page that is being read starts after a place that the session's own pushes have gone beyond meanwhile. And only
/// so many own places are remembered: the oldest are sent back, and the client ignores them.
#[test]
fn own_changes_are_skipped_once_the_page_under_way_has_been_sent() {
    let mut server = server();
    let pull = asked(&mut server, ClientMessage::Pull(Pull::all(main_space(), None, None)));
    assert!(matches!(pull.calls[..], [Call::Read { .. }]));
    let push = |server: &mut ServerSession, id, seqs: std::ops::RangeInclusive<u64>| {
        let push = Push { id, space: main_space(), changes: Vec::new(), agreed: Vec::new() };
        drop(asked(server, ClientMessage::Push(push)));
        let marks: Vec<_> = seqs.map(mark).collect();
        let outcome = Some(AppendOutcome { answers: Vec::new(), head: marks.last().copied(), marks });
        let result = CallResult::Appended { id, space: main_space(), outcome };
        let step = server.handle(NOW, &Everyone, ServerEvent::Result(result));
        let [ServerMessage::Pushed(pushed)] = &step.send[..] else { panic!("{step:?}") };
        pushed.cursor.is_some()
    };
    assert!(!push(&mut server, 1, 1..=3), "the page may hold what comes before");
    let read = |server: &mut ServerSession| {
        let outcome = Some(LogPage::Rows { rows: Vec::new(), more: false });
        let result = CallResult::Read { space: main_space(), outcome };
        server.handle(NOW, &Everyone, ServerEvent::Result(result))
    };
    let step = read(&mut server);
    assert!(step.calls.is_empty(), "there is nothing but its own: {step:?}");
    assert!(push(&mut server, 2, 4..=6), "nothing lies between");
    // Beyond what is remembered, after a place of somebody else's: the first of them are read back.
    assert!(!push(&mut server, 3, 8..=20_000));
    let known = Mark { seq: 7, ..mark(7) };
    let rows = page(1).into_iter().map(|envelope| (known, envelope)).collect();
    let result = CallResult::Read { space: main_space(), outcome: Some(LogPage::Rows { rows, more: true }) };
    let step = server.handle(NOW, &Everyone, ServerEvent::Result(result));
    let reads_back = |call: &Call| matches!(call, Call::Read { after, .. } if after.seq == 7);
    assert!(step.calls.iter().any(reads_back), "{step:?}");
}
