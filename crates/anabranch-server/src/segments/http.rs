//! Segments by plain HTTP: for caches in between, and for whoever resumes in the middle of one.

use std::ops::Range;
use std::sync::Arc;

use anabranch_core::segment::MAX_SEGMENT_BYTES;
use anabranch_core::sync::seal_cursor;
use anabranch_core::{Digest, SpaceName};
use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};

use crate::connection::Connection;
use crate::http::{Refusal, Shared};
use crate::memory::{self, Held, Share, kept};
use crate::session::PIECE_BYTES;

/// A segment never changes: its name is the digest of its bytes. `private`, because the right to read it is the
/// session's.
const IMMUTABLE: &str = "private, max-age=31536000, immutable";

pub(crate) async fn manifest(
    State(shared): State<Arc<Shared>>,
    Extension(connection): Extension<Arc<Connection>>,
    headers: HeaderMap,
    Path(space): Path<String>,
) -> Result<Response, Refusal> {
    let (space, share) = readable(&shared, &connection, &headers, space).await?;
    let held = room(&share, shared.segments.count(&space) * PIECE_BYTES).await?;
    let found = shared.segments.manifest(&space).await;
    let (mark, pieces) = found.ok_or((StatusCode::NOT_FOUND, "this space has no segments\n"))?;
    let cursor = seal_cursor(shared.sessions.backend().lineage(), &space, mark);
    let segment = |piece: anabranch_core::segment::Piece| {
        json!({
            "digest": piece.digest.to_string(),
            "collection": piece.collection.as_str(),
            "entities": piece.entities,
            "bytes": piece.bytes,
        })
    };
    let cursor: String = cursor.0.iter().map(|byte| format!("{byte:02x}")).collect();
    let segments: Vec<Value> = pieces.into_iter().map(segment).collect();
    let body = json!({
        "seq": mark.seq,
        "chain": mark.chain.to_string(),
        "cursor": cursor,
        "segments": segments,
    });
    let body = body.to_string();
    let tag = tag(&Digest::of(body.as_bytes()));
    let about = [(header::ETAG, tag.clone()), (header::CACHE_CONTROL, "no-cache".to_owned())];
    if is_known(&headers, &tag) {
        return Ok((StatusCode::NOT_MODIFIED, about).into_response());
    }
    let body = Body::from(kept(body.into_bytes(), held));
    Ok((about, [(header::CONTENT_TYPE, "application/json")], body).into_response())
}

pub(crate) async fn segment(
    State(shared): State<Arc<Shared>>,
    Extension(connection): Extension<Arc<Connection>>,
    headers: HeaderMap,
    Path((space, digest)): Path<(String, String)>,
) -> Result<Response, Refusal> {
    let (space, share) = readable(&shared, &connection, &headers, space).await?;
    let digest: Digest = digest.parse().map_err(|_| (StatusCode::BAD_REQUEST, "not a digest\n"))?;
    let held = room(&share, MAX_SEGMENT_BYTES).await?;
    let found = shared.segments.segment(&space, &digest).await;
    let bytes = found.ok_or((StatusCode::NOT_FOUND, "no such segment, or not any more\n"))?;
    let bytes = kept(bytes, held);
    let tag = tag(&digest);
    let about = [
        (header::ETAG, tag.clone()),
        (header::CACHE_CONTROL, IMMUTABLE.to_owned()),
        (header::ACCEPT_RANGES, "bytes".to_owned()),
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
    ];
    if is_known(&headers, &tag) {
        return Ok((StatusCode::NOT_MODIFIED, about).into_response());
    }
    let same = headers.get(header::IF_RANGE).is_none_or(|known| known.as_bytes() == tag.as_bytes());
    let asked = headers.get(header::RANGE).filter(|_| same).and_then(|range| range.to_str().ok());
    match asked.and_then(|asked| range(asked, bytes.len())) {
        None => Ok((about, Body::from(bytes)).into_response()),
        Some(None) => {
            let all = [(header::CONTENT_RANGE, format!("bytes */{}", bytes.len()))];
            Ok((StatusCode::RANGE_NOT_SATISFIABLE, all).into_response())
        }
        Some(Some(range)) => {
            let part = format!("bytes {}-{}/{}", range.start, range.end - 1, bytes.len());
            let bytes = Body::from(bytes.slice(range));
            Ok((StatusCode::PARTIAL_CONTENT, about, [(header::CONTENT_RANGE, part)], bytes).into_response())
        }
    }
}

/// The space, if the sender of the request may read it: the same check as in a session, before anything is looked up.
async fn readable(
    shared: &Shared,
    connection: &Connection,
    headers: &HeaderMap,
    space: String,
) -> Result<(SpaceName, Share), Refusal> {
    let access = shared.access(headers).await?;
    let space = SpaceName::new(space).map_err(|_| (StatusCode::BAD_REQUEST, "not a valid space name\n"))?;
    if access.may_read(&space) {
        let share = shared.sessions.share(&access, connection.network());
        Ok((space, share))
    } else {
        Err((StatusCode::FORBIDDEN, "no right to read this space\n").into())
    }
}

/// A part of the shared memory, until the answer has been written: many who fetch and do not read fill it no further.
async fn room(share: &Share, bytes: usize) -> Result<Option<Arc<Held>>, Refusal> {
    let held = share.hold(bytes).await;
    held.map(|held| Some(Arc::new(held))).ok_or(Refusal::TooMany(memory::RETRY_AFTER))
}

fn tag(digest: &Digest) -> String {
    format!("\"{digest}\"")
}

fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    let known = headers.get(header::IF_NONE_MATCH).and_then(|known| known.to_str().ok());
    known.is_some_and(|known| known.split(',').any(|one| one.trim() == tag || one.trim() == "*"))
}

/// One range of bytes. `None` for what is to be ignored (several ranges, another unit, rubbish), `Some(None)` for
/// one that is not there.
fn range(asked: &str, length: usize) -> Option<Option<Range<usize>>> {
    let (from, to) = asked.strip_prefix("bytes=")?.split_once('-')?;
    let number = |text: &str| text.parse::<usize>().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
    if from.is_empty() {
        let last = number(to)?;
        return Some((last > 0 && length > 0).then(|| length.saturating_sub(last)..length));
    }
    let from = number(from)?;
    let end = if to.is_empty() { length } else { number(to)?.saturating_add(1).min(length) };
    if !to.is_empty() && number(to)? < from {
        return None;
    }
    Some((from < length).then_some(from..end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_the_standard_says() {
        for (asked, expected) in [
            ("bytes=0-", Some(Some(0..10))),
            ("bytes=4-6", Some(Some(4..7))),
            ("bytes=9-99", Some(Some(9..10))),
            ("bytes=-3", Some(Some(7..10))),
            ("bytes=-99", Some(Some(0..10))),
            ("bytes=10-", Some(None)),
            ("bytes=-0", Some(None)),
            ("bytes=6-4", None),
            ("bytes=0-1,3-4", None),
            ("bytes=+1-2", None),
            ("bytes=", None),
            ("items=0-1", None),
        ] {
            assert_eq!(range(asked, 10), expected, "{asked}");
        }
    }
}
