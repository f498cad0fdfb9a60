//! When the server has lost history: finding out what, and going on from there.

use crate::environment::{Entropy, UnixMillis};
use crate::name::SpaceName;
use crate::sync::client::{ClientSession, ClientStep, Halt, Link, LinkCommand, Outbox, SpaceSync};
use crate::sync::client::{Look, Reoffer, SyncEvent, WriteBatch};
use crate::sync::reconcile::{Compared, Item, ReconcileError, ReconcileStep, Reconciler, SketchError, Then};
use crate::wire::{ClientMessage, Cursor, MAX_CURSOR_BYTES, Mark, Reply};

/// How far the reconciling of one space has come. Nothing of the space is pushed meanwhile. The store knows that it is
/// owed: if it is interrupted, it begins again.
#[derive(Debug)]
pub(super) enum Reconciling {
    /// The store has been asked what is here.
    Reading,
    /// Questions and answers. The log's end as of the first answer is where the next pull begins.
    Asking(Box<Reconciler>, Option<Cursor>),
}

impl ClientSession {
    pub(super) fn on_cursor_unknown(
        &mut self,
        now: UnixMillis,
        entropy: &mut dyn Entropy,
        name: SpaceName,
        step: &mut ClientStep,
    ) {
        let Some(lineage) = self.lineage else { return };
        let Some(space) = self.spaces.get_mut(&name) else { return };
        if space.cursor.is_none() && space.ack.is_none() && !space.owes_reconcile {
            return self.halt(Halt::Protocol("the server does not know its own beginning".to_owned()), step);
        }
        if std::mem::replace(&mut space.has_reconciled, true) {
            // Again, in one session: it is given time to find itself.
            step.link = Some(LinkCommand::Close);
            let reason = "the server does not know the end of its own log".to_owned();
            return self.on_disconnected(now, entropy, reason, None, step);
        }
        step.events.push(SyncEvent::ServerLostHistory(name.clone()));
        let mut batch = WriteBatch::empty(name.clone(), lineage);
        batch.owes_reconcile = true;
        step.batch = Some(batch);
        space.owe_reconcile();
        if space.first.is_under_way() {
            // What has not come yet would all differ. It comes first, by segments.
            step.send.push(space.pull(&name));
        } else {
            space.begin_reconcile(&name, step);
        }
    }

    pub(super) fn on_items(&mut self, name: SpaceName, items: Vec<Item>, step: &mut ClientStep) {
        let Some(space) = self.spaces.get_mut(&name) else { return };
        let Some(Reconciling::Reading) = space.reconciling else { return };
        match Reconciler::begin_of(items, space.first.collections.clone()) {
            Ok((reconciler, ask)) => {
                space.reconciling = Some(Reconciling::Asking(Box::new(reconciler), None));
                step.send.push(ClientMessage::Reconcile { space: name, ask });
            }
            Err(_) => self.offer_everything(name, step),
        }
    }

    pub(super) fn on_compared(&mut self, name: SpaceName, compared: Vec<Compared>, step: &mut ClientStep) {
        let Some(Reconciling::Asking(reconciler, _)) = self.reconciling(&name) else { return };
        let next = reconciler.compared(compared);
        self.go_on(name, next, step);
    }

    pub(super) fn on_reconciled(
        &mut self,
        name: SpaceName,
        reply: Reply,
        at: Option<(Cursor, Mark)>,
        step: &mut ClientStep,
    ) {
        let Some(space) = self.spaces.get_mut(&name) else { return };
        let Some(Reconciling::Asking(reconciler, fresh)) = &mut space.reconciling else { return };
        if let Some((cursor, mark)) = at.filter(|(cursor, _)| cursor.0.len() <= MAX_CURSOR_BYTES) {
            // What an answer shows, or brings, does not wait here any more. The server must not lose it unnoticed.
            space.ack = space.ack.filter(|ack| ack.seq > mark.seq).or(Some(mark));
            fresh.get_or_insert(cursor);
        }
        let next = reconciler.take(reply);
        self.go_on(name, next, step);
    }

