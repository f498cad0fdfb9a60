//! Forks: two changes by one actor in one place of its history, where there can be one.
//!
//! A copied file whose copy goes on under the same actor makes them. One stands, the other is written again under a
//! derived actor, by everybody alike. Which one stands is the server's to say: what comes from it stands against what
//! is here. Between peers, what a server is known to have stands, or else the one with the smaller hash.
//!
//! What was written again has several *forms*: the original, and each rewrite of it. A replica keeps one of them, and a
//! server takes one. The server's stands; between peers that do not know it, a rewrite stands against its original,
//! since whoever wrote it again had a reason, and of two rewrites the one with the smaller hash.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};

use anabranch_core::document::{Document, Removal};
use anabranch_core::wire::RejectCode;
use anabranch_core::{Actor, Change, ChangeHash, Rewrite};
use rusqlite::params;
use tracing::info;

use super::{Arrival, Received, in_causal_order};
use crate::cache::EntityKey;
use crate::engine::Write;
use crate::error::StoreError;
use crate::rewrite::Refused;
use crate::rows::{self, EntityRow, Origin};

/// How many forks of one entity are settled at a time; what else has come waits with the orphans for what comes next.
const MAX_ROUNDS: usize = 64;

/// What is to be taken out, here and of what arrives.
#[derive(Default)]
struct Verdict {
    /// Ours that yield.
    here: Removal,
    /// Arrivals that yield, those of one fork after those of another.
    there: Vec<Yielding>,
    /// Ours that yield to another form, once that has been merged.
    later: Vec<(ChangeHash, ChangeHash)>,
}

/// Arrivals that yield, and what stands in their place.
#[derive(Default)]
struct Yielding {
    arrivals: Removal,
    standing: BTreeSet<ChangeHash>,
}

/// What is left to merge once forks are settled.
#[derive(Default)]
pub(super) struct Settled {
    pub(super) arrivals: Vec<Arrival>,
    /// What has to wait: there are more forks than are settled at a time.
    pub(super) waiting: Vec<Arrival>,
    /// Ours that yield to another form, once that has been merged.
    pub(super) later: Vec<(ChangeHash, ChangeHash)>,
}

