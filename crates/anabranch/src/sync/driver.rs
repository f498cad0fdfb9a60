//! The driver: carries out what the client's state machine decides.

use std::collections::{BTreeSet, VecDeque};
use std::future::pending;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anabranch_core::sync::{
    Backoff, ClientConfig, ClientEvent, ClientSession, ClientStep, Halt, LinkCommand, SpaceProgress, SyncEvent,
    WriteBatch,
};
use anabranch_core::wire::{self, Answer, ServerMessage};
use anabranch_core::{Environment as _, ErrorKind, SpaceName, UnixMillis};
use anabranch_store::{Promise, RemoteKey, Store, StoreError};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tracing::{debug, info, warn};

use crate::environment::SystemEnvironment;
use crate::error::Error;
use crate::replica::Replica;
use crate::status::{Online, Phase};
use crate::sync::link::{Link, LinkError, Transport};
use crate::sync::{SyncError, SyncReport, Turns};
use crate::watch::Watchers;

/// How long a sync goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Until everything is on both sides, or the first failure.
    Once,
    /// Until it is stopped.
    Forever,
}

/// What the handle asks for.
pub(super) enum Command {
    Retry,
    LookAgain,
    Stop,
    CaughtUp(Promise<(), Error>),
}

pub(super) struct Driver {
    pub(super) store: Store,
    pub(super) turns: Arc<Turns>,
    watchers: Arc<Watchers>,
    online: Arc<Mutex<Online>>,
    /// The remotes that syncs of this replica are under way with.
    in_use: Arc<Mutex<BTreeSet<RemoteKey>>>,
    /// This sync's number among those of the replica.
    number: u64,
    pub(super) remote: RemoteKey,
    transport: Arc<dyn Transport>,
    pub(super) mode: Mode,
    pub(super) commands: mpsc::UnboundedReceiver<Command>,
    written: Arc<Written>,
    environment: SystemEnvironment,
    session: ClientSession,
    followed: BTreeSet<SpaceName>,
    link: Option<Link>,
    connecting: Option<JoinHandle<Result<Link, LinkError>>>,
    deadline: Option<UnixMillis>,
    store_failures: Backoff,
    pub(super) waiting: Vec<Promise<(), Error>>,
    report: SyncReport,
    /// Spaces that this sync has pushed to; each gets to carry this replica's schema, once.
    pushed_to: BTreeSet<SpaceName>,
    carrying: BTreeSet<SpaceName>,
    /// A flight has been sent and nothing of the answer has come.
    awaiting_answer: bool,
    outcome: Option<Result<(), SyncError>>,
}

/// Spaces that have been written to since the driver last looked. A set, so it cannot grow without bound.
#[derive(Default)]
struct Written {
    spaces: Mutex<BTreeSet<SpaceName>>,
    notify: Notify,
}

impl Driver {
    pub(super) fn new(
        replica: &Replica,
        remote: RemoteKey,
        transport: Arc<dyn Transport>,
        mode: Mode,
        commands: mpsc::UnboundedReceiver<Command>,
    ) -> Result<Self, Error> {
        let store = replica.store().clone();
        let written = Arc::new(Written::default());
        let listener = Arc::downgrade(&written);
        store.on_commit(move |committed| {
            let Some(written) = listener.upgrade() else { return false };
            if !committed.pushable.is_empty() {
                let mut spaces = written.spaces.lock().unwrap_or_else(PoisonError::into_inner);
                spaces.extend(committed.pushable.iter().cloned());
                drop(spaces);
                written.notify.notify_one();
            }
            true
        });
        let (session, followed) = session(&store, remote)?;
        let online = Arc::clone(&replica.inner.online);
        let number = {
            let mut online = online.lock().unwrap_or_else(PoisonError::into_inner);
            online.owner += 1;
            online.owner
        };
        Ok(Self {
            store,
            turns: Arc::clone(&replica.inner.turns),
            watchers: Arc::clone(&replica.inner.watchers),
            online,
            in_use: Arc::clone(&replica.inner.in_use),
            number,
            remote,
            transport,
            mode,
            commands,
            written,
            environment: SystemEnvironment::new(),
            session,
            followed,
            link: None,
            connecting: None,
            deadline: None,
            store_failures: Backoff::default(),
            waiting: Vec::new(),
            report: SyncReport::default(),
            pushed_to: BTreeSet::new(),
            carrying: BTreeSet::new(),
            awaiting_answer: false,
            outcome: None,
        })
    }

