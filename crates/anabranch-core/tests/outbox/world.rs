//! A model of the store, of the network and of a server around one session.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use anabranch_core::sync::{
    Adopt, Backoff, ClientConfig, ClientEvent, ClientSession, LinkCommand, MAX_BACKOFF_MILLIS, OutboxItem, OutboxRead,
    Reoffer, SpaceProgress, WriteBatch,
};
use anabranch_core::wire::{
    Answer, ClientMessage, Cursor, Envelope, Limits, Mark, Missing, Push, Pushed, RefusalCode, RejectCode,
    ServerMessage, Welcome,
};
use anabranch_core::{Actor, CollectionName, Digest, EntityId, Lineage, ReplicaId, SpaceName, SplitMix64};

use super::Happening;

const NOW: i64 = 1_800_000_000_000;
const LINEAGE: Lineage = Lineage::from_bytes([1; 16]);
const SPACES: [&str; 2] = ["a", "b"];

/// What the server makes of a push.
#[derive(Clone, Copy, Debug)]
pub(super) enum Mood {
    Takes,
    /// It takes it, and the answer is lost with the connection.
    TakesAndBreaks,
    Rejects(bool),
    Holds,
    Unavailable,
}

/// A change in the store.
#[derive(Debug)]
pub(super) struct Item {
    space: usize,
    entity: EntityId,
    parked: bool,
    attempts: u32,
    not_before: i64,
}

pub(super) struct World {
    now: i64,
    entropy: SplitMix64,
    pub(super) session: ClientSession,
    pub(super) deadline: Option<i64>,
    /// What waits in the outbox, by its place in the log.
    pub(super) outbox: BTreeMap<i64, Item>,
    pub(super) next_key: i64,
    reads: VecDeque<OutboxRead>,
    found: VecDeque<ClientEvent>,
    connecting: bool,
    connected: bool,
    to_server: VecDeque<ClientMessage>,
    to_client: VecDeque<ServerMessage>,
    /// Pushed over this connection and not answered.
    in_flight: BTreeSet<i64>,
    /// The server's log, per space: the keys in order.
    pub(super) log: Vec<Vec<i64>>,
    /// What each change builds on: the change before it of the same entity.
    before: BTreeMap<i64, i64>,
    failures: u32,
    /// The scheduler does not allow a session now.
    pub(super) suspended: bool,
}

pub(super) fn space(place: usize) -> SpaceName {
    SpaceName::new(SPACES[place]).expect("a space name")
}

fn place(name: &SpaceName) -> usize {
    SPACES.iter().position(|space| *space == name.as_str()).expect("a space of ours")
}

