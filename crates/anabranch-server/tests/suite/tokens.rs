//! Bearer tokens over real sockets: who may do what, for how long, and what nobody is told.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use anabranch_core::segment::SegmentBuilder;
use anabranch_core::sync::Access;
use anabranch_core::sync::reconcile::{MAX_ASKED, MAX_SKETCH_BYTES, Ranges, Sketch as _};
use anabranch_core::wire::{
    Answer, Ask, ClientMessage, Cursor, Envelope, MAX_PRESENCE_BYTES, MAX_PULL_COLLECTIONS, Mark, Pull, Push, Pushed,
    RefusalCode, RejectCode, ServerMessage, Wanted, encode,
};
use anabranch_core::{Change, Digest, Lineage, SpaceName, UnixMillis};
use anabranch_server::{
    AuthorizeFuture, Authorizer, Claims, HeaderMap, SegmentOptions, ServerHandle, ServerOptions, SharedAccess,
    TokenAuthorizer, TokenSecret,
};
use tokio::sync::watch;

use crate::changes::{Author, accepted, entity, notes, space};
use crate::client::{Client, TestClock, hello, request, start_with};

/// The time at which the tests take place, in seconds.
const NOW: i64 = 1_800_000_000;
const HOUR: u64 = 3_600;

fn secret() -> TokenSecret {
    TokenSecret::new(b"a secret of the tests, 32 bytes or more").unwrap()
}

fn token(subject: &str, spaces: &[(&str, &str)]) -> String {
    let spaces = spaces.iter().map(|(space, rights)| (space.parse().unwrap(), rights.parse().unwrap()));
    let claims = Claims {
        subject: subject.to_owned(),
        id: Some(format!("{subject}'s")),
        audience: Vec::new(),
        not_before: None,
        expires_at: NOW.unsigned_abs() + HOUR,
        spaces: spaces.collect(),
    };
    secret().sign(&claims).unwrap()
}

struct Setting {
    server: ServerHandle,
    tokens: TokenAuthorizer,
    clock: TestClock,
}

impl Setting {
    async fn new() -> Self {
        let (tokens, clock) = (TokenAuthorizer::new(secret()), TestClock::new(NOW));
        let options = ServerOptions {
            authorizer: Some(Arc::new(tokens.clone())),
            environment: Box::new(clock.clone()),
            // Every space has segments, so that there is something to be told of.
            segments: SegmentOptions { min_changes: 1, ..SegmentOptions::default() },
            ..ServerOptions::default()
        };
        Self { server: start_with(options).await, tokens, clock }
    }

    fn address(&self) -> SocketAddr {
        self.server.local_addr()
    }
}

fn push_to(space: &SpaceName, changes: Vec<anabranch_core::wire::Envelope>) -> ClientMessage {
    ClientMessage::Push(Push { id: 1, space: space.clone(), changes, agreed: vec![0] })
}

fn pull_from(space: &SpaceName, cursor: Option<Cursor>, live: bool) -> ClientMessage {
    ClientMessage::Pull(Pull { live, ..Pull::all(space.clone(), cursor, None) })
}

/// What an intruder knows of somebody else's space: all that there is to be known.
struct Stolen {
    cursor: Cursor,
    change: Envelope,
    /// The name of its segment.
    segment: Digest,
}

/// Lists the kinds of messages: whoever adds one to the protocol adds it here to compile, and then has to send it.
macro_rules! kinds {
    ($($message:pat => $kind:literal,)+) => {
        const KINDS: &[&str] = &[$($kind),+];

        const fn kind(message: &ClientMessage) -> &'static str {
            match message {
                $($message => $kind,)+
            }
        }
    };
}

kinds! {
    ClientMessage::Hello(_) => "hello",
    ClientMessage::Push(_) => "push",
    ClientMessage::Pull(_) => "pull",
    ClientMessage::Received { .. } => "received",
    ClientMessage::Reconcile { ask: Ask::Sketch(_), .. } => "sketch",
    ClientMessage::Reconcile { ask: Ask::SketchOf { .. }, .. } => "sketch of some collections",
    ClientMessage::Reconcile { ask: Ask::Heads(_), .. } => "heads",
    ClientMessage::Reconcile { ask: Ask::Changes { .. }, .. } => "changes",
    ClientMessage::Segment { .. } => "segment",
    ClientMessage::Presence { .. } => "presence",
}

