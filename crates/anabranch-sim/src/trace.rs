//! What happened, as a digest and, if asked for, as lines to read.

use std::fmt::Arguments;

use sha2::{Digest as _, Sha256};

/// The account of a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trace {
    digest: Sha256,
    lines: Option<Vec<String>>,
    events: u64,
}

impl Trace {
    pub(crate) fn new(keep_lines: bool) -> Self {
        Self { lines: keep_lines.then(Vec::new), ..Self::default() }
    }

    /// Notes an event.
    pub(crate) fn note(&mut self, line: Arguments<'_>) {
        let line = line.to_string();
        self.digest.update(line.as_bytes());
        self.digest.update(b"\n");
        self.events += 1;
        if let Some(lines) = &mut self.lines {
            lines.push(line);
        }
    }

    /// Notes bytes that are not worth a line, but must be the same every time.
    pub(crate) fn note_bytes(&mut self, bytes: &[u8]) {
        self.digest.update(bytes);
    }

    pub(crate) const fn events(&self) -> u64 {
        self.events
    }

    pub(crate) fn hexadecimal(&self) -> String {
        self.digest.clone().finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
    }

    pub(crate) fn into_lines(self) -> Vec<String> {
        self.lines.unwrap_or_default()
    }
}
