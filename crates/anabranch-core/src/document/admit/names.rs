//! The ops that a change names: they come before it, and are what it takes them for.
//!
//! One thing is left to Automerge: that an element which comes before is one of this list. To know that here
//! would take an index of all ops; there, it panics on any other, whatever else it has.

use std::borrow::Cow;
use std::collections::HashMap;

use automerge::{ActorId, Automerge, ObjId, ObjType, ROOT, ReadDoc as _};

use super::super::contain::contained;
use super::super::error::ApplyError;
use super::super::past::{Name, Past, index};
use super::super::value::MAX_DEPTH;
use super::causality::Knowledge;
use crate::change::{Action, Change, Key, ObjectKind, Op, OpName, Ops};

/// How many ops of other changes are kept at hand.
const MAX_KEPT_OPS: usize = 1 << 19;

/// The ops that the changes of a batch name.
pub(super) struct Names<'a> {
    automerge: &'a Automerge,
    objects: HashMap<Name, Object>,
    /// The batch's changes, by actor and sequence number.
    batch: HashMap<(u32, u64), &'a Change>,
    kept: HashMap<(u32, u64), Read<'a>>,
    kept_ops: usize,
}

#[derive(Clone, Copy, Debug)]
struct Object {
    kind: ObjectKind,
    /// 1 at the root. For an object of the document, not known before it is asked for.
    depth: Option<usize>,
}

/// A change with its ops, and its actors as the document knows them.
#[derive(Debug)]
struct Read<'a> {
    change: Cow<'a, Change>,
    ops: Ops,
    actors: Vec<Vec<u8>>,
    places: Vec<Option<u32>>,
}

/// A change, with what comes before it.
#[derive(Clone, Copy)]
struct Context<'r, 'a> {
    past: &'r Past,
    knowledge: &'r Knowledge,
    own: u32,
    read: &'r Read<'a>,
}

impl<'a> Names<'a> {
    pub(super) fn new(automerge: &'a Automerge) -> Self {
        Self { automerge, objects: HashMap::new(), batch: HashMap::new(), kept: HashMap::new(), kept_ops: 0 }
    }

    /// Checks all names in the next change of the batch, whose actor is at the place `own`.
    pub(super) fn check(
        &mut self,
        past: &Past,
        own: u32,
        change: &'a Change,
        knowledge: &Knowledge,
    ) -> Result<(), ApplyError> {
        let read = Read::new(Cow::Borrowed(change), past).ok_or(ApplyError::Unreadable(change.hash()))?;
        let context = Context { past, knowledge, own, read: &read };
        for (counter, op) in (change.start_op()..).zip(read.ops.all()) {
            self.check_object(context, op, counter)?;
            if let Key::Element(element) = op.key {
                context.known(element)?;
            }
            self.check_predecessors(context, op)?;
        }
        self.batch.insert((own, change.seq()), change);
        Ok(())
    }

    fn check_object(&mut self, context: Context<'_, '_>, op: &Op, counter: u64) -> Result<(), ApplyError> {
        let object = op.object.map(|object| context.known(object)).transpose()?;
        if let Some(name) = object {
            let kind = self.object(context, name)?.kind;
            if !kind.takes(op.key) {
                return Err(context.misplaced());
            }
        }
        let Action::Make(kind) = op.action else { return Ok(()) };
        let depth = object.map_or(Ok(0), |parent| self.depth(context, parent))? + 1;
        if depth > MAX_DEPTH {
            return Err(ApplyError::TooDeep(context.read.change.hash()));
        }
        let counter = u32::try_from(counter).map_err(|_| context.misplaced())?;
        self.objects.insert(Name { place: context.own, counter }, Object { kind, depth: Some(depth) });
        Ok(())
    }

    fn object(&mut self, context: Context<'_, '_>, name: Name) -> Result<Object, ApplyError> {
        if let Some(known) = self.objects.get(&name) {
            return Ok(*known);
        }
        let id = context.id(name);
        let kind = match contained(|| self.automerge.object_type(&id))? {
            Ok(ObjType::Map) => ObjectKind::Map,
            Ok(ObjType::List) => ObjectKind::List,
            Ok(ObjType::Text) => ObjectKind::Text,
            Ok(ObjType::Table) | Err(_) => return Err(context.misplaced()),
        };
        let object = Object { kind, depth: None };
        self.objects.insert(name, object);
        Ok(object)
    }

    fn depth(&mut self, context: Context<'_, '_>, name: Name) -> Result<usize, ApplyError> {
        let object = self.object(context, name)?;
        if let Some(depth) = object.depth {
            return Ok(depth);
        }
        let id = context.id(name);
        let depth = contained(|| self.automerge.parents(&id).map(Iterator::count))?;
        let depth = depth.map_err(|_| context.misplaced())?;
        self.objects.insert(name, Object { depth: Some(depth), ..object });
        Ok(depth)
    }

    /// Checks that what an op replaces stands where the op writes to.
    fn check_predecessors(&mut self, context: Context<'_, '_>, op: &Op) -> Result<(), ApplyError> {
        let mut visible = None;
        for predecessor in context.read.ops.predecessors(op) {
            let name = context.known(*predecessor)?;
            // The value that an element was born with is replaced under the element's own name.
            if context.is_inside(*predecessor) || op.key == Key::Element(*predecessor) {
                continue;
            }
            let is_visible = |shown: &Vec<Name>| shown.contains(&name);
            if is_visible(visible.get_or_insert_with(|| self.visible(context, op))) {
                continue;
            }
            if !self.is_replaced(context, op, name)? {
                return Err(context.misplaced());
            }
        }
        Ok(())
    }

