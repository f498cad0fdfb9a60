//! The library's error.

use std::fmt;

use anabranch_core::document::EditError;
use anabranch_core::{ErrorKind, NameError, ParseIdError, SchemaError};
use anabranch_store::StoreError;

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
}

impl Error {
    /// What the caller should do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match &self.source {
            Source::Store(error) => error.kind(),
            Source::Name(_) | Source::Schema(_) | Source::Id(_) | Source::Invalid(_) => ErrorKind::Invalid,
            Source::Sync(error) => error.kind(),
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
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.source()
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

from! { StoreError => Store, NameError => Name, SchemaError => Schema, ParseIdError => Id, SyncError => Sync }

impl From<EditError> for Error {
    fn from(error: EditError) -> Self {
        StoreError::Edit(error).into()
    }
}
