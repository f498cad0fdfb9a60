//! One side of a reconcile, as simple as can be: a log per entity.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

use anabranch_core::sync::Offered;
use anabranch_core::sync::reconcile::{
    Compared, Item, ReconcileIndex, ReconcileStep, Reconciler, Theirs, Then, reply, sample,
};
use anabranch_core::wire::{ClientMessage, Envelope, Reply, ServerMessage, encode};
use anabranch_core::{Change, ChangeHash, CollectionName, Digest, EntityId, Heads, SpaceName};

const PAGE_BYTES: usize = 256 << 10;
const PAGE_CHANGES: usize = 2_000;

/// An id, spread over all ids.
pub(crate) fn entity(n: u32) -> EntityId {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&Digest::of(&n.to_le_bytes()).as_bytes()[..16]);
    EntityId::from_bytes(bytes)
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Entity {
    heads: Heads,
    /// In causal order. Of the entities that nobody writes to, the changes are not there: only their heads are.
    changes: Vec<Change>,
}

/// What one side holds. Two are equal if they hold the same, in whatever order it came.
#[derive(Clone, Debug, Default)]
pub(crate) struct Side {
    entities: BTreeMap<EntityId, Entity>,
    name: u8,
    writes: u32,
    /// Something may come that is here already.
    pub(crate) expects_again: bool,
}

impl PartialEq for Side {
    fn eq(&self, other: &Self) -> bool {
        let heads = |side: &Self| -> Vec<_> { side.entities.iter().map(|(id, e)| (*id, e.heads.clone())).collect() };
        heads(self) == heads(other)
    }
}

/// What a reconcile took.
#[derive(Clone, Debug, Default)]
pub(crate) struct Done {
    pub(crate) round_trips: usize,
    /// Without the bytes of the changes themselves.
    pub(crate) bytes: usize,
    pub(crate) pages: usize,
    pub(crate) fetched: usize,
    pub(crate) offered: usize,
    pub(crate) differing: BTreeSet<EntityId>,
}

impl std::fmt::Display for Done {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { round_trips, bytes, pages, fetched, offered, .. } = self;
        write!(f, "{round_trips} round trips, {bytes} bytes, {pages} pages; {fetched} fetched, {offered} offered")
    }
}

/// A change that says nothing: a header without columns.
fn change(dependencies: &[ChangeHash], writer: [u8; 6], seq: usize) -> Change {
    let mut content = vec![u8::try_from(dependencies.len()).unwrap()];
    dependencies.iter().for_each(|hash| content.extend(hash.as_bytes()));
    content.push(6);
    content.extend(writer);
    let mut seq = seq;
    while seq > 0x7F {
        content.push(u8::try_from(seq & 0x7F).unwrap() | 0x80);
        seq >>= 7;
    }
    content.push(u8::try_from(seq).unwrap());
    content.extend([1, 0, 0, 0, 0]);
    let mut chunk = vec![1];
    let mut length = content.len();
    while length > 0x7F {
        chunk.push(u8::try_from(length & 0x7F).unwrap() | 0x80);
        length >>= 7;
    }
    chunk.push(u8::try_from(length).unwrap());
    chunk.extend(content);
    let hash = Digest::of(&chunk);
    Change::parse([&[0x85, 0x6f, 0x4a, 0x83], &hash.as_bytes()[..4], &chunk].concat()).unwrap()
}

impl Side {
    /// A side with so many entities of one change each, the same on every side.
    pub(crate) fn of(count: u32) -> Self {
        let first = change(&[], [1; 6], 1);
        let one = Entity { heads: Heads::new(vec![first.hash()]), changes: vec![first] };
        let entities = (0..count).map(|n| (entity(n), one.clone())).collect();
        Self { entities, ..Self::default() }
    }

    /// The same side under another name: what it writes is not what another writes.
    pub(crate) fn named(self, name: u8) -> Self {
        Self { name, ..self }
    }

    /// Writes to an entity, on top of all that is here.
    pub(crate) fn write(&mut self, entity: EntityId) {
        // Each write has a writer of its own, as if every one were another device's.
        self.writes += 1;
        let [a, b, c, d] = self.writes.to_le_bytes();
        let writer = [1, self.name, a, b, c, d];
        let found = self.entities.entry(entity).or_default();
        let change = change(found.heads.hashes(), writer, found.changes.len() + 1);
        found.heads.advance(change.hash(), change.dependencies());
        found.changes.push(change);
    }

    fn receive(&mut self, envelope: Envelope) {
        let change = Change::parse(envelope.change).unwrap();
        let found = self.entities.entry(envelope.entity).or_default();
        let has = |hash: &ChangeHash| found.changes.iter().any(|change| change.hash() == *hash);
        if has(&change.hash()) {
            return assert!(self.expects_again, "it is here already");
        }
        assert!(change.dependencies().iter().all(has), "it comes after what it depends on");
        found.heads.advance(change.hash(), change.dependencies());
        found.changes.push(change);
    }

