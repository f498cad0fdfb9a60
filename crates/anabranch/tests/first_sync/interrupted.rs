//! First syncs that are cut off at any frame, and go on in a file that is opened again.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use anabranch::{Entropy as _, Error, Link, LinkError, Replica, Transport, WebSocket};
use anabranch_core::wire::{self, ClientMessage, ServerMessage};
use anabranch_core::{Digest, SplitMix64};
use serde_json::json;

use crate::fleet::{assert_same, none, of, past, replica, small};
use crate::support::{Folder, GUARD, TestServer};

/// A link that breaks after so many frames from the server, and notes what is asked for twice.
#[derive(Clone)]
struct Flaky {
    inner: Arc<WebSocket>,
    frames: Arc<AtomicI64>,
    seen: Arc<Mutex<Seen>>,
}

/// What has been seen of the fetching of segments.
#[derive(Default)]
struct Seen {
    fetched: u64,
    /// The one that has come, until the next is asked for.
    last: Option<Digest>,
    /// Whoever asks for the next one has applied those before.
    applied: BTreeSet<Digest>,
    /// Asked for after they had been applied.
    again: u64,
}

impl Flaky {
    fn new(url: &str) -> Self {
        let inner = Arc::new(WebSocket::new(url));
        Self { inner, frames: Arc::default(), seen: Arc::default() }
    }

    fn allow(&self, frames: i64) -> Self {
        self.frames.store(frames, Ordering::SeqCst);
        self.clone()
    }

    fn note(&self, frame: &[u8]) {
        if let Ok(ServerMessage::Segment { digest, bytes: Some(_), .. }) = wire::decode(frame) {
            let mut seen = self.seen();
            seen.fetched += 1;
            seen.last = Some(digest);
        }
    }

    fn note_asked(&self, frame: &[u8]) {
        let mut seen = self.seen();
        match wire::decode(frame) {
            Ok(ClientMessage::Segment { digest, .. }) => {
                seen.again += u64::from(seen.applied.contains(&digest));
                let last = seen.last.take().filter(|last| *last != digest);
                seen.applied.extend(last);
            }
            // A new session: what came last may not have been applied.
            Ok(ClientMessage::Hello(_)) => seen.last = None,
            _ => {}
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().expect("nobody has panicked")
    }
}

impl Transport for Flaky {
    fn connect(&self) -> Pin<Box<dyn Future<Output = Result<Link, LinkError>> + Send + '_>> {
        Box::pin(async {
            let mut inner = self.inner.connect().await?;
            let (link, (mut from_client, to_client)) = Link::pair();
            let flaky = self.clone();
            tokio::spawn(async move {
                loop {
                    tokio::select! {
                        frame = from_client.recv() => match frame {
                            Some(frame) => {
                                flaky.note_asked(&frame);
                                if inner.outgoing.send(frame).is_err() {
                                    return;
                                }
                            }
                            None => return,
                        },
                        frame = inner.incoming.recv() => {
                            let Some(Ok(frame)) = frame else { return };
                            if flaky.frames.fetch_sub(1, Ordering::SeqCst) <= 0 {
                                return;
                            }
                            flaky.note(&frame);
                            if to_client.send(Ok(frame)).await.is_err() {
                                return;
                            }
                        }
                    }
                }
            });
            Ok(link)
        })
    }
}

fn sync(replica: &Replica, flaky: &Flaky, frames: i64, url: &str) -> Result<u64, Error> {
    let sync = replica.sync(url).space("main")?.transport(flaky.allow(frames));
    sync.now(GUARD).wait().map(|report| report.segments)
}

