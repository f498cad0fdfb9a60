//! First sync of a fresh client, by segments and by the log: time, bytes, memory.
//!
//! `cargo bench -p anabranch-benches --bench first_sync -- 1000 10000 100000`. A note has five scalar fields, about
//! 120 bytes as JSON. The client is a process of its own, and each run has a fresh file.
#![allow(missing_docs, reason = "a bench has no documentation")]

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anabranch::{Replica, Schema, SpaceName, SystemEnvironment};
use anabranch_server::{SegmentOptions, Server, ServerHandle, ServerOptions, SqliteBackend};
use serde_json::json;
use tokio::runtime::Runtime;

const SCHEMA: &str = r#"
    version = 1
    [collections.notes.fields]
    title = { kind = "register" }
    author = { kind = "register" }
    folder = { kind = "register" }
    due = { kind = "register" }
    done = { kind = "register" }
"#;
const ROLE: &str = "ANABRANCH_FIRST_SYNC_CLIENT";
const DEADLINE: Duration = Duration::from_secs(600);

fn main() {
    if let Ok(url) = std::env::var(ROLE) {
        return client(&url);
    }
    let sizes: Vec<usize> = std::env::args().filter_map(|size| size.parse().ok()).collect();
    let sizes = if sizes.is_empty() { vec![1_000, 10_000] } else { sizes };
    println!("   notes  by         time     bytes  B/note    RSS MB");
    for size in sizes {
        measure(size);
    }
}

fn measure(size: usize) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("server.db");
    let runtime = Runtime::new().expect("a runtime");
    let home = SpaceName::new("main").expect("a name");
    for (name, min_changes) in [("segments", 100), ("log", u64::MAX)] {
        let server = runtime.block_on(serve(&file, min_changes));
        let url = format!("http://{}", server.local_addr());
        if min_changes < u64::MAX {
            fill(folder.path(), &url, size);
            let enough = u64::try_from(size).expect("a size");
            runtime.block_on(server.segments_reach(&home, enough - enough / 8));
        }
        for _ in 0..3 {
            let this = std::env::current_exe().expect("this program");
            let run = Command::new(this).env(ROLE, &url).output().expect("a client");
            assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
            let said = String::from_utf8(run.stdout).expect("text");
            let numbers: Vec<f64> = said.split_whitespace().filter_map(|word| word.parse().ok()).collect();
            let [millis, bytes, rss, pulled] = numbers[..] else { panic!("the client said {said:?}") };
            assert!(pulled >= f64::from(u32::try_from(size).expect("a size")), "{pulled}");
            let each = bytes / f64::from(u32::try_from(size).expect("a size"));
            println!("{size:>8}  {name:<8} {:>6.2} s {bytes:>9} {each:>7.1} {rss:>9.0}", millis / 1_000.0);
        }
        runtime.block_on(server.shutdown()).expect("a clean end");
    }
}

async fn serve(file: &Path, min_changes: u64) -> ServerHandle {
    let backend = SqliteBackend::open(file, Box::new(SystemEnvironment::new())).expect("a backend");
    let segments = SegmentOptions { min_changes, ..SegmentOptions::default() };
    let options = ServerOptions { segments, ..ServerOptions::default() };
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    Server::bind(any, Arc::new(backend), options).await.expect("a server").spawn()
}

fn fill(folder: &Path, url: &str, size: usize) {
    let schema = Schema::from_toml(SCHEMA).expect("the schema");
    let replica = Replica::open(folder.join("writer.db"), schema).expect("a replica");
    let notes = replica.space("main").and_then(|space| space.untyped("notes")).expect("the notes");
    let authors = ["ada", "grace", "edsger", "barbara"];
    for start in (0..size).step_by(1_000) {
        let some: Vec<_> = (start..size.min(start + 1_000))
            .map(|n| {
                notes.create(json!({
                    "title": format!("Note {n}: what was said about item {}", n.wrapping_mul(2_654_435_761) % 99_991),
                    "author": authors[n % 4],
                    "folder": format!("folder {}", n % 40),
                    "due": format!("2026-{:02}-{:02}", n % 12 + 1, n % 28 + 1),
                    "done": n % 3 == 0,
                }))
            })
            .collect();
        some.into_iter().for_each(|note| drop(note.wait().expect("a note")));
    }
    replica.sync(url).space("main").expect("a name").now(DEADLINE).wait().expect("the push");
}

/// Syncs a fresh file, and says: milliseconds, bytes received, megabytes of memory at most, changes pulled.
fn client(url: &str) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let schema = Schema::from_toml(SCHEMA).expect("the schema");
    let replica = Replica::open(folder.path().join("fresh.db"), schema).expect("a replica");
    #[expect(clippy::disallowed_methods, reason = "a bench measures time")]
    let began = Instant::now();
    let report = replica.sync(url).space("main").expect("a name").now(DEADLINE).wait().expect("the first sync");
    let took = began.elapsed().as_millis();
    println!("{took} {} {} {}", report.bytes_received, memory().unwrap_or(0), report.pulled);
}

/// The most memory that this process has had, in megabytes.
fn memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? / 1_024)
}
