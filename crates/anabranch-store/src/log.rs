//! The end of the file's log: for whoever watches what other processes write.

use std::collections::BTreeSet;

use anabranch_core::SpaceName;
use rusqlite::OptionalExtension as _;

use crate::error::StoreError;
use crate::read::Read;

impl Read<'_> {
    /// The key of the last change that has been written to the file, in whatever space.
    ///
    /// # Errors
    /// If the database fails.
    pub fn log_end(&self) -> Result<i64, StoreError> {
        let mut select = self.connection().prepare_cached("SELECT seq FROM sqlite_sequence WHERE name = 'changes'")?;
        Ok(select.query_row([], |row| row.get(0)).optional()?.unwrap_or(0))
    }

    /// The end of the log, and the spaces in which changes have been written after the key `after`.
    ///
    /// # Errors
    /// If the database fails.
    pub fn written_since(&self, after: i64) -> Result<(i64, BTreeSet<SpaceName>), StoreError> {
        let end = self.log_end()?;
        if end == after {
            return Ok((end, BTreeSet::new()));
        }
        let mut select = self.connection().prepare_cached(
            "SELECT DISTINCT s.name FROM changes c JOIN entities e ON e.key = c.entity JOIN spaces s ON s.key = e.space \
             WHERE c.seq > ?",
        )?;
        let names = select.query_map([after], |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>, _>>()?;
        let spaces = names.into_iter().map(SpaceName::new).collect::<Result<_, _>>()?;
        Ok((end, spaces))
    }
}
