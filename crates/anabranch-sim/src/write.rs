//! What clients commit: local writes, and what their sessions decide.

use anabranch_core::sync::{OutboxItem, WriteBatch};
use anabranch_core::wire::Answer;
use anabranch_core::{ErrorKind, SpaceName};

use crate::bug::Bug;
use crate::client::Task;
use crate::dice::Dice;
use crate::failure::{Failure, ensure};
use crate::file::{self, Logged};
use crate::fleet::Fleet;
use crate::job::job;
use crate::model::Effect;
use crate::workload::{self, Intent, Known, Targets};

impl Fleet {
    /// A few local writes that share a commit, some of them a transaction; now and then one of them is undone.
    pub(crate) fn edit(&mut self, number: usize, pick: u64) -> Result<(), Failure> {
        let mut dice = Dice::new(pick);
        let newer = self.clients[number].version > 1;
        let Some(process) = &mut self.clients[number].process else { return Ok(()) };
        let entities = file::names(&process.reader)?;
        let conflicts = file::conflict_names(&process.reader)?;
        let purgeable = file::purgeable(&process.reader)?;
        let known = Known { spaces: &self.spaces, entities: &entities, conflicts: &conflicts, purgeable: &purgeable };
        let (mut jobs, mut outcomes) = (Vec::new(), Vec::new());
        for _ in 0..=dice.below(3) {
            let Some(intent) = workload::choose(&mut dice, &known) else { continue };
            let alone = intent.is_uncertain();
            if alone && !jobs.is_empty() {
                continue;
            }
            let undo = !alone && dice.once_in(8);
            let targets = Targets::of(&entities, intent.space(), newer);
            let mut intents = vec![intent];
            if intents[0].joins() && dice.once_in(3) {
                let own = Known { spaces: &[intents[0].space().clone()], ..known };
                let more = (0..=dice.below(3)).filter_map(|_| workload::choose(&mut dice, &own));
                intents.extend(more.filter(Intent::joins));
            }
            let (mut own, what) = (Dice::new(dice.any()), intents.clone());
            let (job, outcome) = job(undo, move |write| {
                write.transaction(|write| {
                    what.iter().map(|intent| workload::carry_out(write, &mut own, intent, &targets)).collect()
                })
            });
            jobs.push(job);
            outcomes.push((intents, undo, outcome));
            if alone {
                break;
            }
        }
        let before = file::number(&process.reader, "SELECT coalesce(max(seq), 0) FROM changes")?;
        let committed = process.engine.commit(jobs);
        let failed = committed.is_none();
        committed.into_iter().for_each(|committed| process.note(committed));
        let logged = file::changes_after(&process.reader, before)?;
        let mut effects = Vec::new();
        let mut lines = Vec::new();
        let (mut uncertain, mut refusal) = (false, None);
        for (intents, undo, outcome) in outcomes {
            if failed && logged.is_empty() {
                let (made, error): (Option<Vec<Option<Effect>>>, _) = outcome.take_failed();
                effects.extend(made.into_iter().flatten().flatten().filter(|_| !undo));
                refusal = error.or(refusal);
                continue;
            }
            match outcome.take_anyway() {
                Ok(made) => {
                    let made: Vec<Option<Effect>> = made;
                    lines.push(format!("client {number}: {intents:?}{}", if undo { ", undone" } else { "" }));
                    uncertain |= made.iter().any(Option::is_none) || intents.iter().any(Intent::is_uncertain);
                    effects.extend(made.into_iter().flatten().filter(|_| !undo));
                }
                Err(error) => {
                    let expected =
                        matches!(error.kind(), ErrorKind::Invalid | ErrorKind::NotFound | ErrorKind::Refused);
                    let failing = error.kind() == ErrorKind::Retry && self.clients[number].has_failing_disk();
                    ensure(expected || failing, || format!("a local write failed: {intents:?}: {error}"))?;
                    lines.push(format!("client {number}: {intents:?} refused: {error}"));
                }
            }
        }
        if let Some(error) = refusal {
            self.disk_failed(number, "a local write", &error)?;
            // A process that goes on has looked; one that has ended looks when it starts again.
            let ended = self.clients[number].process.is_none();
            self.clients[number].unknown = ended.then_some((before, effects));
            return Ok(());
        }
        let written = logged.iter().filter(|logged| !logged.genesis).count();
        ensure(written == effects.len() || uncertain, || {
            format!("client {number} made {} writes and logged {written} changes", effects.len())
        })?;
        lines.iter().for_each(|line| self.note(format_args!("{line}")));
        self.note_written(number, logged, effects)?;
        if failed {
            // It was reported as failed, and is there all the same.
            self.forsake(number);
            self.clients[number].begin_again()?;
        }
        Ok(())
    }

