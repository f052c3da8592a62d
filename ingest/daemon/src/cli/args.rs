//! The command line as clap reads it. One structure per subcommand; their code is in the file of the same name.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::ban::BanArgs;
use super::geo::GeoArgs;
use super::keyring_args::{DeviceArgs, KeyArgs, TokenArgs};
use super::policy::PolicyArgs;
use super::reload::ReloadArgs;
use super::xdp::args::XdpArgs;
use crate::config::validate::host_port;
use crate::config::{BackendChoice, LogFormat, OutputMode};
use crate::exit::EXIT_CODES_HELP;

/// SRTLA and SRT ingest: bonds the links of an encoder in the field back into one stream.
#[derive(Debug, Parser)]
#[command(name = "bondgate", version, after_help = EXIT_CODES_HELP, propagate_version = false)]
#[command(arg_required_else_help = true, subcommand_required = true)]
pub struct Cli {
    /// Flags that every subcommand takes.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags that every subcommand takes.
#[derive(Args, Clone, Debug, Default)]
pub struct GlobalArgs {
    /// What to log: off, error, warn, info, debug, trace, or a list such as info,bondgate=debug [env: BONDGATE_LOG]
    #[expect(clippy::doc_markdown, reason = "help text, shown as it is")]
    #[arg(long, global = true, value_name = "LEVEL", help_heading = "Global options")]
    pub log_level: Option<String>,
    /// How a log line looks; auto is human on a terminal and JSON otherwise
    #[arg(long, global = true, value_name = "FORMAT", help_heading = "Global options")]
    pub log_format: Option<LogFormat>,
    /// Overrides one configuration key; may be repeated [env: BONDGATE__SECTION__KEY]
    #[expect(clippy::doc_markdown, reason = "help text, shown as it is")]
    #[arg(long, global = true, value_name = "SECTION.KEY=VALUE", help_heading = "Global options")]
    pub set: Vec<String>,
}

impl GlobalArgs {
    /// The flags as `section.key=value`, weakest first, each with the flag it came from.
    pub fn overrides(&self) -> Vec<(&'static str, String)> {
        let mut flags: Vec<(&'static str, String)> =
            self.set.iter().map(|assignment| ("--set", assignment.clone())).collect();
        if let Some(level) = &self.log_level {
            flags.push(("--log-level", format!("log.level={level}")));
        }
        if let Some(format) = self.log_format.and_then(|format| format.to_possible_value()) {
            flags.push(("--log-format", format!("log.format={}", format.get_name())));
        }
        flags
    }
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs the ingest server
    Run(RunArgs),
    /// Bonds the stream of a local encoder over several links, towards an SRTLA receiver
    Send(SendArgs),
    /// Shows the whole chain on this machine: encoder, bonded links, receiver, viewer, and a verdict
    Demo(DemoArgs),
    /// Checks a configuration and reports all problems at once
    CheckConfig(CheckConfigArgs),
    /// Writes a commented configuration file and prints the URLs for encoders and players
    Init(InitArgs),
    /// Makes, lists and ends devices, which register with a key
    Device(DeviceArgs),
    /// Replaces, ends and lists the keys of devices
    Key(KeyArgs),
    /// Makes, lists and ends the tokens of streams
    Token(TokenArgs),
    /// Keeps addresses and networks out, for a time or for good
    Ban(BanArgs),
    /// Says which country an address is in, and what becomes of it
    Geo(GeoArgs),
    /// Attaches, shows, replaces and detaches the XDP gate
    Xdp(XdpArgs),
    /// Explains what becomes of an address, and writes the policy for others
    Policy(PolicyArgs),
    /// Has a running daemon read its configuration file again, and says what came of it
    Reload(ReloadArgs),
    /// Prints the completion script of a shell
    Completions(CompletionsArgs),
    /// Prints the manual pages, or writes them to a directory
    Man(ManArgs),
    /// Prints version and build
    Version(VersionArgs),
}

/// `bondgate run`.
#[derive(Args, Clone, Debug, Default)]
pub struct RunArgs {
    /// Configuration file; without it ./bondgate.toml, then /etc/bondgate/bondgate.toml, then the built-in defaults
    #[arg(short, long, value_name = "FILE", env = "BONDGATE_CONFIG")]
    pub config: Option<PathBuf>,
    /// Needed besides srtla.auth = "open": everybody may register
    #[arg(long)]
    pub accept_open_ingest: bool,
}

/// `bondgate send`.
#[derive(Args, Clone, Debug)]
pub struct SendArgs {
    /// The SRTLA receiver, host:port; a key names its own
    #[arg(
        long,
        value_name = "HOST:PORT",
        value_parser = parse_host_port,
        required_unless_present_any = ["key", "key_file"]
    )]
    pub to: Option<String>,
    /// The provisioning URI of this device, as `bondgate device enroll` printed it. Secret, and visible in the process list:
    /// the variable or --key-file is better
    #[arg(
        long,
        value_name = "URI",
        env = "BONDGATE_KEY",
        hide_env_values = true,
        conflicts_with = "key_file"
    )]
    pub key: Option<String>,
    /// File with the provisioning URI, readable by its owner alone
    #[arg(long, value_name = "FILE", env = "BONDGATE_KEY_FILE")]
    pub key_file: Option<PathBuf>,
    /// How to register; require if there is a key, else stock
    #[arg(long, value_enum)]
    pub auth: Option<AuthChoice>,
    /// Puts a MAC on every SRT packet, both ways; never sends without it
    #[arg(long)]
    pub data_mac: bool,
    /// UDP address where the local encoder sends SRT to, as caller
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:9000")]
    pub listen: SocketAddr,
    /// A link: local IP address or interface name; repeat it, or separate by commas. With a key the default is --auto
    #[arg(
        long = "link",
        value_name = "ADDR|IFACE",
        value_delimiter = ',',
        required_unless_present_any = ["auto", "key", "key_file"],
        conflicts_with = "auto"
    )]
    pub links: Vec<String>,
    /// Uses every interface that has a usable address, and follows them as they come and go
    #[arg(long)]
    pub auto: bool,
    /// How datagrams are spread over the links
    #[arg(long, value_enum, default_value_t = SchedulerChoice::Adaptive)]
    pub scheduler: SchedulerChoice,
    /// How packets enter and leave user space
    #[arg(long, value_enum, default_value_t = BackendChoice::Auto)]
    pub backend: BackendChoice,
    /// Prints the state of the links as one JSON object per second on stdout
    #[arg(long)]
    pub json: bool,
}

