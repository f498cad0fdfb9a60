//! Frames over a stream: the handshake, and the seals that follow it.

use std::time::Duration;

use anabranch_core::ReplicaId;
use anabranch_core::sync::{Handshake, PeerRole, PeerSeal, PeerToken, SEAL_BYTES};
use anabranch_core::wire::{self, HEADER_BYTES, MAX_FRAME_BYTES, PeerHello, PeerMessage};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::peer::PeerError;

/// How long the handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest body of a frame before the handshake is over.
const HANDSHAKE_BYTES: usize = 256;
/// How long a peer may be silent.
const SILENCE: Duration = Duration::from_secs(180);
/// How long a frame may take from its first byte to its last.
const FRAME_TIMEOUT: Duration = Duration::from_secs(60);
/// A peer that does not take a frame for this long is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// Frames that wait to be taken in.
const INCOMING: usize = 2;

/// Something to write frames to.
type Writer = Box<dyn AsyncWrite + Send + Unpin>;

/// A connection to a peer.
pub(super) struct Channel {
    writer: Writer,
    seal: Option<PeerSeal>,
    incoming: mpsc::Receiver<Result<Vec<u8>, PeerError>>,
    reading: JoinHandle<()>,
    pub(super) bytes_sent: u64,
    pub(super) bytes_received: u64,
}

