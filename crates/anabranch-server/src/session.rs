//! The driver of one session: core's machine decides, this does.

mod rights;

use std::collections::VecDeque;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anabranch_core::sync::{Call, CallResult, LogPage, Quota, ServerConfig, ServerEvent, ServerSession, ServerStep};
use anabranch_core::wire::{self, ClientMessage, Limits, Mark, RefusalCode, ServerMessage};
use anabranch_core::{Environment, SpaceName, UnixMillis};
use axum::body::Bytes;
use tokio::time::timeout;

use crate::access::{Authorizer, SharedAccess};
use crate::backend::{Author, Backend, Commit, PageBudget};
use crate::connection::{Door, Doors};
use crate::error::BackendError;
use crate::hub::{Hub, News, Subscription};
use crate::memory::{self, Memory};
use crate::options::{CHANGE_BYTES, HELLO_TIMEOUT, Relays, ServerOptions};
use crate::rate::RateLimits;
use crate::segments::Segments;
use rights::Rights;

/// The two directions of a session's connection, in frames.
pub(crate) trait Link: Send {
    /// The next frame, or `None` if there will be no more. Nothing is lost if the future is dropped.
    fn receive(&mut self) -> impl Future<Output = Option<Bytes>> + Send;
    /// Sends a frame, and waits until there is room for the next one.
    fn send(&mut self, frame: Vec<u8>) -> impl Future<Output = Result<(), LinkLost>> + Send;
}

/// The other side is gone, or does not read.
#[derive(Debug)]
pub(crate) struct LinkLost;

/// Why a session has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The client has gone, or has nothing more to say.
    Left,
    /// The link broke while something was sent, or the client does not read.
    LinkLost,
    /// The client has been told why.
    Refused,
    /// The server stops.
    Stopping,
}

/// What a session may do, and its place among those of its principal.
pub(crate) struct Entrance {
    access: SharedAccess,
    _door: Option<Door<String>>,
}

/// What all sessions share.
pub(crate) struct Sessions {
    backend: Arc<dyn Backend>,
    segments: Arc<Segments>,
    authorizer: Option<Arc<dyn Authorizer>>,
    hub: Arc<Hub>,
    environment: Mutex<Box<dyn Environment>>,
    limits: Limits,
    page: PageBudget,
    quota: Quota,
    relays: Relays,
    rates: RateLimits,
    memory: Memory,
    doors: Doors<String>,
    next: AtomicU64,
}

impl Sessions {
    pub(crate) fn new(backend: Arc<dyn Backend>, segments: Arc<Segments>, options: ServerOptions) -> Self {
        Self {
            backend,
            segments,
            authorizer: options.authorizer,
            hub: Arc::default(),
            environment: Mutex::new(options.environment),
            limits: options.limits,
            page: options.page,
            quota: options.quota,
            relays: Relays(options.relay_own),
            rates: RateLimits::new(options.rates),
            memory: Memory::new(options.max_memory),
            doors: Doors::new(options.max_sessions_per_principal),
            next: AtomicU64::new(1),
        }
    }

    pub(crate) fn backend(&self) -> &Arc<dyn Backend> {
        &self.backend
    }

    pub(crate) fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    pub(crate) fn rates(&self) -> &RateLimits {
        &self.rates
    }

    pub(crate) fn memory(&self) -> &Memory {
        &self.memory
    }

    /// A place for one more session of whoever has this access; `None` if there are too many.
    pub(crate) fn enter(&self, access: SharedAccess) -> Option<Entrance> {
        let door = match access.principal() {
            Some(principal) => Some(self.doors.enter(principal.to_owned())?),
            None => None,
        };
        Some(Entrance { access, _door: door })
    }

