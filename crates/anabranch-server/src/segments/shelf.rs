//! Where segments are kept: in memory, or in a folder.
//!
//! The last few generations of a space's segments stay, for clients that are in the middle of a first sync.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anabranch_core::segment::{MAX_SEGMENTS, Piece};
use anabranch_core::wire::Mark;
use anabranch_core::{Digest, EntityId, Lineage, SpaceName};
use bincode::{Decode, Encode};

/// Earlier generations of a space's segments that are kept.
const GENERATIONS: usize = 3;
/// The largest file that tells of a space's segments.
const MAX_INDEX_BYTES: usize = MAX_SEGMENTS * 160;
const INDEX: &str = "index";
const SEGMENT: &str = "segment";

/// A segment, and what the builder needs to know about it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct Part {
    pub(super) piece: Piece,
    /// Its first entity.
    pub(super) first: EntityId,
    /// That entity's history begins in the segment before.
    pub(super) continues: bool,
}

/// The segments of a space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Made {
    pub(super) mark: Mark,
    pub(super) pieces: Vec<Part>,
    /// The log is known to hold the mark.
    pub(super) checked: bool,
}

/// The file that tells of a space's segments.
#[derive(Debug, Encode, Decode)]
struct Index {
    lineage: Lineage,
    space: SpaceName,
    mark: Mark,
    parts: Vec<Part>,
}

#[derive(Debug)]
pub(super) struct Shelf {
    folder: Option<PathBuf>,
    max_bytes: u64,
    lineage: Lineage,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    spaces: HashMap<SpaceName, Generations>,
    /// In memory; for a folder, the sizes alone are known, and the bytes are empty.
    segments: HashMap<Digest, (u64, Vec<u8>)>,
    /// What was built and is not here any more, or never was: a few bytes for each such space.
    let_go: HashMap<SpaceName, LetGo>,
    uses: u64,
}

/// How far the segments went that a space had, or would have had.
#[derive(Clone, Copy, Debug)]
pub(super) struct LetGo {
    pub(super) seq: u64,
    /// They do not fit, even alone.
    pub(super) too_large: bool,
}

#[derive(Debug)]
struct Generations {
    current: Made,
    older: VecDeque<BTreeSet<Digest>>,
    used: u64,
}

impl Shelf {
    pub(super) fn open(folder: Option<PathBuf>, max_bytes: u64, lineage: Lineage) -> Self {
        let shelf = Self { folder, max_bytes, lineage, kept: Mutex::default() };
        if let Some(folder) = &shelf.folder
            && let Err(error) = shelf.load(folder)
        {
            // What cannot be read is built again.
            tracing::warn!(kind = %error.kind(), "the folder of segments could not be read");
        }
        shelf
    }

    /// The space's segments, for somebody who looks after them.
    pub(super) fn peek(&self, space: &SpaceName) -> Option<Made> {
        self.kept().spaces.get(space).map(|generations| generations.current.clone())
    }

    /// How far the space's segments go that are here.
    pub(super) fn reached(&self, space: &SpaceName) -> Option<u64> {
        self.kept().spaces.get(space).map(|generations| generations.current.mark.seq)
    }

    /// What is known of segments that the space has no longer.
    pub(super) fn let_go(&self, space: &SpaceName) -> Option<LetGo> {
        self.kept().let_go.get(space).copied()
    }

    pub(super) const fn max_bytes(&self) -> u64 {
        self.max_bytes
    }

    /// The space's segments, for somebody who uses them.
    pub(super) fn current(&self, space: &SpaceName) -> Option<Made> {
        let mut kept = self.kept();
        kept.uses += 1;
        let now = kept.uses;
        let generations = kept.spaces.get_mut(space)?;
        generations.used = now;
        Some(generations.current.clone())
    }

    pub(super) fn count(&self, space: &SpaceName) -> usize {
        self.kept().spaces.get(space).map_or(0, |generations| generations.current.pieces.len())
    }

    pub(super) fn note_checked(&self, space: &SpaceName) {
        if let Some(generations) = self.kept().spaces.get_mut(space) {
            generations.current.checked = true;
        }
    }