    pub(super) async fn run(mut self) -> Result<SyncReport, SyncError> {
        let _turn = self.take_turn().await?;
        self.handle(ClientEvent::Start).await;
        while self.outcome.is_none() {
            let event = self.next_event().await;
            for event in event {
                self.handle(event).await;
            }
        }
        let outcome = self.outcome.take().unwrap_or(Ok(()));
        let report = self.report;
        outcome.map(|()| report)
    }

    /// Waits for whatever happens next.
    async fn next_event(&mut self) -> Vec<ClientEvent> {
        let wait = self.deadline.map(|at| at.saturating_sub(self.environment.now()).max(0).unsigned_abs());
        tokio::select! {
            command = self.commands.recv() => self.obey(command),
            () = self.written.notify.notified() => self.written_spaces(),
            event = next_frame(&mut self.link) => {
                match event {
                    Ok(frame) => vec![self.read(&frame)],
                    Err(error) => {
                        self.link = None;
                        vec![disconnected(error)]
                    }
                }
            }
            connected = connected(&mut self.connecting) => {
                self.connecting = None;
                match connected {
                    Ok(link) => {
                        self.link = Some(link);
                        vec![ClientEvent::Connected]
                    }
                    Err(error) => vec![disconnected(error)],
                }
            }
            () = sleep(wait) => {
                self.deadline = None;
                vec![ClientEvent::Timer]
            }
        }
    }

    fn obey(&mut self, command: Option<Command>) -> Vec<ClientEvent> {
        match command {
            Some(Command::Retry) => vec![ClientEvent::Start],
            Some(Command::LookAgain) => {
                match self.store.read(|read| read.spaces()) {
                    Ok(all) => self.written.spaces.lock().unwrap_or_else(PoisonError::into_inner).extend(all),
                    Err(error) => warn!(%error, "the file could not be read"),
                }
                self.written_spaces()
            }
            Some(Command::CaughtUp(promise)) => {
                // What was written before this was asked comes first.
                let events = self.written_spaces();
                if events.is_empty() && self.session.is_caught_up() {
                    promise.resolve(Ok(()));
                } else {
                    self.waiting.push(promise);
                }
                events
            }
            Some(Command::Stop) | None => vec![ClientEvent::Stop],
        }
    }

    fn written_spaces(&mut self) -> Vec<ClientEvent> {
        let spaces = std::mem::take(&mut *self.written.spaces.lock().unwrap_or_else(PoisonError::into_inner));
        let mut events = Vec::new();
        for space in spaces {
            if self.followed.insert(space.clone()) {
                let progress = SpaceProgress { space, cursor: None, ack: None };
                events.push(ClientEvent::Follow(progress));
            } else {
                events.push(ClientEvent::LocalWrite { space });
            }
        }
        events
    }

    fn read(&mut self, frame: &[u8]) -> ClientEvent {
        self.report.bytes_received += u64::try_from(frame.len()).unwrap_or(u64::MAX);
        if std::mem::take(&mut self.awaiting_answer) {
            self.report.round_trips += 1;
        }
        match wire::decode::<ServerMessage>(frame) {
            Ok(message) => ClientEvent::Message(message),
            Err(error) => {
                self.link = None;
                disconnected(LinkError::new(error.to_string()))
            }
        }
    }

