//! `bondgate ban`: keeps addresses and networks out, and says whom.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};
use bondgate_auth::cidr::Cidr;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::args::GlobalArgs;
use super::keyring_args::{self, KeyringArgs, Ttl};
use super::present::{document, table, utc};
use super::{admin, print};
use crate::config::Config;
use crate::control::bans::{BanList, BansFile, Origin, Record, text};
use crate::exit::Failure;
use crate::policy::wall_ms;

/// Said after every change.
const TAKEN_UP: &str = "a running bondgate takes it up within 0.1 s";
/// How long a running daemon may take to say whom a ban concerns.
const ASK_WITHIN: Duration = Duration::from_secs(1);

/// `bondgate ban`.
#[derive(Args, Clone, Debug)]
pub struct BanArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: BanCommand,
    /// Flags of all of them.
    #[command(flatten)]
    pub common: KeyringArgs,
}

/// The subcommands of `bondgate ban`.
#[derive(Clone, Debug, Subcommand)]
pub enum BanCommand {
    /// Keeps an address or a network out: nothing from there is answered, and what is up ends, whatever key it holds
    Add(AddArgs),
    /// Ends bans on an address or a network
    Del {
        /// The address or network, exactly as it was banned
        #[arg(value_name = "ADDR|CIDR", value_parser = network)]
        network: Cidr,
        /// It is no failure if it is not banned
        #[arg(long)]
        missing_ok: bool,
    },
    /// Lists the bans in force
    List {
        /// Only those that concern this address
        #[arg(value_name = "ADDR")]
        addr: Option<std::net::IpAddr>,
    },
    /// Adds the bans of a file: what `export` wrote, or one address or network per line
    Import {
        /// The file; - is stdin
        file: PathBuf,
        /// Says what would be done, and does nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Prints the bans in force
    Export {
        /// How they are written
        #[arg(long, value_enum, default_value_t = Format::Json)]
        format: Format,
    },
}

/// `bondgate ban add`.
#[derive(Args, Clone, Debug)]
pub struct AddArgs {
    /// An address or a network
    #[arg(value_name = "ADDR|CIDR", value_parser = network)]
    pub network: Cidr,
    /// For so long: 45s, 90m, 24h, 30d, or a number of seconds; without it, and with never or -1, until it is deleted
    #[arg(long = "for", value_name = "TIME", value_parser = term, default_value = "never", hide_default_value = true, allow_hyphen_values = true)]
    pub term: Ttl,
    /// Why, for those who read the list
    #[arg(long, value_name = "TEXT", default_value = "", value_parser = note)]
    pub reason: String,
    /// Even if it is everybody
    #[arg(long)]
    pub force: bool,
}

/// What `bondgate ban export` writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// What `bondgate ban import` reads.
    Json,
    /// Commands for fail2ban: one `fail2ban-client set bondgate banip` per address.
    Fail2ban,
    /// Two nftables sets of elements, `bondgate_bans4` and `bondgate_bans6`.
    NftSet,
}

fn network(text: &str) -> Result<Cidr, String> {
    keyring_args::network(text)
}

/// As [`keyring_args::duration`], and what fail2ban says: plain seconds, and -1 for ever.
fn term(text: &str) -> Result<Ttl, String> {
    let time = match (text, text.parse()) {
        ("never" | "-1", _) => return Ok(Ttl::Never),
        (_, Ok(seconds)) => Duration::from_secs(seconds),
        (_, Err(_)) => keyring_args::duration(text)?,
    };
    if time.is_zero() { Err("a ban for no time bans nobody".to_owned()) } else { Ok(Ttl::Of(time)) }
}

fn note(note: &str) -> Result<String, String> {
    text::check_note(note).map(|()| note.to_owned())
}

/// Does what the subcommand says.
///
/// # Errors
/// The bans cannot be read or written, or there is something wrong with what is asked for.
pub fn run(args: &BanArgs, global: &GlobalArgs) -> Result<(), Failure> {
    let (config, file) = open(&args.common, global)?;
    match &args.command {
        BanCommand::Add(add) => self::add(add, &config, &file),
        BanCommand::Del { network, missing_ok } => del(*network, *missing_ok, &file),
        BanCommand::List { addr } => list(*addr, args.common.json, &file),
        BanCommand::Import { file: from, dry_run } => import(from, *dry_run, &file),
        BanCommand::Export { format } => export(*format, &file),
    }
}

