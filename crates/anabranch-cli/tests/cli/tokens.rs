//! `token`, and `serve` with a secret.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Stdio;

use crate::support::Shell;

const SECRET: &str = "a secret of this test, 32 bytes or more";

/// The status of a request for what a space holds.
fn status(address: &str, space: &str, token: Option<&str>) -> u16 {
    let header = token.map(|token| format!("authorization: Bearer {token}\r\n")).unwrap_or_default();
    let mut stream = TcpStream::connect(address).expect("a connection");
    write!(stream, "GET /v1/spaces/{space} HTTP/1.0\r\n{header}\r\n").expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer[9..12].parse().expect("a status")
}

#[test]
fn a_token_opens_what_it_names_on_a_server_with_the_same_secret() {
    let shell = Shell::new();
    std::fs::write(shell.path("secret"), format!("{SECRET}\n")).expect("a file");
    let token = |space: &str| shell.ok(["token", "--secret-file", "secret", "--space", space, "--ttl", "1h"]);
    let log = std::fs::File::create(shell.path("log")).expect("a file");
    let extra = ["--auth-secret-file", "secret", "--relay-own", "team:*"];
    let server = shell.serve_with("127.0.0.1:0", &extra, |command| {
        command.env("RUST_LOG", "trace").stderr(Stdio::from(log));
    });
    let (home, teams) = (token("home:r"), token("team:*:rw"));
    assert_eq!(status(&server.address, "home", None), 401);
    assert_eq!(status(&server.address, "home", Some("x")), 401);
    assert_eq!(status(&server.address, "home", Some(&home)), 200);
    assert_eq!(status(&server.address, "team:blue", Some(&home)), 403);
    assert_eq!(status(&server.address, "team:blue", Some(&teams)), 200);
    // Without a token nothing is synced, and nothing is lost.
    shell.init("a.db");
    shell.ok(["create", "a.db", "notes", "title=planted-value"]);
    let error = shell.error(["sync", "a.db", &server.url(), "--timeout", "2"]);
    assert!(error.contains("401"), "{error}");
    assert_eq!(shell.json(["status", "a.db", "--json"])["pending"], 1);
    server.stop();
    let log = std::fs::read_to_string(shell.path("log")).expect("the log");
    assert!(log.contains("a token is refused"), "{log}");
    for planted in [SECRET, &home, &teams, "planted-value"] {
        assert!(!log.contains(planted), "{planted}");
    }
}

#[test]
fn what_a_token_cannot_say_is_refused_in_one_line() {
    let shell = Shell::new();
    std::fs::write(shell.path("secret"), SECRET).expect("a file");
    std::fs::write(shell.path("weak"), "too short").expect("a file");
    let cases: [(&[&str], &str); 8] = [
        (&["--secret-file", "none", "--space", "home:rw"], "none"),
        (&["--secret-file", "weak", "--space", "home:rw"], "fewer than 32 bytes"),
        (&["--secret-file", "secret"], "--space"),
        (&["--secret-file", "secret", "--space", "home"], "SPACES:RIGHTS"),
        (&["--secret-file", "secret", "--space", "home:x"], "`r`, `w` or `rw`"),
        (&["--secret-file", "secret", "--space", "../x:r"], "a pattern"),
        (&["--secret-file", "secret", "--space", "home:r", "--ttl", "1y"], "90s, 15m, 1h or 30d"),
        (&["--secret-file", "secret", "--space", "home:r", "--subject", ""], "subject"),
    ];
    for (arguments, expected) in cases {
        let error = shell.error(["token"].iter().chain(arguments));
        assert!(error.contains(expected), "{arguments:?}: {error}");
        assert!(!error.contains(SECRET) && !error.contains("too short"), "{error}");
    }
    assert!(shell.error(["serve", "data", "--auth-secret-file", "weak"]).contains("fewer than 32 bytes"));
    let token = shell.json(["token", "--secret-file", "secret", "--space", "home:rw", "--ttl", "90s", "--json"]);
    assert!(token["token"].as_str().is_some_and(|token| token.split('.').count() == 3));
    assert!(token["expires_at"].is_u64());
}
