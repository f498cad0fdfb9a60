//! Makes `demo/typing.json.gz`, a small keystroke trace of our own, and checks that the bundled file is what
//! this makes. After a change of the session: `cargo test -p anabranch-cli --test cli -- --ignored`.

use std::io::{Read as _, Write as _};
use std::path::PathBuf;

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

/// What somebody does at a keyboard.
enum Step {
    /// Types this, a character at a time. `⌫` is the backspace key.
    Type(&'static str),
    /// Puts the cursor behind the first occurrence of this text.
    Behind(&'static str),
    /// Selects this text (the first occurrence) and types over it: the first key deletes it.
    Over(&'static str, &'static str),
    /// Pastes this at once.
    Paste(&'static str),
    /// Puts the cursor at the end.
    End,
}
use Step::{Behind, End, Over, Paste, Type};

const SESSION: &[Step] = &[
    Type("Notes form⌫⌫⌫rom the boat\n\nWe left teh⌫⌫he harbour at six. No network beyond the lihgth⌫⌫⌫⌫ghthouse, "),
    Type("as usual, so everyone just kept writting⌫⌫⌫⌫ing.\n"),
    Behind("harbour at six"),
    Type(" in the mronign⌫⌫⌫⌫⌫⌫orning"),
    End,
    Type("\nTo buy when we are back:\n- oats\n- lemons\n- cofee⌫⌫fee (the good one)\n"),
    Behind("- oats"),
    Type(" (2 kg)"),
    Over("as usual", "of course"),
    End,
    Paste("- a rope, 12 m\n"),
    Type(
        "\nMara says the map is wrong about the sandbank; I belive⌫⌫eve her. She drew the real shpe⌫⌫ape:  ~~~~ 🏝️ ~~\n",
    ),
    Behind("the sandbank"),
    Type(" (east side)"),
    Over("just kept", "simply went on"),
    Behind("Notes from the boat"),
    Type(", day 3"),
    End,
    Type("Tonight: größer waves, smaller crew. Thre⌫⌫ree of us are alseep⌫⌫⌫⌫⌫sleep alreday⌫⌫⌫ady.\n"),
    Over("smaller crew", "a tired crew"),
    Over("simply went on writing", "wrote on, each in their own copy"),
    End,
    Type("\nWhen we are back in reach, all of this finds its way together agian⌫⌫⌫ain. Thats⌫'s the idea, anyway.\n"),
];

/// The text, and the patches that lead to it.
struct Typist {
    text: Vec<char>,
    cursor: usize,
    txns: Vec<Value>,
}

impl Typist {
    fn replace(&mut self, at: usize, delete: usize, insert: &str) {
        self.text.splice(at..at + delete, insert.chars());
        self.cursor = at + insert.chars().count();
        self.txns.push(json!({ "patches": [[at, delete, insert]] }));
    }

    fn find(&self, needle: &str) -> usize {
        let needle: Vec<char> = needle.chars().collect();
        let found = self.text.windows(needle.len()).position(|window| window == needle);
        found.unwrap_or_else(|| panic!("{} is not in the text", needle.iter().collect::<String>()))
    }

    fn key(&mut self, key: char) {
        match key {
            '⌫' => self.replace(self.cursor - 1, 1, ""),
            typed => self.replace(self.cursor, 0, typed.encode_utf8(&mut [0; 4])),
        }
    }

    fn take(&mut self, step: &Step) {
        match step {
            Type(text) => text.chars().for_each(|key| self.key(key)),
            Behind(needle) => self.cursor = self.find(needle) + needle.chars().count(),
            Over(old, new) => {
                let mut keys = new.chars();
                let first = keys.next().map(String::from).unwrap_or_default();
                self.replace(self.find(old), old.chars().count(), &first);
                keys.for_each(|key| self.key(key));
            }
            Paste(text) => self.replace(self.cursor, 0, text),
            End => self.cursor = self.text.len(),
        }
    }
}

fn trace() -> Value {
    let mut typist = Typist { text: Vec::new(), cursor: 0, txns: Vec::new() };
    SESSION.iter().for_each(|step| typist.take(step));
    let end: String = typist.text.iter().collect();
    json!({ "startContent": "", "endContent": end, "txns": typist.txns })
}

fn file() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("demo/typing.json.gz")
}

#[test]
fn the_bundled_trace_is_this_session() {
    let mut unpacked = String::new();
    GzDecoder::new(std::fs::File::open(file()).unwrap()).read_to_string(&mut unpacked).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&unpacked).unwrap(), trace());
}

#[test]
#[ignore = "writes the bundled file anew"]
fn write_the_bundled_trace() {
    let mut packed = GzEncoder::new(Vec::new(), Compression::best());
    packed.write_all(trace().to_string().as_bytes()).unwrap();
    std::fs::write(file(), packed.finish().unwrap()).unwrap();
}