#[test]
fn a_first_sync_that_is_cut_off_at_any_frame_goes_on_where_it_was() -> Result<(), Error> {
    let folder = Folder::new();
    let mut server = TestServer::start_with(folder.path("server.db"), small());
    past(&server, &folder, 90)?;
    server.segments_reach(250);
    let (flaky, url) = (Flaky::new(&server.url()), server.url());
    let mut dice = SplitMix64::new(11);
    let mut cuts = 0;
    loop {
        // Closed and opened again every time, in whatever state the last cut has left it.
        let fresh = replica(&folder, "fresh.db");
        let frames = i64::try_from(dice.next_u64() % 4).expect("small");
        if sync(&fresh, &flaky, frames, &url).is_ok() {
            break;
        }
        cuts += 1;
        if cuts > 200 {
            sync(&fresh, &flaky, i64::MAX, &url)?;
            break;
        }
    }
    assert!(cuts > 10, "{cuts}");
    let seen = flaky.seen();
    assert!(seen.applied.len() > 10, "{}", seen.applied.len());
    assert_eq!(seen.again, 0, "of {} that were fetched", seen.fetched);
    drop(seen);

    server.restart_with(none());
    let slow = replica(&folder, "slow.db");
    server.sync(&slow).now(GUARD).wait()?;
    assert_same(&replica(&folder, "fresh.db"), &slow)
}

#[test]
fn a_cut_right_after_each_segment_fetches_nothing_twice() -> Result<(), Error> {
    let folder = Folder::new();
    let server = TestServer::start_with(folder.path("server.db"), small());
    past(&server, &folder, 40)?;
    server.segments_reach(100);
    let (flaky, url) = (Flaky::new(&server.url()), server.url());
    let mut runs = 0;
    while sync(&replica(&folder, "fresh.db"), &flaky, 3, &url).is_err() {
        runs += 1;
        assert!(runs < 100, "no progress");
    }
    let seen = flaky.seen();
    assert!(runs > 3 && seen.applied.len() > 3, "{runs} {}", seen.applied.len());
    assert_eq!(seen.again, 0, "of {} that were fetched", seen.fetched);
    drop(seen);
    Ok(())
}

#[test]
fn what_is_written_meanwhile_is_merged_and_pushed() -> Result<(), Error> {
    let folder = Folder::new();
    let server = TestServer::start_with(folder.path("server.db"), small());
    let ids = past(&server, &folder, 60)?;
    server.segments_reach(150);
    let (flaky, url) = (Flaky::new(&server.url()), server.url());
    let fresh = replica(&folder, "fresh.db");
    let notes = of(&fresh, "notes");
    let mine = notes.create(json!({ "title": "mine", "body": "before" })).wait()?;
    let mut edited = 0;
    for cut in 0.. {
        if sync(&fresh, &flaky, 3 + cut % 3, &url).is_ok() {
            break;
        }
        notes.edit(mine, |note| note.splice("body", 0, 0, "x")).wait()?;
        // Those that have come, and those that will come in a segment yet, are written to alike.
        for id in ids.iter().skip(usize::try_from(cut).expect("small") % 5).step_by(9) {
            if notes.get(*id)?.is_some_and(|note| !note.deleted) {
                notes.edit(*id, |note| note.increment("stars", 100)).wait()?;
                edited += 1;
            }
        }
        assert!(cut < 300, "no progress");
    }
    assert!(edited > 10, "{edited}");
    server.sync(&fresh).now(GUARD).wait()?;
    assert_eq!(fresh.status()?.pending, 0);
    let other = replica(&folder, "other.db");
    server.sync(&other).now(GUARD).wait()?;
    let space = crate::support::main_space();
    assert_eq!(fresh.space_digest(&space)?, other.space_digest(&space)?);
    assert_eq!(fresh.state_digest(&space)?, other.state_digest(&space)?);
    let stars: u64 = ids.iter().filter_map(|id| of(&other, "notes").get(*id).ok()??.state["stars"].as_u64()).sum();
    let note = of(&other, "notes").get(mine)?.expect("mine");
    assert!(note.state["body"].as_str().is_some_and(|body| body.ends_with("before") && body.starts_with('x')));
    assert!(stars >= 100 * edited, "{stars}");
    Ok(())
}

