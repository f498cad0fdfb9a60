//! Ids and digests: fixed-size bytes with a readable form.

mod actor;

use std::fmt;
use std::str::FromStr;

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::environment::{Entropy, UnixMillis};
use crate::name::CollectionName;

pub use actor::Actor;

/// The namespace of [`EntityId::named`] (itself a version 5 UUID, of the project's name).
const NAMED: Uuid = Uuid::from_u128(0x6a1f_0c52_7d0e_5b3a_9c41_2f8e_4ab1_93d7);

/// Text that is not an id of the expected form.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a valid {0}")]
pub struct ParseIdError(&'static str);

macro_rules! uuid_id {
    ($(#[$doc:meta])* $type:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type([u8; 16]);

        impl $type {
            /// The id with these bytes; any UUID is accepted.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// A fresh UUID v7: sorted by time of creation.
            pub fn mint(now: UnixMillis, entropy: &mut dyn Entropy) -> Self {
                let mut random = [0; 10];
                entropy.fill(&mut random);
                let millis = u64::try_from(now).unwrap_or(0);
                Self(uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid().into_bytes())
            }

            /// The bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&Uuid::from_bytes(self.0).hyphenated(), f)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $type {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                Uuid::try_parse(text).map(|uuid| Self(uuid.into_bytes())).map_err(|_| ParseIdError($what))
            }
        }

        impl TryFrom<String> for $type {
            type Error = ParseIdError;
            fn try_from(text: String) -> Result<Self, ParseIdError> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(id: $type) -> Self {
                id.to_string()
            }
        }
    };
}

uuid_id!(
    /// Names an entity, within its space. Minted by the client as a UUID v7.
    EntityId,
    "entity id (a UUID)"
);
uuid_id!(
    /// Names a replica: one device's copy of the data.
    ReplicaId,
    "replica id (a UUID)"
);
uuid_id!(
    /// Names a transaction: several changes that are accepted or parked as a whole.
    TransactionId,
    "transaction id (a UUID)"
);
uuid_id!(
    /// Names a server's history. It survives backups, so a restored server keeps it and a new one has another.
    Lineage,
    "lineage (a UUID)"
);

impl EntityId {
    /// The id of a well-known or foreign key: the UUID v5 of collection and key, the same on every replica.
    ///
    /// ```
    /// use anabranch_core::{CollectionName, EntityId};
    /// let people = CollectionName::new("people")?;
    /// assert_eq!(EntityId::named(&people, "ada"), EntityId::named(&people, "ada"));
    /// assert_ne!(EntityId::named(&people, "ada"), EntityId::named(&people, "bob"));
    /// # Ok::<(), anabranch_core::NameError>(())
    /// ```
    #[must_use]
    pub fn named(collection: &CollectionName, key: &str) -> Self {
        // A collection name cannot contain a slash, so the pair is unambiguous.
        Self(Uuid::new_v5(&NAMED, format!("{collection}/{key}").as_bytes()).into_bytes())
    }
}

macro_rules! digest {
    ($(#[$doc:meta])* $type:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type([u8; 32]);

        impl $type {
            /// The digest with these bytes.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                // Eight digits tell two digests apart in a trace.
                f.write_str(&hex::encode(&self.0[..4]))
            }
        }

        impl FromStr for $type {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                let mut bytes = [0; 32];
                hex::decode_to_slice(text, &mut bytes).map_err(|_| ParseIdError($what))?;
                Ok(Self(bytes))
            }
        }

        impl TryFrom<String> for $type {
            type Error = ParseIdError;
            fn try_from(text: String) -> Result<Self, ParseIdError> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(digest: $type) -> Self {
                digest.to_string()
            }
        }

        impl TryFrom<&[u8]> for $type {
            type Error = ParseIdError;
            fn try_from(bytes: &[u8]) -> Result<Self, ParseIdError> {
                bytes.try_into().map(Self).map_err(|_| ParseIdError($what))
            }
        }
    };
}

digest!(
    /// The hash that names a change: SHA-256 of its chunk, as Automerge defines it.
    ChangeHash,
    "change hash (64 hexadecimal digits)"
);
digest!(
    /// A SHA-256 digest of something replicated: a version, a state, a space.
    Digest,
    "digest (64 hexadecimal digits)"
);

impl Digest {
    /// The digest of some bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

/// The newest changes of an entity: those that no other change of it depends on. Sorted, without repeats.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Heads(Vec<ChangeHash>);

impl Heads {
    /// The heads made of these hashes, in any order.
    #[must_use]
    pub fn new(mut hashes: Vec<ChangeHash>) -> Self {
        hashes.sort_unstable();
        hashes.dedup();
        Self(hashes)
    }

    /// Reads [`Heads::to_bytes`]'s form.
    ///
    /// # Errors
    /// If the length is not a multiple of 32.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ParseIdError> {
        let chunks = bytes.chunks(32).map(ChangeHash::try_from);
        Ok(Self::new(chunks.collect::<Result<_, _>>()?))
    }

    /// The hashes, one after the other.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.iter().flat_map(|hash| hash.0).collect()
    }

    /// The hashes, sorted.
    #[must_use]
    pub fn hashes(&self) -> &[ChangeHash] {
        &self.0
    }

    /// Whether there is no change at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The heads after a change with these dependencies has been added.
    pub fn advance(&mut self, hash: ChangeHash, dependencies: &[ChangeHash]) {
        self.0.retain(|head| !dependencies.contains(head));
        if let Err(at) = self.0.binary_search(&hash) {
            self.0.insert(at, hash);
        }
    }

    /// The entity's version, its ETag: a digest of the heads.
    #[must_use]
    pub fn version(&self) -> Digest {
        Digest::of(&self.to_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::SplitMix64;

    #[test]
    fn minted_ids_are_version_7_and_sort_by_time() {
        let mut entropy = SplitMix64::new(1);
        let early = EntityId::mint(1_000, &mut entropy);
        let late = EntityId::mint(2_000, &mut entropy);
        assert!(early < late);
        assert_eq!(early.to_string().as_bytes()[14], b'7');
        assert_eq!(early.to_string().parse(), Ok(early));
    }

    #[test]
    fn heads_advance_over_their_dependencies() {
        let hash = |n| ChangeHash::from_bytes([n; 32]);
        let mut heads = Heads::default();
        heads.advance(hash(1), &[]);
        heads.advance(hash(2), &[]);
        assert_eq!(heads.hashes(), [hash(1), hash(2)]);
        heads.advance(hash(3), &[hash(1), hash(2)]);
        assert_eq!(heads.hashes(), [hash(3)]);
        assert_eq!(Heads::from_bytes(&heads.to_bytes()), Ok(heads));
    }

    #[test]
    fn a_minted_actor_is_never_a_derived_one() {
        let mut entropy = SplitMix64::new(7);
        let (ours, other) = (ReplicaId::mint(1, &mut entropy), ReplicaId::mint(1, &mut entropy));
        let actors: Vec<_> = (0..1_000).map(|_| Actor::mint(&ours, &mut entropy)).collect();
        assert!(actors.iter().all(|actor| !actor.is_derived() && actor.is_of(&ours) && !actor.is_of(&other)));
        assert!(Actor::derived(b"x").is_derived());
    }
}
