use std::future::Future;

use anabranch_core::{EntityId, Schema};
use serde_json::json;

use super::*;
use crate::replica::Replica;

/// A hang guard, not a measurement.
const GUARD: Duration = Duration::from_secs(60);

fn guarded<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    runtime.expect("a runtime").block_on(async { tokio::time::timeout(GUARD, work).await.expect("it ends") })
}

fn replica(folder: &tempfile::TempDir) -> Replica {
    let schema = Schema::from_toml("version = 1\n[collections.notes.fields]\ntitle = { kind = \"register\" }");
    Replica::open(folder.path().join("a.db"), schema.expect("a schema")).expect("a replica")
}

fn write(replica: &Replica, space: &str) -> EntityId {
    let notes = replica.space(space).and_then(|space| space.untyped("notes")).expect("the notes");
    notes.create(json!({ "title": "one" })).wait().expect("written")
}

/// A session, and the channel of whoever is at its other end.
fn session(replica: &Replica) -> (Session, Channel) {
    let (here, there) = tokio::io::duplex(256 << 10);
    let allowed = Allowed::new(Vec::new());
    (Session::new(replica.store().clone(), Channel::trusted(here), replica.id(), allowed), Channel::trusted(there))
}

#[test]
fn a_peer_cannot_claim_to_have_taken_more_than_it_was_sent() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let replica = replica(&folder);
    let space = SpaceName::new("main").expect("a name");
    let wanted: Vec<_> = (0..2).map(|_| Wanted { entity: write(&replica, "main"), known: Vec::new() }).collect();
    let sent = guarded(async {
        let (mut session, mut far) = session(&replica);
        let liar = tokio::spawn(async move {
            while let Ok(Some(message)) = far.receive().await {
                if let PeerMessage::Changes { whole: true, .. } = message {
                    far.send(&PeerMessage::Received { taken: u64::MAX }).await.expect("it listens");
                }
            }
        });
        for one in wanted {
            session.hand_over(&space, vec![one], false).await.expect("handed over");
        }
        liar.abort();
        session.report().sent
    });
    assert!((2..=4).contains(&sent), "{sent}");
}

#[test]
fn a_sign_of_life_comes_in_time_however_much_is_written_elsewhere() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let replica = replica(&folder);
    guarded(async {
        let (mut session, mut far) = session(&replica);
        session.look_every = Duration::from_millis(300);
        let leading = tokio::spawn(async move { session.lead_live().await });
        let mut signs = 0;
        while signs < 3 {
            tokio::select! {
                message = far.receive() => if let Ok(Some(PeerMessage::Spaces { .. })) = message {
                    signs += 1;
                    far.send(&PeerMessage::Spaces { spaces: Vec::new(), only: true }).await.expect("it listens");
                },
                () = async { tokio::task::yield_now().await } => {
                    let writer = replica.clone();
                    tokio::task::spawn_blocking(move || write(&writer, "main")).await.expect("written");
                }
            }
        }
        leading.abort();
    });
}
