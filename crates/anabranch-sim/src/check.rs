//! The checkers: they read the files and the log for themselves, and judge by the model.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anabranch_core::{EntityId, SpaceName};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::failure::{Failure, broken, ensure};
use crate::file::{self, Conflict, Entity};
use crate::fleet::Fleet;
use crate::log::Log;
use crate::model::{Effect, Item, hash_of};
use crate::subset::Wanted;
use crate::verdict::{Forged, judge};

/// Everything in a server's log.
pub(crate) fn stored(log: &Log) -> BTreeSet<Item> {
    let items = log.spaces().flat_map(|(space, rows)| {
        rows.iter().map(|row| (space.clone(), row.offered.entity, hash_of(row.offered.change.bytes())))
    });
    items.collect()
}

impl Fleet {
    /// Whatever a client's file was known to hold, it still holds (G2).
    pub(crate) fn check_file(&mut self, client: usize) -> Result<(), Failure> {
        self.note_forms(client)?;
        self.note_collections(client)?;
        let wanted = self.wanted(client)?;
        let Some(process) = &self.clients[client].process else { return Ok(()) };
        let now = file::changes(&process.reader)?;
        let purged = file::purged(&process.reader)?;
        let is_purged = |item: &&Item| purged.contains(&(item.0.clone(), item.1));
        let held = &self.clients[client].held;
        let gone = held.difference(&now).filter(|item| !is_purged(item));
        let (gone, dropped): (Vec<&Item>, Vec<&Item>) = gone.partition(|item| self.is_wanted(&wanted, &item.0, item.1));
        let missing = gone.iter().filter(|item| !self.model.histories.may_go(item)).count();
        ensure(missing == 0, || format!("client {client}: {missing} committed changes are not in the file any more"))?;
        ensure(now.iter().all(|item| !is_purged(&item)), || format!("client {client} keeps what has been purged"))?;
        self.model.histories.check_gone(gone, &now)?;
        let dropped = dropped.into_iter().filter(|item| !self.model.histories.may_go(item)).cloned().collect();
        self.clients[client].held = now;
        self.note_dropped(client, &dropped)
    }

    /// The log has no gaps, each place is chained to all before it, nothing is there twice or before what it
    /// depends on, and whatever was acknowledged is there.
    pub(crate) fn check_server(&self) -> Result<(), Failure> {
        for (space, rows) in self.server.disk.log.spaces() {
            let mut chain = [0; 32];
            let mut seen: HashMap<EntityId, BTreeSet<[u8; 32]>> = HashMap::new();
            for (place, row) in rows.iter().enumerate() {
                let expected = u64::try_from(place).unwrap_or(u64::MAX) + 1;
                ensure(row.mark.seq == expected, || {
                    format!("the log of {space} has place {} where {expected} should be", row.mark.seq)
                })?;
                let hash = hash_of(row.offered.change.bytes());
                let mut hasher = Sha256::new();
                hasher.update(chain);
                hasher.update(row.offered.entity.as_bytes());
                hasher.update(hash);
                if let Some(transaction) = &row.offered.transaction {
                    hasher.update(transaction.as_bytes());
                }
                chain = hasher.finalize().into();
                ensure(*row.mark.chain.as_bytes() == chain, || format!("the chain of {space} breaks at {expected}"))?;
                let item = (space.clone(), row.offered.entity, hash);
                ensure(self.model.has_parent(&item, |parent| seen.contains_key(parent)), || {
                    format!("place {expected} of {space} stands before its parent")
                })?;
                let parsed = automerge::Change::from_bytes(row.offered.change.bytes().to_vec());
                let parsed = parsed.map_err(broken("reading a stored change"))?;
                let entity = seen.entry(row.offered.entity).or_default();
                ensure(parsed.deps().iter().all(|dependency| entity.contains(&dependency.0)), || {
                    format!("place {expected} of {space} stands before a change that it depends on")
                })?;
                ensure(entity.insert(hash), || format!("place {expected} of {space} repeats a change"))?;
            }
        }
        let stored = stored(&self.server.disk.log);
        ensure(self.model.acknowledged.is_subset(&stored), || {
            let missing = self.model.acknowledged.difference(&stored).count();
            format!("{missing} acknowledged changes are not on the server")
        })
    }

