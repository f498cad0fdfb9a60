//! Frames: the one file that knows bincode and deflate.

use std::io::{Read as _, Write as _};

use bincode::{Decode, Encode};
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;
use flate2::{Compression, Crc};

/// The version of the protocol, in every frame and in [`Hello`](super::Hello).
pub const PROTOCOL_VERSION: u8 = 1;
/// The largest body of a frame, inflated, in bytes.
pub const MAX_FRAME_BYTES: usize = 2 << 20;

const MAGIC: [u8; 2] = *b"An";
/// The bytes of a frame before its body.
pub const HEADER_BYTES: usize = 12;
/// Where in the header the checksum stands: it covers what is before it, and the body.
const CHECKSUM_AT: usize = 8;
const FLAG_DEFLATED: u8 = 1;
/// Smaller bodies are sent as they are: deflating them would cost more than it saves.
const DEFLATE_FROM_BYTES: usize = 256;

/// Bytes that are not a frame of this protocol version.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The first bytes are not those of a frame.
    #[error("the bytes are not an Anabranch frame")]
    NotAFrame,
    /// The other side speaks another version.
    #[error("protocol version {0} is not supported (this is version {PROTOCOL_VERSION})")]
    Version(u8),
    /// The frame is cut off, or goes on after its end.
    #[error("the frame's length is wrong")]
    Length,
    /// The body is, or inflates to, more than [`MAX_FRAME_BYTES`].
    #[error("the frame is larger than 2 MiB")]
    TooLarge,
    /// The frame was damaged on its way: the transport has no checksum of its own, or none that helped.
    #[error("the frame's checksum is wrong")]
    Checksum,
    /// The body is not a message.
    #[error("the frame's body cannot be read")]
    Body,
}

/// A message that does not fit in a frame.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// The body would be larger than [`MAX_FRAME_BYTES`].
    #[error("the message is larger than a frame may be (2 MiB)")]
    TooLarge,
}

/// Writes a message as one frame.
///
/// # Errors
/// [`EncodeError::TooLarge`].
pub fn encode<M: Encode>(message: &M) -> Result<Vec<u8>, EncodeError> {
    let body = bincode::encode_to_vec(message, bincode::config::standard()).map_err(|_| EncodeError::TooLarge)?;
    if body.len() > MAX_FRAME_BYTES {
        return Err(EncodeError::TooLarge);
    }
    let deflated = if body.len() >= DEFLATE_FROM_BYTES { deflate(&body) } else { None };
    let (flags, body) = deflated.map_or((0, body), |deflated| (FLAG_DEFLATED, deflated));
    frame(flags, &body)
}

fn frame(flags: u8, body: &[u8]) -> Result<Vec<u8>, EncodeError> {
    let length = u32::try_from(body.len()).map_err(|_| EncodeError::TooLarge)?;
    let mut frame = Vec::with_capacity(HEADER_BYTES + body.len());
    frame.extend_from_slice(&MAGIC);
    frame.extend_from_slice(&[PROTOCOL_VERSION, flags]);
    frame.extend_from_slice(&length.to_le_bytes());
    let checksum = checksum(&frame, body);
    frame.extend_from_slice(&checksum);
    frame.extend_from_slice(body);
    Ok(frame)
}

/// CRC-32 of the header so far and the body. It is there for accidents, not against attackers.
fn checksum(header: &[u8], body: &[u8]) -> [u8; 4] {
    let mut crc = Crc::new();
    crc.update(header);
    crc.update(body);
    crc.sum().to_le_bytes()
}

/// Reads a message from exactly one frame.
///
/// # Errors
/// [`DecodeError`]; no input panics, and none takes more memory than a few times [`MAX_FRAME_BYTES`].
pub fn decode<M: Decode<()>>(frame: &[u8]) -> Result<M, DecodeError> {
    let (first, rest) = split(frame)?;
    if !rest.is_empty() {
        return Err(DecodeError::Length);
    }
    let (header, body) = first.split_at(HEADER_BYTES);
    let (covered, expected) = header.split_at(CHECKSUM_AT);
    if checksum(covered, body) != expected {
        return Err(DecodeError::Checksum);
    }
    match header[3] {
        0 => decode_body(body),
        FLAG_DEFLATED => decode_body(&inflate(body)?),
        _ => Err(DecodeError::NotAFrame),
    }
}

/// Splits off the first frame of a sequence of frames (as in the body of an HTTP request).
///
/// # Errors
/// [`DecodeError`] if the bytes do not start with one whole frame.
pub fn split(bytes: &[u8]) -> Result<(&[u8], &[u8]), DecodeError> {
    let header = bytes.first_chunk().ok_or(DecodeError::Length)?;
    let length = body_length(header)?;
    bytes.split_at_checked(HEADER_BYTES + length).ok_or(DecodeError::Length)
}

