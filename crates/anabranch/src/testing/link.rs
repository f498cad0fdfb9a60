//! A link that fails when it is told to.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anabranch_core::sync::ErrorClass;
use anabranch_core::{Entropy as _, SplitMix64};
use tokio::sync::watch;

use super::Server;
use crate::sync::{FarEnd, Link as Connection, LinkError, Token, Transport};

/// How often something goes wrong with a frame, in thousandths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// It is lost, and nobody notices.
    pub drop: u16,
    /// It comes twice.
    pub duplicate: u16,
    /// The connection breaks instead.
    pub cut: u16,
}

/// The way to a [`Server`], with the faults of a bad network. Cheap to clone; all clones are one link.
#[derive(Clone)]
pub struct Link {
    shared: Arc<Shared>,
}

struct Shared {
    server: Server,
    state: Mutex<State>,
    /// Wakes the connections, to look at the state.
    changed: watch::Sender<u64>,
}

struct State {
    online: bool,
    holding: bool,
    /// Frames, before the last that is carried until a release.
    hold_in: Option<u64>,
    /// Connections made before the last cut are over.
    cuts: u64,
    /// Frames until the next cut.
    cut_in: Option<u64>,
    faults: Faults,
    dice: SplitMix64,
    frame_limit: usize,
    connections: u64,
    frames: u64,
}

/// What becomes of a frame.
enum Fate {
    Arrives,
    Lost,
    Twice,
    Cut,
}

impl Link {
    pub(super) fn to(server: Server) -> Self {
        let state = State {
            online: true,
            holding: false,
            hold_in: None,
            cuts: 0,
            cut_in: None,
            faults: Faults::default(),
            dice: SplitMix64::new(0),
            frame_limit: usize::MAX,
            connections: 0,
            frames: 0,
        };
        Self { shared: Arc::new(Shared { server, state: Mutex::new(state), changed: watch::Sender::new(0) }) }
    }

    /// The network is gone: open connections break, and new ones fail.
    pub fn go_offline(&self) {
        self.change(|state| {
            state.online = false;
            state.cuts += 1;
        });
    }

    /// The network is back. A sync notices when it next tries, or is told by
    /// [`network_regained`](crate::SyncHandle::network_regained).
    pub fn go_online(&self) {
        self.change(|state| state.online = true);
    }

    /// Open connections break, once.
    pub fn cut(&self) {
        self.change(|state| state.cuts += 1);
    }

    /// The connection breaks instead of carrying the frame after this many more, either way.
    pub fn cut_after(&self, frames: u64) {
        self.change(|state| state.cut_in = Some(frames));
    }

    /// Delays all frames until [`release`](Self::release).
    pub fn hold(&self) {
        self.change(|state| state.holding = true);
    }

    /// As [`hold`](Self::hold), once this many more have been carried, either way.
    pub fn hold_after(&self, frames: u64) {
        self.change(|state| {
            state.hold_in = frames.checked_sub(1);
            state.holding |= frames == 0;
        });
    }

    /// Lets the delayed frames go on.
    pub fn release(&self) {
        self.change(|state| (state.holding, state.hold_in) = (false, None));
    }

    /// From now on frames suffer these faults, by a generator with this seed.
    pub fn set_faults(&self, seed: u64, faults: Faults) {
        self.change(|state| (state.faults, state.dice) = (faults, SplitMix64::new(seed)));
    }

    /// Something on the way takes no frame to the server that is larger than this, in bytes: the connection is closed
    /// because of its size, as proxies do.
    pub fn set_frame_limit(&self, bytes: usize) {
        self.change(|state| state.frame_limit = bytes);
    }

    /// How many connections have been attempted.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.lock().connections
    }

    /// How many frames have been sent over it, both ways.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.lock().frames
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.shared.changed.send_modify(|count| *count = count.wrapping_add(1));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connect_now(&self, token: Option<&Token>) -> Result<Connection, LinkError> {
        let cuts = {
            let mut state = self.lock();
            state.connections += 1;
            if !state.online {
                return Err(LinkError::new("there is no network"));
            }
            state.cuts
        };
        let (near, near_far) = Connection::pair();
        let (server_link, server_far) = Connection::pair();
        self.shared.server.accept(token, server_far)?;
        tokio::spawn(self.clone().carry(cuts, near_far, server_link));
        Ok(near)
    }

    /// Carries frames both ways until either side ends or the connection breaks.
    async fn carry(self, cuts: u64, (mut from_client, to_client): FarEnd, mut server: Connection) {
        loop {
            let (frame, to_server) = tokio::select! {
                () = self.broken(cuts) => return,
                frame = from_client.recv() => (frame.map(Ok), true),
                frame = server.incoming.recv() => (frame, false),
            };
            let Some(frame) = frame else { return };
            if !self.let_through(cuts).await {
                return;
            }
            let too_large = frame.as_ref().is_ok_and(|frame| to_server && frame.len() > self.lock().frame_limit);
            if too_large {
                let error = LinkError::new("what was sent is too large").of_class(ErrorClass::TooLarge);
                return drop(to_client.send(Err(error)).await);
            }
            let fate = self.lock().fate();
            let copies = match fate {
                Fate::Cut => return,
                Fate::Lost => 0,
                Fate::Arrives => 1,
                Fate::Twice => 2,
            };
            for _ in 0..copies {
                let sent = match (to_server, frame.clone()) {
                    (true, Ok(frame)) => server.outgoing.send(frame).is_ok(),
                    (_, frame) => to_client.send(frame).await.is_ok(),
                };
                if !sent {
                    // The server may have said why it ends.
                    while to_server
                        && let Some(frame) = server.incoming.recv().await
                        && to_client.send(frame).await.is_ok()
                    {}
                    return;
                }
            }
        }
    }

    /// Waits while frames are held. `false` if the connection broke meanwhile.
    async fn let_through(&self, cuts: u64) -> bool {
        let mut changed = self.shared.changed.subscribe();
        loop {
            {
                let state = self.lock();
                if state.cuts != cuts || !state.holding {
                    return state.cuts == cuts;
                }
            }
            if changed.changed().await.is_err() {
                return false;
            }
        }
    }

    async fn broken(&self, cuts: u64) {
        let mut changed = self.shared.changed.subscribe();
        while self.lock().cuts == cuts {
            if changed.changed().await.is_err() {
                return;
            }
        }
    }
}

impl State {
    fn fate(&mut self) -> Fate {
        self.frames += 1;
        self.holding |= self.hold_in == Some(0);
        self.hold_in = self.hold_in.and_then(|left| left.checked_sub(1));
        if let Some(left) = self.cut_in {
            self.cut_in = left.checked_sub(1);
            if left == 0 {
                return Fate::Cut;
            }
        }
        let Faults { drop, duplicate, cut } = self.faults;
        let throw = u16::try_from(self.dice.next_u64() % 1_000).unwrap_or(0);
        match throw {
            _ if throw < drop => Fate::Lost,
            _ if throw < drop.saturating_add(duplicate) => Fate::Twice,
            _ if throw < drop.saturating_add(duplicate).saturating_add(cut) => Fate::Cut,
            _ => Fate::Arrives,
        }
    }
}

impl Transport for Link {
    fn connect(&self) -> Pin<Box<dyn Future<Output = Result<Connection, LinkError>> + Send + '_>> {
        self.connect_with(None)
    }

    fn connect_with(
        &self,
        token: Option<Token>,
    ) -> Pin<Box<dyn Future<Output = Result<Connection, LinkError>> + Send + '_>> {
        Box::pin(async move { self.connect_now(token.as_ref()) })
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").finish_non_exhaustive()
    }
}