impl Channel {
    /// Says hello and proves on both sides that the token is known. Returns the other replica, too.
    pub(super) async fn open<S>(
        mut stream: S,
        role: PeerRole,
        token: &PeerToken,
        replica: ReplicaId,
    ) -> Result<(Self, ReplicaId), PeerError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let ours = PeerHello { replica, nonce: nonce()? };
        let shaking = timeout(HANDSHAKE_TIMEOUT, shake_hands(&mut stream, role, token, &ours)).await;
        let (handshake, theirs) =
            shaking.map_err(|_| PeerError::Broken("the handshake took too long".to_owned()))??;
        let seals = (handshake.seal(role), handshake.seal(role.other()));
        Ok((Self::over(stream, Some(seals)), theirs.replica))
    }

    /// A channel inside this process.
    pub(super) fn trusted<S>(stream: S) -> Self
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        Self::over(stream, None)
    }

    fn over<S>(stream: S, seals: Option<(PeerSeal, PeerSeal)>) -> Self
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (reader, writer): (ReadHalf<S>, WriteHalf<S>) = tokio::io::split(stream);
        let (frames, incoming) = mpsc::channel(INCOMING);
        let (ours, theirs) = seals.unzip();
        let reading = tokio::spawn(read_on(reader, theirs, frames));
        Self { writer: Box::new(writer), seal: ours, incoming, reading, bytes_sent: 0, bytes_received: 0 }
    }

    pub(super) async fn send(&mut self, message: &PeerMessage) -> Result<(), PeerError> {
        let mut frame = wire::encode(message).map_err(|error| PeerError::Protocol(error.to_string()))?;
        if let Some(seal) = &mut self.seal {
            let seal = seal.next(&frame);
            frame.extend(seal);
        }
        self.bytes_sent += u64::try_from(frame.len()).unwrap_or(u64::MAX);
        write(&mut self.writer, &frame).await
    }

    /// The next message, or `None` if the peer has hung up. Nothing is lost if the future is dropped.
    pub(super) async fn receive(&mut self) -> Result<Option<PeerMessage>, PeerError> {
        let Some(frame) = self.incoming.recv().await else { return Ok(None) };
        let frame = frame?;
        self.bytes_received += u64::try_from(frame.len()).unwrap_or(u64::MAX);
        let message = wire::decode(&frame).map_err(|error| PeerError::Protocol(error.to_string()))?;
        Ok(Some(message))
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

/// The dialler proves first, so that nobody who knocks is told anything.
async fn shake_hands<S>(
    stream: &mut S,
    role: PeerRole,
    token: &PeerToken,
    ours: &PeerHello,
) -> Result<(Handshake, PeerHello), PeerError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin,
{
    let greet = PeerMessage::Hello(*ours);
    match role {
        PeerRole::Dialler => {
            say(stream, &greet).await?;
            let theirs = heard_hello(stream).await?;
            let handshake = Handshake::new(token, ours, &theirs);
            say(stream, &PeerMessage::Proof(handshake.proof(role))).await?;
            // A listener that is not convinced just hangs up.
            let proof = heard_proof(stream).await.map_err(|error| match error {
                PeerError::Broken(_) => PeerError::Token,
                other => other,
            })?;
            if handshake.is_proof(role.other(), &proof) { Ok((handshake, theirs)) } else { Err(PeerError::Token) }
        }
        PeerRole::Listener => {
            let theirs = heard_hello(stream).await?;
            say(stream, &greet).await?;
            let handshake = Handshake::new(token, &theirs, ours);
            let proof = heard_proof(stream).await?;
            if !handshake.is_proof(role.other(), &proof) {
                return Err(PeerError::Token);
            }
            say(stream, &PeerMessage::Proof(handshake.proof(role))).await?;
            Ok((handshake, theirs))
        }
    }
}

async fn say<W: AsyncWrite + Send + Unpin>(stream: &mut W, message: &PeerMessage) -> Result<(), PeerError> {
    let frame = wire::encode(message).map_err(|error| PeerError::Protocol(error.to_string()))?;
    write(stream, &frame).await
}

async fn heard<R: AsyncRead + Send + Unpin>(stream: &mut R) -> Result<PeerMessage, PeerError> {
    let frame = read_frame(stream, HANDSHAKE_BYTES).await?;
    let frame = frame.ok_or_else(|| PeerError::Broken("it was closed".to_owned()))?;
    wire::decode(&frame).map_err(|error| PeerError::Protocol(error.to_string()))
}

async fn heard_hello<R: AsyncRead + Send + Unpin>(stream: &mut R) -> Result<PeerHello, PeerError> {
    match heard(stream).await? {
        PeerMessage::Hello(hello) => Ok(hello),
        _ => Err(PeerError::Protocol("it did not say hello".to_owned())),
    }
}

async fn heard_proof<R: AsyncRead + Send + Unpin>(stream: &mut R) -> Result<[u8; 32], PeerError> {
    match heard(stream).await? {
        PeerMessage::Proof(proof) => Ok(proof),
        _ => Err(PeerError::Protocol("it did not prove anything".to_owned())),
    }
}

async fn write<W: AsyncWrite + Send + Unpin>(stream: &mut W, bytes: &[u8]) -> Result<(), PeerError> {
    let writing = async {
        stream.write_all(bytes).await?;
        stream.flush().await
    };
    let written = timeout(WRITE_TIMEOUT, writing).await;
    written.map_err(|_| PeerError::Broken("the peer does not read".to_owned()))?.map_err(broken)
}

/// A frame whose body has at most so many bytes; `None` if the stream ends before it.
async fn read_frame<R: AsyncRead + Send + Unpin>(stream: &mut R, most: usize) -> Result<Option<Vec<u8>>, PeerError> {
    let mut header = [0; HEADER_BYTES];
    if stream.read(&mut header[..1]).await.map_err(broken)? == 0 {
        return Ok(None);
    }
    let rest = timeout(FRAME_TIMEOUT, read_rest(stream, header, most)).await;
    rest.map_err(|_| PeerError::Broken("a frame took too long".to_owned()))?.map(Some)
}

async fn read_rest<R: AsyncRead + Send + Unpin>(
    stream: &mut R,
    mut header: [u8; HEADER_BYTES],
    most: usize,
) -> Result<Vec<u8>, PeerError> {
    stream.read_exact(&mut header[1..]).await.map_err(broken)?;
    let length = wire::body_length(&header).map_err(|error| PeerError::Protocol(error.to_string()))?;
    if length > most {
        return Err(PeerError::Protocol("a frame is too large".to_owned()));
    }
    // Grows with what has really come: a claim alone takes no memory.
    let mut frame = header.to_vec();
    let mut body = stream.take(u64::try_from(length).unwrap_or(0));
    body.read_to_end(&mut frame).await.map_err(broken)?;
    if frame.len() == HEADER_BYTES + length { Ok(frame) } else { Err(PeerError::Broken("it was cut off".to_owned())) }
}

/// Reads frames and checks their seals, until the stream ends or nobody listens any more.
async fn read_on<S: AsyncRead + AsyncWrite + Send + Unpin>(
    mut reader: ReadHalf<S>,
    mut seal: Option<PeerSeal>,
    frames: mpsc::Sender<Result<Vec<u8>, PeerError>>,
) {
    loop {
        let next = timeout(SILENCE, sealed_frame(&mut reader, &mut seal)).await;
        let next = next.unwrap_or_else(|_| Err(PeerError::Broken("the peer has fallen silent".to_owned())));
        match next {
            Ok(None) => return,
            Ok(Some(frame)) => {
                if frames.send(Ok(frame)).await.is_err() {
                    return;
                }
            }
            Err(error) => return drop(frames.send(Err(error)).await),
        }
    }
}

async fn sealed_frame<R: AsyncRead + Send + Unpin>(
    reader: &mut R,
    seal: &mut Option<PeerSeal>,
) -> Result<Option<Vec<u8>>, PeerError> {
    let Some(frame) = read_frame(reader, MAX_FRAME_BYTES).await? else { return Ok(None) };
    if let Some(expected) = seal {
        let mut seal = [0; SEAL_BYTES];
        reader.read_exact(&mut seal).await.map_err(broken)?;
        if !expected.is_next(&frame, &seal) {
            return Err(PeerError::Protocol("a seal is broken".to_owned()));
        }
    }
    Ok(Some(frame))
}

#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn broken(error: std::io::Error) -> PeerError {
    PeerError::Broken(error.kind().to_string())
}

/// Bytes that nobody can foresee: from the system, and from nowhere else.
fn nonce() -> Result<[u8; 32], PeerError> {
    let mut bytes = [0; 32];
    #[expect(clippy::disallowed_methods, reason = "what proves a secret must not be reproducible")]
    let filled = getrandom::fill(&mut bytes);
    filled.map_err(|_| PeerError::Broken("the system gives no randomness".to_owned()))?;
    Ok(bytes)
}
