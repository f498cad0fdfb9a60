//! Connecting, with a token if there is one, and what is done when the server does not like it.

use std::sync::Arc;
use std::time::Duration;

use anabranch_core::sync::{ClientEvent, ErrorClass, Halt, Trigger};
use anabranch_core::{Environment as _, ErrorKind, UnixMillis};
use anabranch_store::{Attempt, StoreError};
use tokio::task::JoinHandle;
use tracing::{info, warn};

use super::{Driver, Mode, Remembered, disconnected, remembered};
use crate::events::Event;
use crate::status::stale_at;
use crate::sync::SyncError;
use crate::sync::link::{Link, LinkError};

/// How long the token provider and the transport may take together.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(60);

/// A connection that is being made. It is given up when this is dropped.
pub(super) struct Connecting(JoinHandle<Result<Link, LinkError>>);

impl Connecting {
    pub(super) async fn outcome(&mut self) -> Result<Link, LinkError> {
        (&mut self.0).await.unwrap_or_else(|_| Err(LinkError::new("connecting was given up")))
    }
}

impl Drop for Connecting {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Driver {
    /// Begins to connect; the outcome comes to [`on_connected`](Self::on_connected).
    pub(super) fn connect(&mut self) {
        self.link = None;
        let (source, request) = self.credentials.begin();
        let (transport, environment) = (Arc::clone(&self.transport), self.environment.clone());
        let until = stale_at(environment.now(), ATTEMPT_TIMEOUT);
        self.connecting = Some(Connecting(tokio::spawn(async move {
            let attempt = async {
                let token = match source {
                    Some(source) => Some(source.token(request).await?),
                    None => None,
                };
                transport.connect_with(token).await
            };
            tokio::select! {
                biased;
                connected = attempt => connected,
                () = environment.wait_until(until) => Err(LinkError::new("the connection did not come about in time")),
            }
        })));
    }

    /// Somebody knows better than to wait: what may be stuck begins again.
    pub(super) fn hurry(&mut self, now: UnixMillis) {
        if self.connecting.is_some() {
            self.connect();
        }
        self.begin_again_at = self.begin_again_at.map(|_| now);
    }

    pub(super) fn on_connected(&mut self, connected: Result<Link, LinkError>) -> Vec<ClientEvent> {
        match connected {
            Ok(link) => {
                self.link = Some(link);
                vec![ClientEvent::Connected]
            }
            Err(error) if error.class == ErrorClass::Auth => {
                if self.credentials.may_try_again() {
                    self.connect();
                    return Vec::new();
                }
                self.auth_refused = Some(error.reason);
                vec![ClientEvent::Suspend]
            }
            Err(error) => vec![disconnected(error)],
        }
    }

    /// The server has ended a session because it does not accept who asks.
    pub(super) fn on_forbidden(&mut self, halt: Halt, reason: String) -> Result<(), StoreError> {
        let now = self.environment.now();
        if self.credentials.may_open_again(now) {
            // A fresh session at once, with another token.
            self.remember()?;
            self.scheduler.ask(now, Trigger::NetworkRegained);
        } else if matches!(self.mode, Mode::Once { .. }) {
            self.outcome = Some(Err(SyncError::Halted(halt)));
        } else {
            self.remember()?;
            self.auth_refused = Some(reason);
        }
        Ok(())
    }

    /// Waits for another token, or for a person who asks.
    pub(super) async fn wait_for_token(&mut self, reason: String) {
        warn!("the server does not accept the token");
        self.link = None;
        self.connecting = None;
        if matches!(self.mode, Mode::Once { .. }) {
            self.outcome = Some(Err(SyncError::Auth(reason.clone())));
        }
        self.scheduler.set_auth_needed(true);
        self.scheduler.ask(self.environment.now(), Trigger::Retry);
        let attempt = Attempt {
            failures: self.session.failures(),
            reason: reason.clone(),
            class: ErrorClass::Auth,
            next_attempt_at: None,
            server_asked_until: None,
        };
        let remote = self.remote;
        if let Err(error) = self.store.write(move |write| write.note_attempt(remote, &attempt)).await {
            warn!(%error, "the sync could not be stored");
        }
        self.events.tell(Event::AuthNeeded { reason });
    }

    /// A fresh session from what the file says.
    pub(super) fn remember(&mut self) -> Result<(), StoreError> {
        let now = self.environment.now();
        let Remembered { session, followed, agreed_at, .. } =
            remembered(&self.store, self.remote, now, self.session.adopt_left(), &mut self.scheduler)?;
        (self.session, self.followed) = (session, followed);
        self.agreed.know(agreed_at);
        self.link = None;
        self.connecting = None;
        self.deadline = None;
        Ok(())
    }

    /// Begins again from what the file says, after a pause.
    pub(super) fn start_over(&mut self, error: &StoreError) {
        self.link = None;
        self.connecting = None;
        if matches!(self.mode, Mode::Once { .. }) || matches!(error, StoreError::Closed | StoreError::SignedOut) {
            self.outcome = Some(Err(match error.kind() {
                ErrorKind::Damaged => SyncError::Damaged(error.to_string()),
                _ => SyncError::Offline(error.to_string()),
            }));
            return;
        }
        let now = self.environment.now();
        let wait = self.store_failures.fail(None, self.environment.entropy());
        info!(wait, "the sync begins again");
        self.begin_again_at = Some(now.saturating_add(wait));
        let trouble = error.to_string();
        self.tell_status(|online| online.trouble = Some(trouble));
    }
}
