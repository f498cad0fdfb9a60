//! Servers that come back with less than they had, or as somebody else: real processes, real files.

use std::fs;

use crate::support::{ServerProcess, Shell};

const FILES: [&str; 3] = ["server.db", "server.db-wal", "server.db-shm"];

/// Stops the server and lets `change` happen to its folder; then it is back, at the same address.
fn while_down(shell: &Shell, server: ServerProcess, change: impl FnOnce(&Shell)) -> ServerProcess {
    let address = server.address.clone();
    server.stop();
    change(shell);
    shell.serve(&address)
}

fn copy(shell: &Shell, from: &str, to: &str) {
    fs::create_dir_all(shell.path(to)).expect("a folder");
    for file in FILES {
        drop(fs::remove_file(shell.path(to).join(file)));
        let source = shell.path(from).join(file);
        if source.exists() {
            fs::copy(source, shell.path(to).join(file)).expect("a copy");
        }
    }
}

fn wipe(shell: &Shell) {
    fs::remove_dir_all(shell.path("data")).expect("the folder is there");
}

/// Two replicas that hold the same notes as their server.
fn fleet(shell: &Shell) -> ServerProcess {
    let server = shell.serve("127.0.0.1:0");
    for file in ["a.db", "b.db"] {
        shell.init(file);
    }
    shell.ok(["create", "a.db", "notes", "title=First"]);
    for file in ["a.db", "b.db", "a.db"] {
        shell.ok(["sync", file, &server.url()]);
    }
    server
}

/// All agree with the server, which says so itself, and each has just these notes.
fn agree(shell: &Shell, titles: &[&str]) {
    let rounds = ["a.db", "b.db", "a.db", "b.db"];
    rounds.iter().for_each(|file| drop(shell.ok(["sync", file])));
    for file in ["a.db", "b.db"] {
        let verified = shell.json(["verify", file, "--json"]);
        assert_eq!((&verified["same"], &verified["round_trips"]), (&true.into(), &1.into()), "{verified}");
        let notes = shell.json(["query", file, "SELECT title FROM notes ORDER BY title", "--json"]);
        let found: Vec<_> = notes.as_array().expect("rows").iter().map(|row| row["title"].clone()).collect();
        assert_eq!(found, titles, "{file}");
        assert_eq!(shell.json(["status", file, "--json"])["pending"], 0);
    }
}

#[test]
fn g10_a_server_that_was_wiped_is_filled_again() {
    let shell = Shell::new();
    let server = fleet(&shell);
    shell.ok(["create", "b.db", "notes", "title=Second"]);
    shell.ok(["sync", "b.db"]);
    let _server = while_down(&shell, server, wipe);
    shell.ok(["create", "a.db", "notes", "title=Third"]);
    shell.ok(["sync", "a.db"]);
    // It has a history of its own now, which b has not agreed to.
    let error = shell.error(["sync", "b.db"]);
    assert!(error.contains("another history") && error.contains("--adopt"), "{error}");
    assert!(shell.error(["verify", "b.db"]).contains("another history"));
    shell.ok(["sync", "b.db", "--adopt"]);
    agree(&shell, &["First", "Second", "Third"]);
}

#[test]
fn g10_a_server_restored_to_yesterday_s_file_gets_back_what_it_lost() {
    let shell = Shell::new();
    let server = fleet(&shell);
    let server = while_down(&shell, server, |shell| copy(shell, "data", "backup"));
    let id = shell.ok(["create", "a.db", "notes", "title=Today"]);
    shell.ok(["sync", "a.db"]);
    shell.ok(["sync", "b.db"]);
    shell.ok(["edit", "b.db", &id, "title=Today, by b"]);
    shell.ok(["sync", "b.db"]);
    shell.ok(["create", "b.db", "notes", "title=Pending"]);
    let _server = while_down(&shell, server, |shell| copy(shell, "backup", "data"));

    let differing = shell.run(["verify", "b.db", "--json"]);
    assert_eq!(differing.code, Some(1), "{}", differing.stderr);
    let differing: serde_json::Value = serde_json::from_str(&differing.stdout).expect("JSON");
    let kinds: Vec<_> = differing["differing"].as_array().expect("a list").iter().map(|d| &d["difference"]).collect();
    assert_eq!(kinds, ["missing_there", "pending"], "{differing}");
    agree(&shell, &["First", "Pending", "Today, by b"]);
}

#[test]
fn g10_an_acknowledged_tail_that_a_failover_lost_is_offered_again() {
    let shell = Shell::new();
    let server = fleet(&shell);
    // The standby is a little behind when it takes over.
    let server = while_down(&shell, server, |shell| copy(shell, "data", "standby"));
    let (mine, theirs) = (shell.ok(["create", "a.db", "notes", "title=Mine"]), "title=Theirs");
    shell.ok(["sync", "a.db"]);
    let server = while_down(&shell, server, |shell| copy(shell, "standby", "data"));
    // Before a comes back, the log has grown over the places that were lost.
    for _ in 0..3 {
        shell.ok(["create", "b.db", "notes", theirs]);
    }
    shell.ok(["sync", "b.db"]);
    shell.ok(["edit", "a.db", &mine, "stars+=1"]);
    agree(&shell, &["First", "Mine", "Theirs", "Theirs", "Theirs"]);
    drop(server);
}

#[test]
fn g10_a_server_restored_from_before_a_purge_agrees_to_it_again() {
    let shell = Shell::new();
    let server = fleet(&shell);
    let id = shell.ok(["create", "a.db", "notes", "title=Secret"]);
    shell.ok(["sync", "a.db"]);
    let server = while_down(&shell, server, |shell| copy(shell, "data", "backup"));
    shell.ok(["edit", "a.db", &id, "title=Secret, edited"]);
    shell.ok(["delete", "a.db", &id]);
    shell.ok(["sync", "a.db"]);
    shell.ok(["purge", "a.db", &id]);
    shell.ok(["sync", "a.db"]);
    shell.ok(["sync", "b.db"]);
    let _server = while_down(&shell, server, |shell| copy(shell, "backup", "data"));
    agree(&shell, &["First"]);
}

#[test]
fn g10_another_lineage_s_server_gets_nothing_until_it_is_adopted() {
    let shell = Shell::new();
    let server = fleet(&shell);
    shell.ok(["create", "b.db", "notes", "title=Not yet sent"]);
    let _server = while_down(&shell, server, wipe);
    shell.init("stranger.db");
    shell.ok(["create", "stranger.db", "notes", "title=Theirs"]);
    let url = shell.json(["status", "a.db", "--json"])["url"].as_str().expect("a URL").to_owned();
    shell.ok(["sync", "stranger.db", &url]);
    for file in ["a.db", "b.db"] {
        let error = shell.error(["sync", file]);
        assert!(error.contains("nothing was sent"), "{error}");
    }
    assert_eq!(shell.json(["sync", "stranger.db", "--json"])["pulled"], 0, "nothing has been uploaded to it");

    // A person decides that it is the right one after all.
    for file in ["a.db", "b.db"] {
        shell.ok(["sync", file, "--server", &url, "--adopt"]);
    }
    shell.ok(["sync", "stranger.db"]);
    agree(&shell, &["First", "Not yet sent", "Theirs"]);
}
