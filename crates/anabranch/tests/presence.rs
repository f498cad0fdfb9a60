//! Who is there, over a real server on loopback.

mod support;

use anabranch::testing::{Clock, Server};
use anabranch::{Error, Present, Replica, Watch};
use serde_json::{Value, json};
use support::{Folder, GUARD, TestServer};

/// Waits until the watch shows just this.
fn wait_for(watch: &mut Watch<Vec<Present>>, expected: &[Value]) -> Result<Vec<Present>, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(async {
        let wait = async {
            let mut present = watch.latest()?;
            while !present.iter().map(|one| &one.data).eq(expected) {
                present = watch.changed().await?;
            }
            Ok(present)
        };
        tokio::time::timeout(GUARD, wait).await.expect("the others are seen")
    })
}

#[test]
fn others_are_seen_while_they_sync_and_no_longer() -> Result<(), Error> {
    let folder = Folder::new();
    let mut server = TestServer::start(folder.path("server.db"));
    let (a, b) = (folder.replica("a.db"), folder.replica("b.db"));
    let (ann, bob) = (a.space("main")?.presence(), b.space("main")?.presence());
    // Before there is any connection, and in a space in which nothing is yet.
    ann.show(&json!({ "name": "Ann" }))?;
    let (_to_a, to_b) = (server.sync(&a).start()?, server.sync(&b).start()?);
    bob.show(&json!({ "name": "Bob" }))?;
    let (mut bob_sees, mut ann_sees) = (bob.watch(), ann.watch());
    let present = wait_for(&mut bob_sees, &[json!({ "name": "Ann" })])?;
    assert_eq!(present[0].replica, a.id());
    wait_for(&mut ann_sees, &[json!({ "name": "Bob" })])?;
    ann.show(&json!({ "name": "Ann", "cursor": 3 }))?;
    wait_for(&mut bob_sees, &[json!({ "name": "Ann", "cursor": 3 })])?;
    // The connection goes, and with it all that was seen; when it is back, it is shown again.
    server.kill();
    wait_for(&mut bob_sees, &[])?;
    wait_for(&mut ann_sees, &[])?;
    server.restart();
    to_b.retry_now();
    wait_for(&mut bob_sees, &[json!({ "name": "Ann", "cursor": 3 })])?;
    ann.hide();
    wait_for(&mut bob_sees, &[])?;
    wait_for(&mut ann_sees, &[json!({ "name": "Bob" })])?;
    drop(to_b);
    wait_for(&mut ann_sees, &[])?;
    Ok(())
}

#[test]
fn what_is_too_much_to_show_is_refused() -> Result<(), Error> {
    let folder = Folder::new();
    let presence = folder.replica("a.db").space("main")?.presence();
    assert!(presence.show(&"x".repeat(1_023)).is_err(), "with its quotes, 1,025 bytes");
    presence.show(&"x".repeat(1_022))?;
    assert!(presence.others().is_empty());
    Ok(())
}

#[test]
fn a_server_in_memory_passes_it_on_as_well() -> Result<(), Error> {
    let folder = Folder::new();
    let clock = Clock::at(1_750_000_000_000);
    let server = Server::new(&clock);
    let (a, b) = (folder.replica("a.db"), folder.replica("b.db"));
    let sync = |replica: &Replica| replica.sync("memory:").space("main")?.transport(server.link()).start();
    let (to_a, _to_b) = (sync(&a)?, sync(&b)?);
    a.space("main")?.presence().show(&1)?;
    let mut bob_sees = b.space("main")?.presence().watch();
    wait_for(&mut bob_sees, &[json!(1)])?;
    let c = folder.replica("c.db");
    let _to_c = sync(&c)?;
    wait_for(&mut c.space("main")?.presence().watch(), &[json!(1)])?;
    drop(to_a);
    wait_for(&mut bob_sees, &[])?;
    Ok(())
}
