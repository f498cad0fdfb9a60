//! The routes.

use std::sync::Arc;

use anabranch_core::SpaceName;
use axum::Router;
use axum::body::{Bytes, HttpBody as _};
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{DefaultBodyLimit, Extension, FromRequest as _, Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::timeout;
use tracing::Instrument as _;

use crate::access::{Authorize, OpenAccess, SharedAccess};
use crate::options::{BODY_TIMEOUT, MAX_BODY_BYTES};
use crate::segments::{self, Segments};
use crate::session::Sessions;
use crate::socket::SocketLink;
use crate::stop::{Stop, reached};
use crate::{post, socket};

/// A connection's place among the connections that the server takes; a session keeps it.
pub(crate) type Permit = Arc<OwnedSemaphorePermit>;

/// What the routes share.
pub(crate) struct Shared {
    pub(crate) sessions: Sessions,
    pub(crate) segments: Arc<Segments>,
    pub(crate) authorize: Option<Authorize>,
    pub(crate) allowed_origins: Vec<String>,
    pub(crate) stop: watch::Receiver<Stop>,
}

pub(crate) type Refusal = (StatusCode, &'static str);

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
    pub(crate) fn access(&self, headers: &HeaderMap) -> Result<SharedAccess, Refusal> {
        if let Some(authorize) = &self.authorize {
            return authorize(headers).ok_or((StatusCode::UNAUTHORIZED, "not authorized\n"));
        }
        match headers.get(header::ORIGIN) {
            Some(origin) if !self.allowed_origins.iter().any(|allowed| origin == allowed.as_str()) => {
                Err((StatusCode::FORBIDDEN, "this server is not open to this page's origin\n"))
            }
            _ => Ok(Arc::new(OpenAccess)),
        }
    }
}

async fn sync_by_socket(
    State(shared): State<Arc<Shared>>,
    Extension(permit): Extension<Permit>,
    headers: HeaderMap,
    upgrade: WebSocketUpgrade,
) -> Result<Response, Refusal> {
    let access = shared.access(&headers)?;
    let id = shared.sessions.next_id();
    let span = tracing::info_span!("session", id, link = "socket");
    let session = async move |websocket| {
        let _permit = permit;
        let mut link = SocketLink::new(websocket);
        let (drain, kill) = (shared.stop.clone(), shared.stop.clone());
        let session = async {
            let end = shared.sessions.run(id, access, &mut link, reached(drain, Stop::Drain)).await;
            tracing::debug!(?end, "the session has ended");
            link.close(end).await;
        };
        tokio::select! {
            () = session => {}
            () = reached(kill, Stop::Kill) => tracing::warn!("the session was cut off"),
        }
    };
    Ok(socket::bounded(upgrade).on_upgrade(move |websocket| session(websocket).instrument(span)))
}

async fn sync_by_post(
    State(shared): State<Arc<Shared>>,
    Extension(permit): Extension<Permit>,
    request: Request,
) -> Result<Response, Response> {
    let access = shared.access(request.headers()).map_err(|refusal| refusal.into_response())?;
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
        let _permit = permit;
        // A request that has arrived is answered, whether the server stops or not.
        let run = shared.sessions.run(id, access, &mut link, std::future::pending());
        tokio::select! {
            end = run => tracing::debug!(?end, "the session has ended"),
            () = reached(shared.stop.clone(), Stop::Kill) => tracing::warn!("the session was cut off"),
        }
    };
    drop(tokio::spawn(session.instrument(tracing::info_span!("session", id, link = "post"))));
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], response).into_response())
}

async fn overview(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    Path(space): Path<String>,
) -> Result<Response, Refusal> {
    let access = shared.access(&headers)?;
    let space = SpaceName::new(space).map_err(|_| (StatusCode::BAD_REQUEST, "not a valid space name\n"))?;
    if !access.may_read(&space) {
        return Err((StatusCode::FORBIDDEN, "no right to read this space\n"));
    }
    let overview = shared.sessions.backend().overview(space.clone()).await.map_err(|error| {
        tracing::error!(%space, %error, "an overview failed");
        (StatusCode::SERVICE_UNAVAILABLE, "the storage cannot be read\n")
    })?;
    let json = serde_json::json!({
        "seq": overview.head.seq,
        "entities": overview.entities,
        "changes": overview.changes,
        "digest": overview.digest.to_string(),
    });
    Ok(([(header::CONTENT_TYPE, "application/json")], json.to_string()).into_response())
}
