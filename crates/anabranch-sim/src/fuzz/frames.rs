//! Frames as they come from outside.

use std::fmt::Debug;
use std::io::{Read as _, Write as _};
use std::sync::LazyLock;

use anabranch_core::wire::{
    self, ClientMessage, DecodeError, EncodeError, HEADER_BYTES, MAX_FRAME_BYTES, PROTOCOL_VERSION, PeerMessage,
    ServerMessage,
};
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;
use flate2::{Compression, Crc};

use super::{Input, altered, honest};

const STORED: u8 = 0;
const DEFLATED: u8 = 1;

/// Honest frames of all messages, one after the other: every body is read by the side that it is meant for.
#[must_use]
pub fn frames() -> Vec<Vec<u8>> {
    let client = honest::client_messages().into_iter().map(|message| wire::encode(&message));
    let server = honest::server_messages().into_iter().map(|message| wire::encode(&message));
    let peer = honest::peer_messages().into_iter().map(|message| wire::encode(&message));
    client.chain(server).chain(peer).map(|frame| frame.expect("an honest message fits")).collect()
}

/// Reads the bytes as a frame, as a frame's body, as a deflated one, or as alterations of an honest frame; and that as
/// every kind of message.
///
/// Returns how many kinds could be read.
///
/// # Panics
/// If what is read is not written and read again as the same, or a bound does not hold: that is what the fuzzer looks
/// for.
pub fn frame_decode(bytes: &[u8]) -> usize {
    let mut input = Input(bytes);
    let frame = match input.next() % 8 {
        0 => input.0.to_vec(),
        1 => framed(STORED, input.0),
        2 => framed(DEFLATED, &deflated(input.0)),
        3 => framed(DEFLATED, input.0),
        _ => {
            let body = &bodies()[input.below(bodies().len())];
            framed(STORED, &altered(body.clone(), &mut input))
        }
    };
    if let Ok((first, rest)) = wire::split(&frame) {
        assert_eq!([first, rest].concat(), frame);
        assert!(first.len() <= HEADER_BYTES + MAX_FRAME_BYTES);
    }
    reads(&frame)
}

/// By how many of a server, a client and a peer the frame can be read.
///
/// # Panics
/// If what is read is not written and read again as the same.
#[must_use]
pub fn reads(frame: &[u8]) -> usize {
    read(frame, wire::decode::<ClientMessage>, wire::encode)
        + read(frame, wire::decode::<ServerMessage>, wire::encode)
        + read(frame, wire::decode::<PeerMessage>, wire::encode)
}

/// The bodies of the honest frames, inflated.
fn bodies() -> &'static [Vec<u8>] {
    static BODIES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| frames().iter().map(|frame| body(frame)).collect());
    &BODIES
}

fn body(frame: &[u8]) -> Vec<u8> {
    let (header, body) = frame.split_at(HEADER_BYTES);
    if header[3] == STORED {
        return body.to_vec();
    }
    let mut inflated = Vec::new();
    DeflateDecoder::new(body).read_to_end(&mut inflated).expect("an honest frame");
    inflated
}

/// What can be read, is written as a frame that reads the same.
fn read<M: PartialEq + Debug>(
    frame: &[u8],
    decode: fn(&[u8]) -> Result<M, DecodeError>,
    encode: fn(&M) -> Result<Vec<u8>, EncodeError>,
) -> usize {
    match decode(frame) {
        Ok(message) => {
            let again = encode(&message).expect("it was in a frame");
            assert_eq!(decode(&again).expect("it has just been written"), message);
            1
        }
        Err(error) => {
            // A reason for whoever reads the log, and short.
            assert!(error.to_string().len() < 200);
            0
        }
    }
}

/// A frame with the right length and checksum.
pub(super) fn framed(flags: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("a short input");
    let mut frame = b"An".to_vec();
    frame.extend([PROTOCOL_VERSION, flags]);
    frame.extend(length.to_le_bytes());
    let mut crc = Crc::new();
    crc.update(&frame);
    crc.update(body);
    frame.extend(crc.sum().to_le_bytes());
    frame.extend(body);
    frame
}

fn deflated(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}
