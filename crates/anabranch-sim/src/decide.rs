//! What a server does not take, and what people decide about that.

use std::collections::BTreeSet;

use anabranch_core::sync::{OutboxRead, Pushable, Unreadable};
use anabranch_core::wire::{Answer, RejectCode};
use anabranch_core::{ChangeHash, EntityId, SpaceName};
use anabranch_store::{Declined, Resend};

use crate::bug::Bug;
use crate::dice::Dice;
use crate::failure::{Failure, ensure};
use crate::file;
use crate::fleet::Fleet;
use crate::model::Item;
use crate::trouble::Trouble;

impl Fleet {
    /// The server turns down a part of the client's next push for good; or all changes of an entity from now on, or takes
    /// them again.
    pub(crate) fn refuse(&mut self, client: usize, pick: u64) -> Result<(), Failure> {
        let mut dice = Dice::new(pick);
        self.turned_down = true;
        if dice.once_in(3) {
            if let Some(connection) = &mut self.connections[client] {
                connection.trouble = Some(Trouble::Turns { pick: dice.any(), for_good: true });
                self.note(format_args!("server, to client {client}: a push will be turned down in part, for good"));
            }
            return Ok(());
        }
        let Some(process) = &self.clients[client].process else { return Ok(()) };
        let unsent = file::unsent(&process.reader)?.into_iter().map(|(space, envelope)| (space, envelope.entity));
        let known = file::names(&process.reader)?.into_iter().map(|(space, id, _)| (space, id));
        let candidates: Vec<_> = if dice.once_in(2) { unsent.collect() } else { known.collect() };
        let refused = &mut self.server.refused;
        if dice.once_in(4) {
            refused.pop_first();
        } else {
            refused.extend(dice.one_of(&candidates).cloned());
        }
        let line = format!("server: refuses {refused:?}");
        self.note(format_args!("{line}"));
        Ok(())
    }

    /// Somebody looks at what was refused, and gives it up, or sends it again.
    pub(crate) fn decide(&mut self, client: usize, pick: u64) -> Result<(), Failure> {
        let count = self.clients.len();
        for number in (client..client + count).map(|number| number % count) {
            if self.decide_at(number, pick)? {
                break;
            }
        }
        Ok(())
    }

    /// `false` if nothing was refused there.
    pub(crate) fn decide_at(&mut self, number: usize, pick: u64) -> Result<bool, Failure> {
        let mut dice = Dice::new(pick);
        let Some(process) = &self.clients[number].process else { return Ok(false) };
        let parked = file::parked(&process.reader)?;
        let Some(((space, id, hash), _)) = dice.one_of(&parked).cloned() else { return Ok(false) };
        let one = dice.once_in(2);
        if dice.once_in(4) {
            let which = match (dice.once_in(2), one) {
                (true, _) => Resend::All,
                (_, true) => Resend::Entity(space, id),
                _ => Resend::Change(space, id, ChangeHash::from_bytes(hash)),
            };
            self.note(format_args!("client {number}: {which:?} is sent again"));
            let sent = self.within(number, "sending again what was refused", move |write| write.resend(&which))?;
            ensure(sent.is_none_or(|sent| sent > 0), || {
                format!("client {number} did not send again what was refused")
            })?;
            *self.tally.entry("resends").or_default() += 1;
            return Ok(true);
        }
        let change = one.then(|| ChangeHash::from_bytes(hash));
        self.discard(number, (space, id), change)?;
        Ok(true)
    }

    /// A client that does not want an entity any more does not hear of its purge. What it had still to push is refused,
    /// and a person gives it up. Returns of how many entities.
    pub(crate) fn give_up_purged(&mut self, number: usize) -> Result<usize, Failure> {
        let Some(process) = self.clients[number].process.as_ref().filter(|_| self.has_subsets) else { return Ok(0) };
        let purged = file::refused_as_purged(&process.reader)?;
        for (space, id) in &purged {
            self.discard(number, (space.clone(), *id), None)?;
        }
        Ok(purged.len())
    }

