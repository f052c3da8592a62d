//! Tells the service manager (systemd) how the daemon is doing. Without `NOTIFY_SOCKET` nothing happens.

use sd_notify::NotifyState;

/// The line to the service manager.
#[derive(Debug)]
pub struct Notify {
    watchdog: bool,
}

impl Notify {
    /// Reads `NOTIFY_SOCKET` and `WATCHDOG_USEC` of this process.
    pub fn from_env() -> Self {
        Self { watchdog: sd_notify::watchdog_enabled().is_some() }
    }

    /// Everything is up; `status` is shown by `systemctl status`.
    pub fn ready(&self, status: &str) {
        send(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    /// Shows another line in `systemctl status`.
    pub fn status(&self, status: &str) {
        send(&[NotifyState::Status(status)]);
    }

    /// A stop was asked for.
    pub fn stopping(&self) {
        send(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
    }

    /// Proof of life, if the manager asked for it. Call it only while all shards turn.
    pub fn watchdog(&self) {
        if self.watchdog {
            send(&[NotifyState::Watchdog]);
        }
    }
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!("the service manager cannot be told: {error}");
    }
}
