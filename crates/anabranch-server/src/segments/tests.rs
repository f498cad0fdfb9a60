//! When segments are built, and which are let go of.

use anabranch_core::segment::Piece;
use anabranch_core::{CollectionName, EntityId};

use super::shelf::{Made, Part};
use super::*;
use crate::{SqliteBackend, SystemEnvironment};

const MAX_BYTES: u64 = 100;

fn segments() -> Segments {
    let backend = SqliteBackend::open_in_memory(Box::new(SystemEnvironment)).expect("a backend");
    let options = SegmentOptions { min_changes: 2, max_bytes: MAX_BYTES, ..SegmentOptions::default() };
    Segments::new(Arc::new(backend), options).0
}

fn space(name: &str) -> SpaceName {
    SpaceName::new(name).expect("a name")
}

/// Puts a segment of so many bytes on the shelf, as if the space's log had this many changes.
async fn put(segments: &Segments, name: &str, seq: u64, bytes: u32) {
    let digest = Digest::of(format!("{name} {seq}").as_bytes());
    assert!(segments.shelf.store(&digest, vec![0; usize::try_from(bytes).expect("a size")]).await);
    let piece = Piece { digest, collection: CollectionName::new("notes").expect("a name"), entities: 1, bytes };
    let part = Part { piece, first: EntityId::from_bytes([0; 16]), continues: false };
    let mark = Mark { seq, chain: Digest::of(b"chain") };
    segments.shelf.put(&space(name), Made { mark, pieces: vec![part], checked: true });
}

#[tokio::test]
async fn what_does_not_fit_is_not_built_again_at_every_commit() {
    let segments = segments();
    put(&segments, "large", 1_600, 101).await;
    assert_eq!(segments.shelf.reached(&space("large")), None);
    for asked_for in [false, true] {
        assert!(!segments.is_due(&space("large"), 1_601, asked_for));
        assert!(segments.is_due(&space("large"), 1_700, asked_for), "it has grown by a sixteenth");
    }
    assert!(segments.is_due(&space("large"), 1_000, false), "its log is another one");
}

#[tokio::test]
async fn what_made_room_for_others_is_built_again_when_it_is_asked_for() {
    let segments = segments();
    put(&segments, "one", 1_600, 60).await;
    put(&segments, "two", 1_600, 60).await;
    assert_eq!([segments.shelf.reached(&space("one")), segments.shelf.reached(&space("two"))], [None, Some(1_600)]);
    assert!(!segments.is_due(&space("one"), 1_601, false));
    assert!(segments.is_due(&space("one"), 1_601, true));
}

#[tokio::test]
async fn commits_do_not_count_as_use() {
    let segments = segments();
    put(&segments, "written", 1_600, 40).await;
    put(&segments, "read", 1_600, 40).await;
    assert!(segments.manifest(&space("read")).await.is_some());
    assert!(!segments.is_due(&space("written"), 1_601, false));
    put(&segments, "third", 1_600, 40).await;
    assert_eq!(segments.shelf.reached(&space("written")), None);
    assert_eq!(segments.shelf.reached(&space("read")), Some(1_600));
}

#[tokio::test]
async fn earlier_generations_make_room_for_the_current_one() {
    let segments = segments();
    for seq in [1_600, 1_700, 1_900] {
        put(&segments, "one", seq, 60).await;
        assert_eq!(segments.shelf.reached(&space("one")), Some(seq));
    }
}

#[tokio::test]
async fn what_would_be_too_large_is_given_up() {
    let segments = segments();
    let digest = Digest::of(b"unfinished");
    assert!(segments.shelf.store(&digest, vec![0; 99]).await);
    segments.shelf.give_up(&space("large"), 1_600, true);
    assert!(!segments.is_due(&space("large"), 1_601, true));
    put(&segments, "other", 1_600, 99).await;
    assert!(segments.shelf.reached(&space("other")).is_some(), "nothing of the unfinished ones is in the way");
}
