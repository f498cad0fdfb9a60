//! A change as bytes: an Automerge change chunk, read without Automerge.
//!
//! The layout is that of the Automerge binary format, version 1: magic, checksum, chunk type, length, then
//! dependencies, actor, seq, start op, time, message, other actors, columns. This reader is bounded, never
//! expands a column, and never panics; it is what a server knows about a change, and the first gate that
//! foreign bytes pass on a client. It takes one form of a change only, the one that honest writers make.

mod columns;
mod error;
mod note;
mod ops;
mod parts;
mod reader;
mod runs;

use sha2::{Digest as _, Sha256};

use self::reader::Reader;
use crate::id::{Actor, ChangeHash, Digest};
use crate::stamp::Stamp;

pub use error::ChangeError;
pub use note::Rewrite;
pub(crate) use note::{PURGE_NOTE, purged_version, rewritten};
pub(crate) use ops::{Action, Key, ObjectKind, Op, OpName, Ops, Scalar};
pub(crate) use parts::Parts;

/// The largest change that is admitted, in bytes.
pub const MAX_CHANGE_BYTES: usize = 1 << 20;
/// The most dependencies a change may name.
pub const MAX_DEPENDENCIES: usize = 1_024;
/// The most other actors a change may name.
pub const MAX_OTHER_ACTORS: usize = 1_024;
/// The longest message a change may carry, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 256;
/// The greatest op counter that is admitted: far above honest use, far below where Automerge overflows.
pub const MAX_OP: u64 = 1 << 30;
/// The most ops that one change may have; a character is an op. A few bytes can claim that many, for which
/// Automerge needs up to 600 bytes of memory and 2 µs each, so this bounds both: 64 MiB, a quarter of a second.
pub const MAX_CHANGE_OPS: usize = 110_000;
/// The most ops that the ops of one change may replace, all together.
pub const MAX_CHANGE_PREDECESSORS: usize = 110_000;
/// The longest key of a map, in bytes of UTF-8; a set's members are keys.
pub const MAX_KEY_BYTES: usize = 1 << 16;
/// The most bytes that the keys of a change's ops may have, all together, repeats included.
pub const MAX_KEYS_BYTES: usize = 1 << 22;
/// The deepest nesting of arrays and objects in a field: deeper values would overflow a thread's stack.
pub const MAX_DEPTH: usize = 32;

const MAGIC: [u8; 4] = [0x85, 0x6f, 0x4a, 0x83];
const CHUNK_TYPE_CHANGE: u8 = 1;
/// A change that has been read, and whose hash has been computed.
#[derive(Clone, PartialEq, Eq)]
pub struct Change {
    bytes: Vec<u8>,
    hash: ChangeHash,
    dependencies: Vec<ChangeHash>,
    actor: Actor,
    seq: u64,
    start_op: u64,
    stamp: Stamp,
    purges: Option<Digest>,
    rewrites: Option<Rewrite>,
    /// How many ops it has.
    ops: usize,
    /// Where the list of other actors begins.
    others_at: usize,
}

impl std::fmt::Debug for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The bytes hold values, which never reach a log.
        f.debug_struct("Change")
            .field("hash", &self.hash)
            .field("actor", &self.actor)
            .field("seq", &self.seq)
            .field("bytes", &self.bytes.len())
            .finish_non_exhaustive()
    }
}

