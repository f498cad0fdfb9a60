//! A promise that was broken.

use std::fmt;

/// What a checker found wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure(String);

impl Failure {
    pub(crate) fn new(what: impl fmt::Display) -> Self {
        Self(what.to_string())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}

/// Fails unless `holds`.
pub(crate) fn ensure(holds: bool, what: impl FnOnce() -> String) -> Result<(), Failure> {
    if holds { Ok(()) } else { Err(Failure(what())) }
}

/// Turns whatever should have worked into a failure.
pub(crate) fn broken<E: fmt::Display>(what: &'static str) -> impl FnOnce(E) -> Failure {
    move |error| Failure(format!("{what}: {error}"))
}