    /// A space's segment of this name, if one of its generations has it. If it is found to be damaged, the space's
    /// segments are forgotten: they have to be built again.
    pub(super) async fn get(&self, space: &SpaceName, digest: &Digest) -> Option<Vec<u8>> {
        let bytes = {
            let kept = self.kept();
            let generations = kept.spaces.get(space)?;
            if !generations.has(digest) {
                return None;
            }
            kept.segments.get(digest)?.1.clone()
        };
        let Some(folder) = &self.folder else { return Some(bytes) };
        let path = path(folder, digest, SEGMENT);
        let read = tokio::task::spawn_blocking(move || std::fs::read(path)).await.ok()?;
        match read {
            Ok(bytes) if Digest::of(&bytes) == *digest => return Some(bytes),
            Ok(_) => tracing::error!(%space, %digest, "a segment is damaged, and will be built again"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                tracing::error!(%space, %digest, "a segment is missing, and will be built again");
            }
            Err(error) => {
                tracing::error!(%space, %digest, kind = %error.kind(), "a segment could not be read");
                return None;
            }
        }
        self.forget(space);
        self.kept().segments.remove(digest);
        self.remove(vec![*digest]);
        None
    }

    /// Keeps a segment. It is let go of if no space is said to have it. `false` if that failed.
    pub(super) async fn store(&self, digest: &Digest, bytes: Vec<u8>) -> bool {
        let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let Some(folder) = self.folder.clone() else {
            self.kept().segments.insert(*digest, (size, bytes));
            return true;
        };
        let name = *digest;
        let written = tokio::task::spawn_blocking(move || write(&folder, &name, SEGMENT, &bytes)).await;
        let written = written.is_ok_and(|written| {
            written.inspect_err(|error| tracing::error!(kind = %error.kind(), "a segment could not be written")).is_ok()
        });
        if written {
            self.kept().segments.insert(*digest, (size, Vec::new()));
        }
        written
    }

    /// Makes these the space's segments.
    pub(super) fn put(&self, space: &SpaceName, made: Made) {
        if let Some(folder) = &self.folder {
            let (lineage, mark, parts) = (self.lineage, made.mark, made.pieces.clone());
            let index = Index { lineage, space: space.clone(), mark, parts };
            let bytes = bincode::encode_to_vec(&index, bincode::config::standard()).unwrap_or_default();
            if let Err(error) = write(folder, &Digest::of(space.as_str().as_bytes()), INDEX, &bytes) {
                tracing::warn!(kind = %error.kind(), "the segments of a space could not be noted");
            }
        }
        let mut kept = self.kept();
        kept.uses += 1;
        let used = kept.uses;
        let older = kept.spaces.remove(space).map(Generations::age).unwrap_or_default();
        kept.spaces.insert(space.clone(), Generations { current: made, older, used });
        kept.let_go.remove(space);
        let gone = kept.tidy(self.max_bytes);
        drop(kept);
        self.remove(gone);
    }

    /// The space's segments could not be built, or would be too large: nothing stays of what there is of them so far.
    pub(super) fn give_up(&self, space: &SpaceName, seq: u64, too_large: bool) {
        let mut kept = self.kept();
        if too_large {
            kept.let_go.insert(space.clone(), LetGo { seq, too_large });
        }
        let gone = kept.tidy(self.max_bytes);
        drop(kept);
        self.remove(gone);
    }

    /// The space's segments are of no use. They go with the next ones that are put here: what is being built just
    /// now has no space yet, either.
    pub(super) fn forget(&self, space: &SpaceName) {
        self.kept().spaces.remove(space);
    }

    fn remove(&self, gone: Vec<Digest>) {
        let Some(folder) = &self.folder else { return };
        for digest in gone {
            if let Err(error) = std::fs::remove_file(path(folder, &digest, SEGMENT)) {
                tracing::debug!(kind = %error.kind(), "a segment could not be removed");
            }
        }
    }

