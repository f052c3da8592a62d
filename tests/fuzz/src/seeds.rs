//! The committed inputs: `seeds/TARGET/*`. Files named `.hex` hold hexadecimal bytes and `#` comments; all others are taken as
//! they are.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

/// The seeds of a target, in the order of their names.
///
/// # Errors
/// When there are none, or a file cannot be read.
pub fn load(target: &str) -> Result<Vec<Vec<u8>>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target);
    let entries = std::fs::read_dir(&dir).with_context(|| format!("no seeds in {}", dir.display()))?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<PathBuf>>>()?;
    paths.sort();
    ensure!(!paths.is_empty(), "{} is empty", dir.display());
    paths.iter().map(|path| read(path)).collect()
}

/// One input from a file.
///
/// # Errors
/// When it cannot be read, or its hexadecimal is none.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    if path.extension().is_none_or(|extension| extension != "hex") {
        return Ok(bytes);
    }
    let text = String::from_utf8(bytes).with_context(|| format!("{} is no text", path.display()))?;
    let mut nibbles = Vec::new();
    for c in text.lines().flat_map(|line| line.split('#').next().unwrap_or("").chars()) {
        match c.to_digit(16) {
            Some(nibble) => nibbles.push(nibble as u8),
            None if c.is_whitespace() => {}
            None => bail!("{}: {c:?} is not hexadecimal", path.display()),
        }
    }
    ensure!(nibbles.len() % 2 == 0, "{}: half a byte", path.display());
    Ok(nibbles.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

/// Bytes as [`read`] takes them.
pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}