/// The configuration, and the bans it names.
///
/// # Errors
/// An invalid configuration, or no state directory.
pub fn open(common: &KeyringArgs, global: &GlobalArgs) -> Result<(Config, BansFile), Failure> {
    let config = common.config(global)?;
    let file = BansFile::of(&config).ok_or_else(|| {
        Failure::config(
            "runtime.state_dir is off, so there is no place for bans; write [runtime] state_dir = \
             \"/var/lib/bondgate\" into the configuration, or give --state-dir DIRECTORY",
        )
    })?;
    Ok((config, file))
}

fn add(args: &AddArgs, config: &Config, file: &BansFile) -> Result<(), Failure> {
    let shown = text::network(args.network);
    if args.network.prefix == 0 && !args.force {
        return Err(Failure::usage(format!(
            "{shown} is everybody: every link and every player would be cut. If that is meant: --force"
        )));
    }
    for warning in covers(args.network, config) {
        eprintln!("warning: {warning}");
    }
    let now_ms = wall_ms();
    let until_ms = match args.term {
        Ttl::Never => None,
        Ttl::Of(time) => Some(now_ms.saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))),
    };
    let record = Record {
        network: args.network,
        until_ms,
        since_ms: now_ms,
        origin: Origin::Operator,
        times: 0,
        note: args.reason.clone(),
    };
    let quiet_ms = config.bans.max_s.saturating_mul(1000);
    let before = file.update(|list| {
        list.prune(now_ms, quiet_ms);
        Ok(list.put(record)?)
    })?;
    let until = end(until_ms);
    let was = before.map_or_else(String::new, |before| format!(" (it was {})", end(before.until_ms)));
    eprintln!("{shown} is banned {until}{was}; {TAKEN_UP}");
    Ok(())
}

fn end(until_ms: Option<u64>) -> String {
    until_ms.map_or_else(|| "until it is deleted".to_owned(), |ms| format!("until {} UTC", utc(ms)))
}

/// Whom a ban would hit that it is perhaps not meant for.
fn covers(network: Cidr, config: &Config) -> Vec<String> {
    let shown = text::network(network);
    let mut warnings = Vec::new();
    for (key, listed) in
        [("srtla.allow", &config.srtla.allow), ("srtla.stock_allow", &config.srtla.stock_allow)]
    {
        for allowed in listed {
            if overlap(network, *allowed) {
                warnings.push(format!("{shown} and {key} = {allowed} overlap; the ban wins"));
            }
        }
    }
    match live(network, config) {
        Some((0, _)) | None => {}
        Some((links, streams)) => {
            let of = if streams.is_empty() { String::new() } else { format!(" of {}", streams.join(", ")) };
            let s = if links == 1 { "link" } else { "links" };
            warnings.push(format!("{links} live {s}{of} will be cut"));
        }
    }
    warnings
}

fn overlap(a: Cidr, b: Cidr) -> bool {
    a.contains(b.addr) && a.prefix <= b.prefix || b.contains(a.addr) && b.prefix <= a.prefix
}

/// Live links in a network and their streams, as a running daemon tells; `None` when none answers.
fn live(network: Cidr, config: &Config) -> Option<(u64, Vec<String>)> {
    let admin = config.admin.listen?;
    let path = format!("/links-in/{}/{}", network.addr, network.prefix);
    let (status, body) = admin::ask(admin, "GET", &path, ASK_WITHIN).ok()?;
    if status != 200 {
        return None;
    }
    let found: Value = serde_json::from_str(&body).ok()?;
    let streams = found["streams"].as_array()?.iter().filter_map(|name| Some(name.as_str()?.to_owned()));
    Some((found["links"].as_u64()?, streams.collect()))
}

fn del(network: Cidr, missing_ok: bool, file: &BansFile) -> Result<(), Failure> {
    let shown = text::network(network);
    let (removed, around) = file.update(|list| {
        let removed = list.remove(network);
        Ok((
            removed,
            list.of(network.addr, wall_ms()).iter().map(|record| record.network).collect::<Vec<_>>(),
        ))
    })?;
    let around: Vec<String> =
        around.into_iter().filter(|outer| outer.prefix <= network.prefix).map(text::network).collect();
    if removed.is_empty() && missing_ok {
        return Ok(());
    }
    if removed.is_empty() {
        let why = match around.first() {
            Some(outer) => {
                format!("{shown} is not banned by itself, but {outer} is (bondgate ban del {outer})")
            }
            None => format!("{shown} is not banned; `bondgate ban list` shows what is"),
        };
        return Err(Failure::runtime(why));
    }
    eprintln!("{shown} is not banned any more; {TAKEN_UP}");
    if let Some(outer) = around.first() {
        eprintln!("warning: it still is as part of {outer}");
    }
    Ok(())
}

