//! The story: a few notes that all replicas have; then each, cut off, edits the same one and others.

use anabranch::{EntityId, Error, Path};
use anabranch_core::SpaceName;
use anabranch_core::document::Contest;
use serde_json::{Value, json};

use crate::demo::account::{Contender, Contested, Merged};
use crate::demo::fleet::{Fleet, Member};
use crate::demo::trace::Trace;
use crate::error::CliError;

/// How many stars the shopping list begins with.
const STARS: i64 = 1;
const BODY: &str = "Milk and bread.";
const TITLES: [&str; 3] = ["Shopping for Saturday", "Groceries", "Shopping (big one)"];
const TAGS: [&str; 3] = ["saturday", "market", "party"];
const ITEMS: [&str; 3] = ["oats", "eggs", "lemons"];

/// The notes that everyone has before the cut.
pub(super) struct Seeds {
    shopping: EntityId,
    trip: EntityId,
    /// The note that the trace is typed into.
    pub(super) draft: EntityId,
}

/// Writes the notes that everyone starts with.
pub(super) fn seed(member: &Member, trace: &Trace) -> Result<Seeds, CliError> {
    let notes = member.notes()?;
    // All three are under way before the first is waited for: they share an fsync.
    let shopping = notes.create(json!({
        "title": "Shopping", "body": BODY, "stars": STARS, "tags": ["home", "weekly"], "items": ["milk", "bread"],
    }));
    let trip = notes.create(json!({ "title": "Trip to the coast", "body": "Pack light." }));
    let draft = notes.create(json!({ "title": "A draft", "body": trace.start_content }));
    Ok(Seeds { shopping: shopping.wait()?, trip: trip.wait()?, draft: draft.wait()? })
}

/// Each replica's edits while it is cut off, and what to say of them.
pub(super) fn part(members: &[Member], seeds: &Seeds) -> Result<Vec<Vec<String>>, CliError> {
    members.iter().enumerate().map(|(number, member)| edit(number, members.len(), member, seeds)).collect()
}

/// What the replica of this number calls things.
fn own(names: &[&str], number: usize) -> String {
    names.get(number).map_or_else(|| format!("{} {}", names[0], number + 1), ToString::to_string)
}

fn edit(number: usize, of: usize, member: &Member, seeds: &Seeds) -> Result<Vec<String>, CliError> {
    let notes = member.notes()?;
    let (title, tag, item) = (own(&TITLES, number), own(&TAGS, number), own(&ITEMS, number));
    let stars = stars(number);
    let (at, delete, insert) = splice(number);
    let mut deeds = vec![
        format!("register  title becomes {title:?}"),
        format!("counter   stars +{stars}"),
        format!("set       tags gains {tag:?}"),
        format!("list      items gains {item:?} at its end"),
        format!("text      body: {insert:?} at {at}{}", if delete > 0 { ", in place of what stood there" } else { "" }),
        format!("map       links gains {:?}", member.name),
    ];
    let first = number == 0 && of > 1;
    let shopping = notes.edit(seeds.shopping, |note| {
        note.set("title", title.as_str()).increment("stars", stars).add("tags", tag.as_str());
        note.insert("items", Path::default(), 2, vec![item.into()]).splice("body", at, delete, &insert);
        note.put("links", Path(vec![member.name.as_str().into()]), format!("https://{}.example", member.name));
        match number {
            0 if first => note.remove("tags", "weekly").set("due", "2030-05-01"),
            1 => note.add("tags", "weekly"),
            _ => note,
        }
    });
    if first {
        deeds.push("set       tags loses \"weekly\"".to_owned());
        deeds.push("register  due becomes \"2030-05-01\" (only here)".to_owned());
    }
    if number == 1 {
        deeds.push("set       tags gains \"weekly\" again".to_owned());
    }
    let own = notes.create(json!({ "title": format!("Written on the {}", member.name), "stars": number + 1 }));
    deeds.push("creates a note of its own".to_owned());
    shopping.wait()?;
    own.wait()?;
    if first {
        notes.delete(seeds.trip).wait()?;
        deeds.push("deletes \"Trip to the coast\"".to_owned());
    } else if number + 1 == of && of > 1 {
        notes.edit(seeds.trip, |note| note.splice("body", 10, 0, ", and a towel")).wait()?;
        deeds.push("edits \"Trip to the coast\"".to_owned());
    }
    Ok(deeds)
}

fn stars(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(0) + 1
}

