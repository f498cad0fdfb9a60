//! What the file knows of a remote when a sync begins.

use std::collections::BTreeSet;

use anabranch_core::sync::{Adopt, ClientConfig, ClientSession, Scheduler};
use anabranch_core::{SpaceName, UnixMillis};
use anabranch_store::{RemoteKey, Store, StoreError};

/// What the file knows of a remote.
pub(super) struct Remembered {
    pub(super) session: ClientSession,
    pub(super) followed: BTreeSet<SpaceName>,
    pub(super) agreed_at: Option<UnixMillis>,
    pub(super) clock_is_off: bool,
}

pub(super) fn remembered(
    store: &Store,
    remote: RemoteKey,
    now: UnixMillis,
    adopt: Adopt,
    scheduler: &mut Scheduler,
) -> Result<Remembered, StoreError> {
    let remotes = store.read(|read| read.snapshot(|read| read.remotes()))?;
    let (replica, actor) = (store.replica(), store.actor());
    let config = ClientConfig { replica, actor, schema_version: store.schema().version, adopt };
    let Some(state) = remotes.into_iter().find(|state| state.key == remote) else {
        let session = ClientSession::new(config, None, Vec::new(), 0);
        return Ok(Remembered { session, followed: BTreeSet::new(), agreed_at: None, clock_is_off: false });
    };
    let followed = state.spaces.iter().map(|progress| progress.space.clone()).collect();
    let session = ClientSession::new(config, state.lineage, state.spaces, state.failures);
    if let Some(retry_at) = state.next_attempt_at {
        scheduler.failed(now, retry_at, state.server_asked_until, session.is_circuit_open());
    }
    let clock_is_off = state.clock_skew_millis.is_some();
    Ok(Remembered { session, followed, agreed_at: state.last_success_at, clock_is_off })
}
