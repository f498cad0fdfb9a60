//! Segments: built in the background, kept in memory or in a folder, fetched in a session or by plain HTTP.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anabranch_core::segment::{Manifest, Segment};
use anabranch_core::wire::{ClientMessage, Envelope, Pull, ServerMessage};
use anabranch_core::{Change, Digest, EntityId};
use anabranch_server::{
    SegmentOptions, Server, ServerHandle, ServerOptions, SharedAccess, SqliteBackend, SystemEnvironment,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::changes::{Author, entity, space};
use crate::client::{Client, guarded};

async fn serve(file: &Path, segments: SegmentOptions) -> ServerHandle {
    let backend = SqliteBackend::open(file, Box::new(SystemEnvironment)).unwrap();
    let options = ServerOptions { segments, ..ServerOptions::default() };
    Server::bind("127.0.0.1:0".parse().unwrap(), Arc::new(backend), options).await.unwrap().spawn()
}

fn few() -> SegmentOptions {
    SegmentOptions { min_changes: 2, max_entities: 4, ..SegmentOptions::default() }
}

/// Edits of so many entities, twice each.
fn edits(author: &mut Author, entities: std::ops::Range<u8>) -> Vec<Envelope> {
    entities.flat_map(|n| [author.edit(entity(n), "first"), author.edit(entity(n), "second")]).collect()
}

async fn first(client: &mut Client) -> ServerMessage {
    let pull = Pull { segments: true, ..Pull::all(space("home"), None, None) };
    client.send(&ClientMessage::Pull(pull)).await;
    client.receive().await
}

async fn manifest(client: &mut Client) -> Manifest {
    match first(client).await {
        ServerMessage::Manifest { manifest, .. } => manifest,
        other => panic!("not a manifest: {other:?}"),
    }
}

async fn fetch(client: &mut Client, digest: Digest) -> Option<Vec<u8>> {
    client.send(&ClientMessage::Segment { space: space("home"), digest }).await;
    match client.receive().await {
        ServerMessage::Segment { digest: of, bytes, .. } if of == digest => bytes,
        other => panic!("not the segment: {other:?}"),
    }
}

async fn everything(client: &mut Client) -> (Vec<(EntityId, Vec<Change>)>, Vec<Digest>) {
    let manifest = manifest(client).await;
    let (mut all, mut names) = (Vec::new(), Vec::new());
    for piece in manifest.pieces {
        let bytes = fetch(client, piece.digest).await.unwrap();
        assert_eq!(usize::try_from(piece.bytes).unwrap(), bytes.len());
        let segment = Segment::open(&piece.digest, &bytes, None).unwrap();
        assert_eq!(usize::try_from(piece.entities).unwrap(), segment.entities.len());
        all.extend(segment.entities.into_iter().map(|entity| (entity.id, entity.changes)));
        names.push(piece.digest);
    }
    (all, names)
}

#[tokio::test]
async fn segments_hold_the_log_and_are_used_again_where_nothing_has_changed() {
    let folder = tempfile::tempdir().unwrap();
    let server = serve(&folder.path().join("server.db"), few()).await;
    let mut author = Author::new(1);
    let (mut client, _) = Client::connect(server.local_addr(), 1).await;
    let early = edits(&mut author, 0..20);
    client.push(1, early.clone()).await;
    guarded(server.segments_reach(&space("home"), 40)).await;
    let (all, names) = everything(&mut client).await;
    let pushed: Vec<_> = early.iter().map(|envelope| (envelope.entity, envelope.change.clone())).collect();
    let back = all.iter().flat_map(|(id, changes)| changes.iter().map(|change| (*id, change.bytes().to_vec())));
    assert_eq!(back.collect::<Vec<_>>(), pushed);
    assert_eq!(names.len(), 5);
    // One of the first, and some new ones.
    let mut late = vec![author.edit(entity(1), "third")];
    late.extend(edits(&mut author, 20..26));
    client.push(2, late).await;
    guarded(server.segments_reach(&space("home"), 53)).await;
    let (all, newer) = everything(&mut client).await;
    assert_eq!(all.len(), 26);
    assert_eq!(all[1].1.len(), 3);
    let kept: Vec<bool> = names.iter().map(|name| newer.contains(name)).collect();
    assert_eq!(kept, [false, true, true, true, true], "the first has changed; what is new comes after the last");
    // Whoever is in the middle of the earlier ones can go on.
    assert!(fetch(&mut client, names[0]).await.is_some());
    assert_eq!(fetch(&mut client, Digest::of(b"another")).await, None);
}

#[tokio::test]
async fn a_small_space_is_sent_by_its_log() {
    let folder = tempfile::tempdir().unwrap();
    let server = serve(&folder.path().join("server.db"), SegmentOptions::default()).await;
    let mut author = Author::new(1);
    let (mut client, _) = Client::connect(server.local_addr(), 1).await;
    client.push(1, edits(&mut author, 0..3)).await;
    let (mut other, _) = Client::connect(server.local_addr(), 2).await;
    let ServerMessage::Changes { changes, .. } = first(&mut other).await else { panic!("not changes") };
    assert_eq!(changes.len(), 6);
}

#[tokio::test]
async fn a_folder_of_segments_outlives_the_server_and_a_restored_log_does_not_use_it() {
    let folder = tempfile::tempdir().unwrap();
    let (file, early) = (folder.path().join("server.db"), folder.path().join("early.db"));
    let options = || SegmentOptions { folder: Some(folder.path().join("segments")), ..few() };
    let server = serve(&file, options()).await;
    let mut author = Author::new(1);
    let (mut client, _) = Client::connect(server.local_addr(), 1).await;
    client.push(1, edits(&mut author, 0..6)).await;
    client.leave().await;
    server.shutdown().await.unwrap();
    std::fs::copy(&file, &early).unwrap();

    let server = serve(&file, options()).await;
    let (mut client, _) = Client::connect(server.local_addr(), 1).await;
    client.push(2, edits(&mut author, 6..20)).await;
    guarded(server.segments_reach(&space("home"), 40)).await;
    let (all, names) = everything(&mut client).await;
    client.leave().await;
    server.shutdown().await.unwrap();

    let server = serve(&file, options()).await;
    let (mut client, _) = Client::connect(server.local_addr(), 1).await;
    assert_eq!(everything(&mut client).await, (all, names));
    client.leave().await;
    server.shutdown().await.unwrap();

    // Yesterday's file: what is in the folder is of a log that this server does not have.
    std::fs::copy(&early, &file).unwrap();
    let server = serve(&file, options()).await;
    let (mut client, _) = Client::connect(server.local_addr(), 1).await;
    match first(&mut client).await {
        ServerMessage::Changes { changes, .. } => assert_eq!(changes.len(), 12),
        // Built anew meanwhile.
        ServerMessage::Manifest { manifest, .. } => assert_eq!(manifest.mark.seq, 12),
        other => panic!("neither: {other:?}"),
    }
}

#[tokio::test]
async fn segments_are_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let kept = folder.path().join("segments");
    let options = SegmentOptions { folder: Some(kept.clone()), max_bytes: 1_500, ..few() };
    let server = serve(&folder.path().join("server.db"), options).await;
    let mut author = Author::new(1);
    let (mut client, _) = Client::connect(server.local_addr(), 1).await;
    for round in 0..12 {
        // Everything changes, so that nothing is used again.
        let all: Vec<_> = (0..8).map(|n| author.edit(entity(n), &format!("{round}"))).collect();
        client.push(round + 1, all).await;
        let (mut fresh, _) = Client::connect(server.local_addr(), 2).await;
        drop(first(&mut fresh).await);
        let files = std::fs::read_dir(&kept).map(Iterator::collect::<Result<Vec<_>, _>>).unwrap().unwrap();
        let sizes = files.iter().filter(|file| file.path().extension().is_some_and(|it| it == "segment"));
        let bytes: u64 = sizes.map(|file| file.metadata().map_or(0, |about| about.len())).sum();
        // Those that are being made come on top.
        assert!(bytes < 4_000, "{bytes}");
    }
}

