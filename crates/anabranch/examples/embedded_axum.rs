//! A web app that embeds a replica: it answers from its own file, with or without a network, and syncs beside.
//!
//! ```sh
//! cargo run -p anabranch --example embedded_axum -- notes.db                        # http://127.0.0.1:8080
//! cargo run -p anabranch --example embedded_axum -- notes.db http://127.0.0.1:7700  # and sync with `anabranch serve`
//!
//! curl -d '{"title": "Shopping", "body": "milk"}' 127.0.0.1:8080/notes
//! curl 127.0.0.1:8080/notes
//! curl -d ', eggs' 127.0.0.1:8080/notes/ID/append
//! ```

use std::error::Error;

use anabranch::{Collection, Counter, Entity, EntityId, ErrorKind, Record, Replica, Text, schema};
use axum::Router;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::{Deserialize, Serialize};
use serde_json::json;

#[derive(Clone, Debug, Default, Entity, Serialize, Deserialize)]
#[serde(default)]
struct Note {
    #[field(required, max_length = 200)]
    title: String,
    body: Text,
    stars: Counter,
}

type Notes = Collection<Note>;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let replica = Replica::open(arguments.next().ok_or("which file? embedded_axum FILE [URL]")?, schema![Note])?;
    // Held as long as the app runs. Being offline is no error.
    let _sync = arguments.next().map(|url| replica.sync(&url).space("main")?.start()).transpose()?;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
    println!("http://{}/notes", listener.local_addr()?);
    axum::serve(listener, app(replica.space("main")?.collection())).await?;
    Ok(())
}

fn app(notes: Notes) -> Router {
    Router::new()
        .route("/notes", get(list).post(create))
        .route("/notes/{id}", get(read).delete(delete))
        .route("/notes/{id}/append", post(append))
        .with_state(notes)
}

async fn list(State(notes): State<Notes>) -> Result<Response, Failure> {
    // Reads are plain calls on a row that is there: quick enough for an async handler.
    let notes: Vec<_> = notes.list(None, 1_000)?.iter().map(body).collect();
    Ok(json_response(StatusCode::OK, &json!(notes)))
}

async fn create(State(notes): State<Notes>, json: String) -> Result<Response, Failure> {
    let note: Note = serde_json::from_str(&json).map_err(|error| Failure::bad(&error))?;
    // Resolves after the fsync; requests that come together share it.
    let id = notes.create(note).await?;
    Ok(json_response(StatusCode::CREATED, &json!({ "id": id })))
}

async fn read(State(notes): State<Notes>, Path(id): Path<String>) -> Result<Response, Failure> {
    let note = notes.get(parse(&id)?)?.ok_or(Failure(StatusCode::NOT_FOUND, "no such note".to_owned()))?;
    Ok(json_response(StatusCode::OK, &body(&note)))
}

async fn append(State(notes): State<Notes>, Path(id): Path<String>, more: String) -> Result<StatusCode, Failure> {
    notes.edit(parse(&id)?, move |note| note.body.push_str(&more)).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn delete(State(notes): State<Notes>, Path(id): Path<String>) -> Result<StatusCode, Failure> {
    notes.delete(parse(&id)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn body(note: &Record<Note>) -> serde_json::Value {
    json!({ "id": note.id, "note": note.value, "version": note.version, "pending": note.pending })
}

fn json_response(status: StatusCode, body: &serde_json::Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

fn parse(id: &str) -> Result<EntityId, Failure> {
    id.parse().map_err(|error| Failure::bad(&error))
}

/// An error as an HTTP response.
struct Failure(StatusCode, String);

impl Failure {
    fn bad(error: &dyn Error) -> Self {
        Self(StatusCode::BAD_REQUEST, error.to_string())
    }
}

impl From<anabranch::Error> for Failure {
    fn from(error: anabranch::Error) -> Self {
        let status = match error.kind() {
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::Invalid => StatusCode::BAD_REQUEST,
            ErrorKind::Retry => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self(status, error.to_string())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.0, self.1).into_response()
    }
}
