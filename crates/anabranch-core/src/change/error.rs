//! Why bytes are refused.

/// Why some bytes are not a change that is admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeError {
    /// Larger than [`MAX_CHANGE_BYTES`](super::MAX_CHANGE_BYTES).
    #[error("the change is larger than 1 MiB")]
    TooLarge,
    /// Not an (undeflated) change chunk.
    #[error("the bytes are not a plain change chunk")]
    NotAChange,
    /// The bytes end early, or go on after the end.
    #[error("the change's length is wrong")]
    Length,
    /// The checksum does not fit the content.
    #[error("the change's checksum is wrong")]
    Checksum,
    /// A number in the header is not in its one canonical form, or out of range.
    #[error("{0} of the change is out of range")]
    OutOfRange(&'static str),
    /// More ops than [`MAX_CHANGE_OPS`](super::MAX_CHANGE_OPS).
    #[error("the change has more than 110000 ops")]
    TooManyOps,
    /// Its ops replace more than [`MAX_CHANGE_PREDECESSORS`](super::MAX_CHANGE_PREDECESSORS).
    #[error("the ops of the change replace more than 110000 others")]
    TooManyPredecessors,
    /// It makes an object that is nested deeper than [`MAX_DEPTH`](super::MAX_DEPTH), whatever the document holds.
    #[error("the change nests a value too deeply")]
    TooDeep,
    /// It builds on nothing, and is not the first change of its actor, or its first op is not the first of all.
    #[error("the change builds on nothing, and {0} is not 1")]
    NotFirst(&'static str),
    /// Something that is no part of this version of the protocol.
    #[error("the change has {0} that the protocol does not know")]
    Unknown(&'static str),
    /// Something is written in another form than the one that honest writers use.
    #[error("{0} of the change is not in its one form")]
    NotCanonical(&'static str),
    /// The parts of the change contradict each other.
    #[error("the change contradicts itself: {0}")]
    Inconsistent(&'static str),
    /// An op other than an increment would replace the birth of a container or counter.
    #[error("the change replaces a container or counter")]
    ReplacesBirth,
    /// A derived actor that is not the digest of its change.
    #[error("the change claims a derived actor that is not its own")]
    ForgedActor,
}
