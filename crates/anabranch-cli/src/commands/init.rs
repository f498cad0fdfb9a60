//! `init` and `clone`: make a replica.

use std::path::Path;
use std::time::Duration;

use anabranch::Replica;
use serde_json::json;

use crate::args::{Clone, Init};
use crate::commands;
use crate::error::CliError;
use crate::output::Output;

pub(crate) fn run(arguments: &Init, output: &mut Output) -> Result<(), CliError> {
    let schema = commands::schema::read(&arguments.schema)?;
    let replica = Replica::at(&arguments.file).create(schema)?;
    report(&replica, &arguments.file, output)
}

pub(crate) fn clone(arguments: &Clone, output: &mut Output) -> Result<(), CliError> {
    let url = commands::sync::address(&arguments.url)?;
    let deadline = Duration::from_secs(arguments.timeout.into());
    let (file, space, token) = (&arguments.file, &arguments.space.space, arguments.token.read()?);
    let signed_in = |sync| commands::sync::signed_in(sync, token);
    let replica = Replica::at(file).clone_space_with(&url, space, deadline, signed_in)?;
    report(&replica, &arguments.file, output)
}

fn report(replica: &Replica, file: &Path, output: &mut Output) -> Result<(), CliError> {
    let collections: Vec<_> = replica.schema().collections.keys().map(ToString::to_string).collect();
    let file = file.display().to_string();
    let text = format!("{file} is a replica with the collections {}", collections.join(", "));
    output.either(&json!({ "file": file, "replica": replica.id(), "collections": collections }), text)
}
