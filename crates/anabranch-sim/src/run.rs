//! One seed from beginning to end, and the smallest run that still fails.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::bug::Bug;
use crate::dice::Dice;
use crate::failure::Failure;
use crate::fleet::{Fleet, FleetOptions};
use crate::op::Weights;

/// Operations in a run of the standard profile.
pub const STANDARD_STEPS: usize = 300;
/// The most clients of the standard profile.
const MOST_REPLICAS: usize = 5;

/// A run to be made.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Everything follows from it.
    pub seed: u64,
    /// How many clients; drawn from the seed if not given.
    pub replicas: Option<usize>,
    /// How many operations before all faults end.
    pub steps: usize,
    /// Keeps the lines of the trace.
    pub trace: bool,
    /// The bug to plant.
    pub bug: Option<Bug>,
}

/// What became of it.
#[derive(Clone, Debug)]
pub struct Report {
    /// What was run.
    pub run: Run,
    /// Its clients.
    pub replicas: usize,
    /// The digest of all that happened: equal for equal runs.
    pub digest: String,
    /// Events in the trace.
    pub events: u64,
    /// Bytes of frames.
    pub bytes: u64,
    /// How often each kind of operation was drawn.
    pub operations: BTreeMap<&'static str, u64>,
    /// The promise that was broken, if one was.
    pub failure: Option<String>,
    /// The trace, if it was to be kept.
    pub lines: Vec<String>,
}

impl Run {
    /// A run of the standard profile.
    #[must_use]
    pub const fn of(seed: u64) -> Self {
        Self { seed, replicas: None, steps: STANDARD_STEPS, trace: false, bug: None }
    }

    /// Makes the run.
    #[must_use]
    pub fn make(self) -> Report {
        let mut dice = Dice::new(self.seed);
        let drawn = 2 + dice.below(MOST_REPLICAS - 1);
        let replicas = self.replicas.unwrap_or(drawn).max(1);
        let options = FleetOptions { seed: dice.any(), replicas, trace: self.trace, bug: self.bug };
        let mut report = Report {
            run: self,
            replicas,
            digest: String::new(),
            events: 0,
            bytes: 0,
            operations: BTreeMap::new(),
            failure: None,
            lines: Vec::new(),
        };
        let mut fleet = match Fleet::new(options) {
            Ok(fleet) => fleet,
            Err(failure) => {
                report.failure = Some(failure.to_string());
                return report;
            }
        };
        let result = catch_unwind(AssertUnwindSafe(|| play(&mut fleet, &mut dice, self.steps, &mut report.operations)));
        report.failure = match result {
            Ok(Ok(())) => None,
            Ok(Err(failure)) => Some(failure.to_string()),
            Err(_) => Some("something panicked".to_owned()),
        };
        report.digest = fleet.digest();
        report.events = fleet.events();
        report.bytes = fleet.bytes;
        report.lines = fleet.into_lines();
        report
    }
}

fn play(
    fleet: &mut Fleet,
    dice: &mut Dice,
    steps: usize,
    operations: &mut BTreeMap<&'static str, u64>,
) -> Result<(), Failure> {
    let weights = Weights::draw(dice);
    let healing = dice.any();
    for _ in 0..steps {
        let op = weights.next(dice);
        *operations.entry(op.kind()).or_default() += 1;
        fleet.apply(op)?;
    }
    fleet.heal(healing)
}

impl Report {
    /// The smallest run found that still fails: fewer clients, then half as many operations, as long as that
    /// works, and then fewer by less.
    #[must_use]
    pub fn shrink(self) -> Self {
        let mut smallest = self;
        for replicas in 2..smallest.replicas {
            let smaller = Run { replicas: Some(replicas), ..smallest.run }.make();
            if smaller.failure.is_some() {
                smallest = smaller;
                break;
            }
        }
        let mut cut = smallest.run.steps / 2;
        while cut > 0 {
            let steps = smallest.run.steps.saturating_sub(cut);
            let smaller = Run { steps, ..smallest.run }.make();
            if smaller.failure.is_some() {
                smallest = smaller;
                cut = cut.min(smallest.run.steps / 2);
            } else {
                cut /= 2;
            }
        }
        smallest
    }

    /// The one command that replays the run with a readable trace.
    #[must_use]
    pub fn command(&self) -> String {
        let Run { seed, steps, .. } = self.run;
        let replicas = self.replicas;
        format!("cargo run --release -p anabranch-sim -- --seed {seed} --replicas {replicas} --steps {steps} --trace")
    }
}
