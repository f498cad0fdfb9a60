//! The progress of a first sync, for a person who waits.

use std::io::{IsTerminal as _, Write as _, stderr};

use anabranch::{FirstSyncProgress, Replica, Subscription};

use crate::error::CliError;
use crate::output::{Output, size};

/// Shows the progress on the terminal, if there is one, until the guard is dropped.
pub(super) fn show(replica: &Replica, output: &Output) -> Result<Option<Subscription>, CliError> {
    if output.is_json() || !stderr().is_terminal() {
        return Ok(None);
    }
    let mut shown = false;
    let shown = replica.watch_status().subscribe(move |status| {
        let progress = status.ok().and_then(|status| status.first_sync);
        let line = progress.map(|progress| describe(&progress));
        if shown || line.is_some() {
            shown = line.is_some();
            // Nobody can be told that the terminal is gone.
            write!(stderr(), "\r\x1b[K{}", line.unwrap_or_default()).ok();
        }
    })?;
    Ok(Some(shown))
}

pub(super) fn describe(progress: &FirstSyncProgress) -> String {
    let FirstSyncProgress { entities, entities_total, bytes, bytes_total, remaining_millis, .. } = progress;
    let rest = match remaining_millis {
        Some(millis) => format!(", about {} s left", millis.div_ceil(1_000)),
        None => String::new(),
    };
    format!("{entities} of {entities_total} entities, {} of {}{rest}", size(*bytes), size(*bytes_total))
}
