//! Processes that are killed (`kill -9`) at random moments, client and server, under load; and two of them on one file.
//!
//! `ANABRANCH_KILLS` sets how often; the moments follow from a seed, as far as an operating system lets them.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anabranch_core::{Entropy as _, SplitMix64};

use crate::support::{ServerProcess, Shell, column};

/// How often each is killed, unless told otherwise.
const KILLS: usize = 4;
/// A writer is killed after it has printed at most so many ids; it is given more than it can write.
const MOST_PRINTED: usize = 300;
/// What a writer is given to write in peace.
const LINES: usize = 60;
/// When a process has come as far as was drawn, it lives on for at most so long.
const MOST_MICROS: u64 = 20_000;

fn kills() -> usize {
    let set = std::env::var("ANABRANCH_KILLS").ok();
    set.map_or(KILLS, |number| number.parse().expect("a number of kills"))
}

/// Kills a process at a random moment. `false` if it had ended by itself.
fn cut_short(child: &mut Child, dice: &mut SplitMix64) -> bool {
    std::thread::park_timeout(Duration::from_micros(dice.next_u64() % MOST_MICROS));
    let ended = child.try_wait().expect("its status").is_some();
    child.kill().expect("it is killed");
    child.wait().expect("it ends");
    !ended
}

fn below(dice: &mut SplitMix64, end: usize) -> usize {
    usize::try_from(dice.next_u64()).unwrap_or(usize::MAX) % end.max(1)
}

