//! Elements that undos and redos have brought back: each stands for the one that had been deleted.

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::sync::Arc;

use automerge::ChangeHash;
use automerge::legacy::{ObjectId, OpId};

/// How many elements are kept per thread, and how many changes; some MB.
const MAX_CACHED: usize = 50_000;

/// What an undo or a redo has brought back in one object.
#[derive(Debug)]
pub(super) struct Revival {
    pub(super) object: ObjectId,
    /// Elements that had been deleted, each with its heir; none if it is not known which is whose.
    pub(super) pairs: Vec<(OpId, OpId)>,
}

/// The elements of one object that stand for others.
#[derive(Debug, Default)]
pub(super) struct Heirs {
    of: HashMap<OpId, Vec<OpId>>,
    /// The same the other way, made when it is first needed.
    to: OnceCell<HashMap<OpId, OpId>>,
}

impl Heirs {
    /// The elements that stand for one that was deleted: several, if several people have brought it back.
    pub(super) fn of(&self, element: &OpId) -> &[OpId] {
        self.of.get(element).map_or(&[], Vec::as_slice)
    }

    /// The element that all its heirs stand for.
    pub(super) fn first<'e>(&'e self, element: &'e OpId) -> &'e OpId {
        let pairs = || self.of.iter().flat_map(|(element, heirs)| heirs.iter().map(move |heir| (heir, element)));
        let to = self.to.get_or_init(|| pairs().map(|(heir, element)| (heir.clone(), element.clone())).collect());
        let earlier = std::iter::successors(Some(element), |element| to.get(element));
        // No element can stand for itself; should a forged change claim it, there is an end to it.
        earlier.take(to.len() + 1).last().unwrap_or(element)
    }
}

impl<'r> FromIterator<&'r Revival> for Heirs {
    fn from_iter<I: IntoIterator<Item = &'r Revival>>(revivals: I) -> Self {
        let mut heirs = Self::default();
        for revival in revivals {
            for (element, heir) in &revival.pairs {
                heirs.of.entry(element.clone()).or_default().push(heir.clone());
            }
        }
        heirs
    }
}

/// What changes have brought back. It follows from the change and those that it names, so it holds for every
/// document that has them; reading all again for each of many undos would take time as the square of their number.
#[derive(Default)]
struct Cache {
    revivals: HashMap<ChangeHash, Arc<[Revival]>>,
    size: usize,
}

thread_local! {
    static CACHE: RefCell<Cache> = RefCell::default();
}

/// What a change has brought back, if that has been worked out before.
pub(super) fn known(hash: &ChangeHash) -> Option<Arc<[Revival]>> {
    CACHE.with_borrow(|cache| cache.revivals.get(hash).cloned())
}

pub(super) fn remember(hash: ChangeHash, revivals: &Arc<[Revival]>) {
    let size = 1 + revivals.iter().map(|revival| revival.pairs.len()).sum::<usize>();
    CACHE.with_borrow_mut(|cache| {
        if cache.size + size > MAX_CACHED {
            *cache = Cache::default();
        }
        if size <= MAX_CACHED && cache.revivals.insert(hash, Arc::clone(revivals)).is_none() {
            cache.size += size;
        }
    });
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::document::revert::inverse::Inverter;
    use crate::document::{Document, Edit};
    use crate::id::Actor;
    use crate::name::{CollectionName, FieldName};
    use crate::schema::Schema;
    use crate::stamp::Stamp;

    #[test]
    fn one_more_undo_looks_at_a_few_changes_however_many_there_have_been() {
        const COUNT: usize = 50;
        let text = "version = 1\n[collections.notes.fields]\nbody = { kind = \"text\" }";
        let notes = &Schema::from_toml(text).unwrap().collections["notes"];
        let (name, body) = (CollectionName::new("notes").unwrap(), FieldName::new("body").unwrap());
        let mut document = Document::new(&Actor::from_bytes(&[1, 1]).unwrap());
        let fields = json!({ "body": "y".repeat(COUNT + 1) });
        document.create(&name, notes, Stamp::ZERO, fields.as_object().unwrap()).unwrap();
        for at in (1..=COUNT).rev() {
            let edit = Edit::Splice { field: body.clone(), at, delete: 1, insert: String::new() };
            document.edit(notes, Stamp::ZERO, &[edit]).unwrap();
        }
        let own = |_: &Actor, _: Stamp| true;
        for _ in 1..COUNT {
            assert_eq!(document.undo(notes, Stamp::ZERO, &own).unwrap().len(), 1);
        }
        let last = *document.stacks(&own).unwrap().done.last().unwrap();
        let mut inverter = Inverter::new(&document, &name, notes, Stamp::ZERO, &own);
        assert!(!inverter.inverse(&last).unwrap().is_empty());
        // It, the creation, the genesis of the text, the undo before, and what that took back.
        assert_eq!(inverter.lineage.past.looked_at(), 5);
    }
}
