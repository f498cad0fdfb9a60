//! Segments: built in the background, kept on a shelf, fetched by session messages or by plain HTTP.
//!
//! What is on the shelf follows from the logs, so it can be lost at any time: clients then replay the log, and it
//! is built anew. Building reads the logs in small steps, as any pull does, and never writes to them.

mod build;
mod http;
mod shelf;

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
    /// How many bytes are kept at most, of all spaces; those that were asked for least recently go first.
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
        self.shelf.get(space, digest).await
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
            let space = tokio::select! {
                commit = commits.recv() => match commit {
                    Ok(commit) if self.is_due(&commit.space, commit.seq) => commit.space,
                    // Lost hints: the next commit of such a space tells, or whoever asks for its segments.
                    Ok(_) | Err(RecvError::Lagged(_)) => continue,
                    Err(RecvError::Closed) => return,
                },
                space = wanted.recv() => match space {
                    Some(space) => space,
                    None => return,
                },
            };
            if let Err(error) = self.bring_up_to_date(&space).await {
                tracing::error!(%space, %error, "the segments of a space could not be built");
            }
        }
    }

    async fn bring_up_to_date(&self, space: &SpaceName) -> Result<(), crate::BackendError> {
        let head = self.backend.head(space.clone()).await?;
        if !self.is_due(space, head.seq) {
            return Ok(());
        }
        if let Some(made) = self.shelf.current(space).filter(|made| !made.checked) {
            self.check(space, made.mark).await;
        }
        let made = build::build(self.backend.as_ref(), &self.shelf, self.max_entities, space, head).await?;
        tracing::debug!(%space, seq = head.seq, pieces = made.pieces.len(), "built segments");
        self.shelf.put(space, made);
        self.built.send_modify(|count| *count += 1);
        Ok(())
    }

    /// Waits until a space's segments go up to a place of its log.
    pub(crate) async fn reach(&self, space: &SpaceName, seq: u64) {
        let mut built = self.built.subscribe();
        while self.shelf.current(space).is_none_or(|made| made.mark.seq < seq) {
            if built.changed().await.is_err() {
                return;
            }
        }
    }

    /// Whether a space whose log has come this far should have new segments: each time that it has grown by a
    /// sixteenth, so that building costs each change a constant share, and the tail that is replayed is short.
    fn is_due(&self, space: &SpaceName, seq: u64) -> bool {
        let built = self.shelf.current(space).map_or(0, |made| made.mark.seq);
        seq >= self.min_changes.max(1) && seq.saturating_sub(built) >= (built / 16).max(self.min_changes / 2).max(1)
    }
}
