//! Whatever speaks with a server signs in.

use std::time::Duration;

use anabranch::testing::{Clock, Server};
use anabranch::{Error, ErrorKind, Replica, Schema, TokenRequest};
use serde_json::json;

/// A hang guard, not a measurement.
const GUARD: Duration = Duration::from_secs(60);

#[test]
fn verifying_and_cloning_sign_in() -> Result<(), Error> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let server = Server::new(&Clock::at(1_750_000_000_000));
    server.require_token("right");
    let link = server.link();
    let schema = Schema::from_toml("version = 1\n[collections.notes.fields]\ntitle = { kind = \"register\" }")?;
    let a = Replica::open(folder.path().join("a.db"), schema)?;
    a.space("main")?.untyped("notes")?.create(json!({ "title": "Lunch" })).wait()?;
    let sync = || a.sync("memory:").transport(link.clone());
    assert!(sync().token("right").now(GUARD).wait()?.finished);

    let refused = sync().verify(GUARD).wait().expect_err("nobody has signed in");
    assert_eq!(refused.kind(), ErrorKind::Refused);
    assert!(sync().token("wrong").verify(GUARD).wait().is_err());
    assert!(sync().token("right").verify(GUARD).wait()?.is_same());
    let renewed = |request| match request {
        TokenRequest::Any => Ok("stale".into()),
        TokenRequest::Fresh => Ok("right".into()),
    };
    assert!(sync().token_from(renewed).verify(GUARD).wait()?.is_same());

    let clone = |token: &'static str| {
        let configure = |sync: anabranch::Sync| sync.transport(link.clone()).token(token);
        Replica::at(folder.path().join("b.db")).clone_space_with("memory:", "main", GUARD, configure)
    };
    assert_eq!(clone("wrong").expect_err("not known").kind(), ErrorKind::Refused);
    let b = clone("right")?;
    assert_eq!(b.query("SELECT title FROM notes", &[])?[0]["title"], "Lunch");
    Ok(())
}
