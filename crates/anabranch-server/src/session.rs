//! The driver of one session: core's machine decides, this does.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anabranch_core::sync::{Call, CallResult, LogPage, ServerConfig, ServerEvent, ServerSession, ServerStep};
use anabranch_core::wire::{self, ClientMessage, Limits, Mark, RefusalCode, ServerMessage};
use anabranch_core::{Environment, SpaceName, UnixMillis};
use axum::body::Bytes;

use crate::access::SharedAccess;
use crate::backend::{Backend, Commit, PageBudget};
use crate::hub::{Hub, News, Subscription};
use crate::segments::Segments;

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

/// What all sessions share.
pub(crate) struct Sessions {
    backend: Arc<dyn Backend>,
    segments: Arc<Segments>,
    hub: Arc<Hub>,
    environment: Mutex<Box<dyn Environment>>,
    limits: Limits,
    page: PageBudget,
    next: AtomicU64,
}

impl Sessions {
    pub(crate) fn new(
        backend: Arc<dyn Backend>,
        segments: Arc<Segments>,
        environment: Box<dyn Environment>,
        limits: Limits,
        page: PageBudget,
    ) -> Self {
        let environment = Mutex::new(environment);
        Self { backend, segments, hub: Arc::default(), environment, limits, page, next: AtomicU64::new(1) }
    }

    pub(crate) fn backend(&self) -> &Arc<dyn Backend> {
        &self.backend
    }

    pub(crate) fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// A number for the next session, unique in this process.
    pub(crate) fn next_id(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Runs a session until it ends, or until `drain` resolves while it waits for something to do.
    pub(crate) async fn run<L: Link>(
        &self,
        id: u64,
        access: SharedAccess,
        link: &mut L,
        drain: impl Future<Output = ()> + Send,
    ) -> End {
        let empty = match self.backend.is_empty().await {
            Ok(empty) => empty,
            Err(error) => {
                tracing::error!(%error, "a session could not begin");
                return refuse(link, RefusalCode::Unavailable, "the server cannot read its storage".to_owned()).await;
            }
        };
        let config = ServerConfig { lineage: self.backend.lineage(), empty, limits: self.limits };
        let session = ServerSession::new(config);
        let driver = Driver { shared: self, session, access, subscription: self.hub.subscribe(id), link };
        driver.run(drain).await
    }

    async fn call(&self, call: Call) -> CallResult {
        let backend = &self.backend;
        match call {
            Call::Append { id, space, replica, batch } => {
                let outcome = backend.append(space.clone(), replica, batch).await;
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

    fn now(&self) -> UnixMillis {
        self.environment.lock().unwrap_or_else(PoisonError::into_inner).now()
    }
}

struct Driver<'a, L> {
    shared: &'a Sessions,
    session: ServerSession,
    access: SharedAccess,
    subscription: Subscription,
    link: &'a mut L,
}

impl<L: Link> Driver<'_, L> {
    async fn run(mut self, drain: impl Future<Output = ()> + Send) -> End {
        tokio::pin!(drain);
        loop {
            // Only here does a session stop: what it has begun, it finishes and answers.
            let event = tokio::select! {
                () = &mut drain => return End::Stopping,
                news = self.subscription.next() => match news {
                    News::Commit(Commit { space, seq }) => ServerEvent::Committed { space, seq },
                    News::Showing(showing) => ServerEvent::Presence(showing),
                },
                frame = self.link.receive() => match frame {
                    None => return End::Left,
                    Some(frame) => match wire::decode::<ClientMessage>(&frame) {
                        Ok(message) => ServerEvent::Message(message),
                        Err(error) => {
                            tracing::debug!(%error, "a frame cannot be read");
                            let code = match error {
                                wire::DecodeError::Version(_) => RefusalCode::Protocol,
                                // Bits flip on the way; that is no reason never to come back.
                                _ => RefusalCode::Damaged,
                            };
                            return refuse(self.link, code, error.to_string()).await;
                        }
                    },
                },
            };
            if let Err(end) = self.take(event).await {
                return end;
            }
        }
    }

    /// Handles an event and everything that follows from it, one call after the other. Meanwhile nothing is
    /// received, so a client cannot be ahead by more than its connection's buffers.
    async fn take(&mut self, event: ServerEvent) -> Result<(), End> {
        let mut calls = VecDeque::new();
        self.step(event, &mut calls).await?;
        while let Some(call) = calls.pop_front() {
            let result = self.shared.call(call).await;
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

async fn refuse<L: Link>(link: &mut L, code: RefusalCode, message: String) -> End {
    let message = ServerMessage::Refused { code, message, retry_after_millis: None };
    send_message(link, &message).await.err().unwrap_or(End::Refused)
}
