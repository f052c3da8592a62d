//! `bondgate policy`: explains what becomes of an address, and writes the policy for those who have no XDP.

pub mod nft;

use std::net::IpAddr;
use std::sync::Arc;

use bondgate_auth::keyring::{Keyring, from_hex};
use bondgate_auth::sa1::KeyId;
use bondgate_auth::stream::Wish;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::args::GlobalArgs;
use super::keyring_args::KeyringArgs;
use super::present::{document, table};
use super::{ban, print};
use crate::config::{Config, OutputMode};
use crate::control::bans::{BanList, BansFile};
use crate::control::geo::{self, rules};
use crate::control::keyring_file::KeyringFile;
use crate::exit::{Exit, Failure};
use crate::policy::explain::{Caller, Port, Step, Verdict, explain};
use crate::policy::{Policy, wall_ms};

/// `bondgate policy`.
#[derive(Args, Clone, Debug)]
pub struct PolicyArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: PolicyCommand,
    /// Flags of all of them.
    #[command(flatten)]
    pub common: KeyringArgs,
}

/// The subcommands of `bondgate policy`.
#[derive(Clone, Debug, Subcommand)]
pub enum PolicyCommand {
    /// Says net by net what becomes of somebody at an address, and which rule decides. Exit code 0: let in; 3: not
    Test(TestArgs),
    /// Writes the policy as others read it
    Export {
        /// For whom
        #[arg(value_enum)]
        format: Format,
    },
}

/// What `bondgate policy export` writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A ruleset for `nft -f`, for hosts without XDP.
    Nft,
}

/// `bondgate policy test`.
#[derive(Args, Clone, Debug)]
pub struct TestArgs {
    /// Where somebody sends from
    #[arg(value_name = "ADDR")]
    pub addr: IpAddr,
    /// With this key, or the key of this device; without it, without a key
    #[arg(long, value_name = "KEYID|DEVICE")]
    pub key: Option<String>,
    /// To publish this stream
    #[arg(long, value_name = "NAME")]
    pub stream: Option<String>,
    /// To play it
    #[arg(long, requires = "stream")]
    pub play: bool,
    /// With this token. It is visible in the process list
    #[arg(long, value_name = "TOKEN", requires = "stream")]
    pub token: Option<String>,
    /// At which port
    #[arg(long, value_enum, default_value_t = PortChoice::Srtla)]
    pub port: PortChoice,
}

/// The ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PortChoice {
    /// Bonded links, srtla.listen.
    Srtla,
    /// SRT without bonding and players, srt.listen.
    Srt,
}

/// Does what the subcommand says.
///
/// # Errors
/// Something of the policy cannot be read, or the policy says no.
pub fn run(args: &PolicyArgs, global: &GlobalArgs) -> Result<(), Failure> {
    let inputs = Inputs::read(&args.common, global)?;
    match &args.command {
        PolicyCommand::Test(test) => self::test(test, args.common.json, &inputs),
        PolicyCommand::Export { format: Format::Nft } => print(&nft::ruleset(&inputs)?),
    }
}

/// What a policy is made of, as the daemon would read it now.
pub struct Inputs {
    /// The configuration.
    pub config: Config,
    /// The keyring, if there is one.
    pub keyring: Option<Keyring>,
    /// The bans.
    pub bans: BanList,
    /// When they were read, in milliseconds since 1970.
    pub now_ms: u64,
    /// What they make.
    pub policy: Policy,
}

impl Inputs {
    fn read(common: &KeyringArgs, global: &GlobalArgs) -> Result<Self, Failure> {
        let config = common.config(global)?;
        let keyring = KeyringFile::of(&config).map(|file| file.load()).transpose()?.flatten();
        let bans = BansFile::of(&config).map(|file| file.load()).transpose()?.unwrap_or_default();
        let now_ms = wall_ms();
        let geo = match (&config.geo.database, rules(&config.geo)) {
            (Some(path), Some(_)) => Some(Arc::new(geo::watch::load(&config.geo, path)?.1)),
            _ => None,
        };
        let policy = Policy::compile(&config)
            .with_keyring(keyring.as_ref(), now_ms)
            .with_bans(bans.compile(now_ms))
            .with_geo(geo);
        Ok(Self { config, keyring, bans, now_ms, policy })
    }

    /// The key somebody means by its ID or by a device's name; of several the newest valid one.
    fn key(&self, what: &str) -> Result<KeyId, Failure> {
        let devices = self.keyring.as_ref().map_or(&[][..], Keyring::devices);
        if let Some(device) = devices.iter().find(|device| device.name == what) {
            let valid = device.keys.iter().rev().find(|key| key.is_valid(self.now_ms));
            return valid
                .or(device.keys.last())
                .map(|key| key.id)
                .ok_or_else(|| Failure::runtime(format!("device {what} has no key")));
        }
        from_hex(what).ok_or_else(|| {
            Failure::usage(format!(
                "\"{what}\" is neither a device nor a key ID of 16 hexadecimal digits; `bondgate device list` and `bondgate \
                 key list` show them"
            ))
        })
    }
}

fn test(args: &TestArgs, as_json: bool, inputs: &Inputs) -> Result<(), Failure> {
    let port = match args.port {
        PortChoice::Srtla => Port::Srtla,
        PortChoice::Srt => Port::Srt,
    };
    if port == Port::Srt && args.key.is_some() {
        return Err(Failure::usage(
            "nobody shows a key at the SRT port: leave --key out, or ask for --port srtla",
        ));
    }
    if port == Port::Srt && inputs.config.output.mode == OutputMode::Forward {
        return Err(Failure::usage("there is no SRT port in forward mode"));
    }
    let caller = Caller {
        ip: args.addr.to_canonical(),
        port,
        key_id: args.key.as_deref().map(|what| inputs.key(what)).transpose()?,
        stream: args.stream.as_deref(),
        wish: if args.play { Wish::Play } else { Wish::Publish },
        token: args.token.as_deref(),
    };
    let steps = explain(&inputs.policy, &caller, inputs.now_ms);
    let last = steps.last().filter(|step| step.verdict != Verdict::Pass);
    let bans: Vec<Value> = inputs.bans.of(caller.ip, inputs.now_ms).into_iter().map(ban::to_json).collect();
    if as_json {
        let nets: Vec<Value> = steps.iter().map(to_json).collect();
        print(&document(&json!({
            "addr": caller.ip,
            "allowed": last.is_none(),
            "decided_by": last.map(|step| step.net),
            "nets": nets,
            "bans": bans,
        })))?;
    } else {
        let rows = steps.iter().map(|step| {
            [step.net.to_owned(), step.verdict.name().to_owned(), step.from.to_owned(), step.rule.clone()]
        });
        print(&table(["NET", "VERDICT", "FROM", "RULE"], rows))?;
        for record in inputs.bans.of(caller.ip, inputs.now_ms) {
            let note = if record.note.is_empty() { String::new() } else { format!(": {}", record.note) };
            eprintln!("ban of {} by {}{note}", record.network, record.origin.name());
        }
    }
    match last {
        None => Ok(()),
        Some(step) => Err(Failure {
            exit: Exit::Refused,
            message: format!("{} is not let in: {} ({})", caller.ip, step.rule, step.from),
        }),
    }
}

fn to_json(step: &Step) -> Value {
    json!({ "net": step.net, "verdict": step.verdict.name(), "rule": step.rule, "from": step.from })
}
