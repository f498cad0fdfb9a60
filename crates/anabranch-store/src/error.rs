//! The store's errors.

use anabranch_core::document::{ApplyError, DocumentError, EditError};
use anabranch_core::sync::{MAX_TRANSACTION_BYTES, MAX_TRANSACTION_CHANGES};
use anabranch_core::{ChangeError, CollectionName, EntityId, ErrorKind, FieldName, NameError, Rule, SchemaError};

use crate::witness::LostFile;

/// Why the store could not do what it was asked. [`StoreError::kind`] says what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// There is no such entity in this space.
    #[error("there is no entity {0}")]
    NoEntity(EntityId),
    /// The entity is deleted: restore it first.
    #[error("entity {0} is deleted")]
    Deleted(EntityId),
    /// An entity with this id exists already.
    #[error("there already is an entity {0}")]
    EntityExists(EntityId),
    /// The schema has no such collection.
    #[error("the schema has no collection {0:?}")]
    NoCollection(CollectionName),
    /// The edit does not fit the schema or the entity.
    #[error(transparent)]
    Edit(#[from] EditError),
    /// A value breaks a rule of its field. Nothing was stored.
    #[error("entity {entity}, {field}: {rule}")]
    Rule {
        /// The entity.
        entity: EntityId,
        /// The field.
        field: FieldName,
        /// The rule.
        rule: Rule,
    },
    /// The conflict is settled, or values have come or gone since it was looked at.
    #[error("the conflict of entity {0} is no longer what it was: look at it again")]
    ConflictChanged(EntityId),
    /// The entity's history does not have the point that was asked for.
    #[error("the history of entity {0} does not have these heads")]
    UnknownVersion(EntityId),
    /// Another entity refers to the one that was to be deleted, and forbids it.
    #[error("entity {entity} cannot be deleted: {field} of {by} refers to it")]
    Referenced {
        /// The entity that was to be deleted.
        entity: EntityId,
        /// The entity that refers to it.
        by: EntityId,
        /// By this field.
        field: String,
    },
    /// A deletion would take more entities along than one transaction may hold.
    #[error("deleting entity {0} would take too many others along")]
    CascadeTooLarge(EntityId),
    /// Only a deleted entity whose every change a server has accepted can be purged.
    #[error("entity {0} cannot be purged: it is not deleted, or not all of it is on the server")]
    NotPurgeable(EntityId),
    /// The entity has been purged; its id cannot be used again.
    #[error("entity {0} has been purged")]
    Purged(EntityId),
    /// Only what a server has refused can be discarded.
    #[error("nothing of entity {0} that could be discarded has been refused")]
    NotRefused(EntityId),
    /// A name breaks its rules.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The schema cannot be used.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// The file has been used with a newer schema than the one given.
    #[error("the file has been used with schema version {stored}; this application has version {given}")]
    SchemaOutdated {
        /// The version in the file.
        stored: u32,
        /// The version given.
        given: u32,
    },
    /// The schema differs from the one in the file, but its version does not.
    #[error("the schema differs from the file's, but both have version {0}: raise the version")]
    SchemaChanged(u32),
    /// The file does not exist, or has no schema yet.
    #[error("{0} is not an initialised replica")]
    NotInitialised(String),
    /// There was a replica in the file, and it is gone, or a part of it. The file has not been touched: bring back a
    /// backup, or make a new file in its place, which will tell what was lost with this one.
    #[error("{0}")]
    Lost(Box<LostFile>),
    /// There is a replica in the file already.
    #[error("{0} is a replica already")]
    AlreadyInitialised(String),
    /// The file is not a replica of this library, or of a newer release.
    #[error("the file is not a replica that this release can open: {0}")]
    NotAReplica(&'static str),
    /// The SQL of a query is wrong, or tries to write.
    #[error("the query failed: {0}")]
    Query(String),
    /// The document of an entity cannot be loaded from the file.
    #[error("entity {entity} is damaged: {source}")]
    Damaged {
        /// The entity.
        entity: EntityId,
        /// What is wrong.
        source: DocumentError,
    },
    /// A transaction has written to a second space.
    #[error("a transaction stays in one space")]
    TransactionSpaces,
    /// A transaction is larger than every server takes at once.
    #[error("a transaction holds at most {MAX_TRANSACTION_CHANGES} changes and {} KiB", MAX_TRANSACTION_BYTES >> 10)]
    TransactionTooLarge,
    /// An entity of this file is damaged, or waits for what is missing of it: what is left of it is not shown.
    #[error("entity {entity} is damaged: {reason}")]
    DamagedEntity {
        /// The entity.
        entity: EntityId,
        /// What is wrong.
        reason: &'static str,
    },
    /// The file itself cannot be read as what it was. `anabranch repair` saves what can be saved.
    #[error("the file is damaged: {0}")]
    DamagedFile(String),
    /// What the file holds does not read back as what was written.
    #[error("the file is damaged: {0}")]
    DamagedRow(&'static str),
    /// SQLite failed.
    #[error("the database failed: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// The commit's outcome is unknown: the disk failed in the middle. Look before writing it again.
    #[error("the commit failed and its outcome is unknown: {0}")]
    CommitUnknown(String),
    /// The transaction that this write shared with others failed; nothing of it was stored.
    #[error("the transaction failed: {0}")]
    Aborted(String),
    /// A server has accepted a change that has been written again since it was sent. Nothing was stored: a new session
    /// brings what the server has.
    #[error("a change was written again while it was on its way: a new session is needed")]
    Overtaken,
    /// The replica has been closed.
    #[error("the replica is closed")]
    Closed,
    /// There is more that no server has than its user was told of: look again.
    #[error("something has been written since: look again at what is unsent")]
    UnsentChanged,
    /// The replica has been signed out.
    #[error("signed out: the file has to be opened again")]
    SignedOut,
    /// A bug: something panicked while it wrote. Nothing was stored.
    #[error("a write panicked; nothing of it was stored")]
    Panicked,
    /// A bug: a number does not fit.
    #[error("a number is out of range")]
    OutOfRange,
}

impl StoreError {
    /// What the caller should do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoEntity(_) | Self::Deleted(_) | Self::Purged(_) | Self::UnknownVersion(_) | Self::NotRefused(_) => {
                ErrorKind::NotFound
            }
            Self::ConflictChanged(_) | Self::Referenced { .. } | Self::NotPurgeable(_) | Self::UnsentChanged => {
                ErrorKind::Refused
            }
            Self::EntityExists(_)
            | Self::Rule { .. }
            | Self::CascadeTooLarge(_)
            | Self::NoCollection(_)
            | Self::Edit(_)
            | Self::Name(_)
            | Self::Schema(_)
            | Self::SchemaOutdated { .. }
            | Self::SchemaChanged(_)
            | Self::NotInitialised(_)
            | Self::AlreadyInitialised(_)
            | Self::Query(_)
            | Self::TransactionSpaces
            | Self::TransactionTooLarge
            | Self::SignedOut
            | Self::Closed => ErrorKind::Invalid,
            Self::Lost(_)
            | Self::NotAReplica(_)
            | Self::Damaged { .. }
            | Self::DamagedEntity { .. }
            | Self::DamagedFile(_)
            | Self::DamagedRow(_) => ErrorKind::Damaged,
            Self::Sqlite(error) => sqlite_kind(error),
            Self::CommitUnknown(_) | Self::Aborted(_) | Self::Overtaken => ErrorKind::Retry,
            Self::Panicked | Self::OutOfRange => ErrorKind::Internal,
        }
    }
}

