//! Text sessions: editors on a text field, their own keys and those of others.

#[path = "../support/mod.rs"]
mod support;

mod rewritten;
mod sessions;
mod typing;
mod typist;

use anabranch::{Collection, Replica, Text};

use crate::support::Folder;

/// A note with a text.
#[derive(Debug, Default, anabranch::Entity, serde::Serialize, serde::Deserialize)]
struct Note {
    title: String,
    #[field(max_length = 100_000)]
    body: Text,
    #[field(max_length = 10)]
    short: Text,
}

fn replica(folder: &Folder, name: &str) -> Replica {
    Replica::open(folder.path(name), anabranch::schema![Note]).expect("a replica")
}

fn notes(replica: &Replica) -> Collection<Note> {
    replica.space("main").expect("a space").collection()
}
