//! Proving that this file and a server hold the same, or finding out how they differ. Nothing is changed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::sync::reconcile::{Compared, ReconcileStep, Reconciler, Theirs, Then};
use anabranch_core::sync::{ErrorClass, Halt};
use anabranch_core::wire::{self, ClientMessage, Hello, RefusalCode, ServerMessage};
use anabranch_core::{EntityId, Lineage, SpaceName};
use anabranch_store::{Difference, RemoteKey, Store};

use crate::Commit;
use crate::error::Error;
use crate::sync::link::{Link, LinkError, Transport};
use crate::sync::token::{TokenRequest, TokenSource};
use crate::sync::{Sync, SyncError, web_socket};

/// What a [verification](Sync::verify) found.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct VerifyReport {
    /// Entities in this file, of the spaces that were compared.
    pub entities: u64,
    /// The entities that differ; none if both sides hold the same.
    pub differing: Vec<DifferingEntity>,
    /// Flights of messages that were sent and answered.
    pub round_trips: u64,
    /// Bytes sent, in frames.
    pub bytes_sent: u64,
    /// Bytes received, in frames.
    pub bytes_received: u64,
}

/// An entity that is not the same on both sides.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct DifferingEntity {
    /// Its space.
    pub space: SpaceName,
    /// Its id.
    pub entity: EntityId,
    /// How it differs.
    pub difference: Difference,
}

impl VerifyReport {
    /// Whether both sides hold the same.
    #[must_use]
    pub const fn is_same(&self) -> bool {
        self.differing.is_empty()
    }
}

impl Sync {
    /// Compares what this file holds with what the server holds, entity by entity, and changes neither. If nothing
    /// differs, that takes one round trip and a few hundred bytes for each space, however much is in it.
    ///
    /// The changes themselves are not compared but the hashes that name them, on both sides: a server that lies, or
    /// whose disk has damaged a change that its index still has, is not found out.
    ///
    /// It resolves to an error if the server cannot be reached or has another history, or `deadline` has passed.
    pub fn verify(self, deadline: Duration) -> Commit<VerifyReport> {
        let (promise, commit) = anabranch_store::Commit::pending();
        let source = self.plan.token.clone();
        match self.prepare_verify() {
            Ok((verify, transport)) => match self.replica.runtime() {
                Ok(runtime) => drop(runtime.spawn(async move {
                    let work = verify.run(transport, source);
                    let outcome = tokio::time::timeout(deadline, work).await;
                    promise.resolve(outcome.unwrap_or_else(|_| Err(SyncError::Deadline.into())));
                })),
                Err(error) => promise.resolve(Err(error)),
            },
            Err(error) => promise.resolve(Err(error)),
        }
        commit
    }

    fn prepare_verify(&self) -> Result<(Verify, Arc<dyn Transport>), Error> {
        let transport = match &self.transport {
            Some(transport) => Arc::clone(transport),
            None => web_socket(&self.url)?,
        };
        let store = self.replica.store().clone();
        let (mut spaces, remotes) = store.read(|read| read.snapshot(|read| Ok((read.spaces()?, read.remotes()?))))?;
        spaces.extend(self.spaces.iter().cloned());
        spaces.sort_unstable();
        spaces.dedup();
        let remote = remotes.into_iter().find(|remote| remote.url.as_deref() == Some(&self.url));
        let (lineage, remote) = remote.map_or((None, None), |remote| (remote.lineage, Some(remote.key)));
        let verify = Verify { store, lineage, remote, spaces, open: BTreeMap::new(), report: VerifyReport::default() };
        Ok((verify, transport))
    }
}

struct Verify {
    store: Store,
    lineage: Option<Lineage>,
    remote: Option<RemoteKey>,
    spaces: Vec<SpaceName>,
    open: BTreeMap<SpaceName, Reconciler>,
    report: VerifyReport,
}

impl Verify {
    async fn run(mut self, transport: Arc<dyn Transport>, source: Option<TokenSource>) -> Result<VerifyReport, Error> {
        let mut link = connect(transport.as_ref(), source.as_ref()).await?;
        let hello = Hello {
            replica: self.store.replica(),
            actor: self.store.actor().clone(),
            schema_version: self.store.schema().version,
            lineage: self.lineage,
        };
        self.send(&link, &ClientMessage::Hello(hello))?;
        for space in std::mem::take(&mut self.spaces) {
            let items = self.store.read(|read| read.items(&space))?;
            self.report.entities += u64::try_from(items.len()).unwrap_or(u64::MAX);
            let (reconciler, ask) = Reconciler::begin(items).map_err(|error| Error::invalid(error.to_string()))?;
            self.open.insert(space.clone(), reconciler);
            self.send(&link, &ClientMessage::Reconcile { space, ask })?;
        }
        let mut welcome = false;
        // All that is under way is answered in one flight, more or less.
        let mut awaited = self.open.len();
        while !self.open.is_empty() || !welcome {
            let message = self.receive(&mut link).await?;
            match message {
                ServerMessage::Welcome(_) if !welcome => {
                    welcome = true;
                    self.report.round_trips += 1;
                }
                ServerMessage::Reconciled { space, reply, .. } if welcome => {
                    let Some(reconciler) = self.open.get_mut(&space) else { return Err(unexpected()) };
                    let step = reconciler.take(reply).map_err(|error| misunderstood(&error.to_string()))?;
                    self.go_on(&link, space, step).await?;
                    awaited -= 1;
                    if awaited == 0 {
                        awaited = self.open.len();
                        self.report.round_trips += u64::from(awaited > 0);
                    }
                }
                ServerMessage::Refused { code, message, .. } => return Err(refused(code, message)),
                _ => return Err(unexpected()),
            }
        }
        self.report.differing.sort_by(|one, other| (&one.space, one.entity).cmp(&(&other.space, other.entity)));
        Ok(self.report)
    }

