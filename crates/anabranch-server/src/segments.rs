//! Segments: built in the background, kept on a shelf, fetched by session messages or by plain HTTP.
//!
//! What is on the shelf follows from the logs, so it can be lost at any time: clients then replay the log, and it
//! is built anew. Building reads the logs in small steps, as any pull does, and never writes to them.

mod build;
mod http;
mod shelf;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;

use anabranch_core::segment::{Piece, SEGMENT_ENTITIES};
use anabranch_core::sync::LogPage;
use anabranch_core::wire::Mark;
use anabranch_core::{Digest, SpaceName};
use tokio::sync::{broadcast, mpsc, watch};

use crate::backend::{Backend, Commit, PageBudget};
use shelf::Shelf;

pub(crate) use http::{manifest, segment};

/// Spaces that wait to be looked at by the builder.
const QUEUE: usize = 256;

/// How segments are built and kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentOptions {
    /// Where they are kept; `None` for memory. The folder holds nothing that could not be built again.
    pub folder: Option<PathBuf>,
    /// Spaces with fewer changes have no segments: replaying their logs is as quick.
    pub min_changes: u64,
    /// How many bytes are kept at most, of all spaces; those that were asked for least recently go first. What is being
    /// built comes on top, and is given up when it is more than this by itself.
    pub max_bytes: u64,
    /// How many entities a segment has at most: 1 to 8,192. A client applies a segment in one commit.
    pub max_entities: usize,
}

impl Default for SegmentOptions {
    fn default() -> Self {
        Self { folder: None, min_changes: 2_000, max_bytes: 256 << 20, max_entities: SEGMENT_ENTITIES }
    }
}

/// The segments of all spaces.
pub(crate) struct Segments {
    backend: Arc<dyn Backend>,
    shelf: Shelf,
    min_changes: u64,
    max_entities: usize,
    /// Counts what has been built.
    built: watch::Sender<u64>,
    wanted: mpsc::Sender<SpaceName>,
}

/// The other end of the builder's queue.
pub(crate) type Wanted = mpsc::Receiver<SpaceName>;

impl Segments {
    pub(crate) fn new(backend: Arc<dyn Backend>, options: SegmentOptions) -> (Self, Wanted) {
        let SegmentOptions { folder, min_changes, max_bytes, max_entities } = options;
        let shelf = Shelf::open(folder, max_bytes, backend.lineage());
        let (wanted, queue) = mpsc::channel(QUEUE);
        let (built, _) = watch::channel(0);
        (Self { backend, shelf, min_changes, max_entities, built, wanted }, queue)
    }

    /// The segments of a space, and the place in its log that they go up to.
    pub(crate) async fn manifest(&self, space: &SpaceName) -> Option<(Mark, Vec<Piece>)> {
        let found = self.shelf.current(space);
        let found = match found {
            Some(made) if !made.checked => self.check(space, made.mark).await.then_some(made),
            found => found,
        };
        if found.is_none() {
            // If the queue is full, the next one who asks is heard.
            drop(self.wanted.try_send(space.clone()));
        }
        found.map(|made| (made.mark, made.pieces.into_iter().map(|part| part.piece).collect()))
    }

    /// How many segments a space has.
    pub(crate) fn count(&self, space: &SpaceName) -> usize {
        self.shelf.count(space)
    }

    pub(crate) async fn segment(&self, space: &SpaceName, digest: &Digest) -> Option<Vec<u8>> {
        let found = self.shelf.get(space, digest).await;
        if found.is_none() && self.shelf.reached(space).is_none() {
            drop(self.wanted.try_send(space.clone()));
        }
        found
    }

    /// Whether the log still has the place that the segments on the shelf go up to: the server's file may have been
    /// restored from a backup since.
    async fn check(&self, space: &SpaceName, mark: Mark) -> bool {
        let least = PageBudget { bytes: 1, changes: 1 };
        match self.backend.read(space.clone(), mark, vec![mark], least).await {
            Ok(LogPage::Rows { .. }) => {
                self.shelf.note_checked(space);
                true
            }
            Ok(LogPage::Unknown) => {
                self.shelf.forget(space);
                false
            }
            Err(error) => {
                tracing::error!(%space, %error, "the segments of a space could not be checked");
                false
            }
        }
    }

    /// Builds whatever is due, one space at a time, until the backend is gone.
    pub(crate) async fn run(&self, mut commits: broadcast::Receiver<Commit>, mut wanted: Wanted) {
        use broadcast::error::RecvError;
        loop {
            let (space, asked_for) = tokio::select! {
                commit = commits.recv() => match commit {
                    Ok(commit) if self.is_due(&commit.space, commit.seq, false) => (commit.space, false),
                    // Lost hints: the next commit of such a space tells, or whoever asks for its segments.
                    Ok(_) | Err(RecvError::Lagged(_)) => continue,
                    Err(RecvError::Closed) => return,
                },
                space = wanted.recv() => match space {
                    Some(space) => (space, true),
                    None => return,
                },
            };
            if let Err(error) = self.bring_up_to_date(&space, asked_for).await {
                tracing::error!(%space, %error, "the segments of a space could not be built");
            }
        }
    }

    async fn bring_up_to_date(&self, space: &SpaceName, asked_for: bool) -> Result<(), crate::BackendError> {
        let head = self.backend.head(space.clone()).await?;
        if !self.is_due(space, head.seq, asked_for) {
            return Ok(());
        }
        if let Some(made) = self.shelf.peek(space).filter(|made| !made.checked) {
            self.check(space, made.mark).await;
        }
        let made = build::build(self.backend.as_ref(), &self.shelf, self.max_entities, space, head).await;
        let made = made.inspect_err(|_| self.shelf.give_up(space, head.seq, false))?;
        let Some(made) = made else {
            tracing::warn!(%space, "a space has no segments: they would be larger than all that is kept");
            self.shelf.give_up(space, head.seq, true);
            return Ok(());
        };
        tracing::debug!(%space, seq = head.seq, pieces = made.pieces.len(), "built segments");
        self.shelf.put(space, made);
        self.built.send_modify(|count| *count += 1);
        Ok(())
    }

    /// Waits until a space's segments go up to a place of its log.
    pub(crate) async fn reach(&self, space: &SpaceName, seq: u64) {
        let mut built = self.built.subscribe();
        while self.shelf.reached(space).is_none_or(|reached| reached < seq) {
            if built.changed().await.is_err() {
                return;
            }
        }
    }

    /// Whether a space whose log has come this far should have new segments: each time that it has grown by a
    /// sixteenth, so that building costs each change a constant share, and the tail that is replayed is short.
    ///
    /// Segments that had to make room for others are built again when somebody asks for them, not at the next commit.
    fn is_due(&self, space: &SpaceName, seq: u64, asked_for: bool) -> bool {
        let let_go = self.shelf.let_go(space).filter(|let_go| !asked_for || let_go.too_large).map(|let_go| let_go.seq);
        // A log that is shorter has been restored.
        let let_go = let_go.filter(|let_go| *let_go <= seq);
        let built = self.shelf.reached(space).max(let_go).unwrap_or(0);
        seq >= self.min_changes.max(1) && seq.saturating_sub(built) >= (built / 16).max(self.min_changes / 2).max(1)
    }
}
