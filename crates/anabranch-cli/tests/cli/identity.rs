//! Refused changes, and files that are copied, restored and lost, with real processes and real files.

use std::fs;

use anabranch::{EntityId, Replica};
use serde_json::json;

use crate::support::{Shell, column};

/// An entity of one collection here and of another on the server, which refuses it.
fn refused(shell: &Shell, url: &str) -> (EntityId, String) {
    let id = EntityId::from_bytes([7; 16]);
    for (file, collection, fields) in
        [("a.db", "notes", json!({ "title": "first" })), ("b.db", "folders", json!({ "name": "second" }))]
    {
        shell.init(file);
        let replica = Replica::at(shell.path(file)).existing().expect("a replica");
        let space = replica.space("main").expect("a space");
        space.untyped(collection).expect("a collection").create_with_id(id, fields).wait().expect("an entity");
    }
    let other = shell.ok(["create", "b.db", "notes", "title=other"]);
    shell.ok(["edit", "b.db", &id.to_string(), "name=third"]);
    shell.ok(["sync", "a.db", url]);
    shell.ok(["sync", "b.db", url]);
    (id, other)
}

#[test]
fn g07_what_a_server_refuses_is_seen_and_discarded_and_the_rest_arrives() {
    let shell = Shell::new();
    let server = shell.serve("127.0.0.1:0");
    assert_eq!(
        {
            shell.init("c.db");
            shell.ok(["outbox", "c.db"])
        },
        "nothing is pending"
    );
    let (id, other) = refused(&shell, &server.url());
    let entries = shell.json(["outbox", "b.db", "--json"]);
    let states: Vec<_> = entries.as_array().expect("a list").iter().map(|entry| entry["state"].clone()).collect();
    assert_eq!(states, ["refused", "refused"]);
    assert_eq!((&entries[0]["code"], &entries[0]["entity"]), (&json!("WrongCollection"), &json!(id)));
    let listed = shell.ok(["outbox", "b.db", "--refused"]);
    assert!(listed.ends_with("refused: the entity belongs to another collection (WrongCollection)"), "{listed}");
    // Asked again, the server says the same.
    let change = &listed[..12];
    assert_eq!(shell.ok(["resend", "b.db", change]), "2 changes to be offered again: sync");
    shell.ok(["sync", "b.db"]);
    assert_eq!(shell.json(["outbox", "b.db", "--refused", "--json"])[0]["code"], "WrongCollection");
    for command in ["discard", "resend"] {
        assert!(shell.error([command, "b.db", ""]).contains("the id is empty"), "{command}");
    }
    let discarded = shell.ok(["discard", "b.db", change]);
    assert_eq!(discarded, format!("{id}: 2 changes discarded"));
    assert_eq!(shell.ok(["outbox", "b.db"]), "nothing is pending");
    // What stands on the server is there in its place.
    shell.ok(["sync", "b.db"]);
    shell.ok(["sync", "a.db"]);
    for file in ["a.db", "b.db"] {
        assert_eq!(shell.ok(["get", file, &other, "--state"]), r#"{"title":"other"}"#);
    }
    assert!(shell.error(["discard", "b.db", change]).starts_with("no refused change"));
}

/// The original and two copies, one with its witness, are all written to, by one process after the other.
#[test]
fn g10_copied_and_restored_files_in_real_processes_converge_with_every_edit() {
    let shell = Shell::new();
    let server = shell.serve("127.0.0.1:0");
    shell.init("a.db");
    let id = shell.ok(["create", "a.db", "notes", "title=Trip", "body=."]);
    shell.ok(["sync", "a.db", &server.url()]);
    shell.ok(["edit", "a.db", &id, "body+=a", "stars+=1"]);
    let copy = |from: &str, to: &str| {
        fs::copy(shell.path(from), shell.path(to)).expect("a copy");
    };
    for name in ["b.db", "c.db", "backup.db"] {
        copy("a.db", name);
    }
    copy("a.db-witness", "b.db-witness");
    copy("a.db-witness", "backup.db-witness");
    for (file, letter) in [("a.db", "b"), ("b.db", "c"), ("c.db", "d"), ("a.db", "e")] {
        shell.ok(["edit", file, &id, &format!("body+={letter}"), "stars+=1"]);
    }
    shell.ok(["sync", "b.db"]);
    shell.ok(["sync", "a.db"]);
    // a is set back to what it was before its last edits, with its witness; the server still has them.
    copy("backup.db", "a.db");
    copy("backup.db-witness", "a.db-witness");
    shell.ok(["edit", "a.db", &id, "body+=f", "stars+=1"]);
    let status = shell.ok(["status", "a.db"]);
    for _ in 0..2 {
        for file in ["a.db", "b.db", "c.db"] {
            shell.ok(["sync", file]);
        }
    }
    let state = shell.json(["get", "a.db", &id, "--state"]);
    assert_eq!(state["stars"], 6, "{status}");
    let body = state["body"].as_str().expect("a text");
    assert!(".abcdef".chars().all(|letter| body.matches(letter).count() == 1) && body.len() == 7, "{body}");
    for file in ["b.db", "c.db"] {
        assert_eq!(shell.json(["get", file, &id, "--state"]), state);
        assert_eq!(shell.json(["outbox", file, "--json"]), json!([]));
    }
    let heads = |file: &str| column(&shell.path(file), "SELECT hex(heads) FROM entities WHERE born = 1 ORDER BY id");
    assert_eq!((heads("b.db"), heads("c.db")), (heads("a.db"), heads("a.db")));
}

#[test]
fn a_file_that_vanished_says_what_was_waiting_in_it() {
    let shell = Shell::new();
    shell.init("a.db");
    shell.ok(["create", "a.db", "notes", "title=x"]);
    fs::remove_file(shell.path("a.db")).expect("a file");
    let error = shell.error(["list", "a.db", "notes"]);
    assert_eq!(error, "a.db is gone; when it was last seen, 1 change was waiting to be sent");
    shell.init("a.db");
    let status = shell.ok(["status", "a.db"]);
    assert!(status.contains("lost        a.db is gone; when it was last seen, 1 change was waiting"), "{status}");
    assert!(!shell.ok(["status", "a.db"]).contains("lost"), "told once");
}
