//! Two opens of one file, and files that come back from a backup, with a real server.

mod support;

use anabranch::{Error, ErrorKind, Loss, Phase, Replica};
use serde_json::json;
use support::{Folder, GUARD, TestServer, main_space, notes, schema};

fn copy(folder: &Folder, from: &str, to: &str) {
    for end in ["", "-witness"] {
        std::fs::copy(folder.path(&format!("{from}{end}")), folder.path(&format!("{to}{end}"))).expect("a copy");
    }
}

#[test]
fn one_open_at_a_time_syncs_a_file_and_the_next_takes_over() -> Result<(), Error> {
    let folder = Folder::new();
    let server = TestServer::start(folder.path("server.db"));
    let (one, two) = (folder.replica("a.db"), folder.replica("a.db"));
    let first = server.sync(&one).start()?;
    first.caught_up().wait()?;
    let busy = server.sync(&two).now(GUARD).wait().expect_err("the other syncs");
    assert_eq!(busy.kind(), ErrorKind::Retry);
    assert!(busy.to_string().starts_with("another process syncs this file"), "{busy}");
    let mut status = two.watch_status();
    status.latest()?;
    let second = server.sync(&two).start()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let until = |status: &mut anabranch::Watch<anabranch::Status>, phase: Phase| {
        runtime.block_on(async {
            let reached = async {
                while status.latest()?.phase != phase {
                    status.changed().await?;
                }
                Ok::<_, Error>(())
            };
            tokio::time::timeout(GUARD, reached).await.expect("the phase comes")
        })
    };
    until(&mut status, Phase::Elsewhere)?;
    // Two syncs of one open are one process's own business.
    server.sync(&one).now(GUARD).wait()?;
    drop(first);
    until(&mut status, Phase::Live)?;
    notes(&one).create(json!({ "title": "x" })).wait()?;
    second.look_again();
    second.caught_up().wait()?;
    assert_eq!(two.status()?.pending, 0);
    Ok(())
}

/// An hour-old copy in the place of the file: what the server has comes back, what was never sent is told.
#[test]
fn g10_a_file_from_a_backup_comes_back_to_the_others_and_says_what_it_lacks() -> Result<(), Error> {
    let folder = Folder::new();
    let server = TestServer::start(folder.path("server.db"));
    let a = folder.replica("a.db");
    let id = notes(&a).create(json!({ "title": "one", "stars": 1 })).wait()?;
    server.sync(&a).now(GUARD).wait()?;
    drop(a);
    copy(&folder, "a.db", "backup.db");
    let a = folder.replica("a.db");
    notes(&a).edit(id, |note| note.increment("stars", 10)).wait()?;
    server.sync(&a).now(GUARD).wait()?;
    notes(&a).edit(id, |note| note.increment("stars", 100)).wait()?;
    drop(a);
    copy(&folder, "backup.db", "a.db");
    std::fs::copy(folder.path("backup.db"), folder.path("b.db")).expect("a copy");

    let (a, b) = (folder.replica("a.db"), folder.replica("b.db"));
    // The backup's witness came with it, so nothing is known of what was lost; without that it would be.
    assert_eq!(a.lost()?, None);
    for (replica, by) in [(&a, 1_000), (&b, 10_000)] {
        notes(replica).edit(id, |note| note.increment("stars", by)).wait()?;
        server.sync(replica).now(GUARD).wait()?;
    }
    server.sync(&a).now(GUARD).wait()?;
    for replica in [&a, &b] {
        assert_eq!(notes(replica).get(id)?.expect("the note").state["stars"], 11_011);
        assert_eq!((replica.status()?.pending, replica.status()?.quarantined), (0, 0));
    }
    assert_eq!(a.space_digest(&main_space())?, b.space_digest(&main_space())?);
    drop(a);
    std::fs::copy(folder.path("backup.db"), folder.path("a.db")).expect("a copy");
    let lost = folder.replica("a.db").lost()?.expect("it is older than its witness");
    assert_eq!((lost.loss, lost.pending), (Loss::Restored, 0));

    std::fs::remove_file(folder.path("a.db")).expect("a file");
    let gone = Replica::at(folder.path("a.db")).existing().expect_err("it is gone");
    assert_eq!((gone.lost().map(|lost| lost.loss), gone.kind()), (Some(Loss::Vanished), ErrorKind::Damaged));
    let anew = Replica::open(folder.path("a.db"), schema())?;
    assert_eq!(anew.lost()?.map(|lost| lost.loss), Some(Loss::Vanished));
    server.sync(&anew).now(GUARD).wait()?;
    assert_eq!(notes(&anew).get(id)?.expect("the note").state["stars"], 11_011);
    Ok(())
}
