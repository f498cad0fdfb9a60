//! The `anabranch` command: replicas, sync and a server from the shell, and a demo of all of it.

mod args;
mod commands;
mod demo;
mod edit_syntax;
mod error;
mod output;
mod stopwatch;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};
use serde_json::json;

use crate::args::{Arguments, Command, Peer, Schema};
use crate::error::{CliError, one_line};
use crate::output::Output;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return not_understood(&error),
    };
    let mut output = Output::new(arguments.json);
    let outcome = run(arguments.command, &mut output).and_then(|()| output.flush());
    outcome.map_or_else(|error| report(&error, &mut output), |()| ExitCode::SUCCESS)
}

fn run(command: Option<Command>, output: &mut Output) -> Result<(), CliError> {
    match command {
        None => output.line(Arguments::command().render_help()),
        Some(Command::Demo(arguments)) => demo::run(&arguments, output),
        Some(Command::Serve(arguments)) => commands::serve::run(&arguments, output),
        Some(Command::Token(arguments)) => commands::token::run(arguments, output),
        Some(Command::Init(arguments)) => commands::init::run(&arguments, output),
        Some(Command::Create(arguments)) => commands::create::run(arguments, output),
        Some(Command::Edit(arguments)) => commands::edit::run(&arguments, output),
        Some(Command::Get(arguments)) => commands::read::get(&arguments, output),
        Some(Command::Delete(arguments)) => commands::edit::delete(&arguments, output),
        Some(Command::List(arguments)) => commands::read::list(&arguments, output),
        Some(Command::Query(arguments)) => commands::read::query(&arguments, output),
        Some(Command::Log(arguments)) => commands::read::log(&arguments, output),
        Some(Command::Sync(arguments)) => commands::sync::run(&arguments, output),
        Some(Command::Verify(arguments)) => commands::verify::run(&arguments, output),
        Some(Command::Repair(arguments)) => commands::repair::run(&arguments, output),
        Some(Command::Status(arguments)) => commands::status::run(&arguments, output),
        Some(Command::Outbox(arguments)) => commands::outbox::list(&arguments, output),
        Some(Command::Resend(arguments)) => commands::outbox::resend(&arguments, output),
        Some(Command::Discard(arguments)) => commands::outbox::discard(&arguments, output),
        Some(Command::Restore(arguments)) => commands::edit::restore(&arguments, output),
        Some(Command::Purge(arguments)) => commands::edit::purge(&arguments, output),
        Some(Command::Conflicts(arguments)) => commands::conflicts::list(&arguments, output),
        Some(Command::Resolve(arguments)) => commands::conflicts::resolve(&arguments, output),
        Some(Command::Why(arguments)) => commands::conflicts::why(&arguments, output),
        Some(Command::History(arguments)) => commands::history::run(&arguments, output),
        Some(Command::Diff(arguments)) => commands::history::diff(&arguments, output),
        Some(Command::Undo(arguments)) => commands::history::undo(&arguments, output),
        Some(Command::Redo(arguments)) => commands::history::redo(&arguments, output),
        Some(Command::Clone(arguments)) => commands::init::clone(&arguments, output),
        Some(Command::Peer(Peer::Listen(arguments))) => commands::peer::listen(&arguments, output),
        Some(Command::Peer(Peer::Dial(arguments))) => commands::peer::dial(&arguments, output),
        Some(Command::Schema(Schema::Diff(arguments))) => commands::schema::diff(&arguments, output),
        Some(Command::Schema(Schema::Apply(arguments))) => commands::schema::apply(&arguments, output),
    }
}

/// The error as one line, and as JSON for whoever reads the output with a program.
fn report(error: &CliError, output: &mut Output) -> ExitCode {
    let code = ExitCode::from(error.exit_code());
    if matches!(error, CliError::OutputClosed) {
        return code;
    }
    let message = one_line(&error.to_string());
    // If it cannot be printed, there is nobody to tell.
    drop(output.flush());
    if output.is_json() && !matches!(error, CliError::Differs(_)) {
        // If it cannot be printed, the line on standard error says it all the same.
        let printed = output.json(&json!({ "error": message, "kind": error.kind() }));
        drop(printed.and_then(|()| output.flush()));
    }
    complain(&message);
    code
}

/// Prints an error. There is nobody left to tell if even that fails.
fn complain(message: &str) {
    drop(writeln!(std::io::stderr(), "error: {message}"));
}

/// Help and version are printed as they are; a mistake becomes one line.
fn not_understood(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        return if error.print().is_ok() { ExitCode::SUCCESS } else { ExitCode::from(141) };
    }
    let text = error.to_string();
    let paragraphs = text.split("\n\n").filter(|part| !part.starts_with("Usage:") && !part.starts_with("For more"));
    let words = |part: &str| part.split_whitespace().collect::<Vec<_>>().join(" ");
    let what = paragraphs.map(words).collect::<Vec<_>>().join("; ");
    let what = what.trim_start_matches("error: ");
    let error = CliError::Usage(format!("{what} (see --help)"));
    report(&error, &mut Output::new(std::env::args().any(|argument| argument == "--json")))
}
