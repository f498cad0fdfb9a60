//! What an edit writes: nothing, or the smallest difference.

use anabranch::{EntityId, Error, ErrorKind, Replica, Text};

use crate::entities::{Note, Step, notes, replica};
use crate::support::{Folder as Files, GUARD, TestServer, main_space};

fn example() -> Note {
    Note {
        title: "Shopping".to_owned(),
        body: "milk".into(),
        stars: 1.into(),
        tags: ["home".to_owned()].into(),
        steps: [Step { text: "go".to_owned(), ..Step::default() }].into(),
        numbers: [1, 2, 2, 3].into(),
        prices: [("milk", 1.5)].into(),
        table: [("a", [1, 2].into())].into(),
        rows: [[("x", "y".to_owned())].into()].into(),
        due: Some("tomorrow".to_owned()),
        settings: [("bold".to_owned(), true)].into(),
        folder: None,
    }
}

fn changes(replica: &Replica, id: EntityId) -> usize {
    replica.store().read(|read| read.log(&main_space(), Some(id))).expect("a log").len()
}

#[test]
fn an_edit_that_changes_nothing_writes_nothing() -> Result<(), Error> {
    let files = Files::new();
    let replica = replica(&files, "a.db");
    let notes = notes(&replica);
    for note in [example(), Note::default()] {
        let id = notes.create(note.clone()).wait()?;
        let (before, version) = (changes(&replica, id), notes.get(id)?.expect("the note").version);
        assert!(!notes.edit(id, |_| ()).wait()?);
        let same = note.clone();
        assert!(!notes.edit(id, move |it| *it = same).wait()?, "equal, though not the same");
        let there_and_back = notes.edit(id, |it| {
            it.title.push('x');
            it.title.pop();
            it.stars += 3;
            it.stars -= 3;
            it.numbers.push(9);
            it.numbers.pop();
            it.body.push_str(" and more");
            it.body.remove(it.body.length() - 9..);
        });
        assert!(!there_and_back.wait()?);
        assert_eq!(changes(&replica, id), before);
        assert_eq!(notes.get(id)?.expect("the note").version, version);
    }
    Ok(())
}

#[test]
fn one_field_changed_is_one_change_that_touches_one_field() -> Result<(), Error> {
    type Edit = fn(&mut Note);
    let edits: [(&str, Edit); 12] = [
        ("title", |note| note.title.push('!')),
        ("body", |note| note.body.push_str(", eggs")),
        ("stars", |note| note.stars += 1),
        ("tags", |note| {
            note.tags.insert("food".to_owned());
        }),
        ("steps", |note| note.steps[0].done = true),
        ("numbers", |note| note.numbers.insert(0, 7)),
        ("prices", |note| {
            note.prices.insert("eggs", 2.5);
        }),
        ("table", |note| note.table.get_mut("a").expect("a").push(3)),
        ("rows", |note| {
            note.rows[0].insert("z", "w".to_owned());
        }),
        ("due", |note| note.due = None),
        ("settings", |note| {
            note.settings.insert("bold".to_owned(), false);
        }),
        ("folder", |note| note.folder = Some(EntityId::from_bytes([7; 16]).into())),
    ];
    let files = Files::new();
    let replica = replica(&files, "a.db");
    let notes = notes(&replica);
    let ids = edits.map(|_| notes.create(example()).wait().expect("a note"));
    // What a server has is not dirty.
    let server = TestServer::start(files.path("server.db"));
    server.sync(&replica).now(GUARD).wait()?;
    for (id, (field, edit)) in ids.into_iter().zip(edits) {
        let before = changes(&replica, id);
        assert!(notes.edit(id, edit).wait()?, "{field}");
        assert_eq!(changes(&replica, id), before + 1, "{field}");
        let mut expected = example();
        edit(&mut expected);
        let note = notes.get(id)?.expect("the note");
        assert_eq!(note.value, expected, "{field}");
        assert_eq!(note.dirty_fields, [field]);
    }
    Ok(())
}

#[test]
fn what_is_edited_is_what_is_there_at_that_moment() -> Result<(), Error> {
    let files = Files::new();
    let replica = replica(&files, "a.db");
    let notes = notes(&replica);
    let id = notes.create(Note::default()).wait()?;
    let edits: Vec<_> = (0..50)
        .map(|_| notes.edit(id, |note| note.numbers.push(u32::try_from(note.numbers.len()).unwrap_or(0))))
        .collect();
    for edit in edits {
        edit.wait()?;
    }
    assert_eq!(notes.get(id)?.expect("the note").numbers, (0..50).collect());
    Ok(())
}

#[test]
fn a_text_may_be_replaced_swapped_or_rewritten() -> Result<(), Error> {
    let files = Files::new();
    let replica = replica(&files, "a.db");
    let notes = notes(&replica);
    let id = notes.create(Note { body: "größer 🏝️".into(), ..Note::default() }).wait()?;
    let mut expected = String::from("größer 🏝️");
    let edits: [fn(&mut Text); 6] = [
        |body| body.replace(0..7, "kleiner "),
        |body| *body = Text::from("anew"),
        |body| {
            let mut other = Text::from("other");
            other.push_str(" one");
            *body = other;
        },
        |body| (0..5_000).for_each(|at| body.insert(at % 7, "ab")),
        |body| {
            let copy = body.clone();
            body.clear();
            *body = copy;
            body.insert(0, "x");
        },
        |body| body.remove(1..),
    ];
    for edit in edits {
        let mut text = Text::from(expected.as_str());
        edit(&mut text);
        expected = text.into();
        notes.edit(id, move |note| edit(&mut note.body)).wait()?;
        assert_eq!(notes.get(id)?.expect("the note").body, *expected);
    }
    Ok(())
}

#[test]
fn edits_that_cannot_be_made_store_nothing() -> Result<(), Error> {
    let files = Files::new();
    let replica = replica(&files, "a.db");
    let notes = notes(&replica);
    let id = notes.create(Note { stars: i64::MAX.into(), ..Note::default() }).wait()?;
    let before = changes(&replica, id);
    let overflow = notes.edit(id, |note| {
        note.title = "x".to_owned();
        note.stars += 1;
    });
    assert_eq!(overflow.wait().expect_err("too much").kind(), ErrorKind::Invalid);
    assert_eq!(notes.get(id)?.expect("the note").value.title, "");
    let past_the_end = notes.edit(id, |note| {
        note.title = "x".to_owned();
        note.body.insert(1, "x");
    });
    assert_eq!(past_the_end.wait().expect_err("a panic in the closure").kind(), ErrorKind::Internal);
    assert_eq!(notes.get(id)?.expect("the note").value.title, "");
    let nobody = EntityId::from_bytes([1; 16]);
    assert_eq!(notes.edit(nobody, |_| ()).wait().expect_err("nobody").kind(), ErrorKind::NotFound);
    let folders = replica.space("main")?.collection::<crate::entities::Folder>();
    assert_eq!(folders.edit(id, |_| ()).wait().expect_err("a note").kind(), ErrorKind::NotFound);
    assert!(folders.get(id)?.is_none());
    notes.delete(id).wait()?;
    assert_eq!(notes.edit(id, |_| ()).wait().expect_err("deleted").kind(), ErrorKind::NotFound);
    assert!(notes.get(id)?.is_none());
    notes.restore(id).wait()?;
    assert_eq!(notes.get(id)?.expect("the note").stars, i64::MAX);
    assert_eq!(changes(&replica, id), before + 2, "the deletion and the restoration");
    Ok(())
}
