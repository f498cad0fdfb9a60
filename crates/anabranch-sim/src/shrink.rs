//! The smallest run that still fails: fewer clients, fewer kinds of faults, fewer operations.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use crate::op::Op;
use crate::run::{Report, Run};

/// Runs that a search for a smaller one may take.
const PATIENCE: usize = 400;

/// Which operations of a run are carried out, by their places; written as `0-3,7`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keep(BTreeSet<usize>);

impl Keep {
    pub(crate) fn has(&self, place: usize) -> bool {
        self.0.contains(&place)
    }
}

impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut places = self.0.iter().copied().peekable();
        let mut separator = "";
        while let Some(first) = places.next() {
            let mut last = first;
            while let Some(next) = places.next_if(|next| *next == last + 1) {
                last = next;
            }
            write!(f, "{separator}{first}")?;
            if last > first {
                write!(f, "-{last}")?;
            }
            separator = ",";
        }
        Ok(())
    }
}

impl FromStr for Keep {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.trim().parse::<usize>().map_err(|_| format!("`{text}` is not a place"));
        let mut places = BTreeSet::new();
        for part in text.split(',').filter(|part| !part.trim().is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            if last > 1_000_000 {
                return Err("no run is that long".to_owned());
            }
            places.extend(first..=last);
        }
        Ok(Self(places))
    }
}

/// A search for the smallest failing run.
struct Search {
    smallest: Report,
    places: Vec<usize>,
    left: usize,
}

impl Report {
    /// The smallest run found that still fails.
    #[must_use]
    pub fn shrink(self) -> Self {
        if self.failure.is_none() {
            return self;
        }
        let run = &self.run;
        let mut places: Vec<usize> =
            (0..run.steps).filter(|place| run.keep.as_ref().is_none_or(|keep| keep.has(*place))).collect();
        // What comes after the failure has no part in it.
        places.retain(|place| self.failed_at.is_none_or(|end| *place <= end));
        let mut search = Search { smallest: self, places, left: PATIENCE };
        search.drop_clients();
        search.drop_kinds();
        search.drop_parts();
        search.drop_clients();
        search.smallest
    }
}

impl Search {
    /// Whether the run fails with these clients and operations; then it is the smallest so far.
    fn fails(&mut self, replicas: usize, places: &[usize]) -> bool {
        if self.left == 0 {
            return false;
        }
        self.left -= 1;
        let keep = Keep(places.iter().copied().collect());
        let run = Run { replicas: Some(replicas), keep: Some(keep), trace: false, ..self.smallest.run.clone() };
        let report = run.make();
        let fails = report.failure.is_some();
        if fails {
            self.smallest = report;
            self.places = places.to_vec();
        }
        fails
    }

    fn drop_clients(&mut self) {
        let places = self.places.clone();
        for replicas in 1..self.smallest.replicas {
            if self.fails(replicas, &places) {
                return;
            }
        }
    }

    /// All operations of a kind at once.
    fn drop_kinds(&mut self) {
        let ops = self.smallest.run.ops();
        let kinds: BTreeSet<&str> =
            self.places.iter().filter_map(|place| ops.get(*place)).map(|op| op.kind()).collect();
        for kind in kinds {
            let is_other = |place: &usize| ops.get(*place).map(|op: &Op| op.kind()) != Some(kind);
            let places: Vec<usize> = self.places.iter().copied().filter(is_other).collect();
            self.fails(self.smallest.replicas, &places);
        }
    }

    /// Parts of the list, half of it first and single operations last.
    fn drop_parts(&mut self) {
        let mut size = self.places.len().div_ceil(2);
        while size > 0 && self.left > 0 {
            let mut at = 0;
            while at < self.places.len() {
                let mut places = self.places.clone();
                places.drain(at..(at + size).min(places.len()));
                if !self.fails(self.smallest.replicas, &places) {
                    at += size;
                }
            }
            size /= 2;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_written_as_ranges_and_read_again() {
        let keep = Keep([0, 1, 2, 5, 7, 8].into());
        assert_eq!(keep.to_string(), "0-2,5,7-8");
        assert_eq!("0-2,5,7-8".parse(), Ok(keep));
        assert!("a".parse::<Keep>().is_err() && "0-99999999".parse::<Keep>().is_err());
        assert_eq!("".parse(), Ok(Keep(BTreeSet::new())));
    }
}
