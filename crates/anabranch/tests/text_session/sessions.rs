//! A session's life: what it refuses, what it keeps, how it ends.

use std::sync::mpsc;

use anabranch::{EntityId, Error, ErrorKind, TextSplice};

use crate::support::{Folder, GUARD, TestServer, main_space};
use crate::{Note, notes, replica};

fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(async { tokio::time::timeout(GUARD, work).await.expect("in time") })
}

#[test]
fn keys_that_come_while_a_write_is_under_way_share_the_next() -> Result<(), Error> {
    let folder = Folder::new();
    let replica = replica(&folder, "a.db");
    let notes = notes(&replica);
    let id = notes.create(Note { body: "x".into(), ..Note::default() }).wait()?;
    let changes = || replica.store().read(|read| read.log(&main_space(), Some(id))).expect("a log").len();
    let before = changes();
    let session = notes.text_session(id, "body").wait()?;
    // The writer is busy with something else.
    let (release, released) = mpsc::channel::<()>();
    let busy = replica.store().write::<_, Error, _>(move |_| Ok(released.recv().is_ok()));
    for at in 0..100 {
        session.splice(at, 0, "a")?;
    }
    let flushed = session.flush();
    assert!(!session.is_saved());
    release.send(()).expect("a writer");
    assert!(busy.wait()?);
    flushed.wait()?;
    assert!(session.is_saved());
    assert_eq!(notes.get(id)?.expect("the note").body, *("a".repeat(100) + "x"));
    assert!((1..=2).contains(&(changes() - before)), "{}", changes() - before);
    Ok(())
}

#[test]
fn a_waiting_editor_is_told() -> Result<(), Error> {
    let folder = Folder::new();
    let replica = replica(&folder, "a.db");
    let notes = notes(&replica);
    let id = notes.create(Note::default()).wait()?;
    let (ours, theirs) = (notes.text_session(id, "body").wait()?, notes.text_session(id, "body").wait()?);
    ours.splice(0, 0, "milk")?;
    let splices = block_on(theirs.changed())?;
    assert_eq!(splices, [TextSplice { at: 0, delete: 0, insert: "milk".to_owned() }]);
    theirs.splice(4, 0, ", eggs")?;
    assert_eq!(block_on(ours.changed())?, [TextSplice { at: 4, delete: 0, insert: ", eggs".to_owned() }]);
    // An untyped collection is the same text.
    let untyped = replica.space("main")?.untyped("notes")?;
    assert_eq!(untyped.text_session(id, "body").wait()?.text(), "milk, eggs");
    untyped.edit(id, |note| note.set("body", "milk")).wait()?;
    assert_eq!(block_on(ours.changed())?, [TextSplice { at: 4, delete: 6, insert: String::new() }]);
    Ok(())
}

#[test]
fn text_that_breaks_a_rule_stays_until_it_keeps_it() -> Result<(), Error> {
    let folder = Folder::new();
    let replica = replica(&folder, "a.db");
    let notes = notes(&replica);
    let id = notes.create(Note { short: "12345".into(), ..Note::default() }).wait()?;
    let session = notes.text_session(id, "short").wait()?;
    session.splice(5, 0, "67890!")?;
    assert_eq!(session.flush().wait().expect_err("too long").kind(), ErrorKind::Invalid);
    assert_eq!(session.error().map(|error| error.kind()), Some(ErrorKind::Invalid));
    assert!(!session.is_saved());
    // Others' text comes in all the same.
    notes.edit(id, |note| note.short.replace(0..1, "one")).wait()?;
    let [splice] = &block_on(session.changed())?[..] else { panic!("one splice") };
    assert_eq!((splice.at, splice.delete, splice.insert.as_str()), (0, 1, "one"));
    assert_eq!(session.text(), "one234567890!");
    assert_eq!(notes.get(id)?.expect("the note").short, "one2345");
    session.splice(3, 4, "")?;
    session.flush().wait()?;
    assert!(session.error().is_none() && session.is_saved());
    assert_eq!(notes.get(id)?.expect("the note").short, "one67890!");
    Ok(())
}