#[tokio::test]
async fn a_segment_whose_file_is_damaged_is_built_again() {
    let folder = tempfile::tempdir().unwrap();
    let kept = folder.path().join("segments");
    let options = SegmentOptions { folder: Some(kept.clone()), ..few() };
    let server = serve(&folder.path().join("server.db"), options).await;
    let mut author = Author::new(1);
    let (mut client, _) = Client::connect(server.local_addr(), 1).await;
    client.push(1, edits(&mut author, 0..20)).await;
    guarded(server.segments_reach(&space("home"), 40)).await;
    let (all, names) = everything(&mut client).await;
    // As long as before, but zeros: what a power failure may leave; and one that is gone.
    let file = |name: &Digest| kept.join(format!("{name}.segment"));
    let length = std::fs::metadata(file(&names[1])).unwrap().len();
    std::fs::write(file(&names[1]), vec![0; usize::try_from(length).unwrap()]).unwrap();
    assert_eq!(fetch(&mut client, names[1]).await, None);
    guarded(server.segments_reach(&space("home"), 40)).await;
    assert_eq!(everything(&mut client).await, (all.clone(), names.clone()));
    std::fs::remove_file(file(&names[2])).unwrap();
    assert_eq!(fetch(&mut client, names[2]).await, None);
    guarded(server.segments_reach(&space("home"), 40)).await;
    assert_eq!(everything(&mut client).await, (all, names));
}

