//! What a session asks the backend, through its driver.

use crate::id::{Digest, ReplicaId};
use crate::name::SpaceName;
use crate::segment::Piece;
use crate::sync::append::{AppendOutcome, Pushable};
use crate::sync::reconcile::SketchError;
use crate::wire::{Ask, Envelope, Mark, Reply};

/// What the driver asks the backend on the session's behalf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// Append to a space's log.
    Append {
        /// The push's id.
        id: u64,
        /// The space.
        space: SpaceName,
        /// Who pushes.
        replica: ReplicaId,
        /// What is pushed.
        batch: Vec<Pushable>,
    },
    /// Read a page of a space's log.
    Read {
        /// The space.
        space: SpaceName,
        /// Read what follows this place.
        after: Mark,
        /// Places the log must have, with these chains; else the answer is "unknown".
        check: Vec<Mark>,
    },
    /// Answer a question of a reconcile from what the space holds.
    Reconcile {
        /// The space.
        space: SpaceName,
        /// The question; it keeps the limits.
        ask: Ask,
    },
    /// Which segments does the space have?
    Manifest {
        /// The space.
        space: SpaceName,
        /// Places the log must have, with these chains.
        check: Vec<Mark>,
    },
    /// Fetch a segment.
    Segment {
        /// The space.
        space: SpaceName,
        /// The segment's name.
        digest: Digest,
    },
    /// Find the end of a space's log.
    Head {
        /// The space.
        space: SpaceName,
    },
}

/// The backend's answer to a [`Call`].
#[derive(Clone, Debug)]
pub enum CallResult {
    /// To [`Call::Append`], after the commit. `None`: the backend failed and nothing is known.
    Appended {
        /// The push's id.
        id: u64,
        /// The space.
        space: SpaceName,
        /// What came of it.
        outcome: Option<AppendOutcome>,
    },
    /// To [`Call::Read`]. `None`: the backend failed.
    Read {
        /// The space.
        space: SpaceName,
        /// The page.
        outcome: Option<LogPage>,
    },
    /// To [`Call::Reconcile`]. `None`: the backend failed.
    Reconciled {
        /// The space.
        space: SpaceName,
        /// The end of the log at that moment, and the reply.
        outcome: Option<(Mark, Result<Reply, SketchError>)>,
    },
    /// To [`Call::Manifest`].
    Manifest {
        /// The space.
        space: SpaceName,
        /// Whether the log has the marks that were to be checked.
        known: bool,
        /// The segments, and the place in the log that they go up to. `None`: there are none, or none that can be
        /// read.
        outcome: Option<(Mark, Vec<Piece>)>,
    },
    /// To [`Call::Segment`].
    Segment {
        /// The space.
        space: SpaceName,
        /// The segment's name.
        digest: Digest,
        /// Its bytes. `None`: it is not there, or not any more.
        outcome: Option<Vec<u8>>,
    },
    /// To [`Call::Head`]. `None`: the backend failed.
    Head {
        /// The space.
        space: SpaceName,
        /// Where the log ends.
        outcome: Option<Mark>,
    },
}

/// A page of a space's log.
#[derive(Clone, Debug)]
pub enum LogPage {
    /// The log does not have one of the marks that were to be checked.
    Unknown,
    /// What follows.
    Rows {
        /// The changes with their places.
        rows: Vec<(Mark, Envelope)>,
        /// Whether there is more.
        more: bool,
    },
}
