//! The link to a server: frames in, frames out.

use std::future::Future;
use std::pin::Pin;

use tokio::sync::mpsc;

/// Frames that wait to be read by the driver; the sender waits when there are more.
const INCOMING: usize = 8;

/// A way to reach a server.
pub trait Transport: Send + Sync + 'static {
    /// Opens a link. It ends when either of its channels is dropped.
    fn connect(&self) -> Pin<Box<dyn Future<Output = Result<Link, LinkError>> + Send + '_>>;
}

/// An open link, as two channels of frames.
#[derive(Debug)]
pub struct Link {
    /// Frames to the server. What is in it is bounded by the protocol: one push per space is in flight.
    pub outgoing: mpsc::UnboundedSender<Vec<u8>>,
    /// Frames from the server; an error is the last thing that comes.
    pub incoming: mpsc::Receiver<Result<Vec<u8>, LinkError>>,
}

/// The far ends of a [`Link`]'s channels: where to read what it sends, and where to write what it receives.
pub type FarEnd = (mpsc::UnboundedReceiver<Vec<u8>>, mpsc::Sender<Result<Vec<u8>, LinkError>>);

impl Link {
    /// A link and its far end, for transports to connect to whatever they stand for.
    #[must_use]
    pub fn pair() -> (Self, FarEnd) {
        let (outgoing, far_incoming) = mpsc::unbounded_channel();
        let (far_outgoing, incoming) = mpsc::channel(INCOMING);
        (Self { outgoing, incoming }, (far_incoming, far_outgoing))
    }
}

/// Why a link could not be opened, or ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct LinkError {
    /// For a person.
    pub reason: String,
    /// When the other side asked to be tried again.
    pub retry_after_millis: Option<u32>,
}

impl LinkError {
    /// A failure with this reason.
    pub fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), retry_after_millis: None }
    }
}
