//! The bans on disk: `bans.json` in the state directory, mode 0600.
//!
//! Promises: two programs that change it at once both succeed (they take turns at a lock); a change is there whole or not
//! at all, and is on the disk when [`BansFile::update`] returns; a file that cannot be read is never written over.

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};

use super::list::BanList;
use super::text;
use crate::config::Config;
use crate::control::secret_file;
use crate::control::stamp::Stamp;

const BANS: &str = "bans.json";
const LOCK: &str = "bans.lock";

/// The bans of a state directory.
#[derive(Clone, Debug)]
pub struct BansFile {
    dir: PathBuf,
}

impl BansFile {
    /// The bans of a configuration; `None` without a state directory.
    pub fn of(config: &Config) -> Option<Self> {
        config.runtime.state_dir.as_deref().map(Self::new)
    }

    /// The bans of a directory.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// The file.
    pub fn path(&self) -> PathBuf {
        self.dir.join(BANS)
    }

    /// Reads the bans; without a file there are none.
    ///
    /// # Errors
    /// It cannot be read, or is damaged, or open to others. The message says what to do.
    pub fn load(&self) -> anyhow::Result<BanList> {
        secret_file::read(&self.path())?.map_or_else(|| Ok(BanList::default()), |bytes| self.parse(&bytes))
    }

    fn parse(&self, bytes: &[u8]) -> anyhow::Result<BanList> {
        let read = || text::read(std::str::from_utf8(bytes).map_err(|error| error.to_string())?);
        read().map_err(|why| {
            let path = self.path();
            let shown = path.display();
            anyhow!("{shown} is damaged: {why}; nothing was changed. Mend it, or move it away (mv {shown} {shown}.damaged) and import what is good of it")
        })
    }

    /// Changes the bans and returns what `change` does. Others who want to change them wait meanwhile. When `change` fails,
    /// nothing is written.
    ///
    /// # Errors
    /// As [`BansFile::load`]; they cannot be written; what `change` says.
    pub fn update<T>(&self, change: impl FnOnce(&mut BanList) -> anyhow::Result<T>) -> anyhow::Result<T> {
        secret_file::make_dir(&self.dir)?;
        let lock = secret_file::lock(&self.dir.join(LOCK))?;
        let path = self.path();
        let before = secret_file::read(&path)?;
        let mut list = before.as_deref().map_or_else(|| Ok(BanList::default()), |bytes| self.parse(bytes))?;
        let result = change(&mut list)?;
        let after = text::write(list.iter());
        if !before.map_or(list.is_empty(), |before| before == after.as_bytes()) {
            secret_file::remove_leftovers(&path);
            secret_file::write(&path, after.as_bytes()).context("the bans are unchanged")?;
        }
        drop(lock);
        Ok(result)
    }

    /// What there is to see of the file without reading it.
    pub fn stamp(&self) -> Stamp {
        Stamp::of(&self.path())
    }
}
