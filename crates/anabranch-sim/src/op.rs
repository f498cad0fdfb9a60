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
    /// The client's clock jumps, and goes on too fast or too slowly; or the server's does.
    Jump { client: usize, pick: u64 },
    /// The server, or something before it, has no time, takes no frame of that size, refuses the token, fails in the
    /// middle, or takes a push in part only.
    Trouble { client: usize, pick: u64 },
    /// The power fails while the client writes; what was not synced is lost, or torn.
    LosePower { client: usize, pick: u64 },
    /// The client's disk is full, or fails, once or until it is mended.
    FailDisk { client: usize, pick: u64 },
    /// The server turns down a part of the client's next push for good, or all changes of an entity for a while.
    Refuse { client: usize, pick: u64 },
    /// Somebody decides about what was refused: the client discards it, or sends it again.
    Decide { client: usize, pick: u64 },
    /// The client wants other collections of a space than before: more, or fewer.
    Want { client: usize, pick: u64 },
    /// Somebody forges a change, and pushes it or hands it to the client.
    Intrude { client: usize, pick: u64 },
    /// The client begins to use a newer schema.
    Upgrade { client: usize, pick: u64 },
    /// The client's file is copied (for which its process is restarted).
    BackUpClient { client: usize, pick: u64 },
    /// The client's file is replaced by the last copy.
    RestoreClient { client: usize, pick: u64 },
    /// The client's file is replaced by a copy of another's, and both go on.
    Clone { client: usize, with: usize, pick: u64 },
    /// The client is lost with its disk.
    LoseClient { client: usize, pick: u64 },
    /// The server's log is copied.
    BackUpServer,
    /// The server's log is replaced by the last copy.
    RestoreServer { pick: u64 },
    /// Another server takes over, whose log lacks the last few changes.
    FailOver { pick: u64 },
    /// The server's log is replaced by an empty one.
    WipeServer { pick: u64 },
    /// The server begins to lie; or, if it does, an honest one takes its place.
    Lie { pick: u64 },
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
            Self::Trouble { .. } => "server errors",
            Self::LosePower { .. } => "power losses",
            Self::FailDisk { .. } => "failing disks",
            Self::Refuse { .. } => "refusals",
            Self::Decide { .. } => "decisions about them",
            Self::Want { .. } => "changes of subsets",
            Self::Intrude { .. } => "forged changes",
            Self::Upgrade { .. } => "schema upgrades",
            Self::BackUpClient { .. } => "client backups",
            Self::RestoreClient { .. } => "client restores",
            Self::Clone { .. } => "client clones",
            Self::LoseClient { .. } => "lost clients",
            Self::BackUpServer => "server backups",
            Self::RestoreServer { .. } => "server restores",
            Self::FailOver { .. } => "server failovers",
            Self::WipeServer { .. } => "server wipes",
            Self::Lie { .. } => "liars",
        }
    }
}

/// What an operation is made from.
struct Drawn {
    client: usize,
    with: usize,
    pick: u64,
    millis: u32,
}

type Make = fn(Drawn) -> Op;

/// How often each kind of operation happens in a run: drawn anew for every seed, so that some runs have only
/// a few kinds of faults, and those often.
#[derive(Clone, Debug)]
pub(crate) struct Weights {
    of: Vec<(u32, Make)>,
    /// There are forged changes or lies.
    forged: bool,
}

/// What happens in most runs.
const COMMON: [Make; 6] = [
    |Drawn { client, pick, .. }| Op::Cut { client, pick },
    |Drawn { client, .. }| Op::Switch { client },
    |Drawn { client, with, pick, .. }| Op::Exchange { client, with, pick },
    |Drawn { client, pick, .. }| Op::RestartClient { client, pick },
    |Drawn { pick, .. }| Op::CrashServer { pick },
    |Drawn { client, pick, .. }| Op::Compact { client, pick },
];
/// What happens in every other.
const FREQUENT: [Make; 6] = [
    |Drawn { client, pick, .. }| Op::Corrupt { client, pick },
    |Drawn { client, pick, .. }| Op::Jump { client, pick },
    |Drawn { client, pick, .. }| Op::Trouble { client, pick },
    |Drawn { client, pick, .. }| Op::LosePower { client, pick },
    |Drawn { client, pick, .. }| Op::FailDisk { client, pick },
    |Drawn { pick, .. }| Op::FailOver { pick },
];
/// What disasters need.
const BACKUPS: [Make; 2] = [|Drawn { client, pick, .. }| Op::BackUpClient { client, pick }, |_| Op::BackUpServer];
/// What comes in every third run, and not alone.
const DISASTERS: [Make; 5] = [
    |Drawn { client, pick, .. }| Op::RestoreClient { client, pick },
    |Drawn { client, with, pick, .. }| Op::Clone { client, with, pick },
    |Drawn { client, pick, .. }| Op::LoseClient { client, pick },
    |Drawn { pick, .. }| Op::RestoreServer { pick },
    |Drawn { pick, .. }| Op::WipeServer { pick },
];

