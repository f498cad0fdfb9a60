//! Damaged files: checking, repairing, and the entities of which something is missing.

use anabranch_core::{EntityId, Schema};
use anabranch_store::{DamagedEntity, Finding, Repaired};

use crate::Commit;
use crate::collection::Space;
use crate::error::Error;
use crate::replica::{OpenOptions, Replica};

impl OpenOptions {
    /// Looks at everything in the file and lists what is not what was written: pages and indexes, the seals of rows,
    /// the hash of every change, and whether each row follows from its history. Nothing is changed. Register the
    /// functions that the schema names first, or what needs them is not derived.
    ///
    /// No process may have the file open.
    ///
    /// ```
    /// # use anabranch::{Error, Replica, Schema};
    /// # fn main() -> Result<(), Error> {
    /// # let folder = tempfile::tempdir().expect("a temporary folder");
    /// # let schema = Schema::from_toml("version = 1\n[collections.notes.fields]\ntitle = { kind = \"register\" }")?;
    /// let file = folder.path().join("notes.db");
    /// drop(Replica::open(&file, schema)?);
    /// assert!(Replica::at(&file).check_file()?.is_empty());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// If the file is not there, is another application's, or cannot be read for another reason than damage.
    pub fn check_file(self) -> Result<Vec<Finding>, Error> {
        let (path, functions, _) = self.into_parts();
        Ok(anabranch_store::check(&path, &functions)?)
    }

    /// Checks the file and, if it is damaged, puts a new one in its place: with every row that can be read, and every
    /// entity derived again from its history. The damaged file is kept beside it, as `NAME-damaged`. What is missing is
    /// fetched with the next sync; what no server had is listed. `schema` is taken if the file's own cannot be read.
    ///
    /// No process may have the file open.
    ///
    /// # Errors
    /// If nothing can be saved, if the schema cannot be read and none is given, or if the disk fails: then the file is
    /// where it was.
    pub fn repair(self, schema: Option<Schema>) -> Result<Repaired, Error> {
        let (path, functions, environment) = self.into_parts();
        Ok(anabranch_store::repair(&path, schema, &functions, environment)?)
    }
}

impl Replica {
    /// The entities that were found damaged and are not whole again, with what is missing of them and what is lost.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn damaged(&self) -> Result<Vec<DamagedEntity>, Error> {
        Ok(self.store().read(|read| read.damaged())?)
    }
}

impl Space {
    /// Stops waiting for what is missing of a damaged entity, and acknowledges what is lost: what is left of it is
    /// shown from now on. `false` if nothing of it is missing or lost.
    pub fn accept_damage(&self, id: EntityId) -> Commit<bool> {
        let space = self.name().clone();
        self.replica().store().write(move |write| Ok(write.accept_damage(&space, id)?))
    }
}
