//! The server's process: sessions over a log that outlives them.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use anabranch_core::sync::{
    Access, AppendOutcome, Call, CallResult, Offered, Pushable, ServerConfig, ServerEvent, ServerSession, ServerStep,
};
use anabranch_core::wire::{self, ClientMessage, Limits, Reply, ServerMessage};
use anabranch_core::{EntityId, ReplicaId, SpaceName, UnixMillis};

use crate::bug::{Bug, Planted};
use crate::clock::{VirtualTime, WallClock};
use crate::decide::refusing;
use crate::dice::Dice;
use crate::failure::Failure;
use crate::liar::instead;
use crate::model::{Hash, Model, hash_of};
use crate::segments::Segments;
use crate::storage::{Backup, Storage, Wanted};
use crate::trouble::{Trouble, turn_down};

/// Small, so that every run sees an outbox that takes several pushes.
const LIMITS: Limits = Limits { push_changes: 6, push_bytes: 2_000 };

struct Everything;

impl Access for Everything {
    fn may_read(&self, _: &SpaceName) -> bool {
        true
    }

    fn may_write(&self, _: &SpaceName) -> bool {
        true
    }
}

/// The one server of a fleet.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) disk: Storage,
    pub(crate) backup: Option<Backup>,
    pub(crate) up: bool,
    pub(crate) clock: WallClock,
    /// While it lies, what about.
    pub(crate) lying: Option<Dice>,
    /// It takes nothing of these entities.
    pub(crate) refused: BTreeSet<(SpaceName, EntityId)>,
    planted: Planted,
    /// In memory: a crash loses them.
    segments: Segments,
    /// Answered, but not stored yet: a planted bug.
    unstored: Vec<(SpaceName, Vec<Pushable>)>,
}

/// One connection and the session at its server's end. It may outlive the client's end for a while.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) to_server: VecDeque<Vec<u8>>,
    pub(crate) to_client: VecDeque<Vec<u8>>,
    pub(crate) calls: VecDeque<Call>,
    pub(crate) hints: BTreeMap<SpaceName, u64>,
    /// The server has closed; the client learns of it after what is still on its way.
    pub(crate) closed: bool,
    pub(crate) trouble: Option<Trouble>,
    /// The server at its end lies.
    pub(crate) lies: Option<Dice>,
    session: ServerSession,
    pushes: HashMap<u64, Vec<(EntityId, Hash)>>,
}

impl Server {
    /// One of three has its log in a file.
    pub(crate) fn new(time: &VirtualTime, seed: u64, planted: Planted) -> Result<Self, Failure> {
        let clock = WallClock::new(time);
        let in_file = Dice::new(seed).once_in(3) && !planted.is_in_log();
        Ok(Self {
            disk: Storage::new(seed, in_file, planted)?,
            backup: None,
            up: true,
            clock,
            lying: None,
            refused: BTreeSet::new(),
            planted,
            segments: Segments::default(),
            unstored: Vec::new(),
        })
    }

