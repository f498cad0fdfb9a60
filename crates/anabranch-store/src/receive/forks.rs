//! Forks: two changes by one actor in one place of its history, where there can be one.
//!
//! A copied file whose copy goes on under the same actor makes them. One stands, the other is written again under a
//! derived actor, by everybody alike. Which one stands is the server's to say: what comes from it stands against what
//! is here. Between peers, what a server is known to have stands, or else the one with the smaller hash.
//!
//! The same goes for what has been taken out here and comes back from a peer, and for changes that others have
//! written again before they heard of it here.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};

use anabranch_core::document::{Document, Removal};
use anabranch_core::{Actor, Change, ChangeHash};
use rusqlite::params;
use tracing::info;

use super::{Arrival, Received, in_causal_order};
use crate::cache::EntityKey;
use crate::engine::Write;
use crate::error::StoreError;
use crate::rewrite::Refused;
use crate::rows::{self, EntityRow, Origin};

/// What is to be taken out, here and of what arrives.
#[derive(Default)]
struct Verdict {
    /// Ours that yield.
    here: BTreeSet<ChangeHash>,
    /// Arrivals that yield.
    there: Removal,
    /// Ours that stand against arrivals.
    standing: BTreeSet<ChangeHash>,
    /// Arrivals that a server has taken although they had been written again here.
    back: Vec<ChangeHash>,
}

/// What is left to merge once forks are settled.
pub(super) struct Settled {
    pub(super) arrivals: Vec<Arrival>,
    /// Those that a server has taken although they had been written again here.
    pub(super) back: Vec<ChangeHash>,
}

