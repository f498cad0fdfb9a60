//! Sessions whose entity is rewritten under them: a refused change is discarded, a fork is settled.

use anabranch::testing::{Clock, Refusal, Server};
use anabranch::{Error, Replica, Resend, TextSplice};

use crate::support::{Folder, GUARD, main_space};
use crate::{Note, notes, replica};

/// A session has typed into a change that a server refuses, and goes on.
#[test]
fn a_session_goes_on_when_a_refused_change_is_discarded() -> Result<(), Error> {
    let folder = Folder::new();
    let server = Server::new(&Clock::at(1_750_000_000_000));
    let sync = |replica: &Replica| replica.sync("memory:").space("main").expect("a name").transport(server.link());
    let (a, b) = (replica(&folder, "a.db"), replica(&folder, "b.db"));
    let id = notes(&a).create(Note { body: "milk".into(), ..Note::default() }).wait()?;
    sync(&a).now(GUARD).wait()?;
    let session = notes(&a).text_session(id, "body").wait()?;
    session.splice(4, 0, ", poison")?;
    session.flush().wait()?;
    server.refuse(|collection, _| (collection == "notes").then(|| Refusal::reject("no poison")));
    sync(&a).now(GUARD).wait()?;
    // Later edits, stored and not.
    session.splice(0, 0, "oat ")?;
    session.flush().wait()?;
    let refused = a.refused(10)?;
    assert_eq!(refused.len(), 1);
    let caret = session.cursor(16)?;
    // Stored before the discard or after it: what goes is the same, and no other comma could be taken for it.
    session.splice(16, 0, "; eggs")?;
    let discarded = notes(&a).space().discard(id, Some(refused[0].change)).wait()?;
    assert_eq!(discarded.discarded, 1);
    session.splice(22, 0, "!")?;
    session.flush().wait()?;
    assert_eq!(session.text(), "oat milk, poison; eggs!");
    let told = session.poll()?;
    assert_eq!(told, [TextSplice { at: 8, delete: 8, insert: String::new() }]);
    assert_eq!((session.text().as_str(), caret.position()), ("oat milk; eggs!", 15));
    // And on, as if nothing had been.
    session.splice(14, 1, "?")?;
    session.flush().wait()?;
    assert!(session.error().is_none() && session.is_saved());
    server.accept_all();
    sync(&a).now(GUARD).wait()?;
    sync(&b).now(GUARD).wait()?;
    for replica in [&a, &b] {
        assert_eq!(notes(replica).get(id)?.expect("the note").body, "oat milk; eggs?");
        assert_eq!(server.digest("main"), Some(replica.space_digest(&main_space())?));
    }
    assert_eq!(a.resend(Resend::All).wait()?, 0, "nothing is left of it");
    Ok(())
}

/// A discarded creation takes the entity: the text stays with the editor, and says why it is not stored.
#[test]
fn a_session_outlives_its_entity() -> Result<(), Error> {
    let folder = Folder::new();
    let server = Server::new(&Clock::at(1_750_000_000_000));
    server.refuse(|collection, _| (collection == "notes").then(|| Refusal::reject("no")));
    let a = replica(&folder, "a.db");
    let id = notes(&a).create(Note { body: "milk".into(), ..Note::default() }).wait()?;
    let session = notes(&a).text_session(id, "body").wait()?;
    a.sync("memory:").space("main")?.transport(server.link()).now(GUARD).wait()?;
    notes(&a).space().discard(id, None).wait()?;
    session.splice(4, 0, ", eggs")?;
    let error = session.flush().wait().expect_err("it is gone");
    assert_eq!(error.kind(), anabranch::ErrorKind::NotFound, "{error}");
    assert_eq!((session.text().as_str(), session.is_saved()), ("milk, eggs", false));
    Ok(())
}

/// Two copies of a file write under one actor. One of them yields, with a session open on either.
#[test]
fn sessions_go_on_when_a_fork_is_settled() -> Result<(), Error> {
    let folder = Folder::new();
    let first = replica(&folder, "first.db");
    let id = notes(&first).create(Note { body: "milk".into(), ..Note::default() }).wait()?;
    drop(first);
    // Two copies that draw the same numbers, and so write under the same actor.
    let [a, b] = ["a.db", "b.db"].map(|file| {
        std::fs::copy(folder.path("first.db"), folder.path(file)).expect("a copy");
        let options = Replica::at(folder.path(file)).environment(Clock::at(1_750_000_000_000).environment());
        options.open_or_create(anabranch::schema![Note]).expect("a replica")
    });
    assert_eq!(a.store().actor(), b.store().actor());
    let (here, there) = (notes(&a).text_session(id, "body").wait()?, notes(&b).text_session(id, "body").wait()?);
    here.splice(4, 0, " and tea")?;
    there.splice(0, 0, "oat ")?;
    here.flush().wait()?;
    there.flush().wait()?;
    for round in 0..2 {
        here.splice(0, 0, &format!("a{round} "))?;
        there.splice(0, 0, &format!("b{round} "))?;
        a.exchange(&b)?;
    }
    here.flush().wait()?;
    there.flush().wait()?;
    a.exchange(&b)?;
    here.flush().wait()?;
    there.flush().wait()?;
    here.poll()?;
    there.poll()?;
    let text = notes(&a).get(id)?.expect("the note").body.clone();
    assert_eq!(notes(&b).get(id)?.expect("the note").body, text);
    assert_eq!(*text, here.text());
    assert_eq!(*text, there.text());
    for part in ["milk and tea", "oat ", "a0 ", "a1 ", "b0 ", "b1 "] {
        assert_eq!(text.matches(part).count(), 1, "{part} in {}", here.text());
    }
    assert!(here.is_saved() && there.is_saved() && here.error().is_none() && there.error().is_none());
    Ok(())
}

/// Another process writes to the file: the documents in memory are dropped.
#[test]
fn a_session_does_not_need_its_document_in_memory() -> Result<(), Error> {
    let folder = Folder::new();
    let (ours, theirs) = (replica(&folder, "a.db"), replica(&folder, "a.db"));
    let id = notes(&ours).create(Note { body: "milk".into(), ..Note::default() }).wait()?;
    let session = notes(&ours).text_session(id, "body").wait()?;
    let loaded = || ours.store().stats().documents_loaded.load(std::sync::atomic::Ordering::Relaxed);
    let before = loaded();
    for round in 0..3 {
        notes(&theirs).edit(id, |note| note.body.insert(0, "t")).wait()?;
        session.splice(session.text().chars().count(), 0, &format!("{round}"))?;
        session.flush().wait()?;
        session.poll()?;
    }
    assert_eq!(session.text(), "tttmilk012");
    assert_eq!(notes(&theirs).get(id)?.expect("the note").body, "tttmilk012");
    assert!(loaded() > before, "it was evicted");
    Ok(())
}
