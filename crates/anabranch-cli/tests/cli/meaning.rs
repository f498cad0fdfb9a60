//! Conflicts, history, deletion and schemas, as a person at a terminal meets them.

use crate::support::{ServerProcess, Shell};
use serde_json::{Value, json};

/// Two replicas that hold one note, and the server between them.
struct Pair {
    shell: Shell,
    server: ServerProcess,
    id: String,
}

impl Pair {
    fn new() -> Self {
        let shell = Shell::new();
        let server = shell.serve("127.0.0.1:0");
        shell.init("a.db");
        let id = shell.ok(["create", "a.db", "notes", "title=Trip", "body=Pack", "due=Monday"]);
        shell.ok(["sync", "a.db", &server.url()]);
        shell.init("b.db");
        shell.ok(["sync", "b.db", &server.url()]);
        Self { shell, server, id }
    }

    fn meet(&self) {
        for file in ["a.db", "b.db", "a.db", "b.db"] {
            self.shell.ok(["sync", file, &self.server.url()]);
        }
    }
}

#[test]
fn a_conflict_is_seen_explained_and_settled() {
    let Pair { shell, id, .. } = &Pair::new_with_conflict();
    let conflicts = |file: &str| shell.json(["conflicts", file, "--json"]);
    assert_eq!(conflicts("a.db"), conflicts("b.db"));
    let values: Vec<_> = conflicts("a.db")[0]["contenders"]
        .as_array()
        .expect("contenders")
        .iter()
        .map(|one| one["value"].clone())
        .collect();
    assert_eq!(values, [json!("Friday"), json!("Tuesday")]);
    assert_eq!(shell.json(["get", "a.db", id, "--json"])["open_conflicts"], 1);
    assert_eq!(shell.json(["status", "a.db", "--json"])["open_conflicts"], 1);
    let shown = shell.ok(["conflicts", "a.db"]);
    assert!(shown.contains("due: waits for a person") && shown.contains("1  Tuesday  (this replica, "), "{shown}");

    let why = shell.ok(["why", "a.db", id, "due"]);
    assert!(why.starts_with("due is a register: Friday\n  chosen by manual  Friday  (replica "), "{why}");
    assert!(why.contains("lost  Tuesday  (this replica, ") && why.contains("create body, due, title"), "{why}");
    let why = shell.json(["why", "a.db", id, "due", "--json"]);
    assert_eq!((&why["policy"], &why["contenders"][1]["mine"]), (&json!("manual"), &json!(true)));
    assert!(shell.ok(["why", "a.db", id, "body"]).contains("it merges what everybody wrote"));

    assert!(shell.error(["resolve", "a.db", id, "due", "--take", "2"]).contains("no contender 2"));
    assert!(shell.error(["resolve", "a.db", id, "title", "--take", "0"]).contains("nothing is contested"));
    shell.ok(["resolve", "a.db", id, "due", "--take", "1"]);
    assert_eq!(shell.ok(["conflicts", "a.db"]), "nothing to decide");
}

impl Pair {
    fn new_with_conflict() -> Self {
        let pair = Self::new();
        pair.shell.ok(["edit", "a.db", &pair.id, "due=Tuesday"]);
        pair.shell.ok(["edit", "b.db", &pair.id, "due=Friday"]);
        pair.meet();
        pair
    }
}

#[test]
fn what_lost_inside_a_map_is_explained_and_settled() {
    let pair = Pair::new();
    let Pair { shell, id, .. } = &pair;
    shell.ok(["edit", "a.db", id, "links[home]=one"]);
    shell.ok(["edit", "b.db", id, "links[home]=two", "title=Same"]);
    shell.ok(["edit", "a.db", id, "title=Same"]);
    pair.meet();
    let why = shell.ok(["why", "a.db", id, "links"]);
    assert!(why.contains("\n  links.home: two\n    chosen by lww  two  (replica "), "{why}");
    assert!(why.contains("\n    lost  one  (this replica, "), "{why}");
    let contest = &shell.json(["why", "a.db", id, "links", "--json"])["contests"][0];
    assert_eq!((&contest["field"], &contest["value"]), (&json!("links.home"), &json!("two")));
    let lost = |number: usize| (&contest["contenders"][number]["value"], &contest["contenders"][number]["lost"]);
    assert_eq!([lost(0), lost(1)], [(&json!("two"), &json!(false)), (&json!("one"), &json!(true))]);
    // Two wrote the same title: nothing lost.
    let why = shell.ok(["why", "a.db", id, "title"]);
    assert!(why.contains("chosen by lww  Same") && why.contains("the same  Same") && !why.contains("lost"), "{why}");
    let contenders = &shell.json(["why", "a.db", id, "title", "--json"])["contenders"];
    assert_eq!((&contenders[1]["value"], &contenders[1]["lost"]), (&json!("Same"), &json!(false)));

    let settled = shell.json(["resolve", "a.db", id, "links.home", "--take", "1", "--json"]);
    assert_eq!((&settled["field"], &settled["value"]), (&json!("links.home"), &json!("one")));
    assert!(!shell.ok(["why", "a.db", id, "links"]).contains("lost"));
}

