//! Where a client's file is: in a folder of the system's, or on a disk that loses what was not synced.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use rusqlite::Connection;

use crate::disk::{Disk, Files, UNHURT};
use crate::failure::{Failure, broken};
use crate::file;

const FILE: &str = "client.db";
const LOG: &str = "client.db-wal";

/// Where a client's file is.
#[derive(Clone, Debug)]
pub(crate) enum Medium {
    Folder(PathBuf),
    Disk(Disk),
}

impl Medium {
    pub(crate) fn folder(path: PathBuf) -> Result<Self, Failure> {
        fs::create_dir(&path).map_err(broken("making a client's folder"))?;
        Ok(Self::Folder(path))
    }

    /// A disk with these files, whose writes and syncs are recorded.
    pub(crate) fn disk(files: &Files) -> Result<Self, Failure> {
        Disk::holding(files, true).map(Self::Disk)
    }

    pub(crate) const fn as_disk(&self) -> Option<&Disk> {
        match self {
            Self::Disk(disk) => Some(disk),
            Self::Folder(_) => None,
        }
    }

    pub(crate) fn path(&self) -> PathBuf {
        match self {
            Self::Folder(folder) => folder.join(FILE),
            Self::Disk(disk) => disk.path(FILE),
        }
    }

    /// A connection that only reads, and that no fault hurts.
    pub(crate) fn reader(&self) -> Result<Connection, Failure> {
        match self {
            Self::Folder(folder) => file::reader(&folder.join(FILE)),
            Self::Disk(disk) => file::reader(&disk.path(&format!("{UNHURT}{FILE}"))),
        }
    }

    /// What is there, while nobody has it open.
    pub(crate) fn contents(&self) -> Result<Files, Failure> {
        let folder = match self {
            Self::Disk(disk) => return Ok(disk.files()),
            Self::Folder(folder) => folder,
        };
        let mut files = Files::new();
        for name in [FILE, LOG] {
            let path = folder.join(name);
            if path.exists() {
                let bytes = fs::read(path).map_err(broken("reading a client's file"))?;
                files.insert(name.to_owned(), Arc::new(bytes));
            }
        }
        Ok(files)
    }

    /// Puts these files in the place of what is there, while nobody has it open.
    pub(crate) fn replace(&mut self, files: &Files) -> Result<(), Failure> {
        let folder = match self {
            Self::Disk(_) => {
                *self = Self::disk(files)?;
                return Ok(());
            }
            Self::Folder(folder) => folder,
        };
        for name in [FILE, LOG] {
            let path = folder.join(name);
            match files.get(name) {
                Some(bytes) => fs::write(path, bytes.as_slice()).map_err(broken("replacing a client's file"))?,
                None if path.exists() => fs::remove_file(path).map_err(broken("removing a client's file"))?,
                None => {}
            }
        }
        Ok(())
    }

    /// Whether whoever had the file open has folded the write-ahead log into it.
    pub(crate) fn is_tidy(&self) -> bool {
        match self {
            Self::Folder(folder) => !folder.join(LOG).exists(),
            Self::Disk(disk) => disk.files().get(LOG).is_none_or(|log| log.is_empty()),
        }
    }
}
