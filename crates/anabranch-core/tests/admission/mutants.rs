//! Hundreds of thousands of altered changes: none panics outside of its bounds, none hangs, none leaves a trace
//! when it is refused, and the honest change is taken after each.

use std::collections::BTreeMap;

use super::fleet::{self, Dice};
use super::mutation::Choose;
use super::trial::{self, History, Outcome};

/// Altered changes that plain `cargo test` runs. `ANABRANCH_MUTANTS` sets another number.
const MUTANTS: usize = 200_000;
const THREADS: usize = 2;

impl Choose for Dice {
    fn below(&mut self, end: usize) -> usize {
        Dice::below(self, end)
    }
}

type Table = BTreeMap<(Outcome, String), usize>;

#[test]
fn altered_changes_do_no_harm() {
    let count = std::env::var("ANABRANCH_MUTANTS").map_or(MUTANTS, |count| count.parse().expect("a number"));
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| std::thread::spawn(move || run(u64::try_from(thread).unwrap(), count.div_ceil(THREADS))))
        .collect();
    let mut table = Table::new();
    for thread in threads {
        for (outcome, times) in thread.join().expect("no panic escapes") {
            *table.entry(outcome).or_default() += times;
        }
    }
    println!("{:>9}  {:<10}  why", "times", "outcome");
    for ((outcome, why), times) in &table {
        println!("{times:>9}  {outcome:<10}  {why}", outcome = format!("{outcome:?}"));
    }
    let total =
        |wanted: Outcome| table.iter().filter(|((it, _), _)| *it == wanted).map(|(_, times)| times).sum::<usize>();
    let altered = table.values().sum::<usize>() - total(Outcome::Unaltered);
    println!("{altered} altered changes");
    assert!(altered >= count);
    // The trial means something only while altered changes reach every gate.
    for outcome in [Outcome::Unread, Outcome::Refused, Outcome::Taken] {
        assert!(total(outcome) > count / 100, "{outcome:?}");
    }
}

fn run(seed: u64, count: usize) -> Table {
    let mut table = Table::new();
    let mut dice = Dice::new(1_000 + seed);
    let histories: Vec<_> = (0..10)
        .flat_map(|it| [fleet::library(100 * seed + it, 24), fleet::plain(100 * seed + it, 24)])
        .map(History::new)
        .collect();
    let mut altered = 0;
    while altered < count {
        let history = &histories[dice.below(histories.len())];
        let outcome = trial::run(&mut dice, history);
        altered += usize::from(outcome.0 != Outcome::Unaltered);
        *table.entry(outcome).or_default() += 1;
    }
    table
}
