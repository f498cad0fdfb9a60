use anabranch_core::SpaceName;
use anabranch_core::wire::PeerMessage;
use serde_json::json;

use super::channel::Channel;
use super::session::{Allowed, Bounds, Session};
use super::{PIPE_BYTES, PeerError, exchange_within};
use crate::replica::Replica;

fn open(folder: &tempfile::TempDir, file: &str) -> Replica {
    let schema = "version = 1\n[collections.notes.fields]\ntitle = { kind = \"register\" }";
    let schema = anabranch_core::Schema::from_toml(schema).expect("a schema");
    Replica::open(folder.path().join(file), schema).expect("a replica")
}

fn write(replica: &Replica, count: usize) {
    let notes = replica.space("main").and_then(|space| space.untyped("notes")).expect("the notes");
    let id = notes.create(json!({ "title": "first" })).wait().expect("a note");
    let edits: Vec<_> = (1..count).map(|n| notes.edit(id, move |note| note.set("title", n.to_string()))).collect();
    for edit in edits {
        edit.wait().expect("an edit");
    }
}

/// More than fits a stream goes with the next, both ways.
#[test]
fn what_does_not_fit_a_stream_comes_with_the_next() {
    let folder = tempfile::tempdir().expect("a folder");
    let (a, b) = (open(&folder, "a.db"), open(&folder, "b.db"));
    write(&a, 2_300);
    write(&b, 1_200);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let bounds = Bounds { changes: 500, bytes: usize::MAX };
    let report = runtime.block_on(exchange_within(&a, &b, bounds)).expect("an exchange");
    assert_eq!((report.sent, report.received), (2_300, 1_200));
    let main = SpaceName::new("main").expect("a name");
    assert_eq!(a.space_digest(&main).expect("a digest"), b.space_digest(&main).expect("a digest"));
    let report = runtime.block_on(exchange_within(&a, &b, bounds)).expect("an exchange");
    assert_eq!((report.sent, report.received), (0, 0));
}

/// Frames that bring nothing, and never the last one.
#[test]
fn g11_a_peer_that_does_not_come_to_an_end_is_left() {
    let folder = tempfile::tempdir().expect("a folder");
    let (a, b) = (open(&folder, "a.db"), open(&folder, "b.db"));
    let space = SpaceName::new("main").expect("a name");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let ended = runtime.block_on(async {
        let (here, there) = tokio::io::duplex(PIPE_BYTES);
        let mut session = Session::new(a.store().clone(), Channel::trusted(here), b.id(), Allowed::new(Vec::new()));
        session.bounds = Bounds { changes: 10, bytes: 10 };
        let endless = tokio::spawn(async move {
            let mut channel = Channel::trusted(there);
            let nothing = PeerMessage::Changes { space, changes: Vec::new(), whole: false, last: false };
            while channel.send(&nothing).await.is_ok() {}
        });
        let ended = session.answer().await;
        drop(session);
        endless.await.expect("it ends when nobody listens");
        ended
    });
    assert!(matches!(ended, Err(PeerError::Protocol(_))), "{ended:?}");
}
