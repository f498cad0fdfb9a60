//! Carrying out a step: the commit first, then everything else.

use std::collections::VecDeque;
use std::sync::PoisonError;

use anabranch_core::Environment as _;
use anabranch_core::sync::{ClientEvent, ClientStep, LinkCommand, SyncEvent, WriteBatch};
use anabranch_core::wire::{self, Answer};

use anabranch_store::StoreError;
use tracing::warn;

use super::{Driver, disconnected};
use crate::events::Event;
use crate::sync::first_sync;
use crate::sync::link::LinkError;

impl Driver {
    pub(super) async fn perform(
        &mut self,
        step: ClientStep,
        events: &mut VecDeque<ClientEvent>,
    ) -> Result<(), StoreError> {
        let ClientStep { batch, send, reads, looks, link, events: news, deadline } = step;
        self.deadline = deadline;
        if let Some(batch) = batch {
            self.commit(batch).await?;
        }
        self.send(&send, events);
        match link {
            Some(LinkCommand::Open) => {
                self.connect();
            }
            Some(LinkCommand::Close) => {
                self.link = None;
                self.connecting = None;
            }
            None => {}
        }
        for read in reads {
            let (remote, space) = (self.remote, read.space.clone());
            let page = self.store.outbox_page(remote, read).await?;
            events.push_back(ClientEvent::Outbox { space, items: page.items, retry_at: page.retry_at });
        }
        for look in looks {
            events.push_back(self.look(look).await?);
        }
        for event in news {
            if event == SyncEvent::CaughtUp {
                let written = self.publish_schema().await?;
                if !written.is_empty() {
                    // That has to be pushed; then the machine catches up again. It need not be told twice.
                    let mut noticed = self.written.spaces.lock().unwrap_or_else(PoisonError::into_inner);
                    noticed.retain(|space| !written.contains(space));
                    drop(noticed);
                    events.extend(written.into_iter().map(|space| ClientEvent::LocalWrite { space }));
                    continue;
                }
            }
            if let SyncEvent::Online { .. } = event {
                events.extend(self.show_anew());
            }
            self.tell(event).await?;
        }
        Ok(())
    }

    async fn commit(&mut self, batch: WriteBatch) -> Result<(), StoreError> {
        let applied = first_sync::applied(&batch);
        let (mut pushed, mut duplicates, mut held, mut rejected) = (0, 0, 0, 0);
        let mut words = None;
        for (_, answer) in &batch.answered {
            match answer {
                Answer::Accepted { .. } => pushed += 1,
                Answer::Duplicate { .. } => duplicates += 1,
                Answer::Held { .. } => held += 1,
                Answer::Rejected { retryable: true, .. } => held += 1,
                Answer::Rejected { message, .. } => {
                    rejected += 1;
                    words.get_or_insert_with(|| message.clone());
                }
            }
        }
        if pushed + duplicates > 0 {
            self.pushed_to.insert(batch.space.clone());
        }
        let remote = self.remote;
        let received = self.store.write(move |write| write.apply_batch(remote, batch)).await?;
        self.store_failures.succeed();
        if let Some(bytes) = applied {
            self.report.segments += 1;
            let now = self.environment.now();
            self.tell_status(|online| online.pace = online.pace.go_on(now, bytes));
        }
        if pushed + duplicates + held + rejected > 0 {
            self.watchdog.calm();
        }
        if let Some(skew) = received.skew {
            warn!(ahead_millis = skew.ahead_millis, "a change has a stamp far in the future");
            self.events.tell(Event::ClockSkew { ahead_millis: skew.ahead_millis });
        }
        if held > 0 {
            self.events.tell(Event::Held { changes: held });
        }
        if let Some(message) = words {
            self.events.tell(Event::Rejected { changes: rejected, message });
        }
        self.report.pushed += pushed;
        self.report.duplicates += duplicates;
        self.report.refused += held + rejected;
        self.report.pulled += u64::try_from(received.applied).unwrap_or(u64::MAX);
        Ok(())
    }

    fn send(&mut self, messages: &[wire::ClientMessage], events: &mut VecDeque<ClientEvent>) {
        for message in messages {
            let Some(link) = &self.link else { return };
            match wire::encode(message) {
                Ok(frame) => {
                    let bytes = u64::try_from(frame.len()).unwrap_or(u64::MAX);
                    self.report.bytes_sent += bytes;
                    self.scheduler.spend(bytes);
                    self.awaiting_answer |= !matches!(message, wire::ClientMessage::Received { .. });
                    if link.outgoing.send(frame).is_err() {
                        // The server may have said why: that is read before the end of the link is.
                        return;
                    }
                }
                Err(error) => {
                    self.link = None;
                    events.push_back(disconnected(LinkError::new(error.to_string())));
                }
            }
        }
    }
}
