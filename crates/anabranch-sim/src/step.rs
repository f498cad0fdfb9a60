//! One thing at a time: what is ready to happen, and its happening.

mod words;

use anabranch_core::segment::Segment;
use anabranch_core::sync::{ClientEvent, LinkCommand, Look, SegmentReply, SyncEvent};
use anabranch_core::wire::{self, ClientMessage, ServerMessage};
use anabranch_store::Read;

use crate::bug::Bug;
use crate::client::{Ended, Task};
use crate::dice::Dice;
use crate::failure::{Failure, broken};
use crate::fleet::Fleet;

use self::words::{Asked, Said};

/// Something that may happen now.
#[derive(Clone, Copy, Debug)]
enum Ready {
    Task(usize),
    News(usize),
    Connect(usize),
    Disconnect(usize),
    Timer(usize),
    ToServer(usize),
    ToClient(usize),
    Call(usize),
    Hint(usize),
    ForsakenFrame(usize),
    ForsakenCall(usize),
    Parcel(usize),
    StartClient(usize),
    StartServer,
}

impl Fleet {
    /// Lets one of the things happen that are ready. `false` if there are none.
    pub(crate) fn step(&mut self, pick: u64) -> Result<bool, Failure> {
        let ready = self.ready();
        let mut dice = Dice::new(pick);
        let Some(chosen) = dice.one_of(&ready).copied() else { return Ok(false) };
        self.time.advance(1);
        match chosen {
            Ready::Task(client) => self.task(client)?,
            Ready::News(client) => self.clients[client].tell_news(),
            Ready::Connect(client) => self.connect(client),
            Ready::Disconnect(client) => self.link_ended(client),
            Ready::Timer(client) => {
                self.note(format_args!("client {client}: timer"));
                self.clients[client].handle(ClientEvent::Timer);
            }
            Ready::ToServer(client) => self.server_hears(client)?,
            Ready::ToClient(client) => self.client_hears(client)?,
            Ready::Call(client) => self.call(client)?,
            Ready::Hint(client) => {
                let now = self.server.clock.now();
                if let Some(connection) = &mut self.connections[client] {
                    connection.hint(now, &mut self.model)?;
                }
            }
            Ready::ForsakenFrame(place) => {
                let now = self.server.clock.now();
                self.forsaken[place].receive(now, &mut self.model)?;
            }
            Ready::ForsakenCall(place) => {
                let grown = self.server.call(&mut self.forsaken[place], &mut self.model)?;
                self.note(format_args!("server: a call of a connection that is gone: {grown:?}"));
                self.spread(usize::MAX, grown);
            }
            Ready::Parcel(place) => self.deliver(place, pick)?,
            Ready::StartClient(client) => {
                self.note(format_args!("client {client}: starts"));
                self.open(client)?;
                self.check_file(client)?;
            }
            Ready::StartServer => {
                self.note(format_args!("server: starts"));
                self.server.start(&mut self.model)?;
                self.check_server()?;
            }
        }
        self.forsaken.retain(|connection| !(connection.calls.is_empty() && connection.to_server.is_empty()));
        Ok(true)
    }

    fn ready(&self) -> Vec<Ready> {
        let mut ready = Vec::new();
        let now = self.time.now();
        for (number, client) in self.clients.iter().enumerate() {
            let Some(process) = &client.process else {
                ready.extend((!client.lost).then_some(Ready::StartClient(number)));
                continue;
            };
            if !process.agenda.is_empty() {
                ready.push(Ready::Task(number));
            } else if client.has_news() {
                ready.push(Ready::News(number));
            } else if process.ended.is_some() {
                ready.push(Ready::Disconnect(number));
            } else if process.connecting {
                ready.push(Ready::Connect(number));
            } else if process.wake_at.is_some_and(|at| at <= now) {
                ready.push(Ready::Timer(number));
            }
            let Some(connection) = &self.connections[number] else { continue };
            if process.agenda.is_empty() && (!connection.to_client.is_empty() || connection.closed) {
                ready.push(Ready::ToClient(number));
            }
            if !connection.calls.is_empty() {
                ready.push(Ready::Call(number));
            } else {
                if !connection.to_server.is_empty() {
                    ready.push(Ready::ToServer(number));
                }
                if !connection.hints.is_empty() {
                    ready.push(Ready::Hint(number));
                }
            }
        }
        for (place, connection) in self.forsaken.iter().enumerate() {
            let ready_to = if connection.calls.is_empty() { Ready::ForsakenFrame } else { Ready::ForsakenCall };
            ready.push(ready_to(place));
        }
        ready.extend((0..self.parcels.len()).map(Ready::Parcel));
        if !self.server.up {
            ready.push(Ready::StartServer);
        }
        ready
    }