impl Change {
    /// Reads a change, verifies its checksum and computes its hash.
    ///
    /// # Errors
    /// [`ChangeError`] if the bytes are not exactly one plain change chunk within the limits above, in its one
    /// form, whose ops fit together as far as the change alone tells.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, ChangeError> {
        if bytes.len() > MAX_CHANGE_BYTES {
            return Err(ChangeError::TooLarge);
        }
        let hash = chunk_hash(&bytes)?;
        Self::read(bytes, hash)
    }

    /// Reads a chunk that has this hash.
    fn read(bytes: Vec<u8>, hash: ChangeHash) -> Result<Self, ChangeError> {
        if bytes.len() > MAX_CHANGE_BYTES {
            return Err(ChangeError::TooLarge);
        }
        let mut reader = Reader::new(&bytes, 9);
        let length = reader.length("the length")?;
        if length != bytes.len() - reader.at() {
            return Err(ChangeError::Length);
        }
        let dependencies = reader.dependencies()?;
        let own = reader.actor()?;
        let actor = Actor::from_bytes(own).ok_or(ChangeError::OutOfRange("an actor's length"))?;
        let actor_end = reader.at();
        let seq = reader.unsigned()?;
        let start_op = reader.unsigned()?;
        if seq == 0 || seq > MAX_OP {
            return Err(ChangeError::OutOfRange("the sequence number"));
        }
        if start_op == 0 || start_op > MAX_OP {
            return Err(ChangeError::OutOfRange("the first op"));
        }
        if dependencies.is_empty() {
            check_first(seq, start_op)?;
        }
        let stamp = Stamp::from_raw(reader.signed()?).ok_or(ChangeError::OutOfRange("the stamp"))?;
        let message = reader.message()?;
        let purges = purged_version(message);
        let rewrites = rewritten(message).map(|(rewrite, _)| rewrite).filter(|_| actor.is_derived());
        let others_at = reader.at();
        if actor.is_derived() && actor != Self::derived_actor(&bytes, actor_end, actor.as_bytes().len()) {
            return Err(ChangeError::ForgedActor);
        }
        let ops = read_ops(&bytes, others_at, own, start_op)?.1.all().len();
        // Nothing that depends on anything, or that is not what its actor certifies, can be a marker.
        let alone = actor.is_derived() && dependencies.is_empty() && (seq, start_op, stamp) == (1, 1, Stamp::ZERO);
        let purges = purges.filter(|_| alone);
        Ok(Self { hash, dependencies, actor, seq, start_op, stamp, purges, rewrites, ops, others_at, bytes })
    }

    /// The derived actor that this change would have to have: see [`Actor::derived`].
    #[must_use]
    pub fn expected_derived_actor(&self) -> Actor {
        let length = self.actor.as_bytes().len();
        let mut reader = Reader::new(&self.bytes, 9);
        // The header has been read before, so these cannot fail; a wrong end would only give another digest.
        let end = reader
            .length("the length")
            .and_then(|_| reader.dependencies())
            .and_then(|_| reader.actor())
            .map_or(0, |_| reader.at());
        Self::derived_actor(&self.bytes, end, length)
    }

    fn derived_actor(bytes: &[u8], actor_end: usize, actor_length: usize) -> Actor {
        // The checksum (bytes 4..8) covers the actor, so the digest starts after it.
        let mut blank = bytes[8..].to_vec();
        if let Some(range) =
            actor_end.checked_sub(8 + actor_length).and_then(|start| blank.get_mut(start..actor_end - 8))
        {
            range.fill(0);
        }
        Actor::derived(&blank)
    }

    /// The chunk, as it is stored and sent.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The chunk itself.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// The hash that names the change.
    #[must_use]
    pub const fn hash(&self) -> ChangeHash {
        self.hash
    }

    /// The changes that this one was written on top of.
    #[must_use]
    pub fn dependencies(&self) -> &[ChangeHash] {
        &self.dependencies
    }

    /// Who wrote it.
    #[must_use]
    pub const fn actor(&self) -> &Actor {
        &self.actor
    }

    /// Its place in the actor's changes to this entity, from 1.
    #[must_use]
    pub const fn seq(&self) -> u64 {
        self.seq
    }

    /// The counter of its first op.
    #[must_use]
    pub const fn start_op(&self) -> u64 {
        self.start_op
    }

    /// The counter of its last op; the one before its first if it has none.
    #[must_use]
    pub fn max_op(&self) -> u64 {
        self.start_op + u64::try_from(self.ops).unwrap_or(MAX_OP) - 1
    }

    /// How many ops it has.
    #[must_use]
    pub const fn op_count(&self) -> usize {
        self.ops
    }

    /// Its ops, with the actors that they name; the first is its own.
    pub(crate) fn ops(&self) -> Result<(Vec<&[u8]>, Ops), ChangeError> {
        read_ops(&self.bytes, self.others_at, self.actor.as_bytes(), self.start_op)
    }

    /// When it was written.
    #[must_use]
    pub const fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// The version of the entity that this change purges, if it is a *purge marker*: a change that builds on
    /// nothing, by a derived actor, with stamp 0 and the message `$purge <version>`, in lower-case digits. The
    /// same version is purged by the same bytes on every replica.
    #[must_use]
    pub const fn purge_of(&self) -> Option<Digest> {
        self.purges
    }

    /// What this change was written from, if it is a *rewrite*: a change by a derived actor with the message
    /// `$rewrite <hash>`, in lower-case digits, whose original has been refused its place. Of a change and all that
    /// was written from it, a server takes only one.
    #[must_use]
    pub const fn rewrite_of(&self) -> Option<Rewrite> {
        self.rewrites
    }
}

/// What builds on nothing comes first: the actor's previous change would be a dependency, and every op of another
/// change would come later.
const fn check_first(seq: u64, start_op: u64) -> Result<(), ChangeError> {
    match (seq, start_op) {
        (1, 1) => Ok(()),
        (1, _) => Err(ChangeError::NotFirst("its first op")),
        _ => Err(ChangeError::NotFirst("its sequence number")),
    }
}

fn read_ops<'a>(
    bytes: &'a [u8],
    others_at: usize,
    own: &'a [u8],
    start_op: u64,
) -> Result<(Vec<&'a [u8]>, Ops), ChangeError> {
    let mut reader = Reader::new(bytes, others_at);
    let mut actors = reader.other_actors(own)?;
    actors.insert(0, own);
    let ops = Ops::read(reader, bytes, start_op, &actors)?;
    Ok((actors, ops))
}

