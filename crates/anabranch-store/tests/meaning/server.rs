//! A server, as far as purging goes.

use std::cell::RefCell;
use std::collections::HashMap;

use anabranch_core::sync::{OutboxRead, WriteBatch};
use anabranch_core::wire::{Answer, Envelope, RejectCode};
use anabranch_core::{Change, EntityId, Heads, Lineage};
use anabranch_store::{OutboxPage, Received, StoreError};

use super::fleet::{Replica, space};

/// A server, as far as purging goes: it takes a marker only of what is still the entity's version, and then
/// nothing else of that entity.
#[derive(Default)]
pub(crate) struct Server {
    pub(crate) log: RefCell<Vec<Envelope>>,
    heads: RefCell<HashMap<EntityId, Heads>>,
}

impl Server {
    pub(crate) fn answer(&self, envelope: &Envelope) -> Answer {
        let change = Change::parse(envelope.change.clone()).expect("a change");
        let mut heads = self.heads.borrow_mut();
        let entity = heads.entry(envelope.entity).or_default();
        let mut log = self.log.borrow_mut();
        if let Some(place) =
            log.iter().position(|known| known.entity == envelope.entity && known.change == envelope.change)
        {
            return Answer::Duplicate { seq: u64::try_from(place).expect("a place") + 1 };
        }
        let refused = |code| Answer::Rejected { code, message: String::new(), retryable: false };
        let mut logged = log.iter().filter(|known| known.entity == envelope.entity).peekable();
        let known = logged.peek().is_some();
        let purged = logged.any(|known| is_marker(&known.change));
        match change.purge_of() {
            None if purged => return refused(RejectCode::Purged),
            // Beside a marker there may be others, and one of what is not here does no harm.
            Some(version) if known && !purged && version != entity.version() => return refused(RejectCode::Stale),
            _ => {}
        }
        entity.advance(change.hash(), change.dependencies());
        log.push(envelope.clone());
        Answer::Accepted { seq: u64::try_from(log.len()).expect("a place") }
    }

    /// Everything that waits is pushed. The answers come back unless they are lost.
    pub(crate) fn push(&self, from: &Replica, answers_arrive: bool) -> Result<Vec<Answer>, StoreError> {
        let page = outbox(from)?;
        let answered: Vec<_> = page.items.iter().map(|item| (item.key, self.answer(&item.envelope))).collect();
        let answers = answered.iter().map(|(_, answer)| answer.clone()).collect();
        if answers_arrive {
            let batch = WriteBatch { answered, ..WriteBatch::empty(space(), LINEAGE) };
            from.store.write(move |write| write.apply_batch(1, batch)).wait()?;
        }
        Ok(answers)
    }

    /// The whole log, from the start.
    pub(crate) fn pull(&self, to: &Replica) -> Result<Received, StoreError> {
        feed(to, self.log.borrow().clone())
    }
}

/// What a server sends arrives.
pub(crate) fn feed(to: &Replica, incoming: Vec<Envelope>) -> Result<Received, StoreError> {
    let batch = WriteBatch { incoming, ..WriteBatch::empty(space(), LINEAGE) };
    to.store.write(move |write| write.apply_batch(1, batch)).wait()
}

pub(crate) const LINEAGE: Lineage = Lineage::from_bytes([7; 16]);

pub(crate) fn is_marker(change: &[u8]) -> bool {
    Change::parse(change.to_vec()).is_ok_and(|change| change.purge_of().is_some())
}

pub(crate) fn outbox(replica: &Replica) -> Result<OutboxPage, StoreError> {
    replica.store.outbox_page(1, OutboxRead { space: space(), changes: 100_000, bytes: 1 << 24 }).wait()
}
