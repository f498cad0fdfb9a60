//! The seeds that have failed once, each with its story. They are run again by `--stories` and by the tests.
//!
//! What a seed leads to changes with the simulator. So a story says what was found and how it was mended, and the
//! mending has a test of its own; the seed is run again all the same.

use crate::run::Run;

/// A seed that has failed.
#[derive(Clone, Debug)]
pub struct Story {
    /// The run.
    pub run: Run,
    /// What was wrong, and what was done about it.
    pub text: &'static str,
}

const TOLD: &str = include_str!("../seeds.txt");

impl Story {
    /// All of them.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let lines = TOLD.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let stories = lines.filter_map(|line| {
            let (seed, text) = line.split_once(' ')?;
            Some(Self { run: Run::of(seed.parse().ok()?), text: text.trim() })
        });
        stories.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_read() {
        let lines = TOLD.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).count();
        assert_eq!(Story::all().len(), lines);
        assert!(Story::all().iter().all(|story| story.text.len() > 20));
    }
}
