//! Sync over a line that delays, cuts and corrupts what passes.

mod support;

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anabranch::{Error, ErrorKind, Replica};
use anabranch_core::{Entropy as _, SplitMix64};
use serde_json::json;
use support::{Folder, GUARD, TestServer, main_space, notes};

/// How far into a connection its fault may come: past the handshake and the first frames of each side.
const REACH: u64 = 3_000;

/// What happens to one connection.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// It ends after so many bytes of one direction.
    Cut(u64),
    /// One bit of one direction is another at the end.
    Flip(u64),
    /// Every piece of it waits.
    Delay(Duration),
}

/// A line between clients and a server, in threads of this process.
struct Proxy {
    address: SocketAddr,
    broken: Arc<AtomicBool>,
    faults: Arc<AtomicU64>,
}

impl Proxy {
    fn start(server: SocketAddr, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let (broken, faults) = (Arc::new(AtomicBool::new(true)), Arc::<AtomicU64>::default());
        let (is_broken, count) = (Arc::clone(&broken), Arc::clone(&faults));
        thread::spawn(move || {
            let mut dice = SplitMix64::new(seed);
            for client in listener.incoming() {
                let (Ok(client), Ok(server)) = (client, TcpStream::connect(server)) else { continue };
                let fault = is_broken.load(Ordering::Relaxed).then(|| draw(&mut dice));
                count.fetch_add(u64::from(fault.is_some()), Ordering::Relaxed);
                // The fault is in one direction; a cut ends both.
                let outward = dice.next_u64().is_multiple_of(2);
                for (from, to, is_hit) in [(&client, &server, outward), (&server, &client, !outward)] {
                    let (Ok(from), Ok(to)) = (from.try_clone(), to.try_clone()) else { continue };
                    thread::spawn(move || pump(from, to, fault.filter(|_| is_hit)));
                }
            }
        });
        Self { address, broken, faults }
    }

    fn heal(&self) {
        self.broken.store(false, Ordering::Relaxed);
    }
}

fn draw(dice: &mut SplitMix64) -> Fault {
    let place = dice.next_u64() % REACH;
    match dice.next_u64() % 5 {
        0 | 1 => Fault::Cut(place),
        2 | 3 => Fault::Flip(place),
        _ => Fault::Delay(Duration::from_micros(dice.next_u64() % 2_000)),
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream, fault: Option<Fault>) {
    let (mut passed, mut buffer) = (0_u64, [0; 512]);
    while let Ok(size @ 1..) = from.read(&mut buffer) {
        let piece = &mut buffer[..size];
        let mut end = size;
        // Where in this piece the place of the fault is.
        let within = |place: u64| usize::try_from(place.checked_sub(passed)?).ok().filter(|at| *at < size);
        match fault {
            Some(Fault::Cut(place)) => end = within(place).unwrap_or(size),
            Some(Fault::Flip(place)) => within(place).into_iter().for_each(|at| piece[at] ^= 1 << (place % 8)),
            Some(Fault::Delay(time)) => thread::park_timeout(time),
            None => {}
        }
        passed += u64::try_from(size).unwrap_or(0);
        if to.write_all(&piece[..end]).is_err() || end < size {
            break;
        }
    }
    // The other direction ends with this one. A socket that is closed already is as good.
    drop((from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both)));
}

/// Syncs once; an error must be one that goes away.
fn attempt(replica: &Replica, url: &str) -> Result<bool, Error> {
    match replica.sync(url).space("main")?.now(GUARD).wait() {
        Ok(_) => Ok(true),
        Err(error) => {
            assert!(matches!(error.kind(), ErrorKind::Retry | ErrorKind::Refused), "{error} ({:?})", error.kind());
            Ok(false)
        }
    }
}

#[test]
fn g05_g07_a_bad_line_loses_nothing_and_doubles_nothing() -> Result<(), Error> {
    const ROUNDS: usize = 12;
    let folder = Folder::new();
    let mut server = TestServer::start(folder.path("server.db"));
    let proxy = Proxy::start(server.address(), 5);
    let url = format!("http://{}", proxy.address);
    let (a, b) = (folder.replica("a.db"), folder.replica("b.db"));
    let shared = notes(&a).create(json!({ "title": "shared", "body": "" })).wait()?;
    let mut failed = 0;
    for round in 0..ROUNDS {
        for replica in [&a, &b] {
            let commits: Vec<_> =
                (0..6).map(|n| notes(replica).create(json!({ "title": format!("{round}.{n}") }))).collect();
            commits.into_iter().try_for_each(|commit| commit.wait().map(drop))?;
            if notes(replica).get(shared)?.is_some() {
                notes(replica).edit(shared, |note| note.splice("body", 0, 0, "x").increment("stars", 1)).wait()?;
            }
            failed += usize::from(!attempt(replica, &url)?);
        }
    }
    let faults = proxy.faults.load(Ordering::Relaxed);
    assert!(faults >= 20 && failed > 5, "{faults} connections were hurt, {failed} syncs failed");
    proxy.heal();
    for replica in [&a, &b, &a] {
        assert!(attempt(replica, &url)?, "the line is well again");
    }
    let digests = |replica: &Replica| {
        Ok::<_, Error>((replica.state_digest(&main_space())?, replica.space_digest(&main_space())?))
    };
    assert_eq!(digests(&a)?, digests(&b)?);
    for replica in [&a, &b] {
        let status = replica.status()?;
        assert_eq!((status.pending, status.quarantined, status.orphaned, status.parked), (0, 0, 0, 0));
        assert_eq!(status.entities, u64::try_from(2 * 6 * ROUNDS + 1).expect("a count"));
    }
    let (entities, _, digest) = server.kill_and_count();
    assert_eq!(
        (entities, digest),
        (u64::try_from(2 * 6 * ROUNDS + 2).expect("a count"), a.space_digest(&main_space())?)
    );
    Ok(())
}
