//! What a power loss may leave of a disk: every state that its log of writes and syncs allows.
//!
//! A file keeps what was written to it before its last sync. Of what came later each sector may or may not have
//! reached the disk, in any order, or in part. Names come and go in order, as in the journal of a file system;
//! the first sync of a new file settles its name, and all names before it.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::dice::Dice;
use crate::disk::{Event, Files, Inode};

/// What a disk writes at once, if it is lucky.
const SECTOR: usize = 4_096;

/// How many states are looked at.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// With at most so many sectors under way, all subsets of them.
    pub exhaustive: usize,
    /// With more, so many samples.
    pub samples: usize,
    /// Of the places in the log, those at which something ends, and one in so many of the others.
    pub stride: usize,
}

impl Effort {
    /// All that is promised.
    pub const FULL: Self = Self { exhaustive: 8, samples: 64, stride: 1 };
    /// What fits into a daily test.
    pub const QUICK: Self = Self { exhaustive: 1, samples: 4, stride: 5 };
}

/// A part of an event that is done or not.
#[derive(Clone, Debug)]
enum Piece {
    Write { inode: Inode, at: usize, bytes: Arc<[u8]>, from: usize, to: usize },
    Truncate { inode: Inode, size: usize },
    Create { inode: Inode, name: String },
    Delete { name: String },
}

/// Pieces that go together in a subset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Unit {
    Sector(Inode, usize),
    /// By the piece's place.
    Alone(usize),
}

impl Piece {
    fn inode(&self) -> Option<Inode> {
        match self {
            Self::Write { inode, .. } | Self::Truncate { inode, .. } => Some(*inode),
            Self::Create { .. } | Self::Delete { .. } => None,
        }
    }

    const fn is_name(&self) -> bool {
        matches!(self, Self::Create { .. } | Self::Delete { .. })
    }
}

/// A disk's names and files.
#[derive(Clone, Debug, Default)]
struct Image {
    names: BTreeMap<String, Inode>,
    data: BTreeMap<Inode, Arc<Vec<u8>>>,
}

impl Image {
    /// Does it, or just the first `part` bytes of it; what lies between the file's end and a write is filled.
    fn apply(&mut self, piece: &Piece, part: usize, filler: u8) {
        match piece {
            Piece::Create { inode, name } => {
                self.names.insert(name.clone(), *inode);
                self.data.entry(*inode).or_default();
            }
            Piece::Delete { name } => drop(self.names.remove(name)),
            Piece::Truncate { inode, size } => Arc::make_mut(self.data.entry(*inode).or_default()).resize(*size, 0),
            Piece::Write { inode, at, bytes, from, to } => {
                let bytes = &bytes[*from..(*to).min(from.saturating_add(part))];
                let (at, file) = (at + from, Arc::make_mut(self.data.entry(*inode).or_default()));
                if file.len() < at {
                    file.resize(at, filler);
                }
                if file.len() < at + bytes.len() {
                    file.resize(at + bytes.len(), 0);
                }
                file[at..at + bytes.len()].copy_from_slice(bytes);
            }
        }
    }

    fn files(&self) -> Files {
        let named =
            |(name, inode): (&String, &Inode)| (name.clone(), self.data.get(inode).cloned().unwrap_or_default());
        self.names.iter().map(named).collect()
    }
}

/// The states that a log allows, one place after the other.
#[derive(Debug, Default)]
pub(crate) struct Replay {
    /// What is on the disk for sure.
    durable: Image,
    /// What may be.
    pending: Vec<Piece>,
}

impl Replay {
    /// Goes on by one event.
    pub(crate) fn take(&mut self, event: &Event) {
        match event {
            Event::Create { inode, name } => self.pending.push(Piece::Create { inode: *inode, name: name.clone() }),
            Event::Delete { name, sync } => {
                self.pending.push(Piece::Delete { name: name.clone() });
                if *sync {
                    self.settle(|piece| piece.is_name());
                }
            }
            Event::Write { inode, at, bytes } => {
                let mut from = 0;
                while from < bytes.len() {
                    let to = bytes.len().min(from + SECTOR - (at + from) % SECTOR);
                    self.pending.push(Piece::Write { inode: *inode, at: *at, bytes: Arc::clone(bytes), from, to });
                    from = to;
                }
            }
            Event::Truncate { inode, size } => self.pending.push(Piece::Truncate { inode: *inode, size: *size }),
            Event::Sync { inode } => {
                let new = |piece: &Piece| matches!(piece, Piece::Create { inode: made, .. } if made == inode);
                let is_new = self.pending.iter().any(new);
                self.settle(|piece| piece.inode() == Some(*inode) || is_new && piece.is_name());
            }
            Event::SyncFailed { inode } => self.pending.retain(|piece| piece.inode() != Some(*inode)),
            Event::Promise { .. } => {}
        }
    }

