//! `init`: makes a replica.

use anabranch::{Replica, Schema};
use serde_json::json;

use crate::args::Init;
use crate::error::CliError;
use crate::output::Output;

pub(crate) fn run(arguments: &Init, output: &mut Output) -> Result<(), CliError> {
    let text = std::fs::read_to_string(&arguments.schema)
        .map_err(|error| CliError::path("read", &arguments.schema, &error))?;
    let schema = Schema::from_toml(&text).map_err(anabranch::Error::from)?;
    let replica = Replica::at(&arguments.file).create(schema)?;
    let collections: Vec<_> = replica.schema().collections.keys().map(ToString::to_string).collect();
    let file = arguments.file.display().to_string();
    let text = format!("{file} is a replica with the collections {}", collections.join(", "));
    output.either(&json!({ "file": file, "replica": replica.id(), "collections": collections }), text)
}
