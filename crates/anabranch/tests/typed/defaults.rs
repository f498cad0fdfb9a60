//! Fields that have no value in the document and show a default of serde's that is not empty.

use anabranch::{Collection, Counter, Entity, Error, List, Map, Replica, Set, Text, schema};
use serde::{Deserialize, Serialize};

use crate::support::Folder as Files;

#[derive(Clone, Debug, PartialEq, Entity, Serialize, Deserialize)]
#[serde(default)]
struct Letter {
    #[serde(skip_serializing_if = "is_empty")]
    body: Text,
    stars: Counter,
    items: List<String>,
    tags: Set<String>,
    prices: Map<u8>,
    kind: String,
}

impl Default for Letter {
    fn default() -> Self {
        Self {
            body: "Dear ".into(),
            stars: 1.into(),
            items: ["a".to_owned()].into(),
            tags: ["x".to_owned()].into(),
            prices: [("a", 1)].into(),
            kind: "private".to_owned(),
        }
    }
}

fn is_empty(text: &Text) -> bool {
    text.is_empty()
}

/// A letter of which nothing was ever written.
fn blank(files: &Files) -> Result<(Collection<Letter>, anabranch::EntityId), Error> {
    let replica = Replica::open(files.path("a.db"), schema![Letter])?;
    let space = replica.space("main")?;
    let id = space.untyped("letters")?.create(serde_json::json!({})).wait()?;
    let letters = space.collection::<Letter>();
    assert_eq!(letters.get(id)?.expect("the letter").value, Letter::default());
    Ok((letters, id))
}

type Edit = fn(&mut Letter);

#[test]
fn an_edit_of_a_default_writes_what_it_shows() -> Result<(), Error> {
    let edits: [Edit; 14] = [
        |letter| letter.body.push_str("Ann"),
        |letter| letter.body.insert(0, "My "),
        |letter| letter.stars += 1,
        |letter| letter.items.push("b".to_owned()),
        |letter| letter.items[0].push('!'),
        |letter| {
            letter.tags.insert("y".to_owned());
        },
        |letter| {
            letter.prices.insert("b", 2);
        },
        |letter| letter.kind.push_str(", too"),
        // Emptiness must not show the default again.
        |letter| letter.body.clear(),
        |letter| letter.stars -= 1,
        |letter| letter.items.clear(),
        |letter| {
            letter.tags.remove("x");
        },
        |letter| letter.prices.clear(),
        |letter| letter.kind.clear(),
    ];
    for (number, edit) in edits.into_iter().enumerate() {
        let files = Files::new();
        let (letters, id) = blank(&files)?;
        assert!(letters.edit(id, edit).wait()?, "edit {number}");
        let mut expected = Letter::default();
        edit(&mut expected);
        let after = letters.get(id)?.expect("the letter").value;
        assert_eq!(after, expected, "edit {number}");
        // From here on it is a field like any other.
        assert!(!letters.edit(id, |_| ()).wait()?, "edit {number}");
        letters.edit(id, edit).wait()?;
        edit(&mut expected);
        assert_eq!(letters.get(id)?.expect("the letter").value, expected, "edit {number} again");
    }
    Ok(())
}

#[test]
fn a_member_or_entry_of_a_default_can_be_made_one_of_the_document() -> Result<(), Error> {
    let files = Files::new();
    let (letters, id) = blank(&files)?;
    let insert = letters.edit(id, |letter| {
        letter.tags.insert("x".to_owned());
        letter.prices.insert("a", 1);
    });
    assert!(insert.wait()?);
    let state = letters.space().get(id)?.expect("the letter").state;
    assert_eq!(serde_json::Value::Object(state), serde_json::json!({ "tags": ["x"], "prices": { "a": 1 } }));
    assert_eq!(letters.get(id)?.expect("the letter").value, Letter::default());
    Ok(())
}

#[test]
fn a_default_that_is_left_alone_is_not_written() -> Result<(), Error> {
    let files = Files::new();
    let (letters, id) = blank(&files)?;
    let there_and_back = letters.edit(id, |letter| {
        letter.body.push_str("Ann");
        letter.body.remove(5..);
        letter.stars += 1;
        letter.stars -= 1;
        letter.items.push("b".to_owned());
        letter.items.pop();
    });
    assert!(!there_and_back.wait()?);
    assert!(letters.space().get(id)?.expect("the letter").state.is_empty());
    Ok(())
}
