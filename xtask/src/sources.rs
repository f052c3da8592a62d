//! What the BPF object is made from, as one hash, and what the text beside it says.
//!
//! Also part of the loader's tests: whoever changes the sources and does not build the object again is told so by them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// Folders and files of the object's sources, below the root of the repository.
const SOURCES: &[&str] =
    &["ebpf/common/src", "ebpf/prog/Cargo.lock", "ebpf/prog/Cargo.toml", "ebpf/prog/src"];

/// Not compiled into the object.
fn is_for_tests(path: &Path) -> bool {
    path.ends_with("testing") || path.ends_with("tests.rs")
}

/// SHA-256 over the sources: of each file, in the order of their names, its name below `root`, a zero byte, its length as
/// eight big-endian bytes, and its content.
///
/// # Errors
/// A file that cannot be read, with its name.
pub fn sources_sha256(root: &Path) -> io::Result<String> {
    let mut files = Vec::new();
    for name in SOURCES {
        collect(&root.join(name), &mut files)?;
    }
    files.sort();
    let mut hash = Sha256::new();
    for file in files {
        let content = fs::read(&file).map_err(|error| named(&file, &error))?;
        let name = file.strip_prefix(root).unwrap_or(&file).to_string_lossy().into_owned();
        hash.update(name.as_bytes());
        hash.update([0]);
        hash.update((content.len() as u64).to_be_bytes());
        hash.update(&content);
    }
    Ok(hex(&hash.finalize()))
}

/// SHA-256 of bytes.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// What stands behind `name: ` in the text beside the object.
pub fn recorded<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    if is_for_tests(path) {
        return Ok(());
    }
    if !path.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    for entry in fs::read_dir(path).map_err(|error| named(path, &error))? {
        collect(&entry?.path(), files)?;
    }
    Ok(())
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}
