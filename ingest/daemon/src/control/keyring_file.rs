//! The keyring on disk: `keyring` in the state directory, sealed, mode 0600.
//!
//! Promises: two programs that change it at once both succeed (they take turns at a lock); a change is there whole or not
//! at all, and is on the disk when [`KeyringFile::update`] returns; what others could read or replace is refused.
//!
//! The seal key comes from the first of these that there is: the file named by `keys.seal_key_file`; the systemd
//! credential `bondgate-seal`; `seal.key` beside the keyring, made at the first change. The last is the weak fallback:
//! whoever gets the directory gets both.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use bondgate_auth::keyring::{Keyring, from_hex};

use super::secret_file;
use super::stamp::Stamp;
use crate::config::Config;
use crate::policy::wall_ms;
use crate::service::random;

/// Name of the systemd credential with the seal key.
pub const CREDENTIAL: &str = "bondgate-seal";
/// Where systemd keeps credentials, for those who read a service's from outside.
const CREDENTIALS_ROOT: &str = "/run/credentials";
const KEYRING: &str = "keyring";
const LOCK: &str = "keyring.lock";
const SEAL_KEY: &str = "seal.key";

/// The keyring of a state directory, and where its seal key is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyringFile {
    dir: PathBuf,
    seal: Seal,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Seal {
    /// Named in the configuration.
    File(PathBuf),
    /// Given by systemd.
    Credential(PathBuf),
    /// In the state directory.
    Beside,
}

impl KeyringFile {
    /// The keyring of a configuration; `None` without a state directory.
    pub fn of(config: &Config) -> Option<Self> {
        let dir = config.runtime.state_dir.as_deref()?;
        let credentials = std::env::var_os("CREDENTIALS_DIRECTORY");
        Some(Self::new(dir, config.keys.seal_key_file.as_deref(), credentials))
    }

    /// The keyring of a directory. `credentials` is systemd's `$CREDENTIALS_DIRECTORY`.
    pub fn new(dir: &Path, seal_key_file: Option<&Path>, credentials: Option<OsString>) -> Self {
        let given = credentials.map(|dir| PathBuf::from(dir).join(CREDENTIAL)).filter(|path| path.exists());
        let seal = match (seal_key_file, given) {
            (Some(path), _) if path.starts_with(CREDENTIALS_ROOT) => Seal::Credential(path.to_owned()),
            (Some(path), _) => Seal::File(path.to_owned()),
            (None, Some(path)) => Seal::Credential(path),
            (None, None) => Seal::Beside,
        };
        Self { dir: dir.to_owned(), seal }
    }

    /// The file.
    pub fn path(&self) -> PathBuf {
        self.dir.join(KEYRING)
    }

    /// What is weak about the seal, for people; `None` when nothing is, or when there is no keyring.
    pub fn warning(&self) -> Option<String> {
        (self.seal == Seal::Beside && self.path().exists()).then(|| {
            format!(
                "the keyring's seal key lies beside it ({}): whoever copies the directory has both. Better: give it to the \
                 service as systemd credential {CREDENTIAL}, or name another place in keys.seal_key_file (docs/operating.md, \
                 \"Devices and keys\")",
                self.dir.join(SEAL_KEY).display()
            )
        })
    }

    /// Reads the keyring; `None` when there is none yet.
    ///
    /// # Errors
    /// It cannot be read or opened, or is open to others. The message says what to do.
    pub fn load(&self) -> anyhow::Result<Option<Keyring>> {
        let path = self.path();
        let Some(sealed) = secret_file::read(&path)? else { return Ok(None) };
        let keyring = Keyring::open(&sealed, &self.seal_key()?.with_context(|| self.no_seal_key())?);
        keyring.map(Some).with_context(|| format!("{} (seal key: {})", path.display(), self.seal_shown()))
    }

    /// Changes the keyring, making it if there is none, and returns what `change` does. Others who want to change it
    /// wait meanwhile. When `change` fails, nothing is written.
    ///
    /// # Errors
    /// As [`KeyringFile::load`]; it cannot be written; what `change` says.
    pub fn update<T, E>(&self, change: impl FnOnce(&mut Keyring) -> Result<T, E>) -> anyhow::Result<T>
    where
        E: Into<anyhow::Error>,
    {
        secret_file::make_dir(&self.dir)?;
        let lock = secret_file::lock(&self.dir.join(LOCK))?;
        let path = self.path();
        let before = self.load()?;
        let mut keyring = match &before {
            Some(keyring) => keyring.clone(),
            None => Keyring::new(random::<8>()?, random::<16>()?, wall_ms()),
        };
        let result = change(&mut keyring).map_err(Into::into)?;
        if before.as_ref() != Some(&keyring) {
            let seal_key = match self.seal_key()? {
                Some(key) => key,
                None if self.seal == Seal::Beside && before.is_none() => {
                    secret_file::read_or_make_key(&self.dir.join(SEAL_KEY))?
                }
                None => bail!(self.no_seal_key()),
            };
            secret_file::remove_leftovers(&path);
            secret_file::write(&path, &keyring.seal(&seal_key, random::<12>()?)?)?;
        }
        drop(lock);
        Ok(result)
    }

    /// What there is to see of the keyring without reading it: two system calls at most.
    pub fn stamp(&self) -> Stamp {
        Stamp::of(&self.path())
    }

    fn seal_path(&self) -> PathBuf {
        match &self.seal {
            Seal::File(path) | Seal::Credential(path) => path.clone(),
            Seal::Beside => self.dir.join(SEAL_KEY),
        }
    }

    fn seal_shown(&self) -> impl fmt::Display {
        let place = match &self.seal {
            Seal::File(_) => "from keys.seal_key_file",
            Seal::Credential(_) => "from systemd",
            Seal::Beside => "beside the keyring",
        };
        format!("{}, {place}", self.seal_path().display())
    }

    fn no_seal_key(&self) -> String {
        let shown = self.seal_path();
        let shown = shown.display();
        match self.seal {
            Seal::File(_) => format!(
                "keys.seal_key_file = \"{shown}\" does not exist; make one: (umask 077; openssl rand -hex 32 > {shown})"
            ),
            Seal::Credential(_) => format!("the credential {shown} does not exist"),
            Seal::Beside => format!(
                "the keyring is sealed, and there is no seal key: neither keys.seal_key_file, nor a systemd credential \
                 {CREDENTIAL}, nor {shown}. If the service gets it from systemd, name it to this command while the service \
                 runs: --set keys.seal_key_file={CREDENTIALS_ROOT}/bondgate.service/{CREDENTIAL}"
            ),
        }
    }

    fn seal_key(&self) -> anyhow::Result<Option<[u8; 32]>> {
        let path = self.seal_path();
        let bytes = match &self.seal {
            Seal::Credential(_) => secret_file::read_credential(&path)?,
            Seal::File(_) | Seal::Beside => secret_file::read(&path)?,
        };
        let Some(bytes) = bytes else { return Ok(None) };
        if let Ok(key) = <[u8; 32]>::try_from(bytes.as_slice()) {
            return Ok(Some(key));
        }
        let text = std::str::from_utf8(&bytes).ok().and_then(|text| from_hex(text.trim_ascii()));
        let key = text.with_context(|| {
            format!("{} is no seal key: it must be 32 bytes, or 64 hexadecimal digits", path.display())
        })?;
        Ok(Some(key))
    }
}
