//! The counts that were agreed on: `bench/micro/ratchet.toml`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// Growth that is taken for noise, in percent.
pub const GROWTH_MAX_PERCENT: f64 = 3.0;

/// Which machine and compiler counts belong to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// `rustc -V`.
    pub rustc: String,
    /// Target architecture.
    pub arch: String,
}

impl Origin {
    /// Of this program.
    pub fn here() -> Self {
        Self { rustc: env!("MICRO_RUSTC").to_owned(), arch: std::env::consts::ARCH.to_owned() }
    }
}

/// Instructions per operation, by workload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ratchet {
    /// Where they were counted.
    pub origin: Origin,
    /// Instructions per operation.
    pub instructions: BTreeMap<String, f64>,
}

/// What a count is against the ratchet.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Change {
    /// Not in the ratchet.
    New,
    /// Within the noise.
    Same(f64),
    /// Fewer, by this many percent (negative): worth to be held.
    Better(f64),
    /// More, by this many percent: fails.
    Worse(f64),
}

impl Ratchet {
    /// Where it lies in the repository.
    pub fn path() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("ratchet.toml")
    }

    /// Reads it; `None` when there is none yet.
    ///
    /// # Errors
    /// A file that cannot be read or is not a ratchet; the message has line and key.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        match std::fs::read_to_string(path) {
            Ok(text) => Ok(Some(toml::from_str(&text).with_context(|| format!("{}", path.display()))?)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Writes it.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let head = "# Instructions per operation. Written by `cargo run --release -p bondgate-micro -- count --bless`.\n\n";
        let text = head.to_owned() + &toml::to_string(self)?;
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Holds a count against the one agreed on.
    pub fn compare(&self, name: &str, instructions: f64) -> Change {
        let Some(agreed) = self.instructions.get(name) else { return Change::New };
        let percent = (instructions / agreed - 1.0) * 100.0;
        if percent > GROWTH_MAX_PERCENT {
            Change::Worse(percent)
        } else if percent < -GROWTH_MAX_PERCENT {
            Change::Better(percent)
        } else {
            Change::Same(percent)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ratchet() -> Ratchet {
        Ratchet { origin: Origin::here(), instructions: [("a".to_owned(), 200.0)].into() }
    }

    #[test]
    fn three_percent_more_is_too_much() {
        let ratchet = ratchet();
        assert_eq!(ratchet.compare("b", 1.0), Change::New);
        assert!(matches!(ratchet.compare("a", 205.9), Change::Same(percent) if percent > 2.9));
        assert!(matches!(ratchet.compare("a", 206.1), Change::Worse(percent) if percent > 3.0));
        assert!(matches!(ratchet.compare("a", 193.0), Change::Better(percent) if percent < -3.0));
    }

    #[test]
    fn survives_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ratchet.toml");
        assert_eq!(Ratchet::read(&path).unwrap(), None);
        ratchet().write(&path).unwrap();
        assert_eq!(Ratchet::read(&path).unwrap(), Some(ratchet()));
        std::fs::write(&path, "[origin]\nrustc = 3\n").unwrap();
        let error = format!("{:#}", Ratchet::read(&path).unwrap_err());
        assert!(error.contains("ratchet.toml") && error.contains("line 2"), "{error}");
    }

    /// The ratchet of the repository names the workloads there are.
    #[test]
    fn the_ratchet_is_complete() {
        let ratchet = Ratchet::read(&Ratchet::path()).unwrap().expect("bench/micro/ratchet.toml");
        let mut names: Vec<_> = crate::workloads::ALL.iter().map(|workload| workload.name).collect();
        names.sort_unstable();
        assert_eq!(ratchet.instructions.keys().collect::<Vec<_>>(), names);
    }
}
