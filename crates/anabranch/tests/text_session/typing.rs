//! A real trace on one side, random edits on the other: nothing is lost, and all agree after every step.

use anabranch::{Collection, EntityId, Error, Replica};
use anabranch_core::{Entropy as _, SplitMix64};

use crate::support::Folder;
use crate::typist::{Trace, Typist};
use crate::{Note, notes, replica};

/// Patches typed of a trace, at most.
const PATCHES: usize = 2_000;

/// Two replicas, an editor on each.
struct Desk {
    replicas: [Replica; 2],
    notes: [Collection<Note>; 2],
    id: EntityId,
    typists: [Typist; 2],
    dice: SplitMix64,
}

impl Desk {
    fn new(folder: &Folder, text: &str, seed: u64) -> Result<Self, Error> {
        let replicas = ["a.db", "b.db"].map(|name| replica(folder, name));
        let notes = [notes(&replicas[0]), notes(&replicas[1])];
        let id = notes[0].create(Note { body: text.into(), ..Note::default() }).wait()?;
        replicas[0].exchange(&replicas[1])?;
        let [here, there] = [&notes[0], &notes[1]].map(|notes| notes.text_session(id, "body").wait());
        let typists = [Typist::new(here?), Typist::new(there?)];
        Ok(Self { replicas, notes, id, typists, dice: SplitMix64::new(seed) })
    }

    fn roll(&mut self, sides: usize) -> usize {
        usize::try_from(self.dice.next_u64() % u64::try_from(sides).expect("sides")).expect("a side")
    }

    /// The other one inserts, or deletes, a little somewhere.
    fn disturb(&mut self, deletes: bool) -> Result<(), Error> {
        let length = self.typists[1].text().chars().count();
        let at = self.roll(length + 1);
        let delete = if deletes { self.roll(4).min(length - at) } else { 0 };
        let insert = ["", "x", "🏝️", "two words", "\n"][self.roll(5)];
        self.typists[1].replace(at, delete, insert)
    }

    fn meet(&self) -> Result<(), Error> {
        self.replicas[0].exchange(&self.replicas[1])?;
        Ok(())
    }

    /// After this each editor shows its document, and knows it.
    fn agree(&mut self) -> Result<(), Error> {
        for (typist, notes) in self.typists.iter_mut().zip(&self.notes) {
            typist.session.flush().wait()?;
            typist.take()?;
            let document = notes.get(self.id)?.expect("the note").value.body;
            assert_eq!(typist.session.text(), *document);
            assert_eq!(typist.text(), *document);
            assert!(typist.session.is_saved());
        }
        Ok(())
    }
}

fn type_beside_others(trace: &Trace, seed: u64, deletes: bool) -> Result<(), Error> {
    let folder = Folder::new();
    let mut desk = Desk::new(&folder, &trace.start_content, seed)?;
    for patch in trace.patches().take(PATCHES) {
        desk.typists[0].patch(patch)?;
        if desk.roll(3) == 0 {
            desk.disturb(deletes)?;
        }
        if desk.roll(4) == 0 {
            desk.meet()?;
        }
        desk.agree()?;
    }
    desk.meet()?;
    desk.agree()?;
    assert_eq!(desk.typists[0].text(), desk.typists[1].text());
    if !deletes && trace.patches().count() <= PATCHES {
        assert_eq!(desk.typists[0].own_text(), trace.end_content, "not a key is lost");
    }
    Ok(())
}

#[test]
fn a_trace_typed_beside_insertions_is_all_there() -> Result<(), Error> {
    type_beside_others(&Trace::bundled(), 1, false)
}

#[test]
fn a_trace_typed_beside_edits_of_all_kinds_is_the_same_for_all() -> Result<(), Error> {
    type_beside_others(&Trace::bundled(), 2, true)?;
    Trace::real().iter().try_for_each(|trace| type_beside_others(trace, 3, true))
}

/// As fast as it goes: writes are under way while keys come in and others' text is taken.
#[test]
fn nobody_has_to_wait_for_anybody() -> Result<(), Error> {
    let trace = Trace::bundled();
    let folder = Folder::new();
    let mut desk = Desk::new(&folder, "", 4)?;
    for patch in trace.patches() {
        desk.typists[0].patch(patch)?;
        match desk.roll(8) {
            0 => desk.disturb(false)?,
            1 => desk.typists[0].take()?,
            2 => desk.typists[1].take()?,
            3 if desk.roll(8) == 0 => desk.meet()?,
            _ => {}
        }
        for typist in &desk.typists {
            assert_eq!(typist.session.text(), typist.text());
        }
    }
    desk.agree()?;
    desk.meet()?;
    desk.agree()?;
    assert_eq!(desk.typists[0].text(), desk.typists[1].text());
    assert_eq!(desk.typists[0].own_text(), trace.end_content);
    Ok(())
}
