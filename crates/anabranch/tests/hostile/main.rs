//! Hostile changes from outside: from a server, in pages, segments and reconciles, and from peers, both ways. Each is
//! refused with a reason, alone, and costs hardly any memory. One test in a program of its own, since memory is counted
//! for the whole process.

mod peer;
mod server;
mod stock;
#[path = "../support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use anabranch::{Error, PeerToken, Replica};
use anabranch_core::EntityId;
use peak_alloc::PeakAlloc;
use serde_json::json;

use peer::Rogue;
use server::{Door, Server};
use stock::{Batch, honest, hostile, out_of_place};
use support::{Folder, GUARD, main_space, notes};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// What a hostile batch may cost, its honest changes and all that syncs them included.
const MOST: usize = 64 << 20;

/// The most that any of the works at one door has cost.
struct Costs {
    door: &'static str,
    most: usize,
    longest: Duration,
    count: usize,
}

impl Costs {
    const fn of(door: &'static str) -> Self {
        Self { door, most: 0, longest: Duration::ZERO, count: 0 }
    }

    fn of_one<T>(&mut self, name: &str, work: impl FnOnce() -> T) -> T {
        let before = MEMORY.current_usage();
        MEMORY.reset_peak_usage();
        // Printed, for whoever measures: a test must not depend on it.
        #[expect(clippy::disallowed_methods, reason = "what is measured is the time it really takes")]
        let begun = Instant::now();
        let result = work();
        self.longest = self.longest.max(begun.elapsed());
        let cost = MEMORY.peak_usage().saturating_sub(before);
        assert!(cost < MOST, "{name} by {}: {} KiB", self.door, cost >> 10);
        self.most = self.most.max(cost);
        self.count += 1;
        result
    }

    fn print(&self) {
        let Self { door, most, longest, count } = self;
        println!("{door}: {count} hostile changes, each at most {} KiB and {longest:?}", most >> 10);
    }
}

#[test]
fn g11_hostile_changes_are_refused_at_every_door() -> Result<(), Error> {
    pages()?;
    reconciles()?;
    segments()?;
    peers_that_dial()?;
    peers_that_are_dialled()
}

/// The honest changes of a batch are there, the hostile one is not, and there is a word about it.
fn check(replica: &Replica, name: &str, id: EntityId, refused: usize) -> Result<(), Error> {
    let note = notes(replica).get(id)?.unwrap_or_else(|| panic!("{name}: the honest note is not there"));
    assert_eq!((&note.state["title"], &note.state["body"]), (&json!("honest"), &json!("text")), "{name}");
    let reasons = replica.query("SELECT reason FROM quarantine", &[])?;
    assert_eq!(reasons.len(), refused, "{name}");
    assert!(reasons.iter().all(|row| row["reason"].as_str().is_some_and(|reason| reason.len() > 10)), "{name}");
    assert_eq!(replica.status()?.quarantined, u64::try_from(refused).expect("a count"), "{name}");
    notes(replica).edit(id, |note| note.increment("stars", 1)).wait()?;
    Ok(())
}

fn sync(replica: &Replica, server: &Server) -> Result<anabranch::SyncReport, Error> {
    replica.sync("http://hostile.example").space("main")?.transport(server.clone()).now(GUARD).wait()
}

fn pages() -> Result<(), Error> {
    let folder = Folder::new();
    let (replica, server) = (folder.replica("page.db"), Server::new());
    let mut costs = Costs::of("pages of a server");
    for (place, (name, bytes)) in (1..).zip(hostile()) {
        let batch = Batch::around(place, &bytes);
        let id = batch.entity;
        server.offer(Door::Page, batch);
        costs.of_one(&name, || sync(&replica, &server))?;
        check(&replica, &name, id, place)?;
    }
    costs.print();
    Ok(())
}

fn reconciles() -> Result<(), Error> {
    let folder = Folder::new();
    let (replica, server) = (folder.replica("reconcile.db"), Server::new());
    server.offer(Door::Page, Batch::of(honest(0)));
    sync(&replica, &server)?;
    let mut costs = Costs::of("reconciles with a server");
    for (place, (name, bytes)) in (1..).zip(hostile()) {
        let batch = Batch::around(place, &bytes);
        let id = batch.entity;
        server.offer(Door::Reconcile, batch);
        costs.of_one(&name, || sync(&replica, &server))?;
        check(&replica, &name, id, place)?;
        server.settle();
    }
    costs.print();
    Ok(())
}

/// A segment that cannot be read is refused as a whole, and the log is read instead.
fn segments() -> Result<(), Error> {
    let folder = Folder::new();
    let mut costs = Costs::of("segments of a server");
    let mut read = 0;
    let mut hostile = hostile();
    hostile.push(("out of place".to_owned(), out_of_place(hostile.len() + 1)));
    for (place, (name, bytes)) in (1..).zip(hostile) {
        let (replica, server) = (folder.replica(&format!("{name}.db")), Server::new());
        let batch = Batch::around(place, &bytes);
        let id = batch.entity;
        server.offer(Door::Segment, batch);
        let report = costs.of_one(&name, || sync(&replica, &server))?;
        // The document is looked at when it is first needed.
        notes(&replica).edit(id, |note| note.increment("stars", 1)).wait()?;
        assert_eq!(server.segments_sent() > 1, report.segments == 0, "{name}: it was tried again");
        check(&replica, &name, id, usize::from(report.segments == 1))?;
        read += report.segments;
    }
    assert_eq!(read, 1, "only a document tells what is out of place");
    costs.print();
    Ok(())
}

fn token() -> PeerToken {
    PeerToken::new("a token for the tests").expect("long enough")
}

fn peers_that_dial() -> Result<(), Error> {
    let folder = Folder::new();
    let replica = folder.replica("dialled.db");
    let listener = replica.peer(token()).listen(([127, 0, 0, 1], 0).into())?;
    let mut costs = Costs::of("a peer that dials");
    for (place, (name, bytes)) in (1..).zip(hostile()) {
        let batch = Batch::around(place, &bytes);
        let id = batch.entity;
        let honest = batch.honest;
        let taken = costs.of_one(&name, || Rogue::dial(listener.local_addr(), &token()).push(&main_space(), batch));
        assert_eq!(taken, honest, "{name}");
        check(&replica, &name, id, place)?;
    }
    costs.print();
    Ok(())
}

fn peers_that_are_dialled() -> Result<(), Error> {
    let folder = Folder::new();
    let replica = folder.replica("dialler.db");
    let mut costs = Costs::of("a peer that is dialled");
    for (place, (name, bytes)) in (1..).zip(hostile()) {
        let batch = Batch::around(place, &bytes);
        let (id, honest) = (batch.entity, batch.honest);
        let (address, answering) = Rogue::listen(token(), main_space(), batch);
        let report = costs.of_one(&name, || replica.peer(token()).dial(&address.to_string(), GUARD).wait())?;
        answering.join().expect("the rogue has no bug");
        assert_eq!((report.received, report.refused), (honest, 1), "{name}");
        check(&replica, &name, id, place)?;
    }
    costs.print();
    Ok(())
}