    /// A number for the next session, unique in this process.
    pub(crate) fn next_id(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Runs a session until it ends, or until `drain` resolves while it waits for something to do.
    pub(crate) async fn run<L: Link>(
        &self,
        id: u64,
        entrance: Entrance,
        link: &mut L,
        drain: impl Future<Output = ()> + Send,
    ) -> End {
        tokio::pin!(drain);
        let first = tokio::select! {
            () = &mut drain => return End::Stopping,
            first = timeout(HELLO_TIMEOUT, link.receive()) => first,
        };
        let frame = match first {
            Ok(Some(frame)) => frame,
            Ok(None) => return End::Left,
            Err(_) => return refuse(link, RefusalCode::Protocol, "no hello came in time", None).await,
        };
        let Ok(empty) = self.seems_empty(&entrance.access, &frame).await else {
            return refuse(link, RefusalCode::Unavailable, "the server cannot read its storage", None).await;
        };
        let config = ServerConfig { lineage: self.backend.lineage(), empty, limits: self.limits };
        let driver = Driver {
            shared: self,
            session: ServerSession::new(config),
            rights: Rights::new(self.authorizer.as_ref().and_then(|authorizer| authorizer.changes())),
            access: Arc::clone(&entrance.access),
            subscription: self.hub.subscribe(id),
            link,
        };
        driver.run(frame, drain).await
    }

    /// Whether there is nothing on the server that the session may know of. It matters to a client that comes from a
    /// server with another history, and only then is it looked up.
    async fn seems_empty(&self, access: &SharedAccess, first: &[u8]) -> Result<bool, BackendError> {
        const NAMES: usize = 1_000;
        let lineage = match wire::decode(first) {
            Ok(ClientMessage::Hello(hello)) => hello.lineage,
            _ => None,
        };
        if lineage.is_none_or(|theirs| theirs == self.backend.lineage()) {
            return Ok(false);
        }
        let mut after = None;
        loop {
            let names = self.backend.spaces(after, NAMES).await;
            let names = names.inspect_err(|error| tracing::error!(%error, "a session could not begin"))?;
            if names.iter().any(|space| access.may_read(space) || access.may_write(space)) {
                return Ok(false);
            }
            if names.len() < NAMES {
                return Ok(true);
            }
            after = names.last().cloned();
        }
    }

    async fn call(&self, access: &SharedAccess, call: Call) -> CallResult {
        let backend = &self.backend;
        match call {
            Call::Append { id, space, replica, batch } => {
                let principal = access.principal().map(str::to_owned);
                let author = Author { replica, principal, relay: self.relays.of(&space), quota: self.quota };
                let outcome = backend.append_by(space.clone(), author, batch).await;
                let outcome = outcome.inspect_err(|error| tracing::error!(%space, %error, "a push failed")).ok();
                CallResult::Appended { id, space, outcome }
            }
            Call::Reconcile { space, ask } => {
                let outcome = backend.reconcile(space.clone(), ask, self.page).await;
                let outcome = outcome.inspect_err(|error| tracing::error!(%space, %error, "a reconcile failed")).ok();
                CallResult::Reconciled { space, outcome }
            }
            Call::Read { space, after, check } => {
                let outcome = backend.read(space.clone(), after, check, self.page).await;
                let outcome = outcome.inspect_err(|error| tracing::error!(%space, %error, "a pull failed")).ok();
                CallResult::Read { space, outcome }
            }
            Call::Manifest { space, check } => {
                let known = self.knows(&space, check).await;
                let outcome = if known { self.segments.manifest(&space).await } else { None };
                CallResult::Manifest { space, known, outcome }
            }
            Call::Segment { space, digest } => {
                let outcome = self.segments.segment(&space, &digest).await;
                CallResult::Segment { space, digest, outcome }
            }
            Call::Head { space } => {
                let outcome = backend.head(space.clone()).await;
                let outcome = outcome.inspect_err(|error| tracing::error!(%space, %error, "no head")).ok();
                CallResult::Head { space, outcome }
            }
        }
    }

    /// Whether a space's log has these places. What cannot be read is not held against it: it is looked at again when
    /// the log is read.
    async fn knows(&self, space: &SpaceName, check: Vec<Mark>) -> bool {
        let Some(last) = check.iter().copied().max_by_key(|mark| mark.seq) else { return true };
        let least = PageBudget { bytes: 1, changes: 1 };
        !matches!(self.backend.read(space.clone(), last, check, least).await, Ok(LogPage::Unknown))
    }

    /// What a call takes in memory until its answer is sent, about.
    fn cost(&self, call: &Call) -> usize {
        match call {
            Call::Append { batch, .. } => {
                let bytes: usize = batch.iter().flatten().map(|offered| offered.change.bytes().len()).sum();
                bytes + batch.len() * CHANGE_BYTES
            }
            // The page, the message, the frame, and what waits in the socket.
            _ => 4 * self.page.bytes,
        }
    }

    pub(crate) fn now(&self) -> UnixMillis {
        self.environment.lock().unwrap_or_else(PoisonError::into_inner).now()
    }
}

struct Driver<'a, L> {
    shared: &'a Sessions,
    session: ServerSession,
    access: SharedAccess,
    rights: Rights,
    subscription: Subscription,
    link: &'a mut L,
}

