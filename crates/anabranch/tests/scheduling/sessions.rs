//! Tokens, bounded runs, signing out.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anabranch::{Error, ErrorClass, ErrorKind, Event, Phase, Reason, Token, TokenError, TokenRequest};

use crate::support::{Guard, World, caught_up, expect, expect_caught_up, expect_offline, notes, until, write};

#[test]
fn a_provider_is_asked_once_more_when_the_server_refuses_its_token() -> Result<(), Error> {
    let world = World::new();
    world.server.require_token("second");
    let phone = world.open("phone.db");
    write(&phone, "one");
    let fresh = Arc::new(AtomicU32::new(0));
    let asked = Arc::clone(&fresh);
    let sync = world.sync(&phone).token_from(move |request| {
        let fresh = match request {
            TokenRequest::Any => asked.load(Ordering::SeqCst),
            TokenRequest::Fresh => asked.fetch_add(1, Ordering::SeqCst) + 1,
        };
        Ok(Token::from(if fresh == 0 { "first" } else { "second" }))
    });
    let sync = sync.start()?;
    caught_up(&sync)?;
    assert_eq!((fresh.load(Ordering::SeqCst), phone.status()?.failures), (1, 0));
    Ok(())
}

#[test]
fn a_token_that_is_refused_halts_the_sync_visibly_until_another_one_is_set() -> Result<(), Error> {
    let world = World::new();
    world.server.require_token("correct-horse");
    let phone = world.open("phone.db");
    let mut events = phone.events();
    write(&phone, "one");
    let sync = world.sync(&phone).token("planted-secret").start()?;
    let reason = expect(&mut events, "a sign-in", |event| match event {
        Event::AuthNeeded { reason } => Some(reason.clone()),
        _ => None,
    });
    let status = until(&phone, "halted", |status| status.phase == Phase::Halted);
    assert_eq!(status.deferred.map(|deferral| deferral.because), Some(Reason::AuthNeeded));
    assert_eq!((status.error_class, status.last_error), (Some(ErrorClass::Auth), Some(reason.clone())));
    assert!(!reason.contains("planted") && !format!("{sync:?}").contains("planted"));
    // Time does not help, and the server is not asked again and again.
    world.pass(3_600_000);
    write(&phone, "two");
    assert_eq!(world.link.connections(), 1);
    sync.set_token("correct-horse");
    expect_caught_up(&mut events);
    assert_eq!((phone.status()?.pending, phone.status()?.last_error), (0, None));
    assert!(world.agree(&phone));
    Ok(())
}

#[test]
fn a_token_that_was_set_in_time_is_used_when_the_old_one_expires() -> Result<(), Error> {
    let world = World::new();
    world.server.require_token("old");
    let phone = world.open("phone.db");
    let mut events = phone.events();
    let sync = world.sync(&phone).token("old").start()?;
    expect_caught_up(&mut events);
    sync.set_token("new");
    // After this, it has been taken note of.
    caught_up(&sync)?;
    world.server.require_token("new");
    world.server.expire_tokens();
    let next = expect(&mut events, "another session", |event| match event {
        Event::CaughtUp | Event::AuthNeeded { .. } => Some(event.clone()),
        _ => None,
    });
    assert_eq!((next, world.link.connections()), (Event::CaughtUp, 2));
    Ok(())
}

#[test]
fn a_provider_or_a_transport_that_hangs_is_given_up_and_can_be_hurried() -> Result<(), Error> {
    let world = World::new();
    let phone = world.open("phone.db");
    let mut events = phone.events();
    let asked = Arc::new(AtomicU32::new(0));
    let times = Arc::clone(&asked);
    // It hangs, twice; what it would have said is refused.
    let provider = move |_| {
        let hangs = times.fetch_add(1, Ordering::SeqCst) < 2;
        async move {
            if hangs {
                std::future::pending::<()>().await;
            }
            Ok(Token::from("correct-horse"))
        }
    };
    let sync = world.sync(&phone).token_from_async(provider).start()?;
    until(&phone, "connecting", |status| status.phase == Phase::Connecting);
    world.pass(60_000);
    let (failures, retry_at) = expect_offline(&mut events);
    assert_eq!((failures, world.link.connections()), (1, 0));
    world.clock.set(retry_at);
    let mut guard = Guard::new();
    while asked.load(Ordering::SeqCst) < 2 {
        guard.check("asked again");
    }
    sync.retry_now();
    expect_caught_up(&mut events);
    assert_eq!(asked.load(Ordering::SeqCst), 3);

    // A token that is set does not wait for the provider either.
    let laptop = world.open("laptop.db");
    let sync = world.sync(&laptop).token_from_async(|_| std::future::pending()).start()?;
    until(&laptop, "connecting", |status| status.phase == Phase::Connecting);
    sync.set_token("correct-horse");
    caught_up(&sync)?;
    Ok(())
}