    fn settle(&mut self, settles: impl Fn(&Piece) -> bool) {
        let (settled, pending) = std::mem::take(&mut self.pending).into_iter().partition(settles);
        self.pending = pending;
        let settled: Vec<Piece> = settled;
        settled.iter().for_each(|piece| self.durable.apply(piece, usize::MAX, 0));
    }

    /// Nothing is lost: only the process is gone.
    pub(crate) fn everything(&self) -> Files {
        self.choose(|_, _| Some(usize::MAX), 0)
    }

    /// One of the states in which a power loss may leave the disk here.
    pub(crate) fn one(&self, dice: &mut Dice) -> Files {
        match dice.below(6) {
            0 => self.choose(|_, _| None, 0),
            1 => self.everything(),
            _ => {
                let units: Vec<Unit> =
                    self.pending.iter().enumerate().map(|(place, piece)| unit(place, piece)).collect();
                self.sample(&units, dice)
            }
        }
    }

    /// The states in which a power loss may leave the disk here.
    pub(crate) fn states(&self, effort: Effort, dice: &mut Dice) -> Vec<Files> {
        let mut units: Vec<Unit> = Vec::new();
        let of_piece: Vec<Unit> = self.pending.iter().enumerate().map(|(place, piece)| unit(place, piece)).collect();
        for unit in &of_piece {
            if !units.contains(unit) {
                units.push(*unit);
            }
        }
        let mut states = Vec::new();
        if units.len() <= effort.exhaustive {
            for subset in 0..1_u32 << units.len() {
                let in_subset =
                    |unit: &Unit| units.iter().position(|own| own == unit).is_some_and(|at| subset >> at & 1 == 1);
                states.push(self.choose(|place, _| in_subset(&of_piece[place]).then_some(usize::MAX), 0));
            }
            // Each sector torn, with and without what comes after it.
            for torn in &units {
                let end = of_piece.iter().rposition(|unit| unit == torn).unwrap_or_default();
                for last in [end, usize::MAX] {
                    let cut = 1 + dice.below(SECTOR - 1);
                    states.push(self.choose(
                        |place, size| match place {
                            _ if place > last => None,
                            _ if place == end => Some(cut % size.max(1)),
                            _ => Some(usize::MAX),
                        },
                        0,
                    ));
                }
            }
        } else {
            states.push(self.choose(|_, _| None, 0));
            states.push(self.everything());
            (2..effort.samples.max(2)).for_each(|_| states.push(self.sample(&of_piece, dice)));
        }
        states
    }

    /// One of the many: by sector or by write, few or many of them, whole or torn, on zeros or on what was there.
    fn sample(&self, of_piece: &[Unit], dice: &mut Dice) -> Files {
        let (by_sector, density) = (dice.once_in(2), 1 + dice.below(9));
        let filler = if dice.once_in(2) { 0 } else { 0xa5 };
        let last = if dice.once_in(3) { dice.below(self.pending.len()) } else { usize::MAX };
        let mut parts = Vec::new();
        let mut known = BTreeMap::new();
        for unit in of_piece {
            let drawn = (dice.below(10) < density || last != usize::MAX, dice.once_in(8).then(|| dice.below(SECTOR)));
            parts.push(if by_sector { *known.entry(*unit).or_insert(drawn) } else { drawn });
        }
        let part = |place: usize, size: usize| {
            let (kept, torn) = parts[place];
            (kept && place <= last).then(|| torn.map_or(usize::MAX, |at| at % size.max(1)))
        };
        self.choose(part, filler)
    }

    /// Applies of each pending piece what is asked for, given its place and size.
    fn choose(&self, part: impl Fn(usize, usize) -> Option<usize>, filler: u8) -> Files {
        let mut image = self.durable.clone();
        let mut names_end = false;
        for (place, piece) in self.pending.iter().enumerate() {
            let size = if let Piece::Write { from, to, .. } = piece { to - from } else { 1 };
            let Some(part) = part(place, size).filter(|_| !(names_end && piece.is_name())) else {
                names_end |= piece.is_name();
                continue;
            };
            match piece {
                Piece::Write { .. } => image.apply(piece, part, filler),
                _ => image.apply(piece, usize::MAX, filler),
            }
        }
        image.files()
    }
}

