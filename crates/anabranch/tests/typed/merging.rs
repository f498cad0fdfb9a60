//! Two replicas that edit apart, and meet.

use anabranch::{Error, Map, Replica, schema};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::entities::{Note, Step, shared};
use crate::support::Folder as Files;

fn step(text: &str) -> Step {
    Step { text: text.to_owned(), ..Step::default() }
}

#[test]
fn different_fields_of_one_struct_both_stay() -> Result<(), Error> {
    let files = Files::new();
    let pair = shared(&files, Note { title: "Shopping".to_owned(), ..Note::default() })?;
    pair.here.edit(pair.id, |note| note.title = "Groceries".to_owned()).wait()?;
    pair.there.edit(pair.id, |note| note.due = Some("today".to_owned())).wait()?;
    let note = pair.meet()?;
    assert_eq!((note.title.as_str(), note.due.as_deref()), ("Groceries", Some("today")));
    Ok(())
}

#[test]
fn insertions_into_one_text_both_stay() -> Result<(), Error> {
    let files = Files::new();
    let pair = shared(&files, Note { body: "milk".into(), ..Note::default() })?;
    pair.here.edit(pair.id, |note| note.body.push_str(", eggs")).wait()?;
    pair.there.edit(pair.id, |note| note.body.insert(0, "oat ")).wait()?;
    assert_eq!(pair.meet()?.body, "oat milk, eggs");
    // A difference could not know which of the equal letters has gone.
    pair.here.edit(pair.id, |note| note.body = "aaaa".into()).wait()?;
    pair.meet()?;
    pair.here.edit(pair.id, |note| note.body.remove(..1)).wait()?;
    pair.there.edit(pair.id, |note| note.body.insert(1, "b")).wait()?;
    assert_eq!(pair.meet()?.body, "baaa");
    Ok(())
}

#[test]
fn counters_sum_and_an_added_member_outlives_its_removal() -> Result<(), Error> {
    let files = Files::new();
    let tags = ["home".to_owned(), "old".to_owned()].into();
    let pair = shared(&files, Note { tags, stars: 5.into(), ..Note::default() })?;
    pair.here
        .edit(pair.id, |note| {
            note.stars += 2;
            note.tags.remove("home");
            note.tags.remove("old");
        })
        .wait()?;
    pair.there
        .edit(pair.id, |note| {
            note.stars = 4.into();
            note.tags.insert("home".to_owned());
            note.tags.insert("food".to_owned());
        })
        .wait()?;
    let note = pair.meet()?;
    assert_eq!(note.stars, 6, "5, and 2, less 1");
    assert_eq!(note.tags, ["food".to_owned(), "home".to_owned()].into());
    Ok(())
}

#[test]
fn elements_keep_who_they_are() -> Result<(), Error> {
    let files = Files::new();
    let steps = [step("boil"), step("stir"), step("serve")].into();
    let pair = shared(&files, Note { steps, numbers: [1, 1, 1].into(), ..Note::default() })?;
    pair.here
        .edit(pair.id, |note| {
            note.steps[1].done = true;
            note.steps.insert(0, step("wash"));
            note.numbers.remove(0);
        })
        .wait()?;
    pair.there
        .edit(pair.id, |note| {
            note.steps[1].text = "whisk".to_owned();
            note.steps[2].hints.push("hot".to_owned());
            note.steps.remove(0);
            note.numbers[2] = 9;
        })
        .wait()?;
    let note = pair.meet()?;
    let whisk = Step { text: "whisk".to_owned(), done: true, ..Step::default() };
    let serve = Step { hints: vec!["hot".to_owned()], ..step("serve") };
    assert_eq!(note.steps, [step("wash"), whisk, serve].into());
    assert_eq!(note.numbers, [1, 9].into(), "the first of the equal ones has gone, and the last is another");
    Ok(())
}

#[test]
fn nested_maps_and_lists_merge_inside() -> Result<(), Error> {
    let files = Files::new();
    let table = [("a", [1, 2, 3].into())].into();
    let rows = [[("x", "1".to_owned()), ("y", "2".to_owned())].into()].into();
    let prices = [("milk", 1.0), ("oats", 2.0)].into();
    let pair = shared(&files, Note { table, rows, prices, ..Note::default() })?;
    pair.here
        .edit(pair.id, |note| {
            note.table.get_mut("a").expect("a").push(4);
            note.rows[0].insert("x", "one".to_owned());
            *note.prices.entry("milk").or_insert(0.0) += 0.5;
        })
        .wait()?;
    pair.there
        .edit(pair.id, |note| {
            note.table.get_mut("a").expect("a").insert(0, 0);
            note.table.insert("b", [9].into());
            note.rows[0].remove("y");
            note.rows.push([("z", "3".to_owned())].into());
            note.prices.remove("oats");
        })
        .wait()?;
    let note = pair.meet()?;
    assert_eq!(note.table, [("a", [0, 1, 2, 3, 4].into()), ("b", [9].into())].into());
    let first: Map<String> = [("x", "one".to_owned())].into();
    assert_eq!(note.rows, [first, [("z", "3".to_owned())].into()].into());
    assert_eq!(note.prices, [("milk", 1.5)].into());
    Ok(())
}

