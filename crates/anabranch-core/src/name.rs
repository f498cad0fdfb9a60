//! Names of spaces, collections and fields: short, validated, cheap to compare.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use bincode::de::{BorrowDecoder, Decoder};
use bincode::enc::Encoder;
use bincode::error::{DecodeError, EncodeError};
use bincode::{BorrowDecode, Decode, Encode};
use serde::{Deserialize, Serialize};

/// The longest name, in bytes.
pub const MAX_NAME_BYTES: usize = 64;

/// Names that are taken by the store's own tables, so no collection may have them.
pub const RESERVED_COLLECTIONS: &[&str] = &[
    "actors",
    "changes",
    "conflicts",
    "damage",
    "entities",
    "links",
    "meta",
    "orphans",
    "outbox",
    "quarantine",
    "refused",
    "remotes",
    "seals",
    "snapshots",
    "spaces",
    "sync_state",
];

/// A name that breaks the rules of its kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is not a valid {kind} name: {rule}")]
pub struct NameError {
    kind: &'static str,
    name: String,
    rule: &'static str,
}

impl NameError {
    fn new(kind: &'static str, name: &str, rule: &'static str) -> Self {
        // A hostile name must not fill a log.
        let name = name.chars().take(MAX_NAME_BYTES).collect();
        Self { kind, name, rule }
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $check:path) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(Arc<str>);

        impl $type {
            /// Checks a name.
            ///
            /// # Errors
            /// [`NameError`] says which rule it breaks.
            pub fn new(name: impl AsRef<str>) -> Result<Self, NameError> {
                let name = name.as_ref();
                $check(name)?;
                Ok(Self(name.into()))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl FromStr for $type {
            type Err = NameError;
            fn from_str(name: &str) -> Result<Self, NameError> {
                Self::new(name)
            }
        }

        impl TryFrom<String> for $type {
            type Error = NameError;
            fn try_from(name: String) -> Result<Self, NameError> {
                Self::new(name)
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> Self {
                name.0.as_ref().to_owned()
            }
        }

        impl std::borrow::Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl Encode for $type {
            fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
                self.as_str().encode(encoder)
            }
        }

        impl<C> Decode<C> for $type {
            fn decode<D: Decoder<Context = C>>(decoder: &mut D) -> Result<Self, DecodeError> {
                let name = String::decode(decoder)?;
                Self::new(name).map_err(|error| DecodeError::OtherString(error.to_string()))
            }
        }

        impl<'de, C> BorrowDecode<'de, C> for $type {
            fn borrow_decode<D: BorrowDecoder<'de, Context = C>>(decoder: &mut D) -> Result<Self, DecodeError> {
                Self::decode(decoder)
            }
        }
    };
}

name!(
    /// The name of a space, the unit of replication, access and cursor: `[A-Za-z0-9][A-Za-z0-9_:-]{0,63}`.
    SpaceName,
    check_space
);
name!(
    /// The name of a collection: `[A-Za-z_][A-Za-z0-9_]{0,63}`, and no name of a table of the store.
    CollectionName,
    check_collection
);
name!(
    /// The name of a field: `[A-Za-z_][A-Za-z0-9_]{0,63}`, and not `id` (the view's own column).
    FieldName,
    check_field
);

fn check_space(name: &str) -> Result<(), NameError> {
    let rule = "a letter or digit, then up to 63 letters, digits, `_`, `:` or `-`";
    let mut bytes = name.bytes();
    let first = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric());
    let rest = bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b':' | b'-'));
    if first && rest && name.len() <= MAX_NAME_BYTES { Ok(()) } else { Err(NameError::new("space", name, rule)) }
}

fn check_identifier(kind: &'static str, name: &str) -> Result<(), NameError> {
    let rule = "a letter or `_`, then up to 63 letters, digits or `_`";
    let mut bytes = name.bytes();
    let first = bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    let rest = bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if first && rest && name.len() <= MAX_NAME_BYTES { Ok(()) } else { Err(NameError::new(kind, name, rule)) }
}

/// The name of the collection in which a space carries its schema. No application's schema may declare it.
const SCHEMA_COLLECTION: &str = "$schema";

impl CollectionName {
    /// The system's own collection, in which a space carries its schema.
    #[must_use]
    pub fn schema() -> Self {
        Self(SCHEMA_COLLECTION.into())
    }

    /// Whether this is a collection of the system's own, which applications neither declare nor write.
    #[must_use]
    pub fn is_system(&self) -> bool {
        self.as_str() == SCHEMA_COLLECTION
    }
}

fn check_collection(name: &str) -> Result<(), NameError> {
    if name == SCHEMA_COLLECTION {
        return Ok(());
    }
    check_identifier("collection", name)?;
    let lower = name.to_ascii_lowercase();
    if RESERVED_COLLECTIONS.contains(&lower.as_str()) || lower.starts_with("sqlite_") {
        return Err(NameError::new("collection", name, "it is the name of one of the store's own tables"));
    }
    Ok(())
}

fn check_field(name: &str) -> Result<(), NameError> {
    check_identifier("field", name)?;
    if name.eq_ignore_ascii_case("id") {
        return Err(NameError::new("field", name, "`id` is the entity's own id"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_their_rules() {
        for good in ["main", "0", "team:42-a_b", &"x".repeat(64)] {
            assert!(SpaceName::new(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a/b", "a b", "../x", "é", &"x".repeat(65)] {
            assert!(SpaceName::new(bad).is_err(), "{bad}");
        }
        for bad in ["", "1a", "a-b", "$x", "changes", "Entities", "sqlite_master", &"x".repeat(65)] {
            assert!(CollectionName::new(bad).is_err(), "{bad}");
        }
        for bad in ["id", "ID", "$deleted", "a.b", "a\"b"] {
            assert!(FieldName::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_error_does_not_repeat_a_long_name() {
        let error = SpaceName::new("/".repeat(10_000)).unwrap_err();
        assert!(error.to_string().len() < 300);
    }
}
