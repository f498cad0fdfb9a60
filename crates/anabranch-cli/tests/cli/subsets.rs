//! `sync --collections`: some collections of a space only, until it is said otherwise.

use crate::support::{Shell, column};

#[test]
fn a_replica_syncs_the_collections_that_it_was_told_to() {
    let shell = Shell::new();
    let server = shell.serve("127.0.0.1:0");
    let url = server.url();
    shell.init("a.db");
    shell.ok(["create", "a.db", "notes", "title=Trip"]);
    shell.ok(["create", "a.db", "folders", "name=Journeys"]);
    shell.ok(["sync", "a.db", &url]);

    shell.init("b.db");
    let here =
        || column(&shell.path("b.db"), "SELECT collection FROM entities WHERE collection <> '$schema' ORDER BY 1");
    shell.ok(["sync", "b.db", &url, "--collections", "folders"]);
    assert_eq!(here(), ["folders"]);
    shell.ok(["sync", "b.db"]);
    assert_eq!(here(), ["folders"], "it is remembered");
    shell.ok(["sync", "b.db", "--collections", "notes,folders"]);
    assert_eq!(here(), ["folders", "notes"]);
    shell.ok(["sync", "b.db", "--collections", "notes"]);
    assert_eq!(here(), ["notes"]);
    shell.ok(["sync", "b.db", "--collections", "all"]);
    assert_eq!(here(), ["folders", "notes"]);
    assert!(shell.error(["sync", "b.db", "--collections", "no name"]).contains("collection"));
}
