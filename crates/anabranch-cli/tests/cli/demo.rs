//! The demo proves what it says, and fails if it cannot.

use crate::support::{Shell, schema};
use serde_json::Value;

fn agrees(account: &Value, replicas: usize) {
    assert_eq!(account["agree"], true, "{}", account["disagreements"]);
    let members = account["replicas"].as_array().expect("replicas");
    assert_eq!(members.len(), replicas);
    for member in members {
        assert_eq!(member["state_digest"], members[0]["state_digest"]);
        assert_eq!(member["space_digest"], account["server"]["space_digest"]);
        assert_eq!(member["pending"], 0);
        assert!(member["waited"].as_u64() > Some(0));
    }
    assert!(account["merged"].as_array().expect("merged").iter().all(|merged| merged["as_expected"] == true));
    assert_eq!(account["idle_sync"]["round_trips"], 1);
    assert_eq!(account["typing"]["same_text"], true);
}

#[test]
fn g04_the_demo_ends_in_agreement() {
    let shell = Shell::new();
    let text = shell.ok(["demo"]);
    for part in ["CUT OFF", "RECONNECTED", "CONTESTED", "MERGED", "TYPED", "PROOF", "All agree."] {
        assert!(text.contains(part), "{part} is missing");
    }
    let account = shell.json(["demo", "--replicas", "4", "--json"]);
    agrees(&account, 4);
    let contested = &account["contested"][0];
    let stamps: Vec<_> =
        contested["values"].as_array().expect("values").iter().map(|value| value["stamp"].as_i64()).collect();
    assert_eq!(stamps.len(), 4);
    assert!(stamps.is_sorted_by(|a, b| a >= b), "the last writer comes first");
}

#[test]
fn one_replica_types_a_trace_as_it_was() {
    let shell = Shell::new();
    let trace = schema().with_file_name("typing.json.gz");
    let trace = trace.to_str().expect("UTF-8");
    let account = shell.json(["demo", "--replicas", "1", "--trace", trace, "--json"]);
    agrees(&account, 1);
    assert_eq!(account["typing"]["is_end_content"], true);
}

#[test]
fn the_kept_files_are_replicas() {
    let shell = Shell::new();
    shell.ok(["demo", "--keep", "kept", "--replicas", "2"]);
    let titles = |file: &str| shell.json(["query", file, "SELECT title FROM notes ORDER BY id", "--json"]);
    assert_eq!(titles("kept/phone.db"), titles("kept/laptop.db"));
}

#[test]
fn g02_the_demos_killed_writer_loses_nothing() {
    let shell = Shell::new();
    let account = shell.json(["demo", "--crash", "--replicas", "2", "--json"]);
    agrees(&account, 3);
    let crash = &account["crash"];
    assert!(crash["acknowledged"].as_u64() > Some(0));
    assert!(crash["in_file"].as_u64() >= crash["acknowledged"].as_u64());
    assert_eq!(crash["lost"].as_array().map(Vec::len), Some(0));
}

/// Real traces, if there are some: `ANABRANCH_TRACES` names a folder of them.
#[test]
fn real_traces_end_with_the_same_text_everywhere() {
    let Some(folder) = std::env::var_os("ANABRANCH_TRACES") else { return };
    let shell = Shell::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.extension().is_none_or(|extension| extension != "gz") {
            continue;
        }
        for replicas in ["1", "3"] {
            let arguments =
                ["demo".as_ref(), "--replicas".as_ref(), replicas.as_ref(), "--json".as_ref(), "--trace".as_ref()];
            let account = shell.json(arguments.into_iter().chain([path.as_os_str()]));
            agrees(&account, replicas.parse().expect("a number"));
        }
    }
}