fn unit(place: usize, piece: &Piece) -> Unit {
    match piece {
        Piece::Write { inode, at, from, .. } => Unit::Sector(*inode, (at + from) / SECTOR),
        _ => Unit::Alone(place),
    }
}

/// How much of a log there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) writes: usize,
    pub(crate) syncs: usize,
    pub(crate) names: usize,
}

impl Extent {
    pub(crate) fn of(log: &[Event]) -> Self {
        let mut extent = Self::default();
        for event in log {
            match event {
                Event::Write { .. } | Event::Truncate { .. } => extent.writes += 1,
                Event::Sync { .. } | Event::SyncFailed { .. } => extent.syncs += 1,
                Event::Create { .. } | Event::Delete { .. } => extent.names += 1,
                Event::Promise { .. } => {}
            }
        }
        extent
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn replay(events: &[Event]) -> Replay {
        let mut replay = Replay::default();
        events.iter().for_each(|event| replay.take(event));
        replay
    }

    fn write(inode: Inode, at: usize, text: &str) -> Event {
        Event::Write { inode, at, bytes: text.as_bytes().into() }
    }

    fn create(inode: Inode, name: &str) -> Event {
        Event::Create { inode, name: name.to_owned() }
    }

    /// What a file may hold; `None` if it may not be there at all.
    fn contents(events: &[Event], name: &str) -> BTreeSet<Option<Vec<u8>>> {
        let states = replay(events).states(Effort::FULL, &mut Dice::new(1));
        states.iter().map(|files| files.get(name).map(|bytes| bytes.to_vec())).collect()
    }

    #[test]
    fn what_was_synced_stays_and_the_rest_may_not() {
        let start = [create(1, "a"), write(1, 0, "old"), Event::Sync { inode: 1 }];
        assert_eq!(contents(&start, "a"), [Some(b"old".to_vec())].into());
        let mut more = start.to_vec();
        more.push(write(1, 0, "new"));
        let found = contents(&more, "a");
        assert!(found.contains(&Some(b"old".to_vec())) && found.contains(&Some(b"new".to_vec())));
        assert!(found.iter().flatten().all(|bytes| bytes.len() == 3), "torn, but no longer: {found:?}");
    }

    #[test]
    fn sectors_reach_the_disk_in_any_order() {
        let events = [create(1, "a"), Event::Sync { inode: 1 }, write(1, 0, "first"), write(1, SECTOR, "second")];
        let found = contents(&events, "a");
        let is_only_second = |bytes: &Vec<u8>| bytes.starts_with(&[0; 5]) && bytes.ends_with(b"second");
        let only_second = found.iter().flatten().any(is_only_second);
        assert!(only_second && found.contains(&Some(b"first".to_vec())) && found.contains(&Some(Vec::new())));
    }

    #[test]
    fn names_come_and_go_in_order() {
        let events = [
            create(1, "a"),
            write(1, 0, "x"),
            Event::Sync { inode: 1 },
            Event::Delete { name: "a".to_owned(), sync: false },
            create(2, "b"),
        ];
        let states = replay(&events).states(Effort::FULL, &mut Dice::new(1));
        let names: BTreeSet<Vec<&str>> =
            states.iter().map(|files| files.keys().map(String::as_str).collect()).collect();
        assert_eq!(names, [vec!["a"], vec![], vec!["b"]].into(), "never both");
        let settled = [&events[..], &[write(2, 0, "y"), Event::Sync { inode: 2 }]].concat();
        assert_eq!(contents(&settled, "a"), [None].into(), "the new file's sync settles the deletion");
    }

    #[test]
    fn with_many_sectors_there_are_as_many_samples_as_asked_for() {
        let mut events = vec![create(1, "a"), Event::Sync { inode: 1 }];
        events.extend((0..40).map(|number| write(1, number * SECTOR, "content")));
        let states = replay(&events).states(Effort::FULL, &mut Dice::new(1));
        assert_eq!(states.len(), Effort::FULL.samples);
        let different: BTreeSet<_> = states.iter().map(|files| files["a"].clone()).collect();
        assert!(different.len() > 50, "{}", different.len());
    }
}
