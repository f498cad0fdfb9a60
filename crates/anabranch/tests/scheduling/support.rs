//! A phone, a server in memory and a clock that stands still until it is set.

use std::time::Duration;

use anabranch::testing::{Clock, Link, Server};
use anabranch::{Collection, EntityId, Error, Event, Events, Phase, Replica, Schema, Status, Sync, SyncHandle};
use serde_json::json;

/// A hang guard, not a measurement.
const GUARD: Duration = Duration::from_secs(60);
pub(crate) const NOW: i64 = 1_750_000_000_000;

pub(crate) struct World {
    folder: tempfile::TempDir,
    pub(crate) clock: Clock,
    pub(crate) server: Server,
    pub(crate) link: Link,
}

impl World {
    pub(crate) fn new() -> Self {
        let clock = Clock::at(NOW);
        let server = Server::new(&clock);
        let link = server.link();
        Self { folder: tempfile::tempdir().expect("a temporary folder"), clock, server, link }
    }

    pub(crate) fn open(&self, file: &str) -> Replica {
        self.open_with(file, schema(""), None)
    }

    pub(crate) fn open_with(&self, file: &str, schema: Schema, staleness: Option<Duration>) -> Replica {
        let mut options = Replica::at(self.folder.path().join(file)).environment(self.clock.environment());
        if let Some(bound) = staleness {
            options = options.staleness(bound);
        }
        options.open_or_create(schema).expect("a replica")
    }

    pub(crate) fn path(&self, file: &str) -> std::path::PathBuf {
        self.folder.path().join(file)
    }

    pub(crate) fn sync(&self, replica: &Replica) -> Sync {
        replica.sync("memory:").space("home").expect("a space name").transport(self.link.clone())
    }

    pub(crate) fn pass(&self, millis: i64) {
        self.clock.advance(Duration::from_millis(millis.unsigned_abs()));
    }

    /// The server and the replica hold the same.
    pub(crate) fn agree(&self, replica: &Replica) -> bool {
        let home = anabranch::SpaceName::new("home").expect("a space name");
        self.server.digest("home") == Some(replica.space_digest(&home).expect("a digest"))
    }
}

pub(crate) fn schema(more: &str) -> Schema {
    let text = format!(
        "version = 1\n[collections.folders.fields]\nname = {{ kind = \"register\" }}\n[collections.notes.fields]\n\
         title = {{ kind = \"register\" }}\nfolder = {{ kind = \"reference\", to = \"folders\", parent = true }}\n{more}"
    );
    Schema::from_toml(&text).expect("the tests' schema")
}

pub(crate) fn notes(replica: &Replica) -> Collection {
    replica.space("home").and_then(|space| space.untyped("notes")).expect("the notes")
}

pub(crate) fn write(replica: &Replica, title: &str) -> EntityId {
    notes(replica).create(json!({ "title": title })).wait().expect("a note")
}

/// A hang guard for a loop that moves the clock itself.
pub(crate) struct Guard {
    looks: u32,
}

impl Guard {
    pub(crate) const fn new() -> Self {
        Self { looks: 0 }
    }

    /// Gives the others a moment. So many of them are not needed.
    pub(crate) fn check(&mut self, what: &str) {
        self.looks += 1;
        assert!(self.looks < 60_000, "it never came: {what}");
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

fn guarded<T>(what: &str, future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let guarded = async { tokio::time::timeout(GUARD, future).await };
    runtime.block_on(guarded).unwrap_or_else(|_| panic!("it never came: {what}"))
}

/// Waits for an event, and returns what it is asked for.
pub(crate) fn expect<T>(events: &mut Events, what: &str, wanted: impl Fn(&Event) -> Option<T>) -> T {
    guarded(what, async {
        loop {
            let event = events.next().await.expect("the replica is open");
            if let Some(found) = wanted(&event) {
                return found;
            }
        }
    })
}

pub(crate) fn expect_offline(events: &mut Events) -> (u32, i64) {
    expect(events, "offline", |event| match event {
        Event::Offline { failures, retry_at, .. } => Some((*failures, *retry_at)),
        _ => None,
    })
}

pub(crate) fn expect_caught_up(events: &mut Events) {
    expect(events, "caught up", |event| (*event == Event::CaughtUp).then_some(()));
}

/// Waits until the status is as wanted.
pub(crate) fn until(replica: &Replica, what: &str, wanted: impl Fn(&Status) -> bool) -> Status {
    let mut watch = replica.watch_status();
    guarded(what, async {
        let mut status = watch.latest().expect("a status");
        while !wanted(&status) {
            status = watch.changed().await.expect("a status");
        }
        status
    })
}

pub(crate) fn until_live(replica: &Replica) -> Status {
    until(replica, "live", |status| status.phase == Phase::Live && status.pending == 0)
}

pub(crate) fn caught_up(handle: &SyncHandle) -> Result<(), Error> {
    let commit = handle.caught_up();
    guarded("caught up", commit)
}