    /// What a map's key holds in the document, without the batch: most often, that is what is replaced.
    fn visible(&self, context: Context<'_, '_>, op: &Op) -> Vec<Name> {
        let object = op.object.map(|object| context.name(object));
        let id = match object {
            None => ROOT,
            Some(Some(name)) if self.is_in_document(context, name) => context.id(name),
            Some(_) => return Vec::new(),
        };
        let Some(key) = context.read.text(op.key) else { return Vec::new() };
        let found = contained(|| self.automerge.get_all(&id, key).unwrap_or_default()).unwrap_or_default();
        let name = |id: ObjId| match id {
            ObjId::Id(counter, actor, _) => {
                Some(Name { place: context.past.place(actor.to_bytes())?, counter: u32::try_from(counter).ok()? })
            }
            ObjId::Root => None,
        };
        found.into_iter().filter_map(|(_, id)| name(id)).collect()
    }

    fn is_in_document(&self, context: Context<'_, '_>, name: Name) -> bool {
        let seq = context.past.seq_of(name);
        !context.is_own(name) && seq.is_some_and(|seq| !self.batch.contains_key(&(name.place, seq)))
    }

    /// Whether an op of another change stands where this one writes to, and leaves a value there.
    fn is_replaced(&mut self, context: Context<'_, '_>, op: &Op, name: Name) -> Result<bool, ApplyError> {
        let Some(seq) = context.past.seq_of(name) else { return Ok(false) };
        let of = (name.place, seq);
        if !self.kept.contains_key(&of) {
            let change = match self.batch.get(&of) {
                Some(change) => Cow::Borrowed(*change),
                None => Cow::Owned(self.change_of(context, name)?),
            };
            let read = Read::new(change, context.past).ok_or_else(|| context.misplaced())?;
            if self.kept_ops > MAX_KEPT_OPS {
                self.kept.clear();
                self.kept_ops = 0;
            }
            self.kept_ops += read.ops.all().len();
            self.kept.insert(of, read);
        }
        let Some(there) = self.kept.get(&of) else { return Ok(false) };
        let place = u64::from(name.counter).checked_sub(there.change.start_op());
        let replaced = place.and_then(|place| there.ops.all().get(usize::try_from(place).ok()?));
        Ok(replaced.is_some_and(|replaced| {
            let same_object = op.object.map(|it| context.name(it)) == replaced.object.map(|it| there.name(it));
            let same_key = match (op.key, replaced.key) {
                (Key::Text { .. }, Key::Text { .. }) => context.read.text(op.key) == there.text(replaced.key),
                (Key::Element(element), Key::Element(its)) => {
                    !replaced.insert && context.name(element) == there.name(its)
                }
                _ => false,
            };
            same_object && same_key && replaced.action.leaves_value()
        }))
    }

    /// The change of the document that an op belongs to.
    fn change_of(&self, context: Context<'_, '_>, name: Name) -> Result<Change, ApplyError> {
        let id = context.id(name);
        let found = contained(|| self.automerge.get_change_by_hash(&self.automerge.hash_for_opid(&id)?))?;
        found.and_then(|change| Change::parse(change.raw_bytes().to_vec()).ok()).ok_or_else(|| context.misplaced())
    }
}

impl<'a> Read<'a> {
    fn new(change: Cow<'a, Change>, past: &Past) -> Option<Self> {
        let (actors, ops) = change.ops().ok()?;
        let actors: Vec<_> = actors.into_iter().map(<[u8]>::to_vec).collect();
        let places = actors.iter().map(|actor| past.place(actor)).collect();
        Some(Self { change, ops, actors, places })
    }

    fn name(&self, name: OpName) -> Option<Name> {
        let place = self.places.get(index(name.actor)).copied().flatten()?;
        Some(Name { place, counter: name.counter })
    }

    fn text(&self, key: Key) -> Option<&str> {
        let Key::Text { at, length } = key else { return None };
        std::str::from_utf8(self.change.bytes().get(at..at + length)?).ok()
    }
}

impl Context<'_, '_> {
    fn name(self, name: OpName) -> Option<Name> {
        self.read.name(name)
    }

    /// The op of this name, if it comes before.
    fn known(self, name: OpName) -> Result<Name, ApplyError> {
        let unknown = || ApplyError::NotInPast(self.read.change.hash());
        let found = self.name(name).ok_or_else(unknown)?;
        // Those of the change itself have been checked when it was read.
        let known = self.is_inside(name)
            || self.past.seq_of(found).is_some_and(|seq| self.knowledge.has(self.own, found.place, seq));
        if known { Ok(found) } else { Err(unknown()) }
    }

    fn is_inside(self, name: OpName) -> bool {
        name.actor == 0 && u64::from(name.counter) >= self.read.change.start_op()
    }

    fn is_own(self, name: Name) -> bool {
        name.place == self.own && u64::from(name.counter) >= self.read.change.start_op()
    }

    fn id(self, name: Name) -> ObjId {
        let actor = self.read.places.iter().position(|place| *place == Some(name.place));
        let actor = actor.and_then(|at| self.read.actors.get(at)).map_or(&[][..], Vec::as_slice);
        ObjId::Id(u64::from(name.counter), ActorId::from(actor), 0)
    }

    fn misplaced(self) -> ApplyError {
        ApplyError::Misplaced(self.read.change.hash())
    }
}