impl Write<'_> {
    /// Settles forks before changes are merged. Returns the arrivals as they can be merged; the entity's document is
    /// the one in the cache.
    pub(super) fn settle_forks(
        &mut self,
        row: &EntityRow,
        arrivals: Vec<Arrival>,
        origin: Origin,
        received: &mut Received,
    ) -> Result<Settled, StoreError> {
        let document = self.engine.take_document(row)?;
        let verdict = self.judge(row, &document, &arrivals, origin);
        self.engine.cache.put(row.key, document);
        let Verdict { here, there, standing, back } = verdict?;
        if !here.is_empty() {
            info!(entity = %row.id, changes = here.len(), "forked: what was written here is written again");
            self.rewrite_history(row, &Removal { replace: here, ..Removal::default() })?;
        }
        let arrivals =
            if there.is_empty() { arrivals } else { self.rewrite_arrivals(row, arrivals, &there, standing)? };
        Ok(Settled { arrivals: self.obey(row, arrivals, origin, received)?, back })
    }

    /// Decides which changes stand.
    fn judge(
        &mut self,
        row: &EntityRow,
        document: &Document,
        arrivals: &[Arrival],
        origin: Origin,
    ) -> Result<Verdict, StoreError> {
        let refused = self.refused(row)?;
        let mut verdict = Verdict::default();
        // Of each actor, the first place that is taken twice decides: the later changes build on that.
        let mut first: HashMap<&Actor, (&Arrival, ChangeHash)> = HashMap::new();
        let mut places: HashMap<(&Actor, u64), &Arrival> = HashMap::new();
        for arrival in arrivals {
            let (change, hash) = (&arrival.change, arrival.change.hash());
            self.engine.renew_actor_if(change.actor());
            let from_server = is_from_server(arrival, origin);
            match refused.get(&hash) {
                Some(kind) if from_server => {
                    self.forget_refusal(row, &hash)?;
                    verdict.back.extend((*kind == Refused::Rewritten).then_some(hash));
                }
                Some(Refused::Discarded) => {
                    verdict.there.discard.insert(hash);
                    continue;
                }
                Some(Refused::Rewritten) => {
                    verdict.there.replace.insert(hash);
                    continue;
                }
                None => {}
            }
            match places.entry((change.actor(), change.seq())) {
                Entry::Vacant(place) => drop(place.insert(arrival)),
                Entry::Occupied(place) if place.get().change.hash() == hash => continue,
                Entry::Occupied(mut place) => {
                    // Both at once: what the server brings stands against what has waited here.
                    let order = |one: &Arrival| (!is_from_server(one, origin), one.change.hash());
                    let loser = if order(place.get()) < order(arrival) { arrival } else { place.insert(arrival) };
                    verdict.there.replace.insert(loser.change.hash());
                }
            }
            let Some(ours) = document.written_by(change.actor(), change.seq()) else { continue };
            match first.get(change.actor()) {
                Some((earlier, _)) if earlier.change.seq() <= change.seq() => {}
                _ => drop(first.insert(change.actor(), (arrival, ours))),
            }
        }
        for (arrival, ours) in first.into_values() {
            let theirs = arrival.change.hash();
            let yields = is_from_server(arrival, origin) || (!self.is_accepted(row, &ours)? && theirs < ours);
            if yields {
                verdict.here.insert(ours);
            } else {
                verdict.there.replace.insert(theirs);
                verdict.standing.insert(ours);
            }
        }
        Ok(verdict)
    }

    /// Writes arrivals again, as they would have been written without what yields.
    fn rewrite_arrivals(
        &mut self,
        row: &EntityRow,
        arrivals: Vec<Arrival>,
        removal: &Removal,
        standing: BTreeSet<ChangeHash>,
    ) -> Result<Vec<Arrival>, StoreError> {
        let damaged = |source| StoreError::Damaged { entity: row.id, source };
        // What they were written on is here, but for what stands in their way.
        let document = self.engine.take_document(row)?;
        let context = document.rewrite(&Removal { discard: standing, ..Removal::default() });
        let known = |change: &Change| document.has(&change.hash());
        let mut context = context.map_err(damaged)?.document;
        let (ready, mut left) = in_causal_order(&context, arrivals);
        for arrival in &ready {
            // One that is refused is not there to be written again; it is refused in its turn.
            match context.apply(std::slice::from_ref(&arrival.change)) {
                Err(error) if !error.is_untouched() => break,
                _ => {}
            }
        }
        let outcome = context.rewrite(removal).map_err(damaged);
        let mut made: HashMap<ChangeHash, Vec<Change>> = HashMap::new();
        for (hash, changes) in outcome.map(|outcome| outcome.changes).unwrap_or_default() {
            let kind = if removal.discard.contains(&hash) { Refused::Discarded } else { Refused::Rewritten };
            if ready.iter().any(|arrival| arrival.change.hash() == hash) {
                self.note_refused(row, &hash, kind)?;
            }
            made.insert(hash, changes.into_iter().filter(|change| !known(change)).collect());
        }
        for arrival in ready {
            match made.remove(&arrival.change.hash()) {
                None => left.push(arrival),
                // The server has not seen them, whoever brought the originals.
                Some(changes) => left.extend(changes.into_iter().map(|change| Arrival {
                    change,
                    transaction: arrival.transaction.clone(),
                    orphaned: true,
                })),
            }
        }
        self.engine.cache.put(row.key, document);
        Ok(left)
    }

    /// Follows what others have written again: if the original of an arrival is here, this replica writes the same,
    /// unless the original is known to stand. Whether the arrival is what it says shows in the writing.
    fn obey(
        &mut self,
        row: &EntityRow,
        arrivals: Vec<Arrival>,
        origin: Origin,
        received: &mut Received,
    ) -> Result<Vec<Arrival>, StoreError> {
        if arrivals.iter().all(|arrival| arrival.change.rewrite_of().is_none()) {
            return Ok(arrivals);
        }
        let all: HashMap<ChangeHash, Change> =
            arrivals.iter().map(|arrival| (arrival.change.hash(), arrival.change.clone())).collect();
        let mut left = Vec::with_capacity(arrivals.len());
        for arrival in arrivals {
            let Some(original) = arrival.change.rewrite_of() else {
                left.push(arrival);
                continue;
            };
            let document = self.engine.take_document(row)?;
            let (known, is_here) = (document.has(&arrival.change.hash()), document.has(&original));
            let removal = if is_here && !known { removal_behind(&document, &all, &arrival.change) } else { None };
            self.engine.cache.put(row.key, document);
            if known {
                received.known += 1;
            } else if !is_here {
                self.note_refused(row, &original, Refused::Rewritten)?;
                left.push(arrival);
            } else if !is_from_server(&arrival, origin) && self.is_accepted(row, &original)? {
                // The server has taken the original; whoever sent this will hear of it.
                received.known += 1;
            } else if let Some(removal) = removal {
                self.rewrite_history(row, &removal)?;
                received.applied += 1;
            } else {
                left.push(arrival);
            }
        }
        Ok(left)
    }

    /// What was written again from one of these changes makes way for it: a server has taken the original.
    pub(super) fn return_to_originals(&mut self, row: &EntityRow, back: &[ChangeHash]) -> Result<(), StoreError> {
        let document = self.engine.take_document(row)?;
        let mut removal = Removal::default();
        for original in back.iter().filter(|original| document.has(original)) {
            for rewrite in document.rewrites_of(original) {
                if !self.is_accepted(row, &rewrite)? {
                    removal.instead.insert(rewrite, *original);
                }
            }
        }
        self.engine.cache.put(row.key, document);
        if removal.is_empty() { Ok(()) } else { self.rewrite_history(row, &removal).map(drop) }
    }

    /// A server has refused a change because another stands in its place, or because its original is there. `false`
    /// if there is nothing to be done about that yet.
    pub(super) fn settle_rejected_fork(&mut self, entity: EntityKey, seq: i64) -> Result<bool, StoreError> {
        let Some(row) = rows::entity_by_key(&self.engine.connection, entity)? else { return Ok(false) };
        let Some(change) = rows::change_at(&self.engine.connection, seq)? else { return Ok(false) };
        match change.rewrite_of() {
            None => self.yield_to_fork(&row, change.hash(), change.actor()),
            Some(original) => {
                let document = self.engine.take_document(&row)?;
                let is_here = document.has(&original);
                self.engine.cache.put(row.key, document);
                if is_here {
                    let removal = Removal { instead: [(change.hash(), original)].into(), ..Removal::default() };
                    self.rewrite_history(&row, &removal)?;
                }
                Ok(is_here)
            }
        }
    }

    /// What has been taken out of the entity.
    fn refused(&self, row: &EntityRow) -> Result<HashMap<ChangeHash, Refused>, StoreError> {
        let mut statement = self.engine.connection.prepare_cached("SELECT hash, kind FROM refused WHERE entity = ?")?;
        let mut found = statement.query([row.key])?;
        let mut refused = HashMap::new();
        while let Some(row) = found.next()? {
            let hash: [u8; 32] = row.get(0)?;
            refused.insert(ChangeHash::from_bytes(hash), Refused::parse(&row.get::<_, String>(1)?));
        }
        Ok(refused)
    }

    fn forget_refusal(&self, row: &EntityRow, hash: &ChangeHash) -> Result<(), StoreError> {
        let mut delete = self.engine.connection.prepare_cached("DELETE FROM refused WHERE entity = ? AND hash = ?")?;
        delete.execute(params![row.key, hash.as_bytes()])?;
        Ok(())
    }
}