/// How many bytes follow a frame's header, for whoever reads frames from a stream.
///
/// # Errors
/// [`DecodeError`] if it is no header of a frame, or the frame is too large.
pub fn body_length(header: &[u8; HEADER_BYTES]) -> Result<usize, DecodeError> {
    if header[..2] != MAGIC {
        return Err(DecodeError::NotAFrame);
    }
    if header[2] != PROTOCOL_VERSION {
        return Err(DecodeError::Version(header[2]));
    }
    let length = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
    let length = usize::try_from(length).map_err(|_| DecodeError::TooLarge)?;
    if length > MAX_FRAME_BYTES { Err(DecodeError::TooLarge) } else { Ok(length) }
}

fn decode_body<M: Decode<()>>(body: &[u8]) -> Result<M, DecodeError> {
    let config = bincode::config::standard().with_limit::<{ 4 * MAX_FRAME_BYTES }>();
    let (message, read) = bincode::decode_from_slice(body, config).map_err(|_| DecodeError::Body)?;
    if read == body.len() { Ok(message) } else { Err(DecodeError::Length) }
}

/// The deflated body, unless it is no smaller.
fn deflate(body: &[u8]) -> Option<Vec<u8>> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(body).ok()?;
    encoder.finish().ok().filter(|deflated| deflated.len() < body.len())
}

fn inflate(body: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let limit = u64::try_from(MAX_FRAME_BYTES + 1).map_err(|_| DecodeError::TooLarge)?;
    let mut inflated = Vec::new();
    DeflateDecoder::new(body).take(limit).read_to_end(&mut inflated).map_err(|_| DecodeError::Body)?;
    if inflated.len() > MAX_FRAME_BYTES { Err(DecodeError::TooLarge) } else { Ok(inflated) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::{ClientMessage, ServerMessage};

    proptest! {
        #[test]
        fn a_message_survives_its_frame(body in prop::collection::vec(any::<u8>(), 0..5_000)) {
            let frame = encode(&body).unwrap();
            prop_assert_eq!(decode::<Vec<u8>>(&frame).unwrap(), body);
        }

        #[test]
        fn no_bytes_panic(body in prop::collection::vec(any::<u8>(), 0..300), flags in 0u8..2) {
            let bytes = frame(flags, &body).unwrap();
            drop(decode::<ClientMessage>(&bytes));
            drop(decode::<ServerMessage>(&bytes));
        }

        /// Found by simulation: a flipped bit in a small frame, which is not deflated, moved a change to another
        /// entity.
        #[test]
        fn a_flipped_bit_is_noticed(body in prop::collection::vec(any::<u8>(), 0..600), at: prop::sample::Index) {
            let mut frame = encode(&body).unwrap();
            let bit = at.index(frame.len() * 8);
            frame[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(decode::<Vec<u8>>(&frame).is_err());
        }
    }

    #[test]
    fn a_flag_that_nobody_knows_is_refused() {
        let bytes = frame(2, &[1, 7]).unwrap();
        assert!(matches!(decode::<Vec<u8>>(&bytes), Err(DecodeError::NotAFrame)));
    }

    #[test]
    fn a_message_larger_than_a_frame_is_not_written() {
        assert!(matches!(encode(&vec![7u8; MAX_FRAME_BYTES]), Err(EncodeError::TooLarge)));
        assert!(encode(&vec![7u8; MAX_FRAME_BYTES - 5]).is_ok());
    }

    #[test]
    fn a_frame_cut_off_anywhere_is_refused() {
        let frame = encode(&vec![7u8; 2_000]).unwrap();
        for end in 0..frame.len() {
            assert!(decode::<Vec<u8>>(&frame[..end]).is_err());
        }
    }

    #[test]
    fn an_inflating_bomb_is_refused() {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(&vec![0; 64 << 20]).unwrap();
        let body = encoder.finish().unwrap();
        let frame = frame(FLAG_DEFLATED, &body).unwrap();
        assert!(matches!(decode::<Vec<u8>>(&frame), Err(DecodeError::TooLarge)));
    }

    #[test]
    fn a_claim_of_a_trillion_elements_is_refused() {
        let mut body = vec![253];
        body.extend((1u64 << 40).to_le_bytes());
        let frame = frame(0, &body).unwrap();
        assert!(matches!(decode::<Vec<u8>>(&frame), Err(DecodeError::Body)));
    }

    #[test]
    fn another_version_is_named() {
        let mut frame = encode(&1u8).unwrap();
        frame[2] = 9;
        assert!(matches!(decode::<u8>(&frame), Err(DecodeError::Version(9))));
    }
}