    fn reconciling(&mut self, name: &SpaceName) -> Option<&mut Reconciling> {
        self.spaces.get_mut(name)?.reconciling.as_mut()
    }

    fn go_on(&mut self, name: SpaceName, next: Result<ReconcileStep, ReconcileError>, step: &mut ClientStep) {
        let Some(lineage) = self.lineage else { return };
        let ReconcileStep { incoming, offers, then } = match next {
            Ok(next) => next,
            Err(ReconcileError::Sketch(SketchError::TooMany)) => return self.offer_everything(name, step),
            Err(error) => return self.halt(Halt::Protocol(error.to_string()), step),
        };
        if !incoming.is_empty() || !offers.is_empty() {
            let mut batch = WriteBatch::empty(name.clone(), lineage);
            (batch.incoming, batch.offers) = (incoming, offers);
            step.batch = Some(batch);
        }
        match then {
            Then::Ask(ask) => step.send.push(ClientMessage::Reconcile { space: name, ask }),
            Then::Compare(theirs) => step.looks.push(Look::Compare { space: name, theirs }),
            Then::Done => self.finish_reconcile(name, step),
        }
    }

    fn finish_reconcile(&mut self, name: SpaceName, step: &mut ClientStep) {
        let (Link::Open { limits }, Some(lineage)) = (self.link, self.lineage) else { return };
        let Some(space) = self.spaces.get_mut(&name) else { return };
        let Some(Reconciling::Asking(_, Some(cursor))) = space.reconciling.take() else {
            return self.halt(Halt::Protocol("the server does not say where its log ends".to_owned()), step);
        };
        let batch = step.batch.get_or_insert_with(|| WriteBatch::empty(name.clone(), lineage));
        batch.cursor = Some(cursor.clone());
        (batch.ack, batch.reoffer) = (space.ack, Reoffer::Refused);
        (space.cursor, space.owes_reconcile) = (Some(cursor), false);
        step.send.push(space.pull(&name));
        if !matches!(space.outbox, Outbox::Pushing { .. }) {
            space.read_outbox(&name, limits, step);
        }
    }

    /// The long way, if there is too much to reconcile: everything is offered, and the log is read from its beginning.
    fn offer_everything(&mut self, name: SpaceName, step: &mut ClientStep) {
        let (Link::Open { limits }, Some(lineage)) = (self.link, self.lineage) else { return };
        let Some(space) = self.spaces.get_mut(&name) else { return };
        space.reconciling = None;
        (space.cursor, space.ack, space.owes_reconcile) = (None, None, false);
        let mut batch = WriteBatch::empty(name.clone(), lineage);
        batch.reoffer = Reoffer::Space;
        step.batch = Some(batch);
        step.send.push(space.pull(&name));
        if !matches!(space.outbox, Outbox::Pushing { .. }) {
            space.read_outbox(&name, limits, step);
        }
    }
}

impl SpaceSync {
    /// The server may lack what it has acknowledged. The marks of that log are worth nothing any more, and only a finished
    /// reconcile gives others.
    pub(super) fn owe_reconcile(&mut self) {
        (self.cursor, self.ack, self.owes_reconcile) = (None, None, true);
        self.first.plan_anew();
    }

    /// Asks the store what is here. What is being pushed will be answered; nothing else is pushed before the end.
    pub(super) fn begin_reconcile(&mut self, name: &SpaceName, step: &mut ClientStep) {
        (self.pulled, self.has_reconciled) = (false, true);
        self.first.forget();
        self.reconciling = Some(Reconciling::Reading);
        if !matches!(self.outbox, Outbox::Pushing { .. }) {
            self.outbox = Outbox::Unknown;
        }
        step.looks.push(Look::Items { space: name.clone(), collections: self.first.collections.clone() });
    }
}