impl Weights {
    pub(crate) fn draw(dice: &mut Dice) -> Self {
        let mut weights: Vec<(u32, Make)> = vec![
            (60 + small(dice, 60), |Drawn { client, pick, .. }| Op::Edit { client, pick }),
            (300 + small(dice, 400), |Drawn { pick, .. }| Op::Step { pick }),
            (20, |Drawn { millis, .. }| Op::Pass { millis }),
            (5 + small(dice, 20), |_| Op::Wait),
        ];
        for make in COMMON {
            weights.push((if dice.once_in(3) { 0 } else { 1 + small(dice, 24) }, make));
        }
        for make in FREQUENT {
            weights.push((if dice.once_in(2) { 0 } else { 1 + small(dice, 12) }, make));
        }
        let upgrades: Make = |Drawn { client, pick, .. }| Op::Upgrade { client, pick };
        weights.push((if dice.once_in(4) { 1 + small(dice, 4) } else { 0 }, upgrades));
        let intrusions: Make = |Drawn { client, pick, .. }| Op::Intrude { client, pick };
        let intrudes = dice.once_in(4);
        weights.push((if intrudes { 1 + small(dice, 12) } else { 0 }, intrusions));
        let lies: Make = |Drawn { pick, .. }| Op::Lie { pick };
        let lied = dice.once_in(6);
        weights.push((if lied { 1 + small(dice, 4) } else { 0 }, lies));
        let disasters = dice.once_in(3);
        for make in BACKUPS {
            weights.push((if disasters { 4 + small(dice, 12) } else { 0 }, make));
        }
        for make in DISASTERS {
            weights.push((if disasters && dice.once_in(2) { 2 + small(dice, 10) } else { 0 }, make));
        }
        Self { of: weights, forged: intrudes || lied }
    }

    /// All operations of a run.
    pub(crate) fn plan(&self, seed: u64, steps: usize, dice: &mut Dice) -> Vec<Op> {
        let mut ops: Vec<Op> = (0..steps).map(|_| self.next(dice)).collect();
        // What comes of what is forged is not told apart from what people have taken back or do not want.
        if !self.forged {
            replace_some(seed, &mut ops);
        }
        ops
    }

    /// The next operation. It depends on the dice alone, so a shorter run is a prefix of a longer one.
    fn next(&self, dice: &mut Dice) -> Op {
        let total: u32 = self.of.iter().map(|(weight, _)| weight).sum();
        let mut at = small(dice, total);
        let drawn =
            Drawn { client: dice.below(64), with: dice.below(64), pick: dice.any(), millis: small(dice, 3_000) };
        for (weight, make) in &self.of {
            if at < *weight {
                return make(drawn);
            }
            at -= weight;
        }
        Op::Wait
    }
}

/// Kinds of operations that came later take the places of others, in some seeds, by dice of their own: all other seeds
/// stay what they were.
fn replace_some(seed: u64, ops: &mut [Op]) {
    let mut refusals = Dice::new(seed.rotate_left(17) ^ 0x6465_6369_6465_6421);
    if refusals.once_in(4) {
        let every = 5 + refusals.below(15);
        replace(ops, &mut refusals, every, |refuse, client, pick| match refuse {
            true => Op::Refuse { client, pick },
            false => Op::Decide { client, pick },
        });
        return;
    }
    let mut subsets = Dice::new(seed.rotate_left(34) ^ 0x7375_6273_6574_7321);
    if subsets.once_in(3) {
        let every = 10 + subsets.below(50);
        replace(ops, &mut subsets, every, |_, client, pick| Op::Want { client, pick });
    }
}

/// One operation of so many becomes another.
fn replace(ops: &mut [Op], dice: &mut Dice, every: usize, make: impl Fn(bool, usize, u64) -> Op) {
    for op in ops {
        let (strikes, one, client, pick) = (dice.once_in(every), dice.once_in(2), dice.below(64), dice.any());
        if strikes {
            *op = make(one, client, pick);
        }
    }
}

fn small(dice: &mut Dice, end: u32) -> u32 {
    u32::try_from(dice.below(usize::try_from(end).unwrap_or(1))).unwrap_or(0)
}