    fn note_written(&mut self, number: usize, logged: Vec<Logged>, effects: Vec<Effect>) -> Result<(), Failure> {
        let mut effects = effects.into_iter();
        for Logged { item, bytes, genesis } in logged {
            self.model.histories.note(&item, &bytes);
            let effect = if genesis { None } else { effects.next() };
            self.clients[number].held.insert(item.clone());
            self.model.lost.remove(&item);
            self.note_bytes(&item.2);
            self.model.written.entry(item).or_insert_with(|| effect.unwrap_or_default());
        }
        // It may build on what has just been written again.
        self.note_forms(number)?;
        self.note_collections(number)
    }

    /// Of a commit that has failed nobody knew what had become. Now the file has been opened again, and says so.
    pub(crate) fn find_unknown(&mut self, number: usize) -> Result<(), Failure> {
        let client = &mut self.clients[number];
        let Some(process) = &client.process else { return Ok(()) };
        let Some((before, effects)) = client.unknown.take() else { return Ok(()) };
        let logged = file::changes_after(&process.reader, before)?;
        self.note_written(number, logged, effects)
    }

    /// Commits what a step of the session decided.
    pub(crate) fn commit(&mut self, number: usize, mut batch: WriteBatch) -> Result<(), Failure> {
        let Some(process) = &mut self.clients[number].process else { return Ok(()) };
        if self.planted.is(Bug::ForgetHeld) {
            for (_, answer) in &mut batch.answered {
                if matches!(answer, Answer::Held { .. }) {
                    *answer = Answer::Duplicate { seq: 0 };
                }
            }
        }
        if self.planted.is(Bug::ForgetAckMark) {
            batch.ack = None;
        }
        if self.planted.is(Bug::ForgetOffers) {
            batch.offers.clear();
        }
        if self.planted.is(Bug::CursorBeforeChanges) && batch.cursor.is_some() && !batch.incoming.is_empty() {
            let incoming = std::mem::take(&mut batch.incoming);
            let late = WriteBatch { incoming, ..WriteBatch::empty(batch.space.clone(), batch.lineage) };
            process.agenda.push_front(Task::Commit(late));
        }
        let remote = process.remote;
        let line = format!(
            "client {number}: commits {} changes and {} answers of {}{}",
            batch.incoming.len(),
            batch.answered.len(),
            batch.space,
            format_args!(", {:?}", batch.reoffer)
        );
        let received = self.within(number, "committing a batch", move |write| write.apply_batch(remote, batch))?;
        let Some(received) = received else { return Ok(()) };
        self.note(format_args!("{line}: {received:?}"));
        self.check_quarantined(number, received.quarantined)
    }

    /// Only forged changes are quarantined; they may have waited for others before.
    pub(crate) fn check_quarantined(&self, number: usize, quarantined: usize) -> Result<(), Failure> {
        let Some(process) = self.clients[number].process.as_ref().filter(|_| quarantined > 0) else { return Ok(()) };
        let found = file::quarantined(&process.reader)?;
        let forged = found.iter().any(|item| self.model.is_forged(item));
        ensure(forged, || format!("client {number} quarantined an honest change"))
    }

    /// A planted bug: what is about to be pushed leaves the outbox.
    pub(crate) fn settle_unanswered(
        &mut self,
        number: usize,
        space: &SpaceName,
        items: &[OutboxItem],
    ) -> Result<(), Failure> {
        let mut batch = WriteBatch::empty(space.clone(), self.server.disk.lineage);
        batch.answered = items.iter().map(|item| (item.key, Answer::Duplicate { seq: 0 })).collect();
        self.commit(number, batch)
    }
}
