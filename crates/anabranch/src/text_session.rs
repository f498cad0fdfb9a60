//! [`TextSession`]: a text field under an editor.

mod mirror;
mod operation;
mod pump;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anabranch_core::document::{EditError, TextSplice};
use anabranch_core::{EntityId, FieldName, Heads, Kind, SpaceName};
use anabranch_store::{Promise, StoreError};
use tokio::sync::{Notify, watch};

use self::mirror::Mirror;
use self::pump::{again, text_of};
use crate::Commit;
use crate::collection::Collection;
use crate::error::Error;
use crate::replica::Replica;
use crate::watch::Scope;

/// A text field that an editor shows: splices go in, the splices of others come out, and nothing is lost either way.
///
/// The session keeps the text that the editor shows. [`splice`](Self::splice) changes it at once; what others write
/// waits until the editor takes it with [`poll`](Self::poll) or [`changed`](Self::changed), so a position that the
/// editor has in hand never goes stale behind its back. Both sides meet in the document, by operational
/// transformation; between replicas the document itself merges.
///
/// What is typed is written in the background, one write at a time; what is typed meanwhile goes into the next one.
/// So a quick typist makes one change per fsync, not one per key. [`flush`](Self::flush) waits for the disk. A
/// session that is dropped still writes what it has, unless the process ends first.
///
/// The entity's history may be rewritten meanwhile, since a refused change is discarded or a fork settled. The session
/// goes on: the editor is told what that does to its text as if somebody had typed it, and what it has typed itself and
/// is not stored yet is stored on top.
///
/// **Every position counts Unicode scalar values** (`char`s), on every platform. [`text_index`](crate::text_index)
/// converts from and to UTF-8 bytes and UTF-16 units.
///
/// ```
/// # use anabranch::{Entity, Replica, Text, schema};
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Entity, Serialize, Deserialize, Default)]
/// # struct Note { body: Text }
/// # fn main() -> Result<(), anabranch::Error> {
/// # let folder = tempfile::tempdir().expect("a temporary folder");
/// # let replica = Replica::open(folder.path().join("a.db"), schema![Note])?;
/// let notes = replica.space("home")?.collection::<Note>();
/// let id = notes.create(Note { body: "milk".into() }).wait()?;
///
/// let session = notes.text_session(id, "body").wait()?;
/// let caret = session.cursor(4)?;
/// session.splice(4, 0, ", eggs")?;                            // typed
/// notes.edit(id, |note| note.body.insert(0, "oat ")).wait()?; // by somebody else
/// session.flush().wait()?;
///
/// assert_eq!(session.text(), "milk, eggs");
/// let [splice] = &session.poll()?[..] else { panic!("one splice") };
/// assert_eq!((splice.at, splice.delete, splice.insert.as_str()), (0, 0, "oat "));
/// assert_eq!(session.text(), "oat milk, eggs");
/// assert_eq!(caret.position(), 14);
/// # Ok(())
/// # }
/// ```
pub struct TextSession {
    shared: Arc<Shared>,
}

struct Shared {
    replica: Replica,
    space: SpaceName,
    id: EntityId,
    field: FieldName,
    state: Mutex<State>,
    /// Wakes the pump.
    wake: Notify,
    /// Tells the editor that something has happened.
    news: watch::Sender<u64>,
}

struct State {
    mirror: Mirror,
    /// The document as the mirror knows it.
    base: Heads,
    /// Those who wait for a round of writing and reading that begins after they asked.
    waiting: Vec<Promise<(), Error>>,
    /// Why the last round failed.
    failure: Option<StoreError>,
    /// It is worth another try.
    retry: bool,
    /// What has failed cannot be tried again.
    ended: bool,
    /// The session has been dropped.
    closed: bool,
}

impl fmt::Debug for TextSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TextSession")
            .field("id", &self.shared.id)
            .field("field", &self.shared.field)
            .finish_non_exhaustive()
    }
}

impl<T> Collection<T> {
    /// Puts a text field under an editor.
    ///
    /// Resolves to an error if the entity is not there, or the field is not a text of the schema.
    pub fn text_session(&self, id: EntityId, field: &str) -> Commit<TextSession> {
        let replica = self.space().replica().clone();
        let (name, field) = (self.name().clone(), FieldName::new(field));
        self.space().write(move |write, space| {
            let field = field?;
            let collection = write.schema().collection(name.as_str()).ok_or(StoreError::NoCollection(name.clone()))?;
            match collection.fields.get(&field).map(|known| known.kind) {
                Some(Kind::Text) => {}
                Some(kind) => return Err(Error::invalid(format!("{field} is a {}, not a text", kind.as_str()))),
                None => return Err(EditError::UnknownField(field.to_string()).into()),
            }
            let state = write.state(space, id)?;
            if state.collection.as_ref() != Some(&name) {
                return Err(StoreError::NoEntity(id).into());
            }
            if state.deleted {
                return Err(StoreError::Deleted(id).into());
            }
            let mirror = Mirror::new(text_of(&state, &field));
            let base = write.heads(space, id)?;
            TextSession::start(replica, space.clone(), id, field, mirror, base)
        })
    }
}