#[test]
fn the_progress_is_told_while_it_lasts() -> Result<(), Error> {
    let folder = Folder::new();
    let server = TestServer::start_with(folder.path("server.db"), small());
    past(&server, &folder, 40)?;
    server.segments_reach(100);
    let (flaky, url) = (Flaky::new(&server.url()), server.url());
    let fresh = replica(&folder, "fresh.db");
    assert_eq!(fresh.status()?.first_sync, None);
    let mut last = 0;
    // A welcome, a manifest, two segments.
    while sync(&fresh, &flaky, 4, &url).is_err() {
        let Some(progress) = fresh.status()?.first_sync else { continue };
        assert!(progress.entities >= last && progress.entities <= progress.entities_total);
        assert!(progress.bytes <= progress.bytes_total && progress.bytes_total > 0);
        last = progress.entities;
    }
    assert!(last > 10);
    assert_eq!(fresh.status()?.first_sync, None);
    Ok(())
}

#[test]
fn segments_that_are_gone_are_replaced_by_newer_ones() -> Result<(), Error> {
    let folder = Folder::new();
    let mut server = TestServer::start_with(folder.path("server.db"), small());
    let ids = past(&server, &folder, 60)?;
    server.segments_reach(150);
    let (flaky, url) = (Flaky::new(&server.url()), server.url());
    let fresh = replica(&folder, "fresh.db");
    assert!(sync(&fresh, &flaky, 6, &url).is_err());
    assert!(fresh.status()?.first_sync.is_some());
    // Everything changes, and the segments in memory are lost with the server's process.
    let a = replica(&folder, "a.db");
    for id in &ids {
        if of(&a, "notes").get(*id)?.is_some_and(|note| !note.deleted) {
            of(&a, "notes").edit(*id, |note| note.increment("stars", 1)).wait()?;
        }
    }
    server.restart();
    server.sync(&a).now(GUARD).wait()?;
    server.segments_reach(150);
    sync(&fresh, &flaky, i64::MAX, &url)?;
    let space = crate::support::main_space();
    assert_eq!(fresh.state_digest(&space)?, a.state_digest(&space)?);
    assert_eq!(fresh.space_digest(&space)?, a.space_digest(&space)?);
    Ok(())
}

/// The server is set back to an earlier state in the middle of a first sync. What others have pushed since, what came by
/// segments that the server could not cut any more, and what was written here meanwhile: all of it is there in the end.
#[test]
fn g10_a_server_that_is_restored_in_the_middle_of_a_first_sync_loses_nothing() -> Result<(), Error> {
    let folder = Folder::new();
    let mut server = TestServer::start_with(folder.path("server.db"), small());
    past(&server, &folder, 60)?;
    server.kill();
    std::fs::copy(folder.path("server.db"), folder.path("backup.db")).expect("a copy");
    server.restart();
    let a = replica(&folder, "a.db");
    for n in 0..30 {
        of(&a, "notes").create(json!({ "title": format!("later {n}") })).wait()?;
    }
    server.sync(&a).now(GUARD).wait()?;
    server.segments_reach(150);
    let (flaky, url) = (Flaky::new(&server.url()), server.url());
    let fresh = replica(&folder, "fresh.db");
    of(&fresh, "notes").create(json!({ "title": "here" })).wait()?;
    assert!(sync(&fresh, &flaky, 6, &url).is_err());
    assert!(fresh.status()?.first_sync.is_some(), "it is under way");
    server.kill();
    std::fs::copy(folder.path("backup.db"), folder.path("server.db")).expect("a copy");
    server.restart();
    // Cut off once more after it has heard of it.
    assert!(sync(&fresh, &flaky, 3, &url).is_err());
    drop(fresh);
    let fresh = replica(&folder, "fresh.db");
    sync(&fresh, &flaky, i64::MAX, &url)?;
    assert!(fresh.status()?.first_sync.is_none());
    assert!(server.sync(&fresh).verify(GUARD).wait()?.is_same());
    server.sync(&a).now(GUARD).wait()?;
    server.sync(&fresh).now(GUARD).wait()?;
    server.sync(&a).now(GUARD).wait()?;
    assert_same(&fresh, &a)?;
    assert!(server.sync(&a).verify(GUARD).wait()?.is_same());
    Ok(())
}
