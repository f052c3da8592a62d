//! Why a keyring refuses a change.

use super::name::NameError;
use crate::stream::TokenId;
use std::fmt;

/// Why a keyring refuses a change. It is unchanged then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyringError {
    /// A name that cannot be one.
    Name(NameError),
    /// Where devices find us is not `HOST:PORT`.
    Server(&'static str),
    /// The name is taken.
    DeviceExists(String),
    /// No device of this name.
    NoDevice(String),
    /// No key of this ID that has not ended.
    NoKey(String),
    /// No token of this ID.
    NoToken(TokenId),
    /// No room.
    Full {
        /// Of what.
        what: &'static str,
        /// How many there can be.
        max: usize,
    },
    /// A device without tenant asked for a tenant's stream.
    StreamOfTenant {
        /// The stream.
        stream: String,
        /// Its tenant.
        tenant: String,
    },
    /// A new tenant would take over a stream of a device without tenant.
    TenantOverStream {
        /// The tenant.
        tenant: String,
        /// The stream.
        stream: String,
        /// The device.
        device: String,
    },
    /// A number out of range.
    Limit(&'static str),
    /// Enabled devices hold the gate key that would be dropped.
    GateHeld(Vec<String>),
    /// The random bytes name something that exists; draw others.
    Random,
}

impl fmt::Display for KeyringError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(error) => error.fmt(f),
            Self::Server(why) => write!(f, "the server's address: {why}"),
            Self::DeviceExists(name) => {
                write!(f, "device {name} exists already; `bondgate key rotate {name}` gives it a new key")
            }
            Self::NoDevice(name) => {
                write!(f, "there is no device {name:?}; `bondgate device list` shows all")
            }
            Self::NoKey(id) => write!(f, "there is no key {id} in use; `bondgate key list` shows all"),
            Self::NoToken(id) => write!(f, "there is no token {id}; `bondgate token list` shows all"),
            Self::Full { what, max } => write!(f, "the keyring is full: {max} {what}"),
            Self::StreamOfTenant { stream, tenant } => write!(
                f,
                "stream {stream} is one of tenant {tenant}'s; enroll the device with --tenant {tenant}, or choose another"
            ),
            Self::TenantOverStream { tenant, stream, device } => write!(
                f,
                "tenant {tenant} would own stream {stream}, which device {device} without a tenant publishes; \
                 choose another name, or remove that device first"
            ),
            Self::Limit(what) => f.write_str(what),
            Self::GateHeld(devices) => write!(
                f,
                "the next gate key would lock out {}: {} from before the last rotation. Give each a new URI first \
                 (`bondgate key rotate NAME`), or disable it; --force rotates all the same",
                devices.join(", "),
                if devices.len() == 1 { "it still has the key" } else { "they still have the key" },
            ),
            Self::Random => f.write_str("the random source repeats itself"),
        }
    }
}

impl std::error::Error for KeyringError {}

impl From<NameError> for KeyringError {
    fn from(error: NameError) -> Self {
        Self::Name(error)
    }
}