    /// Goes on to the moment of the next timer. `false` if there is none.
    pub(crate) fn wait(&mut self) -> bool {
        let next = self.clients.iter().filter_map(|client| client.process.as_ref()?.wake_at).min();
        next.map(|at| self.time.reach(at)).is_some()
    }

    fn connect(&mut self, client: usize) {
        if let Some(process) = &mut self.clients[client].process {
            process.connecting = false;
        }
        if self.server.up && !self.clients[client].offline {
            self.note(format_args!("client {client}: connected"));
            self.connections[client] = Some(self.server.accept());
            self.clients[client].handle(ClientEvent::Connected);
        } else {
            self.disconnected(client, "no connection");
        }
    }

    /// The session learns how its link has ended.
    fn link_ended(&mut self, client: usize) {
        let ended = self.clients[client].process.as_mut().and_then(|process| process.ended.take());
        let event = match ended {
            None => return,
            Some(Ended::Broken) => return self.disconnected(client, "the connection broke"),
            Some(Ended::Unavailable) => return self.disconnected(client, "503"),
            Some(Ended::Busy(millis)) => {
                ClientEvent::Disconnected { reason: "429".to_owned(), retry_after_millis: Some(millis) }
            }
            Some(Ended::TooLarge) => ClientEvent::TooLarge { reason: "413".to_owned() },
        };
        self.note(format_args!("client {client}: {event:?}"));
        self.clients[client].handle(event);
    }

    fn disconnected(&mut self, client: usize, reason: &str) {
        self.note(format_args!("client {client}: {reason}"));
        if let Some(process) = &mut self.clients[client].process {
            process.ended = None;
        }
        let event = ClientEvent::Disconnected { reason: reason.to_owned(), retry_after_millis: None };
        self.clients[client].handle(event);
    }

    fn server_hears(&mut self, client: usize) -> Result<(), Failure> {
        let now = self.server.clock.now();
        let Some(connection) = &mut self.connections[client] else { return Ok(()) };
        connection.receive(now, &mut self.model)
    }

    fn client_hears(&mut self, client: usize) -> Result<(), Failure> {
        let Some(connection) = &mut self.connections[client] else { return Ok(()) };
        let Some(frame) = connection.to_client.pop_front() else {
            // All is said, and the server has closed.
            self.connections[client] = None;
            self.disconnected(client, "the server closed the connection");
            return Ok(());
        };
        self.note_bytes(&frame);
        match wire::decode::<ServerMessage>(&frame) {
            Ok(message) => {
                self.note(format_args!("client {client} <- {}", Said(&message)));
                let event = self.heard(client, message);
                self.clients[client].handle(event);
            }
            Err(error) => {
                self.forsake(client);
                self.disconnected(client, &format!("an unreadable frame: {error}"));
            }
        }
        Ok(())
    }

    fn call(&mut self, client: usize) -> Result<(), Failure> {
        let Some(connection) = &mut self.connections[client] else { return Ok(()) };
        let grown = self.server.call(connection, &mut self.model)?;
        if grown.is_some() {
            self.note(format_args!("server: stored from client {client}: {grown:?}"));
        }
        self.spread(client, grown);
        Ok(())
    }

    /// Hints at a commit to all sessions that follow the space.
    pub(crate) fn spread(&mut self, from: usize, grown: Option<(anabranch_core::SpaceName, u64)>) {
        let Some((space, seq)) = grown else { return };
        for (number, connection) in self.connections.iter_mut().enumerate() {
            if let Some(connection) = connection
                && number != from
                && !connection.closed
                && connection.follows(&space)
            {
                let hint = connection.hints.entry(space.clone()).or_default();
                *hint = seq.max(*hint);
            }
        }
    }

