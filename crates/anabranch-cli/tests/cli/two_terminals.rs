//! The walk-through of the README: a server, two replicas, a time apart, and together again.

use crate::support::{Shell, column};
use serde_json::json;

#[test]
fn two_replicas_part_edit_and_agree() {
    let shell = Shell::new();
    let server = shell.serve("127.0.0.1:0");
    let (address, url) = (server.address.clone(), server.url());

    shell.init("a.db");
    let id = shell.ok(["create", "a.db", "notes", "title=Trip", "body=Pack", "stars=1", "tags+=sea"]);
    assert_eq!(shell.json(["sync", "a.db", &url, "--json"])["pending"], 0);
    shell.init("b.db");
    shell.ok(["sync", "b.db", &url]);
    let there = shell.json(["get", "b.db", &id, "--json"]);
    assert_eq!(there["state"], json!({ "title": "Trip", "body": "Pack", "stars": 1, "tags": ["sea"] }));

    server.stop();
    shell.ok(["edit", "a.db", &id, "title=Trip to the sea", "stars+=1", "body[4:4]= light", "due:=\"2030-05-01\""]);
    shell.ok(["edit", "b.db", &id, "title=Journey", "stars+=2", "body[0:0]=Please: ", "tags+=train", "tags-=sea"]);
    let error = shell.error(["sync", "a.db"]);
    assert!(error.contains("offline") && error.contains("1 change is safe in the file"), "{error}");
    for file in ["a.db", "b.db"] {
        assert!(shell.json(["status", file, "--json"])["pending"].as_u64() > Some(0));
    }

    let _server = shell.serve(&address);
    for file in ["a.db", "b.db", "a.db", "b.db"] {
        shell.ok(["sync", file]);
    }
    let state = shell.ok(["get", "a.db", &id, "--state"]);
    assert_eq!(state, shell.ok(["get", "b.db", &id, "--state"]));
    assert_eq!(
        state,
        r#"{"body":"Please: Pack light","due":"2030-05-01","stars":4,"tags":["train"],"title":"Journey"}"#
    );
    for file in ["a.db", "b.db"] {
        let status = shell.json(["status", file, "--json"]);
        assert_eq!((&status["pending"], &status["conflicts"]), (&json!(0), &json!(1)), "{status}");
    }
    let idle = shell.json(["sync", "a.db", "--json"]);
    assert_eq!((&idle["round_trips"], &idle["pushed"], &idle["pulled"]), (&json!(1), &json!(0), &json!(0)));
}

#[test]
fn a_replica_is_a_plain_sqlite_file() {
    let shell = Shell::new();
    shell.init("a.db");
    shell.ok(["create", "a.db", "notes", "title=One", "stars=3"]);
    shell.ok(["create", "a.db", "notes", "title=Two"]);
    let file = shell.path("a.db");
    assert_eq!(column(&file, "SELECT title FROM notes ORDER BY title"), ["One", "Two"]);
    let columns = column(&file, "SELECT name FROM pragma_table_info('notes') ORDER BY cid");
    let declared = ["id", "title", "body", "stars", "tags", "items", "links", "due", "folder", "$space"];
    assert_eq!(columns, declared);
    // Closed properly, all of it is in the one file.
    assert!(!shell.path("a.db-wal").exists());
}

#[test]
fn a_sync_that_watches_follows_the_others() {
    use std::io::{BufRead as _, BufReader};
    use std::process::Stdio;

    let shell = Shell::new();
    let server = shell.serve("127.0.0.1:0");
    for file in ["a.db", "b.db"] {
        shell.init(file);
    }
    let mut watching = shell
        .command(["sync", "a.db", &server.url(), "--watch", "--json"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut lines = BufReader::new(watching.stdout.take().expect("its output")).lines();
    let mut wait_for = |wanted: &dyn Fn(&serde_json::Value) -> bool| {
        let mut statuses = (&mut lines).map(|line| serde_json::from_str(&line.expect("a line")).expect("JSON"));
        assert!(statuses.any(|status| wanted(&status)), "it ended");
    };
    wait_for(&|status| status["phase"] == "live");

    // From the server, and from another process on the same file.
    shell.ok(["create", "b.db", "notes", "title=From b"]);
    shell.ok(["sync", "b.db", &server.url()]);
    wait_for(&|status| status["entities"] == 1);
    shell.ok(["create", "a.db", "notes", "title=From a"]);
    wait_for(&|status| status["entities"] == 2 && status["pending"] == 0 && status["phase"] == "live");
    shell.ok(["sync", "b.db"]);
    assert_eq!(shell.json(["list", "b.db", "notes", "--json"]).as_array().map(Vec::len), Some(2));

    let asked = std::process::Command::new("kill").args(["-INT", &watching.id().to_string()]).status();
    assert!(asked.expect("kill runs").success());
    assert!(watching.wait().expect("it ends").success());
}