    /// The process is gone, perhaps in the middle of this append; the log stays. Returns what becomes of its file, if
    /// it has one.
    pub(crate) fn crash(&mut self, wanted: Option<Wanted>, dice: &mut Dice) -> Result<Option<&'static str>, Failure> {
        self.up = false;
        self.segments = Segments::default();
        self.unstored.clear();
        self.disk.die(wanted, dice)
    }

    pub(crate) fn start(&mut self, model: &mut Model) -> Result<(), Failure> {
        self.up = true;
        self.disk.start()?;
        self.disk.log.spaces().for_each(|(space, rows)| model.note_stored(space, rows, rows.len()));
        Ok(())
    }

    pub(crate) fn accept(&mut self) -> Connection {
        let config = ServerConfig { lineage: self.disk.lineage, empty: self.disk.log.is_empty(), limits: LIMITS };
        Connection {
            to_server: VecDeque::new(),
            to_client: VecDeque::new(),
            calls: VecDeque::new(),
            hints: BTreeMap::new(),
            closed: false,
            trouble: None,
            lies: self.lying.as_mut().map(|dice| Dice::new(dice.any())),
            session: ServerSession::new(config),
            pushes: HashMap::new(),
        }
    }

    /// Carries out the connection's next call. Returns the space whose log has grown, and how far.
    pub(crate) fn call(
        &mut self,
        connection: &mut Connection,
        model: &mut Model,
    ) -> Result<Option<(SpaceName, u64)>, Failure> {
        self.store_late(model);
        let Some(mut call) = connection.calls.pop_front() else { return Ok(None) };
        let mut failing = false;
        match (connection.trouble, &mut call) {
            (Some(Trouble::Fails { pick }), _) if self.disk.fail(pick) => {
                connection.trouble = None;
                failing = true;
            }
            (Some(Trouble::Fails { .. }), _) => {
                connection.trouble = None;
                connection.take(self.clock.now(), ServerEvent::Result(failed(call)), model)?;
                return Ok(None);
            }
            (Some(Trouble::Turns { pick, for_good }), Call::Append { batch, .. }) => {
                connection.trouble = None;
                *batch = turn_down(std::mem::take(batch), pick, for_good);
            }
            _ => {}
        }
        if let Call::Append { space, batch, .. } = &mut call {
            *batch = refusing(std::mem::take(batch), |entity| self.refused.contains(&(space.clone(), entity)));
        }
        let skips = connection.lies.as_mut().is_some_and(|dice| dice.once_in(4));
        let (result, grown) = self.carry_out(call, skips, model)?;
        if failing {
            self.disk.mend();
        }
        connection.take(self.clock.now(), ServerEvent::Result(result), model)?;
        Ok(grown)
    }

    /// Carries out a call; with `skips`, stores nothing, and says that it has.
    fn carry_out(
        &mut self,
        call: Call,
        skips: bool,
        model: &mut Model,
    ) -> Result<(CallResult, Option<(SpaceName, u64)>), Failure> {
        let result = match call {
            Call::Append { id, space, batch, .. } if skips => {
                let outcome = Some(self.disk.log.clone().append(&space, batch));
                return Ok((CallResult::Appended { id, space, outcome }, None));
            }
            Call::Append { id, space, replica, batch } => {
                let outcome = self.append(&space, replica, batch, model)?;
                let last = outcome.as_ref().and_then(|outcome| outcome.marks.last());
                let grown = last.map(|mark| (space.clone(), mark.seq));
                return Ok((CallResult::Appended { id, space, outcome }, grown));
            }
            Call::Reconcile { space, ask } => {
                let outcome = self.disk.reconcile(&space, ask)?;
                CallResult::Reconciled { space, outcome }
            }
            Call::Read { space, after, check } => {
                let outcome = self.disk.page(&space, after, check)?;
                CallResult::Read { space, outcome }
            }
            Call::Manifest { space, check } => {
                let known = self.disk.log.has(&space, &check);
                let outcome = self.segments.manifest(self.disk.log.rows(&space)).filter(|_| known);
                CallResult::Manifest { space, known, outcome }
            }
            Call::Segment { space, digest } => {
                let outcome = self.segments.get(&digest);
                CallResult::Segment { space, digest, outcome }
            }
            Call::Head { space } => {
                let outcome = self.disk.head(&space)?;
                CallResult::Head { space, outcome }
            }
        };
        Ok((result, None))
    }

    /// Stores a batch. `None` if the disk has failed.
    pub(crate) fn append(
        &mut self,
        space: &SpaceName,
        who: ReplicaId,
        batch: Vec<Pushable>,
        model: &mut Model,
    ) -> Result<Option<AppendOutcome>, Failure> {
        if self.planted.is(Bug::AcknowledgeBeforeStoring) {
            let outcome = self.disk.log.clone().append(space, batch.clone());
            self.unstored.push((space.clone(), batch));
            return Ok(Some(outcome));
        }
        let batch = match self.planted.is(Bug::ForgetToHold) {
            true => {
                batch.into_iter().map(|offered| offered.map(|offered| Offered { parent: None, ..offered })).collect()
            }
            false => batch,
        };
        if self.planted.is(Bug::DropGoodHalf) && batch.iter().any(Result::is_err) {
            return Ok(Some(self.disk.log.clone().append(space, batch)));
        }
        let outcome = self.disk.append(space, who, batch)?;
        let added = outcome.as_ref().map_or(0, |outcome| outcome.marks.len());
        model.note_stored(space, self.disk.log.rows(space), added);
        Ok(outcome)
    }

    fn store_late(&mut self, model: &mut Model) {
        for (space, batch) in std::mem::take(&mut self.unstored) {
            let outcome = self.disk.log.append(&space, batch);
            model.note_stored(&space, self.disk.log.rows(&space), outcome.marks.len());
        }
    }
}

