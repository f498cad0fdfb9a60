//! Two replicas edit the same note apart, and meet.
//!
//! `cargo run -p anabranch --example two_replicas`

use anabranch::{Counter, Entity, Replica, Text, schema};
use serde::{Deserialize, Serialize};

#[derive(Debug, Default, Entity, Serialize, Deserialize)]
struct Note {
    title: String,
    body: Text,
    stars: Counter,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let phone = Replica::open(folder.path().join("phone.db"), schema![Note])?;
    let laptop = Replica::open(folder.path().join("laptop.db"), schema![Note])?;
    let [here, there] = [phone.space("home")?.collection::<Note>(), laptop.space("home")?.collection::<Note>()];

    let id = here.create(Note { title: "Shopping".into(), body: "milk".into(), ..Note::default() }).wait()?;
    phone.exchange(&laptop)?; // no server needed

    here.edit(id, |note| note.body.push_str(", eggs")).wait()?;
    there.edit(id, |note| (note.title, note.stars) = ("Groceries".into(), 5.into())).wait()?;
    there.edit(id, |note| note.body.insert(0, "oat ")).wait()?;
    phone.exchange(&laptop)?;

    let (ours, theirs) = (here.get(id)?.ok_or("lost")?, there.get(id)?.ok_or("lost")?);
    println!("{:#?}", ours.value);
    assert_eq!(ours.version, theirs.version);
    Ok(())
}
