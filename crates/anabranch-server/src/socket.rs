//! A session over a WebSocket: one binary message is one frame.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use tokio::time::{Instant, timeout, timeout_at};

use crate::connection::Connection;
use crate::memory::{Held, kept};
use crate::options::{
    CLOSE_TIMEOUT, IDLE_TIMEOUT, MAX_MESSAGE_BYTES, MAX_SIGNS, MAX_SOCKET_BACKLOG_BYTES, PING_AFTER, SEND_TIMEOUT,
    SOCKET_BUFFER_BYTES,
};
use crate::session::{End, Link, LinkLost};

/// The upgrade with our bounds in place of the library's.
pub(crate) fn bounded(upgrade: WebSocketUpgrade) -> WebSocketUpgrade {
    upgrade
        .max_message_size(MAX_MESSAGE_BYTES)
        .max_frame_size(MAX_MESSAGE_BYTES)
        .read_buffer_size(SOCKET_BUFFER_BYTES)
        .write_buffer_size(SOCKET_BUFFER_BYTES)
        .max_write_buffer_size(MAX_SOCKET_BACKLOG_BYTES)
}

/// A socket, and when its peer was last heard.
pub(crate) struct SocketLink {
    socket: WebSocket,
    connection: Arc<Connection>,
    /// The last frame has been handed out.
    delivered: bool,
    heard: Instant,
    pinged: bool,
    /// Signs of life, and since when they have been counted.
    signs: (u32, Instant),
}

impl SocketLink {
    pub(crate) fn new(socket: WebSocket, connection: Arc<Connection>) -> Self {
        let now = Instant::now();
        Self { socket, connection, delivered: true, heard: now, pinged: false, signs: (0, now) }
    }

    /// Says goodbye, and waits a little for the answer: a connection that is dropped with something unread
    /// may lose what was sent last.
    pub(crate) async fn close(mut self, end: End) {
        let (code, reason) = match end {
            End::Left | End::LinkLost => return,
            End::Refused => (close_code::POLICY, "refused"),
            End::Stopping => (close_code::AWAY, "the server stops"),
        };
        let goodbye = Message::Close(Some(CloseFrame { code, reason: reason.into() }));
        let close = async {
            if self.socket.send(goodbye).await.is_ok() {
                while let Some(Ok(_)) = self.socket.recv().await {}
            }
        };
        if timeout(CLOSE_TIMEOUT, close).await.is_err() {
            tracing::debug!("the peer did not answer the end of the session");
        }
    }

    async fn put(&mut self, message: Message) -> Result<(), LinkLost> {
        match timeout(SEND_TIMEOUT, self.socket.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                tracing::debug!(%error, "the socket broke");
                Err(LinkLost)
            }
            Err(_) => {
                tracing::info!("the peer does not read");
                Err(LinkLost)
            }
        }
    }

    /// Counts a sign of life. `false`: there are more than anybody needs.
    fn sign(&mut self) -> bool {
        if self.signs.1.elapsed() >= PING_AFTER {
            self.signs = (0, Instant::now());
        }
        self.signs.0 += 1;
        self.signs.0 <= MAX_SIGNS
    }

    fn patience(&self) -> Duration {
        if self.pinged { IDLE_TIMEOUT } else { PING_AFTER }
    }
}

impl Link for SocketLink {
    async fn receive(&mut self) -> Option<Bytes> {
        if std::mem::take(&mut self.delivered) {
            self.connection.meter.settle();
        }
        loop {
            if self.connection.meter.is_overdue() {
                tracing::info!("a message takes too long");
                return None;
            }
            match timeout_at(self.heard + self.patience(), self.socket.recv()).await {
                Err(_) if self.pinged => {
                    tracing::debug!("the peer is silent");
                    return None;
                }
                Err(_) => {
                    self.pinged = true;
                    self.put(Message::Ping(Bytes::new())).await.ok()?;
                }
                Ok(None) => return None,
                Ok(Some(Err(error))) => {
                    tracing::debug!(%error, "the socket broke");
                    return None;
                }
                Ok(Some(Ok(message))) => {
                    self.heard = Instant::now();
                    self.pinged = false;
                    let frame = match message {
                        Message::Binary(frame) => frame,
                        // Not a frame, whatever it says; the session refuses it.
                        Message::Text(text) => text.into(),
                        Message::Ping(_) | Message::Pong(_) if self.sign() => continue,
                        Message::Ping(_) | Message::Pong(_) => {
                            tracing::info!("the peer gives too many signs of life");
                            return None;
                        }
                        Message::Close(_) => return None,
                    };
                    self.delivered = true;
                    return Some(frame);
                }
            }
        }
    }

    async fn send(&mut self, frame: Vec<u8>, held: Option<Arc<Held>>) -> Result<(), LinkLost> {
        self.put(Message::Binary(kept(frame, held))).await
    }
}