impl<L: Link> Driver<'_, L> {
    async fn run(mut self, first: Bytes, drain: impl Future<Output = ()> + Send) -> End {
        tokio::pin!(drain);
        let mut frame = Some(first);
        loop {
            let event = match frame.take() {
                Some(frame) => match self.read(&frame) {
                    Ok(message) => ServerEvent::Message(message),
                    Err((code, message, wait)) => return refuse(self.link, code, &message, wait).await,
                },
                // Only here does a session stop: what it has begun, it finishes and answers.
                None => tokio::select! {
                    () = &mut drain => return End::Stopping,
                    () = self.rights.looked_at(self.access.ends_at(), self.shared.now()) => ServerEvent::Rights,
                    news = self.subscription.next() => match news {
                        News::Commit(Commit { space, seq }) => ServerEvent::Committed { space, seq },
                        News::Showing(showing) => ServerEvent::Presence(showing),
                    },
                    received = self.link.receive() => match received {
                        None => return End::Left,
                        received => {
                            frame = received;
                            continue;
                        }
                    },
                },
            };
            if let Err(end) = self.take(event).await {
                return end;
            }
        }
    }

    /// Reads a message, if it may be asked for now.
    fn read(&self, frame: &[u8]) -> Result<ClientMessage, (RefusalCode, String, Option<Duration>)> {
        let shared = self.shared;
        let too_many = |wait| (RefusalCode::Unavailable, "too many messages".to_owned(), Some(wait));
        shared.rates.message(shared.now(), self.access.principal(), frame.len()).map_err(too_many)?;
        let message = wire::decode(frame).map_err(|error| {
            tracing::debug!(%error, "a frame cannot be read");
            let code = match error {
                wire::DecodeError::Version(_) => RefusalCode::Protocol,
                // Bits flip on the way; that is no reason never to come back.
                _ => RefusalCode::Damaged,
            };
            (code, error.to_string(), None)
        })?;
        // Whoever may not write uses nothing up.
        if let ClientMessage::Push(push) = &message
            && self.access.may_write(&push.space)
        {
            shared.rates.push(shared.now(), &push.space, push.changes.len()).map_err(too_many)?;
        }
        Ok(message)
    }

    /// Handles an event and everything that follows from it, one call after the other. Meanwhile nothing is
    /// received, so a client cannot be ahead by more than its connection's buffers.
    async fn take(&mut self, event: ServerEvent) -> Result<(), End> {
        let mut calls = VecDeque::new();
        self.step(event, &mut calls).await?;
        while let Some(call) = calls.pop_front() {
            let Some(_held) = self.shared.memory.hold(self.shared.cost(&call)).await else {
                tracing::warn!("the memory for sessions is used up");
                let wait = Some(memory::RETRY_AFTER);
                return Err(refuse(self.link, RefusalCode::Unavailable, "the server is too busy", wait).await);
            };
            let result = self.shared.call(&self.access, call).await;
            self.step(ServerEvent::Result(result), &mut calls).await?;
        }
        Ok(())
    }

    async fn step(&mut self, event: ServerEvent, queue: &mut VecDeque<Call>) -> Result<(), End> {
        let now = self.shared.now();
        let ServerStep { calls, send, show, close } = self.session.handle(now, self.access.as_ref(), event);
        // Before the first read of a space, so that no commit falls between the read and the first hint.
        let live: Vec<_> = self.session.live_spaces().collect();
        self.subscription.follow(live.into_iter());
        if let Some(showing) = show {
            self.subscription.show(showing);
        }
        for message in send {
            send_message(self.link, &message).await?;
        }
        if close {
            return Err(End::Refused);
        }
        queue.extend(calls);
        Ok(())
    }
}

async fn send_message<L: Link>(link: &mut L, message: &ServerMessage) -> Result<(), End> {
    if let ServerMessage::Refused { code, .. } = message {
        tracing::info!(?code, "the session is refused");
    }
    match wire::encode(message) {
        Ok(frame) => link.send(frame).await.map_err(|LinkLost| End::LinkLost),
        Err(error) => {
            // The limits of pushes and pages are such that this cannot be.
            tracing::error!(%error, "a message does not fit a frame");
            Err(End::LinkLost)
        }
    }
}

async fn refuse<L: Link>(link: &mut L, code: RefusalCode, message: &str, wait: Option<Duration>) -> End {
    let retry_after_millis = wait.map(|wait| u32::try_from(wait.as_millis()).unwrap_or(u32::MAX).max(1));
    let message = ServerMessage::Refused { code, message: message.to_owned(), retry_after_millis };
    send_message(link, &message).await.err().unwrap_or(End::Refused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{OpenAccess, SqliteBackend, SystemEnvironment};

    /// A peer that says nothing at all, and hears everything.
    struct Silent(Vec<Vec<u8>>);

    impl Link for Silent {
        async fn receive(&mut self) -> Option<Bytes> {
            std::future::pending().await
        }

        async fn send(&mut self, frame: Vec<u8>) -> Result<(), LinkLost> {
            self.0.push(frame);
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_does_not_begin_ends() {
        let backend: Arc<dyn Backend> = Arc::new(SqliteBackend::open_in_memory(Box::new(SystemEnvironment)).unwrap());
        let (segments, _wanted) = Segments::new(Arc::clone(&backend), crate::SegmentOptions::default());
        let sessions = Sessions::new(backend, Arc::new(segments), ServerOptions::default());
        let (mut link, started) = (Silent(Vec::new()), tokio::time::Instant::now());
        let entrance = sessions.enter(Arc::new(OpenAccess)).unwrap();
        let end = sessions.run(1, entrance, &mut link, std::future::pending()).await;
        assert_eq!((end, started.elapsed()), (End::Refused, HELLO_TIMEOUT));
        let said: ServerMessage = wire::decode(&link.0[0]).unwrap();
        assert!(matches!(said, ServerMessage::Refused { code: RefusalCode::Protocol, .. }));
    }
}
