//! Watches as streams and callbacks: the latest value first, nothing queues up.

mod support;

use std::sync::mpsc;

use anabranch::{Error, Watch};
use futures_util::{FutureExt as _, StreamExt as _};
use serde_json::{Value, json};
use support::{Folder, GUARD, notes};

fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(async { tokio::time::timeout(GUARD, work).await.expect("in time") })
}

#[test]
fn a_stream_begins_with_the_value_now_and_goes_on_with_the_latest() -> Result<(), Error> {
    let folder = Folder::new();
    let replica = folder.replica("a.db");
    let notes = notes(&replica);
    let id = notes.create(json!({ "stars": 1 })).wait()?;
    // Listeners are told right after the commit; another write is behind that.
    notes.create(json!({})).wait()?;
    let mut stream = notes.watch(id).into_stream();
    let stars = |item: Option<Result<_, Error>>| -> Result<Value, Error> {
        let record: Option<anabranch::EntityRecord> = item.expect("it never ends")?;
        Ok(record.expect("the note").state["stars"].clone())
    };
    assert_eq!(stars(block_on(stream.next()))?, 1);
    assert!(stream.next().now_or_never().is_none(), "nothing has changed");
    for _ in 0..10 {
        notes.edit(id, |note| note.increment("stars", 1)).wait()?;
    }
    notes.create(json!({})).wait()?;
    assert_eq!(stars(block_on(stream.next()))?, 11);
    assert!(stream.next().now_or_never().is_none(), "ten changes are one item");
    Ok(())
}

#[test]
fn a_list_is_watched_as_a_whole() -> Result<(), Error> {
    let folder = Folder::new();
    let replica = folder.replica("a.db");
    let notes = notes(&replica);
    let mut list = notes.watch_list(2);
    assert_eq!(list.latest()?, []);
    let other = replica.space("other")?.untyped("notes")?;
    other.create(json!({})).wait()?;
    other.create(json!({})).wait()?;
    assert!(!list.has_changed(), "another space is none of its business");
    let ids = [1, 2, 3].map(|n| notes.create(json!({ "title": n })).wait().expect("a note"));
    notes.delete(ids[0]).wait()?;
    let mut titles: Vec<_> = block_on(list.changed())?.iter().map(|note| note.state["title"].as_u64()).collect();
    // Those of one millisecond stand in any order.
    titles.sort_unstable();
    assert_eq!(titles, [Some(2), Some(3)]);
    Ok(())
}

#[test]
fn a_callback_is_called_until_its_guard_is_dropped() -> Result<(), Error> {
    let folder = Folder::new();
    let replica = folder.replica("a.db");
    let notes = notes(&replica);
    let (told, calls) = mpsc::channel();
    let count: Watch<_> = replica.watch_query("SELECT count(*) AS n FROM notes", Vec::new());
    let guard = count.subscribe(move |rows| told.send(rows.expect("rows")[0]["n"].clone()).expect("a listener"))?;
    assert_eq!(calls.recv_timeout(GUARD).expect("a call"), 0);
    notes.create(json!({})).wait()?;
    assert_eq!(calls.recv_timeout(GUARD).expect("a call"), 1);
    drop(guard);
    // The callback is gone, and its sender with it.
    assert_eq!(calls.recv_timeout(GUARD), Err(mpsc::RecvTimeoutError::Disconnected));
    notes.create(json!({})).wait()?;
    Ok(())
}

#[test]
fn a_slow_callback_misses_what_happens_meanwhile_but_not_the_latest() -> Result<(), Error> {
    let folder = Folder::new();
    let replica = folder.replica("a.db");
    let notes = notes(&replica);
    let (told, calls) = mpsc::channel();
    let (go_on, wait) = mpsc::channel::<()>();
    let count = replica.watch_query("SELECT count(*) AS n FROM notes", Vec::new());
    let guard = count.subscribe(move |rows| {
        told.send(rows.expect("rows")[0]["n"].clone()).expect("a listener");
        wait.recv().expect("to be told to go on");
    })?;
    assert_eq!(calls.recv_timeout(GUARD).expect("the first call"), 0);
    for _ in 0..10 {
        notes.create(json!({})).wait()?;
    }
    replica.space("other")?.untyped("notes")?.create(json!({})).wait()?;
    // A callback that blocks does not keep others from the library's thread.
    let (second, seconds) = mpsc::channel();
    let beside = notes.watch_list(1).subscribe(move |_| second.send(()).expect("a listener"))?;
    seconds.recv_timeout(GUARD).expect("another callback");
    drop(beside);
    go_on.send(()).expect("a callback");
    assert_eq!(calls.recv_timeout(GUARD).expect("the second call"), 11);
    drop(guard);
    go_on.send(()).expect("a callback");
    assert_eq!(calls.recv_timeout(GUARD), Err(mpsc::RecvTimeoutError::Disconnected), "eleven changes, one call");
    Ok(())
}

#[test]
fn a_callback_that_panics_is_called_again() -> Result<(), Error> {
    let folder = Folder::new();
    let replica = folder.replica("a.db");
    let notes = notes(&replica);
    let (told, calls) = mpsc::channel();
    let count = replica.watch_query("SELECT count(*) AS n FROM notes", Vec::new());
    let _guard = count.subscribe(move |rows| {
        let count = rows.expect("rows")[0]["n"].clone();
        told.send(count.clone()).expect("a listener");
        assert_ne!(count, 0, "a bug of the application's");
    })?;
    assert_eq!(calls.recv_timeout(GUARD).expect("the call that panics"), 0);
    notes.create(json!({})).wait()?;
    assert_eq!(calls.recv_timeout(GUARD).expect("the next call"), 1);
    Ok(())
}
