//! Files that hold secrets: how they are read, and how they are written.
//!
//! Promises: a file that somebody else could read, and one in a directory that somebody else could write, is refused with
//! the command that mends it; a written file is there whole or not at all, whatever dies meanwhile; it belongs to whom
//! the directory belongs, so that root can write what the service reads.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use rustix::fs::{FlockOperation, flock};

use crate::service::random;

/// Bits that nobody but the owner may have on a file with a secret.
const OTHERS: u32 = 0o077;
/// What they may not have on a systemd credential: systemd gives the service its right by an access list, and the mode of
/// such a file shows that as a right of the group.
const OTHERS_OF_CREDENTIAL: u32 = 0o027;
/// Bits that nobody but the owner may have on a directory with secrets.
const OTHERS_WRITE: u32 = 0o022;

/// Reads a file with a secret; `None` when there is none.
///
/// # Errors
/// It cannot be read, or others could read or replace it.
pub fn read(path: &Path) -> anyhow::Result<Option<Vec<u8>>> {
    read_unless(path, OTHERS)
}

/// As [`read`], for what systemd puts into the service's credentials directory.
///
/// # Errors
/// As [`read`].
pub fn read_credential(path: &Path) -> anyhow::Result<Option<Vec<u8>>> {
    read_unless(path, OTHERS_OF_CREDENTIAL)
}

fn read_unless(path: &Path, others: u32) -> anyhow::Result<Option<Vec<u8>>> {
    let shown = path.display();
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Err(error).with_context(|| {
                format!("cannot read {shown}; run this as root or as the user bondgate runs as")
            });
        }
        Err(error) => return Err(error).with_context(|| format!("cannot read {shown}")),
    };
    let meta = file.metadata().with_context(|| format!("cannot read {shown}"))?;
    if !meta.is_file() {
        bail!("{shown} is not a file");
    }
    let mode = meta.permissions().mode();
    if mode & others != 0 {
        bail!(
            "{shown} holds a secret and is open to others (mode {:o}); run: chmod 600 {shown}",
            mode & 0o7777
        );
    }
    if let Some(dir) = directory(path) {
        check_dir(dir)?;
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).with_context(|| format!("cannot read {shown}"))?;
    Ok(Some(bytes))
}

/// The directory a file is in.
fn directory(path: &Path) -> Option<&Path> {
    path.parent().map(|dir| if dir.as_os_str().is_empty() { Path::new(".") } else { dir })
}

/// Refuses a directory in which others could replace files.
///
/// # Errors
/// They could, or it cannot be looked at.
pub fn check_dir(dir: &Path) -> anyhow::Result<()> {
    let shown = dir.display();
    let mode = fs::metadata(dir).with_context(|| format!("cannot look at {shown}"))?.permissions().mode();
    if mode & OTHERS_WRITE != 0 {
        bail!(
            "{shown} can be written by others (mode {:o}), who could replace the secrets in it; run: chmod go-w {shown}",
            mode & 0o7777
        );
    }
    Ok(())
}

/// Makes a directory for secrets, unless it exists.
///
/// # Errors
/// It cannot be made, or others could write it.
pub fn make_dir(dir: &Path) -> anyhow::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| format!("runtime.state_dir = \"{}\" cannot be made", dir.display()))?;
    check_dir(dir)
}

/// Writes a file with a secret, mode 0600: to a temporary file that is flushed to the disk and then renamed.
///
/// # Errors
/// It cannot be written; what was there before is untouched then.
pub fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let (dir, name) = match (directory(path), path.file_name()) {
        (Some(dir), Some(name)) => (dir, name.to_string_lossy()),
        _ => bail!("{} is no file name", path.display()),
    };
    let temporary = temporary(dir, &name);
    let attempt = || -> io::Result<()> {
        let mut file = create_private(&temporary, dir)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(dir)?.sync_all()
    };
    attempt()
        .inspect_err(|_| {
            // What is left of the attempt is useless; the first error is the one to report.
            let _ = fs::remove_file(&temporary);
        })
        .with_context(|| format!("cannot write {}", path.display()))
}

fn temporary(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!(".{name}.{}", std::process::id()))
}

/// Removes what killed writers of this file have left. To be called by whoever keeps other writers out.
pub fn remove_leftovers(path: &Path) {
    let (Some(dir), Some(name)) = (directory(path), path.file_name()) else { return };
    let prefix = format!(".{}.", name.to_string_lossy());
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            // Somebody who cannot remove it cannot write either, and will hear of that.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// A new empty file, mode 0600, of the directory's owner.
fn create_private(path: &Path, dir: &Path) -> io::Result<File> {
    let create = || OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let file = match create() {
        // Left by a killed process that had our number.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_file(path)?;
            create()?
        }
        result => result?,
    };
    give_to_owner(&file, dir)?;
    Ok(file)
}

