//! Documents in memory: least recently used first out, within a byte budget.

use std::collections::{BTreeMap, HashMap};

use anabranch_core::document::Document;

/// The memory that cached documents may take, by their own estimate.
pub(crate) const CACHE_BYTES: usize = 64 << 20;

/// A row key in `entities`, valid within one file.
pub type EntityKey = i64;

#[derive(Debug, Default)]
pub(crate) struct DocumentCache {
    documents: HashMap<EntityKey, Cached>,
    by_use: BTreeMap<u64, EntityKey>,
    uses: u64,
    bytes: usize,
}

#[derive(Debug)]
struct Cached {
    document: Document,
    used: u64,
    bytes: usize,
}

impl DocumentCache {
    /// Takes a document out; whoever takes it puts it back, unless it has become invalid.
    pub(crate) fn take(&mut self, key: EntityKey) -> Option<Document> {
        let cached = self.documents.remove(&key)?;
        self.by_use.remove(&cached.used);
        self.bytes -= cached.bytes;
        Some(cached.document)
    }

    /// Puts a document in, and the least recently used ones out.
    pub(crate) fn put(&mut self, key: EntityKey, document: Document) {
        drop(self.take(key));
        self.uses += 1;
        let cached = Cached { bytes: document.memory(), document, used: self.uses };
        self.bytes += cached.bytes;
        self.by_use.insert(cached.used, key);
        self.documents.insert(key, cached);
        while self.bytes > CACHE_BYTES {
            let Some((_, oldest)) = self.by_use.first_key_value() else { break };
            drop(self.take(*oldest));
        }
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}
