//! The checkers: they read the files and the log for themselves, and judge by the model.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anabranch_core::{EntityId, SpaceName};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::failure::{Failure, broken, ensure};
use crate::file::{self, Entity};
use crate::fleet::Fleet;
use crate::log::Log;
use crate::model::{Effect, Item, hash_of};

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
        let Some(process) = &self.clients[client].process else { return Ok(()) };
        let now = file::changes(&process.reader)?;
        let held = &self.clients[client].held;
        ensure(held.is_subset(&now), || {
            let missing = held.difference(&now).count();
            format!("client {client}: {missing} committed changes are not in the file any more")
        })?;
        self.clients[client].held = now;
        Ok(())
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
                if let Some(parent) = row.offered.parent.filter(|parent| *parent != row.offered.entity) {
                    ensure(seen.contains_key(&parent), || {
                        format!("place {expected} of {space} stands before its parent {parent}")
                    })?;
                }
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
        let stored = stored(&self.server.disk.log);
        let missing: Vec<&Item> = self
            .model
            .written
            .keys()
            .filter(|item| !self.model.lost.contains(*item) && !stored.contains(*item))
            .collect();
        ensure(missing.is_empty(), || {
            format!(
                "{} committed changes never reached the server, such as one of entity {}",
                missing.len(),
                missing[0].1
            )
        })?;
        let mut first: Option<(usize, Vec<Entity>)> = None;
        for (number, client) in self.clients.iter().enumerate() {
            let Some(process) = client.process.as_ref().filter(|_| !client.lost) else { continue };
            let held = file::changes(&process.reader)?;
            ensure(held == stored, || {
                let (lacks, extra) = (stored.difference(&held).count(), held.difference(&stored).count());
                format!("client {number} lacks {lacks} changes of the server's, and has {extra} that it lacks")
            })?;
            for table in ["outbox", "quarantine"] {
                let count = file::number(&process.reader, &format!("SELECT count(*) FROM {table}"))?;
                ensure(count == 0, || format!("client {number} has {count} rows left in {table}"))?;
            }
            // An orphan may wait for a change that went down with its only disk; never for one that is here.
            let orphans = file::orphans(&process.reader)?;
            ensure(orphans.is_subset(&self.model.lost), || format!("client {number} has orphans that need not wait"))?;
            let dirty = "SELECT count(*) FROM entities WHERE pending <> 0 OR dirty_fields <> '[]'";
            let dirty = file::number(&process.reader, dirty)?;
            ensure(dirty == 0, || format!("client {number} calls {dirty} entities pending that are not"))?;
            let entities = file::entities(&process.reader)?;
            match &first {
                None => first = Some((number, entities)),
                Some((other, theirs)) => same(*other, theirs, number, &entities)?,
            }
        }
        let Some((_, entities)) = first else { return Ok(()) };
        self.check_sums(&stored, &entities)
    }

    /// Counters are the sums of what was added; texts and lists are no longer than what was inserted.
    fn check_sums(&self, stored: &BTreeSet<Item>, entities: &[Entity]) -> Result<(), Failure> {
        let mut sums: BTreeMap<(&SpaceName, EntityId), Effect> = BTreeMap::new();
        for item in stored {
            let Some(effect) = self.model.written.get(item) else {
                return Err(Failure::new(format!("the server holds a change of entity {} that nobody wrote", item.1)));
            };
            let sum = sums.entry((&item.0, item.1)).or_default();
            sum.increment += effect.increment;
            sum.characters += effect.characters;
            sum.elements += effect.elements;
        }
        for entity in entities {
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

fn same(one: usize, ones: &[Entity], other: usize, others: &[Entity]) -> Result<(), Failure> {
    if ones == others {
        return Ok(());
    }
    let differing = ones.iter().zip(others).find(|(one, other)| one != other);
    Err(Failure::new(match differing {
        Some((left, right)) => format!("client {one} shows {left:?}, client {other} shows {right:?}"),
        None => format!("client {one} shows {} entities, client {other} shows {}", ones.len(), others.len()),
    }))
}
