//! Somebody at a keyboard: a keystroke trace, typed into a session while others write in between.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anabranch::{Error, TextSession, TextSplice};
use flate2::read::GzDecoder;
use serde::Deserialize;

/// A recorded editing history: replacements, as position, deleted characters, inserted text.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Trace {
    pub(crate) start_content: String,
    pub(crate) end_content: String,
    txns: Vec<Txn>,
}

#[derive(Deserialize)]
struct Txn {
    patches: Vec<(usize, usize, String)>,
}

impl Trace {
    /// The trace that the demo types; `anabranch-cli/tests/cli/typing_trace.rs` makes it.
    pub(crate) fn bundled() -> Self {
        Self::read(&PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../anabranch-cli/demo/typing.json.gz"))
    }

    /// Real traces, if there are some: `ANABRANCH_TRACES` names a folder of them.
    pub(crate) fn real() -> Vec<Self> {
        let Some(folder) = std::env::var_os("ANABRANCH_TRACES") else { return Vec::new() };
        let files = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
        files.filter(|path| path.extension().is_some_and(|it| it == "gz")).map(|path| Self::read(&path)).collect()
    }

    fn read(path: &Path) -> Self {
        let mut json = String::new();
        GzDecoder::new(File::open(path).expect("a trace")).read_to_string(&mut json).expect("a gzipped trace");
        serde_json::from_str(&json).expect("a trace")
    }

    pub(crate) fn patches(&self) -> impl Iterator<Item = &(usize, usize, String)> {
        self.txns.iter().flat_map(|txn| &txn.patches)
    }
}

/// Types a trace into a session. The trace knows only its own text, so the typist keeps track of who wrote what.
pub(crate) struct Typist {
    pub(crate) session: TextSession,
    /// The editor's own copy of the text, and of each character whether it is the trace's.
    editor: Vec<(char, bool)>,
}

impl Typist {
    pub(crate) fn new(session: TextSession) -> Self {
        let editor = session.text().chars().map(|c| (c, true)).collect();
        Self { session, editor }
    }

    /// The text as the editor has it.
    pub(crate) fn text(&self) -> String {
        self.editor.iter().map(|(c, _)| *c).collect()
    }

    /// What is left of the trace's text.
    pub(crate) fn own_text(&self) -> String {
        self.editor.iter().filter(|(_, own)| *own).map(|(c, _)| *c).collect()
    }

    /// Makes one patch of the trace. What others wrote stays; what they deleted of the trace's text is skipped.
    pub(crate) fn patch(&mut self, (at, delete, insert): &(usize, usize, String)) -> Result<(), Error> {
        let own: Vec<usize> = self.editor.iter().enumerate().filter(|(_, (_, own))| *own).map(|(at, _)| at).collect();
        let doomed: Vec<usize> = own.iter().copied().skip(*at).take(*delete).collect();
        let behind = at.checked_sub(1).and_then(|before| own.get(before).or(own.last()));
        let place = behind.map_or(0, |before| before + 1);
        for at in doomed.iter().rev() {
            self.replace(*at, 1, "")?;
        }
        self.replace(place, 0, insert)
    }

    /// Types this at a place of the whole text.
    pub(crate) fn replace(&mut self, at: usize, delete: usize, insert: &str) -> Result<(), Error> {
        self.session.splice(at, delete, insert)?;
        self.editor.splice(at..at + delete, insert.chars().map(|c| (c, true)));
        Ok(())
    }

    /// Takes what others have written.
    pub(crate) fn take(&mut self) -> Result<(), Error> {
        for TextSplice { at, delete, insert } in self.session.poll()? {
            self.editor.splice(at..at + delete, insert.chars().map(|c| (c, false)));
        }
        Ok(())
    }
}
