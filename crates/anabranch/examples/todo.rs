//! A to-do list in a terminal, with its status live.
//!
//! ```sh
//! cargo run -p anabranch --example todo -- todo.db                            # offline
//! cargo run -p anabranch --example todo -- todo.db http://127.0.0.1:7700     # with `anabranch serve` running, or not
//! ```
//! Commands: `add TEXT`, `done N`, `undo N`, `text N NEW TEXT`, `remove N`, `list`, `quit`. Run it twice, on two
//! files, and see the one follow the other.

use std::error::Error;
use std::io::{BufRead as _, Write as _, stdin, stdout};

use anabranch::{Collection, Entity, EntityId, Listed, Record, Replica, Status, Text, schema};
use serde::{Deserialize, Serialize};

/// More than anybody has to do.
const ALL: u32 = 1_000;

#[derive(Debug, Default, Entity, Serialize, Deserialize)]
struct Todo {
    #[field(required, max_length = 200)]
    text: Text,
    done: bool,
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let file = arguments.next().ok_or("which file? todo FILE [URL]")?;
    let replica = Replica::open(file, schema![Todo])?;
    let todos = replica.space("todo")?.collection::<Todo>();
    let _sync = arguments.next().map(|url| replica.sync(&url).space("todo")?.start()).transpose()?;

    // Both are called now, and again whenever there is news: typed here, or come from another replica.
    let mut shown = String::new();
    let _list = todos.watch_list(ALL).subscribe(move |todos| show(&mut shown, todos.map(|todos| listed(&todos))))?;
    let mut last = String::new();
    let _status =
        replica.watch_status().subscribe(move |status| show(&mut last, status.map(|status| line(&status))))?;

    for command in stdin().lock().lines() {
        let command = command?;
        if command.trim() == "quit" {
            break;
        }
        // What is wrong with one command is no reason to stop.
        if let Err(error) = run(&todos, command.trim()) {
            println!("{error}");
        }
    }
    Ok(())
}

fn run(todos: &Collection<Todo>, command: &str) -> Result<(), Box<dyn Error>> {
    let (verb, rest) = command.split_once(' ').unwrap_or((command, ""));
    match verb {
        "" => {}
        "add" => drop(todos.create(Todo { text: rest.into(), done: false }).wait()?),
        "done" => drop(todos.edit(nth(todos, rest)?, |todo| todo.done = true).wait()?),
        "undo" => drop(todos.edit(nth(todos, rest)?, |todo| todo.done = false).wait()?),
        "text" => {
            let (number, text) = rest.split_once(' ').ok_or("text N NEW TEXT")?;
            let text = Text::from(text);
            // Becomes the smallest difference, so that what somebody else changes in it meanwhile stays.
            todos.edit(nth(todos, number)?, |todo| todo.text = text).wait()?;
        }
        "remove" => todos.delete(nth(todos, rest)?).wait()?,
        "list" => println!("{}", listed(&todos.list(None, ALL)?)),
        _ => println!("add TEXT, done N, undo N, text N NEW TEXT, remove N, list, quit"),
    }
    Ok(())
}

fn nth(todos: &Collection<Todo>, number: &str) -> Result<EntityId, Box<dyn Error>> {
    let place: usize = number.trim().parse()?;
    let todos = todos.list(None, ALL)?;
    let found = place.checked_sub(1).and_then(|at| todos.get(at));
    Ok(found.ok_or("there is no such thing to do")?.id)
}

fn listed(todos: &Listed<Todo>) -> String {
    let line = |(at, todo): (usize, &Record<Todo>)| {
        let mark = if todo.done { 'x' } else { ' ' };
        let local = if todo.pending > 0 { "  (not on the server yet)" } else { "" };
        format!("{:3}. [{mark}] {}{local}", at + 1, todo.text)
    };
    // What something else has written so that it is no `Todo`.
    let misfits = todos.misfits.iter().map(|(_, error)| format!("  ?  {error}"));
    todos.iter().enumerate().map(line).chain(misfits).collect::<Vec<_>>().join("\n")
}

fn line(status: &Status) -> String {
    format!("-- {:?}, {} pending, {} conflicts", status.phase, status.pending, status.conflicts)
}

/// Prints what is news.
fn show(shown: &mut String, text: Result<String, anabranch::Error>) {
    let text = text.unwrap_or_else(|error| format!("-- {error}"));
    if text != *shown {
        // A terminal that has gone away is no reason to panic on the library's thread.
        drop(writeln!(stdout(), "{text}"));
        *shown = text;
    }
}
