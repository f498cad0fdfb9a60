//! Writing one change again, op for op.

use std::collections::{BTreeSet, HashMap};
use std::num::NonZeroU64;

use automerge::legacy::{Change as Decoded, ElementId, Key, ObjectId, Op, OpId, OpType, SortedVec};
use automerge::{ActorId, ObjId, ROOT, ReadDoc as _};

use super::ops::{Fate, Fates, named};
use crate::change::{Change, MAX_MESSAGE_BYTES, MAX_OTHER_ACTORS, Rewrite};
use crate::document::contain::contained;
use crate::document::error::DocumentError;
use crate::document::genesis::is_birth;
use crate::document::{COLLECTION_KEY, Document, theirs};
use crate::id::ChangeHash;

/// Stands for the new change's own actor, which is a digest of the change.
const BLANK: [u8; 16] = [0; 16];

/// What a change that is written again says of itself.
pub(super) struct Names {
    pub(super) original: ChangeHash,
    /// What the original said of itself.
    pub(super) said: String,
}

impl Names {
    fn message(&self, part: usize) -> String {
        let rewrite = Rewrite { original: self.original, part: u32::try_from(part).unwrap_or(u32::MAX) };
        let mut message = rewrite.to_string();
        if !self.said.is_empty() && message.len() + 1 + self.said.len() <= MAX_MESSAGE_BYTES {
            message.push(' ');
            message.push_str(&self.said);
        }
        message
    }
}

/// A change that is being written again, in as many parts as the limit on the actors that one may name asks for.
pub(super) struct Writer<'a> {
    document: &'a mut Document,
    fates: &'a mut Fates,
    original: &'a Decoded,
    message: Names,
    dependencies: Vec<ChangeHash>,
    blank: ActorId,
    start_op: u64,
    ops: Vec<Op>,
    /// What the ops are called in the original.
    names: Vec<OpId>,
    others: BTreeSet<ActorId>,
    /// What this part has left at keys of maps.
    visible: HashMap<(ObjectId, Key), Vec<OpId>>,
    made: Vec<Change>,
}

impl<'a> Writer<'a> {
    pub(super) fn new(
        document: &'a mut Document,
        fates: &'a mut Fates,
        original: &'a Decoded,
        names: Names,
        dependencies: Vec<ChangeHash>,
    ) -> Self {
        Self {
            document,
            fates,
            original,
            message: names,
            dependencies,
            blank: ActorId::from(BLANK),
            start_op: 1,
            ops: Vec::new(),
            names: Vec::new(),
            others: BTreeSet::new(),
            visible: HashMap::new(),
            made: Vec::new(),
        }
    }

    /// The changes that take the original's place, now in the document; `None` if no form of it is admitted, and
    /// then the document has to be built again.
    pub(super) fn write(mut self) -> Result<Option<Vec<Change>>, DocumentError> {
        let original = self.original;
        if names_actor(original, &self.blank) {
            return Ok(None);
        }
        self.begin_part();
        let born = !self.holds(&ROOT, COLLECTION_KEY)?.is_empty() || original.operations.iter().any(creates);
        for (op, counter) in original.operations.iter().zip(original.start_op.get()..) {
            let name = named(counter, &original.actor_id);
            let mut new = if born { self.rewrite(op)? } else { None };
            if new.as_ref().is_some_and(|new| self.is_full(new)) {
                if !self.end_part() {
                    return Ok(None);
                }
                self.begin_part();
                // The ops that have been named by now have their names at last.
                new = self.rewrite(op)?;
            }
            match new {
                Some(new) => self.push(new, name),
                None => self.fates.lose_op(op, name),
            }
        }
        Ok((self.ops.is_empty() || self.end_part()).then_some(self.made))
    }

    /// The op as it is now; `None` if there is nothing left to do.
    fn rewrite(&self, op: &Op) -> Result<Option<Op>, DocumentError> {
        let Some(obj) = self.fates.object(&op.obj) else { return Ok(None) };
        let (key, pred) = match (&op.key, &op.action) {
            (_, OpType::MarkBegin(_) | OpType::MarkEnd(_)) => return Ok(None),
            (Key::Map(_), OpType::Increment(_)) => (op.key.clone(), self.fates.replaced(op.pred.iter())),
            (Key::Map(_), _) => (op.key.clone(), self.visible(&obj, &op.key)?),
            (Key::Seq(element), _) if op.insert => match self.fates.element(element) {
                Some(element) => (Key::Seq(element), Vec::new()),
                None => return Ok(None),
            },
            (Key::Seq(ElementId::Id(element)), _) => match self.fates.of(element) {
                Some(element) => (Key::Seq(ElementId::Id(element)), self.fates.replaced(op.pred.iter())),
                None => return Ok(None),
            },
            (Key::Seq(ElementId::Head), _) => return Ok(None),
        };
        let needs_one = matches!(op.action, OpType::Delete | OpType::Increment(_)) || matches!(key, Key::Seq(_));
        if pred.is_empty() && needs_one && !op.insert {
            return Ok(None);
        }
        Ok(Some(Op { action: op.action.clone(), obj, key, pred: SortedVec::from(pred), insert: op.insert }))
    }