    /// Another replica brings what this one has of an entity.
    pub(crate) fn bring(&self, to: &mut Self, entity: EntityId) {
        for change in self.entities.get(&entity).map(|found| found.changes.clone()).unwrap_or_default() {
            to.receive(Envelope::from(offered(entity, change)));
        }
    }

    fn compare(&self, theirs: &Theirs) -> Compared {
        let nothing = Entity::default();
        let ours = self.entities.get(&theirs.entity).unwrap_or(&nothing);
        let newest_first: Vec<_> = ours.changes.iter().rev().map(Change::hash).collect();
        let lacks = theirs.heads.hashes().iter().any(|head| !newest_first.contains(head));
        Compared { entity: theirs.entity, lacking: lacks.then(|| sample(&ours.heads, &newest_first)) }
    }

    /// What is here beyond the other side's heads.
    fn beyond(&self, theirs: &Theirs) -> Vec<Envelope> {
        let Some(ours) = self.entities.get(&theirs.entity) else { return Vec::new() };
        let mut known: BTreeSet<ChangeHash> = theirs.heads.hashes().iter().copied().collect();
        let mut beyond = Vec::new();
        for change in ours.changes.iter().rev() {
            if known.contains(&change.hash()) {
                known.extend(change.dependencies());
            } else {
                beyond.push(Envelope::from(offered(theirs.entity, change.clone())));
            }
        }
        beyond.reverse();
        beyond
    }
}

fn offered(entity: EntityId, change: Change) -> Offered {
    let collection = CollectionName::new("notes").unwrap();
    Offered { entity, collection, parent: None, transaction: None, change, agreed: false }
}

impl ReconcileIndex for &Side {
    type Error = Infallible;

    fn items(&mut self, _: Option<&[CollectionName]>) -> Result<Vec<Item>, Infallible> {
        Ok(self.entities.iter().map(|(id, entity)| Item::new(*id, &entity.heads)).collect())
    }

    fn heads(&mut self, entity: &EntityId) -> Result<Heads, Infallible> {
        Ok(self.entities.get(entity).map(|entity| entity.heads.clone()).unwrap_or_default())
    }

    fn newest_first(&mut self, entity: &EntityId, each: &mut dyn FnMut(Offered) -> bool) -> Result<(), Infallible> {
        let changes = self.entities.get(entity).map(|entity| entity.changes.as_slice()).unwrap_or_default();
        for change in changes.iter().rev() {
            if !each(offered(*entity, change.clone())) {
                break;
            }
        }
        Ok(())
    }
}

/// Reconciles the two until both hold the same, and says what that took.
pub(crate) fn reconcile(here: &mut Side, there: &mut Side) -> Done {
    reconcile_while(here, there, |_| ())
}

/// As [`reconcile`], while something happens on the other side after each page of changes.
pub(crate) fn reconcile_while(here: &mut Side, there: &mut Side, mut happens: impl FnMut(&mut Side)) -> Done {
    let space = SpaceName::new("main").unwrap();
    let mut done = Done::default();
    let Ok(items) = (&mut &*here).items(None);
    let (mut reconciler, ask) = Reconciler::begin(items).unwrap();
    let mut then = Then::Ask(ask);
    let mut offers = Vec::new();
    loop {
        let step: ReconcileStep = match then {
            Then::Done => break,
            Then::Compare(theirs) => {
                reconciler.compared(theirs.iter().map(|theirs| here.compare(theirs)).collect()).unwrap()
            }
            Then::Ask(ask) => {
                done.round_trips += 1;
                let Ok(reply) = reply(&mut &*there, &ask, PAGE_BYTES, PAGE_CHANGES);
                let reply = reply.unwrap();
                done.bytes += encode(&ClientMessage::Reconcile { space: space.clone(), ask }).unwrap().len();
                // Only the changes themselves are not counted; what is around them is.
                let mut empty = reply.clone();
                if let Reply::Changes { changes, .. } = &mut empty {
                    done.pages += 1;
                    done.fetched += changes.len();
                    changes.iter_mut().for_each(|envelope| envelope.change.clear());
                    happens(there);
                }
                let answer = ServerMessage::Reconciled { space: space.clone(), reply: empty, at: None };
                done.bytes += encode(&answer).unwrap().len();
                reconciler.take(reply).unwrap()
            }
        };
        step.incoming.into_iter().for_each(|envelope| here.receive(envelope));
        offers.extend(step.offers);
        then = step.then;
    }
    done.differing.clone_from(reconciler.differing());
    let beyond: Vec<_> = offers.iter().flat_map(|theirs| here.beyond(theirs)).collect();
    done.offered = beyond.len();
    if done.offered > 0 {
        done.round_trips += 1;
        done.bytes += done.offered * 60;
    }
    beyond.into_iter().for_each(|envelope| there.receive(envelope));
    done
}