fn session(entropy: &mut SplitMix64, failures: u32) -> ClientSession {
    let replica = ReplicaId::mint(NOW, entropy);
    let config =
        ClientConfig { replica, actor: Actor::mint(&replica, entropy), schema_version: 1, adopt: Adopt::Nothing };
    let progress = |place| SpaceProgress::begin(space(place));
    ClientSession::new(config, Some(LINEAGE), vec![progress(0), progress(1)], failures)
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let mut entropy = SplitMix64::new(seed);
        let session = session(&mut entropy, 0);
        let mut world = Self {
            now: NOW,
            entropy,
            session,
            deadline: None,
            outbox: BTreeMap::new(),
            next_key: 1,
            reads: VecDeque::new(),
            found: VecDeque::new(),
            connecting: false,
            connected: false,
            to_server: VecDeque::new(),
            to_client: VecDeque::new(),
            in_flight: BTreeSet::new(),
            log: vec![Vec::new(); 2],
            before: BTreeMap::new(),
            failures: 0,
            suspended: false,
        };
        world.handle(ClientEvent::Start);
        world
    }

    pub(super) fn handle(&mut self, event: ClientEvent) {
        let step = self.session.handle(self.now, &mut self.entropy, event);
        self.deadline = step.deadline;
        if let Some(batch) = step.batch {
            self.commit(batch);
        }
        for message in step.send {
            if !self.connected {
                continue;
            }
            if let ClientMessage::Push(push) = &message {
                for key in push.changes.iter().map(key_of) {
                    assert!(self.in_flight.insert(key), "{key} is in flight twice");
                }
            }
            self.to_server.push_back(message);
        }
        match step.link {
            Some(LinkCommand::Open) => {
                self.hang_up();
                self.connecting = true;
            }
            Some(LinkCommand::Close) => self.hang_up(),
            None => {}
        }
        self.reads.extend(step.reads);
        self.failures = self.session.failures();
    }

    fn hang_up(&mut self) {
        (self.connecting, self.connected) = (false, false);
        self.to_server.clear();
        self.to_client.clear();
        self.in_flight.clear();
        self.reads.clear();
        self.found.clear();
    }

    fn commit(&mut self, batch: WriteBatch) {
        assert_eq!(batch.reoffer, Reoffer::Nothing);
        for (key, answer) in batch.answered {
            self.in_flight.remove(&key);
            let Some(item) = self.outbox.get_mut(&key) else { continue };
            match answer {
                Answer::Accepted { .. } | Answer::Duplicate { .. } => drop(self.outbox.remove(&key)),
                Answer::Held { .. } | Answer::Rejected { retryable: true, .. } => {
                    let wait = Backoff::after(item.attempts).fail(None, &mut self.entropy);
                    (item.attempts, item.not_before) = (item.attempts + 1, self.now + wait);
                }
                Answer::Rejected { .. } => item.parked = true,
            }
        }
    }

    /// What the store would give: in order, without entities of which something is parked or put off.
    fn page(&self, read: &OutboxRead) -> (Vec<OutboxItem>, Option<i64>) {
        let of = place(&read.space);
        let put_off = |item: &Item| item.not_before > self.now && item.not_before <= self.now + MAX_BACKOFF_MILLIS;
        let waits: BTreeSet<_> =
            self.outbox.values().filter(|item| item.parked || put_off(item)).map(|item| item.entity).collect();
        let ready = self.outbox.iter().filter(|(_, item)| item.space == of && !waits.contains(&item.entity));
        let fits = (read.bytes / 8).clamp(1, read.changes.min(3));
        let most = usize::try_from(fits).expect("small");
        let items = ready.take(most).map(|(key, item)| envelope(*key, item)).collect();
        let retry_at =
            self.outbox.values().filter(|item| !item.parked && put_off(item)).map(|item| item.not_before).min();
        (items, retry_at)
    }

    fn write(&mut self, of: usize, entity: u8) {
        let entity = EntityId::from_bytes([entity + 10 * u8::try_from(of).expect("small"); 16]);
        let key = self.next_key;
        self.next_key += 1;
        let of_entity = |item: &&Item| item.entity == entity;
        if let Some((before, _)) = self.outbox.iter().rev().find(|(_, item)| of_entity(item)) {
            self.before.insert(key, *before);
        }
        self.outbox.insert(key, Item { space: of, entity, parked: false, attempts: 0, not_before: 0 });
        self.handle(ClientEvent::LocalWrite { space: space(of) });
    }

    fn read(&mut self) {
        let Some(read) = self.reads.pop_front() else { return };
        let (items, retry_at) = self.page(&read);
        self.found.push_back(ClientEvent::Outbox { space: read.space, items, retry_at });
    }

    fn found(&mut self) {
        if let Some(event) = self.found.pop_front() {
            self.handle(event);
        }
    }

    fn connect(&mut self, there: bool) {
        if !std::mem::take(&mut self.connecting) {
            return;
        }
        self.connected = there;
        if there {
            self.handle(ClientEvent::Connected);
        } else {
            self.handle(ClientEvent::Disconnected { reason: "no".to_owned(), retry_after_millis: None });
        }
    }

    fn cut(&mut self) {
        if self.connected {
            self.hang_up();
            self.handle(ClientEvent::Disconnected { reason: "cut".to_owned(), retry_after_millis: None });
        }
    }

    fn too_large(&mut self) {
        if self.connected && !self.in_flight.is_empty() {
            self.handle(ClientEvent::TooLarge { reason: "413".to_owned() });
        }
    }

    fn serve(&mut self, mood: Mood) {
        let Some(message) = self.to_server.pop_front() else { return };
        match message {
            ClientMessage::Hello(_) => {
                let limits = Limits { push_changes: 10, push_bytes: 1_000 };
                self.to_client.push_back(ServerMessage::Welcome(Welcome { lineage: LINEAGE, now: self.now, limits }));
            }
            ClientMessage::Pull(pull) => self.to_client.push_back(ServerMessage::Changes {
                space: pull.space,
                changes: Vec::new(),
                cursor: Cursor(vec![1]),
                more: false,
            }),
            ClientMessage::Push(push) => self.take(push, mood),
            _ => {}
        }
    }

    fn take(&mut self, push: Push, mood: Mood) {
        if matches!(mood, Mood::Unavailable) {
            let message = "the disk is full".to_owned();
            let refused = ServerMessage::Refused { code: RefusalCode::Unavailable, message, retry_after_millis: None };
            return self.to_client.push_back(refused);
        }
        let of = place(&push.space);
        let mut answers = Vec::new();
        for key in push.changes.iter().map(key_of) {
            let before = self.before.get(&key).copied().filter(|before| !self.log[of].contains(before));
            answers.push(match mood {
                _ if self.log[of].contains(&key) => Answer::Duplicate { seq: 1 },
                Mood::Rejects(retryable) => {
                    Answer::Rejected { code: RejectCode::Unavailable, message: String::new(), retryable }
                }
                Mood::Holds => Answer::Held { missing: Missing::Parent(EntityId::from_bytes([0; 16])) },
                _ => {
                    assert_eq!(before, None, "{key} comes before what it builds on");
                    self.log[of].push(key);
                    Answer::Accepted { seq: 1 }
                }
            });
        }
        if matches!(mood, Mood::TakesAndBreaks) {
            return self.cut();
        }
        let mark = Some(Mark { seq: 1, chain: Digest::from_bytes([0; 32]) });
        self.to_client.push_back(ServerMessage::Pushed(Pushed {
            id: push.id,
            space: push.space,
            answers,
            mark,
            cursor: None,
        }));
    }

    fn deliver(&mut self) {
        if let Some(message) = self.to_client.pop_front() {
            self.handle(ClientEvent::Message(message));
        }
    }

    fn pass(&mut self, millis: i64) {
        self.now += millis;
        if self.deadline.is_some_and(|at| at <= self.now) {
            self.handle(ClientEvent::Timer);
        }
    }

    fn restart(&mut self) {
        self.hang_up();
        self.session = session(&mut self.entropy, self.failures);
        self.handle(ClientEvent::Start);
    }

    pub(super) fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Write(of, entity) => self.write(of, entity),
            Happening::Connect(there) => self.connect(there),
            Happening::Serve(mood) => self.serve(mood),
            Happening::Deliver => self.deliver(),
            Happening::Cut => self.cut(),
            Happening::TooLarge => self.too_large(),
            Happening::Read => self.read(),
            Happening::Found => self.found(),
            Happening::Pass(millis) => self.pass(millis),
            Happening::Suspend => {
                self.suspended = true;
                self.handle(ClientEvent::Suspend);
            }
            Happening::Start => {
                self.suspended = false;
                self.handle(ClientEvent::Start);
            }
            Happening::Restart => {
                self.suspended = false;
                self.restart();
            }
        }
    }

    /// Whether something is under way that will call the session again.
    pub(super) fn is_under_way(&self) -> bool {
        let (sent, found) = (self.to_server.len() + self.to_client.len(), self.reads.len() + self.found.len());
        self.connecting || sent + found > 0
    }

    /// What a server would take now or later.
    pub(super) fn is_pending(&self) -> bool {
        let parked: BTreeSet<_> = self.outbox.values().filter(|item| item.parked).map(|item| item.entity).collect();
        self.outbox.values().any(|item| !parked.contains(&item.entity))
    }

    /// From now on everything works. Whatever can be sent is sent, at the latest at the times that the session names.
    pub(super) fn heal(&mut self) {
        for _ in 0..5_000 {
            self.connect(true);
            self.serve(Mood::Takes);
            self.deliver();
            self.read();
            self.found();
            if self.is_under_way() {
                continue;
            }
            if !self.is_pending() && self.session.is_caught_up() {
                return;
            }
            match self.deadline {
                Some(at) => {
                    self.now = self.now.max(at);
                    self.handle(ClientEvent::Timer);
                }
                None => panic!("stuck: nothing is under way and no attempt is due, with {} pending", self.outbox.len()),
            }
        }
        panic!("it goes on for ever, with {} pending", self.outbox.len());
    }
}

fn envelope(key: i64, item: &Item) -> OutboxItem {
    let collection = CollectionName::new("notes").expect("a name");
    let change = key.to_le_bytes().to_vec();
    OutboxItem {
        key,
        agreed: false,
        envelope: Envelope { entity: item.entity, collection, parent: None, transaction: None, change },
    }
}

fn key_of(envelope: &Envelope) -> i64 {
    i64::from_le_bytes(envelope.change.as_slice().try_into().expect("a key"))
}
