//! Clients that want only some collections of a space, and other ones later.

use std::collections::{BTreeMap, BTreeSet};

use anabranch_core::{CollectionName, EntityId, SpaceName};

use crate::dice::Dice;
use crate::failure::{Failure, ensure};
use crate::file;
use crate::fleet::Fleet;
use crate::model::Item;

const COLLECTIONS: [&str; 3] = ["folders", "notes", "drafts"];

/// What a client wants of each space; everything of those that are not in here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted(BTreeMap<SpaceName, BTreeSet<CollectionName>>);

impl Wanted {
    fn has(&self, space: &SpaceName, collection: &CollectionName) -> bool {
        self.0.get(space).is_none_or(|names| names.contains(collection))
    }
}

impl Fleet {
    /// The client wants other collections of a space from now on.
    pub(crate) fn want(&mut self, client: usize, pick: u64) -> Result<(), Failure> {
        let mut dice = Dice::new(pick);
        if self.clients[client].process.is_none() {
            return Ok(());
        }
        (self.has_subsets, self.model.histories.may_fork) = (true, true);
        // What was dropped until now was dropped by what was wanted until now.
        self.check_file(client)?;
        let Some(process) = &self.clients[client].process else { return Ok(()) };
        let (remote, before) = (process.remote, self.wanted(client)?);
        let Some(space) = dice.one_of(&self.spaces).cloned() else { return Ok(()) };
        let mut names = COLLECTIONS.into_iter().filter_map(|name| CollectionName::new(name).ok());
        let wanted: Option<BTreeSet<_>> =
            (!dice.once_in(3)).then(|| names.by_ref().filter(|_| dice.once_in(2)).collect());
        let (of, names) = (space.clone(), wanted.clone());
        let what = "wanting other collections";
        if self.within(client, what, move |write| write.want_collections(remote, &of, names))?.is_none() {
            return Ok(());
        }
        self.note(format_args!("client {client}: wants {wanted:?} of {space}"));
        let after = self.wanted(client)?;
        for name in COLLECTIONS.into_iter().filter_map(|name| CollectionName::new(name).ok()) {
            let kind = match (before.has(&space, &name), after.has(&space, &name)) {
                (true, false) => "collections not wanted any more",
                (false, true) => "collections wanted in addition",
                _ => continue,
            };
            *self.tally.entry(kind).or_default() += 1;
        }
        self.check_file(client)?;
        // As a driver does: the session begins with what is wanted.
        self.forsake(client);
        self.clients[client].begin_again()
    }

    /// What waits for another form of itself, which the server has, comes to an end only once its collection is wanted
    /// again: so it is. `false` if nothing waits for that.
    pub(crate) fn want_again(&mut self) -> Result<bool, Failure> {
        let (mut wants, clients) = (false, if self.has_subsets { self.clients.len() } else { 0 });
        for client in 0..clients {
            let Some(process) = &self.clients[client].process else { continue };
            let (remote, wanted) = (process.remote, self.wanted(client)?);
            let waiting: Option<SpaceName> = file::superseded(&process.reader)?
                .into_iter()
                .find(|(space, collection)| !wanted.has(space, collection))
                .map(|(space, _)| space);
            let Some(space) = waiting else { continue };
            wants = true;
            let of = space.clone();
            let what = "wanting everything again";
            if self.within(client, what, move |write| write.want_collections(remote, &of, None))?.is_some() {
                self.note(format_args!("client {client}: wants all of {space}, for what waits there"));
                self.forsake(client);
                self.clients[client].begin_again()?;
            }
        }
        Ok(wants)
    }

    /// What a client wants, as its file says.
    pub(crate) fn wanted(&self, client: usize) -> Result<Wanted, Failure> {
        let process = self.clients[client].process.as_ref().filter(|_| self.has_subsets);
        process.map_or(Ok(Wanted::default()), |process| file::wanted(&process.reader).map(Wanted))
    }

    /// Notes the collections of a client's entities.
    pub(crate) fn note_collections(&mut self, client: usize) -> Result<(), Failure> {
        if let Some(process) = self.clients[client].process.as_ref().filter(|_| self.has_subsets) {
            let found = file::collections(&process.reader)?;
            self.model.collections.extend(found.into_iter().map(|(space, id, name)| ((space, id), name)));
        }
        Ok(())
    }

    /// Whether a client wants an entity.
    pub(crate) fn is_wanted(&self, wanted: &Wanted, space: &SpaceName, id: EntityId) -> bool {
        let collection = self.model.collections.get(&(space.clone(), id));
        collection.is_none_or(|name| wanted.has(space, name))
    }

    /// What of all this a client wants.
    pub(crate) fn only_wanted(&self, wanted: &Wanted, items: &BTreeSet<Item>) -> BTreeSet<Item> {
        items.iter().filter(|item| self.is_wanted(wanted, &item.0, item.1)).cloned().collect()
    }

    /// What nobody has any more of what was on a server once: it was lost there, and dropped by those who had it, perhaps
    /// before their files were looked at.
    pub(crate) fn dropped(&self) -> Result<BTreeSet<Item>, Failure> {
        let mut left = BTreeSet::new();
        if !self.has_subsets {
            return Ok(left);
        }
        for process in self.clients.iter().filter_map(|client| client.process.as_ref()) {
            left.extend(file::changes(&process.reader)?);
        }
        // What was written after a purge goes with the entity, even if the marker is lost.
        let was_sent = |item: &Item| self.model.was_stored(item) || self.model.was_purged(item);
        let was_lost = |item: &&Item| was_sent(item) && !left.contains(*item);
        Ok(self.model.written.keys().filter(was_lost).cloned().collect())
    }

    /// A client has dropped what it does not want any more: only what the server had. If the server has lost it since,
    /// it may have been the last.
    pub(crate) fn note_dropped(&mut self, client: usize, dropped: &BTreeSet<Item>) -> Result<(), Failure> {
        if dropped.is_empty() {
            return Ok(());
        }
        let unsent = dropped.iter().filter(|item| !self.model.was_stored(item)).count();
        ensure(unsent == 0, || format!("client {client} has dropped {unsent} changes that were on no server"))?;
        self.give_up(dropped)
    }
}
