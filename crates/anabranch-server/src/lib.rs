//! The Anabranch sync server, as a library.
//!
//! A [`Server`] listens and runs one session per WebSocket or `POST`; a [`Backend`] keeps the logs of the
//! spaces. The default one is [`SqliteBackend`]: one file, acknowledgement only after the commit is on the
//! disk. What is said in a session is decided by [`anabranch_core::sync::ServerSession`]; this crate moves
//! bytes and stores them. It relays changes without ever loading a document, and so builds its segments, too.
//!
//! | route | what it does |
//! | --- | --- |
//! | `GET /healthz` | `200 ok` |
//! | `GET /v1/sync` | a WebSocket; one binary message is one [frame](anabranch_core::wire) |
//! | `POST /v1/sync` | a session in one request: the client's frames in the body, the server's in the response |
//! | `GET /v1/spaces/{space}/segments` | the space's segments, as JSON: what a first sync fetches |
//! | `GET /v1/spaces/{space}/segments/{digest}` | a segment: immutable, with `ETag` and `Range` |
//! | `GET /v1/spaces/{space}` | what a space holds, as JSON: `seq`, `entities`, `changes`, `digest` |
//!
//! See [`Server`] for an example.

mod access;
mod backend;
mod connection;
mod environment;
mod error;
mod http;
mod hub;
mod memory;
mod options;
mod post;
mod rate;
mod segments;
mod server;
mod session;
mod socket;
mod sqlite;
mod stop;
mod token;

pub use access::{AuthorizeFuture, Authorizer, OpenAccess, PatternError, SharedAccess, SpacePattern};
pub use anabranch_core::sync::AppendOutcome;
pub use backend::{
    Author, Backend, BackendFuture, Commit, Histories, HistoryPage, PageBudget, Reconciled, SpaceOverview,
};
pub use environment::SystemEnvironment;
pub use error::{BackendError, BackendErrorKind, ServerError};
pub use options::ServerOptions;
pub use rate::{Rate, Rates};
pub use segments::SegmentOptions;
pub use server::{Server, ServerHandle};
pub use sqlite::{OpenError, SqliteBackend};
pub use token::{
    Claims, MAX_SUBJECT_BYTES, MAX_TOKEN_BYTES, MAX_TOKEN_SPACES, MIN_SECRET_BYTES, Rights, TokenAuthorizer,
    TokenError, TokenSecret,
};

/// What a server keeps, and whose changes it takes: what [`ServerOptions`] are made of.
pub use anabranch_core::sync::{Quota, Relay};
/// The headers of a request, as an [`Authorizer`] gets them.
pub use axum::http::HeaderMap;