    /// What a map's key holds as of this point of the change: all that a write to it replaces.
    fn visible(&self, object: &ObjectId, key: &Key) -> Result<Vec<OpId>, DocumentError> {
        if let Some(known) = self.visible.get(&(object.clone(), key.clone())) {
            return Ok(known.clone());
        }
        let id = match object {
            ObjectId::Root => ROOT,
            ObjectId::Id(id) if id.1 == self.blank => return Ok(Vec::new()),
            ObjectId::Id(id) => ObjId::Id(id.0, id.1.clone(), 0),
        };
        match key {
            Key::Map(key) => self.holds(&id, key),
            Key::Seq(_) => Ok(Vec::new()),
        }
    }

    /// What a key holds where the change begins, but for the birth of a container or counter, which nothing replaces.
    fn holds(&self, object: &ObjId, key: &str) -> Result<Vec<OpId>, DocumentError> {
        let heads: Vec<_> = self.dependencies.iter().map(|hash| theirs(*hash)).collect();
        let automerge = &self.document.automerge;
        let found = contained(|| automerge.get_all_at(object, key, &heads))?.unwrap_or_default();
        let op = |id: ObjId| match id {
            ObjId::Id(counter, actor, _) => Some(OpId(counter, actor)),
            ObjId::Root => None,
        };
        let edits = found.into_iter().filter(|(value, id)| !is_birth(value, id));
        Ok(edits.filter_map(|(_, id)| op(id)).collect())
    }

    fn begin_part(&mut self) {
        let automerge = &self.document.automerge;
        let max_op = |hash: &ChangeHash| automerge.get_change_meta_by_hash(&theirs(*hash)).map(|meta| meta.max_op);
        self.start_op = self.dependencies.iter().filter_map(max_op).max().unwrap_or(0) + 1;
    }

    fn push(&mut self, op: Op, name: OpId) {
        let new = OpId(self.start_op + counted(self.ops.len()), self.blank.clone());
        self.others.extend(actors(&op).filter(|actor| **actor != self.blank).cloned());
        if let Key::Map(_) = op.key {
            let left = match op.action {
                OpType::Increment(_) => None,
                OpType::Delete => Some(Vec::new()),
                _ => Some(vec![new.clone()]),
            };
            if let Some(left) = left {
                self.visible.insert((op.obj.clone(), op.key.clone()), left);
            }
        }
        self.fates.set(name.clone(), Fate::Moved(new));
        self.names.push(name);
        self.ops.push(op);
    }

    /// Whether the op would name too many actors, together with those before it in its part.
    fn is_full(&self, op: &Op) -> bool {
        let more = actors(op).filter(|actor| **actor != self.blank && !self.others.contains(actor));
        !self.ops.is_empty() && self.others.len() + more.collect::<BTreeSet<_>>().len() > MAX_OTHER_ACTORS
    }

    /// Makes a change of the ops so far and adds it to the document. `false` if it is not admitted.
    fn end_part(&mut self) -> bool {
        let Some(blank) = self.build(&self.blank) else { return false };
        let actor = ActorId::from(blank.expected_derived_actor().as_bytes());
        let ops = std::mem::take(&mut self.ops);
        self.ops = ops.into_iter().map(|op| self.signed(op, &actor)).collect();
        let made = self.build(&actor);
        let applied = made.filter(|change| self.document.apply(std::slice::from_ref(change)).is_ok());
        let Some(change) = applied else { return false };
        for (name, counter) in self.names.drain(..).zip(self.start_op..) {
            self.fates.set(name, Fate::Moved(named(counter, &actor)));
        }
        self.dependencies = vec![change.hash()];
        self.ops.clear();
        self.others.clear();
        self.visible.clear();
        self.made.push(change);
        true
    }

    fn build(&self, actor: &ActorId) -> Option<Change> {
        let change = Decoded {
            operations: self.ops.clone(),
            actor_id: actor.clone(),
            hash: None,
            seq: 1,
            start_op: NonZeroU64::new(self.start_op)?,
            time: self.original.time,
            message: Some(self.message.message(self.made.len())),
            deps: self.dependencies.iter().map(|hash| theirs(*hash)).collect(),
            extra_bytes: Vec::new(),
            author: None,
        };
        let change = contained(|| automerge::Change::from(change)).ok()?;
        Change::parse(change.raw_bytes().to_vec()).ok()
    }

    /// The op with the actor's name in place of the blank one.
    fn signed(&self, op: Op, actor: &ActorId) -> Op {
        let sign = |id: OpId| if id.1 == self.blank { OpId(id.0, actor.clone()) } else { id };
        let obj = match op.obj {
            ObjectId::Id(id) => ObjectId::Id(sign(id)),
            ObjectId::Root => ObjectId::Root,
        };
        let key = match op.key {
            Key::Seq(ElementId::Id(id)) => Key::Seq(ElementId::Id(sign(id))),
            key => key,
        };
        Op { obj, key, pred: op.pred.into_iter().map(sign).collect(), ..op }
    }
}

/// Whether the op gives the entity its collection.
pub(super) fn creates(op: &Op) -> bool {
    op.obj == ObjectId::Root && matches!(&op.key, Key::Map(key) if key == COLLECTION_KEY)
}

/// The actors that an op names.
pub(super) fn actors(op: &Op) -> impl Iterator<Item = &ActorId> {
    let object = if let ObjectId::Id(id) = &op.obj { Some(&id.1) } else { None };
    let element = if let Key::Seq(ElementId::Id(id)) = &op.key { Some(&id.1) } else { None };
    object.into_iter().chain(element).chain(op.pred.iter().map(|id| &id.1))
}

fn names_actor(change: &Decoded, actor: &ActorId) -> bool {
    change.actor_id == *actor || change.operations.iter().any(|op| actors(op).any(|named| named == actor))
}

fn counted(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
