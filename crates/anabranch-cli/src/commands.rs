//! The commands, one file each (those that only read share one), and what they have in common.

pub(crate) mod create;
pub(crate) mod edit;
pub(crate) mod init;
pub(crate) mod read;
pub(crate) mod serve;
pub(crate) mod status;
pub(crate) mod sync;
mod watch;

use std::path::Path;

use anabranch::Replica;
use anabranch_core::Collection;

use crate::error::CliError;

/// Opens a replica that is there already.
pub(crate) fn open(file: &Path) -> Result<Replica, CliError> {
    Ok(Replica::at(file).existing()?)
}

/// A collection of the replica's schema.
fn collection<'a>(replica: &'a Replica, name: &str) -> Result<&'a Collection, CliError> {
    let schema = replica.schema();
    schema.collection(name).ok_or_else(|| {
        let known: Vec<_> = schema.collections.keys().map(ToString::to_string).collect();
        CliError::NotFound(format!("the schema has no collection {name:?}; it has {}", known.join(", ")))
    })
}