fn sqlite_kind(error: &rusqlite::Error) -> ErrorKind {
    use rusqlite::{Error, ErrorCode};
    // Tables are strict: what does not have its type is not what was written.
    if matches!(
        error,
        Error::FromSqlConversionFailure(..)
            | Error::IntegralValueOutOfRange(..)
            | Error::InvalidColumnType(..)
            | Error::Utf8Error(..)
    ) {
        return ErrorKind::Damaged;
    }
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => ErrorKind::Damaged,
        Some(
            ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::DiskFull
            | ErrorCode::SystemIoFailure
            | ErrorCode::CannotOpen
            | ErrorCode::OutOfMemory
            | ErrorCode::ReadOnly
            | ErrorCode::PermissionDenied,
        ) => ErrorKind::Retry,
        _ => ErrorKind::Internal,
    }
}

impl StoreError {
    /// The entity that is damaged, if it is one.
    #[must_use]
    pub fn damaged_entity(&self) -> Option<EntityId> {
        match self {
            Self::Damaged { entity, .. } | Self::DamagedEntity { entity, .. } => Some(*entity),
            _ => None,
        }
    }

    /// Whether SQLite has found the file damaged.
    pub(crate) fn is_corruption(error: &rusqlite::Error) -> bool {
        sqlite_kind(error) == ErrorKind::Damaged
    }

