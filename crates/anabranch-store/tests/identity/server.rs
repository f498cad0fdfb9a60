//! A server that makes a real server's decisions, with its log in memory.

use std::sync::atomic::Ordering;

use anabranch_core::sync::{OutboxRead, SpaceDigest, WriteBatch};
use anabranch_core::wire::{Answer, Envelope, RejectCode};
use anabranch_core::{Digest, Lineage};
use anabranch_store::{Received, StoreError};

use crate::device::{Device, Outcome, space};

pub(crate) const LINEAGE: Lineage = Lineage::from_bytes([7; 16]);

pub(crate) use crate::log::Log as Server;

/// Refuses changes that hold this text.
pub(crate) fn holding(text: &'static str) -> impl Fn(&Envelope) -> bool {
    move |envelope| envelope.change.windows(text.len()).any(|part| part == text.as_bytes())
}

impl Server {
    /// Takes one page of what waits, but for what it refuses. `false` if nothing could be pushed now.
    pub(crate) fn push_page(&mut self, from: &Device, refuses: impl Fn(&Envelope) -> bool) -> Result<bool, StoreError> {
        let answered = self.take_page(from, refuses)?;
        let some = !answered.is_empty();
        Self::answer(from, answered)?;
        Ok(some)
    }

    /// As [`Server::push_page`], but the answers are still on their way.
    pub(crate) fn take_page(
        &mut self,
        from: &Device,
        refuses: impl Fn(&Envelope) -> bool,
    ) -> Result<Vec<(i64, Answer)>, StoreError> {
        let read = OutboxRead { space: space(), changes: 500, bytes: 1 << 20 };
        let items = from.store.outbox_page(1, read).wait()?.items;
        let mut answered = Vec::with_capacity(items.len());
        for item in &items {
            let answer = match refuses(&item.envelope) {
                true => Answer::Rejected {
                    code: RejectCode::Forbidden,
                    message: "not on my watch".to_owned(),
                    retryable: false,
                },
                false => self.append(vec![item.envelope.clone()]).remove(0),
            };
            answered.push((item.key, answer));
        }
        Ok(answered)
    }

    pub(crate) fn answer(to: &Device, answered: Vec<(i64, Answer)>) -> Outcome {
        let batch = WriteBatch { answered, ..WriteBatch::empty(space(), LINEAGE) };
        to.store.write(move |write| write.apply_batch(1, batch)).wait().map(drop)
    }

    /// Takes all that waits, also what was put off.
    pub(crate) fn push(&mut self, from: &Device) -> Outcome {
        self.push_but(from, |_| false)
    }

    pub(crate) fn push_but(&mut self, from: &Device, refuses: impl Fn(&Envelope) -> bool) -> Outcome {
        for _ in 0..4 {
            while self.push_page(from, &refuses)? {}
            from.clock.fetch_add(400_000, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Sends its whole log.
    pub(crate) fn pull(&self, to: &Device) -> Result<Received, StoreError> {
        let incoming = self.envelopes();
        let batch = WriteBatch { incoming, ..WriteBatch::empty(space(), LINEAGE) };
        to.store.write(move |write| write.apply_batch(1, batch)).wait()
    }

    pub(crate) fn digest(&self) -> Digest {
        let mut entities: Vec<_> = self.entities.iter().collect();
        entities.sort_by_key(|(id, _)| id.to_string());
        let mut digest = SpaceDigest::default();
        entities.into_iter().for_each(|(id, (_, heads, _))| digest.add(id, heads));
        digest.finish()
    }
}
