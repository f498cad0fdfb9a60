//! Lists of typed entities, of which some do not fit; and numbers that do not fit anywhere.

use anabranch::{Entity, Error, ErrorKind, Replica, Schema, schema};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::support::Folder as Files;

#[derive(Clone, Debug, Default, PartialEq, Entity, Serialize, Deserialize)]
struct Part {
    name: String,
    count: u8,
    weight: f64,
    sizes: Vec<f32>,
}

#[test]
fn one_entity_that_does_not_fit_leaves_the_others_in_the_list() -> Result<(), Error> {
    let files = Files::new();
    // A schema without rules, as a file could have it.
    let mut loose = schema![Part];
    let count = loose.collections["parts"].fields.get_mut("count").expect("the field");
    count.rules.max = None;
    let replica = Replica::open(files.path("a.db"), loose)?;
    let (parts, untyped) = (replica.space("main")?.collection::<Part>(), replica.space("main")?.untyped("parts")?);
    let mut watch = parts.watch_list(10);
    let ids = [1, 300, 3].map(|count| untyped.create(json!({ "count": count })).wait().expect("a part"));
    let counts = |listed: &anabranch::Listed<Part>| listed.iter().map(|part| part.count).collect::<Vec<_>>();

    let listed = parts.list(None, 10)?;
    assert_eq!((counts(&listed), listed.next), (vec![1, 3], None));
    let [(id, error)] = &listed.misfits[..] else { panic!("one misfit: {:?}", listed.misfits) };
    assert_eq!((*id, error.kind()), (ids[1], ErrorKind::Invalid));
    assert_eq!(counts(&watch.latest()?), [1, 3]);

    // A page may consist of misfits only; the next one goes on behind them.
    let mut pages = Vec::new();
    let mut after = None;
    loop {
        let page = parts.list(after, 1)?;
        pages.push((counts(&page), page.misfits.len()));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(pages, [(vec![1], 0), (vec![], 1), (vec![3], 0), (vec![], 0)]);
    assert_eq!(parts.get(ids[1]).expect_err("300").kind(), ErrorKind::Invalid);
    Ok(())
}

#[test]
fn an_integer_has_the_bounds_of_its_type() -> Result<(), Error> {
    let files = Files::new();
    let replica = Replica::open(files.path("a.db"), schema![Part])?;
    let untyped = replica.space("main")?.untyped("parts")?;
    for (count, fits) in [(0, true), (255, true), (-1, false), (256, false)] {
        assert_eq!(untyped.create(json!({ "count": count })).wait().is_ok(), fits, "{count}");
    }
    #[derive(Entity, Serialize, Deserialize)]
    struct Bounds {
        byte: i8,
        maybe: Option<u16>,
        long: i64,
        size: usize,
        letter: char,
        #[field(max = 5)]
        narrow: u32,
    }
    let expected = r#"
        version = 1
        [collections.boundss.fields]
        byte = { kind = "register", type = "integer", min = -128, max = 127 }
        maybe = { kind = "register", type = "integer", min = 0, max = 65535 }
        long = { kind = "register", type = "integer" }
        size = { kind = "register", type = "integer", min = 0 }
        letter = { kind = "register", type = "string", min_length = 1, max_length = 1 }
        narrow = { kind = "register", type = "integer", min = 0, max = 5 }
    "#;
    assert_eq!(schema![Bounds], Schema::from_toml(expected)?);
    Ok(())
}

#[test]
fn a_number_that_is_none_is_refused_and_not_taken_for_no_value() -> Result<(), Error> {
    let files = Files::new();
    let replica = Replica::open(files.path("a.db"), schema![Part])?;
    let parts = replica.space("main")?.collection::<Part>();
    let error = parts.create(Part { weight: f64::NAN, ..Part::default() }).wait().expect_err("no number");
    assert_eq!(error.to_string(), "parts cannot be written: weight: a number must be finite");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let id = parts.create(Part { weight: 1.5, sizes: vec![1.0], ..Part::default() }).wait()?;
    let edits: [fn(&mut Part); 2] = [|part| part.weight /= 0.0, |part| part.sizes.push(f32::NEG_INFINITY)];
    for edit in edits {
        assert_eq!(parts.edit(id, edit).wait().expect_err("no number").kind(), ErrorKind::Invalid);
    }
    assert_eq!(parts.get(id)?.expect("the part").weight, 1.5);
    assert_eq!(parts.list(None, 10)?.len(), 1);
    Ok(())
}