/// Whether a server has the change.
const fn is_from_server(arrival: &Arrival, origin: Origin) -> bool {
    matches!(origin, Origin::Remote(_)) && !arrival.orphaned
}

/// What has to be taken out of a document for `rewrite` to come about; `None` if nothing makes it so.
fn removal_behind(document: &Document, arrivals: &HashMap<ChangeHash, Change>, rewrite: &Change) -> Option<Removal> {
    let original = rewrite.rewrite_of()?;
    let find = |hash: &ChangeHash| arrivals.get(hash).cloned().or_else(|| document.change(hash));
    let past = |from: ChangeHash| {
        let (mut seen, mut open) = (HashMap::new(), vec![from]);
        while let Some(hash) = open.pop() {
            if let Some(change) = (!seen.contains_key(&hash)).then(|| find(&hash)).flatten() {
                open.extend(change.dependencies());
                seen.insert(hash, change.rewrite_of());
            }
        }
        seen
    };
    let (before, after) = (past(original), past(rewrite.hash()));
    let originals: BTreeSet<ChangeHash> = after.values().flatten().copied().collect();
    let gone = |hash: &ChangeHash| !after.contains_key(hash) && !originals.contains(hash);
    let removal = Removal {
        discard: before.keys().copied().filter(gone).collect(),
        replace: originals.into_iter().filter(|hash| document.has(hash)).collect(),
        ..Removal::default()
    };
    let outcome = document.rewrite(&removal).ok()?;
    outcome.document.has(&rewrite.hash()).then_some(removal)
}
