//! Who writes.

use std::fmt;
use std::str::FromStr;

use bincode::de::{BorrowDecoder, Decoder};
use bincode::error::DecodeError;
use bincode::{BorrowDecode, Decode, Encode};
use serde::{Deserialize, Serialize};

use super::{Digest, ParseIdError, ReplicaId};
use crate::environment::Entropy;

/// Automerge's writer id: at most [`Actor::MAX_BYTES`] bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Actor(Vec<u8>);

impl<C> Decode<C> for Actor {
    fn decode<D: Decoder<Context = C>>(decoder: &mut D) -> Result<Self, DecodeError> {
        let bytes = Vec::<u8>::decode(decoder)?;
        Self::from_bytes(&bytes).ok_or(DecodeError::Other("an actor id has 1 to 32 bytes"))
    }
}

impl<'de, C> BorrowDecode<'de, C> for Actor {
    fn borrow_decode<D: BorrowDecoder<'de, Context = C>>(decoder: &mut D) -> Result<Self, DecodeError> {
        Self::decode(decoder)
    }
}

impl Actor {
    /// The longest actor id that is admitted.
    pub const MAX_BYTES: usize = 32;
    /// The first byte of derived actors (geneses, imports, rewrites); no minted actor has it.
    pub const DERIVED: u8 = 0xA7;
    const MINTED: u8 = 0x01;

    /// A fresh actor for one open of a replica's file. Its second half tells which replica it belongs to.
    pub fn mint(replica: &ReplicaId, entropy: &mut dyn Entropy) -> Self {
        let mut bytes = [0; 16];
        entropy.fill(&mut bytes);
        bytes[0] = Self::MINTED;
        // The random half of a UUID v7.
        bytes[8..].copy_from_slice(&replica.as_bytes()[8..]);
        Self(bytes.to_vec())
    }

    /// Whether this is an actor of one of the replica's opens. A claim, not a proof: actors are not signed.
    #[must_use]
    pub fn is_of(&self, replica: &ReplicaId) -> bool {
        self.0.len() == 16 && self.0[0] == Self::MINTED && self.0[8..] == replica.as_bytes()[8..]
    }

    /// The derived actor of a change: self-certifying, since anyone can compute it from the change encoded
    /// with a blank own actor.
    #[must_use]
    pub fn derived(change_with_blank_actor: &[u8]) -> Self {
        let digest = Digest::of(change_with_blank_actor);
        let mut bytes = digest.as_bytes()[..16].to_vec();
        bytes[0] = Self::DERIVED;
        Self(bytes)
    }

    /// The actor with these bytes, or `None` if there are none or too many.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        (1..=Self::MAX_BYTES).contains(&bytes.len()).then(|| Self(bytes.to_vec()))
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether this is a derived actor.
    #[must_use]
    pub fn is_derived(&self) -> bool {
        self.0.first() == Some(&Self::DERIVED)
    }
}

impl FromStr for Actor {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let bytes = hex::decode(text).ok();
        bytes.and_then(|bytes| Self::from_bytes(&bytes)).ok_or(ParseIdError("actor (hexadecimal)"))
    }
}

impl TryFrom<String> for Actor {
    type Error = ParseIdError;
    fn try_from(text: String) -> Result<Self, ParseIdError> {
        text.parse()
    }
}

impl From<Actor> for String {
    fn from(actor: Actor) -> Self {
        actor.to_string()
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

impl fmt::Debug for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0[..self.0.len().min(4)]))
    }
}
