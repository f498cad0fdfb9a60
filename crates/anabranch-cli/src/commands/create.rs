//! `create`: one entity from the command line, or many from standard input.

use std::future::Future as _;
use std::io::{BufRead as _, StdinLock};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::task::{Context, Poll, Waker};

use anabranch::{Collection, Commit, EntityId};
use serde_json::{Map, Value, json};

use crate::args::Create;
use crate::commands;
use crate::edit_syntax;
use crate::error::CliError;
use crate::output::Output;

/// Writes that are under way at the same time: they share their fsyncs.
const IN_FLIGHT: usize = 512;

pub(crate) fn run(arguments: Create, output: &mut Output) -> Result<(), CliError> {
    let replica = commands::open(&arguments.file)?;
    let schema = commands::collection(&replica, &arguments.collection)?;
    let collection = replica.space(&arguments.space.space)?.untyped(&arguments.collection)?;
    if arguments.fields == ["-"] {
        return many(&collection, output);
    }
    let fields = match &arguments.data {
        Some(json) => object(json).map_err(|reason| CliError::Usage(format!("--data: {reason}")))?,
        None => edit_syntax::fields(&arguments.fields, schema).map_err(|error| CliError::Usage(error.to_string()))?,
    };
    let id = collection.create(fields).wait()?;
    print(id, output)
}

/// A line that has been read, and the write that it started.
struct Started {
    line: u64,
    write: Commit<EntityId>,
}

/// Creates an entity per line, and prints its id as soon as it is durable.
///
/// Reading and printing have a thread each: an id that is durable is printed while the next line is awaited.
/// The first bad line ends it; whatever has been started by then is finished, and printed.
fn many(collection: &Collection, output: &mut Output) -> Result<(), CliError> {
    let (sender, receiver) = sync_channel(IN_FLIGHT);
    let failed = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| read(std::io::stdin().lock(), collection, sender, &failed));
        let printed = print_all(&receiver, output, &failed);
        if matches!(printed, Err(CliError::OutputClosed)) {
            // The reader may wait for a line that never comes, and there is nobody to print to.
            std::process::exit(i32::from(CliError::OutputClosed.exit_code()));
        }
        drop(receiver);
        let read = reading.join().unwrap_or_else(|_| Err(CliError::Io("the reading thread panicked".to_owned())));
        printed.and(read)
    })
}

/// Reads to the end, or to the first bad line. Dropping `started` on return tells the printing to end, too.
fn read(
    mut input: StdinLock<'_>,
    collection: &Collection,
    started: SyncSender<Started>,
    failed: &AtomicBool,
) -> Result<(), CliError> {
    let (mut text, mut line) = (Vec::new(), 0);
    while !failed.load(Ordering::Relaxed) {
        text.clear();
        line += 1;
        let read = input.read_until(b'\n', &mut text);
        if read.map_err(|error| CliError::Io(format!("cannot read the standard input: {error}")))? == 0 {
            break;
        }
        let bad = |reason: String| CliError::Usage(format!("line {line}: {reason}"));
        let text = std::str::from_utf8(&text).map_err(|_| bad("not UTF-8".to_owned()))?.trim();
        if text.is_empty() {
            continue;
        }
        let fields = object(text).map_err(bad)?;
        if started.send(Started { line, write: collection.create(fields) }).is_err() {
            break;
        }
    }
    Ok(())
}

/// Prints the ids in order. What is durable is handed over before waiting for what is not.
fn print_all(receiver: &Receiver<Started>, output: &mut Output, failed: &AtomicBool) -> Result<(), CliError> {
    let mut outcome = Ok(());
    loop {
        let next = match receiver.try_recv() {
            Ok(next) => next,
            Err(_) => {
                output.flush()?;
                match receiver.recv() {
                    Ok(next) => next,
                    Err(_) => return outcome,
                }
            }
        };
        let Started { line, mut write } = next;
        let resolved = match Pin::new(&mut write).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(resolved) => resolved,
            Poll::Pending => {
                output.flush()?;
                write.wait()
            }
        };
        match resolved {
            Ok(id) => print(id, output)?,
            Err(error) if outcome.is_ok() => {
                failed.store(true, Ordering::Relaxed);
                outcome = Err(CliError::Usage(format!("line {line}: {error}")));
            }
            Err(_) => {}
        }
    }
}

fn print(id: EntityId, output: &mut Output) -> Result<(), CliError> {
    output.either(&json!({ "id": id }), id)
}

fn object(text: &str) -> Result<Map<String, Value>, String> {
    match serde_json::from_str(text) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err("expected a JSON object of fields".to_owned()),
        Err(error) => Err(format!("not a JSON object: {error}")),
    }
}