#[test]
fn writing_what_shows_settles_a_contested_entry() -> Result<(), Error> {
    let files = Files::new();
    let pair = shared(&files, Note { prices: [("milk", 1.0)].into(), ..Note::default() })?;
    pair.here
        .edit(pair.id, |note| {
            note.prices.insert("milk", 2.0);
        })
        .wait()?;
    pair.there
        .edit(pair.id, |note| {
            note.prices.insert("milk", 3.0);
        })
        .wait()?;
    let shown = pair.meet()?.prices["milk"];
    assert_eq!(pair.here.get(pair.id)?.expect("the note").conflicts, 1);
    assert!(!pair.here.edit(pair.id, |note| note.stars += 0).wait()?);
    assert!(
        pair.here
            .edit(pair.id, move |note| {
                note.prices.insert("milk", shown);
            })
            .wait()?
    );
    assert_eq!(pair.meet()?.prices["milk"], shown);
    assert_eq!(pair.there.get(pair.id)?.expect("the note").conflicts, 0);
    Ok(())
}

/// Notes as a newer version has them.
mod newer {
    use anabranch::{Counter, Entity, List, Text};
    use serde::{Deserialize, Serialize};

    #[derive(Default, Serialize, Deserialize)]
    pub(super) struct Step {
        pub(super) text: String,
        pub(super) minutes: u32,
    }

    #[derive(Default, Entity, Serialize, Deserialize)]
    #[entity(collection = "recipes")]
    pub(super) struct Recipe {
        pub(super) title: String,
        pub(super) steps: List<Step>,
        pub(super) notes: Text,
        pub(super) cooked: Counter,
        pub(super) source: Option<String>,
    }
}

/// The same as an older version has them.
mod older {
    use super::{Deserialize, Serialize};
    use anabranch::{Entity, List};

    #[derive(Default, Serialize, Deserialize)]
    pub(super) struct Step {
        pub(super) text: String,
    }

    #[derive(Default, Entity, Serialize, Deserialize)]
    #[entity(collection = "recipes")]
    pub(super) struct Recipe {
        pub(super) title: String,
        pub(super) steps: List<Step>,
    }
}

#[test]
fn fields_that_a_struct_does_not_know_are_left_alone() -> Result<(), Error> {
    let files = Files::new();
    let new = Replica::open(files.path("new.db"), schema![version = 2; newer::Recipe])?;
    let old = Replica::open(files.path("old.db"), schema![older::Recipe])?;
    let here = new.space("main")?.collection::<newer::Recipe>();
    let there = old.space("main")?.collection::<older::Recipe>();
    let minutes = |text: &str, minutes| newer::Step { text: text.to_owned(), minutes };
    let id = here
        .create(newer::Recipe {
            title: "Soup".to_owned(),
            steps: [minutes("boil", 10), minutes("stir", 5)].into(),
            notes: "salt".into(),
            cooked: 3.into(),
            source: Some("Mara".to_owned()),
        })
        .wait()?;
    new.exchange(&old)?;
    there
        .edit(id, |recipe| {
            recipe.title = "Hot soup".to_owned();
            recipe.steps[0].text = "simmer".to_owned();
            recipe.steps.push(older::Step { text: "serve".to_owned() });
        })
        .wait()?;
    old.exchange(&new)?;
    let expected = json!({
        "title": "Hot soup",
        "steps": [{ "text": "simmer", "minutes": 10 }, { "text": "stir", "minutes": 5 }, { "text": "serve" }],
        "notes": "salt",
        "cooked": 3,
        "source": "Mara",
    });
    for replica in [&new, &old] {
        let record = replica.space("main")?.get(id)?.expect("the recipe");
        assert_eq!(serde_json::Value::Object(record.state), expected);
    }
    Ok(())
}

#[test]
fn fields_that_an_entity_lacks_are_their_types_defaults() -> Result<(), Error> {
    let files = Files::new();
    let old = Replica::open(files.path("old.db"), schema![older::Recipe])?;
    let recipes = old.space("main")?.collection::<older::Recipe>();
    let id = recipes.create(older::Recipe { title: "Soup".to_owned(), ..Default::default() }).wait()?;
    drop((recipes, old));
    let new = Replica::open(files.path("old.db"), schema![version = 2; newer::Recipe])?;
    let recipes = new.space("main")?.collection::<newer::Recipe>();
    let recipe = recipes.get(id)?.expect("the recipe");
    assert_eq!((recipe.notes.as_str(), recipe.cooked.value(), recipe.source.as_deref()), ("", 0, None));
    assert!(!recipes.edit(id, |recipe| recipe.notes.clear()).wait()?);
    recipes.edit(id, |recipe| recipe.notes.push_str("salt")).wait()?;
    assert_eq!(recipes.get(id)?.expect("the recipe").notes, "salt");
    Ok(())
}
