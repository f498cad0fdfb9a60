//! Waiting for what may never come.

use std::future::pending;

use anabranch_core::UnixMillis;

use super::connect::Connecting;
use crate::environment::SharedEnvironment;
use crate::sync::link::{Link, LinkError};

pub(super) async fn next_frame(link: &mut Option<Link>) -> Result<Vec<u8>, LinkError> {
    match link {
        Some(link) => link.incoming.recv().await.unwrap_or_else(|| Err(LinkError::new("the connection was closed"))),
        None => pending().await,
    }
}

pub(super) async fn connected(connecting: &mut Option<Connecting>) -> Result<Link, LinkError> {
    match connecting {
        Some(connecting) => connecting.outcome().await,
        None => pending().await,
    }
}

pub(super) async fn wait_until(environment: &SharedEnvironment, at: Option<UnixMillis>) {
    match at {
        Some(at) => environment.wait_until(at).await,
        None => pending().await,
    }
}
