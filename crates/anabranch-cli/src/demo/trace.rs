//! Keystroke traces: real editing histories, gzipped JSON.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use flate2::read::GzDecoder;
use serde::Deserialize;

use crate::error::CliError;

/// A few hundred keystrokes of our own, with typos, corrections and jumps; `tests/cli/typing_trace.rs` makes it.
const BUNDLED: &[u8] = include_bytes!("../../demo/typing.json.gz");
/// A trace of a million keystrokes has some ten megabytes; a file that unpacks to more than this is no trace.
const MAX_BYTES: u64 = 1 << 30;

/// An editing history of one text.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Trace {
    /// The text before.
    pub(super) start_content: String,
    /// The text after.
    pub(super) end_content: String,
    /// What was done to it, in order.
    pub(super) txns: Vec<Txn>,
    /// Where it comes from.
    #[serde(skip)]
    pub(super) source: String,
}

/// What was typed at once.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Txn {
    pub(super) patches: Vec<Patch>,
}

/// A replacement: position, how much is deleted there, what is inserted there. Counted in Unicode scalar values.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Patch(pub(super) usize, pub(super) usize, pub(super) String);

impl Trace {
    /// Reads a trace, or the bundled one.
    pub(super) fn load(file: Option<&Path>) -> Result<Self, CliError> {
        let Some(path) = file else {
            return Self::read(BUNDLED, "the bundled trace".to_owned());
        };
        let opened = File::open(path).map_err(|error| CliError::path("read", path, &error))?;
        Self::read(opened, path.display().to_string())
    }

    fn read(bytes: impl Read, source: String) -> Result<Self, CliError> {
        let unpacked = std::io::BufReader::new(GzDecoder::new(bytes).take(MAX_BYTES));
        let trace: Self = serde_json::from_reader(unpacked)
            .map_err(|error| CliError::Usage(format!("{source} is not a gzipped trace: {error}")))?;
        Ok(Self { source, ..trace })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bundled_trace_ends_as_it_says() {
        let trace = Trace::load(None).unwrap();
        let mut text: Vec<char> = trace.start_content.chars().collect();
        for Patch(at, delete, insert) in trace.txns.iter().flat_map(|txn| &txn.patches) {
            text.splice(at..&(at + delete), insert.chars());
        }
        assert_eq!(text.into_iter().collect::<String>(), trace.end_content);
        assert!(trace.txns.len() > 300);
    }

    #[test]
    fn what_is_no_trace_is_refused() {
        let error = Trace::read(&b"no gzip"[..], "x.json.gz".to_owned()).unwrap_err();
        assert!(error.to_string().starts_with("x.json.gz is not a gzipped trace"));
    }
}