/// Everything that a session can say of a space, as one that is to find something out would say it.
fn every_message(space: &SpaceName, stolen: &Stolen) -> Vec<ClientMessage> {
    let mut author = Author::new(9);
    let change = author.edit(entity(1), "x");
    let mut depends_on_nothing_here = author.edit(entity(1), "y");
    depends_on_nothing_here.parent = Some(entity(77));
    let mut malformed = change.clone();
    malformed.change.truncate(20);
    let presence = |data| ClientMessage::Presence { space: space.clone(), data };
    let reconcile = |ask| ClientMessage::Reconcile { space: space.clone(), ask };
    let sketch_of = |names, message| reconcile(Ask::SketchOf { collections: vec![notes(); names], message });
    let wanted = |known| Wanted { entity: stolen.change.entity, known };
    let known = Change::parse(stolen.change.change.clone()).unwrap().hash();
    let subset = |names: usize, segments| {
        let collections = Some(vec![notes(); names]);
        ClientMessage::Pull(Pull { collections, segments, ..Pull::all(space.clone(), None, None) })
    };
    let fetch = |digest| ClientMessage::Segment { space: space.clone(), digest };
    let ack = Some(Mark { seq: 1, chain: Digest::from_bytes([1; 32]) });
    let messages = vec![
        hello(9, Some(Lineage::from_bytes([3; 16]))),
        push_to(space, vec![change.clone()]),
        push_to(space, vec![depends_on_nothing_here]),
        push_to(space, vec![malformed]),
        push_to(space, Vec::new()),
        push_to(space, vec![stolen.change.clone()]),
        // Beyond every limit.
        push_to(space, vec![change; 4_500]),
        pull_from(space, None, false),
        pull_from(space, None, true),
        pull_from(space, Some(stolen.cursor.clone()), true),
        pull_from(space, Some(Cursor(vec![1, 2, 3])), false),
        ClientMessage::Pull(Pull::all(space.clone(), None, ack)),
        subset(1, false),
        subset(1, true),
        subset(MAX_PULL_COLLECTIONS + 1, true),
        ClientMessage::Pull(Pull { segments: true, ..Pull::all(space.clone(), Some(stolen.cursor.clone()), ack) }),
        fetch(stolen.segment),
        fetch(Digest::from_bytes([7; 32])),
        reconcile(Ask::Sketch(Ranges::of(Vec::new()).unwrap().open().unwrap())),
        reconcile(Ask::Sketch(vec![0; MAX_SKETCH_BYTES + 1])),
        sketch_of(1, Ranges::of(Vec::new()).unwrap().open().unwrap()),
        sketch_of(MAX_PULL_COLLECTIONS + 1, Vec::new()),
        sketch_of(1, vec![0; MAX_SKETCH_BYTES + 1]),
        reconcile(Ask::Heads(vec![entity(1), entity(2)])),
        reconcile(Ask::Heads(vec![entity(1); MAX_ASKED + 1])),
        reconcile(Ask::Heads(Vec::new())),
        reconcile(Ask::Changes { wanted: vec![wanted(Vec::new())], skip: 0 }),
        reconcile(Ask::Changes { wanted: vec![wanted(vec![known])], skip: 7 }),
        ClientMessage::Received { space: space.clone() },
        presence(Some(b"here".to_vec())),
        presence(Some(vec![0; MAX_PRESENCE_BYTES + 1])),
        presence(None),
    ];
    let said: BTreeSet<_> = messages.iter().map(kind).collect();
    assert_eq!(said, KINDS.iter().copied().collect(), "each kind of message");
    messages
}

/// All that a server says to these messages, byte for byte: each in a session of its own, over both transports, and the
/// routes.
async fn everything_said(address: SocketAddr, token: &str, space: &SpaceName, stolen: &Stolen) -> Vec<Vec<u8>> {
    let mut said = Vec::new();
    let header = format!("authorization: Bearer {token}\r\n");
    for message in every_message(space, stolen) {
        let opening = match message {
            ClientMessage::Hello(_) => Vec::new(),
            _ => vec![hello(9, None)],
        };
        // What is asked afterwards, of a space that is the session's own, shows that it goes on, and that nothing else came.
        let after = pull_from(&crate::changes::space("mine"), None, false);
        let mut client = Client::open(address, Some(token)).await.unwrap();
        for message in opening.iter().chain([&message, &after]) {
            client.send(message).await;
        }
        loop {
            let frame = client.next_frame().await;
            let last = frame.as_ref().is_none_or(|frame| {
                matches!(
                    anabranch_core::wire::decode(frame),
                    Ok(ServerMessage::Changes { .. } | ServerMessage::Refused { .. })
                )
            });
            said.push(frame.unwrap_or_default());
            if last {
                break;
            }
        }
        let body: Vec<u8> = opening.iter().chain([&message, &after]).flat_map(|it| encode(it).unwrap()).collect();
        let (status, answer) = request(address, "POST", "/v1/sync", &header, &body).await;
        said.push([status.to_string().into_bytes(), answer].concat());
    }
    let path = format!("/v1/spaces/{space}");
    let odd = ["/", "/segments/", "/changes", "?live=true", "/segments?digest=x"].map(|more| format!("{path}{more}"));
    let segments = [stolen.segment.to_string(), Digest::from_bytes([7; 32]).to_string(), "nonsense".to_owned()];
    let segments = segments.map(|name| format!("{path}/segments/{name}"));
    for path in [path.clone(), format!("{path}/segments")].iter().chain(&segments).chain(&odd) {
        for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"] {
            for more in ["", "range: bytes=0-1\r\n", "if-none-match: *\r\n"] {
                let (status, answer) = request(address, method, path, &[&header, more].concat(), b"").await;
                said.push([status.to_string().into_bytes(), answer].concat());
            }
        }
    }
    said
}