fn chunk_hash(bytes: &[u8]) -> Result<ChangeHash, ChangeError> {
    let (Some(magic), Some(checksum), Some(&kind)) = (bytes.get(..4), bytes.get(4..8), bytes.get(8)) else {
        return Err(ChangeError::Length);
    };
    if magic != MAGIC || kind != CHUNK_TYPE_CHANGE {
        return Err(ChangeError::NotAChange);
    }
    let hash: [u8; 32] = Sha256::digest(&bytes[8..]).into();
    if hash[..4] != *checksum {
        return Err(ChangeError::Checksum);
    }
    Ok(ChangeHash::from_bytes(hash))
}

#[cfg(test)]
mod tests {
    use automerge::transaction::{CommitOptions, Transactable as _};
    use automerge::{ActorId, Automerge, ROOT};
    use proptest::prelude::*;

    use super::*;

    fn honest(time: i64, text: &str) -> Vec<u8> {
        let mut document = Automerge::new().with_actor(ActorId::from([1u8; 16]));
        let options = CommitOptions::default().with_time(time);
        document
            .transact_with::<_, _, automerge::AutomergeError, _>(|_| options, |tx| tx.put(ROOT, "title", text))
            .unwrap();
        document.get_last_local_change().unwrap().raw_bytes().to_vec()
    }

    proptest! {
        #[test]
        fn an_honest_change_reads_as_automerge_reads_it(time in 0i64.., text in ".{0,40}") {
            let bytes = honest(time, &text);
            let theirs = automerge::Change::from_bytes(bytes.clone()).unwrap();
            let ours = Change::parse(bytes).unwrap();
            prop_assert_eq!(*ours.hash().as_bytes(), theirs.hash().0);
            prop_assert_eq!(ours.stamp().raw(), theirs.timestamp());
            prop_assert_eq!(ours.seq(), theirs.seq());
            prop_assert_eq!(ours.start_op(), theirs.start_op().get());
            prop_assert_eq!(ours.actor().as_bytes(), theirs.actor_id().to_bytes());
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(Change::parse(bytes).is_err());
        }

        #[test]
        fn a_flipped_bit_is_noticed(at in 0usize..60, bit in 0u8..8) {
            let mut bytes = honest(5, "hello");
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            prop_assert!(Change::parse(bytes).is_err());
        }

        #[test]
        fn a_resealed_header_never_panics(at in 9usize..60, value in any::<u8>()) {
            let mut bytes = honest(5, "hello");
            let at = 9 + at % (bytes.len() - 9);
            bytes[at] = value;
            let hash: [u8; 32] = Sha256::digest(&bytes[8..]).into();
            bytes[4..8].copy_from_slice(&hash[..4]);
            // Refused or read: either is fine here, but it must return.
            drop(Change::parse(bytes));
        }
    }

    #[test]
    fn a_purge_marker_is_known_by_its_header() {
        let marker = |actor: &[u8], time: i64, message: &str| {
            let mut document = Automerge::new().with_actor(ActorId::from(actor));
            document.empty_commit(CommitOptions::default().with_time(time).with_message(message));
            Change::parse(document.get_last_local_change().unwrap().raw_bytes().to_vec())
        };
        let certified = |time, message: &str| {
            let actor = marker(&[0; 16], time, message).unwrap().expected_derived_actor();
            marker(actor.as_bytes(), time, message).unwrap()
        };
        let version = Digest::of(b"heads");
        let message = format!("$purge {version}");
        assert_eq!(certified(0, &message).purge_of(), Some(version));
        assert_eq!(certified(0, &message).bytes(), certified(0, &message).bytes());
        assert_eq!(certified(1, &message).purge_of(), None, "a stamp");
        for other in [message.to_uppercase(), message.replace(' ', "  "), format!("{message}0"), "$purge".to_owned()] {
            assert_eq!(certified(0, &other).purge_of(), None, "{other}");
        }
        let upper = format!("$purge {}", version.to_string().to_uppercase());
        assert_eq!(certified(0, &upper).purge_of(), None, "another spelling");
        assert_eq!(marker(&[1; 16], 0, &message).unwrap().purge_of(), None, "a writer's own actor");
        assert_eq!(marker(&[0xA7; 16], 0, &message).unwrap_err(), ChangeError::ForgedActor);
    }

    #[test]
    fn truncation_and_surplus_are_noticed() {
        let bytes = honest(5, "hello");
        for end in 0..bytes.len() {
            assert!(Change::parse(bytes[..end].to_vec()).is_err());
        }
        let mut longer = bytes;
        longer.push(0);
        assert!(Change::parse(longer).is_err());
    }
}
