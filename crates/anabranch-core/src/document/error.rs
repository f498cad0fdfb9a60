//! What can go wrong with a document. No text here ever holds a value: errors reach logs.

use automerge::AutomergeError;

use super::contain::Panicked;
use crate::change::ChangeError;
use crate::id::{Actor, ChangeHash};
use crate::name::FieldName;
use crate::schema::{Kind, Rule};

/// A document that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DocumentError {
    /// Automerge panicked. The document must be thrown away and rebuilt from the change log.
    #[error("the document is poisoned: throw it away and rebuild it from the change log")]
    Poisoned,
    /// The bytes are not a folded document.
    #[error("the folded document cannot be loaded")]
    Unreadable,
    /// The fold does not give the same document when it is loaded.
    #[error("the folded document differs from the one it was folded from")]
    FoldDiffers,
    /// A value is nested deeper than [`MAX_DEPTH`](super::MAX_DEPTH).
    #[error("a value is nested too deeply")]
    TooDeep,
    /// The changes cannot be applied.
    #[error(transparent)]
    Changes(#[from] ApplyError),
    /// Some of the heads are not in the document.
    #[error("the document does not have these heads")]
    UnknownHeads,
    /// The change is not in the document.
    #[error("the document does not have the change {0}")]
    UnknownChange(ChangeHash),
    /// The collection has no text field of this name.
    #[error("{0} is not a text field")]
    NotText(FieldName),
    /// A position is past the end of the text.
    #[error("{at} is out of range, the length is {length}")]
    OutOfRange {
        /// The position.
        at: usize,
        /// The length of the text.
        length: usize,
    },
    /// The cursor is none of this text's.
    #[error("the cursor is not one of this text")]
    UnknownCursor,
    /// Automerge returned an error where none can occur in a sound document.
    #[error("the document is damaged")]
    Damaged,
}

/// Changes that were not applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ApplyError {
    /// Automerge panicked. The document must be thrown away and rebuilt from the change log.
    #[error("a change panicked; throw the document away and rebuild it from the change log")]
    Poisoned,
    /// A change depends on one that is neither in the document nor among the changes. Nothing was applied.
    #[error("the change {0} is missing")]
    MissingDependency(ChangeHash),
    /// A change does not follow the previous change of its actor, or does not name it as a dependency. Nothing
    /// was applied.
    #[error("the change {0} does not follow the previous change of its actor")]
    OutOfSequence(ChangeHash),
    /// There is another change with the same actor and sequence number. Nothing was applied.
    #[error("the change {hash} is a fork: the document has another change {seq} of the actor {actor}")]
    Fork {
        /// The change that was not applied.
        hash: ChangeHash,
        /// The actor that wrote both.
        actor: Actor,
        /// The sequence number of both.
        seq: u64,
    },
    /// A change's first op is not the one after the last of its dependencies. Nothing was applied.
    #[error("the ops of the change {0} do not follow those of its dependencies")]
    StartOp(ChangeHash),
    /// A change names an op that does not come before it by its dependencies. Nothing was applied.
    #[error("the change {0} names an op that it cannot know")]
    NotInPast(ChangeHash),
    /// A change names an op that is not what it takes it for: no such object, or a value elsewhere. Nothing was
    /// applied.
    #[error("the change {0} takes an op for what it is not")]
    Misplaced(ChangeHash),
    /// A change makes an object that is nested deeper than [`MAX_DEPTH`](super::MAX_DEPTH). Nothing was applied.
    #[error("the change {0} nests a value too deeply")]
    TooDeep(ChangeHash),
    /// Automerge cannot read a change. Nothing was applied.
    #[error("the change {0} cannot be read")]
    Unreadable(ChangeHash),
    /// Automerge refused the changes. The document must be thrown away.
    #[error("the changes were refused")]
    Refused,
    /// A change does not read back as it was written. The document must be thrown away.
    #[error("the change {0} does not read back as it was written")]
    Altered(ChangeHash),
}

impl ApplyError {
    /// Whether the document is as it was before, and can be used on.
    #[must_use]
    pub const fn is_untouched(&self) -> bool {
        !matches!(self, Self::Poisoned | Self::Refused | Self::Altered(_))
    }
}

