//! Replicas that meet without a server: one process listens, another dials.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdout, Stdio};

use crate::support::Shell;

const TOKEN: &str = "correct horse battery staple";

/// A replica that listens in a process of its own; killed when it is dropped.
struct Listening {
    child: Child,
    address: String,
    /// It goes on printing, and would end if nobody could read it.
    _output: BufReader<ChildStdout>,
}

impl Listening {
    fn start(shell: &Shell, file: &str) -> Self {
        let mut child = shell
            .command(["peer", "listen", file, "--addr", "127.0.0.1:0", "--token-env", "PEER_TOKEN"])
            .env("PEER_TOKEN", TOKEN)
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut output = BufReader::new(child.stdout.take().expect("its output"));
        let mut line = String::new();
        output.read_line(&mut line).expect("a line");
        let address = line.strip_prefix("listening on ").and_then(|rest| rest.split(' ').next());
        Self { address: address.unwrap_or_else(|| panic!("{line}")).to_owned(), child, _output: output }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn three_replicas_in_a_chain_agree_without_a_server() {
    let shell = Shell::new();
    std::fs::write(shell.path("token"), format!("{TOKEN}\n")).expect("a file");
    for file in ["a.db", "b.db", "c.db"] {
        shell.init(file);
    }
    let id = shell.ok(["create", "a.db", "notes", "title=Trip"]);
    let dial =
        |file: &str, to: &Listening| shell.json(["peer", "dial", file, &to.address, "--token-file", "token", "--json"]);
    let (b, c) = (Listening::start(&shell, "b.db"), Listening::start(&shell, "c.db"));
    assert_eq!(dial("a.db", &b)["sent"], 1);
    // Another process on b's file.
    dial("b.db", &c);
    for file in ["a.db", "c.db"] {
        shell.ok(["edit", file, &id, "stars+=1"]);
        shell.ok(["create", file, "notes", &format!("title=By {file}")]);
    }
    dial("a.db", &b);
    dial("b.db", &c);
    let last = dial("a.db", &b);
    assert_eq!((&last["sent"], &last["received"]), (&0.into(), &2.into()), "{last}");
    let state = shell.ok(["get", "a.db", &id, "--state"]);
    for file in ["b.db", "c.db"] {
        assert_eq!(shell.ok(["get", file, &id, "--state"]), state);
        assert_eq!(shell.json(["list", file, "notes", "--json"]).as_array().map(Vec::len), Some(3));
    }
    assert!(state.contains(r#""stars":2"#), "{state}");

    std::fs::write(shell.path("other"), "another token, long enough").expect("a file");
    let error = shell.error(["peer", "dial", "a.db", &b.address, "--token-file", "other"]);
    assert!(error.contains("does not know the token") && !error.contains("another token"), "{error}");
    let error = shell.error(["peer", "dial", "a.db", &b.address]);
    assert!(error.contains("--token-file"), "{error}");
}
