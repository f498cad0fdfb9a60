//! What a change's message may say of it: that it purges, or was written again.

use crate::id::{ChangeHash, Digest};

/// What the message of a purge marker begins with; the version that is purged follows.
pub(crate) const PURGE_NOTE: &str = "$purge ";

/// What the message of a change that was written again begins with; the original's hash follows, and then what the
/// original said of itself.
pub(crate) const REWRITE_NOTE: &str = "$rewrite ";

/// What a rewrite was written from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rewrite {
    /// The change that somebody wrote; if a rewrite had to be written again, it is still that of the first.
    pub original: ChangeHash,
    /// Which part of it this is, from 0 on: one that names very many writers comes in several.
    pub part: u32,
}

impl std::fmt::Display for Rewrite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{REWRITE_NOTE}{}", self.original)?;
        if self.part > 0 { write!(f, "+{}", self.part) } else { Ok(()) }
    }
}

/// What a change was written from, and what that said of itself, by the message.
pub(crate) fn rewritten(message: &str) -> Option<(Rewrite, &str)> {
    let rest = message.strip_prefix(REWRITE_NOTE)?;
    let (name, said) = rest.split_once(' ').unwrap_or((rest, ""));
    let (digits, part) = name.split_once('+').unwrap_or((name, "0"));
    let rewrite = Rewrite { original: digits.parse().ok()?, part: part.parse().ok()? };
    // One spelling only.
    (rewrite.to_string().get(REWRITE_NOTE.len()..) == Some(name)).then_some((rewrite, said))
}

pub(crate) fn purged_version(message: &str) -> Option<Digest> {
    let digits = message.strip_prefix(PURGE_NOTE)?;
    // One spelling only: with two, there would be two markers of one version.
    digits.parse().ok().filter(|version: &Digest| version.to_string() == digits)
}
