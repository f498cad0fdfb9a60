//! One connection's session.

use std::collections::VecDeque;

use anabranch_core::SpaceName;
use anabranch_core::sync::{
    Access, Call, CallResult, Pushable, ServerConfig, ServerEvent, ServerSession, ServerStep, Unreadable,
};
use anabranch_core::wire::{self, ClientMessage, Limits, RefusalCode, ServerMessage};
use tokio::sync::watch;

use super::presence::Told;
use super::{Server, State};
use crate::sync::{FarEnd, LinkError, Token};

const LIMITS: Limits = Limits { push_changes: 1_000, push_bytes: 256 << 10 };

/// Everyone may do everything: what is refused is refused by the server's rule.
struct Open;

impl Access for Open {
    fn may_read(&self, _: &SpaceName) -> bool {
        true
    }

    fn may_write(&self, _: &SpaceName) -> bool {
        true
    }
}

impl Server {
    /// Answers a connection: with a session that runs until one of the two sides has had enough, or not.
    pub(in crate::testing) fn accept(&self, token: Option<&Token>, far: FarEnd) -> Result<(), LinkError> {
        let mut state = self.lock();
        state.admit(token)?;
        let empty = state.spaces.values().all(|log| log.len() == 0);
        let config = ServerConfig { lineage: state.lineage, empty, limits: LIMITS };
        state.sessions += 1;
        let session = Session {
            number: state.sessions,
            told: Told::default(),
            server: self.clone(),
            session: ServerSession::new(config),
            generation: state.generation,
            expirations: state.expirations,
            changed: self.shared.changed.subscribe(),
        };
        drop(state);
        tokio::spawn(session.run(far));
        Ok(())
    }
}

struct Session {
    number: u64,
    told: Told,
    server: Server,
    session: ServerSession,
    generation: u64,
    expirations: u64,
    changed: watch::Receiver<u64>,
}

impl Session {
    async fn run(mut self, (mut incoming, outgoing): FarEnd) {
        loop {
            let events = tokio::select! {
                frame = incoming.recv() => match frame.as_deref().map(wire::decode::<ClientMessage>) {
                    Some(Ok(message)) => vec![ServerEvent::Message(message)],
                    Some(Err(_)) | None => return,
                },
                changed = self.changed.changed() => match changed {
                    Ok(()) if self.has_expired() => return drop(outgoing.send(Ok(expired())).await),
                    Ok(()) => self.news(),
                    Err(_) => return,
                },
            };
            for event in events {
                let Some((messages, close)) = self.take(event) else { return };
                for message in messages {
                    let Ok(frame) = wire::encode(&message) else { return };
                    if outgoing.send(Ok(frame)).await.is_err() {
                        return;
                    }
                }
                if close {
                    return;
                }
            }
        }
    }

    fn has_expired(&self) -> bool {
        self.server.lock().expirations != self.expirations
    }

    /// What has been committed, and who has come or gone, in the spaces that this session follows.
    fn news(&mut self) -> Vec<ServerEvent> {
        let state = self.server.lock();
        let live: Vec<_> = self.session.live_spaces().collect();
        let committed = live.iter().filter_map(|space| {
            Some(ServerEvent::Committed { space: (*space).clone(), seq: state.spaces.get(*space)?.head().seq })
        });
        committed.chain(self.told.news(&state.shown, live.iter().copied())).collect()
    }

    /// Handles an event and all calls that follow from it. `None` if the session is over.
    fn take(&mut self, event: ServerEvent) -> Option<(Vec<ServerMessage>, bool)> {
        let server = self.server.clone();
        let mut state = server.lock();
        if state.generation != self.generation {
            return None;
        }
        let now = server.shared.clock.now();
        // Who begins to follow a space has to be told who is there.
        let mut changed = matches!(event, ServerEvent::Message(ClientMessage::Pull(_)));
        let (mut events, mut messages) = (VecDeque::from([event]), Vec::new());
        let mut close = false;
        while let Some(event) = events.pop_front() {
            let ServerStep { calls, send, show, close: ends } = self.session.handle(now, &Open, event);
            messages.extend(send);
            close |= ends;
            if let Some(showing) = show {
                changed = true;
                state.shown.put(self.number, showing);
            }
            for call in calls {
                changed |= matches!(call, Call::Append { .. });
                events.push_back(ServerEvent::Result(state.call(call)));
            }
        }
        if state.silent {
            messages.clear();
        }
        drop(state);
        if changed {
            server.tell_sessions();
        }
        Some((messages, close))
    }
}

/// The last words of a session whose token has expired, as a frame.
fn expired() -> Vec<u8> {
    let message = "the token has expired".to_owned();
    let refused = ServerMessage::Refused { code: RefusalCode::Forbidden, message, retry_after_millis: None };
    wire::encode(&refused).unwrap_or_default()
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.server.lock().shown.leave(self.number) {
            self.server.tell_sessions();
        }
    }
}

impl State {
    fn call(&mut self, call: Call) -> CallResult {
        match call {
            Call::Append { id, space, batch, .. } => {
                let batch = batch.into_iter().map(|offered| self.judge(offered)).collect();
                let outcome = self.spaces.entry(space.clone()).or_default().append(batch);
                CallResult::Appended { id, space, outcome: Some(outcome) }
            }
            // A first sync is by the log.
            Call::Manifest { space, check } => {
                let known = check.is_empty() || self.spaces.get(&space).is_some_and(|log| log.has_all(&check));
                CallResult::Manifest { space, known, outcome: None }
            }
            Call::Segment { space, digest } => CallResult::Segment { space, digest, outcome: None },
            Call::Reconcile { space, ask } => {
                let outcome = self.spaces.entry(space.clone()).or_default().reconcile(&ask);
                CallResult::Reconciled { space, outcome: Some(outcome) }
            }
            Call::Read { space, after, check } => {
                let page = self.spaces.entry(space.clone()).or_default().read(after, &check);
                CallResult::Read { space, outcome: Some(page) }
            }
            Call::Head { space } => {
                let head = self.spaces.entry(space.clone()).or_default().head();
                CallResult::Head { space, outcome: Some(head) }
            }
        }
    }

    fn judge(&self, offered: Pushable) -> Pushable {
        let offered = offered?;
        match self.refusal(&offered.collection, offered.entity) {
            Some(answer) => Err(Unreadable { transaction: offered.transaction, answer }),
            None => Ok(offered),
        }
    }
}
