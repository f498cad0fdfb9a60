//! A server that sends what no honest one has.

use std::future::Future;
use std::io::{Read as _, Write as _};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};

use anabranch::{FarEnd, Link, LinkError, Transport};
use anabranch_core::segment::{Built, Manifest, Piece, SegmentBuilder};
use anabranch_core::wire::{self, Answer, ClientMessage, Cursor, Limits, Mark, Pushed, ServerMessage, Welcome};
use anabranch_core::{Change, Digest, Lineage};
use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;

use super::stock::{Batch, Stock, notes};

/// By which way the next batch goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Door {
    Page,
    Segment,
    Reconcile,
}

#[derive(Clone)]
pub(crate) struct Server(Arc<Mutex<State>>);

struct State {
    door: Door,
    stock: Stock,
    /// What has not been sent yet.
    next: Option<Batch>,
    segment: Option<(Piece, Vec<u8>)>,
    segments_sent: usize,
    /// Where its log ends.
    seq: u64,
}

impl Server {
    pub(crate) fn new() -> Self {
        let state =
            State { door: Door::Page, stock: Stock::default(), next: None, segment: None, segments_sent: 0, seq: 0 };
        Self(Arc::new(Mutex::new(state)))
    }

    /// Has a batch ready for the next session.
    pub(crate) fn offer(&self, door: Door, batch: Batch) {
        let mut state = self.lock();
        state.door = door;
        state.seq += 1;
        state.segment = (door == Door::Segment).then(|| segment(&batch));
        state.stock.add(batch.clone());
        state.next = Some(batch);
    }

    /// Knows nothing hostile any more.
    pub(crate) fn settle(&self) {
        self.lock().stock.settle();
    }

    pub(crate) fn segments_sent(&self) -> usize {
        self.lock().segments_sent
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("nobody has panicked")
    }

    async fn serve(self, (mut incoming, outgoing): FarEnd) {
        while let Some(frame) = incoming.recv().await {
            let message = wire::decode::<ClientMessage>(&frame).expect("the client is honest");
            let answers = self.lock().answer(message);
            for answer in answers {
                if outgoing.send(Ok(wire::encode(&answer).expect("it fits"))).await.is_err() {
                    return;
                }
            }
        }
    }
}

impl Transport for Server {
    fn connect(&self) -> Pin<Box<dyn Future<Output = Result<Link, LinkError>> + Send + '_>> {
        Box::pin(async move {
            let (link, far) = Link::pair();
            tokio::spawn(self.clone().serve(far));
            Ok(link)
        })
    }
}

impl State {
    fn answer(&mut self, message: ClientMessage) -> Vec<ServerMessage> {
        let mark = Mark { seq: self.seq, chain: Digest::of(&self.seq.to_le_bytes()) };
        let cursor = Cursor(self.seq.to_le_bytes().to_vec());
        match message {
            ClientMessage::Hello(_) => {
                let limits = Limits { push_changes: 100, push_bytes: 100_000 };
                let lineage = Lineage::from_bytes([7; 16]);
                vec![ServerMessage::Welcome(Welcome { lineage, now: 1_800_000_000_000, limits })]
            }
            ClientMessage::Pull(pull) => {
                let space = pull.space;
                if let Some((piece, _)) = self.segment.as_ref().filter(|_| pull.segments) {
                    let manifest = Manifest { mark, cursor, pieces: vec![piece.clone()] };
                    return vec![ServerMessage::Manifest { space, manifest }];
                }
                let next = self.next.take();
                if next.is_some() && self.door == Door::Reconcile {
                    return vec![ServerMessage::CursorUnknown { space }];
                }
                let changes = match next {
                    // Its segment was refused. What it has by the log is honest.
                    Some(mut batch) if self.door == Door::Segment => {
                        batch.settle();
                        batch.changes
                    }
                    next => next.map(|batch| batch.changes).unwrap_or_default(),
                };
                vec![ServerMessage::Changes { space, changes, cursor, more: false }]
            }
            ClientMessage::Segment { space, digest } => {
                self.segments_sent += 1;
                let bytes = self.segment.as_ref().map(|(_, bytes)| bytes.clone());
                vec![ServerMessage::Segment { space, digest, bytes }]
            }
            ClientMessage::Reconcile { space, ask } => {
                let reply = self.stock.reply(ask);
                let at = matches!(reply, wire::Reply::Sketch(_)).then_some((cursor, mark));
                vec![ServerMessage::Reconciled { space, reply, at }]
            }
            ClientMessage::Push(push) => {
                let answers = push.changes.iter().map(|_| Answer::Accepted { seq: self.seq }).collect();
                let pushed = Pushed { id: push.id, space: push.space, answers, mark: Some(mark), cursor: None };
                vec![ServerMessage::Pushed(pushed)]
            }
            ClientMessage::Received { .. } | ClientMessage::Presence { .. } => Vec::new(),
        }
    }
}

/// A segment of the batch. What is no change cannot be in one; it stands in the place of a genesis then.
fn segment(batch: &Batch) -> (Piece, Vec<u8>) {
    let (honest, hostile) = batch.parts();
    let hostile = hostile.expect("a hostile change");
    let mut builder = SegmentBuilder::new(notes());
    assert!(honest.iter().all(|change| builder.add(batch.entity, change)));
    if let Ok(change) = Change::parse(hostile.to_vec()) {
        assert!(builder.add(batch.entity, &change));
        let Built { piece, bytes, .. } = builder.finish().expect("a segment");
        return (piece, bytes);
    }
    let Built { piece, bytes, .. } = builder.finish().expect("a segment");
    let genesis = honest.iter().find(|change| change.actor().is_derived()).expect("a genesis");
    let mut body = Vec::new();
    DeflateDecoder::new(bytes.as_slice()).read_to_end(&mut body).expect("a body");
    let (old, new) = (counted(genesis.bytes()), counted(hostile));
    let at = body.windows(old.len()).position(|window| window == old).expect("a genesis is stored whole");
    body.splice(at..at + old.len(), new);
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(&body).expect("memory");
    let bytes = encoder.finish().expect("memory");
    let size = u32::try_from(bytes.len()).expect("a size");
    (Piece { digest: Digest::of(&bytes), bytes: size, ..piece }, bytes)
}

/// Bytes as a segment's body has them: after their count.
fn counted(bytes: &[u8]) -> Vec<u8> {
    let count = u32::try_from(bytes.len()).expect("a count");
    let mut counted = match (u8::try_from(count), u16::try_from(count)) {
        (Ok(count @ ..251), _) => vec![count],
        (_, Ok(count)) => [vec![251], count.to_le_bytes().to_vec()].concat(),
        _ => [vec![252], count.to_le_bytes().to_vec()].concat(),
    };
    counted.extend(bytes);
    counted
}
