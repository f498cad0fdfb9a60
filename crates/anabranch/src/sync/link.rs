//! The link to a server: frames in, frames out.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use anabranch_core::sync::{ErrorClass, MAX_RETRY_AFTER_MILLIS};
use tokio::sync::mpsc;

use super::token::Token;

/// Frames that wait to be read by the driver; the sender waits when there are more.
const INCOMING: usize = 8;

/// A way to reach a server.
pub trait Transport: Send + Sync + 'static {
    /// Opens a link. It ends when either of its channels is dropped.
    fn connect(&self) -> Pin<Box<dyn Future<Output = Result<Link, LinkError>> + Send + '_>>;

    /// Opens a link with this token, if the sync has one. By default the token is left out, for transports that know
    /// nothing of tokens. It must travel where it is not logged: in a header, never in a URL.
    fn connect_with(&self, token: Option<Token>) -> Pin<Box<dyn Future<Output = Result<Link, LinkError>> + Send + '_>> {
        drop(token);
        self.connect()
    }
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
    /// What kind of failure it is: that decides what happens next.
    pub class: ErrorClass,
}

impl LinkError {
    /// A failure with this reason, that may well not happen again.
    pub fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), retry_after_millis: None, class: ErrorClass::Transient }
    }

    /// The server answered a request with this HTTP status, perhaps with a `Retry-After`.
    #[must_use]
    pub fn http(status: u16, retry_after: Option<Duration>) -> Self {
        let longest = u32::try_from(MAX_RETRY_AFTER_MILLIS).unwrap_or(u32::MAX);
        let millis = |wait: Duration| u32::try_from(wait.as_millis()).unwrap_or(longest).min(longest);
        Self {
            reason: format!("the server answered {status}"),
            retry_after_millis: retry_after.map(millis),
            class: ErrorClass::of_http_status(status),
        }
    }

    /// The same failure, of this kind.
    #[must_use]
    pub const fn of_class(mut self, class: ErrorClass) -> Self {
        self.class = class;
        self
    }
}
