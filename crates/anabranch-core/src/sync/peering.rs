//! How two peers prove to each other that they know the same token, and seal what they say.
//!
//! Each proves it with a keyed hash (HMAC, RFC 2104) over both sides' random numbers; the token itself is never sent.
//! The side that has dialled proves it first, so that nobody who knocks is told anything. The same hash gives each
//! direction a key of its own, by which every frame that follows is sealed: nobody in between can take the session
//! over. What is said is not hidden.

use std::fmt;

use hmac::digest::KeyInit as _;
use hmac::{Hmac, Mac as _};
use secrecy::{ExposeSecret as _, SecretSlice};
use sha2::Sha256;

use crate::wire::PeerHello;

/// The shortest token, in bytes. Whoever listens in can try tokens until one fits, so it should be long and random.
pub const MIN_TOKEN_BYTES: usize = 16;
/// The longest token, in bytes.
pub const MAX_TOKEN_BYTES: usize = 1_024;
/// The bytes of a seal.
pub const SEAL_BYTES: usize = 32;

/// A token is too short or too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a peer's token has {MIN_TOKEN_BYTES} to {MAX_TOKEN_BYTES} bytes")]
pub struct PeerTokenError;

/// What peers that trust each other share. It is never shown, and wiped from memory when it is dropped.
#[derive(Clone)]
pub struct PeerToken(SecretSlice<u8>);

/// Which side of a session somebody is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerRole {
    /// It has dialled.
    Dialler,
    /// It has listened.
    Listener,
}

impl PeerToken {
    /// A token of these bytes.
    ///
    /// # Errors
    /// [`PeerTokenError`].
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, PeerTokenError> {
        let bytes = bytes.into();
        let fits = (MIN_TOKEN_BYTES..=MAX_TOKEN_BYTES).contains(&bytes.len());
        if fits { Ok(Self(bytes.into())) } else { Err(PeerTokenError) }
    }
}

impl fmt::Debug for PeerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PeerToken([redacted])")
    }
}

impl PeerRole {
    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Dialler => Self::Listener,
            Self::Listener => Self::Dialler,
        }
    }

    const fn label(self) -> &'static [u8] {
        match self {
            Self::Dialler => b"dialler",
            Self::Listener => b"listener",
        }
    }
}

/// What both sides know of a session after their hellos.
#[derive(Clone)]
pub struct Handshake {
    token: PeerToken,
    hellos: Vec<u8>,
}

impl fmt::Debug for Handshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handshake").finish_non_exhaustive()
    }
}

impl Handshake {
    /// The session of these two.
    #[must_use]
    pub fn new(token: &PeerToken, dialler: &PeerHello, listener: &PeerHello) -> Self {
        let mut hellos = Vec::new();
        for hello in [dialler, listener] {
            hellos.extend(hello.replica.as_bytes());
            hellos.extend(hello.nonce);
        }
        Self { token: token.clone(), hellos }
    }

    /// The proof that a side knows the token.
    #[must_use]
    pub fn proof(&self, role: PeerRole) -> [u8; 32] {
        self.keyed(b"anabranch peer proof ", role).finalize().into_bytes().into()
    }

    /// Whether this is the proof of a side. Takes the same time whatever it is.
    #[must_use]
    pub fn is_proof(&self, role: PeerRole, proof: &[u8; 32]) -> bool {
        self.keyed(b"anabranch peer proof ", role).verify_slice(proof).is_ok()
    }

    /// What seals the frames that a side sends.
    #[must_use]
    pub fn seal(&self, role: PeerRole) -> PeerSeal {
        let key = self.keyed(b"anabranch peer seal ", role).finalize().into_bytes();
        PeerSeal { key: key.to_vec().into(), frames: 0 }
    }

    fn keyed(&self, purpose: &[u8], role: PeerRole) -> Hmac<Sha256> {
        let mut keyed = keyed(self.token.0.expose_secret());
        keyed.update(purpose);
        keyed.update(role.label());
        keyed.update(&self.hellos);
        keyed
    }
}

/// Seals the frames of one direction, one after the other: none can be altered, left out, repeated or added.
#[derive(Clone)]
pub struct PeerSeal {
    key: SecretSlice<u8>,
    frames: u64,
}

impl fmt::Debug for PeerSeal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerSeal").field("frames", &self.frames).finish_non_exhaustive()
    }
}

impl PeerSeal {
    /// The seal of the next frame that is sent.
    pub fn next(&mut self, frame: &[u8]) -> [u8; SEAL_BYTES] {
        self.over(frame).finalize().into_bytes().into()
    }

    /// Whether this is the seal of the next frame that has come. Takes the same time whatever it is.
    #[must_use]
    pub fn is_next(&mut self, frame: &[u8], seal: &[u8; SEAL_BYTES]) -> bool {
        self.over(frame).verify_slice(seal).is_ok()
    }

    fn over(&mut self, frame: &[u8]) -> Hmac<Sha256> {
        let mut over = keyed(self.key.expose_secret());
        over.update(&self.frames.to_le_bytes());
        over.update(frame);
        self.frames += 1;
        over
    }
}

/// HMAC takes keys of any length.
fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).unwrap_or_else(|_| Hmac::new(&Default::default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::ReplicaId;

    fn hello(n: u8) -> PeerHello {
        PeerHello { replica: ReplicaId::from_bytes([n; 16]), nonce: [n; 32] }
    }

    fn handshake(token: &str) -> Handshake {
        Handshake::new(&PeerToken::new(token).unwrap(), &hello(1), &hello(2))
    }

    #[test]
    fn a_proof_fits_one_token_one_session_and_one_side() {
        let ours = handshake("correct horse battery");
        let proof = ours.proof(PeerRole::Dialler);
        assert!(ours.is_proof(PeerRole::Dialler, &proof));
        assert!(!ours.is_proof(PeerRole::Listener, &proof), "it cannot be sent back");
        assert!(!handshake("correct horse batterx").is_proof(PeerRole::Dialler, &proof));
        let token = PeerToken::new("correct horse battery").unwrap();
        assert!(!Handshake::new(&token, &hello(1), &hello(3)).is_proof(PeerRole::Dialler, &proof));
    }

    #[test]
    fn a_seal_fits_one_frame_in_one_place() {
        let handshake = handshake("correct horse battery");
        let (mut ours, mut theirs) = (handshake.seal(PeerRole::Dialler), handshake.seal(PeerRole::Dialler));
        let (one, two) = (ours.next(b"one"), ours.next(b"two"));
        let mut late = theirs.clone();
        assert!(theirs.is_next(b"one", &one) && theirs.is_next(b"two", &two));
        assert!(!theirs.is_next(b"two", &two), "not again");
        assert!(!late.is_next(b"two", &two), "not before the first");
        assert!(!handshake.seal(PeerRole::Dialler).is_next(b"onf", &one));
        assert!(!handshake.seal(PeerRole::Listener).is_next(b"one", &one));
    }

    #[test]
    fn a_token_is_not_short_and_never_shown() {
        assert!(PeerToken::new("short").is_err() && PeerToken::new(vec![0; MAX_TOKEN_BYTES + 1]).is_err());
        let token = PeerToken::new("correct horse battery").unwrap();
        let shown = format!("{token:?} {:?} {:?}", handshake("correct horse battery"), token);
        assert!(!shown.contains("horse"), "{shown}");
    }
}
