//! A replica on a recording disk, and the person and the server that it deals with.

use anabranch_core::sync::{AppendOutcome, LogPage, Offered, OutboxRead, WriteBatch};
use anabranch_core::wire::{Cursor, Envelope, Mark};
use anabranch_core::{Heads, Lineage, Schema, SpaceName, SplitMix64};
use anabranch_store::{Engine, RemoteKey, StoreError, Write};

use super::{FILE, Planted, Played, Subject, agree};
use crate::bug;
use crate::clock::{Machine, VirtualTime, WallClock};
use crate::dice::Dice;
use crate::disk::Disk;
use crate::failure::{Failure, broken, ensure};
use crate::file::{self, Conflict, Entity};
use crate::job::{job, within};
use crate::log::Log;
use crate::workload::{self, Known, Targets};

pub(super) const LINEAGE: Lineage = Lineage::from_bytes([7; 16]);

pub(super) fn main_space() -> SpaceName {
    SpaceName::new("main").expect("the name is good")
}

/// A replica on a disk.
pub(super) struct Desk {
    pub(super) disk: Disk,
    pub(super) schema: Schema,
    pub(super) engine: Option<Engine>,
    pub(super) remote: RemoteKey,
    pub(super) dice: Dice,
    /// Writes have failed, and the outcome of some is not known: what a crash leaves may be more than what follows.
    pub(super) uncertain: bool,
    time: VirtualTime,
    pulled: Mark,
    planted: Planted,
}

impl Desk {
    pub(super) fn new(seed: u64, planted: Planted) -> Result<Self, Failure> {
        let desk = Self {
            disk: Disk::new(true)?,
            schema: workload::schema(1, bug::Planted::default()),
            engine: None,
            remote: 1,
            dice: Dice::new(seed),
            uncertain: false,
            time: VirtualTime::new(),
            pulled: Mark::START,
            planted,
        };
        desk.planted.plant(&desk.disk);
        Ok(desk)
    }

    /// What came before was preparation: the log begins here.
    pub(super) fn begin(&mut self) -> Result<(), Failure> {
        self.engine = None;
        self.disk = Disk::holding(&self.disk.files(), true)?;
        self.planted.plant(&self.disk);
        Ok(())
    }

    pub(super) fn open(&mut self) -> Result<&mut Engine, Failure> {
        if self.engine.is_none() {
            let engine = open(&self.disk, &self.schema, &self.time, self.dice.any());
            self.engine = Some(engine.map_err(broken("opening the file"))?);
            super::promise(&self.disk)?;
        }
        self.engine.as_mut().ok_or_else(|| Failure::new("the engine is gone"))
    }

    pub(super) fn close(&mut self) {
        self.engine = None;
    }

    /// A commit of its own; once it is reported, it is promised.
    pub(super) fn write<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Write<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Failure> {
        self.time.advance(1);
        let (value, _) = within(self.open()?, work).map_err(broken("a write"))?;
        super::promise(&self.disk)?;
        Ok(value)
    }

    /// What a person does at random, in `commits` commits.
    pub(super) fn act(&mut self, commits: usize) -> Result<(), Failure> {
        self.open()?;
        for _ in 0..commits {
            let reader = file::reader(&self.disk.path(FILE))?;
            let (entities, conflicts) = (file::names(&reader)?, file::conflict_names(&reader)?);
            let purgeable = file::purgeable(&reader)?;
            drop(reader);
            let spaces = [main_space()];
            let known = Known { spaces: &spaces, entities: &entities, conflicts: &conflicts, purgeable: &purgeable };
            let (mut jobs, mut outcomes) = (Vec::new(), Vec::new());
            for _ in 0..=self.dice.below(3) {
                let Some(intent) = workload::choose(&mut self.dice, &known) else { continue };
                let targets = Targets::of(&entities, intent.space(), false);
                let mut own = Dice::new(self.dice.any());
                let (job, outcome) = job(self.dice.once_in(8), move |write| {
                    write.transaction(|write| workload::carry_out(write, &mut own, &intent, &targets))
                });
                jobs.push(job);
                outcomes.push(outcome);
            }
            self.time.advance(1);
            let committed = self.open()?.commit(jobs);
            ensure(committed.is_some() || self.disk.mend() > 0, || "a commit failed".to_owned())?;
            if committed.is_some() {
                super::promise(&self.disk)?;
            }
        }
        Ok(())
    }

    /// Pushes a page of the outbox and commits the answers.
    pub(super) fn push(&mut self, server: &mut Log) -> Result<(), Failure> {
        let answer =
            |batch: Vec<Envelope>| server.append(&main_space(), batch.into_iter().map(Offered::open).collect());
        self.push_to(answer)
    }