    async fn go_on(&mut self, link: &Link, space: SpaceName, step: ReconcileStep) -> Result<(), Error> {
        let mut then = step.then;
        loop {
            match then {
                Then::Ask(ask) => return self.send(link, &ClientMessage::Reconcile { space, ask }),
                Then::Done => {
                    self.open.remove(&space);
                    return Ok(());
                }
                Then::Compare(theirs) => {
                    // Nothing is asked for: this only looks.
                    let looked = |theirs: &Theirs| Compared { entity: theirs.entity, lacking: None };
                    let compared = theirs.iter().map(looked).collect();
                    self.note(&space, theirs).await?;
                    let Some(reconciler) = self.open.get_mut(&space) else { return Err(unexpected()) };
                    then = reconciler.compared(compared).map_err(|error| misunderstood(&error.to_string()))?.then;
                }
            }
        }
    }

    async fn note(&mut self, space: &SpaceName, theirs: Vec<Theirs>) -> Result<(), Error> {
        let (of, remote) = (space.clone(), self.remote);
        let found = self.store.write_on_rows(move |write| write.differences(&of, &theirs, remote)).await;
        let found: Vec<(EntityId, Difference)> = found.map_err(|error: anabranch_store::StoreError| error)?;
        let differing = |(entity, difference)| DifferingEntity { space: space.clone(), entity, difference };
        self.report.differing.extend(found.into_iter().map(differing));
        Ok(())
    }

    fn send(&mut self, link: &Link, message: &ClientMessage) -> Result<(), Error> {
        let frame = wire::encode(message).map_err(|error| misunderstood(&error.to_string()))?;
        self.report.bytes_sent += u64::try_from(frame.len()).unwrap_or(u64::MAX);
        let gone = |_| SyncError::Offline("the connection was closed".to_owned());
        Ok(link.outgoing.send(frame).map_err(gone)?)
    }

    async fn receive(&mut self, link: &mut Link) -> Result<ServerMessage, Error> {
        let closed = || SyncError::Offline("the connection was closed".to_owned());
        let frame = link.incoming.recv().await.ok_or_else(closed)?;
        let frame = frame.map_err(|error| SyncError::Offline(error.reason))?;
        self.report.bytes_received += u64::try_from(frame.len()).unwrap_or(u64::MAX);
        wire::decode(&frame).map_err(|error| SyncError::Offline(error.to_string()).into())
    }
}

/// Connects, with a token if there is a source of some: with a fresh one if the first is refused.
async fn connect(transport: &dyn Transport, source: Option<&TokenSource>) -> Result<Link, SyncError> {
    let mut connected = attempt(transport, source, TokenRequest::Any).await;
    let is_refused = connected.as_ref().is_err_and(|error| error.class == ErrorClass::Auth);
    if is_refused && source.is_some_and(TokenSource::can_refresh) {
        connected = attempt(transport, source, TokenRequest::Fresh).await;
    }
    connected.map_err(|error| match error.class {
        ErrorClass::Auth => SyncError::Auth(error.reason),
        _ => SyncError::Offline(error.reason),
    })
}

async fn attempt(
    transport: &dyn Transport,
    source: Option<&TokenSource>,
    request: TokenRequest,
) -> Result<Link, LinkError> {
    let token = match source {
        Some(source) => Some(source.token(request).await?),
        None => None,
    };
    transport.connect_with(token).await
}

fn refused(code: RefusalCode, message: String) -> Error {
    let error = match code {
        RefusalCode::OtherLineage { lineage, .. } => SyncError::Halted(Halt::OtherLineage(lineage)),
        RefusalCode::Forbidden | RefusalCode::Expired => SyncError::Halted(Halt::Forbidden(message)),
        RefusalCode::Protocol => SyncError::Halted(Halt::Protocol(message)),
        _ => SyncError::Offline(message),
    };
    error.into()
}

fn misunderstood(reason: &str) -> Error {
    SyncError::Halted(Halt::Protocol(reason.to_owned())).into()
}

fn unexpected() -> Error {
    misunderstood("the server answered what was not asked")
}
