//! What should not be said, or not now: servers that break the protocol, and events at odd moments.

use anabranch_core::sync::{
    ClientEvent, ClientSession, ClientStep, Halt, LinkCommand, Look, OutboxRead, Reoffer, SpaceProgress, SyncEvent,
};
use anabranch_core::wire::{
    Answer, ClientMessage, Cursor, MAX_CURSOR_BYTES, Mark, Pull, Pushed, RefusalCode, Reply, ServerMessage,
};
use anabranch_core::{Digest, SpaceName, SplitMix64};

use super::{NOW, main_space, nothing_new, page, pending, session, welcome};

/// A session and its dice.
struct Client(ClientSession, SplitMix64);

impl Client {
    /// One that the server has said welcome to.
    fn welcomed() -> Self {
        let mut client = Self::greeting();
        client.hear(welcome());
        client
    }

    /// One that has said hello.
    fn greeting() -> Self {
        let mut entropy = SplitMix64::new(1);
        let mut client = Self(session(&mut entropy), entropy);
        client.hear(ClientEvent::Start);
        client.hear(ClientEvent::Connected);
        client
    }

    /// One that asks what it and the server have, because the server did not know its cursor.
    fn reconciling() -> Self {
        let mut client = Self::welcomed();
        client.hear(nothing_new());
        let step = client.hear(said(ServerMessage::CursorUnknown { space: main_space() }));
        assert_eq!(step.looks, [Look::Items { space: main_space(), collections: None }]);
        client.hear(ClientEvent::Items { space: main_space(), items: Vec::new() });
        client
    }

    fn hear(&mut self, event: ClientEvent) -> ClientStep {
        self.0.handle(NOW, &mut self.1, event)
    }

    /// Hears what ends the session: nothing of it is stored, and nothing more is said.
    fn halts(mut self, event: ClientEvent) -> String {
        let step = self.hear(event);
        assert_eq!((step.link, &step.batch, &step.send), (Some(LinkCommand::Close), &None, &Vec::new()));
        let [SyncEvent::Halted(Halt::Protocol(reason))] = &step.events[..] else { panic!("{step:?}") };
        reason.clone()
    }
}

fn said(message: ServerMessage) -> ClientEvent {
    ClientEvent::Message(message)
}

fn found(keys: &[i64], retry_at: Option<i64>) -> ClientEvent {
    let items = keys.iter().map(|key| pending(*key, 10)).collect();
    ClientEvent::Outbox { space: main_space(), items, retry_at }
}

fn pushed(id: u64, answers: usize) -> ClientEvent {
    let answers = vec![Answer::Accepted { seq: 1 }; answers];
    said(ServerMessage::Pushed(Pushed { id, space: main_space(), answers, mark: None, cursor: None }))
}

#[test]
fn a_server_that_breaks_the_protocol_is_not_listened_to() {
    let poke = || said(ServerMessage::Poke { space: main_space() });
    assert_eq!(Client::greeting().halts(poke()), "the server did not say welcome");
    let refused = ServerMessage::Refused {
        code: RefusalCode::Protocol,
        message: "a frame that is none".to_owned(),
        retry_after_millis: None,
    };
    assert_eq!(Client::welcomed().halts(said(refused)), "a frame that is none");
    let beginning = said(ServerMessage::CursorUnknown { space: main_space() });
    assert_eq!(Client::welcomed().halts(beginning), "the server does not know its own beginning");
    let changes = |bytes| {
        let cursor = Cursor(vec![0; bytes]);
        said(ServerMessage::Changes { space: main_space(), changes: page(1), cursor, more: false })
    };
    let taken = Client::welcomed().hear(changes(MAX_CURSOR_BYTES)).batch.expect("the longest that may be");
    assert_eq!(taken.incoming.len(), 1);
    assert_eq!(Client::welcomed().halts(changes(MAX_CURSOR_BYTES + 1)), "the server sent a cursor that is too long");
}

/// Otherwise the answers would settle other changes than those they are about.
#[test]
fn answers_to_another_push_settle_nothing() {
    for (id, answers) in [(2, 2), (1, 1), (1, 3)] {
        let mut client = Client::welcomed();
        let step = client.hear(found(&[1, 2], None));
        assert!(matches!(&step.send[..], [ClientMessage::Push(push)] if push.id == 1), "{step:?}");
        assert_eq!(client.halts(pushed(id, answers)), "the server answered what was not asked", "{id}, {answers}");
    }
    assert_eq!(Client::welcomed().halts(pushed(1, 0)), "the server answered what was not asked", "nothing was pushed");
    let mut client = Client::welcomed();
    client.hear(found(&[1, 2], None));
    assert_eq!(client.hear(pushed(1, 2)).batch.expect("a batch").answered.len(), 2);
}

#[test]
fn a_reconcile_ends_at_once_when_the_server_answers_something_else_or_hides_its_end() {
    let reply = |reply, at| said(ServerMessage::Reconciled { space: main_space(), reply, at });
    let heads = reply(Reply::Heads(Vec::new()), None);
    assert_eq!(Client::reconciling().halts(heads), "the other side answered what was not asked");
    let same = anabranch_core::sync::reconcile::answer_sketch(Vec::new(), &sketch());
    let same = reply(Reply::Sketch(same.expect("an answer")), None);
    assert_eq!(Client::reconciling().halts(same), "the server does not say where its log ends");
}

/// What a replica without anything asks.
fn sketch() -> Vec<u8> {
    let begun = anabranch_core::sync::reconcile::Reconciler::begin_of(Vec::new(), None).expect("a beginning");
    let anabranch_core::wire::Ask::Sketch(sketch) = begun.1 else { panic!("a sketch") };
    sketch
}

