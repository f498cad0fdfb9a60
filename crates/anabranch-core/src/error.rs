//! What a caller should do about an error.

/// What a caller should do about an error: every error type of the project says one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The call is wrong: fix the argument. Nothing was stored.
    Invalid,
    /// What was asked for is not there.
    NotFound,
    /// It may work later as it is: the disk is busy or full, the network is away.
    Retry,
    /// The other side said no, or a person has to decide.
    Refused,
    /// The file is damaged, or not one of ours.
    Damaged,
    /// A bug in this library: please report it.
    Internal,
}
