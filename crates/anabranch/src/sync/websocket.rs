//! The link over a WebSocket.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use anabranch_core::sync::ErrorClass;
use anabranch_core::wire::{HEADER_BYTES, MAX_FRAME_BYTES};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::handshake::client::Request;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::http::header::AUTHORIZATION;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};

use crate::sync::link::{Link, LinkError, Transport};
use crate::sync::token::Token;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// A server pings an idle client well within this time; silence beyond it means that the link is dead.
pub(super) const SILENCE: Duration = Duration::from_secs(120);
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
const READ_BUFFER_BYTES: usize = 16 << 10;

/// Reaches a server by WebSocket, at `/v1/sync` below the URL.
#[derive(Clone, Debug)]
pub struct WebSocket {
    url: String,
}

impl WebSocket {
    /// The transport to this server; `http` and `https` are understood as `ws` and `wss`.
    #[must_use]
    pub fn new(url: &str) -> Self {
        let url = match url.split_once("://") {
            Some(("http", rest)) => format!("ws://{rest}"),
            Some(("https", rest)) => format!("wss://{rest}"),
            Some(_) => url.to_owned(),
            None => format!("ws://{url}"),
        };
        Self { url: format!("{}/v1/sync", url.trim_end_matches('/')) }
    }
}

impl Transport for WebSocket {
    fn connect(&self) -> Pin<Box<dyn Future<Output = Result<Link, LinkError>> + Send + '_>> {
        self.connect_with(None)
    }

    fn connect_with(&self, token: Option<Token>) -> Pin<Box<dyn Future<Output = Result<Link, LinkError>> + Send + '_>> {
        Box::pin(async move {
            let limit = MAX_FRAME_BYTES + HEADER_BYTES;
            let config = WebSocketConfig::default()
                .max_message_size(Some(limit))
                .max_frame_size(Some(limit))
                .read_buffer_size(READ_BUFFER_BYTES)
                .max_write_buffer_size(2 * limit);
            // No Nagle: a small edit must not wait for the acknowledgement of the one before.
            let request = self.request(token)?;
            let connecting = connect_async_with_config(request, Some(config), true);
            let connected = timeout(CONNECT_TIMEOUT, connecting).await;
            let (socket, _) =
                connected.map_err(|_| LinkError::new("the server did not answer in time"))?.map_err(why)?;
            let (link, (outgoing, incoming)) = Link::pair();
            tokio::spawn(carry(socket, outgoing, incoming));
            Ok(link)
        })
    }
}

impl WebSocket {
    /// The token goes into the header, which neither we nor the WebSocket library log.
    fn request(&self, token: Option<Token>) -> Result<Request, LinkError> {
        let mut request = self.url.as_str().into_client_request().map_err(why)?;
        if let Some(token) = token {
            let value = HeaderValue::from_str(&format!("Bearer {}", token.expose()));
            let mut value = value.map_err(|_| LinkError::new("the token has characters that no header can carry"))?;
            value.set_sensitive(true);
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        Ok(request)
    }
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Carries frames between the socket and the link until either ends.
async fn carry(
    socket: Socket,
    mut outgoing: mpsc::UnboundedReceiver<Vec<u8>>,
    incoming: mpsc::Sender<Result<Vec<u8>, LinkError>>,
) {
    let (mut sink, mut stream) = socket.split();
    let writing = async {
        while let Some(frame) = outgoing.recv().await {
            let sent = timeout(WRITE_TIMEOUT, sink.send(Message::Binary(frame.into()))).await;
            match sent {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(why(error)),
                Err(_) => return Err(LinkError::new("the server does not read")),
            }
        }
        // The driver has hung up.
        timeout(WRITE_TIMEOUT, sink.close()).await.ok().and_then(Result::ok);
        Ok(())
    };
    let reading = async {
        loop {
            let message = match timeout(SILENCE, stream.next()).await {
                Err(_) => return LinkError::new("the server has fallen silent"),
                Ok(Some(Ok(Message::Close(Some(frame))))) if frame.code == CloseCode::Size => {
                    return LinkError::new("what was sent is too large").of_class(ErrorClass::TooLarge);
                }
                Ok(None | Some(Ok(Message::Close(_)))) => return LinkError::new("the server closed the connection"),
                Ok(Some(Err(error))) => return why(error),
                Ok(Some(Ok(message))) => message,
            };
            if let Message::Binary(frame) = message
                && incoming.send(Ok(frame.into())).await.is_err()
            {
                return LinkError::new("closed");
            }
        }
    };
    let error = tokio::select! {
        written = writing => written.err(),
        error = reading => Some(error),
    };
    if let Some(error) = error {
        // If nobody listens any more, nobody needs to know.
        drop(incoming.send(Err(error)).await);
    }
}

fn why(error: WsError) -> LinkError {
    match error {
        WsError::Http(response) => {
            let retry_after = response.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
            LinkError::http(response.status().as_u16(), retry_after.map(Duration::from_secs))
        }
        WsError::Io(error) => LinkError::new(error.kind().to_string()),
        WsError::Url(tokio_tungstenite::tungstenite::error::UrlError::TlsFeatureNotEnabled) => {
            LinkError::new("https needs the feature `tls` of the `anabranch` crate")
        }
        other => LinkError::new(other.to_string()),
    }
}
