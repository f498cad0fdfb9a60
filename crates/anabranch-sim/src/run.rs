//! One seed from beginning to end.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::bug::Bug;
use crate::dice::Dice;
use crate::failure::Failure;
use crate::fleet::{Fleet, FleetOptions};
use crate::op::{Op, Weights};
use crate::shrink::Keep;

/// Operations in a run of the standard profile.
pub const STANDARD_STEPS: usize = 300;
/// The most clients of the standard profile.
const MOST_REPLICAS: usize = 5;

/// A run to be made.
#[derive(Clone, Debug)]
pub struct Run {
    /// Everything follows from it.
    pub seed: u64,
    /// How many clients; drawn from the seed if not given.
    pub replicas: Option<usize>,
    /// How many operations before all faults end.
    pub steps: usize,
    /// Of these, only some are carried out.
    pub keep: Option<Keep>,
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
    /// How often each kind of operation was carried out.
    pub operations: BTreeMap<&'static str, u64>,
    /// The promise that was broken, if one was.
    pub failure: Option<String>,
    /// The place of the operation that broke it; none if that was found after all faults had ended.
    pub failed_at: Option<usize>,
    /// The trace, if it was to be kept.
    pub lines: Vec<String>,
}

/// What follows from a seed.
struct Plan {
    replicas: usize,
    fleet: u64,
    ops: Vec<Op>,
    healing: u64,
}

impl Run {
    /// A run of the standard profile.
    #[must_use]
    pub const fn of(seed: u64) -> Self {
        Self { seed, replicas: None, steps: STANDARD_STEPS, keep: None, trace: false, bug: None }
    }

    fn plan(&self) -> Plan {
        let mut dice = Dice::new(self.seed);
        let drawn = 2 + dice.below(MOST_REPLICAS - 1);
        let replicas = self.replicas.unwrap_or(drawn).max(1);
        let fleet = dice.any();
        let weights = Weights::draw(&mut dice);
        let healing = dice.any();
        let ops = weights.plan(self.seed, self.steps, &mut dice);
        Plan { replicas, fleet, ops, healing }
    }

    /// All operations of the run, those included that are not carried out.
    pub(crate) fn ops(&self) -> Vec<Op> {
        self.plan().ops
    }

    /// Makes the run.
    #[must_use]
    pub fn make(self) -> Report {
        let Plan { replicas, fleet, ops, healing } = self.plan();
        let options = FleetOptions { seed: fleet, replicas, trace: self.trace, bug: self.bug };
        let mut report = Report {
            run: self,
            replicas,
            digest: String::new(),
            events: 0,
            bytes: 0,
            operations: BTreeMap::new(),
            failure: None,
            failed_at: None,
            lines: Vec::new(),
        };
        let mut fleet = match Fleet::new(options) {
            Ok(fleet) => fleet,
            Err(failure) => {
                report.failure = Some(failure.to_string());
                return report;
            }
        };
        let result = catch_unwind(AssertUnwindSafe(|| report.play(&mut fleet, &ops, healing)));
        report.failure = match result {
            Ok(Ok(())) => None,
            Ok(Err(failure)) => Some(failure.to_string()),
            Err(_) => Some("something panicked".to_owned()),
        };
        report.digest = fleet.digest();
        report.events = fleet.events();
        report.bytes = fleet.bytes;
        for (kind, count) in &fleet.tally {
            *report.operations.entry(kind).or_default() += count;
        }
        report.lines = fleet.into_lines();
        report
    }
}

impl Report {
    fn play(&mut self, fleet: &mut Fleet, ops: &[Op], healing: u64) -> Result<(), Failure> {
        for (place, op) in ops.iter().enumerate() {
            if self.run.keep.as_ref().is_some_and(|keep| !keep.has(place)) {
                continue;
            }
            *self.operations.entry(op.kind()).or_default() += 1;
            self.failed_at = Some(place);
            fleet.apply(*op)?;
        }
        self.failed_at = None;
        fleet.heal(healing)
    }

    /// The one command that replays the run with a readable trace.
    #[must_use]
    pub fn command(&self) -> String {
        let Run { seed, steps, keep, bug, .. } = &self.run;
        let features = if bug.is_some() { " --features planted" } else { "" };
        let mut command = format!(
            "cargo run --release -p anabranch-sim{features} -- --seed {seed} --replicas {} --steps {steps}",
            self.replicas
        );
        if let Some(bug) = bug {
            command += &format!(" --bug {bug:?}");
        }
        if let Some(keep) = keep {
            command += &format!(" --keep {keep}");
        }
        command + " --trace"
    }
}