    /// Reads what an earlier run has left. What is damaged, or of another history, is left out.
    fn load(&self, folder: &Path) -> io::Result<()> {
        std::fs::create_dir_all(folder)?;
        let mut sizes = HashMap::new();
        let mut indexes = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let file = entry.path();
            let is = |kind: &str| file.extension().is_some_and(|extension| extension == kind);
            if is(INDEX) && entry.metadata()?.len() <= u64::try_from(MAX_INDEX_BYTES).unwrap_or(u64::MAX) {
                indexes.push(std::fs::read(&file)?);
            } else if is(SEGMENT)
                && let Some(digest) = file.file_stem().and_then(|stem| stem.to_str()?.parse::<Digest>().ok())
            {
                sizes.insert(digest, entry.metadata()?.len());
            }
        }
        let mut kept = self.kept();
        for bytes in indexes {
            let config = bincode::config::standard().with_limit::<MAX_INDEX_BYTES>();
            let Ok((index, _)) = bincode::decode_from_slice::<Index, _>(&bytes, config) else { continue };
            let whole = index.parts.iter().all(|part| sizes.get(&part.piece.digest) == Some(&part.piece.bytes.into()));
            if index.lineage == self.lineage && whole {
                let current = Made { mark: index.mark, pieces: index.parts, checked: false };
                kept.spaces.insert(index.space, Generations { current, older: VecDeque::new(), used: 0 });
            }
        }
        kept.segments = sizes.into_iter().map(|(digest, size)| (digest, (size, Vec::new()))).collect();
        let gone = kept.tidy(self.max_bytes);
        drop(kept);
        self.remove(gone);
        Ok(())
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Consistent at every step, so a panic elsewhere does not spoil it.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    /// Lets go of what no space has, and of the spaces used least recently while there is too much; of the last one,
    /// of its earlier generations first. Returns what is gone.
    fn tidy(&mut self, max_bytes: u64) -> Vec<Digest> {
        let mut gone = self.drop_unused();
        while self.segments.values().map(|(size, _)| size).sum::<u64>() > max_bytes {
            let alone = self.spaces.len() == 1;
            let oldest = self.spaces.iter_mut().min_by_key(|(_, generations)| generations.used);
            let Some((space, generations)) = oldest else { break };
            if !alone || generations.older.pop_back().is_none() {
                tracing::info!(%space, "letting go of a space's segments: there are too many");
                let (space, seq) = (space.clone(), generations.current.mark.seq);
                self.spaces.remove(&space);
                self.let_go.insert(space, LetGo { seq, too_large: alone });
            }
            gone.extend(self.drop_unused());
        }
        gone
    }

    fn drop_unused(&mut self) -> Vec<Digest> {
        let used: BTreeSet<Digest> = self.spaces.values().flat_map(Generations::all).collect();
        let gone: Vec<Digest> = self.segments.keys().filter(|digest| !used.contains(digest)).copied().collect();
        gone.iter().for_each(|digest| drop(self.segments.remove(digest)));
        gone
    }
}

impl Generations {
    fn digests(&self) -> impl Iterator<Item = Digest> {
        self.current.pieces.iter().map(|part| part.piece.digest)
    }

    fn all(&self) -> impl Iterator<Item = Digest> {
        self.digests().chain(self.older.iter().flatten().copied())
    }

    fn has(&self, digest: &Digest) -> bool {
        self.digests().any(|own| own == *digest) || self.older.iter().any(|older| older.contains(digest))
    }

    /// What stays of these for those who are still fetching them.
    fn age(self) -> VecDeque<BTreeSet<Digest>> {
        let digests = self.digests().collect();
        let mut older = self.older;
        older.push_front(digests);
        older.truncate(GENERATIONS);
        older
    }
}

fn path(folder: &Path, name: &Digest, extension: &str) -> PathBuf {
    folder.join(format!("{name}.{extension}"))
}

/// Writes a file whole or not at all, whatever happens to the machine.
fn write(folder: &Path, name: &Digest, extension: &str, bytes: &[u8]) -> io::Result<()> {
    let target = path(folder, name, extension);
    let part = target.with_extension("part");
    let mut file = File::create(&part)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(part, target)
}
