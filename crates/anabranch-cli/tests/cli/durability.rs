//! Nobody is told "saved" before it is.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::Stdio;

use crate::support::{Shell, column};

/// A writer is killed in the middle of ten thousand lines: every id that it had printed is in the file after
/// reopening, and the next sync completes.
#[test]
fn g02_what_was_printed_survives_kill_9() {
    const LINES: usize = 10_000;
    let shell = Shell::new();
    shell.init("a.db");
    let mut child = shell
        .command(["create", "a.db", "notes", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut input = child.stdin.take().expect("its input");
    let feeding = std::thread::spawn(move || {
        for number in 0..LINES {
            if writeln!(input, "{{\"title\": \"note {number}\", \"stars\": {number}}}").is_err() {
                return;
            }
        }
    });
    let mut printed = Vec::new();
    let mut output = BufReader::new(child.stdout.take().expect("its output"));
    let mut line = String::new();
    while output.read_line(&mut line).expect("text") > 0 {
        // A line that was cut off is no promise.
        if let Some(id) = line.strip_suffix('\n') {
            printed.push(id.to_owned());
        }
        if printed.len() == 1_234 {
            child.kill().expect("it is killed");
        }
        line.clear();
    }
    assert!(!child.wait().expect("it ends").success());
    feeding.join().expect("the feeding thread ends");
    assert!((1_234..LINES).contains(&printed.len()), "{} printed", printed.len());

    let server = shell.serve("127.0.0.1:0");
    let report = shell.json(["sync", "a.db", &server.url(), "--json"]);
    assert_eq!(report["pending"], 0);
    let there = column(&shell.path("a.db"), "SELECT id FROM notes");
    assert!(printed.iter().all(|id| there.contains(id)), "something printed is lost");
    let numbers = column(&shell.path("a.db"), "SELECT title FROM notes ORDER BY stars");
    let expected: Vec<_> = (0..there.len()).map(|number| format!("note {number}")).collect();
    assert_eq!(numbers, expected, "the lines are stored in order and without gaps");
    shell.init("b.db");
    shell.ok(["sync", "b.db", &server.url()]);
    assert_eq!(column(&shell.path("b.db"), "SELECT id FROM notes").len(), there.len());
}

#[test]
fn an_id_is_printed_before_the_next_line_is_read() {
    let shell = Shell::new();
    shell.init("a.db");
    let mut child = shell
        .command(["create", "a.db", "notes", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut input = child.stdin.take().expect("its input");
    let mut output = BufReader::new(child.stdout.take().expect("its output")).lines();
    for title in ["one", "two"] {
        writeln!(input, "{{\"title\": {title:?}}}").expect("it reads");
        let id = output.next().expect("a line").expect("text");
        assert!(shell.ok(["get", "a.db", &id, "--state"]).contains(title));
    }
    drop(input);
    assert!(child.wait().expect("it ends").success());
}

#[test]
fn a_bad_line_is_named_and_the_good_ones_before_it_stay() {
    for (bad, reason) in [("nope", "not a JSON object"), ("[1]", "expected a JSON object"), ("{\"titel\": 1}", "titel")]
    {
        let shell = Shell::new();
        shell.init("a.db");
        let mut child = shell
            .command(["create", "a.db", "notes", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut input = child.stdin.take().expect("its input");
        writeln!(input, "{{\"title\": \"one\"}}\n\n{{\"title\": \"two\"}}\n{bad}").expect("it reads");
        drop(input);
        let outcome = child.wait_with_output().expect("it ends");
        let error = String::from_utf8(outcome.stderr).expect("UTF-8");
        assert!(!outcome.status.success() && error.starts_with("error: line 4: ") && error.contains(reason), "{error}");
        assert_eq!(String::from_utf8(outcome.stdout).expect("UTF-8").lines().count(), 2);
        assert_eq!(column(&shell.path("a.db"), "SELECT title FROM notes ORDER BY title"), ["one", "two"]);
    }
}

#[test]
fn a_reader_that_leaves_is_no_panic() {
    let shell = Shell::new();
    shell.init("a.db");
    let mut child = shell
        .command(["create", "a.db", "notes", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    drop(child.stdout.take());
    let mut input = child.stdin.take().expect("its input");
    // It ends by itself, although its input stays open.
    writeln!(input, "{{\"title\": \"unread\"}}").expect("it reads");
    let outcome = child.wait_with_output().expect("it ends");
    assert!(!outcome.status.success() && outcome.stderr.is_empty());
    drop(input);
}
