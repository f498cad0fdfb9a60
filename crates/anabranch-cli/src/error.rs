//! The command line's error: one line for a person, a kind for a script.

use std::io;
use std::path::Path;

use anabranch::ErrorKind;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// The command line makes no sense.
    #[error("{0}")]
    Usage(String),
    /// The library said no.
    #[error("{0}")]
    Library(#[from] anabranch::Error),
    /// A server could not be started, or failed.
    #[error("{0}")]
    Server(String),
    /// A file or a stream could not be read or written.
    #[error("{0}")]
    Io(String),
    /// What was asked for is not there.
    #[error("{0}")]
    NotFound(String),
    /// A sync did not come through; nothing is lost.
    #[error("{message}")]
    Sync {
        /// What happened, and what is kept.
        message: String,
        /// The library's kind.
        kind: ErrorKind,
    },
    /// The demo's replicas do not agree, or something that must hold does not.
    #[error("{0}")]
    Disagreement(String),
    /// A replica and its server do not hold the same; how they differ has been printed.
    #[error("{0}")]
    Differs(String),
    /// Whoever read the output has gone.
    #[error("the output was closed")]
    OutputClosed,
}

impl CliError {
    /// A failure of reading or writing a path.
    pub(crate) fn path(doing: &str, path: &Path, error: &io::Error) -> Self {
        Self::Io(format!("cannot {doing} {}: {}", path.display(), reason(error)))
    }

    /// The kind, as it stands in the JSON of an error.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Usage(_) => "usage",
            Self::Library(error) => name(error.kind()),
            Self::Sync { kind, .. } => name(*kind),
            Self::Server(_) => "server",
            Self::Io(_) | Self::OutputClosed => "io",
            Self::NotFound(_) => "not_found",
            Self::Disagreement(_) => "disagreement",
            Self::Differs(_) => "differs",
        }
    }

    /// The process's exit code.
    pub(crate) const fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            // What a shell shows for a process that SIGPIPE has ended.
            Self::OutputClosed => 141,
            _ => 1,
        }
    }
}

/// The failure of writing to standard output.
pub(crate) fn output(error: &io::Error) -> CliError {
    match error.kind() {
        io::ErrorKind::BrokenPipe => CliError::OutputClosed,
        _ => CliError::Io(format!("cannot write the output: {}", reason(error))),
    }
}

/// The operating system's reason, without its number.
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

const fn name(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Invalid => "invalid",
        ErrorKind::NotFound => "not_found",
        ErrorKind::Retry => "retry",
        ErrorKind::Refused => "refused",
        ErrorKind::Damaged => "damaged",
        _ => "internal",
    }
}

/// Any text as one line: the pictures that parsers draw below a message are left out.
pub(crate) fn one_line(text: &str) -> String {
    let is_picture = |line: &str| {
        let line = line.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ');
        line.starts_with('|') || line.is_empty()
    };
    let lines: Vec<_> = text.lines().filter(|line| !is_picture(line)).map(str::trim).collect();
    crate::output::printable(&lines.join(": "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parsers_picture_becomes_one_line() {
        let text = "TOML parse error at line 3, column 9\n  |\n3 | title = 1\n  |         ^\ninvalid type\n";
        assert_eq!(one_line(text), "TOML parse error at line 3, column 9: invalid type");
    }
}
