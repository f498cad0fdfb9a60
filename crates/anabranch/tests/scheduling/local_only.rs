//! Collections that never leave.

use std::time::Duration;

use anabranch::{Error, Schema};
use serde_json::json;

use crate::support::{World, schema, write};

fn with_drafts(local: bool, version: u32) -> Schema {
    let drafts =
        format!("[collections.drafts]\nlocal = {local}\n[collections.drafts.fields]\ntext = {{ kind = \"text\" }}\n");
    let mut schema = schema(&drafts);
    schema.version = version;
    schema
}

const SHORT: Duration = Duration::from_secs(10);

#[test]
fn what_is_local_only_never_leaves_and_may_do_so_when_a_later_schema_says_so() -> Result<(), Error> {
    let world = World::new();
    let (phone, laptop) = (world.open_with("phone.db", with_drafts(true, 1), None), world.open("laptop.db"));
    let drafts = phone.space("home")?.untyped("drafts")?;
    let draft = drafts.create(json!({ "text": "not yet" })).wait()?;
    let sent = write(&phone, "sent");
    drafts.edit(draft, |draft| draft.splice("text", 0, 0, "still ")).wait()?;
    assert_eq!((phone.status()?.pending, phone.unsent()?.entities), (1, 1), "a draft waits for nobody");
    let report = world.sync(&phone).now(SHORT).wait()?;
    assert_eq!((report.pushed, report.pending), (2, 0));
    assert!(!world.server.entities("home").contains(&draft) && world.agree(&phone));
    // Nor to a peer, or to a server that lost everything.
    assert_eq!(phone.exchange(&laptop)?.sent, 2);
    assert!(laptop.space("home")?.get(draft)?.is_none());
    let home = anabranch::SpaceName::new("home")?;
    assert_eq!(phone.state_digest(&home)?, laptop.state_digest(&home)?);
    world.server.wipe();
    world.sync(&phone).now(SHORT).wait()?;
    assert!(world.server.entities("home").contains(&sent) && !world.server.entities("home").contains(&draft));
    // A purge needs nobody's consent.
    let other = drafts.create(json!({ "text": "gone" })).wait()?;
    drafts.delete(other).wait()?;
    phone.space("home")?.purge(other).wait()?;
    assert!(phone.space("home")?.get(other)?.is_some_and(|entity| entity.purged));

    // It survives a sign-out.
    phone.sign_out(phone.unsent()?).wait()?;
    drop((drafts, phone));
    let phone = world.open_with("phone.db", with_drafts(true, 1), None);
    assert_eq!(phone.space("home")?.get(draft)?.expect("the draft").state["text"], "still not yet");
    assert!(phone.space("home")?.get(sent)?.is_none());
    drop(phone);

    let phone = world.open_with("phone.db", with_drafts(false, 2), None);
    assert!(phone.status()?.pending > 0);
    world.sync(&phone).now(SHORT).wait()?;
    assert!(world.server.entities("home").contains(&draft) && world.agree(&phone));
    drop(phone);
    let options = anabranch::Replica::at(world.path("phone.db"));
    let error = options.open_or_create(with_drafts(true, 3)).expect_err("what has left cannot be called back");
    assert!(error.to_string().contains("cannot become `local`"), "{error}");
    Ok(())
}
