//! A client that speaks the wire format over real sockets, and nothing more.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use anabranch_core::wire::{self, ClientMessage, Cursor, Envelope, Hello, Pull, Push, Pushed, ServerMessage, Welcome};
use anabranch_core::{Actor, Entropy, Environment, Lineage, UnixMillis};
use anabranch_server::{Server, ServerHandle, ServerOptions, SqliteBackend, SystemEnvironment};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::changes::{replica, space};

/// Long enough for any machine; only a hang takes that long.
const HANG: Duration = Duration::from_secs(60);

pub(crate) async fn guarded<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(HANG, future).await.expect("the test hangs")
}

pub(crate) async fn start(backend: SqliteBackend) -> ServerHandle {
    let address = "127.0.0.1:0".parse().unwrap();
    Server::bind(address, Arc::new(backend), ServerOptions::default()).await.unwrap().spawn()
}

/// A server with these options, in memory.
pub(crate) async fn start_with(options: ServerOptions) -> ServerHandle {
    let backend = SqliteBackend::open_in_memory(Box::new(SystemEnvironment)).unwrap();
    Server::bind("127.0.0.1:0".parse().unwrap(), Arc::new(backend), options).await.unwrap().spawn()
}

/// A clock that stands still until it is set.
#[derive(Clone, Debug)]
pub(crate) struct TestClock(Arc<AtomicI64>);

impl TestClock {
    pub(crate) fn new(seconds: i64) -> Self {
        Self(Arc::new(AtomicI64::new(seconds * 1_000)))
    }

    pub(crate) fn set(&self, seconds: i64) {
        self.0.store(seconds * 1_000, Ordering::Relaxed);
    }
}

impl Environment for TestClock {
    fn now(&self) -> UnixMillis {
        self.0.load(Ordering::Relaxed)
    }

    fn entropy(&mut self) -> &mut dyn Entropy {
        unreachable!("a server's sessions take no randomness")
    }
}

pub(crate) async fn start_in_memory() -> ServerHandle {
    start(SqliteBackend::open_in_memory(Box::new(SystemEnvironment)).unwrap()).await
}

pub(crate) fn hello(name: u8, lineage: Option<Lineage>) -> ClientMessage {
    let actor = Actor::from_bytes(&[name; 16]).unwrap();
    ClientMessage::Hello(Hello { replica: replica(name), actor, schema_version: 1, lineage })
}

pub(crate) fn push(id: u64, changes: Vec<Envelope>) -> ClientMessage {
    ClientMessage::Push(Push { id, space: space("home"), changes, agreed: Vec::new() })
}

pub(crate) fn pull(cursor: Option<Cursor>, live: bool) -> ClientMessage {
    ClientMessage::Pull(Pull { live, ..Pull::all(space("home"), cursor, None) })
}

pub(crate) struct Client {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl Client {
    /// Connects and says hello.
    pub(crate) async fn connect(address: SocketAddr, name: u8) -> (Self, Welcome) {
        let mut client = Self::connect_silently(address).await;
        client.send(&hello(name, None)).await;
        match client.receive().await {
            ServerMessage::Welcome(welcome) => (client, welcome),
            other => panic!("not welcome: {other:?}"),
        }
    }

    pub(crate) async fn connect_silently(address: SocketAddr) -> Self {
        Self::open(address, None).await.expect("an upgrade")
    }

