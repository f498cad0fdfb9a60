//! The driver: carries out what the client's state machine decides, when the scheduler lets it.

mod agreed;
mod attend;
mod carry;
mod connect;
mod credentials;
mod presence;
mod remembered;
mod tell;
mod turn;
mod waiting;
mod written;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anabranch_core::sync::{Backoff, ClientEvent, ClientSession, Conditions, Deferral, Scheduler, Trigger, Watchdog};
use anabranch_core::wire::{self, ServerMessage};
use anabranch_core::{Environment as _, SpaceName, UnixMillis};
use anabranch_store::{Promise, RemoteKey, Store};
use tokio::sync::{mpsc, watch};
use tracing::warn;

use crate::environment::SharedEnvironment;
use crate::error::Error;
use crate::events::EventSource;
use crate::online::Syncs;
use crate::presence::Board;
use crate::replica::Replica;
use crate::sync::link::{Link, LinkError, Transport};
use crate::sync::place::Place;
use crate::sync::token::TokenSource;
use crate::sync::{Plan, SyncError, SyncReport, Wanted, first_sync};
use crate::watch::Watchers;

pub(crate) use turn::Turns;

use agreed::Agreed;
use connect::Connecting;
use credentials::Credentials;
use remembered::{Remembered, remembered};
use waiting::{connected, next_frame, wait_until};
use written::{Written, listen};

/// How long a sync goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Until everything is on both sides, the first failure, or this long.
    Once { deadline: Duration },
    /// Until it is stopped.
    Forever,
}

/// What the handle asks for.
pub(super) enum Command {
    Trigger(Trigger),
    Conditions(Conditions),
    Token(TokenSource),
    LookAgain,
    Stop,
    CaughtUp(Promise<(), Error>),
}

pub(super) struct Driver {
    pub(super) store: Store,
    place: Place,
    watchers: Arc<Watchers>,
    events: Arc<EventSource>,
    online: Arc<Mutex<Syncs>>,
    /// This sync's number among those of the replica.
    number: u64,
    pub(super) remote: RemoteKey,
    /// Which collections of these spaces are wanted, until that has been stored.
    wanted: Option<(Vec<SpaceName>, Wanted)>,
    transport: Arc<dyn Transport>,
    credentials: Credentials,
    /// The server does not accept the token, and says this.
    auth_refused: Option<String>,
    mode: Mode,
    commands: mpsc::UnboundedReceiver<Command>,
    written: Arc<Written>,
    environment: SharedEnvironment,
    scheduler: Scheduler,
    /// Its conditions have changed since they were last looked at.
    device_changed: bool,
    /// Why nothing is done at the moment.
    deferral: Option<Deferral>,
    watchdog: Watchdog,
    session: ClientSession,
    followed: BTreeSet<SpaceName>,
    link: Option<Link>,
    connecting: Option<Connecting>,
    /// When the session wants to be called again.
    deadline: Option<UnixMillis>,
    /// When there is something to attend to.
    wake_at: Option<UnixMillis>,
    /// The file could not be read: the session is not to be relied on until it has been, at this time.
    begin_again_at: Option<UnixMillis>,
    end_at: Option<UnixMillis>,
    staleness: Option<Duration>,
    agreed: Agreed,
    told_stale: bool,
    circuit_open: bool,
    /// The server's clock was far from this one.
    clock_is_off: bool,
    store_failures: Backoff,
    pub(super) waiting: Vec<Promise<(), Error>>,
    report: SyncReport,
    /// Spaces that this sync has pushed to; each gets to carry this replica's schema, once.
    pushed_to: BTreeSet<SpaceName>,
    carrying: BTreeSet<SpaceName>,
    /// Who is there: what this replica shows, and what of that the server has been told in this session.
    presence: Arc<Board>,
    shown: watch::Receiver<BTreeMap<SpaceName, Vec<u8>>>,
    told: BTreeMap<SpaceName, Vec<u8>>,
    /// A flight has been sent and nothing of the answer has come.
    awaiting_answer: bool,
    outcome: Option<Result<(), SyncError>>,
}

