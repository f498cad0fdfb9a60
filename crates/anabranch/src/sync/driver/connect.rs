//! Connecting, with a token if there is one, and what is done when the server does not like it.

use std::sync::Arc;

use anabranch_core::sync::{ClientEvent, ErrorClass, Halt, Trigger};
use anabranch_core::{Environment as _, ErrorKind};
use anabranch_store::{Attempt, StoreError};
use tracing::{info, warn};

use super::{Driver, Mode, Remembered, disconnected, remembered};
use crate::events::Event;
use crate::sync::SyncError;
use crate::sync::link::{Link, LinkError};
use crate::sync::token::TokenRequest;

impl Driver {
    /// Begins to connect; the outcome comes to [`on_connected`](Self::on_connected).
    pub(super) fn connect(&mut self) {
        self.link = None;
        let (transport, source) = (Arc::clone(&self.transport), self.token.clone());
        let request = if self.refreshed { TokenRequest::Fresh } else { TokenRequest::Any };
        self.connecting = Some(tokio::spawn(async move {
            let token = match source {
                Some(source) => Some(source.token(request).await?),
                None => None,
            };
            transport.connect_with(token).await
        }));
    }

    pub(super) fn on_connected(&mut self, connected: Result<Link, LinkError>) -> Vec<ClientEvent> {
        match connected {
            Ok(link) => {
                self.link = Some(link);
                vec![ClientEvent::Connected]
            }
            Err(error) if error.class == ErrorClass::Auth => {
                if self.may_refresh() {
                    self.connect();
                    return Vec::new();
                }
                self.auth_refused = Some(error.reason);
                vec![ClientEvent::Suspend]
            }
            Err(error) => vec![disconnected(error)],
        }
    }

    /// Whether the provider is to be asked for another token: once for each time that a session was open.
    fn may_refresh(&mut self) -> bool {
        let provider = self.token.as_ref().is_some_and(|token| token.can_refresh());
        provider && !std::mem::replace(&mut self.refreshed, true)
    }

    /// The server has ended a session because it does not accept who asks.
    pub(super) fn on_forbidden(&mut self, halt: Halt, reason: String) -> Result<(), StoreError> {
        if self.may_refresh() {
            // A fresh session at once, with another token.
            self.remember()?;
            self.scheduler.ask(self.environment.now(), Trigger::NetworkRegained);
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
        self.agreed_at = self.agreed_at.max(agreed_at);
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
