//! Notes: what a change says of itself, in its message. A genesis has its collection there instead.

use std::fmt;

use crate::change::{PURGE_NOTE, purged_version, rewritten};
use crate::id::{ChangeHash, Digest};

/// Why a change was made, where that is not plain from what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Note {
    /// A person settled a conflict.
    Resolve,
    /// It came from another system's copy of the entity.
    Import,
    /// It takes back a change of the same writer.
    Undo(ChangeHash),
    /// It takes back an undo.
    Redo(ChangeHash),
    /// It is all that is left of an entity that had this version.
    Purge(Digest),
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resolve => f.write_str("$resolve"),
            Self::Import => f.write_str("$import"),
            Self::Undo(hash) => write!(f, "$undo {hash}"),
            Self::Redo(hash) => write!(f, "$redo {hash}"),
            Self::Purge(version) => write!(f, "{PURGE_NOTE}{version}"),
        }
    }
}

impl Note {
    /// Reads a change's message. What is not a note of ours, such as a newer version's, is none.
    /// A change that was written again is what its original was.
    pub(super) fn parse(message: &str) -> Option<Self> {
        let message = rewritten(message).map_or(message, |(_, said)| said);
        match message.split_once(' ') {
            None if message == "$resolve" => Some(Self::Resolve),
            None if message == "$import" => Some(Self::Import),
            Some(("$undo", hash)) => Some(Self::Undo(parse_hash(hash)?)),
            Some(("$redo", hash)) => Some(Self::Redo(parse_hash(hash)?)),
            _ => purged_version(message).map(Self::Purge),
        }
    }
}

fn parse_hash(text: &str) -> Option<ChangeHash> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(text, &mut bytes).ok()?;
    Some(ChangeHash::from_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_survive_their_message() {
        let hash = ChangeHash::from_bytes([7; 32]);
        for note in [Note::Resolve, Note::Import, Note::Undo(hash), Note::Redo(hash), Note::Purge(Digest::of(b""))] {
            assert_eq!(Note::parse(&note.to_string()), Some(note));
        }
        for other in ["", "notes", "notes#set", "$undo", "$undo 12", "$purge 12", "$later thing"] {
            assert_eq!(Note::parse(other), None, "{other}");
        }
    }
}
