//! Messages of a client, as an input chooses them: honest ones, honest ones with something wrong, and any.

use anabranch_core::wire::{
    self, Ask, ClientMessage, Cursor, Envelope, Hello, MAX_PRESENCE_BYTES, Mark, Pull, Push, Wanted,
};
use anabranch_core::{Actor, Digest, EntityId, ReplicaId, SpaceName, TransactionId};

use super::frames::framed;
use super::honest::{self, ENVELOPES};
use super::sessions::SPACES;
use super::{Input, altered};

/// Bytes that one message takes from the input where they are its own.
const PIECE: usize = 48;

/// The next message; `cursors` are those that the client has been given.
pub(super) fn message(input: &mut Input<'_>, cursors: &[Cursor]) -> ClientMessage {
    match input.next() % 16 {
        0 | 1 => hello(input),
        2..=6 => push(input),
        7..=9 => ClientMessage::Pull(pull(input, cursors)),
        10 => ClientMessage::Received { space: space(input) },
        11 => {
            let length = [0, 1, MAX_PRESENCE_BYTES, MAX_PRESENCE_BYTES + 1][input.below(4)];
            ClientMessage::Presence { space: space(input), data: input.flag().then(|| vec![7; length]) }
        }
        12 | 13 => ClientMessage::Reconcile { space: space(input), ask: ask(input) },
        14 => ClientMessage::Segment { space: space(input), digest: Digest::of(&[input.next()]) },
        _ => {
            // Any body; what is none is an honest message.
            let kinds = honest::client_messages();
            let honest = kinds[input.below(kinds.len())].clone();
            wire::decode(&framed(0, &input.piece())).unwrap_or(honest)
        }
    }
}

fn space(input: &mut Input<'_>) -> SpaceName {
    honest::space(SPACES[[0, 0, 0, 1, 2, 3][input.below(6)]].0)
}

fn hello(input: &mut Input<'_>) -> ClientMessage {
    let replica = ReplicaId::from_bytes([input.next() % 3; 16]);
    let lineage = (input.next() > 200).then_some(honest::LINEAGE);
    let actor = Actor::from_bytes(&[1, input.next()]).expect("an actor");
    ClientMessage::Hello(Hello { replica, actor, schema_version: 1, lineage })
}

fn push(input: &mut Input<'_>) -> ClientMessage {
    let from = input.below(ENVELOPES.len());
    let picked = ENVELOPES[from..].iter().take(input.below(12));
    let mut changes: Vec<Envelope> = picked.cloned().collect();
    for _ in 0..input.below(3) {
        if !changes.is_empty() {
            let place = input.below(changes.len());
            spoil(&mut changes, place, input);
        }
    }
    let agreed = (0..input.below(3)).map(|_| u32::from(input.next())).collect();
    ClientMessage::Push(Push { id: u64::from(input.next()), space: space(input), changes, agreed })
}

/// Makes something wrong, or at least different.
fn spoil(changes: &mut Vec<Envelope>, place: usize, input: &mut Input<'_>) {
    let transaction = |number: u8| (number > 0).then(|| TransactionId::from_bytes([number; 16]));
    let envelope = &mut changes[place];
    match input.next() % 8 {
        0 => envelope.entity = entity(input),
        1 => envelope.collection = anabranch_core::CollectionName::new("other").expect("a name"),
        2 => envelope.parent = input.flag().then(|| entity(input)),
        3 => envelope.transaction = transaction(input.next() % 3),
        4 => envelope.change = altered(envelope.change.clone(), &mut Input(&input.piece())),
        5 => {
            // Altered, under a right checksum: as a hostile writer does it.
            let mut change = altered(envelope.change.clone(), &mut Input(&input.piece()));
            reseal(&mut change);
            envelope.change = change;
        }
        6 => drop(changes.remove(place)),
        _ => changes.push(changes[place].clone()),
    }
}

fn reseal(change: &mut [u8]) {
    if change.len() > 8 {
        let digest = Digest::of(&change[8..]);
        change[4..8].copy_from_slice(&digest.as_bytes()[..4]);
    }
}

fn entity(input: &mut Input<'_>) -> EntityId {
    honest::entity(input.next() % 6)
}

fn pull(input: &mut Input<'_>, cursors: &[Cursor]) -> Pull {
    let cursor = match input.next() % 4 {
        0 => None,
        1 => Some(Cursor(input.piece())),
        2 if !cursors.is_empty() => {
            let known = cursors[input.below(cursors.len())].0.clone();
            Some(Cursor(altered(known, &mut Input(&input.piece()[..]))))
        }
        _ => (!cursors.is_empty()).then(|| cursors[input.below(cursors.len())].clone()),
    };
    let ack = input.flag().then(|| Mark { seq: u64::from(input.next()), chain: Digest::of(&[input.next()]) });
    let collections = input.flag().then(|| vec![honest::notes(); input.below(3)]);
    Pull { space: space(input), cursor, ack, live: input.flag(), collections, segments: input.flag() }
}

fn ask(input: &mut Input<'_>) -> Ask {
    match input.next() % 4 {
        0 => Ask::Sketch(input.piece()),
        1 => Ask::Sketch(altered(honest::sketch(), &mut Input(&input.piece()))),
        2 => Ask::Heads((0..input.below(6)).map(|_| entity(input)).collect()),
        _ => {
            let known = |input: &mut Input<'_>| {
                let some = ENVELOPES.iter().skip(input.below(ENVELOPES.len())).take(input.below(4));
                some.filter_map(|it| anabranch_core::Change::parse(it.change.clone()).ok())
                    .map(|it| it.hash())
                    .collect()
            };
            let wanted = (0..input.below(4)).map(|_| Wanted { entity: entity(input), known: known(input) }).collect();
            Ask::Changes { wanted, skip: u32::from(input.next()) << (input.next() % 25) }
        }
    }
}

impl Input<'_> {
    fn flag(&mut self) -> bool {
        self.next().is_multiple_of(2)
    }

    /// Bytes of the message's own, as many as the first says.
    fn piece(&mut self) -> Vec<u8> {
        let length = self.below(PIECE);
        (0..length.min(self.0.len())).map(|_| self.next()).collect()
    }
}