    /// Opens a session with a token; the HTTP status if the server refuses it.
    pub(crate) async fn open(address: SocketAddr, token: Option<&str>) -> Result<Self, u16> {
        let mut request = format!("ws://{address}/v1/sync").into_client_request().unwrap();
        if let Some(token) = token {
            request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        // Without Nagle's algorithm: else every second small message waits 40 ms.
        let connecting = tokio_tungstenite::connect_async_with_config(request, None, true);
        match guarded(connecting).await {
            Ok((socket, _)) => Ok(Self { socket }),
            Err(tokio_tungstenite::tungstenite::Error::Http(response)) => Err(response.status().as_u16()),
            Err(error) => panic!("no connection: {error}"),
        }
    }

    /// Opens a session with a token, and says hello.
    pub(crate) async fn welcome(address: SocketAddr, token: &str, name: u8) -> Self {
        let mut client = Self::open(address, Some(token)).await.expect("an upgrade");
        client.send(&hello(name, None)).await;
        assert!(matches!(client.receive().await, ServerMessage::Welcome(_)));
        client
    }

    /// Says goodbye, so that a stopping server has nobody to wait for.
    pub(crate) async fn leave(mut self) {
        guarded(self.socket.close(None)).await.unwrap();
        while let Some(Ok(_)) = guarded(self.socket.next()).await {}
    }

    pub(crate) async fn send(&mut self, message: &ClientMessage) {
        self.send_bytes(wire::encode(message).unwrap()).await;
    }

    pub(crate) async fn send_bytes(&mut self, frame: Vec<u8>) {
        guarded(self.socket.send(Message::Binary(frame.into()))).await.unwrap();
    }

    /// Gives a sign of life; `false` if the connection has ended.
    pub(crate) async fn ping(&mut self) -> bool {
        guarded(self.socket.send(Message::Ping(Vec::new().into()))).await.is_ok()
    }

    /// The next frame, as it came; `None` when the connection has ended.
    pub(crate) async fn next_frame(&mut self) -> Option<Vec<u8>> {
        guarded(async {
            loop {
                match self.socket.next().await? {
                    Ok(Message::Binary(frame)) => return Some(frame.into()),
                    Ok(Message::Close(_)) | Err(_) => return None,
                    Ok(_) => {}
                }
            }
        })
        .await
    }

    /// The next message; `None` when the connection has ended, with the close code if there was one.
    pub(crate) async fn next(&mut self) -> Result<ServerMessage, Option<u16>> {
        // One guard around it all: the server's pings do not renew it.
        guarded(async {
            loop {
                match self.socket.next().await {
                    Some(Ok(Message::Binary(frame))) => return Ok(wire::decode(&frame).unwrap()),
                    Some(Ok(Message::Close(frame))) => {
                        // Reading on sends the answer.
                        while self.socket.next().await.is_some() {}
                        return Err(frame.map(|frame| frame.code.into()));
                    }
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return Err(None),
                }
            }
        })
        .await
    }

    pub(crate) async fn receive(&mut self) -> ServerMessage {
        self.next().await.expect("the session has ended")
    }

    /// Pushes, and waits for the answer.
    pub(crate) async fn push(&mut self, id: u64, changes: Vec<Envelope>) -> Pushed {
        self.send(&push(id, changes)).await;
        match self.receive().await {
            ServerMessage::Pushed(pushed) => pushed,
            other => panic!("not pushed: {other:?}"),
        }
    }

    /// Pulls everything there is.
    pub(crate) async fn pull(&mut self, cursor: Option<Cursor>) -> (Vec<Envelope>, Cursor) {
        self.send(&pull(cursor, false)).await;
        let mut all = Vec::new();
        loop {
            let (changes, cursor, more) = self.changes().await;
            all.extend(changes);
            if !more {
                return (all, cursor);
            }
            self.send(&ClientMessage::Received { space: space("home") }).await;
        }
    }

    /// The next message, which is a page.
    pub(crate) async fn changes(&mut self) -> (Vec<Envelope>, Cursor, bool) {
        loop {
            match self.receive().await {
                ServerMessage::Changes { changes, cursor, more, .. } => return (changes, cursor, more),
                // Said once of a pull that takes more than a page.
                ServerMessage::Behind { .. } => {}
                other => panic!("no changes: {other:?}"),
            }
        }
    }
}

/// One request over a connection of its own. HTTP/1.0, so that the body ends where the connection does.
pub(crate) async fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &str,
    body: &[u8],
) -> (u16, Vec<u8>) {
    guarded(async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.0\r\nhost: test\r\ncontent-length: {length}\r\n{headers}\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(body).await.unwrap();
        let mut response = Vec::new();
        stream.read_to_end(&mut response).await.unwrap();
        let end = response.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
        let status = std::str::from_utf8(&response[9..12]).unwrap().parse().unwrap();
        (status, response.split_off(end + 4))
    })
    .await
}

/// A session in one request.
pub(crate) async fn post(address: SocketAddr, messages: &[ClientMessage]) -> Vec<ServerMessage> {
    let body: Vec<u8> = messages.iter().flat_map(|message| wire::encode(message).unwrap()).collect();
    let (status, response) = request(address, "POST", "/v1/sync", "", &body).await;
    assert_eq!(status, 200);
    frames(&response)
}

pub(crate) fn frames(mut bytes: &[u8]) -> Vec<ServerMessage> {
    let mut messages = Vec::new();
    while !bytes.is_empty() {
        let (frame, rest) = wire::split(bytes).unwrap();
        messages.push(wire::decode(frame).unwrap());
        bytes = rest;
    }
    messages
}
