//! The driver's part of a first sync: segments are read beside other work, and their pace is noted.

use anabranch_core::segment::Segment;
use anabranch_core::sync::{ClientEvent, FirstSyncStep, SegmentReply, WriteBatch};
use anabranch_store::Store;

/// Reads a segment on a thread where that keeps nobody waiting. Other events stay as they are.
pub(super) async fn opened(store: &Store, event: ClientEvent) -> ClientEvent {
    let ClientEvent::Message(message) = event else { return event };
    let SegmentReply { space, digest, bytes } = match message.into_segment() {
        Ok(reply) => reply,
        Err(message) => return ClientEvent::Message(*message),
    };
    let Some(bytes) = bytes else { return ClientEvent::Segment { space, digest, segment: None } };
    let store = store.clone();
    let reading = move || Segment::open(&digest, &bytes, Some(store.schema())).map(Box::new);
    let segment = match tokio::task::spawn_blocking(reading).await {
        Ok(segment) => segment.map_err(|error| error.to_string()),
        Err(_) => Err("reading it panicked".to_owned()),
    };
    ClientEvent::Segment { space, digest, segment: Some(segment) }
}

/// The size of the segment that a batch applies, if it does.
pub(super) fn applied(batch: &WriteBatch) -> Option<u64> {
    match &batch.first_sync {
        Some(FirstSyncStep::Apply(segment)) => Some(segment.bytes.into()),
        _ => None,
    }
}