/// The bans in force, of an address or all.
fn in_force(list: &BanList, addr: Option<std::net::IpAddr>, now_ms: u64) -> Vec<&Record> {
    match addr {
        Some(addr) => list.of(addr, now_ms),
        None => list.iter().filter(|record| record.is_in_force(now_ms)).collect(),
    }
}

/// A ban for machines.
pub fn to_json(record: &Record) -> Value {
    json!({
        "network": text::network(record.network),
        "until_ms": record.until_ms,
        "since_ms": record.since_ms,
        "origin": record.origin.name(),
        "times": record.times,
        "note": record.note,
    })
}

fn list(addr: Option<std::net::IpAddr>, as_json: bool, file: &BansFile) -> Result<(), Failure> {
    let list = file.load()?;
    let bans = in_force(&list, addr, wall_ms());
    if as_json {
        let bans: Vec<Value> = bans.into_iter().map(to_json).collect();
        return print(&document(&json!({ "bans": bans })));
    }
    if bans.is_empty() {
        eprintln!("nobody is banned{}", addr.map_or_else(String::new, |addr| format!(" at {addr}")));
    }
    let rows = bans.into_iter().map(|record| {
        [
            text::network(record.network),
            record.until_ms.map_or_else(|| "never".to_owned(), utc),
            record.origin.name().to_owned(),
            utc(record.since_ms),
            record.note.clone(),
        ]
    });
    print(&table(["NETWORK", "ENDS (UTC)", "BY", "SINCE (UTC)", "REASON"], rows))
}

fn import(from: &Path, dry_run: bool, file: &BansFile) -> Result<(), Failure> {
    let shown = from.display();
    let text = if from.as_os_str() == "-" {
        std::io::read_to_string(std::io::stdin()).context("cannot read stdin")?
    } else {
        std::fs::read_to_string(from).with_context(|| format!("cannot read {shown}"))?
    };
    let now_ms = wall_ms();
    let merge = |list: &mut BanList| {
        text::import(list, &text, now_ms)
            .map_err(|why| anyhow!("{shown} is not imported, and nothing has changed:\n  {why}"))
    };
    let (new, changed) = if dry_run { merge(&mut file.load()?)? } else { file.update(merge)? };
    let done = if dry_run { "would be" } else { "are" };
    eprintln!(
        "{new} bans {done} new, {changed} changed{}",
        if dry_run { String::new() } else { format!("; {TAKEN_UP}") }
    );
    Ok(())
}

fn export(format: Format, file: &BansFile) -> Result<(), Failure> {
    let list = file.load()?;
    let now_ms = wall_ms();
    let bans = in_force(&list, None, now_ms);
    print(&match format {
        Format::Json => text::write(bans),
        Format::Fail2ban => bans.iter().fold(String::new(), |mut text, record| {
            let _ = writeln!(text, "fail2ban-client set bondgate banip {}", text::network(record.network));
            text
        }),
        Format::NftSet => nft_sets(&bans),
    })
}

/// Two sets for `nft -f`. A ban for failures, which spares devices, is not in them: nftables cannot tell who has a key.
fn nft_sets(bans: &[&Record]) -> String {
    let mut text = String::new();
    for (set, kind, is_v4) in [("bondgate_bans4", "ipv4_addr", true), ("bondgate_bans6", "ipv6_addr", false)]
    {
        let elements: Vec<String> = bans
            .iter()
            .filter(|record| record.network.addr.is_ipv4() == is_v4 && record.origin != Origin::Failures)
            .map(|record| text::network(record.network))
            .collect();
        let _ = write!(text, "set {set} {{\n    type {kind}\n    flags interval\n    auto-merge\n");
        if !elements.is_empty() {
            let _ = writeln!(text, "    elements = {{ {} }}", elements.join(",\n        "));
        }
        text.push_str("}\n");
    }
    text
}