/// The long way: marks are given up in the same transaction that offers everything, and the log is read from its
/// beginning.
#[test]
fn g10_what_is_too_much_to_reconcile_is_offered_whole() {
    let mut client = Client::reconciling();
    let step = client.hear(said(ServerMessage::Reconciled { space: main_space(), reply: Reply::TooMany, at: None }));
    let batch = step.batch.expect("a batch");
    assert_eq!((batch.reoffer, batch.cursor, batch.ack), (Reoffer::Space, None, None));
    assert_eq!(step.send, [ClientMessage::Pull(Pull::all(main_space(), None, None))]);
    assert_eq!(step.reads, [OutboxRead { space: main_space(), changes: 10, bytes: 1_000 }]);
    // And so does a push that is under way: the outbox is read when it has been answered.
    let mut client = Client::welcomed();
    client.hear(nothing_new());
    client.hear(found(&[1], None));
    client.hear(said(ServerMessage::CursorUnknown { space: main_space() }));
    client.hear(ClientEvent::Items { space: main_space(), items: Vec::new() });
    let step = client.hear(said(ServerMessage::Reconciled { space: main_space(), reply: Reply::TooMany, at: None }));
    assert_eq!((step.batch.expect("a batch").reoffer, step.reads), (Reoffer::Space, Vec::new()));
    assert_eq!(client.hear(pushed(1, 1)).reads.len(), 1);
}

#[test]
fn late_words_of_a_link_that_is_given_up_change_nothing() {
    let mut client = Client::welcomed();
    client.hear(found(&[1, 2], None));
    let lost = || ClientEvent::Disconnected { reason: "gone".to_owned(), retry_after_millis: None };
    let waiting = client.hear(lost());
    assert_eq!(client.0.failures(), 1);
    let mark = Mark { seq: 1, chain: Digest::from_bytes([1; 32]) };
    let unknown = ServerMessage::CursorUnknown { space: main_space() };
    let manifest =
        ServerMessage::Reconciled { space: main_space(), reply: Reply::TooMany, at: Some((Cursor(vec![1]), mark)) };
    for late in [pushed(1, 2), nothing_new(), said(unknown), said(manifest), welcome(), ClientEvent::Connected, lost()]
    {
        let step = client.hear(late);
        assert_eq!((step.batch, step.link, step.send, step.events), (None, None, Vec::new(), Vec::new()));
        assert_eq!((step.deadline, client.0.failures()), (waiting.deadline, 1));
    }
}

/// A space that is written to for the first time while a sync goes on.
#[test]
fn a_space_that_is_new_is_pulled_and_pushed_over_the_link_that_is_there() {
    let other = || SpaceName::new("other").expect("a name");
    let follow = || ClientEvent::Follow(SpaceProgress::begin(other()));
    let pull = || ClientMessage::Pull(Pull { segments: true, ..Pull::all(other(), None, None) });
    let read = || OutboxRead { space: other(), changes: 10, bytes: 1_000 };
    let empty = |space| ClientEvent::Outbox { space, items: Vec::new(), retry_at: None };

    let mut open = Client::welcomed();
    open.hear(nothing_new());
    assert_eq!(open.hear(empty(main_space())).events, [SyncEvent::CaughtUp]);
    let step = open.hear(follow());
    assert_eq!((step.send, step.reads), (vec![pull()], vec![read()]));
    assert!(!open.0.is_caught_up(), "nothing has come of it");
    let again = open.hear(follow());
    assert_eq!((again.send, again.reads), (Vec::new(), Vec::new()), "it is followed already");
    let cursor = Cursor(vec![1]);
    open.hear(said(ServerMessage::Changes { space: other(), changes: Vec::new(), cursor, more: false }));
    assert_eq!(open.hear(empty(other())).events, [SyncEvent::CaughtUp]);

    let mut greeting = Client::greeting();
    let step = greeting.hear(follow());
    assert_eq!((step.send, step.reads), (vec![pull()], Vec::new()), "what may be pushed is not known yet");
    assert!(greeting.hear(welcome()).reads.contains(&read()));

    let mut idle = Client(session(&mut SplitMix64::new(1)), SplitMix64::new(1));
    assert_eq!(idle.hear(follow()).send, []);
    idle.hear(ClientEvent::Start);
    assert!(idle.hear(ClientEvent::Connected).send.contains(&pull()));
}

/// What waits becomes due while the outbox is read, or while a push is under way.
#[test]
fn g07_a_timer_neither_reads_nor_pushes_twice_at_once() {
    let due = Some(NOW);
    let mut client = Client::welcomed();
    client.hear(nothing_new());
    client.hear(found(&[1], due));
    let timer = client.hear(ClientEvent::Timer);
    assert_eq!((timer.reads.len(), timer.send.len()), (0, 0), "a push is under way");
    assert_eq!(client.hear(pushed(1, 1)).reads.len(), 1, "which is followed by another look");

    let mut client = Client::welcomed();
    client.hear(nothing_new());
    client.hear(found(&[1], due));
    assert_eq!(client.hear(pushed(1, 1)).reads.len(), 1);
    assert_eq!(client.hear(ClientEvent::Timer).reads.len(), 0, "the outbox is being read");
    assert_eq!(client.hear(found(&[], None)).reads.len(), 1, "it may have been read too early");
    assert_eq!(client.hear(found(&[], None)).events, [SyncEvent::CaughtUp]);
}