#[tokio::test]
async fn g11_nothing_tells_whether_a_space_exists_that_a_token_does_not_cover() {
    let setting = Setting::new().await;
    let (ann, bob) = (token("ann", &[("mine", "rw")]), token("bob", &[("theirs", "rw")]));
    let theirs = space("theirs");
    let mut owner = Client::welcome(setting.address(), &bob, 2).await;
    owner.send(&pull_from(&theirs, None, false)).await;
    let (_, cursor, _) = owner.changes().await;
    let change = Author::new(2).edit(entity(1), "private");
    let mut builder = SegmentBuilder::new(notes());
    assert!(builder.add(entity(1), &Change::parse(change.change.clone()).unwrap()));
    let segment = builder.finish().unwrap().piece.digest;
    let stolen = Stolen { cursor, change, segment };

    let absent = everything_said(setting.address(), &ann, &theirs, &stolen).await;
    owner.send(&push_to(&theirs, vec![stolen.change.clone()])).await;
    let ServerMessage::Pushed(Pushed { answers, .. }) = owner.receive().await else { panic!("not pushed") };
    assert_eq!(accepted(&answers[0]), 1);
    owner.send(&pull_from(&theirs, None, true)).await;
    owner.receive().await;
    setting.server.segments_reach(&theirs, 1).await;
    let header = format!("authorization: Bearer {bob}\r\n");
    let path = format!("/v1/spaces/theirs/segments/{}", stolen.segment);
    assert_eq!(request(setting.address(), "GET", &path, &header, b"").await.0, 200, "it is there");
    let present = everything_said(setting.address(), &ann, &theirs, &stolen).await;

    assert_eq!(absent.len(), present.len());
    for (at, (absent, present)) in absent.iter().zip(&present).enumerate() {
        assert_eq!(absent, present, "answer {at}");
    }
    // It is about something: the same questions of one's own space are answered otherwise.
    let allowed = everything_said(setting.address(), &bob, &theirs, &stolen).await;
    assert!(allowed.iter().any(|answer| !present.contains(answer)));
    // Nothing was written, and nobody has seen anything of it.
    let (_, overview) = request(setting.address(), "GET", "/v1/spaces/theirs", &header, b"").await;
    let overview: serde_json::Value = serde_json::from_slice(&overview).unwrap();
    assert_eq!(overview["changes"], 2, "bob's own two");
    owner.leave().await;
    setting.server.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_token_is_good_for_what_it_says() {
    let setting = Setting::new().await;
    let home = space("home");
    let (reader, writer) = (token("ann", &[("ho*", "r")]), token("bob", &[("home", "w")]));
    let change = Author::new(2).edit(entity(1), "x");
    let mut bob = Client::welcome(setting.address(), &writer, 2).await;
    assert_eq!(accepted(&bob.push(1, vec![change.clone()]).await.answers[0]), 1);
    bob.send(&pull_from(&home, None, false)).await;
    assert!(matches!(bob.receive().await, ServerMessage::Refused { code: RefusalCode::Forbidden, .. }));

    let mut ann = Client::welcome(setting.address(), &reader, 1).await;
    assert_eq!(ann.pull(None).await.0, [change]);
    let answers = ann.push(1, vec![Author::new(1).edit(entity(2), "y")]).await.answers;
    assert!(matches!(answers[..], [Answer::Rejected { code: RejectCode::Forbidden, retryable: false, .. }]));
    ann.leave().await;
    setting.server.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_bad_token_is_refused_in_the_same_words_everywhere() {
    let setting = Setting::new().await;
    let good = token("ann", &[("home", "rw")]);
    let claims = secret().verify(&good).unwrap();
    let expired = secret().sign(&Claims { expires_at: NOW.unsigned_abs() - HOUR, ..claims.clone() }).unwrap();
    let early = secret().sign(&Claims { not_before: Some(NOW.unsigned_abs() + HOUR), ..claims.clone() }).unwrap();
    let foreign = TokenSecret::new(&[1; 32]).unwrap().sign(&claims).unwrap();
    setting.tokens.revoke("bob's");
    let revoked = token("bob", &[("home", "rw")]);
    let mut answers = BTreeSet::new();
    for bad in [&expired, &early, &foreign, &revoked, "", "x", &good[1..]] {
        assert_eq!(Client::open(setting.address(), Some(bad)).await.err(), Some(401), "{bad}");
        for (method, path) in [("POST", "/v1/sync"), ("GET", "/v1/spaces/home"), ("GET", "/v1/spaces/a%20b")] {
            let header = format!("authorization: Bearer {bad}\r\n");
            answers.insert(request(setting.address(), method, path, &header, b"").await);
        }
    }
    answers.insert(request(setting.address(), "GET", "/v1/spaces/home", "", b"").await);
    assert_eq!(answers, [(401, b"not authorized\n".to_vec())].into());
    assert!(Client::open(setting.address(), None).await.is_err());
    assert!(Client::open(setting.address(), Some(&good)).await.is_ok());
    setting.server.shutdown().await.unwrap();
}

async fn ends_as_expired(mut client: Client) {
    let refused = client.receive().await;
    assert!(matches!(refused, ServerMessage::Refused { code: RefusalCode::Expired, .. }), "{refused:?}");
    assert_eq!(client.next().await, Err(Some(1008)));
}

#[tokio::test]
async fn a_session_ends_at_once_when_its_token_is_revoked() {
    let setting = Setting::new().await;
    let open = async |subject: &str| {
        let mut client = Client::welcome(setting.address(), &token(subject, &[("home", "rw")]), 1).await;
        client.send(&pull_from(&space("home"), None, true)).await;
        client.changes().await;
        client
    };
    let (ann, bob, mut eve) = (open("ann").await, open("bob").await, open("eve").await);
    // Nothing is said, and nothing is going on.
    setting.tokens.revoke_subject("ann");
    ends_as_expired(ann).await;
    setting.tokens.revoke("bob's");
    ends_as_expired(bob).await;
    assert!(eve.push(1, Vec::new()).await.answers.is_empty());
    eve.leave().await;
    setting.server.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_session_ends_when_its_token_expires() {
    let setting = Setting::new().await;
    let token = token("ann", &[("home", "rw")]);
    let mut asking = Client::welcome(setting.address(), &token, 1).await;
    assert!(asking.push(1, Vec::new()).await.answers.is_empty());
    // The leeway is a minute.
    let end = NOW + i64::try_from(HOUR).unwrap() + 60;
    setting.clock.set(end - 1);
    assert!(asking.push(1, Vec::new()).await.answers.is_empty());
    let silent = Client::welcome(setting.address(), &token, 2).await;
    setting.clock.set(end);
    // The next message is not answered; and who sends none is told when the second is over.
    asking.send(&push_to(&space("home"), vec![Author::new(1).edit(entity(1), "late")])).await;
    ends_as_expired(asking).await;
    ends_as_expired(silent).await;
    assert_eq!(Client::open(setting.address(), Some(&token)).await.err(), Some(401));
    setting.server.shutdown().await.unwrap();
}

/// An application's own rules: a list of who may see what, which changes.
#[derive(Clone)]
struct Members {
    readers: Arc<Mutex<BTreeSet<String>>>,
    changed: watch::Sender<()>,
}

impl Access for Members {
    fn may_read(&self, space: &SpaceName) -> bool {
        self.readers.lock().unwrap().contains(space.as_str())
    }

    fn may_write(&self, _space: &SpaceName) -> bool {
        false
    }
}

impl Authorizer for Members {
    fn authorize<'a>(&'a self, _now: UnixMillis, _headers: &'a HeaderMap) -> AuthorizeFuture<'a> {
        Box::pin(async { Some(Arc::new(self.clone()) as SharedAccess) })
    }

    fn changes(&self) -> Option<watch::Receiver<()>> {
        Some(self.changed.subscribe())
    }
}

#[tokio::test]
async fn a_right_that_an_application_takes_back_ends_at_once() {
    let members = Members { readers: Arc::default(), changed: watch::Sender::new(()) };
    members.readers.lock().unwrap().extend(["home".to_owned(), "work".to_owned()]);
    let options = ServerOptions { authorizer: Some(Arc::new(members.clone())), ..ServerOptions::default() };
    let server = start_with(options).await;
    let follow = async |name: &str| {
        let (mut client, _) = Client::connect(server.local_addr(), 1).await;
        client.send(&pull_from(&space(name), None, true)).await;
        client.changes().await;
        client
    };
    let (mut home, mut work) = (follow("home").await, follow("work").await);
    members.readers.lock().unwrap().remove("home");
    members.changed.send_replace(());
    assert!(matches!(home.receive().await, ServerMessage::Refused { code: RefusalCode::Forbidden, .. }));
    work.send(&pull_from(&space("work"), None, false)).await;
    work.changes().await;
    work.leave().await;
    server.shutdown().await.unwrap();
}