    /// Feeds an event to the machine, and carries out what it decides, and what follows from that.
    async fn handle(&mut self, event: ClientEvent) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let now = self.environment.now();
            let step = self.session.handle(now, self.environment.entropy(), event);
            if let Err(error) = self.perform(step, &mut events).await {
                // The file could not be written: nothing of what the machine believes may be relied on.
                warn!(%error, "the sync could not be stored");
                self.start_over(&error);
                return;
            }
        }
        self.publish();
    }

    async fn perform(&mut self, step: ClientStep, events: &mut VecDeque<ClientEvent>) -> Result<(), StoreError> {
        let ClientStep { batch, send, reads, link, events: news, deadline } = step;
        self.deadline = deadline;
        if let Some(batch) = batch {
            self.commit(batch).await?;
        }
        self.send(&send, events);
        match link {
            Some(LinkCommand::Open) => {
                self.link = None;
                let transport = Arc::clone(&self.transport);
                self.connecting = Some(tokio::spawn(async move { transport.connect().await }));
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
            self.tell(event).await?;
        }
        Ok(())
    }

    async fn commit(&mut self, batch: WriteBatch) -> Result<(), StoreError> {
        let (mut pushed, mut duplicates, mut refused) = (0, 0, 0);
        for (_, answer) in &batch.answered {
            match answer {
                Answer::Accepted { .. } => pushed += 1,
                Answer::Duplicate { .. } => duplicates += 1,
                Answer::Held { .. } | Answer::Rejected { .. } => refused += 1,
            }
        }
        if pushed + duplicates > 0 {
            self.pushed_to.insert(batch.space.clone());
        }
        let remote = self.remote;
        let received = self.store.write(move |write| write.apply_batch(remote, batch)).await?;
        self.store_failures.succeed();
        if let Some(skew) = received.skew {
            warn!(ahead_millis = skew.ahead_millis, "a change has a stamp far in the future");
        }
        self.report.pushed += pushed;
        self.report.duplicates += duplicates;
        self.report.refused += refused;
        self.report.pulled += u64::try_from(received.applied).unwrap_or(u64::MAX);
        Ok(())
    }

    fn send(&mut self, messages: &[wire::ClientMessage], events: &mut VecDeque<ClientEvent>) {
        for message in messages {
            let Some(link) = &self.link else { return };
            match wire::encode(message) {
                Ok(frame) => {
                    self.report.bytes_sent += u64::try_from(frame.len()).unwrap_or(u64::MAX);
                    self.awaiting_answer |= !matches!(message, wire::ClientMessage::Received { .. });
                    if link.outgoing.send(frame).is_err() {
                        self.link = None;
                        events.push_back(disconnected(LinkError::new("the connection was closed")));
                    }
                }
                Err(error) => {
                    self.link = None;
                    events.push_back(disconnected(LinkError::new(error.to_string())));
                }
            }
        }
    }

    async fn tell(&mut self, event: SyncEvent) -> Result<(), StoreError> {
        match event {
            SyncEvent::Online { .. } => info!("online"),
            SyncEvent::CaughtUp => {
                self.waiting.drain(..).for_each(|promise| promise.resolve(Ok(())));
                if self.mode == Mode::Once {
                    self.outcome = Some(Ok(()));
                }
            }
            SyncEvent::Offline { reason, retry_at, failures } => {
                info!(%reason, failures, "offline");
                self.tell_status(|online| online.next_retry_at = Some(retry_at));
                let remote = self.remote;
                let noted = reason.clone();
                self.store.write(move |write| write.note_failure(remote, failures, &noted)).await?;
                if self.mode == Mode::Once {
                    self.outcome = Some(Err(SyncError::Offline(reason)));
                }
            }
            SyncEvent::ServerLostHistory(space) => {
                warn!(%space, "the server has lost history; offering everything again");
            }
            SyncEvent::Halted(halt) => {
                debug!(?halt, "halted");
                let error = SyncError::Halted(halt.clone());
                if halt != Halt::Stopped {
                    let (remote, failures, noted) = (self.remote, self.session.failures(), error.to_string());
                    self.store.write(move |write| write.note_failure(remote, failures, &noted)).await?;
                }
                self.outcome = Some(Err(error));
            }
        }
        Ok(())
    }

    /// Lets the spaces that were pushed to carry this replica's schema, so that others can be made from them.
    /// Returns the spaces in which it had to be written.
    async fn publish_schema(&mut self) -> Result<Vec<SpaceName>, StoreError> {
        let spaces: Vec<_> = self.pushed_to.difference(&self.carrying).cloned().collect();
        let mut written = Vec::new();
        for space in spaces {
            let of = space.clone();
            // Once per sync, whatever comes of it: nothing else may wait for this.
            self.carrying.insert(space.clone());
            match self.store.write(move |write| write.publish_schema(&of)).await {
                Ok(true) => written.push(space),
                Ok(false) => {}
                Err(error) if error.kind() == ErrorKind::Retry => return Err(error),
                Err(error) => warn!(%error, "the schema could not be left in the space"),
            }
        }
        Ok(written)
    }

    /// Begins again from what the file says, after a pause.
    fn start_over(&mut self, error: &StoreError) {
        self.link = None;
        self.connecting = None;
        if self.mode == Mode::Once || matches!(error, StoreError::Closed) {
            self.outcome = Some(Err(SyncError::Offline(error.to_string())));
            return;
        }
        let wait = self.store_failures.fail(None, self.environment.entropy());
        match session(&self.store, self.remote) {
            Ok((fresh, followed)) => (self.session, self.followed) = (fresh, followed),
            Err(error) => return self.outcome = Some(Err(SyncError::Offline(error.to_string()))),
        }
        // As if the link had just failed: the timer brings the next attempt.
        let now = self.environment.now();
        let opened = self.session.handle(now, self.environment.entropy(), ClientEvent::Start);
        debug_assert!(opened.batch.is_none());
        let failed = ClientEvent::Disconnected {
            reason: error.to_string(),
            retry_after_millis: Some(u32::try_from(wait).unwrap_or(u32::MAX)),
        };
        self.deadline = self.session.handle(now, self.environment.entropy(), failed).deadline;
        self.publish();
    }

    fn publish(&self) {
        let phase = if self.outcome.is_some() {
            let stopped = matches!(self.outcome, Some(Ok(()) | Err(SyncError::Halted(Halt::Stopped))));
            if self.mode == Mode::Once || stopped { Phase::Idle } else { Phase::Halted }
        } else if self.session.is_caught_up() {
            Phase::Live
        } else if self.link.is_some() {
            Phase::Syncing
        } else if self.connecting.is_some() {
            Phase::Connecting
        } else {
            Phase::Waiting
        };
        self.tell_status(|online| {
            if phase != Phase::Waiting {
                online.next_retry_at = None;
            }
            online.phase = phase;
        });
    }

    /// Changes what the status says, unless a later sync of the same replica speaks now.
    pub(super) fn tell_status(&self, change: impl FnOnce(&mut Online)) {
        let mut online = self.online.lock().unwrap_or_else(PoisonError::into_inner);
        let before = online.clone();
        if online.owner == self.number {
            change(&mut online);
        }
        let changed = *online != before;
        drop(online);
        if changed {
            self.watchers.notify_status();
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if let Some(connecting) = self.connecting.take() {
            connecting.abort();
        }
        self.tell_status(|online| {
            // Why a sync will not go on must stay to be seen.
            if online.phase != Phase::Halted {
                online.phase = Phase::Idle;
            }
        });
        self.in_use.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.remote);
    }
}