impl Write<'_> {
    /// Settles forks before changes are merged. The entity's document is the one in the cache.
    pub(super) fn settle_forks(
        &mut self,
        row: &EntityRow,
        mut arrivals: Vec<Arrival>,
        origin: Origin,
        received: &mut Received,
    ) -> Result<Settled, StoreError> {
        let mut later = Vec::new();
        // One fork may have another in its past, so they are settled one by one.
        for _ in 0..MAX_ROUNDS {
            let verdict = self.judge(row, &arrivals, origin)?;
            later.extend(verdict.later);
            if !verdict.here.is_empty() {
                info!(entity = %row.id, "forked: what was written here is written again");
                self.rewrite_history(row, &verdict.here)?;
                arrivals = self.new_arrivals(row, arrivals, received)?;
                continue;
            }
            let mut settled = false;
            for yielding in verdict.there {
                (arrivals, settled) = self.rewrite_arrivals(row, arrivals, &yielding)?;
                if settled {
                    break;
                }
            }
            if !settled {
                return self.settled(row, arrivals, later);
            }
        }
        Ok(Settled { waiting: arrivals, later, ..Settled::default() })
    }

    fn settled(
        &self,
        row: &EntityRow,
        arrivals: Vec<Arrival>,
        later: Vec<(ChangeHash, ChangeHash)>,
    ) -> Result<Settled, StoreError> {
        for rewrite in arrivals.iter().filter_map(|arrival| arrival.change.rewrite_of()) {
            self.note_refused(row, &rewrite.original, Refused::Rewritten)?;
        }
        Ok(Settled { arrivals, later, ..Settled::default() })
    }

    fn judge(&mut self, row: &EntityRow, arrivals: &[Arrival], origin: Origin) -> Result<Verdict, StoreError> {
        let document = self.engine.take_document(row)?;
        let verdict = self.judge_by(row, &document, arrivals, origin);
        self.engine.cache.put(row.key, document);
        verdict
    }

    /// Decides which changes stand.
    fn judge_by(
        &mut self,
        row: &EntityRow,
        document: &Document,
        arrivals: &[Arrival],
        origin: Origin,
    ) -> Result<Verdict, StoreError> {
        let refused = self.refused(row)?;
        let rewritten = !refused.is_empty() || arrivals.iter().any(|arrival| arrival.change.rewrite_of().is_some());
        let forms = if rewritten { document.rewrites() } else { HashMap::new() };
        let mut verdict = Verdict::default();
        let mut known = Yielding::default();
        // Of each actor, the first place that is taken twice decides: the later changes build on that.
        let mut first: HashMap<&Actor, (&Arrival, ChangeHash)> = HashMap::new();
        let mut places: HashMap<(&Actor, u64), &Arrival> = HashMap::new();
        for arrival in arrivals {
            let (change, hash) = (&arrival.change, arrival.change.hash());
            self.engine.renew_actor_if(change.actor());
            let ours = document.written_by(change.actor(), change.seq());
            if let Some(kind) = refused.get(&hash) {
                let rewrite = forms.get(&Rewrite { original: hash, part: 0 });
                if !is_from_server(arrival, origin) {
                    match (kind, rewrite) {
                        (_, Some(rewrite)) => drop(known.arrivals.instead.insert(hash, *rewrite)),
                        (Refused::Discarded, None) => self.decline(row, arrival, hash, &mut known.arrivals),
                        (Refused::Rewritten, None) => drop(known.arrivals.replace.insert(hash)),
                    }
                    known.standing.extend(ours);
                    continue;
                }
                self.forget_refusal(row, &hash)?;
                if let Some(rewrite) = rewrite
                    && !self.is_accepted(row, rewrite)?
                {
                    verdict.later.push((*rewrite, hash));
                }
            }
            if let Some(rewrite) = change.rewrite_of() {
                if refused.get(&rewrite.original) == Some(&Refused::Discarded) && !forms.contains_key(&rewrite) {
                    if !is_from_server(arrival, origin) {
                        // Another form of what was discarded here.
                        self.decline(row, arrival, rewrite.original, &mut known.arrivals);
                        continue;
                    }
                    self.forget_refusal(row, &rewrite.original)?;
                }
                self.judge_rewrite(row, document, &forms, (arrival, rewrite), origin, &mut verdict)?;
            }
            match places.entry((change.actor(), change.seq())) {
                Entry::Vacant(place) => drop(place.insert(arrival)),
                Entry::Occupied(place) if place.get().change.hash() == hash => continue,
                Entry::Occupied(mut place) => {
                    // Both at once: what the server brings stands against what has waited here.
                    let order = |one: &Arrival| (!is_from_server(one, origin), one.change.hash());
                    let loser = if order(place.get()) < order(arrival) { arrival } else { place.insert(arrival) };
                    verdict.there.push(Yielding::to(loser.change.hash(), place.get().change.hash()));
                }
            }
            match (ours, first.get(change.actor())) {
                (None, _) => {}
                (_, Some((earlier, _))) if earlier.change.seq() <= change.seq() => {}
                (Some(ours), _) => drop(first.insert(change.actor(), (arrival, ours))),
            }
        }
        for (arrival, ours) in first.into_values() {
            let theirs = arrival.change.hash();
            // Who has written ours again has heard from a server, or knows no better than we do.
            let is_ours = |rewrite: Rewrite| rewrite.original == ours;
            let told = || arrivals.iter().any(|arrival| arrival.change.rewrite_of().is_some_and(is_ours));
            if is_from_server(arrival, origin) || (!self.is_accepted(row, &ours)? && (theirs < ours || told())) {
                verdict.here.replace.insert(ours);
            } else {
                verdict.there.push(Yielding::to(theirs, ours));
            }
        }
        if !known.arrivals.is_empty() {
            verdict.there.push(known);
        }
        verdict.there.extend(other_forms(arrivals, origin));
        Ok(verdict)
    }

    /// What was discarded here does not come back from a peer, in whatever form; who brings it may have to know.
    fn decline(&mut self, row: &EntityRow, arrival: &Arrival, original: ChangeHash, arrivals: &mut Removal) {
        arrivals.discard.insert(arrival.change.hash());
        if !arrival.orphaned {
            self.declined.insert((row.id, original));
        }
    }

    /// Decides about a rewrite of which another form is here.
    fn judge_rewrite(
        &self,
        row: &EntityRow,
        document: &Document,
        forms: &HashMap<Rewrite, ChangeHash>,
        (arrival, rewrite): (&Arrival, Rewrite),
        origin: Origin,
        verdict: &mut Verdict,
    ) -> Result<(), StoreError> {
        let theirs = arrival.change.hash();
        let original = Some(rewrite.original).filter(|original| rewrite.part == 0 && document.has(original));
        let Some(ours) = original.or_else(|| forms.get(&rewrite).copied()) else { return Ok(()) };
        let stands = || Ok::<_, StoreError>(!self.is_accepted(row, &ours)? && (original.is_some() || theirs < ours));
        if is_from_server(arrival, origin) || stands()? {
            verdict.later.push((ours, theirs));
        } else {
            let instead = Removal { instead: [(theirs, ours)].into(), ..Removal::default() };
            verdict.there.push(Yielding { arrivals: instead, standing: BTreeSet::new() });
        }
        Ok(())
    }

    /// Writes arrivals again, as they would have been written without what yields. `false` if there is nothing to write
    /// them on yet.
    fn rewrite_arrivals(
        &mut self,
        row: &EntityRow,
        arrivals: Vec<Arrival>,
        Yielding { arrivals: removal, standing }: &Yielding,
    ) -> Result<(Vec<Arrival>, bool), StoreError> {
        // What they were written on is here, but for what stands in their way.
        let document = self.engine.take_document(row)?;
        let context = document.rewrite(&Removal { discard: standing.clone(), ..Removal::default() });
        let mut context = context.map_err(|source| StoreError::Damaged { entity: row.id, source })?.document;
        let mut removal = removal.clone();
        let (ready, mut left) = in_causal_order(&context, arrivals);
        for arrival in ready.iter().filter(|arrival| !standing.contains(&arrival.change.hash())) {
            // One that is refused is not there to be written again; it is refused in its turn.
            match context.apply(std::slice::from_ref(&arrival.change)) {
                Err(error) if !error.is_untouched() => break,
                _ => {}
            }
        }
        // What is to stand may have to wait itself.
        removal.instead.retain(|_, form| context.has(form));
        // If what has come cannot be read together, it is merged as it is, and told apart there.
        let rewritten = context.rewrite(&removal).map(|rewritten| rewritten.changes).unwrap_or_default();
        let mut made: HashMap<ChangeHash, Vec<Change>> = rewritten.into_iter().collect();
        let mut settled = false;
        for arrival in ready {
            let hash = arrival.change.hash();
            let Some(changes) = made.remove(&hash) else {
                left.push(arrival);
                continue;
            };
            settled = true;
            let kind = if removal.discard.contains(&hash) { Refused::Discarded } else { Refused::Rewritten };
            self.note_gone(row, &arrival.change, kind)?;
            // The server has not seen them, whoever brought the originals.
            let fresh = changes.into_iter().filter(|change| !document.has(&change.hash()));
            let transaction = arrival.transaction;
            left.extend(fresh.map(|change| Arrival { change, transaction: transaction.clone(), orphaned: true }));
        }
        self.engine.cache.put(row.key, document);
        Ok((left, settled))
    }

    /// Once other forms have been merged, ours make way for them. If one of ours builds on what has been discarded
    /// elsewhere, that goes as well.
    pub(super) fn yield_to_forms(
        &mut self,
        row: &EntityRow,
        pairs: &[(ChangeHash, ChangeHash)],
    ) -> Result<(), StoreError> {
        let document = self.engine.take_document(row)?;
        let mut removal = Removal::default();
        for (ours, theirs) in pairs {
            if document.has(ours) && document.has(theirs) {
                removal.instead.insert(*ours, *theirs);
            }
        }
        // In the middle of a reconcile nobody knows what the server has of that, and it will not be told again.
        let gone = match rows::is_compared(&self.engine.connection, row.space)? {
            true => BTreeSet::new(),
            false => discarded_elsewhere(&document, &removal),
        };
        self.engine.cache.put(row.key, document);
        for hash in gone {
            if !self.is_accepted(row, &hash)? {
                removal.discard.insert(hash);
            }
        }
        if removal.is_empty() { Ok(()) } else { self.rewrite_history(row, &removal).map(drop) }
    }

    /// A server has refused a change because another stands in its place, or because it has another form of it. `false`
    /// if there is nothing to be done about that yet.
    pub(crate) fn settle_rejected_fork(
        &mut self,
        entity: EntityKey,
        seq: i64,
        code: RejectCode,
    ) -> Result<bool, StoreError> {
        let Some(row) = rows::entity_by_key(&self.engine.connection, entity)? else { return Ok(false) };
        let Some(change) = rows::change_at(&self.engine.connection, seq)? else { return Ok(false) };
        if code == RejectCode::Fork {
            return self.yield_to_fork(&row, change.hash(), change.actor());
        }
        let of = change.rewrite_of().unwrap_or(Rewrite { original: change.hash(), part: 0 });
        let document = self.engine.take_document(&row)?;
        let forms = document.rewrites();
        let original = Some(of.original).filter(|hash| document.has(hash));
        self.engine.cache.put(row.key, document);
        let other = original.or_else(|| forms.get(&of).copied()).filter(|hash| *hash != change.hash());
        let Some(other) = other else { return Ok(false) };
        let is_there = self.is_accepted(&row, &other)?;
        if is_there {
            self.yield_to_forms(&row, &[(change.hash(), other)])?;
        }
        Ok(is_there)
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

impl Yielding {
    fn to(loser: ChangeHash, winner: ChangeHash) -> Self {
        Self { arrivals: Removal::replacing([loser]), standing: [winner].into() }
    }
}

/// Whether a server has the change.
const fn is_from_server(arrival: &Arrival, origin: Origin) -> bool {
    matches!(origin, Origin::Remote(_)) && !arrival.orphaned
}

/// Arrivals that yield to another form of theirs that comes at the same time.
fn other_forms(arrivals: &[Arrival], origin: Origin) -> Vec<Yielding> {
    let form = |change: &Change| change.rewrite_of().unwrap_or(Rewrite { original: change.hash(), part: 0 });
    let order = |arrival: &Arrival| {
        let change = &arrival.change;
        (!is_from_server(arrival, origin), change.rewrite_of().is_none(), change.hash())
    };
    let mut standing: HashMap<Rewrite, &Arrival> = HashMap::new();
    for arrival in arrivals {
        let stands = standing.entry(form(&arrival.change)).or_insert(arrival);
        if order(arrival) < order(stands) {
            *stands = arrival;
        }
    }
    // What a server has builds on nothing that yields: these can go at once.
    let (mut at_once, mut one_by_one) = (Yielding::default(), Vec::new());
    for loser in arrivals.iter().map(|arrival| &arrival.change) {
        let Some(stands) = standing.get(&form(loser)).filter(|it| it.change.hash() != loser.hash()) else { continue };
        let instead = (loser.hash(), stands.change.hash());
        if is_from_server(stands, origin) {
            at_once.arrivals.instead.extend([instead]);
        } else {
            let arrivals = Removal { instead: [instead].into(), ..Removal::default() };
            one_by_one.push(Yielding { arrivals, standing: BTreeSet::new() });
        }
    }
    [at_once].into_iter().filter(|it| !it.arrivals.is_empty()).chain(one_by_one).collect()
}

/// What ours build on and the other forms of them do not: the changes that were discarded where those were written.
fn discarded_elsewhere(document: &Document, removal: &Removal) -> BTreeSet<ChangeHash> {
    let mut gone = BTreeSet::new();
    for (ours, theirs) in &removal.instead {
        let (before, after) = document.apart(ours, theirs);
        let name = |hash: &ChangeHash| document.change(hash).and_then(|change| change.rewrite_of());
        let original = |hash: &ChangeHash| name(hash).map(|rewrite| rewrite.original);
        let forms: BTreeSet<_> = after.iter().flat_map(|hash| [Some(*hash), original(hash)]).flatten().collect();
        let is_there = |hash: &ChangeHash| {
            let original = original(hash);
            forms.contains(hash) || original.is_some_and(|hash| forms.contains(&hash) || document.has(&hash))
        };
        gone.extend(before.into_iter().filter(|hash| !is_there(hash)));
    }
    gone
}