/// A plain request with headers; returns the status, the head, and the body.
async fn get(address: SocketAddr, path: &str, headers: &str) -> (u16, String, Vec<u8>) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n{headers}\r\n");
    guarded(stream.write_all(request.as_bytes())).await.unwrap();
    let mut answer = Vec::new();
    guarded(stream.read_to_end(&mut answer)).await.unwrap();
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    let head = String::from_utf8(answer[..end].to_vec()).unwrap().to_lowercase();
    let status = head[9..12].parse().unwrap();
    (status, head, answer[end + 4..].to_vec())
}

#[tokio::test]
async fn a_segment_is_a_plain_immutable_resource() {
    let folder = tempfile::tempdir().unwrap();
    let server = serve(&folder.path().join("server.db"), few()).await;
    let address = server.local_addr();
    let mut author = Author::new(1);
    let (mut client, _) = Client::connect(address, 1).await;
    client.push(1, edits(&mut author, 0..8)).await;
    guarded(server.segments_reach(&space("home"), 16)).await;
    let (status, head, body) = get(address, "/v1/spaces/home/segments", "").await;
    assert_eq!(status, 200);
    let listed: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((&listed["seq"], listed["segments"].as_array().unwrap().len()), (&16.into(), 2));
    let tag = head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap().to_owned();
    let known = get(address, "/v1/spaces/home/segments", &format!("if-none-match: {tag}\r\n")).await;
    assert_eq!((known.0, known.2.len()), (304, 0));

    let digest = listed["segments"][0]["digest"].as_str().unwrap();
    let path = format!("/v1/spaces/home/segments/{digest}");
    let (status, head, whole) = get(address, &path, "").await;
    assert_eq!(status, 200);
    assert_eq!(Digest::of(&whole).to_string(), digest);
    assert!(head.contains(&format!("etag: \"{digest}\"")) && head.contains("immutable") && head.contains("private"));
    let (status, head, rest) = get(address, &path, "range: bytes=10-\r\n").await;
    assert_eq!((status, rest.as_slice()), (206, &whole[10..]));
    assert!(head.contains(&format!("content-range: bytes 10-{}/{}", whole.len() - 1, whole.len())));
    assert_eq!(get(address, &path, "range: bytes=999999-\r\n").await.0, 416);
    assert_eq!(get(address, &path, "range: bytes=1-2\r\nif-range: \"other\"\r\n").await.0, 200);
    assert_eq!(get(address, &path, &format!("if-none-match: \"{digest}\"\r\n")).await.0, 304);
    assert_eq!(get(address, &format!("/v1/spaces/work/segments/{digest}"), "").await.0, 404, "another space's");
    assert_eq!(get(address, "/v1/spaces/home/segments/zz", "").await.0, 400);
    assert_eq!(get(address, "/v1/spaces/work/segments", "").await.0, 404);
}

#[tokio::test]
async fn segments_are_for_those_who_may_read_the_space() {
    struct OnlyWork;
    impl anabranch_core::sync::Access for OnlyWork {
        fn may_read(&self, space: &anabranch_core::SpaceName) -> bool {
            space.as_str() == "work"
        }
        fn may_write(&self, _: &anabranch_core::SpaceName) -> bool {
            true
        }
    }
    let backend = SqliteBackend::open_in_memory(Box::new(SystemEnvironment)).unwrap();
    let authorize = |headers: &anabranch_server::HeaderMap| {
        headers.get("authorization").map(|_| -> SharedAccess { Arc::new(OnlyWork) })
    };
    let options = ServerOptions { authorizer: Some(Arc::new(authorize)), ..ServerOptions::default() };
    let server = Server::bind("127.0.0.1:0".parse().unwrap(), Arc::new(backend), options).await.unwrap().spawn();
    let path = format!("/v1/spaces/home/segments/{}", Digest::of(b"any"));
    for path in ["/v1/spaces/home/segments", &path] {
        assert_eq!(get(server.local_addr(), path, "").await.0, 401);
        assert_eq!(get(server.local_addr(), path, "authorization: me\r\n").await.0, 403);
    }
    assert_eq!(get(server.local_addr(), "/v1/spaces/work/segments", "authorization: me\r\n").await.0, 404);
}
