//! `verify`: whether a replica and its server hold the same.

use std::time::Duration;

use anabranch::{Difference, VerifyReport};
use serde_json::json;

use crate::args::Verify;
use crate::commands::{self, sync};
use crate::error::CliError;
use crate::output::{Output, count, size};

pub(crate) fn run(arguments: &Verify, output: &mut Output) -> Result<(), CliError> {
    let replica = commands::open(&arguments.file)?;
    let url = sync::server(&replica, arguments.server.as_deref(), &arguments.file)?;
    let sync = sync::signed_in(replica.sync(&url), arguments.token.read()?);
    let report = sync.verify(Duration::from_secs(arguments.timeout.into())).wait();
    let report = report.map_err(|error| CliError::Sync { message: format!("{url}: {error}"), kind: error.kind() })?;
    let mut object = json!(report);
    object["url"] = url.clone().into();
    object["same"] = report.is_same().into();
    if report.is_same() {
        return output.either(&object, format_args!("{url}: the same, {}", describe(&report)));
    }
    if output.is_json() {
        output.json(&object)?;
    } else {
        for differing in &report.differing {
            output.line(format_args!("{} {} {}", differing.space, differing.entity, tell(differing.difference)))?;
        }
    }
    let differing = report.differing.len();
    Err(CliError::Differs(format!("{url}: not the same: {differing} of {}", describe(&report))))
}

fn describe(report: &VerifyReport) -> String {
    let bytes = format!("{} out, {} in", size(report.bytes_sent), size(report.bytes_received));
    format!("{}; {bytes}, {}", count(report.entities, "entity"), count(report.round_trips, "round trip"))
}

const fn tell(difference: Difference) -> &'static str {
    match difference {
        Difference::Pending => "pending: waits here for the next sync",
        Difference::MissingThere => "missing there: the server has lost it",
        Difference::MissingHere => "missing here: the next sync brings it",
        Difference::Different => "different: here is something to send, and there something to fetch",
    }
}
