//! Brings what `bondgate device`, `key` and `token` write into the running daemon: looks at the keyring's file now and
//! then, and publishes a policy when it has changed or when a key's time is over.
//!
//! Promise: a keyring that cannot be read changes nothing but the log; the policy that was in force stays.

use bondgate_auth::keyring::Keyring;
use bondgate_auth::stream::TokenId;

use super::keyring_file::KeyringFile;
use super::stamp::Stamp;
use crate::config::{AuthMode, Config};
use crate::policy::{Policy, wall_ms};
use crate::service::Service;

/// The keyring of a running daemon.
#[derive(Debug)]
pub struct KeyringWatch {
    file: Option<KeyringFile>,
    stamp: Option<Stamp>,
    /// When a key's time is over.
    next_change_ms: Option<u64>,
}

impl KeyringWatch {
    /// Reads the keyring and makes the first policy of it.
    ///
    /// # Errors
    /// It exists and cannot be read, or others could read it; the message says what to do.
    pub fn start(config: &Config) -> anyhow::Result<(Self, Policy)> {
        let file = KeyringFile::of(config);
        let mut watch = Self { file, stamp: None, next_change_ms: None };
        let rules = Policy::compile(config);
        let Some(file) = &watch.file else { return Ok((watch, rules)) };
        watch.stamp = Some(file.stamp());
        let keyring = file.load()?;
        if let Some(warning) = file.warning() {
            tracing::warn!("{warning}");
        }
        let policy = watch.policy(&rules, keyring.as_ref());
        if policy.admission.keys.is_empty() && config.srtla.auth == AuthMode::Required {
            tracing::warn!(
                "no device has a key, so nobody can register: bondgate device enroll NAME (taken up without a restart)"
            );
        }
        Ok((watch, policy))
    }

    /// Publishes a new policy if there is a reason to. A look that finds none costs two system calls.
    pub fn look(&mut self, service: &Service) {
        let Some(file) = &self.file else { return };
        let stamp = Some(file.stamp());
        let is_due = self.next_change_ms.is_some_and(|at_ms| wall_ms() >= at_ms);
        if stamp == self.stamp && !is_due {
            return;
        }
        self.stamp = stamp;
        match file.load() {
            Ok(keyring) => {
                let policy = self.policy(&service.policy(), keyring.as_ref());
                tracing::info!(keys = policy.admission.keys.len(), "keyring read again");
                service.publish(policy);
            }
            Err(error) => {
                self.next_change_ms = None;
                tracing::error!(
                    "the keyring has changed and cannot be read; what was in force stays: {error:#}"
                );
            }
        }
    }

    /// Writes down that a one-time token was used.
    pub fn spend(&self, token: TokenId) {
        let Some(file) = &self.file else { return };
        let spent = file.update(|keyring| Ok::<_, anyhow::Error>(keyring.spend_token(token, wall_ms())));
        if let Err(error) = spent {
            tracing::error!("one-time token {token} is used, which could not be written down: {error:#}");
        }
    }

    fn policy(&mut self, before: &Policy, keyring: Option<&Keyring>) -> Policy {
        let now_ms = wall_ms();
        self.next_change_ms = keyring.and_then(|keyring| keyring.next_change_ms(now_ms));
        before.with_keyring(keyring, now_ms)
    }
}