fn session(store: &Store, remote: RemoteKey) -> Result<(ClientSession, BTreeSet<SpaceName>), StoreError> {
    let remotes = store.read(|read| read.snapshot(|read| read.remotes()))?;
    let state = remotes.into_iter().find(|state| state.key == remote);
    let (lineage, spaces, failures) =
        state.map(|state| (state.lineage, state.spaces, state.failures)).unwrap_or_default();
    let followed = spaces.iter().map(|progress| progress.space.clone()).collect();
    let config =
        ClientConfig { replica: store.replica(), actor: store.actor(), schema_version: store.schema().version };
    Ok((ClientSession::new(config, lineage, spaces, failures), followed))
}

fn disconnected(error: LinkError) -> ClientEvent {
    ClientEvent::Disconnected { reason: error.reason, retry_after_millis: error.retry_after_millis }
}

async fn next_frame(link: &mut Option<Link>) -> Result<Vec<u8>, LinkError> {
    match link {
        Some(link) => link.incoming.recv().await.unwrap_or_else(|| Err(LinkError::new("the connection was closed"))),
        None => pending().await,
    }
}

async fn connected(connecting: &mut Option<JoinHandle<Result<Link, LinkError>>>) -> Result<Link, LinkError> {
    match connecting {
        Some(connecting) => connecting.await.unwrap_or_else(|_| Err(LinkError::new("connecting was given up"))),
        None => pending().await,
    }
}

async fn sleep(millis: Option<u64>) {
    match millis {
        Some(millis) => tokio::time::sleep(Duration::from_millis(millis)).await,
        None => pending().await,
    }
}