    /// The same failure of a shared transaction, for one more of the writes that were in it.
    pub(crate) fn for_another(&self) -> Self {
        match self {
            Self::CommitUnknown(reason) => Self::CommitUnknown(reason.clone()),
            Self::Sqlite(rusqlite::Error::SqliteFailure(code, text)) => {
                Self::Sqlite(rusqlite::Error::SqliteFailure(*code, text.clone()))
            }
            Self::OutOfRange => Self::OutOfRange,
            Self::SignedOut => Self::SignedOut,
            other => Self::Aborted(other.to_string()),
        }
    }
}

impl StoreError {
    /// The error of looking at this entity's document.
    pub(crate) fn of_document(entity: EntityId, error: DocumentError) -> Self {
        match error {
            DocumentError::UnknownHeads | DocumentError::UnknownChange(_) => Self::UnknownVersion(entity),
            source => Self::Damaged { entity, source },
        }
    }

    /// The error of an edit of this entity.
    pub(crate) fn of_edit(entity: EntityId) -> impl Fn(EditError) -> Self {
        move |error| match error {
            EditError::Rule { field, rule } => Self::Rule { entity, field, rule },
            EditError::ConflictChanged => Self::ConflictChanged(entity),
            EditError::NotBorn => Self::NoEntity(entity),
            EditError::Document(error) => Self::of_document(entity, error),
            other => Self::Edit(other),
        }
    }
}

impl From<std::num::TryFromIntError> for StoreError {
    fn from(_: std::num::TryFromIntError) -> Self {
        Self::OutOfRange
    }
}

impl From<anabranch_core::ParseIdError> for StoreError {
    fn from(_: anabranch_core::ParseIdError) -> Self {
        Self::DamagedRow("an id cannot be read")
    }
}

/// Why a foreign change was not applied; what is stored in `quarantine.reason`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QuarantineReason {
    /// Not a change that is admitted.
    #[error("{0}")]
    Malformed(#[from] ChangeError),
    /// The document refused it.
    #[error("{0}")]
    Refused(String),
    /// The entity is in another collection.
    #[error("the entity belongs to another collection")]
    WrongCollection,
    /// The entity has been purged, and this is not a marker of it.
    #[error("the entity has been purged")]
    Purged,
    /// What it was written on was taken out, and no form of it is admitted without that.
    #[error("what it builds on was refused, and it cannot be written without that")]
    NotRewritable,
    /// The collection is local-only here. It is taken in once a later schema says that it no longer is.
    #[error("the collection stays in this file")]
    LocalOnly,
    /// It waits for others, as do too many.
    #[error("too many changes wait for others")]
    TooManyWait,
    /// Too many that came with it were such that the document had to be put together again.
    #[error("not tried: too many changes that came with it do harm")]
    NotTried,
}

impl From<ApplyError> for QuarantineReason {
    fn from(error: ApplyError) -> Self {
        Self::Refused(error.to_string())
    }
}