/// How `bondgate send` registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AuthChoice {
    /// With the key or not at all.
    Require,
    /// With the key; without it at a receiver that does not speak SA1, after a warning.
    Prefer,
    /// Without the key.
    Stock,
}

/// How `bondgate send` spreads datagrams over its links.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SchedulerChoice {
    /// By measured delay, loss and capacity, with hysteresis.
    Adaptive,
    /// The window arithmetic of the stock senders.
    Stock,
}

/// `bondgate demo`.
#[derive(Args, Clone, Debug)]
pub struct DemoArgs {
    /// Leaves everything running and prints the URLs for OBS and ffplay
    #[arg(long)]
    pub keep: bool,
    /// Length of the measured part
    #[arg(long, value_name = "SECONDS", default_value_t = 20, value_parser = clap::value_parser!(u64).range(5..=3600))]
    pub seconds: u64,
    /// How packets enter and leave user space
    #[arg(long, value_enum, default_value_t = BackendChoice::Auto)]
    pub backend: BackendChoice,
    /// Uses the built-in test stream even if ffmpeg is installed
    #[arg(long)]
    pub no_ffmpeg: bool,
    /// Plain lines instead of a live table
    #[arg(long)]
    pub plain: bool,
}

/// `bondgate check-config`.
#[derive(Args, Clone, Debug)]
pub struct CheckConfigArgs {
    /// Configuration file; without it the one `bondgate run` would use
    #[arg(value_name = "FILE", env = "BONDGATE_CONFIG")]
    pub file: Option<PathBuf>,
    /// Prints the values in force as TOML, every key once
    #[arg(long)]
    pub print_effective: bool,
}

/// Who may send, as `bondgate init` asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Profile {
    /// Devices that were given a key, over any network.
    Devices,
    /// Phones, BELABOX and other encoders without a key, from anywhere, with a token in the stream ID; and devices.
    Phones,
    /// Encoders without a key from some networks; and devices.
    Studio,
    /// Everybody. For a laboratory.
    Open,
}

/// `bondgate init`.
#[derive(Args, Clone, Debug)]
pub struct InitArgs {
    /// File to write; - writes to stdout
    #[arg(short, long, value_name = "FILE", default_value = "bondgate.toml")]
    pub output: PathBuf,
    /// Overwrites an existing file
    #[arg(short, long)]
    pub force: bool,
    /// relay: be the SRT server; forward: hand the stream to another SRT server
    #[arg(long, value_enum)]
    pub mode: Option<OutputMode>,
    /// Downstream SRT server of the forward mode
    #[arg(long, value_name = "HOST:PORT", value_parser = parse_host_port)]
    pub server: Option<String>,
    /// Who may send: devices with a key; phones and BELABOX from anywhere, with a token; a studio's networks; everybody
    #[arg(long, value_enum)]
    pub profile: Option<Profile>,
    /// The first stream
    #[arg(long, value_name = "NAME", default_value = "cam1")]
    pub stream: String,
    /// The first device, of profile devices
    #[arg(long, value_name = "NAME", default_value = "encoder1")]
    pub device: String,
    /// A network of encoders, of profile studio; repeat it, or separate by commas
    #[arg(long = "network", value_name = "CIDR", value_delimiter = ',')]
    pub networks: Vec<String>,
    /// Where the keyring is kept; without it /var/lib/bondgate for root, bondgate-state beside the file for others
    #[arg(long, value_name = "DIRECTORY")]
    pub state_dir: Option<PathBuf>,
    /// UDP port of the bonded links
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub srtla_port: Option<u16>,
    /// UDP port of SRT publishers without bonding and of players
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub srt_port: Option<u16>,
    /// Name or address encoders and players reach this machine by, for the printed URLs
    #[arg(long, value_name = "HOST")]
    pub host: Option<String>,
    /// Asks nothing, even on a terminal
    #[arg(short, long)]
    pub yes: bool,
}

/// `bondgate completions`.
#[derive(Args, Clone, Debug)]
pub struct CompletionsArgs {
    /// The shell
    pub shell: clap_complete::Shell,
}

/// `bondgate man`.
#[derive(Args, Clone, Debug)]
pub struct ManArgs {
    /// Writes one page per subcommand into this directory instead of printing bondgate(1)
    #[arg(long, value_name = "DIRECTORY")]
    pub dir: Option<PathBuf>,
}

/// `bondgate version`.
#[derive(Args, Clone, Debug)]
pub struct VersionArgs {
    /// As one JSON object
    #[arg(long)]
    pub json: bool,
}

fn parse_host_port(text: &str) -> Result<String, String> {
    host_port(text).map(|()| text.to_owned())
}