    fn discard(
        &mut self,
        number: usize,
        (space, id): (SpaceName, EntityId),
        change: Option<ChangeHash>,
    ) -> Result<(), Failure> {
        // What has come in since the file was looked at may have been written again under a name that nobody else knows.
        self.note_forms(number)?;
        let Some(process) = &self.clients[number].process else { return Ok(()) };
        let all = file::parked(&process.reader)?;
        let is_chosen =
            |item: &Item| (&item.0, item.1) == (&space, id) && change.is_none_or(|change| *change.as_bytes() == item.2);
        let chosen = || all.iter().filter(|(item, _)| is_chosen(item));
        let transactions: BTreeSet<_> = chosen().filter_map(|(_, transaction)| transaction.clone()).collect();
        let mut given_up: BTreeSet<Item> = chosen().map(|(item, _)| item.clone()).collect();
        given_up.extend(file::joined(&process.reader, &transactions)?);
        // Before: whether a commit that fails was done shows only later.
        given_up.iter().for_each(|item| self.model.histories.note_discarded(item));
        let of = space.clone();
        let done = self.within(number, "discarding", move |write| write.discard(&of, id, change))?;
        let Some(done) = done else { return Ok(()) };
        self.note(format_args!("client {number}: discards {change:?} of {id}: {done:?}"));
        *self.tally.entry("discards").or_default() += 1;
        *self.tally.entry("rewritten changes").or_default() += u64::try_from(done.rewritten).unwrap_or(0);
        if self.planted.is(Bug::SettleRewritten) && done.rewritten > 0 {
            self.settle_all(number, &space)?;
        }
        // The birth of a container is nobody's edit: it stays if a later one needs it.
        given_up.retain(|item| !self.model.histories.is_birth(item));
        ensure(done.discarded >= given_up.len(), || {
            format!("client {number} was to discard {} changes, and did {}", given_up.len(), done.discarded)
        })?;
        self.check_file(number)?;
        let left = self.clients[number].held.intersection(&given_up).count();
        ensure(left == 0, || format!("client {number} still has {left} changes that it has discarded"))
    }

    /// A planted bug: what waits leaves the outbox.
    fn settle_all(&mut self, number: usize, space: &SpaceName) -> Result<(), Failure> {
        let Some(process) = &self.clients[number].process else { return Ok(()) };
        let (remote, read) = (process.remote, OutboxRead { space: space.clone(), changes: 50, bytes: 1 << 20 });
        let page = self.within(number, "reading the outbox", move |write| write.outbox_page(remote, &read))?;
        page.map_or(Ok(()), |page| self.settle_unanswered(number, space, &page.items))
    }

    /// A peer has said what it has discarded of what it was sent.
    pub(crate) fn hear_declined(
        &mut self,
        client: usize,
        space: &SpaceName,
        declined: Vec<Declined>,
    ) -> Result<(), Failure> {
        let of = space.clone();
        let count = declined.len();
        let gone = self.within(client, "hearing of discards", move |write| write.discard_declined(&of, &declined))?;
        let Some(gone) = gone else { return Ok(()) };
        self.note(format_args!("client {client}: a peer has discarded {count} changes; {gone} go here"));
        *self.tally.entry("discards heard of").or_default() += u64::try_from(gone).unwrap_or(0);
        self.check_file(client)
    }

    /// Notes what a client has written in the place of other changes.
    pub(crate) fn note_forms(&mut self, client: usize) -> Result<(), Failure> {
        if let Some(process) = self.clients[client].process.as_ref().filter(|_| self.model.histories.has_forms()) {
            let forms = file::forms(&process.reader)?;
            forms.iter().for_each(|(item, bytes)| self.model.histories.note(item, bytes));
        }
        Ok(())
    }

    /// Notes what the server has: of that, and of which collections.
    pub(crate) fn note_log(&mut self) {
        for (space, rows) in self.server.disk.log.spaces() {
            for offered in rows.iter().map(|row| &row.offered) {
                if self.has_subsets {
                    self.model.collections.insert((space.clone(), offered.entity), offered.collection.clone());
                }
                if self.model.histories.has_forms() && offered.change.rewrite_of().is_some() {
                    let bytes = offered.change.bytes();
                    let item = (space.clone(), offered.entity, crate::model::hash_of(bytes));
                    self.model.histories.note(&item, bytes);
                }
            }
        }
    }
}

/// What the server makes of a batch while it refuses some entities.
pub(crate) fn refusing(batch: Vec<Pushable>, refused: impl Fn(EntityId) -> bool) -> Vec<Pushable> {
    let answer = Answer::Rejected { code: RejectCode::Forbidden, message: "closed".to_owned(), retryable: false };
    let judged = batch.into_iter().map(|offered| match offered {
        Ok(offered) if refused(offered.entity) => {
            Err(Unreadable { transaction: offered.transaction, answer: answer.clone() })
        }
        other => other,
    });
    judged.collect()
}