    /// After healing: everyone has everything, and everyone shows the same.
    pub(crate) fn check_converged(&self) -> Result<(), Failure> {
        self.check_server()?;
        let everything = stored(&self.server.disk.log);
        let (markers, stored) = split_markers(&self.server.disk.log, everything);
        let purged: BTreeSet<_> = markers.iter().map(|item| (item.0.clone(), item.1)).collect();
        let dropped = self.dropped()?;
        let missing: Vec<&Item> = self
            .model
            .written
            .keys()
            .filter(|item| !self.model.lost.contains(*item) && !stored.contains(*item))
            .filter(|item| !purged.contains(&(item.0.clone(), item.1)) && !dropped.contains(*item))
            .collect();
        let (taken_out, missing): (Vec<&Item>, Vec<&Item>) =
            missing.into_iter().partition(|item| self.model.histories.may_go(item));
        self.model.histories.check_gone(taken_out, &stored)?;
        self.model.histories.check_once(&stored)?;
        ensure(missing.is_empty(), || {
            format!(
                "{} committed changes never reached the server, such as one of entity {}",
                missing.len(),
                missing[0].1
            )
        })?;
        let honest = |items: &BTreeSet<Item>| items.difference(&self.model.forged).cloned().collect::<BTreeSet<_>>();
        let forged = |items: &BTreeSet<Item>| items.intersection(&self.model.forged).cloned().collect::<BTreeSet<_>>();
        let mut groups: Vec<Group> = Vec::new();
        let mut admitted: Option<BTreeSet<Item>> = None;
        for (number, client) in self.clients.iter().enumerate() {
            let Some(process) = client.process.as_ref().filter(|_| !client.lost) else { continue };
            let wanted = self.wanted(number)?;
            let held = file::changes(&process.reader)?;
            let taken = admitted.get_or_insert_with(|| forged(&held));
            ensure(*taken == forged(&held), || {
                format!("client {number} takes forged changes that others refuse, or the other way round")
            })?;
            let (held, stored) = (honest(&held), self.only_wanted(&wanted, &honest(&stored)));
            ensure(held == stored, || {
                let (lacks, extra) = (stored.difference(&held).count(), held.difference(&stored).count());
                format!("client {number} lacks {lacks} changes of the server's, and has {extra} that it lacks")
            })?;
            let (kept, gone) = (file::markers(&process.reader)?, file::purged(&process.reader)?);
            let (markers, mut purged) = (self.only_wanted(&wanted, &markers), purged.clone());
            purged.retain(|(space, id)| self.is_wanted(&wanted, space, *id));
            ensure(kept == markers && gone == purged, || {
                let (lacks, extra) = (markers.difference(&kept).count(), kept.difference(&markers).count());
                let (alive, dead) = (purged.difference(&gone).count(), gone.difference(&purged).count());
                format!(
                    "client {number} lacks {lacks} purge markers of the server's and has {extra} that it lacks; \
                     {alive} entities are not purged that should be, {dead} that should not"
                )
            })?;
            let waiting = file::number(&process.reader, "SELECT count(*) FROM outbox")?;
            ensure(waiting == 0, || format!("client {number} has {waiting} rows left in its outbox"))?;
            let refused = honest(&file::quarantined(&process.reader)?).len();
            ensure(refused == 0, || format!("client {number} has refused {refused} honest changes"))?;
            // An orphan may wait for a change that went down with its only disk; never for one that is here.
            let orphans = file::orphans(&process.reader)?;
            let may_wait = |item: &Item| self.model.lost.contains(item) || self.model.histories.may_go(item);
            ensure(honest(&orphans).iter().all(may_wait), || {
                format!("client {number} has orphans that need not wait")
            })?;
            let dirty = "SELECT count(*) FROM entities WHERE pending <> 0 OR dirty_fields <> '[]'";
            let dirty = file::number(&process.reader, dirty)?;
            ensure(dirty == 0, || format!("client {number} calls {dirty} entities pending that are not"))?;
            let (entities, conflicts) = (file::entities(&process.reader)?, file::conflicts(&process.reader)?);
            match groups.iter().find(|group| group.wanted == wanted) {
                None => groups.push(Group { wanted, number, entities, conflicts }),
                Some(group) => {
                    same(group.number, &group.entities, number, &entities)?;
                    same(group.number, &group.conflicts, number, &conflicts)?;
                }
            }
        }
        agree(&groups)?;
        let admitted = admitted.unwrap_or_default();
        let tainted = admitted.iter().map(|item| (item.0.clone(), item.1)).collect();
        let refused = self.model.forged.difference(&admitted).cloned().collect();
        let forged = Forged { refused: &refused, tainted: &tainted };
        for Group { entities, conflicts, .. } in &groups {
            self.check_sums(&honest(&stored), entities, &tainted)?;
            judge(&self.server.disk.log, entities, conflicts, self.version(), forged)?;
        }
        Ok(())
    }