/// The storage could not carry it out, and has done nothing.
fn failed(call: Call) -> CallResult {
    match call {
        Call::Append { id, space, .. } => CallResult::Appended { id, space, outcome: None },
        Call::Reconcile { space, .. } => CallResult::Reconciled { space, outcome: None },
        Call::Read { space, .. } => CallResult::Read { space, outcome: None },
        Call::Manifest { space, .. } => CallResult::Manifest { space, known: true, outcome: None },
        Call::Segment { space, digest } => CallResult::Segment { space, digest, outcome: None },
        Call::Head { space } => CallResult::Head { space, outcome: None },
    }
}

impl Connection {
    /// Reads the next frame from the client. What cannot be read ends the connection.
    pub(crate) fn receive(&mut self, now: UnixMillis, model: &mut Model) -> Result<(), Failure> {
        let Some(frame) = self.to_server.pop_front() else { return Ok(()) };
        let Ok(message) = wire::decode::<ClientMessage>(&frame) else {
            self.close();
            return Ok(());
        };
        if let ClientMessage::Push(push) = &message {
            let names = push.changes.iter().map(|envelope| (envelope.entity, hash_of(&envelope.change))).collect();
            self.pushes.insert(push.id, names);
            model.note_parents(&push.space, &push.changes);
        }
        self.take(now, ServerEvent::Message(message), model)
    }

    /// Tells the session of a commit.
    pub(crate) fn hint(&mut self, now: UnixMillis, model: &mut Model) -> Result<(), Failure> {
        let Some((space, seq)) = self.hints.pop_first() else { return Ok(()) };
        self.take(now, ServerEvent::Committed { space, seq }, model)
    }

    pub(crate) fn follows(&self, space: &SpaceName) -> bool {
        self.session.live_spaces().any(|live| live == space)
    }

    fn take(&mut self, now: UnixMillis, event: ServerEvent, model: &mut Model) -> Result<(), Failure> {
        let ServerStep { calls, send, close, show: _ } = self.session.handle(now, &Everything, event);
        self.calls.extend(calls);
        for message in send {
            match &message {
                ServerMessage::Pushed(pushed) => {
                    let names = self.pushes.remove(&pushed.id).unwrap_or_default();
                    // A liar's word is worth nothing.
                    if self.lies.is_none() {
                        model.note_answers(&pushed.space, &names, &pushed.answers)?;
                    }
                }
                ServerMessage::Changes { space, changes, .. }
                | ServerMessage::Reconciled { space, reply: Reply::Changes { changes, .. }, .. } => {
                    model.check_feed(space, changes)?;
                }
                _ => {}
            }
            let message = match &mut self.lies {
                Some(dice) => instead(dice, message, model),
                None => message,
            };
            let frame = wire::encode(&message).map_err(|error| Failure::new(format!("a server's frame: {error}")))?;
            self.to_client.push_back(frame);
        }
        if close {
            self.close();
        }
        Ok(())
    }

    /// The append that would be carried out next.
    pub(crate) fn wanted(&self) -> Option<Wanted> {
        match self.calls.front() {
            Some(Call::Append { space, replica, batch, .. }) => Some((space.clone(), *replica, batch.clone())),
            _ => None,
        }
    }

    pub(crate) fn close(&mut self) {
        self.closed = true;
        self.to_server.clear();
        self.calls.clear();
        self.hints.clear();
    }
}
