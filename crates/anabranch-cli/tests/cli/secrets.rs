//! Values and tokens stay out of what the binary prints, but where showing them is what a command is for: some are
//! planted, and everything else is searched.

use std::fs;
use std::process::Stdio;

use crate::support::{Outcome, Shell};

const VALUE: &str = "planted-value-5c1d";
const SECRET: &str = "planted-secret-of-32-bytes-or-more-77aa";
const PEERS: &str = "planted-token-of-peers-of-32-bytes-or-more";

/// A shell, and all that its commands have printed.
struct Listener {
    shell: Shell,
    heard: String,
    token: String,
}

impl Listener {
    /// Runs a command with every log level on; its output is searched in the end.
    fn hear(&mut self, arguments: &[&str]) -> Outcome {
        let mut command = self.shell.command(arguments);
        command.envs([("RUST_LOG", "trace"), ("TOKEN", &self.token), ("WRONG", &self.token[1..]), ("PEERS", PEERS)]);
        let output = command.output().expect("the binary runs");
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        let outcome = Outcome { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) };
        self.heard += &format!("{arguments:?}\n{}{}", outcome.stdout, outcome.stderr);
        outcome
    }

    /// As [`Self::hear`], in both forms of output.
    fn hear_both(&mut self, arguments: &[&str]) -> Outcome {
        let json = self.hear(&[arguments, &["--json"]].concat());
        assert_eq!(self.hear(arguments).code, json.code, "{arguments:?}");
        json
    }

    /// Runs what has values or tokens among its arguments: those are left out of what is searched.
    fn hear_secretly(&mut self, arguments: &[&str]) -> Outcome {
        let before = self.heard.len();
        let outcome = self.hear(arguments);
        self.heard.truncate(before);
        self.heard += &format!("{}{}", outcome.stdout, outcome.stderr);
        outcome
    }

    fn damage(&self, file: &str, from: &str, to: &str) {
        let mut bytes = fs::read(self.shell.path(file)).expect("the file");
        let places: Vec<_> =
            (0..bytes.len() - from.len()).filter(|at| bytes[*at..].starts_with(from.as_bytes())).collect();
        assert!(!places.is_empty());
        for at in places {
            bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        }
        fs::write(self.shell.path(file), bytes).expect("the file");
    }
}

#[test]
fn g11_what_is_not_for_showing_values_shows_none() {
    let shell = Shell::new();
    fs::write(shell.path("secret"), SECRET).expect("a file");
    let log = fs::File::create(shell.path("log")).expect("a file");
    // Too little for much: the quota refuses some.
    let extra = ["--auth-secret-file", "secret", "--quota-entity", "1"];
    let server = shell.serve_with("127.0.0.1:0", &extra, |command| {
        command.env("RUST_LOG", "trace").stderr(Stdio::from(log));
    });
    let url = server.url();
    let token = shell.ok(["token", "--secret-file", "secret", "--space", "main:rw", "--ttl", "1h"]);
    for file in ["a.db", "b.db"] {
        shell.init(file);
    }
    let mut listener = Listener { shell, heard: String::new(), token };
    let said = &mut listener;

    // Writes. What cannot be written is told with the argument that cannot: that is in docs/SECURITY.md.
    let title = format!("title={VALUE}");
    let id =
        said.hear_secretly(&["create", "a.db", "notes", &title, &format!("tags+={VALUE}")]).stdout.trim().to_owned();
    assert_eq!(said.hear_secretly(&["edit", "a.db", &id, &format!("body={VALUE}")]).code, Some(0));
    let large = format!("title={}{VALUE}", "x".repeat(100_000));
    for _ in 0..12 {
        said.hear_secretly(&["edit", "a.db", &id, &large]);
    }

    // Syncs, and such as fail.
    assert_ne!(said.hear(&["sync", "a.db", &url, "--timeout", "2"]).code, Some(0));
    assert_ne!(said.hear(&["sync", "a.db", &url, "--timeout", "2", "--token-env", "WRONG"]).code, Some(0));
    said.hear_both(&["sync", "a.db", &url, "--token-env", "TOKEN"]);
    said.hear_both(&["sync", "b.db", &url, "--token-env", "TOKEN"]);
    let other = said.hear_secretly(&["edit", "b.db", &id, &format!("title={VALUE}-b")]);
    assert_eq!(other.code, Some(0), "{}", other.stderr);
    said.hear_both(&["verify", "b.db", "--token-env", "TOKEN"]);
    said.hear_both(&["verify", "a.db", "--token-env", "WRONG", "--timeout", "2"]);

    // All that tells of states without showing them.
    let tells: [&[&str]; 8] = [
        &["status", "a.db"],
        &["status", "b.db"],
        &["outbox", "a.db"],
        &["outbox", "a.db", "--refused"],
        &["log", "a.db"],
        &["history", "a.db", &id],
        &["resend", "a.db"],
        &["repair", "a.db", "--dry-run"],
    ];
    for arguments in tells {
        assert_eq!(said.hear_both(arguments).code, Some(0), "{arguments:?}");
    }
    assert!(said.heard.contains("quota") || said.heard.contains("refused"), "some of it was refused");

    // What a person asks for is shown: the search would find it.
    assert!(said.shell.ok(["get", "a.db", &id]).contains(VALUE));

    // Peers that do not share the token, and that cannot be reached.
    said.hear_secretly(&["peer", "dial", "a.db", &server.address, "--token-env", "PEERS", "--timeout", "1"]);
    said.hear_secretly(&["peer", "dial", "a.db", "127.0.0.1:1", "--token-env", "PEERS", "--timeout", "1"]);

    // A damaged file: what is found, what is saved, what cannot be read.
    said.damage("b.db", VALUE, "Planted-value");
    for arguments in [&["repair", "b.db", "--dry-run"][..], &["list", "b.db", "notes"], &["status", "b.db"]] {
        // What is found damaged is mended, so the second answer may be another.
        said.hear(arguments);
        said.hear(&[arguments, &["--json"]].concat());
    }
    said.hear(&["repair", "b.db"]);
    assert!(said.heard.contains("the damaged file is b.db-damaged"), "{}", said.heard);
    said.damage("a.db", "CREATE TABLE", "CREATE table");
    said.hear_both(&["status", "a.db"]);
    said.hear_both(&["repair", "a.db", "--dry-run"]);

    server.stop();
    let Listener { shell, heard, token } = listener;
    let log = fs::read_to_string(shell.path("log")).expect("the log");
    assert!(log.contains("a token is refused") && log.contains("session"), "{log}");
    let signature = token.rsplit('.').next().expect("a signature");
    let as_list = VALUE.bytes().take(8).map(|byte| byte.to_string()).collect::<Vec<_>>().join(", ");
    for planted in [VALUE, "Planted-value", SECRET, PEERS, &token, signature, &as_list] {
        for (what, said) in [("the server's log", &log), ("the commands", &heard)] {
            assert_eq!(said.lines().find(|line| line.contains(planted)), None, "{planted}, in {what}");
        }
    }
}
