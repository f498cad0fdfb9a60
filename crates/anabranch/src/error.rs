//! The library's error.

use std::fmt;

use anabranch_core::document::EditError;
use anabranch_core::sync::{Halt, PeerTokenError};
use anabranch_core::{EntityId, ErrorKind, FieldName, Lineage, NameError, ParseIdError, Rule, SchemaError};
use anabranch_store::{LostFile, StoreError};

use crate::peer::PeerError;
use crate::sync::SyncError;

/// Any failure of this library. [`Error::kind`] says what to do about it; the text is for a person.
#[derive(Debug)]
pub struct Error {
    source: Source,
}

#[derive(Debug, thiserror::Error)]
enum Source {
    #[error(transparent)]
    Store(StoreError),
    #[error(transparent)]
    Name(NameError),
    #[error(transparent)]
    Schema(SchemaError),
    #[error(transparent)]
    Id(ParseIdError),
    #[error("{0}")]
    Invalid(String),
    #[error(transparent)]
    Sync(SyncError),
    #[error(transparent)]
    Peer(PeerError),
    #[error(transparent)]
    Token(PeerTokenError),
}

impl Error {
    /// What the caller should do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match &self.source {
            Source::Store(error) => error.kind(),
            Source::Name(_) | Source::Schema(_) | Source::Id(_) | Source::Invalid(_) => ErrorKind::Invalid,
            Source::Sync(error) => error.kind(),
            Source::Peer(error) => error.kind(),
            Source::Token(_) => ErrorKind::Invalid,
        }
    }

    /// The entity, field and rule, if a write was refused because it breaks one: what a form shows beside the field.
    #[must_use]
    pub const fn rule(&self) -> Option<(EntityId, &FieldName, &Rule)> {
        match &self.source {
            Source::Store(StoreError::Rule { entity, field, rule }) => Some((*entity, field, rule)),
            _ => None,
        }
    }

    /// Whether a conflict was not settled because it is no longer the one that was looked at: look again.
    #[must_use]
    pub const fn is_conflict_changed(&self) -> bool {
        matches!(self.source, Source::Store(StoreError::ConflictChanged(_)))
    }

    /// The entity, and its field, whose reference forbids a deletion.
    #[must_use]
    pub fn referenced_by(&self) -> Option<(EntityId, &str)> {
        match &self.source {
            Source::Store(StoreError::Referenced { by, field, .. }) => Some((*by, field)),
            _ => None,
        }
    }

    /// The server's history, if a sync has stopped because it is another one than was synced with before: see
    /// [`Sync::adopt_lineage`](crate::Sync::adopt_lineage).
    #[must_use]
    pub const fn other_lineage(&self) -> Option<Lineage> {
        match &self.source {
            Source::Sync(SyncError::Halted(Halt::OtherLineage(lineage))) => Some(*lineage),
            _ => None,
        }
    }

    /// The file that was there and is gone, or has lost its end: why it was not opened. Nothing has been touched.
    #[must_use]
    pub fn lost(&self) -> Option<&LostFile> {
        match &self.source {
            Source::Store(StoreError::Lost(lost)) => Some(lost),
            _ => None,
        }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self { source: Source::Invalid(message.into()) }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.source, f)
    }
}

impl std::error::Error for Error {
    /// The failure of the layer beneath, such as a [`StoreError`].
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.source {
            Source::Store(error) => Some(error),
            Source::Name(error) => Some(error),
            Source::Schema(error) => Some(error),
            Source::Id(error) => Some(error),
            Source::Sync(error) => Some(error),
            Source::Peer(error) => Some(error),
            Source::Token(error) => Some(error),
            Source::Invalid(_) => None,
        }
    }
}

macro_rules! from {
    ($($type:ty => $variant:ident),* $(,)?) => {
        $(impl From<$type> for Error {
            fn from(error: $type) -> Self {
                Self { source: Source::$variant(error) }
            }
        })*
    };
}

from! { StoreError => Store, NameError => Name, SchemaError => Schema, ParseIdError => Id, SyncError => Sync, PeerError => Peer, PeerTokenError => Token }

impl From<EditError> for Error {
    fn from(error: EditError) -> Self {
        StoreError::Edit(error).into()
    }
}
