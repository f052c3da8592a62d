//! Where things are pinned.
//!
//! ```text
//! DIR/maps/GLOBALS ...           the maps of the programs
//! DIR/maps/Allow_a, Allow_b ...  the two tries of each list, of which one is in force
//! DIR/maps/INFO                  which version made them; pinned last, so that what has no INFO is half done
//! DIR/programs/gate              the program that further interfaces get
//! DIR/interfaces/NAME/native     the link, named for its mode
//! ```
//!
//! A BPF file system takes no dots in names; those of an interface's name are written as `%2E`.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode as FileMode, OFlags};

use crate::{GateError, Mode};

/// The pins of one gate.
#[derive(Clone, Debug)]
pub(crate) struct Pins {
    dir: PathBuf,
    maps: &'static str,
}

/// Held while pins are made, changed or removed. Others wait.
#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "closing it is the unlocking")] OwnedFd);

impl Pins {
    pub(crate) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), maps: "maps" }
    }

    /// The same, with the maps in another place until [`Self::put_in_place`].
    pub(crate) fn beside(&self) -> Self {
        Self { dir: self.dir.clone(), maps: "maps_new" }
    }

    /// Puts maps that were made beside into the place of the old ones.
    pub(crate) fn put_in_place(self) -> Result<Self, GateError> {
        let there = Self::new(&self.dir);
        there.remove_maps()?;
        fs::rename(self.maps_dir(), there.maps_dir()).map_err(GateError::pin(there.maps_dir()))?;
        Ok(there)
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn maps_dir(&self) -> PathBuf {
        self.dir.join(self.maps)
    }

    pub(crate) fn map(&self, name: &str) -> PathBuf {
        self.maps_dir().join(name)
    }

    pub(crate) fn program(&self) -> PathBuf {
        self.dir.join("programs").join("gate")
    }

    pub(crate) fn lock(&self) -> Result<Lock, GateError> {
        let open = || {
            let file = rustix::fs::open(
                &self.dir,
                OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
                FileMode::empty(),
            )?;
            rustix::fs::flock(&file, FlockOperation::LockExclusive)?;
            Ok::<_, rustix::io::Errno>(file)
        };
        open().map(Lock).map_err(|errno| GateError::Pin { path: self.dir.clone(), source: errno.into() })
    }

    pub(crate) fn interface_dir(&self, interface: &str) -> PathBuf {
        let name = interface.replace('%', "%25").replace('.', "%2E");
        self.dir.join("interfaces").join(name)
    }

    pub(crate) fn link(&self, interface: &str, mode: Mode) -> PathBuf {
        self.interface_dir(interface).join(mode.name())
    }

    /// Interfaces with a pinned link, with its mode.
    pub(crate) fn links(&self) -> Result<Vec<(String, Mode, PathBuf)>, GateError> {
        let dir = self.dir.join("interfaces");
        let mut links = Vec::new();
        for interface in entries(&dir)? {
            for mode in [Mode::Native, Mode::Generic] {
                let path = dir.join(&interface).join(mode.name());
                if path.exists() {
                    links.push((interface.replace("%2E", ".").replace("%25", "%"), mode, path));
                }
            }
        }
        links.sort();
        Ok(links)
    }

    /// Removes the maps' pins.
    pub(crate) fn remove_maps(&self) -> Result<(), GateError> {
        remove_dir(&self.maps_dir())
    }

    /// Removes everything, the directory included.
    pub(crate) fn remove_all(&self) -> Result<(), GateError> {
        for (_, _, path) in self.links()? {
            fs::remove_file(&path).map_err(GateError::pin(&path))?;
        }
        for interface in entries(&self.dir.join("interfaces"))? {
            remove_dir(&self.dir.join("interfaces").join(interface))?;
        }
        for dir in [
            self.dir.join("interfaces"),
            self.dir.join("programs"),
            self.maps_dir(),
            self.beside().maps_dir(),
        ] {
            remove_dir(&dir)?;
        }
        remove_dir(&self.dir)
    }
}

/// Names in a directory; none if there is no such directory.
fn entries(dir: &Path) -> Result<Vec<String>, GateError> {
    let read = match fs::read_dir(dir) {
        Ok(read) => read,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(GateError::pin(dir)(error)),
    };
    read.map(|entry| Ok(entry.map_err(GateError::pin(dir))?.file_name().to_string_lossy().into_owned()))
        .collect()
}

/// Removes a directory of pins. One that is not there is fine.
fn remove_dir(dir: &Path) -> Result<(), GateError> {
    for name in entries(dir)? {
        let path = dir.join(name);
        fs::remove_file(&path).map_err(GateError::pin(&path))?;
    }
    match fs::remove_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(GateError::pin(dir)(error)),
        _ => Ok(()),
    }
}
