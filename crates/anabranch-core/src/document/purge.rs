//! Purging: all that is left of a deleted entity is a marker.
//!
//! The marker is a change that depends on nothing and whose bytes follow from the version that it purges, so
//! whoever purges the same version makes the same marker. A server knows it from its header alone
//! ([`Change::purge_of`]) and takes it only while that is still the entity's version, so that nothing which
//! came meanwhile is lost.

use automerge::transaction::{CommitOptions, Transactable as _};
use automerge::{ActorId, Automerge, ROOT, ReadDoc as _, ScalarValue, TextEncoding};

use super::error::DocumentError;
use super::note::Note;
use super::{Check, Document};
use crate::change::Change;
use crate::id::{Actor, Digest};

/// The root key under which a marker holds the version that it purges.
const PURGED_KEY: &str = "$purged";

impl Document {
    /// The marker that purges an entity of this version.
    ///
    /// # Errors
    /// [`DocumentError::Damaged`] if Automerge cannot make it, which is a bug.
    pub fn purge_marker(version: &Digest) -> Result<Change, DocumentError> {
        let blank = build(version, &ActorId::from([0; 16]))?;
        build(version, &ActorId::from(blank.expected_derived_actor().as_bytes()))
    }

    /// A document that holds nothing but markers.
    ///
    /// # Errors
    /// [`DocumentError`] if one of the changes is no marker, or cannot be applied.
    pub fn purged(actor: &Actor, markers: &[Change]) -> Result<Self, DocumentError> {
        if markers.is_empty() || markers.iter().any(|marker| marker.purge_of().is_none()) {
            return Err(DocumentError::Damaged);
        }
        let mut document = Self::new(actor);
        document.merge(markers, Check::Admitted)?;
        Ok(document)
    }

    /// Whether the entity has been purged.
    #[must_use]
    pub fn is_purged(&self) -> bool {
        self.automerge.get(ROOT, PURGED_KEY).is_ok_and(|found| found.is_some())
    }
}

fn build(version: &Digest, actor: &ActorId) -> Result<Change, DocumentError> {
    let mut document = Automerge::new_with_encoding(TextEncoding::UnicodeCodePoint).with_actor(actor.clone());
    let mut transaction = document.transaction();
    transaction.put(ROOT, PURGED_KEY, ScalarValue::Bytes(version.as_bytes().to_vec()))?;
    let message = Note::Purge(*version).to_string();
    transaction.commit_with(CommitOptions::default().with_message(message).with_time(0));
    let change = document.get_last_local_change().ok_or(DocumentError::Damaged)?;
    Change::parse(change.raw_bytes().to_vec()).map_err(|_| DocumentError::Damaged)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_is_the_same_everywhere_and_tells_what_it_purges() {
        let version = Digest::of(b"heads");
        let marker = Document::purge_marker(&version).unwrap();
        assert_eq!(Document::purge_marker(&version).unwrap(), marker);
        assert_ne!(Document::purge_marker(&Digest::of(b"others")).unwrap().hash(), marker.hash());
        assert!(marker.actor().is_derived() && marker.dependencies().is_empty());
        assert_eq!(Change::parse(marker.bytes().to_vec()).unwrap().purge_of(), Some(version));
        let actor = Actor::from_bytes(&[1]).unwrap();
        let document = Document::purged(&actor, &[marker]).unwrap();
        assert!(document.is_purged() && !document.is_born());
        assert!(!Document::new(&actor).is_purged());
        assert!(Document::purged(&actor, &[]).is_err());
    }
}
