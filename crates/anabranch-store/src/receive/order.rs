//! The order in which changes can be applied.

use std::collections::HashMap;

use anabranch_core::ChangeHash;
use anabranch_core::document::Document;

use super::Arrival;

/// Splits changes into those that can be applied now, each after its dependencies, and those that must wait.
pub(crate) fn in_causal_order(document: &Document, arrivals: Vec<Arrival>) -> (Vec<Arrival>, Vec<Arrival>) {
    let mut arrived: HashMap<ChangeHash, usize> = HashMap::new();
    let mut arrivals: Vec<Option<Arrival>> = arrivals.into_iter().map(Some).collect();
    for (place, arrival) in arrivals.iter_mut().enumerate() {
        let Some(hash) = arrival.as_ref().map(|arrival| arrival.change.hash()) else { continue };
        if *arrived.entry(hash).or_insert(place) != place {
            *arrival = None;
        }
    }
    // Kahn's algorithm over the dependencies inside the batch; one outside that is not in the document never
    // comes to zero.
    let mut open = vec![0usize; arrivals.len()];
    let mut dependants: Vec<Vec<usize>> = vec![Vec::new(); arrivals.len()];
    let mut ready = Vec::new();
    for (place, arrival) in arrivals.iter().enumerate() {
        let Some(arrival) = arrival else { continue };
        for dependency in arrival.change.dependencies() {
            if let Some(other) = arrived.get(dependency) {
                dependants[*other].push(place);
                open[place] += 1;
            } else if !document.has(dependency) {
                open[place] = usize::MAX / 2;
            }
        }
        if open[place] == 0 {
            ready.push(place);
        }
    }
    let mut ordered = Vec::with_capacity(arrivals.len());
    let mut next = 0;
    while let Some(&place) = ready.get(next) {
        next += 1;
        for dependant in &dependants[place] {
            open[*dependant] -= 1;
            if open[*dependant] == 0 {
                ready.push(*dependant);
            }
        }
        ordered.extend(arrivals[place].take());
    }
    (ordered, arrivals.into_iter().flatten().collect())
}