impl TextSession {
    fn start(
        replica: Replica,
        space: SpaceName,
        id: EntityId,
        field: FieldName,
        mirror: Mirror,
        base: Heads,
    ) -> Result<Self, Error> {
        let signal = replica.inner.watchers.add(Scope::Entity(space.clone(), id));
        let (waiting, failure) = (Vec::new(), None);
        let state = State { mirror, base, waiting, failure, retry: false, ended: false, closed: false };
        let (wake, news) = (Notify::new(), watch::Sender::new(0));
        let shared = Arc::new(Shared { replica, space, id, field, state: Mutex::new(state), wake, news });
        shared.replica.runtime()?.spawn(pump::run(Arc::clone(&shared), signal));
        Ok(Self { shared })
    }

    /// The text that the editor shows: with everything it has spliced in, and what it has taken of others.
    #[must_use]
    pub fn text(&self) -> String {
        self.shared.lock().mirror.text().to_owned()
    }

    /// The editor replaces `delete` characters from `at` on. This is written in the background.
    ///
    /// # Errors
    /// If they are not all there (nothing is done then), or the session has ended: see [`error`](Self::error).
    pub fn splice(&self, at: usize, delete: usize, insert: &str) -> Result<(), Error> {
        let mut state = self.shared.lock();
        state.usable()?;
        let splice = TextSplice { at, delete, insert: insert.to_owned() };
        let done = state.mirror.splice(&splice);
        done.ok_or_else(|| self.shared.out_of_range(at.saturating_add(delete), &state.mirror))?;
        state.retry = true;
        drop(state);
        self.shared.wake.notify_one();
        Ok(())
    }

    /// What others have written since the editor last took it: from here on it is part of the text, and positions
    /// count with it. Each splice counts its position after those before it.
    ///
    /// # Errors
    /// If the session has ended.
    pub fn poll(&self) -> Result<Vec<TextSplice>, Error> {
        let mut state = self.shared.lock();
        state.usable()?;
        Ok(state.mirror.take())
    }

    /// Waits until others have written something, and takes it as [`poll`](Self::poll) does. Needs no particular
    /// runtime; dropping the future loses nothing.
    ///
    /// # Errors
    /// If the session has ended.
    pub async fn changed(&self) -> Result<Vec<TextSplice>, Error> {
        let mut news = self.shared.news.subscribe();
        loop {
            let splices = self.poll()?;
            if !splices.is_empty() {
                return Ok(splices);
            }
            news.changed().await.map_err(|_| StoreError::Closed)?;
        }
    }

    /// Resolves once everything spliced so far is fsynced, and everything that others have written so far is there
    /// to be taken.
    pub fn flush(&self) -> Commit<()> {
        let (promise, commit) = Commit::pending();
        self.shared.lock().waiting.push(promise);
        self.shared.wake.notify_one();
        commit
    }

    /// Whether everything that was spliced in is fsynced.
    #[must_use]
    pub fn is_saved(&self) -> bool {
        !self.shared.lock().mirror.is_dirty()
    }

    /// Why what was spliced in last could not be written. It stays in the text, and is tried again with the next
    /// splice or [`flush`](Self::flush); a rule that it breaks may be kept by then, or a deleted entity be back.
    ///
    /// Only if the disk failed in the middle of a commit has the session ended, for the text may or may not have been
    /// stored: every call but [`text`](Self::text) then fails. Open another and compare.
    #[must_use]
    pub fn error(&self) -> Option<Error> {
        self.shared.lock().failure.as_ref().map(|failure| again(failure).into())
    }

    /// A cursor before the character at `at`. It moves with the text around it: what is spliced in at the cursor
    /// pushes it on, as typing does; what others write there comes behind it.
    ///
    /// # Errors
    /// If the text is shorter.
    pub fn cursor(&self, at: usize) -> Result<TextCursor, Error> {
        let mut state = self.shared.lock();
        let key = state.mirror.add_cursor(at).ok_or_else(|| self.shared.out_of_range(at, &state.mirror))?;
        drop(state);
        Ok(TextCursor { shared: Arc::clone(&self.shared), key })
    }
}

impl Drop for TextSession {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        (state.closed, state.retry) = (true, true);
        drop(state);
        self.shared.wake.notify_one();
    }
}

impl State {
    fn usable(&self) -> Result<(), Error> {
        match self.failure.as_ref().filter(|_| self.ended) {
            Some(failure) => Err(again(failure).into()),
            None => Ok(()),
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn out_of_range(&self, at: usize, mirror: &Mirror) -> Error {
        EditError::OutOfRange { field: self.field.clone(), at, length: mirror.length() }.into()
    }
}

/// A place in a session's text: see [`TextSession::cursor`]. It is forgotten when it is dropped.
pub struct TextCursor {
    shared: Arc<Shared>,
    key: u64,
}

impl fmt::Debug for TextCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TextCursor").field(&self.position()).finish()
    }
}

impl TextCursor {
    /// Where it is now, in the text that the editor shows.
    #[must_use]
    pub fn position(&self) -> usize {
        self.shared.lock().mirror.cursor(self.key)
    }

    /// Puts it before the character at `at`.
    ///
    /// # Errors
    /// If the text is shorter.
    pub fn move_to(&self, at: usize) -> Result<(), Error> {
        let mut state = self.shared.lock();
        state.mirror.move_cursor(self.key, at).ok_or_else(|| self.shared.out_of_range(at, &state.mirror))
    }
}

impl Drop for TextCursor {
    fn drop(&mut self) {
        self.shared.lock().mirror.remove_cursor(self.key);
    }
}
