//! `edit`, `delete`, `restore` and `purge`.

use anabranch::{Edits, EntityRecord, Space};
use serde_json::json;

use crate::args::{Delete, Edit, OneEntity};
use crate::commands;
use crate::edit_syntax::{self, Target};
use crate::error::CliError;
use crate::output::Output;

pub(crate) fn run(arguments: &Edit, output: &mut Output) -> Result<(), CliError> {
    let replica = commands::open(&arguments.file)?;
    let space = replica.space(&arguments.space.space)?;
    let record = record(&space, &arguments.id)?;
    let collection = commands::collection(&replica, record.collection.as_str())?;
    let edits = edit_syntax::edits(&arguments.edits, &Target { collection, state: &record.state })
        .map_err(|error| CliError::Usage(error.to_string()))?;
    let changed = space
        .edit(record.id, |entity| {
            *entity = Edits::from(edits);
            entity
        })
        .wait()?;
    let text = format!("{} {}", record.id, if changed { "edited" } else { "is so already" });
    output.either(&json!({ "id": record.id, "changed": changed }), text)
}

pub(crate) fn delete(arguments: &Delete, output: &mut Output) -> Result<(), CliError> {
    let replica = commands::open(&arguments.file)?;
    let space = replica.space(&arguments.space.space)?;
    let id = record(&space, &arguments.id)?.id;
    space.delete(id).wait()?;
    output.either(&json!({ "id": id, "deleted": true }), format!("{id} deleted"))
}

pub(crate) fn restore(arguments: &OneEntity, output: &mut Output) -> Result<(), CliError> {
    let replica = commands::open(&arguments.file)?;
    let space = replica.space(&arguments.space.space)?;
    let id = record(&space, &arguments.id)?.id;
    space.restore(id).wait()?;
    output.either(&json!({ "id": id, "deleted": false }), format!("{id} restored"))
}

pub(crate) fn purge(arguments: &OneEntity, output: &mut Output) -> Result<(), CliError> {
    let replica = commands::open(&arguments.file)?;
    let space = replica.space(&arguments.space.space)?;
    let id = record(&space, &arguments.id)?.id;
    space.purge(id).wait()?;
    let purged = space.get(id)?.is_some_and(|record| record.purged);
    let text = if purged { "is purged already" } else { "will be purged when the server has agreed: sync" };
    output.either(&json!({ "id": id, "purged": purged }), format!("{id} {text}"))
}

/// The entity whose id begins so.
pub(super) fn record(space: &Space, prefix: &str) -> Result<EntityRecord, CliError> {
    let id = space.find(prefix).map_err(|error| CliError::NotFound(error.to_string()))?;
    space.get(id)?.ok_or_else(|| CliError::NotFound(format!("there is no entity {id}")))
}
