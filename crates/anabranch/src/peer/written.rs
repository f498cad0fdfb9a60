//! What is written to the file, by this process or another.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anabranch_core::SpaceName;
use anabranch_store::{Store, StoreError};
use tokio::sync::Notify;

/// How often the file is asked whether another process has written to it.
const LOOK_ELSEWHERE: Duration = Duration::from_millis(500);

/// The spaces in which something has been committed since somebody last looked.
pub(super) struct Written {
    store: Store,
    /// The end of the file's log when it was last looked at.
    seen: Mutex<i64>,
    news: Arc<News>,
}

/// What this process has committed. A set, so it cannot grow without bound.
#[derive(Default)]
struct News {
    spaces: Mutex<BTreeSet<SpaceName>>,
    notify: Notify,
}

impl Written {
    /// Listens to a store, as long as this is held.
    pub(super) fn of(store: &Store) -> Result<Self, StoreError> {
        let news = Arc::new(News::default());
        let listener = Arc::downgrade(&news);
        store.on_commit(move |committed| {
            let Some(news) = listener.upgrade() else { return false };
            if !committed.entities.is_empty() {
                let mut spaces = news.spaces.lock().unwrap_or_else(PoisonError::into_inner);
                spaces.extend(committed.entities.iter().map(|touched| touched.space.clone()));
                drop(spaces);
                news.notify.notify_one();
            }
            true
        });
        let seen = Mutex::new(store.read(|read| read.log_end())?);
        Ok(Self { store: store.clone(), seen, news })
    }

    /// Waits until there are some. Nothing is lost if the future is dropped.
    pub(super) async fn next(&self) -> Result<BTreeSet<SpaceName>, StoreError> {
        loop {
            let mut spaces = std::mem::take(&mut *self.news.spaces.lock().unwrap_or_else(PoisonError::into_inner));
            // Together, so that what was written here is not found once more by looking.
            spaces.extend(self.look()?);
            if !spaces.is_empty() {
                return Ok(spaces);
            }
            tokio::select! {
                () = self.news.notify.notified() => {}
                () = tokio::time::sleep(LOOK_ELSEWHERE) => {}
            }
        }
    }

    fn look(&self) -> Result<BTreeSet<SpaceName>, StoreError> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let after = *seen;
        let (end, spaces) = self.store.read(|read| read.snapshot(|read| read.written_since(after)))?;
        *seen = end;
        Ok(spaces)
    }
}