#[test]
fn a_long_value_is_compared_by_the_places_that_differ() {
    let shell = Shell::new();
    shell.init("a.db");
    let long = "x".repeat(100);
    let links = format!("links:={{\"a\":\"{long}\",\"b\":1}}");
    let id = shell.ok(["create", "a.db", "notes", "title=Trip", &format!("body={long} one two"), &links]);
    shell.ok(["edit", "a.db", &id, "title=Journey", "body[101:104]=1", "body[0:0]=> ", "links[b]=2"]);
    let diff = shell.ok(["diff", "a.db", &id]);
    let body = "body:\n  at 0\n    + > \n  at 101\n    - one\n    + 1\nlinks:\n";
    assert!(diff.starts_with(body), "{diff}");
    assert!(diff.ends_with("title:\n  - Trip\n  + Journey"), "{diff}");
    let (before, after) = ("  - …xxxxxxxxxxxxxx\",\"b\":1}\n", "  + …xxxxxxxxxxxxxx\",\"b\":\"2\"}\n");
    assert!(diff.contains(before) && diff.contains(after), "{diff}");
}

#[test]
fn two_resolutions_apart_end_with_one_outcome() {
    let pair = Pair::new_with_conflict();
    let Pair { shell, id, .. } = &pair;
    shell.ok(["resolve", "a.db", id, "due", "--value", "Saturday"]);
    shell.ok(["resolve", "b.db", id, "due", "--take", "1"]);
    pair.meet();
    let state = shell.ok(["get", "a.db", id, "--state"]);
    assert_eq!(state, shell.ok(["get", "b.db", id, "--state"]));
    assert!(state.contains("\"due\":\"Tuesday\""), "the later decision: {state}");
    for file in ["a.db", "b.db"] {
        assert_eq!(shell.json(["conflicts", file, "--json"]), json!([]));
        let history = shell.json(["history", file, id, "--json"]);
        let resolved = history.as_array().expect("entries").iter().filter(|entry| entry["action"] == "resolve");
        assert_eq!(resolved.count(), 2);
    }
}

#[test]
fn history_diff_undo_and_redo() {
    let pair = Pair::new();
    let Pair { shell, id, .. } = &pair;
    shell.ok(["edit", "a.db", id, "title=Journey", "body+=, light"]);
    shell.ok(["edit", "b.db", id, "body[0:0]=Please: "]);
    pair.meet();
    let history = shell.json(["history", "a.db", id, "--json"]);
    let actions: Vec<_> = history.as_array().expect("entries").iter().map(|entry| entry["action"].clone()).collect();
    assert_eq!(actions, ["edit", "edit", "create"]);
    assert_eq!(history[2]["fields"], json!(["body", "due", "title"]));
    let created = history[2]["change"].as_str().expect("a hash");
    let diff = shell.json(["diff", "a.db", id, &created[..12], "--json"]);
    let fields: Vec<_> = diff.as_array().expect("fields").iter().map(|field| field["field"].clone()).collect();
    assert_eq!(fields, ["body", "title"]);
    assert_eq!((&diff[1]["before"], &diff[1]["after"]), (&json!("Trip"), &json!("Journey")));
    assert!(shell.error(["diff", "a.db", id, "zzz"]).contains("no change"));

    let state = || -> Value { shell.json(["get", "a.db", id, "--state"]) };
    assert_eq!(state()["body"], "Please: Pack, light");
    shell.ok(["undo", "a.db", id]);
    assert_eq!((&state()["title"], &state()["body"]), (&json!("Trip"), &json!("Please: Pack")));
    shell.ok(["redo", "a.db", id]);
    assert_eq!((&state()["title"], &state()["body"]), (&json!("Journey"), &json!("Please: Pack, light")));
    assert!(shell.ok(["redo", "a.db", id]).contains("no undo"));
}

