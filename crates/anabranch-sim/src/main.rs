//! The simulator's command line.

use std::ops::Range;
use std::process::ExitCode;

use anabranch_sim::{Run, STANDARD_STEPS};
use clap::Parser;

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
}

fn range(text: &str) -> Result<Range<u64>, String> {
    let bounds = text.split_once("..").and_then(|(from, to)| Some((from.parse().ok()?, to.parse().ok()?)));
    bounds.map(|(from, to)| from..to).ok_or_else(|| "two numbers with `..` between them".to_owned())
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let seeds = match (arguments.seed, arguments.seeds) {
        (Some(seed), _) => seed..seed.saturating_add(1),
        (None, Some(seeds)) => seeds,
        (None, None) => 0..100,
    };
    let Arguments { steps, replicas, trace, .. } = arguments;
    let (mut failures, mut events) = (0u64, 0u64);
    let count = seeds.end.saturating_sub(seeds.start);
    for seed in seeds {
        let report = Run { seed, replicas, steps, trace, bug: None }.make();
        events += report.events;
        report.lines.iter().for_each(|line| println!("{line}"));
        if count == 1 || trace {
            println!("seed {seed}: {} events, digest {}", report.events, report.digest);
        }
        if let Some(failure) = &report.failure {
            failures += 1;
            println!("seed {seed} FAILED: {failure}");
            if !trace {
                let smallest = report.shrink();
                let failure = smallest.failure.as_deref().unwrap_or_default();
                println!("  smallest: {} clients, {} operations: {failure}", smallest.replicas, smallest.run.steps);
                println!("  replay:   {}", smallest.command());
            }
        }
    }
    println!("{count} seeds, {events} events, {failures} failed");
    if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