/// Gives a file to its directory's owner, if that is somebody else: root has just written what the service shall read.
fn give_to_owner(file: &File, dir: &Path) -> io::Result<()> {
    let (meta, owner) = (file.metadata()?, fs::metadata(dir)?);
    if meta.uid() == owner.uid() {
        return Ok(());
    }
    fchown(file, Some(owner.uid()), Some(owner.gid()))
}

/// Opens a lock file, making it if need be, and waits for the lock. It is held as long as the file lives.
///
/// # Errors
/// It cannot be opened or locked.
pub fn lock(path: &Path) -> anyhow::Result<File> {
    let attempt = || -> io::Result<File> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
        if let Some(dir) = directory(path) {
            give_to_owner(&file, dir)?;
        }
        flock(&file, FlockOperation::LockExclusive)?;
        Ok(file)
    };
    attempt().with_context(|| {
        format!("cannot lock {}; run this as root or as the user bondgate runs as", path.display())
    })
}

/// Reads a key of 32 bytes, or makes it.
///
/// # Errors
/// It cannot be read or made, or is no such key.
pub fn read_or_make_key(path: &Path) -> anyhow::Result<[u8; 32]> {
    if let Some(bytes) = read(path)? {
        return bytes
            .try_into()
            .ok()
            .with_context(|| format!("{} is not 32 bytes; move it away to get a new one", path.display()));
    }
    if let Some(dir) = directory(path) {
        make_dir(dir)?;
    }
    let key = random::<32>()?;
    write(path, &key)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_key_is_made_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state/deeper/ticket.key");
        let first = read_or_make_key(&path).unwrap();
        assert_eq!(read_or_make_key(&path).unwrap(), first);
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
    }

    #[test]
    fn a_key_of_another_length_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ticket.key");
        for wrong in [&[1_u8; 31][..], &[1; 33], &[]] {
            write(&path, wrong).unwrap();
            let error = format!("{:#}", read_or_make_key(&path).unwrap_err());
            assert!(error.contains("not 32 bytes; move it away"), "{error}");
        }
    }

    #[test]
    fn what_others_could_read_or_replace_is_refused_with_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        write(&path, b"x").unwrap();
        for bad in [0o640, 0o604, 0o644, 0o660, 0o602, 0o610, 0o601] {
            set_mode(&path, bad);
            let error = format!("{:#}", read(&path).unwrap_err());
            let expected = format!("(mode {bad:o}); run: chmod 600 {}", path.display());
            assert!(error.ends_with(&expected), "{error}");
        }
        set_mode(&path, 0o400);
        assert_eq!(read(&path).unwrap().as_deref(), Some(&b"x"[..]));
        for bad in [0o770, 0o702, 0o1777] {
            set_mode(dir.path(), bad);
            let error = format!("{:#}", read(&path).unwrap_err());
            let expected = format!("run: chmod go-w {}", dir.path().display());
            assert!(error.ends_with(&expected) && error.contains(&format!("mode {bad:o}")), "{error}");
        }
        set_mode(dir.path(), 0o755);
        assert!(read(&path).is_ok());
        assert!(read(dir.path()).is_err(), "a directory is no secret");
        assert!(read(&dir.path().join("none")).unwrap().is_none());
    }

    #[test]
    fn a_credential_may_show_the_right_of_the_service_as_one_of_the_group() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bondgate-seal");
        write(&path, b"x").unwrap();
        for (bits, good) in [(0o400, true), (0o440, true), (0o444, false), (0o460, false)] {
            set_mode(&path, bits);
            assert_eq!(read_credential(&path).is_ok(), good, "{bits:o}");
        }
    }

    #[test]
    fn a_write_replaces_the_whole_file_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        write(&path, &[1; 1000]).unwrap();
        set_mode(&path, 0o644);
        // A leftover of a killed process with our number, and of another.
        fs::write(temporary(dir.path(), "secret"), "half").unwrap();
        fs::write(dir.path().join(".secret.1"), "half").unwrap();
        write(&path, b"short").unwrap();
        assert_eq!((fs::read(&path).unwrap().as_slice(), mode(&path)), (&b"short"[..], 0o600));
        remove_leftovers(&path);
        let names: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["secret"]);
        let error = format!("{:#}", write(&dir.path().join("none/secret"), b"x").unwrap_err());
        assert!(error.contains("none/secret"), "{error}");
    }
}