    pub(super) fn push_to(&mut self, answer: impl FnOnce(Vec<Envelope>) -> AppendOutcome) -> Result<(), Failure> {
        let (remote, read) = (self.remote, OutboxRead { space: main_space(), changes: 8, bytes: 1 << 16 });
        let page = self.write(move |write| write.outbox_page(remote, &read))?;
        let (keys, envelopes): (Vec<_>, Vec<_>) = page.items.into_iter().map(|item| (item.key, item.envelope)).unzip();
        let AppendOutcome { answers, head, .. } = answer(envelopes);
        let mut batch = WriteBatch::empty(main_space(), LINEAGE);
        batch.answered = keys.into_iter().zip(answers).collect();
        batch.ack = head;
        self.write(move |write| write.apply_batch(remote, batch)).map(drop)
    }

    /// Pulls a page and commits it with its cursor.
    pub(super) fn pull(&mut self, server: &Log) -> Result<bool, Failure> {
        let LogPage::Rows { rows, more } = server.page(&main_space(), self.pulled, &[]) else {
            return Err(Failure::new("the log does not know its own mark"));
        };
        self.pulled = rows.last().map_or(self.pulled, |(mark, _)| *mark);
        let mut batch = WriteBatch::empty(main_space(), LINEAGE);
        batch.cursor = Some(Cursor(self.pulled.seq.to_be_bytes().to_vec()));
        batch.incoming = rows.into_iter().map(|(_, envelope)| envelope).collect();
        let remote = self.remote;
        self.write(move |write| write.apply_batch(remote, batch))?;
        Ok(more)
    }

    /// Pushes and pulls until nothing is left.
    pub(super) fn sync(&mut self, server: &mut Log) -> Result<(), Failure> {
        for _ in 0..60 {
            self.push(server)?;
            let more = self.pull(server)?;
            let reader = file::reader(&self.disk.path(FILE))?;
            if !more && file::number(&reader, "SELECT count(*) FROM outbox WHERE state = 'pending'")? == 0 {
                return Ok(());
            }
        }
        Err(Failure::new("the sync does not end"))
    }

    /// Everything that the file holds, as another replica would be given it.
    pub(super) fn everything(&mut self) -> Result<Vec<Envelope>, Failure> {
        self.open()?;
        let reader = file::reader(&self.disk.path(FILE))?;
        let mut all = Vec::new();
        for (space, id, _) in file::names(&reader)? {
            let work = move |write: &mut Write<'_>| write.changes_beyond(&space, id, &Heads::default());
            all.extend(within(self.open()?, work).map_err(broken("reading changes"))?.0);
        }
        Ok(all)
    }

    /// Ends the workload.
    pub(super) fn played(mut self) -> Result<Played, Failure> {
        let disk = self.disk.clone();
        // What follows is not part of it.
        let files = disk.files();
        self.engine = None;
        let mut end = Self { disk: Disk::holding(&files, false)?, planted: Planted::Nothing, ..self };
        let everything = end.everything()?;
        let reader = file::reader(&end.disk.path(FILE))?;
        let shows = (file::entities(&reader)?, file::conflicts(&reader)?);
        drop(reader);
        end.engine = None;
        Ok(Played {
            disk,
            subject: Box::new(Replica { schema: end.schema, everything, shows, uncertain: end.uncertain }),
        })
    }
}

pub(super) fn open(disk: &Disk, schema: &Schema, time: &VirtualTime, seed: u64) -> Result<Engine, StoreError> {
    let machine = Machine { clock: WallClock::new(time), entropy: SplitMix64::new(seed) };
    Engine::open_with(
        &disk.path(FILE),
        Some(schema.clone()),
        &workload::functions(bug::Planted::default()),
        Box::new(machine),
    )
}

/// The file of a replica, and what it shows when nothing was lost.
struct Replica {
    schema: Schema,
    everything: Vec<Envelope>,
    shows: (Vec<Entity>, Vec<Conflict>),
    uncertain: bool,
}

impl Subject for Replica {
    fn check(&self, disk: &Disk) -> Result<(), Failure> {
        let time = VirtualTime::new();
        time.advance(1_000_000);
        let mut engine = open(disk, &self.schema, &time, 99).map_err(broken("opening what was left"))?;
        let reader = file::reader(&disk.path(FILE))?;
        agree::check(&mut engine, &reader)?;
        // What was cut off comes again, from wherever it is; then it is known.
        for again in [false, true] {
            let all = self.everything.clone();
            let (received, _) = within(&mut engine, move |write| write.apply_peer(&main_space(), all))
                .map_err(broken("repeating what was cut off"))?;
            ensure(received.quarantined == 0, || format!("what was repeated is refused: {received:?}"))?;
            ensure(!again || received.applied == 0, || format!("what was repeated is applied again: {received:?}"))?;
        }
        let shows = (file::entities(&reader)?, file::conflicts(&reader)?);
        ensure(self.uncertain || shows == self.shows, || {
            "repeating what was cut off does not lead to the same".to_owned()
        })?;
        agree::check(&mut engine, &reader)?;
        // And it goes on.
        let folders = anabranch_core::CollectionName::new("folders").map_err(broken("a name"))?;
        let create = move |write: &mut Write<'_>| write.create(&main_space(), &folders, None, &serde_json::Map::new());
        within(&mut engine, create).map_err(broken("going on"))?;
        agree::check(&mut engine, &reader)
    }
}
