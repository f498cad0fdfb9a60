//! Running the binary: commands that end, and a server that goes on.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// The example schema.
pub(crate) fn schema() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("demo/notes.toml")
}

/// A folder to run commands in.
pub(crate) struct Shell {
    folder: TempDir,
}

/// What a command printed.
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Shell {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary folder") }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_anabranch"));
        command.args(arguments).current_dir(self.folder.path());
        command
    }

    /// Runs a command to its end.
    pub(crate) fn run<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Outcome {
        let Output { status, stdout, stderr } = self.command(arguments).output().expect("the binary runs");
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        Outcome { code: status.code(), stdout: text(stdout), stderr: text(stderr) }
    }

    /// Runs a command that must succeed; what it printed, without the last line's end.
    pub(crate) fn ok<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> String {
        let outcome = self.run(arguments);
        assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
        outcome.stdout.trim_end().to_owned()
    }

    /// As [`Shell::ok`], with the output as JSON.
    pub(crate) fn json<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Value {
        serde_json::from_str(&self.ok(arguments)).expect("JSON")
    }

    /// Runs a command that must fail in one line; that line.
    pub(crate) fn error<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> String {
        let outcome = self.run(arguments);
        assert!(outcome.code.is_some_and(|code| code > 0), "it succeeded: {}", outcome.stdout);
        assert_eq!(outcome.stderr.lines().count(), 1, "{}", outcome.stderr);
        outcome.stderr.trim_end().strip_prefix("error: ").expect("an error").to_owned()
    }

    /// Makes a replica.
    pub(crate) fn init(&self, file: &str) {
        self.ok(["init".as_ref(), file.as_ref(), "--schema".as_ref(), schema().as_os_str()]);
    }

    /// Starts a server on this address, and waits until it listens.
    pub(crate) fn serve(&self, address: &str) -> ServerProcess {
        self.serve_with(address, &[], |_| {})
    }

    /// Starts a server with more arguments, and changes to its process.
    pub(crate) fn serve_with(
        &self,
        address: &str,
        arguments: &[&str],
        change: impl FnOnce(&mut Command),
    ) -> ServerProcess {
        let mut command = self.command(["serve", "data", "--listen", address].iter().chain(arguments));
        change(&mut command);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the server starts");
        let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        let line = lines.next().expect("a line").expect("text");
        let address = line.strip_prefix("listening on http://").and_then(|rest| rest.split(',').next());
        let address = address.unwrap_or_else(|| panic!("{line}")).to_owned();
        ServerProcess { child, address }
    }
}

/// A server in a process of its own; killed when it is dropped.
pub(crate) struct ServerProcess {
    child: Child,
    pub(crate) address: String,
}

impl ServerProcess {
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Asks it to end, as a service manager does, and waits for that.
    pub(crate) fn stop(mut self) {
        let asked = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        assert!(asked.expect("kill runs").success());
        assert!(self.child.wait().expect("it ends").success());
    }
}

impl ServerProcess {
    /// Ends it as a power switch does.
    pub(crate) fn kill(self) {
        drop(self);
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The first column of every row of a query, straight from the file with SQLite.
pub(crate) fn column(file: &Path, sql: &str) -> Vec<String> {
    let connection = rusqlite::Connection::open(file).expect("an SQLite file");
    let mut statement = connection.prepare(sql).expect("SQL");
    let rows = statement.query_map([], |row| row.get::<_, String>(0)).expect("rows");
    rows.collect::<Result<_, _>>().expect("text")
}
