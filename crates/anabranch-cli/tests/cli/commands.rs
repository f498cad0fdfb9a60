//! The commands one by one: what they print, and how they fail.

use crate::support::{Shell, schema};
use serde_json::{Value, json};

#[test]
fn an_edit_of_every_kind_is_one_change() {
    let shell = Shell::new();
    shell.init("a.db");
    let fields = ["title=a=b", "body=Hallo Wörld", "stars=2", "tags+=old", "items:=[\"x\",2]", "due=2030-01-01"];
    let id = shell.ok(["create", "a.db", "notes"].iter().chain(&fields));
    // The first edit of a map brings its genesis; after that an edit is one change.
    shell.ok(["edit", "a.db", &id, "links[home]=h"]);
    let before = shell.json(["log", "a.db", &id, "--json"]).as_array().map_or(0, Vec::len);
    let edits = [
        "title=Hi",
        "stars+=1",
        "stars-=4",
        "tags+=food",
        "tags-=old",
        "due:=null",
        "body[6:8]=Wo",
        "body+=!",
        "items+=y",
        "items[0:1]:=[\"z\", true]",
        "links[away]:=[1]",
        "links-=home",
    ];
    assert_eq!(shell.json(["edit", "a.db", &id, "--json"].iter().chain(&edits))["changed"], true);
    assert_eq!(shell.json(["log", "a.db", &id, "--json"]).as_array().map(Vec::len), Some(before + 1));
    assert_eq!(
        shell.ok(["get", "a.db", &id, "--state"]),
        r#"{"body":"Hallo World!","items":["z",true,2,"y"],"links":{"away":[1]},"stars":-1,"tags":["food"],"title":"Hi"}"#
    );
    assert_eq!(shell.json(["edit", "a.db", &id, "title=Hi", "--json"])["changed"], false);
}

