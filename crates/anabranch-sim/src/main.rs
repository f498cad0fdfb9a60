//! The simulator's command line.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anabranch_sim::{
    Bug, Effort, Keep, PowerBug, PowerReport, Report, Run, STANDARD_STEPS, Story, Workload, find, run_all,
    set_up_process,
};
use clap::Parser;
use serde_json::json;

/// Runs simulated fleets and checks what the library promises.
#[derive(Debug, Parser)]
struct Arguments {
    /// Runs this one seed.
    #[arg(long)]
    seed: Option<u64>,
    /// Runs so many seeds, or the seeds A to B, B not included.
    #[arg(long, value_name = "N|A..B", value_parser = seeds, conflicts_with = "seed")]
    seeds: Option<Seeds>,
    /// The first seed.
    #[arg(long, default_value_t = 0, conflicts_with = "seed")]
    from: u64,
    /// Operations before all faults end.
    #[arg(long, default_value_t = STANDARD_STEPS)]
    steps: usize,
    /// Clients; by default drawn from the seed.
    #[arg(long)]
    replicas: Option<usize>,
    /// Of the operations, only those at these places, such as 0-20,35.
    #[arg(long)]
    keep: Option<Keep>,
    /// Prints what happens, line by line.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Runs the seeds that have failed once, and tells their stories.
    #[arg(long, conflicts_with_all = ["seed", "seeds"])]
    stories: bool,
    /// Prints how many seeds it takes to find each planted bug; needs the feature `planted`.
    #[arg(long, conflicts_with_all = ["seed", "stories"])]
    planted: bool,
    /// Loses the power at every write and sync of the workloads instead, and looks at what that may leave.
    #[arg(long, conflicts_with_all = ["seed", "seeds"])]
    power: bool,
    /// Plants this bug, such as `CursorOffByOne`, in every run; needs the feature `planted`.
    #[arg(long, value_name = "NAME", value_parser = bug)]
    bug: Option<Bug>,
    /// Of these workloads, or of the planted bugs, only those whose name contains this.
    #[arg(long)]
    only: Option<String>,
    /// Stops after so many minutes, before all seeds are done.
    #[arg(long)]
    minutes: Option<u64>,
    /// Prints the summary as one line of JSON.
    #[arg(long)]
    json: bool,
}

/// Which seeds to run.
#[derive(Clone, Copy, Debug)]
struct Seeds {
    first: Option<u64>,
    count: u64,
}

fn seeds(text: &str) -> Result<Seeds, String> {
    let number = |text: &str| text.parse::<u64>().map_err(|_| format!("`{text}` is not a number"));
    match text.split_once("..") {
        None => Ok(Seeds { first: None, count: number(text)? }),
        Some((first, end)) => {
            let (first, end) = (number(first)?, number(end)?);
            Ok(Seeds { first: Some(first), count: end.saturating_sub(first) })
        }
    }
}