/// An edit of [`BODY`] that keeps its meaning beside the others'.
fn splice(number: usize) -> (usize, usize, String) {
    match number {
        0 => (0, 4, "Oat milk".to_owned()),
        1 => (14, 0, ", eggs".to_owned()),
        _ => (15, 0, format!(" {} too.", own(&["Wine", "Cheese", "Lemons"], number))),
    }
}

/// The contested fields of the story's notes, as the first replica sees them (all see the same).
pub(super) fn contests(fleet: &Fleet, seeds: &Seeds) -> Result<Vec<Contested>, CliError> {
    let Some(member) = fleet.members.first() else { return Ok(Vec::new()) };
    let mut contested = Vec::new();
    for id in [seeds.shopping, seeds.trip] {
        let record = member.record(id)?;
        let entity = record.state.get("title").and_then(Value::as_str).unwrap_or_default();
        for contest in read_contests(member, &fleet.space, id)? {
            contested.push(describe(fleet, entity, contest));
        }
    }
    Ok(contested)
}

fn read_contests(member: &Member, space: &SpaceName, id: EntityId) -> Result<Vec<Contest>, Error> {
    let space = space.clone();
    member.replica.store().write(move |write| Ok(write.state(&space, id)?.contests)).wait()
}

fn describe(fleet: &Fleet, entity: &str, contest: Contest) -> Contested {
    let field = contest.place();
    let values: Vec<_> = contest
        .contenders
        .into_iter()
        .map(|contender| Contender {
            value: contender.value,
            replica: fleet.name_of(&contender.actor),
            millis: contender.stamp.millis(),
            stamp: contender.stamp.raw(),
        })
        .collect();
    let tie = matches!(values.as_slice(), [first, second, ..] if first.stamp == second.stamp);
    let settled_by = if tie { "equal stamps: the greater op id" } else { "the last writer, by stamp" };
    Contested { entity: entity.to_owned(), field, settled_by, values }
}

/// What has become of the fields that merge.
pub(super) fn merged(fleet: &Fleet, seeds: &Seeds) -> Result<Vec<Merged>, CliError> {
    let Some(member) = fleet.members.first() else { return Ok(Vec::new()) };
    // Whoever joined later had no part in the story.
    let parts = fleet.members.iter().filter(|member| member.took_part).count();
    let record = member.record(seeds.shopping)?;
    let field = |name: &str| record.state.get(name).cloned().unwrap_or(Value::Null);
    let has_all = |name: &str, expected: &[String]| {
        let found = field(name);
        let members = found.as_array().cloned().unwrap_or_default();
        expected.iter().all(|member| members.iter().any(|found| found == member.as_str()))
    };
    let gained = |names: &[&str]| (0..parts).map(|number| own(names, number)).collect::<Vec<_>>();
    let sum = STARS + (0..parts).map(stars).sum::<i64>();
    let terms: Vec<_> = [STARS].into_iter().chain((0..parts).map(stars)).map(|term| term.to_string()).collect();
    let body = field("body");
    let inserted = |text: &str| (0..parts).all(|number| text.contains(splice(number).2.trim()));
    let merged = |field, kind, outcome, how: &str, as_expected| Merged {
        field,
        kind,
        outcome,
        how: how.to_owned(),
        as_expected,
    };
    let tags = if parts > 1 { "added wins over removed: \"weekly\" stays" } else { "the union" };
    let weekly = if parts > 1 { vec!["weekly".to_owned()] } else { Vec::new() };
    let mut all = vec![
        merged("stars", "counter", field("stars"), &terms.join(" + "), field("stars") == sum),
        merged("tags", "set", field("tags"), tags, has_all("tags", &[gained(&TAGS), weekly].concat())),
        merged("items", "list", field("items"), "every insertion", has_all("items", &gained(&ITEMS))),
        merged("body", "text", body.clone(), "every insertion", body.as_str().is_some_and(inserted)),
    ];
    let links = field("links").as_object().map_or(0, serde_json::Map::len);
    all.push(merged("links", "map", links.into(), "entries, one from each", links == parts));
    if parts > 1 {
        let trip = member.record(seeds.trip)?;
        let how = "deleted on one, edited on another: the edit wins";
        all.push(merged(
            "the trip",
            "deletion",
            json!(if trip.deleted { "gone" } else { "stays" }),
            how,
            !trip.deleted,
        ));
    }
    Ok(all)
}
