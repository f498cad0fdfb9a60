//! The link: opened, greeted, refused, lost.

use super::{
    Adopt, ClientConfig, ClientSession, ClientStep, Halt, Link, LinkCommand, MAX_PUSH_CHANGES, Reoffer, SpaceSync,
    SyncEvent, WriteBatch,
};
use crate::environment::{Entropy, UnixMillis};
use crate::id::Lineage;
use crate::name::SpaceName;
use crate::sync::schedule::MAX_RETRY_AFTER_MILLIS;
use crate::wire::{ClientMessage, Hello, Limits, RefusalCode, Welcome};

impl ClientSession {
    pub(super) fn open(&mut self, step: &mut ClientStep) {
        self.link = Link::Opening;
        step.link = Some(LinkCommand::Open);
    }

    pub(super) fn halt(&mut self, halt: Halt, step: &mut ClientStep) {
        self.link = Link::Halted;
        step.link = Some(LinkCommand::Close);
        step.events.push(SyncEvent::Halted(halt));
    }

    /// Says everything in one flight: hello, and a pull per space. One round trip tells whether anything is new.
    pub(super) fn on_connected(&mut self, step: &mut ClientStep) {
        if self.link != Link::Opening {
            return;
        }
        self.link = Link::Greeting;
        self.told_caught_up = false;
        let ClientConfig { replica, actor, schema_version, .. } = self.config.clone();
        step.send.push(ClientMessage::Hello(Hello { replica, actor, schema_version, lineage: self.lineage }));
        for (name, space) in &mut self.spaces {
            space.begin_link();
            space.greet(name, step);
        }
    }

    pub(super) fn on_disconnected(
        &mut self,
        now: UnixMillis,
        entropy: &mut dyn Entropy,
        reason: String,
        retry_after_millis: Option<u32>,
        step: &mut ClientStep,
    ) {
        if matches!(self.link, Link::Halted | Link::Idle | Link::Waiting { .. }) {
            return;
        }
        // Whatever a server asks for: what is further away is taken for a clock that was set back.
        let longest = u32::try_from(MAX_RETRY_AFTER_MILLIS).unwrap_or(u32::MAX);
        let retry_after_millis = retry_after_millis.map(|millis| millis.min(longest));
        let until = now.saturating_add(self.backoff.fail(retry_after_millis, entropy));
        self.asked_until = retry_after_millis.map(|millis| now.saturating_add(i64::from(millis)));
        self.link = Link::Waiting { until };
        step.events.push(SyncEvent::Offline { reason, retry_at: until, failures: self.backoff.failures() });
    }

    pub(super) fn on_welcome(&mut self, welcome: &Welcome, step: &mut ClientStep) {
        let limits = Limits {
            push_changes: welcome.limits.push_changes.clamp(1, MAX_PUSH_CHANGES),
            push_bytes: welcome.limits.push_bytes.clamp(1, self.push_bytes),
        };
        self.link = Link::Open { limits };
        self.lineage = Some(welcome.lineage);
        self.adopted = false;
        step.events.push(SyncEvent::Online { server_now: welcome.now });
        for (name, space) in &mut self.spaces {
            space.welcome(name, limits, step);
        }
    }

    pub(super) fn on_refused(
        &mut self,
        now: UnixMillis,
        entropy: &mut dyn Entropy,
        code: RefusalCode,
        message: String,
        retry_after_millis: Option<u32>,
        step: &mut ClientStep,
    ) {
        match code {
            RefusalCode::OtherLineage { lineage, empty } if empty || self.may_adopt(lineage) => {
                self.adopt(lineage, empty, step);
                if std::mem::replace(&mut self.adopted, true) {
                    // A server that keeps changing its mind is not followed in a hot loop.
                    step.link = Some(LinkCommand::Close);
                    self.on_disconnected(now, entropy, message, retry_after_millis, step);
                } else {
                    self.open(step);
                }
            }
            RefusalCode::OtherLineage { lineage, .. } => self.halt(Halt::OtherLineage(lineage), step),
            RefusalCode::Forbidden | RefusalCode::Expired => self.halt(Halt::Forbidden(message), step),
            RefusalCode::Unavailable | RefusalCode::Damaged => {
                step.link = Some(LinkCommand::Close);
                self.on_disconnected(now, entropy, message, retry_after_millis, step);
            }
            RefusalCode::Protocol => self.halt(Halt::Protocol(message), step),
        }
    }

    fn may_adopt(&self, lineage: Lineage) -> bool {
        match self.config.adopt {
            Adopt::Nothing => false,
            Adopt::Only(wanted) => wanted == lineage,
            Adopt::Any => true,
        }
    }

    /// The server was wiped, or is a new one and empty: it is ours to fill again. Or it has another history, and a
    /// person has accepted that: it does not know our cursors, so each space is reconciled.
    pub(super) fn adopt(&mut self, lineage: Lineage, empty: bool, step: &mut ClientStep) {
        self.lineage = Some(lineage);
        if !empty {
            self.config.adopt = Adopt::Nothing;
        }
        for (name, space) in self.spaces.iter_mut().filter(|_| empty) {
            space.cursor = None;
            space.ack = None;
            space.owes_reconcile = false;
            space.first.forget();
            step.events.push(SyncEvent::ServerLostHistory(name.clone()));
        }
        if let Some(name) = self.spaces.keys().next() {
            let mut batch = WriteBatch::empty(name.clone(), lineage);
            if empty {
                batch.reoffer = Reoffer::Everything;
            }
            step.batch = Some(batch);
        }
    }
}

impl SpaceSync {
    /// The first words about the space: a pull, unless it is to be reconciled as a whole.
    pub(super) fn greet(&mut self, name: &SpaceName, step: &mut ClientStep) {
        if !self.reconciles_at_once() {
            step.send.push(self.pull(name));
        }
    }

    /// The session is open.
    pub(super) fn welcome(&mut self, name: &SpaceName, limits: Limits, step: &mut ClientStep) {
        if self.reconciles_at_once() {
            self.begin_reconcile(name, step);
        } else {
            self.read_outbox(name, limits, step);
        }
    }

    const fn reconciles_at_once(&self) -> bool {
        self.owes_reconcile && !self.first.is_under_way()
    }
}
