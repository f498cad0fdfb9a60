//! How a server stops, in two stages.

use tokio::sync::watch;

/// How far the stopping has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stop {
    /// Not at all.
    Run,
    /// Finish what has begun, begin nothing.
    Drain,
    /// At once.
    Kill,
}

/// Resolves when the stopping has come this far, or when the server is gone.
pub(crate) async fn reached(mut stop: watch::Receiver<Stop>, stage: Stop) {
    // An error means that the server is gone: there is nothing left to wait for.
    drop(stop.wait_for(|now| *now >= stage).await);
}
