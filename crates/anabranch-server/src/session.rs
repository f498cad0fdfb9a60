//! The driver of one session: core's machine decides, this does.

mod calls;
mod rights;

use std::collections::VecDeque;
use std::future::Future;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anabranch_core::sync::{Call, Quota, ServerConfig, ServerEvent, ServerSession, ServerStep};
use anabranch_core::wire::{self, Ask, ClientMessage, Limits, RefusalCode, ServerMessage};
use anabranch_core::{Environment, UnixMillis};
use axum::body::Bytes;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::access::{Authorizer, SharedAccess};
use crate::backend::{Backend, Commit, PageBudget};
use crate::connection::{Door, Doors};
use crate::error::BackendError;
use crate::hub::{Hub, News, Subscription};
use crate::memory::{self, Held, Memory, Share, Whose};
use crate::options::{HELLO_TIMEOUT, Relays, ServerOptions};
use crate::rate::RateLimits;
use crate::segments::Segments;
use rights::Rights;

pub(crate) use calls::{Busy, PIECE_BYTES};

/// The two directions of a session's connection, in frames.
pub(crate) trait Link: Send {
    /// The next frame, or `None` if there will be no more. Nothing is lost if the future is dropped.
    fn receive(&mut self) -> impl Future<Output = Option<Bytes>> + Send;
    /// Sends a frame, and waits until there is room for the next one. What is held for it is let go of when it is gone.
    fn send(&mut self, frame: Vec<u8>, held: Option<Arc<Held>>) -> impl Future<Output = Result<(), LinkLost>> + Send;
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
    share: Share,
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
    scans: Semaphore,
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
            scans: Semaphore::new(1),
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

    /// The part of the memory of whoever has this access, from this address.
    pub(crate) fn share(&self, access: &SharedAccess, address: IpAddr) -> Share {
        let principal = access.principal().map(|name| Whose::Principal(name.to_owned()));
        self.memory.share(principal.unwrap_or(Whose::Address(address)))
    }

    /// A place for one more session of whoever has this access; `None` if there are too many.
    pub(crate) fn enter(&self, access: SharedAccess, address: IpAddr) -> Option<Entrance> {
        let door = match access.principal() {
            Some(principal) => Some(self.doors.enter(principal.to_owned())?),
            None => None,
        };
        let share = self.share(&access, address);
        Some(Entrance { access, share, _door: door })
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
            share: entrance.share.clone(),
            subscription: self.hub.subscribe(id),
            held: None,
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

    pub(crate) fn now(&self) -> UnixMillis {
        self.environment.lock().unwrap_or_else(PoisonError::into_inner).now()
    }
}

struct Driver<'a, L> {
    shared: &'a Sessions,
    session: ServerSession,
    access: SharedAccess,
    share: Share,
    rights: Rights,
    subscription: Subscription,
    /// The memory of the answer that is on its way.
    held: Option<Arc<Held>>,
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
        if matches!(message, ClientMessage::Reconcile { ask: Ask::Sketch(_) | Ask::Changes { .. }, .. }) {
            shared.rates.scan(shared.now(), self.access.principal()).map_err(too_many)?;
        }
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
            let Ok((result, held)) = self.shared.answer(&self.access, &self.share, call).await else {
                tracing::warn!("there is more to do than there is room or time for");
                let wait = Some(memory::RETRY_AFTER);
                return Err(refuse(self.link, RefusalCode::Unavailable, "the server is too busy", wait).await);
            };
            self.held = Some(Arc::new(held));
            let done = self.step(ServerEvent::Result(result), &mut calls).await;
            self.held = None;
            done?;
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
            send_message(self.link, &message, self.held.clone()).await?;
        }
        if close {
            return Err(End::Refused);
        }
        queue.extend(calls);
        Ok(())
    }
}

async fn send_message<L: Link>(link: &mut L, message: &ServerMessage, held: Option<Arc<Held>>) -> Result<(), End> {
    if let ServerMessage::Refused { code, .. } = message {
        tracing::info!(?code, "the session is refused");
    }
    match wire::encode(message) {
        Ok(frame) => link.send(frame, held).await.map_err(|LinkLost| End::LinkLost),
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
    send_message(link, &message, None).await.err().unwrap_or(End::Refused)
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

        async fn send(&mut self, frame: Vec<u8>, _held: Option<Arc<Held>>) -> Result<(), LinkLost> {
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
        let entrance = sessions.enter(Arc::new(OpenAccess), std::net::Ipv4Addr::LOCALHOST.into()).unwrap();
        let end = sessions.run(1, entrance, &mut link, std::future::pending()).await;
        assert_eq!((end, started.elapsed()), (End::Refused, HELLO_TIMEOUT));
        let said: ServerMessage = wire::decode(&link.0[0]).unwrap();
        assert!(matches!(said, ServerMessage::Refused { code: RefusalCode::Protocol, .. }));
    }
}
