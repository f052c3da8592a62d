//! The flags of `bondgate device`, `key` and `token`, and how they find the keyring.

use std::path::PathBuf;
use std::time::Duration;

use bondgate_auth::cidr::Cidr;
use bondgate_auth::keyring::{Keyring, check_server, name};
use clap::{Args, Subcommand};

use super::args::GlobalArgs;
use crate::config::{self, Config, Sources, cidr};
use crate::control::keyring_file::KeyringFile;
use crate::exit::Failure;

/// Said after every change.
pub const TAKEN_UP: &str = "a running bondgate takes it up within 0.25 s";

/// Flags that all of these commands take.
#[derive(Args, Clone, Debug)]
pub struct KeyringArgs {
    /// Configuration file; without it the one `bondgate run` would use
    #[arg(short, long, global = true, value_name = "FILE", env = "BONDGATE_CONFIG")]
    pub config: Option<PathBuf>,
    /// Directory of the keyring and the bans, instead of runtime.state_dir
    #[expect(clippy::doc_markdown, reason = "help text, shown as it is")]
    #[arg(long, global = true, value_name = "DIRECTORY")]
    pub state_dir: Option<PathBuf>,
    /// Prints JSON
    #[arg(long, global = true)]
    pub json: bool,
}

/// Flags of the commands that print a provisioning URI.
#[derive(Args, Clone, Debug)]
pub struct ProvisionArgs {
    /// Where the device reaches this receiver from outside, instead of keys.server
    #[arg(long, value_name = "HOST:PORT", value_parser = server)]
    pub server: Option<String>,
    /// Prints the QR code even if the output is no terminal
    #[arg(long, conflicts_with = "no_qr")]
    pub qr: bool,
    /// Prints no QR code
    #[arg(long)]
    pub no_qr: bool,
}

/// `bondgate device`.
#[derive(Args, Clone, Debug)]
pub struct DeviceArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: DeviceCommand,
    /// Flags of all of them.
    #[command(flatten)]
    pub keyring: KeyringArgs,
}

/// The subcommands of `bondgate device`.
#[derive(Clone, Debug, Subcommand)]
pub enum DeviceCommand {
    /// Makes a device with a key, and prints once what it registers with: a URI, and a QR code of it
    Enroll(EnrollArgs),
    /// Lists all devices
    List,
    /// Shows one device with its keys
    Show {
        /// The device
        name: String,
    },
    /// Lets a device register no longer; its keys are kept
    Disable {
        /// The device
        name: String,
    },
    /// Lets a disabled device register again
    Enable {
        /// The device
        name: String,
    },
    /// Forgets a device and its keys
    Remove {
        /// The device
        name: String,
    },
}

/// `bondgate device enroll`.
#[derive(Args, Clone, Debug)]
pub struct EnrollArgs {
    /// Its name: letters, digits and _ - .
    #[arg(value_parser = device_name)]
    pub name: String,
    /// Its owner; a tenant's streams are named TENANT/...
    #[arg(long, value_name = "TENANT", value_parser = tenant_name)]
    pub tenant: Option<String>,
    /// A stream it may publish, and no other; repeat it, or separate by commas. Without it: any of its tenant's
    #[arg(long = "stream", value_name = "STREAM", value_delimiter = ',', value_parser = stream_name)]
    pub streams: Vec<String>,
    /// It has no clock that can be relied on
    #[arg(long)]
    pub clockless: bool,
    /// Where it finds us, and the QR code.
    #[command(flatten)]
    pub provision: ProvisionArgs,
}

/// `bondgate key`.
#[derive(Args, Clone, Debug)]
pub struct KeyArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: KeyCommand,
    /// Flags of all of them.
    #[command(flatten)]
    pub keyring: KeyringArgs,
}

/// The subcommands of `bondgate key`.
#[derive(Clone, Debug, Subcommand)]
pub enum KeyCommand {
    /// Gives a device a new key and prints its URI once; the old key goes on for a while
    Rotate(RotateArgs),
    /// Ends a key, or all keys of a device, at once
    Revoke {
        /// Key ID, or name of a device
        #[arg(value_name = "KEYID|DEVICE")]
        what: String,
    },
    /// Lists all keys
    List,
}

/// `bondgate key rotate`.
#[derive(Args, Clone, Debug)]
pub struct RotateArgs {
    /// The device
    #[arg(required_unless_present = "gate", conflicts_with = "gate")]
    pub name: Option<String>,
    /// How long the key it has now stays good, such as 90m, 24h, 7d, or 0
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = duration)]
    pub grace: Duration,
    /// Replaces the gate key, which all devices share. Devices get the new one with their next key; the old one stays good
    /// until the next time
    #[arg(long)]
    pub gate: bool,
    /// With --gate: even if it locks out devices
    #[arg(long, requires = "gate", conflicts_with = "name")]
    pub force: bool,
    /// Where it finds us, and the QR code.
    #[command(flatten)]
    pub provision: ProvisionArgs,
}

/// `bondgate token`.
#[derive(Args, Clone, Debug)]
pub struct TokenArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: TokenCommand,
    /// Flags of all of them.
    #[command(flatten)]
    pub keyring: KeyringArgs,
}

