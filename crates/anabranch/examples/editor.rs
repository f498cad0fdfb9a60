//! Two editors type into the same text at once, on two replicas.
//!
//! `cargo run -p anabranch --example editor`

use anabranch::{Entity, Replica, Text, TextSession, schema};
use serde::{Deserialize, Serialize};

#[derive(Debug, Default, Entity, Serialize, Deserialize)]
struct Page {
    body: Text,
}

/// An editor: a session, and the caret in it.
struct Editor {
    name: &'static str,
    session: TextSession,
    caret: anabranch::TextCursor,
}

impl Editor {
    fn open(name: &'static str, session: TextSession, at: usize) -> Result<Self, anabranch::Error> {
        let caret = session.cursor(at)?;
        Ok(Self { name, session, caret })
    }

    /// A key is pressed: the text on the screen changes at once, the caret with it.
    fn press(&self, key: char) -> Result<(), anabranch::Error> {
        let at = self.caret.position();
        match key {
            '⌫' => self.session.splice(at.saturating_sub(1), at.min(1), ""),
            key => self.session.splice(at, 0, key.encode_utf8(&mut [0; 4])),
        }
    }

    /// Takes what others have typed: a real editor would apply these splices to its buffer.
    fn refresh(&self) -> Result<(), anabranch::Error> {
        self.session.flush().wait()?;
        for splice in self.session.poll()? {
            println!("{:>8} gets {:?} at {}, {} deleted", self.name, splice.insert, splice.at, splice.delete);
        }
        Ok(())
    }

    fn print(&self) {
        let text = self.session.text();
        let caret = anabranch::text_index::to_utf8(&text, self.caret.position()).unwrap_or(text.len());
        println!("{:>8} sees {}|{}", self.name, &text[..caret], &text[caret..]);
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let replicas =
        [folder.path().join("ada.db"), folder.path().join("bob.db")].map(|path| Replica::open(path, schema![Page]));
    let [ada, bob] = replicas;
    let (ada, bob) = (ada?, bob?);
    let pages = ada.space("book")?.collection::<Page>();
    let id = pages.create(Page { body: "The is late.".into() }).wait()?;
    ada.exchange(&bob)?;

    let there = bob.space("book")?.collection::<Page>();
    let editors = [
        Editor::open("Ada", pages.text_session(id, "body").wait()?, 4)?,
        Editor::open("Bob", there.text_session(id, "body").wait()?, 11)?,
    ];
    let keys = ["train 🚂⌫⌫ ", " agaim⌫n"].map(|keys| keys.chars().collect::<Vec<_>>());
    for turn in 0..keys[0].len().max(keys[1].len()) {
        for (editor, keys) in editors.iter().zip(&keys) {
            keys.get(turn).map(|key| editor.press(*key)).transpose()?;
        }
        // Now and then they have a connection.
        if turn % 4 == 3 {
            editors.iter().try_for_each(Editor::refresh)?;
            ada.exchange(&bob)?;
            editors.iter().try_for_each(Editor::refresh)?;
            editors.iter().for_each(Editor::print);
        }
    }
    editors.iter().try_for_each(Editor::refresh)?;
    ada.exchange(&bob)?;
    editors.iter().try_for_each(Editor::refresh)?;
    editors.iter().for_each(Editor::print);
    assert_eq!(editors[0].session.text(), editors[1].session.text());
    Ok(())
}