/// A local write that was refused. The document may hold geneses that were never returned: throw it away.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EditError {
    /// The document already has a collection.
    #[error("the entity already exists")]
    AlreadyExists,
    /// The document has no collection yet.
    #[error("the entity does not exist")]
    NotBorn,
    /// The collection has no such field.
    #[error("there is no field {0:?} in the collection")]
    UnknownField(String),
    /// The value or the edit does not suit the field's kind.
    #[error("{field} is a {}, which takes {expected}", .kind.as_str())]
    WrongKind {
        /// The field.
        field: FieldName,
        /// Its kind.
        kind: Kind,
        /// What the kind takes.
        expected: &'static str,
    },
    /// The entity holds the field as a container or counter, from another schema version.
    #[error("{field} of this entity was written as another kind, which a register cannot replace")]
    KindChanged {
        /// The field.
        field: FieldName,
    },
    /// An index is past the end.
    #[error("{field}: {at} is out of range, the length is {length}")]
    OutOfRange {
        /// The field.
        field: FieldName,
        /// The index.
        at: usize,
        /// The length of the text or list.
        length: usize,
    },
    /// The path leads to nothing, or through something that is neither a map nor a list.
    #[error("{field}: the path leads nowhere")]
    NoSuchElement {
        /// The field.
        field: FieldName,
    },
    /// The value is nested deeper than [`MAX_DEPTH`](super::MAX_DEPTH).
    #[error("{field}: the value is nested too deeply")]
    TooDeep {
        /// The field.
        field: FieldName,
    },
    /// A number is infinite or not a number.
    #[error("{field}: a number is not finite")]
    NotFinite {
        /// The field.
        field: FieldName,
    },
    /// The counter would leave the range of 64-bit integers.
    #[error("{field}: the counter would overflow")]
    Overflow {
        /// The field.
        field: FieldName,
    },
    /// The value breaks a rule of its field.
    #[error("{field}: {rule}")]
    Rule {
        /// The field.
        field: FieldName,
        /// The rule.
        rule: Rule,
    },
    /// The field is written once, and it has been.
    #[error("{field} is written once, and has a value")]
    WriteOnce {
        /// The field.
        field: FieldName,
    },
    /// The conflict is settled already, or values have come or gone since it was looked at.
    #[error("the conflict is no longer what it was: look at it again")]
    ConflictChanged,
    /// There are not that many contenders.
    #[error("there is no contender {place}: the conflict has {count}")]
    NoContender {
        /// The place that was chosen.
        place: usize,
        /// How many there are.
        count: usize,
    },
    /// The change would be larger than [`MAX_CHANGE_BYTES`](crate::MAX_CHANGE_BYTES).
    #[error("the edit makes a change larger than 1 MiB")]
    TooLarge,
    /// The change would break another limit of the protocol.
    #[error("the edit makes a change that is not admitted: {0}")]
    NotAdmitted(ChangeError),
    /// The document itself is at fault.
    #[error(transparent)]
    Document(#[from] DocumentError),
}

impl From<Panicked> for DocumentError {
    fn from(_: Panicked) -> Self {
        Self::Poisoned
    }
}

impl From<Panicked> for ApplyError {
    fn from(_: Panicked) -> Self {
        Self::Poisoned
    }
}

impl From<Panicked> for EditError {
    fn from(_: Panicked) -> Self {
        Self::Document(DocumentError::Poisoned)
    }
}

impl From<AutomergeError> for DocumentError {
    fn from(_: AutomergeError) -> Self {
        // Automerge's own text may hold values.
        Self::Damaged
    }
}

impl From<AutomergeError> for EditError {
    fn from(error: AutomergeError) -> Self {
        Self::Document(error.into())
    }
}

impl From<ApplyError> for EditError {
    fn from(error: ApplyError) -> Self {
        Self::Document(error.into())
    }
}

impl From<ChangeError> for EditError {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::TooLarge => Self::TooLarge,
            other => Self::NotAdmitted(other),
        }
    }
}
