//! Values and tokens stay out of logs and error texts: some are planted, and everything that is said is searched.
//!
//! A program of its own, since it listens to the whole process.

mod support;

use std::io;
use std::sync::{Arc, Mutex};

use anabranch::Error;
use anabranch_server::{
    Backend, Claims, Quota, SegmentOptions, Server, ServerOptions, SqliteBackend, SystemEnvironment, TokenAuthorizer,
    TokenSecret,
};
use serde_json::json;
use tracing_subscriber::fmt::format::FmtSpan;

use support::{Folder, GUARD, notes};

const VALUE: &str = "planted-value-7f3a";
const SECRET: &str = "planted-secret-of-32-bytes-or-more-91c2";

/// All that has been said.
#[derive(Clone, Default)]
struct Said(Arc<Mutex<Vec<u8>>>);

impl Said {
    fn add(&self, text: &str) {
        self.0.lock().expect("what was said").extend(text.as_bytes());
    }

    /// An error as it may be shown anywhere.
    fn error(&self, error: &(dyn std::error::Error + 'static)) {
        self.add(&format!("{error}\n{error:?}\n{error:#?}\n"));
        if let Some(source) = error.source() {
            self.error(source);
        }
    }

    fn debug(&self, thing: &dyn std::fmt::Debug) {
        self.add(&format!("{thing:?}\n{thing:#?}\n"));
    }
}

impl io::Write for Said {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("what was said").extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Hears the older logging interface, which libraries below ours use.
struct Older(Said);

impl log::Log for Older {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        // It prints whole frames and requests at its finest level, whoever uses it (see docs/SECURITY.md).
        !(metadata.target().starts_with("tungstenite") && metadata.level() == log::Level::Trace)
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            self.0.add(&format!("{} {} {}\n", record.level(), record.target(), record.args()));
        }
    }

    fn flush(&self) {}
}

#[test]
fn g11_no_value_and_no_token_is_ever_said() -> Result<(), Error> {
    let said = Said::default();
    let writer = said.clone();
    tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_span_events(FmtSpan::FULL)
        .with_writer(move || writer.clone())
        .init();
    log::set_boxed_logger(Box::new(Older(said.clone()))).expect("the only logger");
    log::set_max_level(log::LevelFilter::Trace);

    let secret = TokenSecret::new(SECRET.as_bytes()).expect("a secret");
    let tokens = TokenAuthorizer::new(secret.clone());
    let token = |subject: &str, rights: &str| {
        let spaces = [("main".parse().expect("a pattern"), rights.parse().expect("rights"))];
        let (subject, spaces) = (subject.to_owned(), spaces.into());
        let claims =
            Claims { subject, id: None, audience: Vec::new(), not_before: None, expires_at: 4_000_000_000, spaces };
        secret.sign(&claims).expect("a token")
    };
    // Too small for much: the quota refuses some of it.
    let quota = Quota { entity: 2_000, ..Quota::default() };
    let options = ServerOptions {
        authorizer: Some(Arc::new(tokens.clone())),
        quota,
        segments: SegmentOptions { min_changes: 1, ..SegmentOptions::default() },
        ..ServerOptions::default()
    };
    said.debug(&options);
    said.debug(&tokens);
    said.debug(&secret);

    let folder = Folder::new();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let backend = SqliteBackend::open(folder.path("server.db"), Box::new(SystemEnvironment)).expect("a backend");
    let backend: Arc<dyn Backend> = Arc::new(backend);
    let server = runtime.block_on(Server::bind(([127, 0, 0, 1], 0).into(), backend, options)).expect("a server");
    let url = format!("http://{}", server.local_addr());
    let server = {
        let _inside = runtime.enter();
        server.spawn()
    };

    // Two who may, and agree.
    let (good, reader) = (token("ann", "rw"), token("bob", "r"));
    let sync =
        |replica: &anabranch::Replica, token: &str| replica.sync(&url).space("main").expect("a space").token(token);
    let (a, b) = (folder.replica("a.db"), folder.replica("b.db"));
    let id = notes(&a).create(json!({ "title": VALUE, "body": VALUE, "tags": [VALUE], "items": [VALUE] })).wait()?;
    sync(&a, &good).now(GUARD).wait()?;
    said.debug(&sync(&b, &good).now(GUARD).wait()?);
    assert_eq!(notes(&b).get(id)?.expect("the note").state["title"], VALUE);

    // A third one, by segments; then it is looked at, and a fourth one has it from that.
    runtime.block_on(server.segments_reach(&"main".parse().expect("a space name"), 1));
    let (c, d) = (folder.replica("c.db"), folder.replica("d.db"));
    said.debug(&sync(&c, &good).now(GUARD).wait()?);
    said.debug(&sync(&c, &good).verify(GUARD).wait()?);
    said.debug(&c.exchange(&d)?);
    assert_eq!(notes(&d).get(id)?.expect("the note").state["title"], VALUE);

    // Writes that fail, of every kind that comes to mind.
    let wrong = [
        notes(&a).edit(id, |note| note.increment(VALUE, 1)).wait(),
        notes(&a).edit(id, |note| note.set("stars", VALUE)).wait(),
        notes(&a).edit(id, |note| note.splice("body", 1_000_000, 0, VALUE)).wait(),
        notes(&a).edit(id, |note| note.increment("title", 1)).wait(),
        notes(&a).edit(id, |note| note.set("title", "x".repeat(2 << 20) + VALUE)).wait(),
        notes(&a).create(json!({ "stars": VALUE })).wait().map(|_| true),
    ];
    let refused = wrong.into_iter().filter_map(Result::err).collect::<Vec<_>>();
    assert!(refused.len() >= 5, "{refused:?}");
    // The first names a field, as a program does; that is no value.
    refused.iter().skip(1).for_each(|error| said.error(error));

    // What the server refuses: more than its quota, a reader who writes, a token that is none.
    for n in 0..20 {
        notes(&a).edit(id, move |note| note.set("title", format!("{VALUE}-{n}"))).wait()?;
    }
    said.debug(&sync(&a, &good).now(GUARD).wait());
    assert!(a.status()?.parked > 0, "the quota was met");
    notes(&b).edit(id, |note| note.set("title", VALUE.to_uppercase() + VALUE)).wait()?;
    said.debug(&sync(&b, &reader).now(GUARD).wait());
    let tampered = good.replacen('.', "x.", 1);
    let error = sync(&b, &tampered).now(GUARD).wait().expect_err("the token is not one");
    said.error(&error);
    tokens.revoke_subject("ann");
    said.error(&sync(&a, &good).now(GUARD).wait().expect_err("ann is out"));
    said.debug(&a.status()?);
    said.debug(&b.status()?);
    said.debug(&a);
    runtime.block_on(server.shutdown()).expect("it ends");

    let said = String::from_utf8(said.0.lock().expect("what was said").clone()).expect("text");
    for (what, expected) in [("the server", "listening"), ("sessions", "session"), ("a refusal", "a token is refused")]
    {
        assert!(said.contains(expected), "nothing was heard of {what}");
    }
    let signature = |token: &str| token.rsplit('.').next().expect("a signature").to_owned();
    for planted in [VALUE, SECRET, &good, &reader, &tampered, &signature(&good), &signature(&reader)] {
        let line = said.lines().find(|line| line.contains(planted));
        assert_eq!(line, None, "{planted}");
    }
    // Nor as bytes in a list, as Debug prints them.
    let as_list = VALUE.bytes().take(8).map(|byte| byte.to_string()).collect::<Vec<_>>().join(", ");
    assert!(!said.contains(&as_list));
    Ok(())
}