#[test]
fn an_async_provider_that_is_signed_out_is_no_failure_of_the_network() -> Result<(), Error> {
    let world = World::new();
    let phone = world.open("phone.db");
    let signed_out = || async { Err(TokenError::SignedOut("nobody is signed in".to_owned())) };
    let error = world.sync(&phone).token_from_async(move |_| signed_out()).now(Duration::from_secs(1)).wait();
    let error = error.expect_err("signed out");
    assert_eq!((error.kind(), world.link.connections()), (ErrorKind::Refused, 0));
    let flaky = |_| async { Err(TokenError::Unavailable("the identity server is down".to_owned())) };
    let error = world.sync(&phone).token_from_async(flaky).now(Duration::from_secs(1)).wait();
    assert_eq!(error.expect_err("no token").kind(), ErrorKind::Retry);
    assert_eq!(phone.status()?.failures, 1);
    Ok(())
}

#[test]
fn a_bounded_run_reports_what_was_done_and_what_is_left() -> Result<(), Error> {
    let world = World::new();
    let phone = world.open("phone.db");
    for n in 0..2_500 {
        drop(notes(&phone).create(serde_json::json!({ "title": n })));
    }
    write(&phone, "last");
    // Hello and pull, welcome and the answer, the first push and its answer; the second push is on its way for ever.
    world.link.hold_after(6);
    let run = world.sync(&phone).now(Duration::from_secs(20));
    until(&phone, "a part is there", |status| status.pending < 2_501);
    world.pass(20_000);
    let report = run.wait()?;
    assert!(!report.finished && report.pushed >= 1 && report.pending >= 1, "{report:?}");
    assert_eq!(report.pending, phone.status()?.pending);
    world.link.release();
    let rest = world.sync(&phone).now(Duration::from_secs(20)).wait()?;
    assert!(rest.finished && rest.pending == 0);
    // What came through while nobody listened any more is known to the server: nothing is there twice.
    assert_eq!(world.server.changes("home"), 2_501 + 1);
    assert!(world.agree(&phone));
    Ok(())
}

#[test]
fn signing_out_says_what_is_unsent_and_makes_room_for_another_account() -> Result<(), Error> {
    let world = World::new();
    let phone = world.open("phone.db");
    let replica = phone.id();
    let sync = world.sync(&phone).start()?;
    write(&phone, "a title that was sent");
    caught_up(&sync)?;
    assert!(phone.unsent()?.is_empty());
    world.link.go_offline();
    write(&phone, "a title that was not");
    let seen = phone.unsent()?;
    assert_eq!((seen.changes, seen.entities, seen.refused), (1, 1, 0));
    assert_eq!(seen.collections.first().map(|(name, count)| (name.as_str(), *count)), Some(("notes", 1)));
    assert!(seen.oldest_at.is_some() && seen.bytes > 0);

    write(&phone, "written meanwhile");
    let error = phone.sign_out(seen).wait().expect_err("there is more now");
    assert_eq!((error.kind(), phone.status()?.entities), (ErrorKind::Refused, 3));
    phone.sign_out(phone.unsent()?).wait()?;
    assert_eq!((phone.status()?.entities, phone.status()?.url), (0, None));
    let refused = notes(&phone).create(serde_json::json!({ "title": "too late" })).wait();
    let refused = refused.expect_err("signed out");
    assert_eq!(refused.kind(), ErrorKind::Invalid, "{refused}");
    drop((sync, phone));

    let bytes = std::fs::read(world.path("phone.db")).expect("the file");
    for title in ["a title that was sent", "a title that was not"] {
        assert!(!bytes.windows(title.len()).any(|window| window == title.as_bytes()), "{title:?} is still in the file");
    }
    // Another account, on another server: nothing of the first one gets there.
    let phone = world.open("phone.db");
    assert_ne!(phone.id(), replica);
    let other = anabranch::testing::Server::new(&world.clock);
    write(&phone, "mine");
    let report = phone.sync("memory:").transport(other.link()).now(Duration::from_secs(5)).wait()?;
    assert_eq!((report.pushed, other.entities("home").len()), (2, 2));
    Ok(())
}

