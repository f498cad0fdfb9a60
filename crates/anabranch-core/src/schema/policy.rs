//! How contested values settle.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::document::Contender;

/// How a slot with several concurrent values settles: a pure function of values, stamps and op ids.
///
/// Only *concurrent* writes are ever settled. A write that has seen another always wins over it, whatever the
/// policy and whatever the clocks say. Ties end in the op id.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
#[non_exhaustive]
pub enum Policy {
    /// The last writer wins: the greatest stamp.
    #[default]
    Lww,
    /// The first writer wins: the smallest stamp. The field is write-once: a value that is there, uncontested,
    /// cannot be overwritten.
    FirstWriter,
    /// Automerge's own winner: the greatest op id, without looking at a clock.
    Causal,
    /// The greatest value: null, then booleans, numbers, strings, arrays, objects.
    Max,
    /// The smallest value, in the same order.
    Min,
    /// A person decides. Until then the last writer's value is shown, and the conflict is listed as open.
    Manual,
    /// A function that the application registers.
    Custom(CustomPolicy),
}

/// A function from contenders to the value that is shown.
pub type Settle = dyn Fn(&[Contender]) -> Value + Send + Sync;

/// A policy of the application's own: a pure function, known by name and version.
///
/// The function gets the contenders, the last writer's first, and returns any value: one of theirs or a new
/// one. It must depend on nothing else, for every replica must come to the same value.
#[derive(Clone)]
pub struct CustomPolicy {
    name: Arc<str>,
    version: u32,
    function: Option<Arc<Settle>>,
}

impl CustomPolicy {
    /// The policy of this name and version, without its function.
    #[must_use]
    pub fn new(name: &str, version: u32) -> Self {
        Self { name: name.into(), version, function: None }
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The version, raised whenever the function changes.
    #[must_use]
    pub const fn version(&self) -> u32 {
        self.version
    }

    /// The function, once it has been registered.
    #[must_use]
    pub fn function(&self) -> Option<&Settle> {
        self.function.as_deref()
    }

    pub(crate) fn bind(&mut self, function: Arc<Settle>) {
        self.function = Some(function);
    }
}

impl fmt::Debug for CustomPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.version)
    }
}

impl PartialEq for CustomPolicy {
    fn eq(&self, other: &Self) -> bool {
        (&self.name, self.version) == (&other.name, other.version)
    }
}

impl Eq for CustomPolicy {}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lww => "lww",
            Self::FirstWriter => "first_writer",
            Self::Causal => "causal",
            Self::Max => "max",
            Self::Min => "min",
            Self::Manual => "manual",
            Self::Custom(custom) => return write!(f, "custom {}@{}", custom.name, custom.version),
        })
    }
}

/// A policy as a schema file has it: a word, or the name and version of a function.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Word(String),
    Custom { custom: String, version: u32 },
}

impl TryFrom<Written> for Policy {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let word = match written {
            Written::Custom { custom, version } => return Ok(Self::Custom(CustomPolicy::new(&custom, version))),
            Written::Word(word) => word,
        };
        Ok(match word.as_str() {
            "lww" => Self::Lww,
            "first_writer" => Self::FirstWriter,
            "causal" => Self::Causal,
            "max" => Self::Max,
            "min" => Self::Min,
            "manual" => Self::Manual,
            _ => {
                let known = "lww, first_writer, causal, max, min, manual, or { custom = \"name\", version = 1 }";
                return Err(format!("unknown policy {word:?}; the policies are {known}"));
            }
        })
    }
}

impl From<Policy> for Written {
    fn from(policy: Policy) -> Self {
        match policy {
            Policy::Custom(custom) => Self::Custom { custom: custom.name.to_string(), version: custom.version },
            word => Self::Word(word.to_string()),
        }
    }
}
