//! What can happen to a fleet, as data: a run is a list of these.

use crate::dice::Dice;

/// One thing that happens. Clients are counted modulo the fleet's size, and every choice that the operation
/// has to make follows from its `pick`; so any list of operations is a valid run, and so is any part of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the fields are the same in all: which client, and the choices")]
pub enum Op {
    /// A local write, or a few in one commit.
    Edit { client: usize, pick: u64 },
    /// One of the things that are ready to happen does: a frame arrives, a batch is committed, a timer fires.
    Step { pick: u64 },
    /// Time passes.
    Pass { millis: u32 },
    /// Time passes until the next timer.
    Wait,
    /// The client's connection breaks; some of what was under way still arrives.
    Cut { client: usize, pick: u64 },
    /// A frame under way is damaged.
    Corrupt { client: usize, pick: u64 },
    /// The client goes offline, or online again.
    Switch { client: usize },
    /// Two clients exchange changes directly.
    Exchange { client: usize, with: usize, pick: u64 },
    /// The client's process dies and starts again.
    RestartClient { client: usize, pick: u64 },
    /// The server's process dies; it starts again later.
    CrashServer { pick: u64 },
    /// The client folds an entity's log.
    Compact { client: usize, pick: u64 },
    /// The client's clock jumps.
    Jump { client: usize, pick: u64 },
    /// The client's file is copied (for which its process is restarted).
    BackUpClient { client: usize, pick: u64 },
    /// The client's file is replaced by the last copy.
    RestoreClient { client: usize, pick: u64 },
    /// The client is lost with its disk.
    LoseClient { client: usize, pick: u64 },
    /// The server's log is copied.
    BackUpServer,
    /// The server's log is replaced by the last copy.
    RestoreServer { pick: u64 },
    /// The server's log is replaced by an empty one.
    WipeServer { pick: u64 },
}

impl Op {
    /// What kind of thing it is, for a summary.
    #[must_use]
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Edit { .. } => "edits",
            Self::Step { .. } => "steps",
            Self::Pass { .. } | Self::Wait => "waits",
            Self::Cut { .. } => "cuts",
            Self::Corrupt { .. } => "damaged frames",
            Self::Switch { .. } => "switches on or off line",
            Self::Exchange { .. } => "exchanges",
            Self::RestartClient { .. } => "client crashes",
            Self::CrashServer { .. } => "server crashes",
            Self::Compact { .. } => "compactions",
            Self::Jump { .. } => "clock jumps",
            Self::BackUpClient { .. } => "client backups",
            Self::RestoreClient { .. } => "client restores",
            Self::LoseClient { .. } => "lost clients",
            Self::BackUpServer => "server backups",
            Self::RestoreServer { .. } => "server restores",
            Self::WipeServer { .. } => "server wipes",
        }
    }
}

/// How often each kind of operation happens in a run: drawn anew for every seed, so that some runs have only
/// a few kinds of faults, and those often.
#[derive(Clone, Debug)]
pub(crate) struct Weights(Vec<(u32, Kind)>);

#[derive(Clone, Copy, Debug)]
enum Kind {
    Edit,
    Step,
    Pass,
    Wait,
    Cut,
    Corrupt,
    Switch,
    Exchange,
    RestartClient,
    CrashServer,
    Compact,
    Jump,
    BackUpClient,
    RestoreClient,
    LoseClient,
    BackUpServer,
    RestoreServer,
    WipeServer,
}

impl Weights {
    pub(crate) fn draw(dice: &mut Dice) -> Self {
        let mut weights = vec![(60 + small(dice, 60), Kind::Edit), (300 + small(dice, 400), Kind::Step)];
        weights.extend([(20, Kind::Pass), (5 + small(dice, 20), Kind::Wait)]);
        let common = [Kind::Cut, Kind::Switch, Kind::Exchange, Kind::RestartClient, Kind::CrashServer, Kind::Compact];
        for kind in common {
            weights.push((if dice.once_in(3) { 0 } else { 1 + small(dice, 24) }, kind));
        }
        for kind in [Kind::Corrupt, Kind::Jump] {
            weights.push((if dice.once_in(2) { 0 } else { 1 + small(dice, 12) }, kind));
        }
        // Disasters come in every third run, and not alone.
        let disasters = dice.once_in(3);
        let backups = [Kind::BackUpClient, Kind::BackUpServer];
        let losses = [Kind::RestoreClient, Kind::RestoreServer, Kind::LoseClient, Kind::WipeServer];
        weights.extend(backups.map(|kind| (if disasters { 4 + small(dice, 12) } else { 0 }, kind)));
        for kind in losses {
            weights.push((if disasters && dice.once_in(2) { 2 + small(dice, 10) } else { 0 }, kind));
        }
        Self(weights)
    }

    /// The next operation. It depends on the dice alone, so a shorter run is a prefix of a longer one.
    pub(crate) fn next(&self, dice: &mut Dice) -> Op {
        let total: u32 = self.0.iter().map(|(weight, _)| weight).sum();
        let mut at = small(dice, total);
        let mut chosen = Kind::Step;
        for (weight, kind) in &self.0 {
            if at < *weight {
                chosen = *kind;
                break;
            }
            at -= weight;
        }
        let (client, with, pick, millis) = (dice.below(64), dice.below(64), dice.any(), small(dice, 3_000));
        match chosen {
            Kind::Edit => Op::Edit { client, pick },
            Kind::Step => Op::Step { pick },
            Kind::Pass => Op::Pass { millis },
            Kind::Wait => Op::Wait,
            Kind::Cut => Op::Cut { client, pick },
            Kind::Corrupt => Op::Corrupt { client, pick },
            Kind::Switch => Op::Switch { client },
            Kind::Exchange => Op::Exchange { client, with, pick },
            Kind::RestartClient => Op::RestartClient { client, pick },
            Kind::CrashServer => Op::CrashServer { pick },
            Kind::Compact => Op::Compact { client, pick },
            Kind::Jump => Op::Jump { client, pick },
            Kind::BackUpClient => Op::BackUpClient { client, pick },
            Kind::RestoreClient => Op::RestoreClient { client, pick },
            Kind::LoseClient => Op::LoseClient { client, pick },
            Kind::BackUpServer => Op::BackUpServer,
            Kind::RestoreServer => Op::RestoreServer { pick },
            Kind::WipeServer => Op::WipeServer { pick },
        }
    }
}

fn small(dice: &mut Dice, end: u32) -> u32 {
    u32::try_from(dice.below(usize::try_from(end).unwrap_or(1))).unwrap_or(0)
}