#[test]
fn signing_out_ends_a_session_that_has_nothing_to_do() -> Result<(), Error> {
    let world = World::new();
    let phone = world.open("phone.db");
    let sync = world.sync(&phone).start()?;
    caught_up(&sync)?;
    phone.sign_out(phone.unsent()?).wait()?;
    let status = until(&phone, "the end", |status| !status.online);
    assert_eq!((status.phase, world.link.connections()), (Phase::Halted, 1));
    Ok(())
}

/// The real server and the real transport: the token is in the header, and nowhere that it could be seen.
#[test]
fn a_token_travels_in_the_header_of_the_websocket() -> Result<(), Error> {
    use anabranch_server::{HeaderMap, OpenAccess, Server, ServerOptions, SharedAccess, SqliteBackend};

    let world = World::new();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let server = runtime.block_on(async {
        let backend = SqliteBackend::open(world.path("server.db"), Box::new(anabranch::SystemEnvironment::new()));
        let options = ServerOptions {
            authorizer: Some(Arc::new(|headers: &HeaderMap| {
                let known = headers.get("authorization").is_some_and(|token| token == "Bearer correct-horse");
                known.then(|| -> SharedAccess { Arc::new(OpenAccess) })
            })),
            ..ServerOptions::default()
        };
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        Server::bind(address, Arc::new(backend.expect("a backend")), options).await.expect("a server").spawn()
    });
    let url = format!("http://{}", server.local_addr());
    let phone = world.open("phone.db");
    write(&phone, "one");
    let run = |token: &str| phone.sync(&url).token(token).now(Duration::from_secs(60)).wait();
    let refused = run("planted-secret").expect_err("an unknown token");
    assert_eq!(refused.kind(), ErrorKind::Refused);
    assert!(refused.to_string().contains("401") && !refused.to_string().contains("planted"), "{refused}");
    assert_eq!(phone.status()?.error_class, Some(ErrorClass::Auth));
    let unprintable = run("line\nbreak").expect_err("no header can carry it");
    assert!(!unprintable.to_string().contains("break"), "{unprintable}");
    assert!(run("correct-horse")?.finished);
    runtime.block_on(server.abort());
    Ok(())
}

/// The real server ends a session whose token has been revoked; with a fresh one it goes on at once, without a failure.
#[test]
fn a_session_whose_token_ends_goes_on_with_a_fresh_one() -> Result<(), Error> {
    use anabranch_server::{Claims, Server, ServerOptions, SqliteBackend, TokenAuthorizer, TokenSecret};

    let world = World::new();
    let secret = TokenSecret::new(b"a secret of the tests, 32 bytes or more").expect("a secret");
    let tokens = TokenAuthorizer::new(secret.clone());
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let server = runtime.block_on(async {
        let backend = SqliteBackend::open(world.path("server.db"), Box::new(anabranch::SystemEnvironment::new()));
        let options = ServerOptions { authorizer: Some(Arc::new(tokens.clone())), ..ServerOptions::default() };
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        Server::bind(address, Arc::new(backend.expect("a backend")), options).await.expect("a server").spawn()
    });
    let phone = world.open("phone.db");
    let mut events = phone.events();
    write(&phone, "one");
    let (asked, token_of) = (Arc::new(AtomicU32::new(0)), move |number: u32| {
        let claims = Claims {
            subject: "ann".to_owned(),
            id: Some(format!("number {number}")),
            audience: Vec::new(),
            not_before: None,
            expires_at: 4_000_000_000,
            spaces: [("*".parse().expect("a pattern"), "rw".parse().expect("rights"))].into(),
        };
        Token::from(secret.sign(&claims).expect("a token"))
    });
    let fresh = Arc::clone(&asked);
    let sync = phone.sync(&format!("http://{}", server.local_addr())).token_from(move |request| {
        Ok(token_of(match request {
            TokenRequest::Any => asked.load(Ordering::SeqCst),
            TokenRequest::Fresh => asked.fetch_add(1, Ordering::SeqCst) + 1,
        }))
    });
    let sync = sync.start()?;
    caught_up(&sync)?;
    expect(&mut events, "online", |event| (*event == Event::Online).then_some(()));
    tokens.revoke("number 0");
    expect(&mut events, "online again", |event| (*event == Event::Online).then_some(()));
    write(&phone, "two");
    caught_up(&sync)?;
    let status = phone.status()?;
    assert_eq!((fresh.load(Ordering::SeqCst), status.failures, status.pending), (1, 0, 0));
    runtime.block_on(server.abort());
    Ok(())
}