#[test]
fn a_deleted_note_is_restored_or_purged_for_good() {
    let pair = Pair::new();
    let Pair { shell, id, .. } = &pair;
    shell.ok(["delete", "a.db", id]);
    shell.ok(["restore", "a.db", id]);
    assert_eq!(shell.json(["get", "a.db", id, "--json"])["deleted"], false);
    shell.ok(["delete", "a.db", id]);
    assert!(shell.error(["purge", "a.db", id]).contains("not all of it is on the server"));
    pair.meet();
    assert_eq!(shell.json(["get", "a.db", id, "--json"])["can_purge"], true);
    // Meanwhile b, which does not know of the purge, edits it.
    shell.ok(["restore", "b.db", id]);
    shell.ok(["edit", "b.db", id, "title=Back"]);
    assert!(shell.ok(["purge", "a.db", id]).contains("when the server has agreed"));
    shell.ok(["sync", "a.db"]);
    pair.meet();
    for file in ["a.db", "b.db"] {
        let record = shell.json(["get", file, id, "--json"]);
        assert_eq!((&record["purged"], &record["state"]), (&json!(true), &json!({})), "{file}");
        assert_eq!(shell.json(["status", file, "--json"])["pending"], 0, "{file}");
    }
    assert_eq!(shell.json(["status", "b.db", "--json"])["quarantined"], 2, "set aside, not lost");
    assert!(shell.ok(["purge", "a.db", id]).contains("purged already"));
}

#[test]
fn a_replica_is_cloned_with_the_schema_that_the_space_carries() {
    let Pair { shell, server, id } = &Pair::new();
    assert!(shell.ok(["clone", &server.url(), "c.db"]).contains("notes, folders"));
    assert_eq!(shell.ok(["get", "c.db", id, "--state"]), shell.ok(["get", "a.db", id, "--state"]));
    assert_eq!(shell.ok(["query", "c.db", "SELECT title FROM notes"]), "title\nTrip");
    assert!(shell.error(["clone", &server.url(), "d.db", "--space", "empty"]).contains("carries no schema"));
    for file in ["a.db", "c.db"] {
        assert!(shell.error(["clone", &server.url(), file]).contains("is a replica already"), "{file}");
    }
}

#[test]
fn a_schema_is_compared_and_applied() {
    let shell = Shell::new();
    let one = "version = 1\n[collections.notes.fields]\ntitle = { kind = \"register\" }\n";
    let two = "version = 2\n[collections.notes.fields]\nheadline = { kind = \"register\", key = \"title\" }\nbody = { kind = \"text\" }\n";
    let bad = "version = 3\n[collections.notes.fields]\ntitle = { kind = \"text\" }\n";
    for (name, text) in [("one.toml", one), ("two.toml", two), ("bad.toml", bad)] {
        std::fs::write(shell.path(name), text).expect("a file");
    }
    let diff = shell.ok(["schema", "diff", "one.toml", "two.toml"]);
    assert_eq!(
        diff,
        "notes.title: shown as `headline`; documents keep the key `title`  [what is there reads differently]\n\
         notes.body: added  [nothing changes for what is there]"
    );
    assert_eq!(shell.json(["schema", "diff", "one.toml", "bad.toml", "--json"])[0]["effect"], "refused");
    assert_eq!(shell.ok(["schema", "diff", "one.toml", "one.toml"]), "no difference");

    shell.ok(["init", "a.db", "--schema", "one.toml"]);
    let id = shell.ok(["create", "a.db", "notes", "title=Trip"]);
    assert!(shell.ok(["schema", "apply", "a.db", "two.toml"]).ends_with("has version 2 of its schema"));
    assert_eq!(shell.ok(["get", "a.db", &id, "--state"]), r#"{"headline":"Trip"}"#);
    assert!(shell.error(["schema", "apply", "a.db", "one.toml"]).contains("version 2"));
    assert!(shell.error(["schema", "apply", "a.db", "bad.toml"]).contains("cannot become a text"));
}

#[test]
fn rules_and_references_refuse_with_a_reason() {
    let shell = Shell::new();
    shell.init("a.db");
    let long = format!("title={}", "x".repeat(201));
    assert!(shell.error(["create", "a.db", "notes", &long]).contains("title: the greatest length is 200"));
    assert!(shell.error(["create", "a.db", "notes", "title:=3"]).contains("title: the type is"));
    let folder = shell.ok(["create", "a.db", "folders", "name=Home"]);
    shell.ok(["create", "a.db", "notes", "title=x", &format!("folder={folder}")]);
    assert!(shell.error(["delete", "a.db", &folder]).contains("folder of"));
}
