//! A session in one request: the body holds the client's frames, the response the server's.

use std::convert::Infallible;
use std::sync::Arc;

use anabranch_core::wire;
use axum::body::{Body, Bytes};
use futures_util::stream;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::memory::{Held, kept};
use crate::options::SEND_TIMEOUT;
use crate::session::{Link, LinkLost};

/// Frames that wait for a slow reader of the response.
const BACKLOG: usize = 2;

/// What is left of the request's body, and the way into the response's.
pub(crate) struct PostLink {
    rest: Bytes,
    response: mpsc::Sender<Bytes>,
}

/// A link over a request's body, and the response's body.
pub(crate) fn link(request: Bytes) -> (PostLink, Body) {
    let (response, frames) = mpsc::channel(BACKLOG);
    let body = Body::from_stream(stream::unfold(frames, async |mut frames| {
        let frame: Bytes = frames.recv().await?;
        Some((Ok::<_, Infallible>(frame), frames))
    }));
    (PostLink { rest: request, response }, body)
}

impl Link for PostLink {
    async fn receive(&mut self) -> Option<Bytes> {
        if self.rest.is_empty() {
            return None;
        }
        // What is not a frame goes to the session as it is, and is refused there.
        let length = wire::split(&self.rest).map_or(self.rest.len(), |(frame, _)| frame.len());
        Some(self.rest.split_to(length))
    }

    async fn send(&mut self, frame: Vec<u8>, held: Option<Arc<Held>>) -> Result<(), LinkLost> {
        let sent = timeout(SEND_TIMEOUT, self.response.send(kept(frame, held))).await;
        sent.map_err(|_| LinkLost)?.map_err(|_| LinkLost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_body_is_taken_apart_into_frames() {
        let (first, second) = (wire::encode(&1u8).unwrap(), wire::encode(&2u8).unwrap());
        let body = [first.as_slice(), second.as_slice(), b"rubbish"].concat();
        let (mut link, _) = link(body.into());
        for expected in [first.as_slice(), second.as_slice(), b"rubbish"] {
            assert_eq!(link.receive().await.unwrap(), expected);
        }
        assert!(link.receive().await.is_none());
    }
}
