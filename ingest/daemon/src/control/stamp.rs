//! What there is to see of a file without reading it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Changes whenever a file does; cheap to get. Equal stamps: nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp(Option<[u64; 6]>);

impl Stamp {
    /// Of no file.
    pub const NONE: Self = Self(None);

    /// Of a file; two system calls at most.
    pub fn of(path: &Path) -> Self {
        Self(fs::metadata(path).ok().map(|meta| {
            let times = [meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec()];
            let [mtime, mtime_ns, ctime, ctime_ns] = times.map(|time| time as u64);
            [meta.ino(), meta.size(), mtime, mtime_ns, ctime, ctime_ns]
        }))
    }

    /// There is a file.
    pub fn exists(&self) -> bool {
        self.0.is_some()
    }
}
