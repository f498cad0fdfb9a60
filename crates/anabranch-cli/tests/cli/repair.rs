//! Damaged files: what is said of them, and what is saved.

use std::fs;

use crate::support::Shell;

#[test]
fn a_damaged_file_is_told_repaired_and_kept() {
    let shell = Shell::new();
    shell.init("a.db");
    let id = shell.ok(["create", "a.db", "notes", "title=a note to be kept"]);
    assert_eq!(shell.ok(["repair", "a.db", "--dry-run"]), "a.db: nothing is damaged");
    assert_eq!(shell.ok(["repair", "a.db"]), "a.db: nothing is damaged");
    // The title stands in the change and in the row: the row is damaged.
    let mut bytes = fs::read(shell.path("a.db")).expect("the file");
    let row = b"{\"title\":\"a note to be kept\"}";
    let place = bytes.windows(row.len()).position(|window| window == row).expect("the row");
    bytes[place + 11] = b'A';
    fs::write(shell.path("a.db"), &bytes).expect("the file");

    let told = shell.run(["repair", "a.db", "--dry-run"]);
    assert_eq!(told.code, Some(1));
    assert!(
        told.stdout.contains(&format!("entities: entity {id}: its row is not what was written")),
        "{}",
        told.stdout
    );
    assert_eq!(fs::read(shell.path("a.db")).expect("the file"), bytes, "a dry run changes nothing");
    let findings = shell.run(["repair", "a.db", "--dry-run", "--json"]);
    assert!(findings.stdout.contains("\"findings\":["), "{}", findings.stdout);

    let repaired = shell.ok(["repair", "a.db"]);
    assert!(repaired.ends_with("the damaged file is a.db-damaged"), "{repaired}");
    assert_eq!(fs::read(shell.path("a.db-damaged")).expect("the damaged file"), bytes);
    assert_eq!(shell.ok(["get", "a.db", &id, "--state"]), r#"{"title":"a note to be kept"}"#);
    assert_eq!(shell.ok(["repair", "a.db", "--dry-run"]), "a.db: nothing is damaged");

    // What is no replica at all any more is not taken for a new one, and is where it was.
    fs::write(shell.path("a.db"), vec![b'x'; 8_192]).expect("the file");
    let error = shell.error(["list", "a.db", "notes"]);
    assert!(error.contains("not a database"), "{error}");
    shell.error(["repair", "a.db"]);
    assert_eq!(fs::read(shell.path("a.db")).expect("the file"), vec![b'x'; 8_192]);
}