#[test]
fn entities_are_found_listed_and_queried() {
    let shell = Shell::new();
    shell.init("a.db");
    let id =
        shell.json(["create", "a.db", "notes", "--data", r#"{"title": "One", "stars": 10}"#, "--json"])["id"].clone();
    let id = id.as_str().expect("an id");
    shell.ok(["create", "a.db", "notes", "title=Two", "stars=2"]);
    assert!(shell.ok(["get", "a.db", &id[..id.len() - 1]]).contains("title   One"));
    let listed = shell.json(["list", "a.db", "notes", "--limit", "1", "--json"]);
    assert_eq!((listed.as_array().map(Vec::len), &listed[0]["state"]["title"]), (Some(1), &json!("One")));
    assert!(shell.ok(["list", "a.db", "notes", "--limit", "1"]).ends_with("… and more: --limit is 1"));
    let table = shell.ok(["query", "a.db", "SELECT title, stars FROM notes ORDER BY stars"]);
    assert_eq!(table, "title  stars\nTwo        2\nOne       10");
    let rows = shell.json(["query", "a.db", "SELECT title, stars FROM notes ORDER BY stars", "--json"]);
    assert_eq!(rows, json!([{ "title": "Two", "stars": 2 }, { "title": "One", "stars": 10 }]));
    assert_eq!(shell.ok(["query", "a.db", "SELECT title FROM notes WHERE stars > 99"]), "title");

    shell.ok(["delete", "a.db", id]);
    assert_eq!(shell.json(["list", "a.db", "notes", "--json"]).as_array().map(Vec::len), Some(1));
    assert_eq!(shell.json(["get", "a.db", id, "--json"])["deleted"], true);
}

#[test]
fn spaces_are_apart() {
    let shell = Shell::new();
    shell.init("a.db");
    let id = shell.ok(["create", "a.db", "notes", "title=Elsewhere", "--space", "team:1"]);
    assert!(shell.error(["get", "a.db", &id]).contains("no entity"));
    assert!(shell.ok(["get", "a.db", &id, "--space", "team:1"]).contains("Elsewhere"));
}

#[test]
fn errors_are_one_line_and_say_what_to_do() {
    let shell = Shell::new();
    shell.init("a.db");
    let id = shell.ok(["create", "a.db", "notes", "title=x"]);
    shell.ok(["create", "a.db", "notes", "title=y"]);
    let schema = schema();
    let schema = schema.to_str().expect("UTF-8");
    std::fs::write(shell.path("bad.toml"), "version = 1\n[collections.n.fields]\nx = { kind = \"registre\" }\n")
        .expect("a file");
    std::fs::write(shell.path("other.db"), "not a database, but long enough to look like one".repeat(20))
        .expect("a file");
    let cases: &[(&[&str], &str)] = &[
        (&["init", "a.db", "--schema", schema], "is a replica already"),
        (&["init", "c.db", "--schema", "bad.toml"], "registre"),
        (&["init", "c.db", "--schema", "none.toml"], "cannot read none.toml"),
        (&["init", "c.db"], "--schema"),
        (&["create", "a.db", "nots", "title=x"], "it has notes, folders"),
        (&["create", "a.db", "notes"], "FIELD=VALUE"),
        (&["create", "a.db", "notes", "titel=x"], "`titel=x`: there is no field"),
        (&["create", "a.db", "notes", "--data", "[]"], "--data"),
        (&["edit", "a.db", &id], "EDIT"),
        (&["edit", "a.db", &id, "title=x", "stars+=many"], "`stars+=many`: stars is a counter"),
        (&["edit", "a.db", &id, "body[2:9]=x"], "`body[2:9]=x`"),
        (&["get", "a.db", "ffff"], "no entity"),
        (&["get", "a.db", &id[..2]], "several entities"),
        (&["get", "none.db", &id], "none.db is not an initialised replica"),
        (&["get", "other.db", &id], "database"),
        (&["list", "a.db", "nots"], "no collection"),
        (&["query", "a.db", "DELETE FROM entities"], "only reads"),
        (&["query", "a.db", "SELEKT"], "syntax error"),
        (&["sync", "a.db"], "no server is known yet"),
        (&["sync", "a.db", "ftp://x"], "not the URL of a server"),
        (&["serve", "data", "--listen", "0.0.0.0:0"], "--allow-public-without-auth"),
        (&["serve", "bad.toml"], "cannot make bad.toml"),
        (&["demo", "--replicas", "0"], "--replicas"),
        (&["demo", "--trace", "bad.toml"], "not a gzipped trace"),
        (&["demo", "--keep", "."], "not empty"),
        (&["nonsense"], "nonsense"),
    ];
    for (arguments, expected) in cases {
        let error = shell.error(*arguments);
        assert!(error.contains(expected), "{arguments:?}: {error}");
        let outcome = shell.run(arguments.iter().chain(&["--json"]));
        let object: Value = serde_json::from_str(&outcome.stdout).expect("JSON");
        assert_eq!(object["error"], error, "{arguments:?}");
        assert!(object["kind"].is_string());
    }
    assert!(!shell.path("none.db").exists() && !shell.path("c.db").exists());
}

#[test]
fn without_a_command_the_help_is_shown() {
    let shell = Shell::new();
    assert!(shell.ok::<&str>([]).contains("Usage: anabranch"));
    assert!(shell.ok(["edit", "--help"]).contains("body[5:8]=abc"));
    assert!(shell.ok(["--version"]).starts_with("anabranch "));
}

#[test]
fn the_status_says_what_failed_and_when_it_is_tried_again() {
    let shell = Shell::new();
    shell.init("a.db");
    shell.ok(["create", "a.db", "notes", "title=one"]);
    // Nobody listens on the discard port.
    let failed = shell.run(["sync", "a.db", "http://127.0.0.1:9"]);
    assert!(failed.code != Some(0) && failed.stderr.contains("1 change is safe in the file"), "{}", failed.stderr);
    let told = shell.ok(["status", "a.db"]);
    for part in ["1 attempt in a row", "next try", "pending", "schema      version 1"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    let status = shell.json(["status", "a.db", "--json"]);
    assert_eq!(
        (&status["failures"], &status["error_class"], &status["pending"]),
        (&1.into(), &"transient".into(), &1.into())
    );
    assert!(status["next_retry_at"].is_i64() && status["oldest_pending_age_millis"].is_i64(), "{status}");
    let unset = shell.run(["sync", "a.db", "--token-env", "ANABRANCH_NO_SUCH_VARIABLE"]);
    assert!(unset.stderr.contains("the environment has no ANABRANCH_NO_SUCH_VARIABLE"), "{}", unset.stderr);
}
