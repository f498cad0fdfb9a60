//! Bugs that can be planted, nearly all of them at the simulator's seams: where a driver or a backend would make them.

/// A mistake that a driver or a backend could make. The checkers must find each of them.
///
/// Planting works only with the feature `planted`; otherwise nothing is planted, whatever is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bug {
    /// The server answers a push, and stores it only later.
    AcknowledgeBeforeStoring,
    /// A page resumes one place too far.
    CursorOffByOne,
    /// The client commits a page's cursor in a transaction before the page's changes.
    CursorBeforeChanges,
    /// The client takes a change out of the outbox when it has sent it.
    SettleOnSend,
    /// The client takes "held" for an answer and forgets the change.
    ForgetHeld,
    /// The client never stores nor sends its ack mark.
    ForgetAckMark,
    /// The client reconciles, and does not offer what the server has lost.
    ForgetOffers,
    /// The honest server that takes the place of a liar goes on under the liar's lineage.
    KeepLineage,
    /// The log leaves a place empty, as a sequence does when its transaction is rolled back.
    SequenceGap,
    /// The chain covers the hash alone, not what came before.
    ChainOverHashAlone,
    /// A change that is pushed again is stored again.
    StoreDuplicates,
    /// A page of one space brings a row of another.
    CrossSpaceRow,
    /// A client that was restored from a backup writes under the name of the one that was lost.
    ReuseActorAfterRestore,
    /// The greatest value is shown where the policy says the smallest, and the other way round; by everyone.
    SettleOtherwise,
    /// An edit brings back what stays deleted by the schema; with everyone.
    DeleteOtherwise,
    /// Nobody flags a reference to what is deleted.
    FlagNoOrphans,
    /// A client's write-ahead log is not synced before a write is reported as done.
    SkipSync,
    /// The server's write-ahead log is not synced before a push is answered.
    SkipServerSync,
    /// Of a push that is taken in part, nothing is stored: the good half goes with the bad.
    DropGoodHalf,
    /// The server does not look whether an entity's parent is there.
    ForgetToHold,
    /// A contested value depends on how often it was looked at, and so on the order in which changes came.
    SettleByArrival,
    /// A change may name an op that it has not seen.
    AdmitAnyName,
    /// What is written again after a discard is taken for what the server has already.
    SettleRewritten,
    /// A client that wants more collections than before takes its cursor to stand for those, too.
    ForgetWidening,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 24] = [
        Self::AcknowledgeBeforeStoring,
        Self::CursorOffByOne,
        Self::CursorBeforeChanges,
        Self::SettleOnSend,
        Self::ForgetHeld,
        Self::ForgetAckMark,
        Self::ForgetOffers,
        Self::KeepLineage,
        Self::SequenceGap,
        Self::ChainOverHashAlone,
        Self::StoreDuplicates,
        Self::CrossSpaceRow,
        Self::ReuseActorAfterRestore,
        Self::SettleOtherwise,
        Self::DeleteOtherwise,
        Self::FlagNoOrphans,
        Self::SkipSync,
        Self::SkipServerSync,
        Self::DropGoodHalf,
        Self::ForgetToHold,
        Self::SettleByArrival,
        Self::AdmitAnyName,
        Self::SettleRewritten,
        Self::ForgetWidening,
    ];
}

const IN_LOG: [Bug; 8] = [
    Bug::AcknowledgeBeforeStoring,
    Bug::CursorOffByOne,
    Bug::SequenceGap,
    Bug::ChainOverHashAlone,
    Bug::StoreDuplicates,
    Bug::CrossSpaceRow,
    Bug::DropGoodHalf,
    Bug::ForgetToHold,
];

/// What is planted, if anything.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Planted(Option<Bug>);

impl Planted {
    pub(crate) fn new(bug: Option<Bug>) -> Self {
        let planted = Self(if cfg!(feature = "planted") { bug } else { None });
        #[cfg(feature = "planted")]
        anabranch_core::planted::admit_any_name(planted.is(Bug::AdmitAnyName));
        planted
    }

    pub(crate) fn is(self, bug: Bug) -> bool {
        self.0 == Some(bug)
    }

    /// Whether the bug is in the log in memory, so that this must be the server's only one.
    pub(crate) fn is_in_log(self) -> bool {
        self.0.is_some_and(|bug| IN_LOG.contains(&bug))
    }
}
