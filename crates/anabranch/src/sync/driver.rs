//! The driver: carries out what the client's state machine decides.

mod carry;
mod tell;

use std::collections::{BTreeSet, VecDeque};
use std::future::pending;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anabranch_core::sync::{Backoff, ClientConfig, ClientEvent, ClientSession, SpaceProgress};
use anabranch_core::wire::{self, ServerMessage};
use anabranch_core::{Environment as _, SpaceName, UnixMillis};
use anabranch_store::{Promise, RemoteKey, Store, StoreError};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tracing::warn;

use crate::environment::SystemEnvironment;
use crate::error::Error;
use crate::replica::Replica;
use crate::status::{Online, Phase};
use crate::sync::link::{Link, LinkError, Transport};
use crate::sync::{SyncError, SyncReport};
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
    store: Store,
    watchers: Arc<Watchers>,
    online: Arc<Mutex<Online>>,
    /// The remotes that syncs of this replica are under way with.
    in_use: Arc<Mutex<BTreeSet<RemoteKey>>>,
    /// This sync's number among those of the replica.
    number: u64,
    remote: RemoteKey,
    transport: Arc<dyn Transport>,
    mode: Mode,
    commands: mpsc::UnboundedReceiver<Command>,
    written: Arc<Written>,
    environment: SystemEnvironment,
    session: ClientSession,
    followed: BTreeSet<SpaceName>,
    link: Option<Link>,
    connecting: Option<JoinHandle<Result<Link, LinkError>>>,
    deadline: Option<UnixMillis>,
    store_failures: Backoff,
    waiting: Vec<Promise<(), Error>>,
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
        ClientConfig { replica: store.replica(), actor: store.actor().clone(), schema_version: store.schema().version };
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
