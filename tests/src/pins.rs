//! A BPF file system of a test's own, so that what one test pins no other sees, and all of it goes with the test.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use bondgate_ebpf::features;
use rustix::mount::{MountFlags, UnmountFlags};

use crate::scene::Scene;

/// A mounted BPF file system. Dropping it unmounts it, and everything pinned there is gone: programs are detached.
#[derive(Debug)]
pub struct PinFs(PathBuf);

impl PinFs {
    /// Mounts one in the scene's directory.
    ///
    /// # Errors
    /// Without the rights.
    pub fn new(scene: &Scene) -> Result<Self> {
        Self::mount(scene.path("bpf"))
    }

    fn mount(dir: PathBuf) -> Result<Self> {
        std::fs::create_dir_all(&dir)?;
        rustix::mount::mount("bpf", &dir, "bpf", MountFlags::empty(), None)
            .context("cannot mount a BPF file system")?;
        Ok(Self(dir))
    }

    /// Where a gate is to be pinned.
    pub fn dir(&self) -> PathBuf {
        self.0.join("gate")
    }
}

impl Drop for PinFs {
    fn drop(&mut self) {
        // What is pinned in a file system that is still open somewhere would stay attached.
        let _ = remove(&self.0);
        let _ = rustix::mount::unmount(&self.0, UnmountFlags::DETACH);
    }
}

fn remove(dir: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            remove(&path)?;
            std::fs::remove_dir(&path)?;
        } else {
            std::fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// Why BPF programs cannot be loaded and pinned here; `None` if they can. Tries it.
pub fn unavailable() -> Option<String> {
    if let Some(missing) = features::missing_to_load().first() {
        return Some(missing.to_string());
    }
    let tried =
        tempfile::tempdir().map_err(anyhow::Error::from).and_then(|dir| PinFs::mount(dir.path().join("bpf")));
    tried.err().map(|error| format!("{error:#}"))
}