impl Driver {
    pub(super) fn new(
        replica: &Replica,
        place: Place,
        transport: Arc<dyn Transport>,
        plan: Plan,
        mode: Mode,
        commands: mpsc::UnboundedReceiver<Command>,
    ) -> Result<Self, Error> {
        let (store, remote) = (replica.store().clone(), place.key());
        let written = listen(&store);
        let environment = replica.inner.environment.clone();
        let now = environment.now();
        let mut scheduler = Scheduler::new(plan.schedule, plan.conditions);
        let Remembered { session, followed, agreed_at, clock_is_off } =
            remembered(&store, remote, now, plan.adopt, &mut scheduler)?;
        let end_at = match mode {
            Mode::Once { deadline } => Some(crate::status::stale_at(now, deadline)),
            Mode::Forever => None,
        };
        scheduler.ask(now, if end_at.is_some() { Trigger::Manual } else { Trigger::Start });
        let online = Arc::clone(&replica.inner.online);
        let number = online.lock().unwrap_or_else(PoisonError::into_inner).begin(remote, agreed_at);
        Ok(Self {
            store,
            place,
            watchers: Arc::clone(&replica.inner.watchers),
            events: Arc::clone(&replica.inner.events),
            online,
            number,
            remote,
            wanted: plan.wanted,
            transport,
            credentials: Credentials::new(plan.token),
            auth_refused: None,
            mode,
            commands,
            written,
            environment,
            scheduler,
            device_changed: false,
            deferral: None,
            watchdog: Watchdog::default(),
            circuit_open: session.is_circuit_open(),
            session,
            followed,
            link: None,
            connecting: None,
            deadline: None,
            wake_at: None,
            begin_again_at: None,
            end_at,
            staleness: replica.inner.staleness,
            agreed: Agreed::until(agreed_at),
            told_stale: false,
            clock_is_off,
            store_failures: Backoff::default(),
            waiting: Vec::new(),
            report: SyncReport::default(),
            pushed_to: BTreeSet::new(),
            carrying: BTreeSet::new(),
            presence: Arc::clone(&replica.inner.presence),
            shown: replica.inner.presence.own(),
            told: BTreeMap::new(),
            awaiting_answer: false,
            outcome: None,
        })
    }

    pub(super) async fn run(mut self) -> Result<SyncReport, SyncError> {
        let turn = self.take_turn().await?;
        while self.outcome.is_none() {
            self.attend().await;
            if self.outcome.is_some() {
                break;
            }
            for event in self.next_event().await {
                self.handle(event).await;
            }
        }
        self.store_agreement().await;
        let now = self.environment.now();
        // A sync in the background reports to nobody.
        if matches!(self.mode, Mode::Once { .. })
            && let Ok((unsent, held)) = self.store.read(|read| Ok((read.unsent()?, read.held(now)?)))
        {
            (self.report.pending, self.report.pending_bytes) = (unsent.changes, unsent.bytes);
            (self.report.parked, self.report.held) = (unsent.refused, held);
        }
        // Whoever sees the end may sync anew at once, in another process.
        drop(turn);
        self.place.give_up_turn();
        self.publish();
        let report = self.report;
        self.outcome.take().unwrap_or(Ok(())).map(|()| report)
    }

    /// Waits for whatever happens next.
    async fn next_event(&mut self) -> Vec<ClientEvent> {
        tokio::select! {
            command = self.commands.recv() => self.obey(command),
            () = self.written.notify.notified() => self.written_spaces(),
            Ok(()) = self.shown.changed() => self.show_news(),
            event = next_frame(&mut self.link) => {
                match event {
                    Ok(frame) => {
                        let event = self.read(&frame);
                        vec![first_sync::opened(&self.store, event).await]
                    }
                    Err(error) => {
                        self.link = None;
                        vec![disconnected(error)]
                    }
                }
            }
            connected = connected(&mut self.connecting) => {
                self.connecting = None;
                self.on_connected(connected)
            }
            () = wait_until(&self.environment, self.wake_at) => Vec::new(),
        }
    }

    fn obey(&mut self, command: Option<Command>) -> Vec<ClientEvent> {
        let now = self.environment.now();
        match command {
            Some(Command::Trigger(trigger)) => {
                if trigger == Trigger::Manual {
                    self.credentials.person_asks();
                }
                self.scheduler.ask(now, trigger);
                if matches!(trigger, Trigger::Manual | Trigger::NetworkRegained) {
                    self.hurry(now);
                }
                Vec::new()
            }
            Some(Command::Conditions(conditions)) => {
                let regained = conditions.online && !self.scheduler.conditions().online;
                self.scheduler.set_conditions(now, conditions);
                self.device_changed = true;
                if regained {
                    self.hurry(now);
                }
                Vec::new()
            }
            Some(Command::Token(token)) => {
                self.credentials.set(token);
                self.scheduler.set_auth_needed(false);
                self.scheduler.ask(now, Trigger::NetworkRegained);
                self.hurry(now);
                Vec::new()
            }
            Some(Command::LookAgain) => {
                match self.store.read(|read| read.spaces()) {
                    Ok(all) => self.written.spaces.lock().unwrap_or_else(PoisonError::into_inner).extend(all),
                    Err(error) => warn!(%error, "the file could not be read"),
                }
                self.written_spaces()
            }
            Some(Command::CaughtUp(promise)) => {
                // What was written before this was asked comes first.
                let events = if self.link.is_some() { self.take_written() } else { self.written_spaces() };
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

    fn read(&mut self, frame: &[u8]) -> ClientEvent {
        let bytes = u64::try_from(frame.len()).unwrap_or(u64::MAX);
        self.report.bytes_received += bytes;
        self.scheduler.spend(bytes);
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
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.rest_status();
        self.lose_sight();
    }
}

fn disconnected(error: LinkError) -> ClientEvent {
    match error.class {
        anabranch_core::sync::ErrorClass::TooLarge => ClientEvent::TooLarge { reason: error.reason },
        _ => ClientEvent::Disconnected { reason: error.reason, retry_after_millis: error.retry_after_millis },
    }
}