    /// Counters are the sums of what was added; texts and lists are no longer than what was inserted.
    fn check_sums(
        &self,
        stored: &BTreeSet<Item>,
        entities: &[Entity],
        tainted: &BTreeSet<(SpaceName, EntityId)>,
    ) -> Result<(), Failure> {
        let mut sums: BTreeMap<(&SpaceName, EntityId), Effect> = BTreeMap::new();
        for item in stored {
            let Some(effect) = self.model.written.get(&self.model.histories.original(item)) else {
                return Err(Failure::new(format!("the server holds a change of entity {} that nobody wrote", item.1)));
            };
            let sum = sums.entry((&item.0, item.1)).or_default();
            sum.increment += effect.increment;
            sum.characters += effect.characters;
            sum.elements += effect.elements;
        }
        for entity in entities.iter().filter(|entity| !tainted.contains(&(entity.space.clone(), entity.id))) {
            let state: Value = serde_json::from_str(&entity.state).map_err(broken("a state is not JSON"))?;
            let expected = sums.remove(&(&entity.space, entity.id)).unwrap_or_default();
            let stars = state.get("stars").and_then(Value::as_i64).unwrap_or(0);
            ensure(stars == expected.increment, || {
                format!("entity {} counts {stars} and was given {}", entity.id, expected.increment)
            })?;
            let characters = state.get("body").and_then(Value::as_str).map_or(0, |text| text.chars().count());
            let elements = state.get("items").and_then(Value::as_array).map_or(0, Vec::len);
            ensure(characters <= expected.characters && elements <= expected.elements, || {
                format!("entity {} holds more than was put into it", entity.id)
            })?;
        }
        Ok(())
    }
}

/// Clients that want the same, and what they show.
struct Group {
    wanted: Wanted,
    /// The first of them.
    number: usize,
    entities: Vec<Entity>,
    conflicts: Vec<Conflict>,
}

/// Clients that want different collections show the same of those that both want, but for what is flagged because of an
/// entity that one of them does not have.
fn agree(groups: &[Group]) -> Result<(), Failure> {
    let mut shown: HashMap<(&SpaceName, EntityId), (usize, &Entity)> = HashMap::new();
    for group in groups {
        for entity in &group.entities {
            let (other, theirs) = *shown.entry((&entity.space, entity.id)).or_insert((group.number, entity));
            let whole = |entity: &Entity| {
                let Entity { state, deleted, purged, heads, times, .. } = entity.clone();
                (state, deleted, purged, heads, times)
            };
            same(other, &[whole(theirs)], group.number, &[whole(entity)])?;
        }
    }
    Ok(())
}

/// The purge markers in a log, and the changes of all entities that have none.
fn split_markers(log: &Log, everything: BTreeSet<Item>) -> (BTreeSet<Item>, BTreeSet<Item>) {
    let rows = log.spaces().flat_map(|(space, rows)| rows.iter().map(move |row| (space, row)));
    let markers = rows.filter(|(_, row)| file::is_marker(row.offered.change.bytes()));
    let markers: BTreeSet<Item> =
        markers.map(|(space, row)| (space.clone(), row.offered.entity, hash_of(row.offered.change.bytes()))).collect();
    let purged: BTreeSet<_> = markers.iter().map(|item| (&item.0, item.1)).collect();
    let left = everything.into_iter().filter(|item| !purged.contains(&(&item.0, item.1))).collect();
    (markers, left)
}

fn same<T: PartialEq + std::fmt::Debug>(one: usize, ones: &[T], other: usize, others: &[T]) -> Result<(), Failure> {
    if ones == others {
        return Ok(());
    }
    let differing = ones.iter().zip(others).find(|(one, other)| one != other);
    Err(Failure::new(match differing {
        Some((left, right)) => format!("client {one} shows {left:?}, client {other} shows {right:?}"),
        None => format!("client {one} shows {} rows, client {other} shows {}", ones.len(), others.len()),
    }))
}