#[test]
fn an_entity_that_is_deleted_meanwhile_may_come_back() -> Result<(), Error> {
    let folder = Folder::new();
    let replica = replica(&folder, "a.db");
    let notes = notes(&replica);
    let id = notes.create(Note::default()).wait()?;
    let session = notes.text_session(id, "body").wait()?;
    notes.delete(id).wait()?;
    session.splice(0, 0, "not lost")?;
    assert_eq!(session.flush().wait().expect_err("deleted").kind(), ErrorKind::NotFound);
    notes.restore(id).wait()?;
    session.flush().wait()?;
    assert_eq!(notes.get(id)?.expect("the note").body, "not lost");
    Ok(())
}

#[test]
fn a_dropped_session_writes_what_it_has() -> Result<(), Error> {
    let folder = Folder::new();
    let replica = replica(&folder, "a.db");
    let notes = notes(&replica);
    let id = notes.create(Note::default()).wait()?;
    let mut watch = notes.watch(id);
    assert_eq!(watch.latest()?.expect("the note").body, "");
    let session = notes.text_session(id, "body").wait()?;
    for at in 0..20 {
        session.splice(at, 0, "z")?;
    }
    drop(session);
    while block_on(watch.changed())?.expect("the note").body.len() < 20 {}
    assert_eq!(notes.get(id)?.expect("the note").body, *"z".repeat(20));
    Ok(())
}

#[test]
fn what_cannot_be_is_refused() -> Result<(), Error> {
    let folder = Folder::new();
    let replica = replica(&folder, "a.db");
    let notes = notes(&replica);
    let id = notes.create(Note { body: "größer".into(), ..Note::default() }).wait()?;
    for (id, field, kind) in [
        (id, "title", ErrorKind::Invalid),
        (id, "nothing", ErrorKind::Invalid),
        (id, "no name", ErrorKind::Invalid),
        (EntityId::from_bytes([9; 16]), "body", ErrorKind::NotFound),
    ] {
        assert_eq!(notes.text_session(id, field).wait().expect_err(field).kind(), kind, "{field}");
    }
    let session = notes.text_session(id, "body").wait()?;
    for (at, delete) in [(7, 0), (6, 1), (0, 7), (usize::MAX, usize::MAX)] {
        assert_eq!(session.splice(at, delete, "x").expect_err("past the end").kind(), ErrorKind::Invalid);
    }
    assert!(session.cursor(7).is_err());
    let cursor = session.cursor(6)?;
    session.splice(0, 6, "")?;
    assert_eq!((cursor.position(), session.text()), (0, String::new()));
    assert!(cursor.move_to(1).is_err());
    session.splice(0, 0, "ab")?;
    cursor.move_to(1)?;
    session.flush().wait()?;
    assert_eq!(notes.get(id)?.expect("the note").body, "ab");
    assert_eq!(cursor.position(), 1);
    Ok(())
}

#[test]
fn a_session_on_a_purged_entity_says_that_it_is_gone() -> Result<(), Error> {
    let folder = Folder::new();
    let server = TestServer::start(folder.path("server.db"));
    let replica = replica(&folder, "a.db");
    let notes = notes(&replica);
    let id = notes.create(Note { body: "milk".into(), ..Note::default() }).wait()?;
    let session = notes.text_session(id, "body").wait()?;
    notes.delete(id).wait()?;
    server.sync(&replica).now(GUARD).wait()?;
    notes.space().purge(id).wait()?;
    server.sync(&replica).now(GUARD).wait()?;
    assert!(notes.space().get(id)?.expect("its marker").purged);
    session.splice(4, 0, ", eggs")?;
    let error = session.flush().wait().expect_err("it is gone");
    assert_eq!(error.kind(), ErrorKind::NotFound, "not `Retry`: {error}");
    assert_eq!(session.error().expect("the same").kind(), ErrorKind::NotFound);
    Ok(())
}