fn bug(name: &str) -> Result<Bug, String> {
    if cfg!(not(feature = "planted")) {
        return Err("it takes the feature `planted`".to_owned());
    }
    Bug::ALL.into_iter().find(|bug| format!("{bug:?}") == name).ok_or_else(|| format!("there is no bug `{name}`"))
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Err(failure) = set_up_process() {
        eprintln!("{failure}");
        return ExitCode::FAILURE;
    }
    let failures = if arguments.power {
        lose_power(&arguments)
    } else if arguments.planted {
        find_planted(&arguments)
    } else if arguments.stories {
        tell_stories()
    } else {
        run_seeds(&arguments)
    };
    if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What a run of many seeds has come to.
#[derive(Default)]
struct Summary {
    seeds: u64,
    events: u64,
    bytes: u64,
    failures: u64,
    operations: BTreeMap<&'static str, u64>,
}

#[expect(clippy::disallowed_methods, reason = "how long it takes is measured, and decides nothing in a run")]
fn run_seeds(arguments: &Arguments) -> u64 {
    let begun = Instant::now();
    let until = arguments.minutes.map(|minutes| begun + Duration::from_secs(60 * minutes));
    let (first, count) = match (arguments.seed, arguments.seeds) {
        (Some(seed), _) => (seed, 1),
        (None, Some(seeds)) => (seeds.first.unwrap_or(arguments.from), seeds.count),
        (None, None) => (arguments.from, if until.is_some() { u64::MAX } else { 100 }),
    };
    let make = |seed| {
        let Arguments { steps, replicas, trace, bug, .. } = *arguments;
        Run { seed, replicas, steps, keep: arguments.keep.clone(), trace, bug }
    };
    let mut summary = Summary::default();
    let mut told = begun;
    run_all(first, count, make, |report| {
        summary.add(&report);
        report.lines.iter().for_each(|line| println!("{line}"));
        if arguments.seed.is_some() {
            println!("seed {}: {} events, digest {}", report.run.seed, report.events, report.digest);
        }
        if report.failure.is_some() {
            complain(report);
        }
        if told.elapsed() > Duration::from_secs(30) && !arguments.json {
            told = Instant::now();
            println!("{} seeds, {} failed, after {} s", summary.seeds, summary.failures, begun.elapsed().as_secs());
        }
        until.is_none_or(|until| Instant::now() < until)
    });
    summary.print(arguments.json, first, begun.elapsed());
    summary.failures
}

/// Says what failed, looks for the smallest run that still does, and how to replay it.
fn complain(report: Report) {
    let failure = report.failure.as_deref().unwrap_or_default();
    println!("seed {} FAILED: {failure}", report.run.seed);
    if !report.run.trace {
        let smallest = report.shrink();
        let operations: u64 = smallest.operations.values().sum();
        let failure = smallest.failure.as_deref().unwrap_or_default();
        println!("  smallest: {} clients, {operations} operations: {failure}", smallest.replicas);
        println!("  {:?}", smallest.operations);
        println!("  replay:   {}", smallest.command());
    }
}

impl Summary {
    fn add(&mut self, report: &Report) {
        self.seeds += 1;
        self.events += report.events;
        self.bytes += report.bytes;
        self.failures += u64::from(report.failure.is_some());
        for (kind, count) in &report.operations {
            *self.operations.entry(kind).or_default() += count;
        }
    }

    fn print(&self, json: bool, first: u64, took: Duration) {
        let Self { seeds, events, bytes, failures, operations } = self;
        let millis = took.as_millis().max(1);
        let per_second = |count: u64| u64::try_from(u128::from(count) * 1_000 / millis).unwrap_or(u64::MAX);
        if json {
            let summary = json!({
                "first": first, "seeds": seeds, "events": events, "bytes": bytes, "failures": failures,
                "operations": operations, "seconds": took.as_secs(),
                "seeds_per_second": per_second(*seeds), "events_per_second": per_second(*events),
            });
            println!("{summary}");
            return;
        }
        for (kind, count) in operations {
            println!("{count:>10} {kind}");
        }
        println!(
            "{seeds} seeds from {first}, {events} events, {bytes} bytes of frames, in {} s ({} seeds and {} events a \
             second), {failures} failed",
            took.as_secs(),
            per_second(*seeds),
            per_second(*events),
        );
    }
}

/// The seeds that have failed once do not fail any more.
fn tell_stories() -> u64 {
    let mut failures = 0;
    for Story { run, text } in Story::all() {
        let seed = run.seed;
        match run.make().failure {
            None => println!("{seed:>10} passes. {text}"),
            Some(failure) => {
                failures += 1;
                println!("{seed:>10} FAILS AGAIN: {failure}\n           {text}");
            }
        }
    }
    failures
}

/// The table of seeds to find.
fn find_planted(arguments: &Arguments) -> u64 {
    let only = arguments.only.as_deref().unwrap_or_default();
    let seeds = arguments.seeds.map_or(2_000, |seeds| seeds.count);
    let bugs: Vec<Bug> = Bug::ALL.into_iter().filter(|bug| format!("{bug:?}").contains(only)).collect();
    let missed = AtomicUsize::new(0);
    on_all_processors(&bugs, |bug| match find(*bug, seeds) {
        Some((seed, failure)) => println!("{:26} {:>5} seeds  {failure}", format!("{bug:?}"), seed + 1),
        None => {
            missed.fetch_add(1, Ordering::Relaxed);
            println!("{:26} not found within {seeds} seeds", format!("{bug:?}"));
        }
    });
    u64::try_from(missed.into_inner()).unwrap_or(u64::MAX)
}

fn on_all_processors<T: Sync>(items: &[T], work: impl Fn(&T) + Sync) {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    work(item);
                }
            });
        }
    });
}

/// Takes the workloads from a list, on all processors, and prints what was covered.
fn lose_power(arguments: &Arguments) -> u64 {
    let only = arguments.only.as_deref().unwrap_or_default();
    let mut workloads = Workload::all();
    workloads.retain(|workload| workload.name.contains(only));
    let reports: Mutex<Vec<PowerReport>> = Mutex::default();
    on_all_processors(&workloads, |workload| {
        let report = workload.lose_power(Effort::FULL, PowerBug::Nothing);
        if !arguments.json {
            println!("{report}");
        }
        reports.lock().unwrap_or_else(PoisonError::into_inner).push(report);
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
