//! First sync of a fresh client, by segments and by the log: time, bytes, memory.
//!
//! `cargo bench -p anabranch-benches --bench first_sync -- 1000 10000 100000`. A note has five scalar fields, about
//! 120 bytes as JSON. The client is a process of its own, and each run has a fresh file.
//!
//! With `kill 20000 100`, the client's process is killed at so many random moments of one first sync instead, and what
//! it ends with is compared with a sync that nobody has disturbed. A third number says how many notes a segment has.
#![allow(missing_docs, reason = "a bench has no documentation")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anabranch::{Entropy as _, Replica, Schema, SpaceName, SystemEnvironment};
use anabranch_core::SplitMix64;
use anabranch_server::{SegmentOptions, Server, ServerHandle, ServerOptions, SqliteBackend};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
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
const FILE: &str = "ANABRANCH_FIRST_SYNC_FILE";
const DEADLINE: Duration = Duration::from_secs(600);

fn main() {
    if let Ok(url) = std::env::var(ROLE) {
        return client(&url);
    }
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|argument| argument == "kill") {
        let number = |place: usize| arguments.get(at + place).and_then(|number| number.parse().ok());
        let (size, kills) = (number(1).unwrap_or(2_000), number(2).unwrap_or(10));
        return kill(size, kills, number(3).unwrap_or((size / (2 * kills)).max(1)));
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
        let server = runtime.block_on(serve(&file, min_changes, usize::MAX));
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

/// Kills the client again and again, and counts what the server has sent in all.
/// The bytes of the segments that a client's file has applied, and the size of its largest; zero when no first sync is
/// under way.
fn applied(file: &Path) -> (u64, u64) {
    if !file.exists() {
        return (0, 0);
    }
    let schema = Schema::from_toml(SCHEMA).expect("the schema");
    let Ok(replica) = Replica::open(file, schema) else { return (0, 0) };
    let sql =
        "SELECT coalesce(sum(bytes * (applied > 0)), 0) AS n, coalesce(max(bytes), 0) AS most FROM first_sync_pieces";
    let rows = replica.query(sql, &[]).expect("a query");
    let number = |name: &str| rows[0][name].as_u64().expect("a number");
    (number("n"), number("most"))
}

fn kill(size: usize, kills: usize, entities: usize) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let runtime = Runtime::new().expect("a runtime");
    let server = runtime.block_on(serve(&folder.path().join("server.db"), 100, entities));
    fill(folder.path(), &format!("http://{}", server.local_addr()), size);
    let home = SpaceName::new("main").expect("a name");
    let enough = u64::try_from(size).expect("a size");
    runtime.block_on(server.segments_reach(&home, enough - enough / 8));
    let sent = Arc::new(AtomicU64::new(0));
    let proxy = runtime.block_on(proxy(server.local_addr(), Arc::clone(&sent)));
    let url = format!("http://{proxy}");
    let run = |file: &Path| {
        let this = std::env::current_exe().expect("this program");
        Command::new(this).env(ROLE, &url).env(FILE, file).stdout(Stdio::null()).spawn().expect("a client")
    };
    let (whole, killed) = (folder.path().join("whole.db"), folder.path().join("killed.db"));
    #[expect(clippy::disallowed_methods, reason = "a bench measures time")]
    let began = Instant::now();
    assert!(run(&whole).wait().expect("a client").success());
    let took = began.elapsed();
    let once = sent.swap(0, Ordering::SeqCst);
    let mut dice = SplitMix64::new(1);
    let most = u64::try_from(took.as_millis()).expect("a time") * 3 / u64::try_from(kills).expect("a number") + 40;
    let (mut done, mut before, mut worst, mut largest) = (0, 0, 0, 0);
    while done < kills {
        let sent_before = sent.load(Ordering::SeqCst);
        let mut client = run(&killed);
        #[expect(clippy::disallowed_methods, reason = "a bench measures time")]
        std::thread::sleep(Duration::from_millis(dice.next_u64() % most));
        if client.try_wait().expect("a client").is_some() {
            break;
        }
        client.kill().expect("it is killed");
        client.wait().expect("it has ended");
        done += 1;
        // While segments come, all that was sent and is not applied was sent in vain; later the end of the log comes.
        let (applied, most) = applied(&killed);
        if let Some(gained) = applied.checked_sub(before).filter(|_| most > 0) {
            let in_vain = (sent.load(Ordering::SeqCst) - sent_before).saturating_sub(gained);
            (worst, largest) = (worst.max(in_vain), largest.max(most));
        }
        before = applied;
    }
    assert!(run(&killed).wait().expect("a client").success());
    let all = sent.load(Ordering::SeqCst);
    let open = |file: &Path| Replica::open(file, Schema::from_toml(SCHEMA).expect("the schema")).expect("a replica");
    let digests = |file: &Path| {
        let replica = open(file);
        (replica.space_digest(&home).expect("a digest"), replica.state_digest(&home).expect("a digest"))
    };
    assert_eq!(digests(&whole), digests(&killed), "both ends are equal");
    assert_eq!(digests(&killed), digests(&folder.path().join("writer.db")), "and equal to the writer");
    let again = all.saturating_sub(once);
    let each = again / u64::try_from(done.max(1)).expect("a number");
    println!("{done} kills of a first sync of {size} notes: {once} bytes, {again} more, {each} for each kill");
    println!("while segments came: {worst} bytes in vain at the most, the plan included; largest segment {largest}");
}

/// Passes connections on to a server, and counts what comes back.
async fn proxy(server: SocketAddr, sent: Arc<AtomicU64>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (server, sent) = (TcpStream::connect(server).await.expect("the server"), Arc::clone(&sent));
            tokio::spawn(async move {
                let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
                    (client.into_split(), server.into_split());
                let back = async {
                    let mut buffer = vec![0; 16 << 10];
                    while let Ok(count @ 1..) = from_server.read(&mut buffer).await {
                        if to_client.write_all(&buffer[..count]).await.is_err() {
                            return;
                        }
                        sent.fetch_add(u64::try_from(count).unwrap_or(0), Ordering::SeqCst);
                    }
                };
                tokio::select! {
                    () = back => {}
                    _ = tokio::io::copy(&mut from_client, &mut to_server) => {}
                }
            });
        }
    });
    address
}

async fn serve(file: &Path, min_changes: u64, max_entities: usize) -> ServerHandle {
    let backend = SqliteBackend::open(file, Box::new(SystemEnvironment::new())).expect("a backend");
    let segments = SegmentOptions { min_changes, max_entities, ..SegmentOptions::default() };
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
        some.into_iter().for_each(|note| assert!(note.wait().is_ok()));
    }
    replica.sync(url).space("main").expect("a name").now(DEADLINE).wait().expect("the push");
}

/// Syncs a fresh file, and says: milliseconds, bytes received, megabytes of memory at most, changes pulled.
fn client(url: &str) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let schema = Schema::from_toml(SCHEMA).expect("the schema");
    let file = std::env::var(FILE).map_or_else(|_| folder.path().join("fresh.db"), PathBuf::from);
    let replica = Replica::open(file, schema).expect("a replica");
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
