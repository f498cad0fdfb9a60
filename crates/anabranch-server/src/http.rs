//! The routes.

use std::sync::Arc;
use std::time::Duration;

use anabranch_core::SpaceName;
use axum::Router;
use axum::body::{Bytes, HttpBody as _};
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{DefaultBodyLimit, Extension, FromRequest as _, Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::Instrument as _;

use crate::access::{Authorizer, OpenAccess, SharedAccess};
use crate::connection::Connection;
use crate::options::{AUTHORIZE_TIMEOUT, BODY_TIMEOUT, MAX_BODY_BYTES, SESSIONS_RETRY};
use crate::segments::{self, Segments};
use crate::session::{Busy, Entrance, Sessions};
use crate::socket::SocketLink;
use crate::stop::{Stop, reached};
use crate::{post, socket};

/// What the routes share.
pub(crate) struct Shared {
    pub(crate) sessions: Sessions,
    pub(crate) segments: Arc<Segments>,
    pub(crate) authorizer: Option<Arc<dyn Authorizer>>,
    pub(crate) allowed_origins: Vec<String>,
    pub(crate) stop: watch::Receiver<Stop>,
}

/// Why a request is refused before anything is looked at.
pub(crate) enum Refusal {
    /// In these words.
    Plain(StatusCode, &'static str),
    /// Its sender has to say who they are. Whatever is wrong with what was said, the answer is the same.
    Unauthorized,
    /// Its sender asks too much of late.
    TooMany(Duration),
}

impl From<(StatusCode, &'static str)> for Refusal {
    fn from((status, words): (StatusCode, &'static str)) -> Self {
        Self::Plain(status, words)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Self::Plain(status, words) => (status, words).into_response(),
            Self::Unauthorized => {
                let scheme = [(header::WWW_AUTHENTICATE, "Bearer")];
                (StatusCode::UNAUTHORIZED, scheme, "not authorized\n").into_response()
            }
            Self::TooMany(wait) => {
                let seconds = [(header::RETRY_AFTER, HeaderValue::from(wait.as_secs() + 1))];
                (StatusCode::TOO_MANY_REQUESTS, seconds, "too many requests\n").into_response()
            }
        }
    }
}

pub(crate) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok"))
        .route("/v1/sync", get(sync_by_socket).post(sync_by_post))
        .route("/v1/spaces/{space}", get(overview))
        .route("/v1/spaces/{space}/segments", get(segments::manifest))
        .route("/v1/spaces/{space}/segments/{digest}", get(segments::segment))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(shared)
}

impl Shared {
    /// What the sender of a request may do, if it may be made at all.
    pub(crate) async fn access(&self, headers: &HeaderMap) -> Result<SharedAccess, Refusal> {
        let now = self.sessions.now();
        let access: SharedAccess = match &self.authorizer {
            Some(authorizer) => {
                let access = timeout(AUTHORIZE_TIMEOUT, authorizer.authorize(now, headers)).await;
                access.ok().flatten().ok_or(Refusal::Unauthorized)?
            }
            None => {
                if headers.get(header::ORIGIN).is_some_and(|origin| !self.allows(origin)) {
                    let words = "this server is not open to this page's origin\n";
                    return Err(Refusal::Plain(StatusCode::FORBIDDEN, words));
                }
                Arc::new(OpenAccess)
            }
        };
        self.sessions.rates().message(now, access.principal(), 0).map_err(Refusal::TooMany)?;
        Ok(access)
    }

    /// A session's way in.
    async fn entrance(&self, headers: &HeaderMap, connection: &Connection) -> Result<Entrance, Refusal> {
        let access = self.access(headers).await?;
        self.sessions.enter(access, connection.network()).ok_or(Refusal::TooMany(SESSIONS_RETRY))
    }

    fn allows(&self, origin: &HeaderValue) -> bool {
        self.allowed_origins.iter().any(|allowed| origin == allowed.as_str())
    }
}

async fn sync_by_socket(
    State(shared): State<Arc<Shared>>,
    Extension(connection): Extension<Arc<Connection>>,
    headers: HeaderMap,
    upgrade: WebSocketUpgrade,
) -> Result<Response, Refusal> {
    let entrance = shared.entrance(&headers, &connection).await?;
    let id = shared.sessions.next_id();
    let span = tracing::info_span!("session", id, link = "socket");
    let session = async move |websocket| {
        let place = Arc::clone(&connection);
        let mut link = SocketLink::new(websocket, connection);
        let (drain, kill) = (shared.stop.clone(), shared.stop.clone());
        let session = async {
            let end = shared.sessions.run(id, entrance, &mut link, reached(drain, Stop::Drain)).await;
            tracing::debug!(?end, "the session has ended");
            link.close(end).await;
        };
        tokio::select! {
            () = session => {}
            () = reached(kill, Stop::Kill) => tracing::warn!("the session was cut off"),
        }
        // In this order, so that the storage is closed once all places are free.
        drop(shared);
        drop(place);
    };
    Ok(socket::bounded(upgrade).on_upgrade(move |websocket| session(websocket).instrument(span)))
}

async fn sync_by_post(
    State(shared): State<Arc<Shared>>,
    Extension(connection): Extension<Arc<Connection>>,
    request: Request,
) -> Result<Response, Response> {
    let entrance = shared.entrance(request.headers(), &connection).await;
    let entrance = entrance.map_err(|refusal| refusal.into_response())?;
    if request.body().size_hint().lower() > u64::try_from(MAX_BODY_BYTES).unwrap_or(u64::MAX) {
        // Said in the head: nothing of it is read.
        return Err((StatusCode::PAYLOAD_TOO_LARGE, "the body is too large\n").into_response());
    }
    let body = match timeout(BODY_TIMEOUT, Bytes::from_request(request, &())).await {
        Ok(body) => body.map_err(|rejection| rejection.into_response())?,
        Err(_) => return Err((StatusCode::REQUEST_TIMEOUT, "the body took too long\n").into_response()),
    };
    let (mut link, response) = post::link(body);
    let id = shared.sessions.next_id();
    let session = async move {
        let kill = shared.stop.clone();
        // A request that has arrived is answered, whether the server stops or not.
        let run = shared.sessions.run(id, entrance, &mut link, std::future::pending());
        tokio::select! {
            end = run => tracing::debug!(?end, "the session has ended"),
            () = reached(kill, Stop::Kill) => tracing::warn!("the session was cut off"),
        }
        // In this order, so that the storage is closed once all places are free.
        drop(shared);
        drop(connection);
    };
    drop(tokio::spawn(session.instrument(tracing::info_span!("session", id, link = "post"))));
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], response).into_response())
}

async fn overview(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    Path(space): Path<String>,
) -> Result<Response, Refusal> {
    let access = shared.access(&headers).await?;
    let refused = |status, words| Refusal::Plain(status, words);
    let space = SpaceName::new(space).map_err(|_| refused(StatusCode::BAD_REQUEST, "not a valid space name\n"))?;
    if !access.may_read(&space) {
        // Before anything is looked up: whether there is such a space shows in nothing.
        return Err(refused(StatusCode::FORBIDDEN, "no right to read this space\n"));
    }
    let busy = |Busy| refused(StatusCode::SERVICE_UNAVAILABLE, "the server is too busy\n");
    let _turn = shared.sessions.scan().await.map_err(busy)?;
    let overview = shared.sessions.backend().overview(space.clone()).await.map_err(|error| {
        tracing::error!(%space, %error, "an overview failed");
        refused(StatusCode::SERVICE_UNAVAILABLE, "the storage cannot be read\n")
    })?;
    let json = serde_json::json!({
        "seq": overview.head.seq,
        "entities": overview.entities,
        "changes": overview.changes,
        "digest": overview.digest.to_string(),
    });
    Ok(([(header::CONTENT_TYPE, "application/json")], json.to_string()).into_response())
}