/// The subcommands of `bondgate token`.
#[derive(Clone, Debug, Subcommand)]
pub enum TokenCommand {
    /// Makes a token for a stream and prints it once
    Create(CreateArgs),
    /// Lists all tokens
    List,
    /// Ends a token at once
    Revoke {
        /// Its ID, or the token itself
        #[arg(value_name = "ID|TOKEN")]
        what: String,
    },
    /// Forgets tokens that have expired or were used up; what they let in ends
    Prune,
}

/// `bondgate token create`.
#[derive(Args, Clone, Debug)]
pub struct CreateArgs {
    /// The stream, by its full name
    #[arg(value_parser = stream_name)]
    pub stream: String,
    /// For playing, not for publishing
    #[arg(long)]
    pub play: bool,
    /// How long it is good, such as 12h or 30d, or never for no end
    #[arg(long, value_name = "TIME", default_value = "30d", value_parser = ttl)]
    pub ttl: Ttl,
    /// Good for one caller only
    #[arg(long)]
    pub once: bool,
    /// A network it may be used from; repeat it, or separate by commas. Without it: anywhere
    #[arg(long, value_name = "CIDR", value_delimiter = ',', value_parser = network)]
    pub from: Vec<Cidr>,
}

/// How long a token is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ttl {
    /// Until it is revoked.
    Never,
    /// As long as this.
    Of(Duration),
}

impl KeyringArgs {
    /// The configuration.
    ///
    /// # Errors
    /// It is invalid.
    pub fn config(&self, global: &GlobalArgs) -> Result<Config, Failure> {
        let mut flags = global.overrides();
        if let Some(dir) = &self.state_dir {
            flags.push(("--state-dir", format!("runtime.state_dir={}", dir.display())));
        }
        let file = self.config.clone().or_else(config::find_file);
        Ok(config::load(&Sources::of_process(file, flags))?.config)
    }

    /// The configuration, and where its keyring is.
    ///
    /// # Errors
    /// The configuration is invalid, or says that nothing is kept.
    pub fn open(&self, global: &GlobalArgs) -> Result<(Config, KeyringFile), Failure> {
        let config = self.config(global)?;
        let keyring = KeyringFile::of(&config).ok_or_else(|| {
            Failure::config(
                "runtime.state_dir is off, so there is no place for a keyring; write [runtime] state_dir = \
                 \"/var/lib/bondgate\" into the configuration, or give --state-dir DIRECTORY",
            )
        })?;
        Ok((config, keyring))
    }
}

impl ProvisionArgs {
    /// What a device shall be told to find us by: the flag, the configuration, what the last one was told, or the address we
    /// listen on, if it is one.
    ///
    /// # Errors
    /// None of these says it.
    pub fn server(&self, config: &Config, keyring: &Keyring) -> Result<String, Failure> {
        if let Some(server) = &self.server {
            return Ok(server.clone());
        }
        for known in [config.keys.server.as_str(), keyring.server()] {
            if !known.is_empty() {
                return Ok(known.to_owned());
            }
        }
        let listen = config.srtla.listen;
        if !listen.ip().is_unspecified() && listen.port() != 0 {
            return Ok(listen.to_string());
        }
        Err(Failure::usage(format!(
            "by which address do devices reach this receiver? srtla.listen = \"{listen}\" does not say. Give --server \
             HOST:{port}, or write [keys] server = \"HOST:{port}\" into the configuration",
            port = if listen.port() == 0 { 5000 } else { listen.port() }
        )))
    }
}

fn server(text: &str) -> Result<String, String> {
    check_server(text).map(|()| text.to_owned()).map_err(str::to_owned)
}

fn device_name(text: &str) -> Result<String, String> {
    name::check_device(text).map(|()| text.to_owned()).map_err(|error| error.to_string())
}

fn tenant_name(text: &str) -> Result<String, String> {
    name::check_tenant(text).map(|()| text.to_owned()).map_err(|error| error.to_string())
}

fn stream_name(text: &str) -> Result<String, String> {
    name::check_stream(text).map(|()| text.to_owned()).map_err(|error| error.to_string())
}

/// A network as a flag.
///
/// # Errors
/// A sentence for people.
pub fn network(text: &str) -> Result<Cidr, String> {
    cidr::parse(text).map(|network| Cidr { addr: network.addr, prefix: network.prefix })
}

/// Seconds, minutes, hours or days.
///
/// # Errors
/// A sentence for people.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "write a time such as 45s, 90m, 24h or 30d".to_owned();
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let unit_s = match text.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3600,
        Some('d') => 86400,
        _ => return Err(wrong()),
    };
    let count: u32 = text.get(..text.len() - 1).and_then(|count| count.parse().ok()).ok_or_else(wrong)?;
    Ok(Duration::from_secs(u64::from(count) * unit_s))
}

fn ttl(text: &str) -> Result<Ttl, String> {
    if text == "never" {
        return Ok(Ttl::Never);
    }
    match duration(text)? {
        Duration::ZERO => Err("a token that is good for no time is good for nothing".to_owned()),
        time => Ok(Ttl::Of(time)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (text, seconds) in
            [("0", 0), ("0s", 0), ("45s", 45), ("90m", 5400), ("24h", 86400), ("30d", 2_592_000)]
        {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "d", "1", "1w", "-1d", "1.5h", "99999999999d", "1\u{e4}"] {
            assert!(duration(text).is_err(), "{text}");
        }
        assert_eq!(ttl("never"), Ok(Ttl::Never));
        assert!(ttl("0").is_err());
    }
}