    /// Does the next thing on a client's agenda.
    pub(crate) fn task(&mut self, client: usize) -> Result<(), Failure> {
        let Some(process) = &mut self.clients[client].process else { return Ok(()) };
        let Some(task) = process.agenda.pop_front() else { return Ok(()) };
        match task {
            Task::Commit(batch) => self.commit(client, batch)?,
            Task::Send(message) => self.send(client, message)?,
            Task::Link(LinkCommand::Open) => {
                process.connecting = true;
                self.forsake(client);
            }
            Task::Link(LinkCommand::Close) => {
                process.connecting = false;
                self.forsake(client);
            }
            Task::Read(read) => {
                let (remote, space) = (process.remote, read.space.clone());
                let page = self.within(client, "reading the outbox", move |write| write.outbox_page(remote, &read))?;
                let Some(page) = page else { return Ok(()) };
                self.note(format_args!("client {client}: outbox of {space}: {} to push", page.items.len()));
                if self.planted.is(Bug::SettleOnSend) {
                    self.settle_unanswered(client, &space, &page.items)?;
                }
                let event = ClientEvent::Outbox { space, items: page.items, retry_at: page.retry_at };
                self.clients[client].handle(event);
            }
            Task::Look(look) => self.look(client, look)?,
            Task::Tell(event) => self.tell(client, &event)?,
        }
        Ok(())
    }

    /// Answers what the session asks about the file.
    fn look(&mut self, client: usize, look: Look) -> Result<(), Failure> {
        let Some(process) = &self.clients[client].process else { return Ok(()) };
        let event = match look {
            Look::Items { space, collections } => {
                let of = collections.as_deref();
                let items = Read::new(&process.reader).items_for(process.remote, &space, of);
                let items = items.map_err(broken("reading what is to be reconciled"))?;
                ClientEvent::Items { space, items }
            }
            Look::Compare { space, theirs } => {
                let of = space.clone();
                let compared = self.within(client, "comparing", move |write| write.compare(&of, &theirs))?;
                let Some(compared) = compared else { return Ok(()) };
                ClientEvent::Compared { space, compared }
            }
        };
        self.clients[client].handle(event);
        Ok(())
    }

    fn send(&mut self, client: usize, message: ClientMessage) -> Result<(), Failure> {
        let message = match message {
            ClientMessage::Pull(mut pull) if self.planted.is(Bug::ForgetAckMark) => {
                pull.ack = None;
                ClientMessage::Pull(pull)
            }
            other => other,
        };
        let Some(connection) = &mut self.connections[client] else { return Ok(()) };
        let frame = wire::encode(&message).map_err(broken("a client's frame"))?;
        if !connection.closed {
            connection.to_server.push_back(frame.clone());
        }
        self.note_bytes(&frame);
        self.note(format_args!("client {client} -> {}", Asked(&message)));
        Ok(())
    }

    /// A driver reads segments before the session hears of them.
    fn heard(&self, client: usize, message: ServerMessage) -> ClientEvent {
        match message.into_segment() {
            Ok(SegmentReply { space, digest, bytes }) => {
                let read = |bytes: Vec<u8>| Segment::open(&digest, &bytes, Some(self.schema_of(client))).map(Box::new);
                let segment = bytes.map(|bytes| read(bytes).map_err(|error| error.to_string()));
                ClientEvent::Segment { space, digest, segment }
            }
            Err(message) => ClientEvent::Message(*message),
        }
    }

    fn tell(&mut self, client: usize, event: &SyncEvent) -> Result<(), Failure> {
        self.note(format_args!("client {client}: {event:?}"));
        let Some(process) = &mut self.clients[client].process else { return Ok(()) };
        match event {
            SyncEvent::Offline { reason, failures, .. } => {
                let (remote, failures, reason) = (process.remote, *failures, reason.clone());
                self.within(client, "noting a failure", move |write| write.note_failure(remote, failures, &reason))?;
            }
            SyncEvent::Halted(halt) => process.halted = Some(halt.clone()),
            SyncEvent::Online { .. }
            | SyncEvent::CaughtUp
            | SyncEvent::SegmentRefused { .. }
            | SyncEvent::ServerLostHistory(_)
            | SyncEvent::Shown(_) => {}
        }
        Ok(())
    }
}
