//! The simulator's command line.

use std::collections::BTreeMap;
use std::ops::Range;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anabranch_sim::{Effort, PowerBug, PowerReport, Report, Run, STANDARD_STEPS, Workload};
use clap::Parser;
use serde_json::json;

/// Runs simulated fleets and checks what the library promises.
#[derive(Debug, Parser)]
struct Arguments {
    /// Runs this one seed.
    #[arg(long)]
    seed: Option<u64>,
    /// Runs the seeds A to B, B not included.
    #[arg(long, value_name = "A..B", value_parser = range, conflicts_with = "seed")]
    seeds: Option<Range<u64>>,
    /// Operations before all faults end.
    #[arg(long, default_value_t = STANDARD_STEPS)]
    steps: usize,
    /// Clients; by default drawn from the seed.
    #[arg(long)]
    replicas: Option<usize>,
    /// Prints what happens, line by line.
    #[arg(long)]
    trace: bool,
    /// Loses the power at every write and sync of the workloads instead, and looks at what that may leave.
    #[arg(long, conflicts_with_all = ["seed", "seeds"])]
    power: bool,
    /// Of these workloads, only those whose name contains this.
    #[arg(long, requires = "power")]
    only: Option<String>,
    /// Stops after so many minutes, before all seeds are done.
    #[arg(long)]
    minutes: Option<u64>,
    /// Prints the summary as one line of JSON.
    #[arg(long)]
    json: bool,
}

fn range(text: &str) -> Result<Range<u64>, String> {
    let bounds = text.split_once("..").and_then(|(from, to)| Some((from.parse().ok()?, to.parse().ok()?)));
    bounds.map(|(from, to)| from..to).ok_or_else(|| "two numbers with `..` between them".to_owned())
}

/// What a run of many seeds has come to.
#[derive(Default)]
struct Summary {
    seeds: u64,
    events: u64,
    failures: u64,
    operations: BTreeMap<&'static str, u64>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let failures = if arguments.power { lose_power(&arguments) } else { run_seeds(arguments) };
    if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[expect(clippy::disallowed_methods, reason = "how long it takes is measured, and decides nothing in a run")]
fn run_seeds(arguments: Arguments) -> u64 {
    let begun = Instant::now();
    let until = arguments.minutes.map(|minutes| begun + Duration::from_secs(60 * minutes));
    let seeds = match (arguments.seed, arguments.seeds) {
        (Some(seed), _) => seed..seed.saturating_add(1),
        (None, Some(seeds)) => seeds,
        (None, None) if until.is_some() => 0..u64::MAX,
        (None, None) => 0..100,
    };
    let Arguments { steps, replicas, trace, json, .. } = arguments;
    let one = seeds.end.saturating_sub(seeds.start) == 1;
    let mut summary = Summary::default();
    for seed in seeds {
        if until.is_some_and(|until| Instant::now() >= until) {
            break;
        }
        let report = Run { seed, replicas, steps, trace, bug: None }.make();
        summary.add(&report);
        report.lines.iter().for_each(|line| println!("{line}"));
        if one || trace {
            println!("seed {seed}: {} events, digest {}", report.events, report.digest);
        }
        if let Some(failure) = &report.failure {
            println!("seed {seed} FAILED: {failure}");
            if !trace {
                let smallest = report.shrink();
                let failure = smallest.failure.as_deref().unwrap_or_default();
                println!("  smallest: {} clients, {} operations: {failure}", smallest.replicas, smallest.run.steps);
                println!("  replay:   {}", smallest.command());
            }
        }
    }
    summary.print(json, begun.elapsed());
    summary.failures
}

impl Summary {
    fn add(&mut self, report: &Report) {
        self.seeds += 1;
        self.events += report.events;
        self.failures += u64::from(report.failure.is_some());
        for (kind, count) in &report.operations {
            *self.operations.entry(kind).or_default() += count;
        }
    }

    fn print(&self, json: bool, took: Duration) {
        let Self { seeds, events, failures, operations } = self;
        let millis = took.as_millis().max(1);
        let per_second = u128::from(*events) * 1_000 / millis;
        if json {
            let summary = json!({
                "seeds": seeds, "events": events, "failures": failures, "operations": operations,
                "seconds": took.as_secs(), "events_per_second": u64::try_from(per_second).unwrap_or(u64::MAX),
            });
            println!("{summary}");
            return;
        }
        for (kind, count) in operations {
            println!("{count:>10} {kind}");
        }
        println!("{seeds} seeds, {events} events ({per_second} a second), {failures} failed");
    }
}

/// Takes the workloads from a list, on all processors, and prints what was covered.
fn lose_power(arguments: &Arguments) -> u64 {
    let only = arguments.only.as_deref().unwrap_or_default();
    let mut workloads = Workload::all();
    workloads.retain(|workload| workload.name.contains(only));
    let next = AtomicUsize::new(0);
    let reports: Mutex<Vec<PowerReport>> = Mutex::default();
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(workload) = workloads.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let report = workload.lose_power(Effort::FULL, PowerBug::Nothing);
                    if !arguments.json {
                        println!("{report}");
                    }
                    reports.lock().unwrap_or_else(PoisonError::into_inner).push(report);
                }
            });
        }
    });
    let reports = reports.into_inner().unwrap_or_else(PoisonError::into_inner);
    let sum = |of: fn(&PowerReport) -> usize| reports.iter().map(of).sum::<usize>();
    let failures = reports.iter().filter(|report| report.failure.is_some()).count();
    let (count, writes, syncs) = (reports.len(), sum(|report| report.writes), sum(|report| report.syncs));
    let (commits, images) = (sum(|report| report.commits), sum(|report| report.images));
    let continued = sum(|report| report.continued);
    if arguments.json {
        let summary = json!({
            "workloads": count, "writes": writes, "syncs": syncs, "commits": commits, "images": images,
            "continued": continued, "failures": failures,
        });
        println!("{summary}");
    } else {
        println!(
            "{count} workloads, {writes} writes, {syncs} syncs, {commits} commits; {images} images opened, \
             {continued} continued, {failures} failed"
        );
    }
    u64::try_from(failures).unwrap_or(u64::MAX)
}