/// A process that creates notes, and prints the id of each once it is in the file.
fn writer(shell: &Shell, lines: usize) -> Child {
    let mut child = shell
        .command(["create", "a.db", "notes", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut input = child.stdin.take().expect("its input");
    std::thread::spawn(move || {
        // It ends with the process, when nobody reads any more.
        (0..lines).all(|number| writeln!(input, "{{\"title\": \"note {number}\"}}").is_ok())
    });
    child
}

/// The ids that a process prints, to the last whole line; `at` is called after so many.
fn printed(child: &mut Child, after: usize, mut at: impl FnMut(&mut Child)) -> Vec<String> {
    let mut output = BufReader::new(child.stdout.take().expect("its output"));
    let (mut line, mut ids) = (String::new(), Vec::new());
    while output.read_line(&mut line).expect("text") > 0 {
        ids.extend(line.strip_suffix('\n').map(str::to_owned));
        line.clear();
        if ids.len() == after {
            at(child);
        }
    }
    ids
}

fn is_whole(shell: &Shell, file: &str) {
    assert_eq!(column(&shell.path(file), "PRAGMA integrity_check"), ["ok"], "{file}");
}

/// What a client has been told is on the server is there.
fn nothing_acknowledged_is_lost(shell: &Shell) -> usize {
    let acknowledged = "SELECT hex(hash) FROM changes WHERE seq NOT IN (SELECT change FROM outbox)";
    let acknowledged = column(&shell.path("a.db"), acknowledged);
    let stored: BTreeSet<_> =
        column(&shell.path("data/server.db"), "SELECT hex(hash) FROM changes").into_iter().collect();
    let lost = acknowledged.iter().filter(|hash| !stored.contains(*hash)).count();
    assert_eq!(lost, 0, "acknowledged, and not on the server");
    acknowledged.len()
}

#[test]
fn g02_a_client_that_is_killed_again_and_again_keeps_what_it_has_printed() {
    let shell = Shell::new();
    shell.init("a.db");
    let (mut dice, mut all, mut cut) = (SplitMix64::new(1), Vec::new(), 0);
    for _ in 0..kills() {
        let after = 1 + below(&mut dice, MOST_PRINTED);
        all.extend(printed(&mut writer(&shell, usize::MAX), after, |child| {
            cut += usize::from(cut_short(child, &mut dice))
        }));
    }
    is_whole(&shell, "a.db");
    let there: BTreeSet<_> = column(&shell.path("a.db"), "SELECT id FROM notes").into_iter().collect();
    let lost = all.iter().filter(|id| !there.contains(*id)).count();
    println!(
        "{cut} of {} killed at work; {} ids printed, {} in the file, {lost} lost",
        kills(),
        all.len(),
        there.len()
    );
    assert!(lost == 0 && cut > 0);
}

#[test]
fn g02_a_server_that_is_killed_again_and_again_keeps_what_it_has_acknowledged() {
    let shell = Shell::new();
    shell.init("a.db");
    let (mut dice, mut cut, mut acknowledged) = (SplitMix64::new(2), 0, 0);
    // To the file it is the same server only at the same address.
    let address = shell.serve("127.0.0.1:0").address.clone();
    for round in 0..kills() {
        printed(&mut writer(&shell, LINES), usize::MAX, |_| ());
        let server = shell.serve(&address);
        let (stored, pending) = (changes(&shell, STORED), changes(&shell, PENDING));
        let far_enough = stored + below(&mut dice, pending + 1);
        // By turns the client is killed first, and the server that it syncs with.
        let client_first = round % 3 == 2;
        let mut sync = syncing(&shell, &server, client_first);
        // What is pending may be stored already, if the answer was lost: then it is over before it has come that far.
        let goes_on = || changes(&shell, STORED) < far_enough && changes(&shell, PENDING) > 0;
        while goes_on() && sync.try_wait().expect("its status").is_none() {
            std::thread::yield_now();
        }
        if client_first {
            cut += usize::from(cut_short(&mut sync, &mut dice));
            server.kill();
        } else {
            std::thread::park_timeout(Duration::from_micros(dice.next_u64() % MOST_MICROS));
            server.kill();
            cut += usize::from(sync.try_wait().expect("its status").is_none());
            sync.kill().expect("it is killed");
            sync.wait().expect("it ends");
        }
        is_whole(&shell, "data/server.db");
        is_whole(&shell, "a.db");
        acknowledged = nothing_acknowledged_is_lost(&shell);
    }
    // In the end it has everything, and another client gets it.
    let server = shell.serve(&address);
    shell.ok(["sync", "a.db", &server.url()]);
    shell.init("b.db");
    shell.ok(["sync", "b.db", &server.url()]);
    let count = |file: &str| column(&shell.path(file), "SELECT id FROM notes ORDER BY id");
    assert_eq!(count("a.db"), count("b.db"));
    println!("{cut} of {} killed at work; {acknowledged} changes acknowledged by then, 0 lost", kills());
    assert!(cut > 0 && acknowledged > 0);
}

/// Files and queries that count changes.
const STORED: (&str, &str) = ("data/server.db", "SELECT CAST(count(*) AS TEXT) FROM changes");
const PENDING: (&str, &str) = ("a.db", "SELECT CAST(count(*) AS TEXT) FROM outbox");

fn changes(shell: &Shell, (file, sql): (&str, &str)) -> usize {
    column(&shell.path(file), sql)[0].parse().expect("a number")
}

/// A sync; one that watches is still at work whenever it is killed.
fn syncing(shell: &Shell, server: &ServerProcess, watch: bool) -> Child {
    let mut command: Command = shell.command(["sync", "a.db", &server.url()]);
    if watch {
        command.arg("--watch");
    }
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts")
}

#[test]
fn g03_two_processes_write_to_one_file() {
    let shell = Shell::new();
    shell.init("a.db");
    let (mut one, mut two) = (writer(&shell, 5 * LINES), writer(&shell, 5 * LINES));
    let ids: BTreeSet<_> =
        [&mut one, &mut two].into_iter().flat_map(|child| printed(child, usize::MAX, |_| ())).collect();
    assert!(one.wait().expect("it ends").success() && two.wait().expect("it ends").success());
    assert_eq!(ids.len(), 10 * LINES);
    let there: BTreeSet<_> = column(&shell.path("a.db"), "SELECT id FROM notes").into_iter().collect();
    assert_eq!(there, ids);
    is_whole(&shell, "a.db");
    let server = shell.serve("127.0.0.1:0");
    assert_eq!(shell.json(["sync", "a.db", &server.url(), "--json"])["pending"], 0);
}
