//! Scenario files: what load to offer to which receivers, and for how long.
//!
//! Promise: a file that means nothing sensible is refused with its line, its key and what to do; every key has a default that
//! `Scenario::default()` shows.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bondgate_ebpf_common::bench::SENDERS_MAX;
use serde::{Deserialize, Serialize};

use crate::compare::Targets;
use crate::frame;
use crate::receiver::SRT_LIVE_TRANSMIT;
use crate::senders::Kind as SendersKind;
use crate::topology::{Kind as TopologyKind, SinkKind};

/// What is measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// SRTLA in, SRT out: cost, loss and latency at a given rate.
    #[default]
    Forward,
    /// The same, after the highest rate without loss was searched: latency is taken at half of it.
    Search,
    /// SRT in, SRT out: `groups` publishers, each with `players`. Receivers are bondgate and `srt-live-transmit`.
    Relay,
    /// How long it takes until all links are registered, while the first groups stream.
    Storm,
}

/// How senders register.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Auth {
    /// Without a key, as BELABOX and Moblin; bondgate runs with `srtla.auth = "open"`.
    #[default]
    Stock,
    /// With a device key; bondgate runs with `srtla.auth = "required"`. For bondgate alone.
    Sa1,
}

/// Datagrams that have no business there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FloodKind {
    /// REG1 with random IDs.
    Reg1,
    /// REG2 with random IDs.
    Reg2,
    /// SRT data from addresses that never registered.
    Data,
    /// Data, REG1 and REG2 in turns.
    Mixed,
}

/// A flood beside the load.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flood {
    /// What is sent.
    pub kind: FloodKind,
    /// Datagrams per second; 0: as many as possible.
    pub rate_pps: u64,
    /// Addresses it comes from; of the generator inside the kernel up to 131072, each with any port.
    #[serde(default = "flood_sources")]
    pub sources: u32,
}

fn flood_sources() -> u32 {
    64
}

/// A receiver to be measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receiver {
    /// Its name in the report.
    pub name: String,
    /// `bondgate`, `baseline`, or a command with `{listen}` and `{target}` (both `host:port`; `{listen_port}`,
    /// `{target_host}` and `{target_port}` are there too).
    #[serde(default = "bondgate")]
    pub program: String,
    /// bondgate: `runtime.backend`.
    #[serde(default = "auto")]
    pub backend: String,
    /// bondgate: `runtime.shards`.
    #[serde(default = "one")]
    pub shards: u32,
    /// bondgate: more of its configuration, as `section.key=value`.
    #[serde(default)]
    pub set: Vec<String>,
    /// bondgate: with the gate in the driver of its device, which lets the links' addresses in (veth only).
    #[serde(default)]
    pub gate: bool,
    /// It gets the scenario's flood, too.
    #[serde(default = "yes")]
    pub flooded: bool,
}

fn yes() -> bool {
    true
}

fn bondgate() -> String {
    "bondgate".into()
}

fn auto() -> String {
    "auto".into()
}

fn one() -> u32 {
    1
}

impl Receiver {
    /// bondgate as it is by default.
    pub fn bondgate() -> Self {
        Self {
            name: bondgate(),
            program: bondgate(),
            backend: auto(),
            shards: 1,
            set: Vec::new(),
            gate: false,
            flooded: true,
        }
    }

    /// The built-in baseline.
    pub fn baseline() -> Self {
        Self { name: "baseline".into(), program: "baseline".into(), ..Self::bondgate() }
    }

    /// Somebody else's receiver.
    ///
    /// # Errors
    /// When the command does not say where to put the addresses.
    pub fn peer(command: &str) -> Result<Self> {
        let name = command.split_whitespace().next().unwrap_or_default();
        let name =
            Path::new(name).file_name().map_or(name.into(), |name| name.to_string_lossy().into_owned());
        let receiver = Self { name, program: command.to_owned(), ..Self::bondgate() };
        receiver.check()?;
        Ok(receiver)
    }

    fn check(&self) -> Result<()> {
        let is_builtin = matches!(self.program.as_str(), "bondgate" | "baseline" | SRT_LIVE_TRANSMIT);
        let has = |any: [&str; 2]| any.iter().any(|word| self.program.contains(word));
        let says_where = has(["{listen}", "{listen_port}"]) && has(["{target}", "{target_host}"]);
        if !is_builtin && !says_where {
            bail!(
                "the command {:?} must contain {{listen}} and {{target}} (or {{listen_port}}, {{target_host}} and {{target_port}})",
                self.program
            );
        }
        if !matches!(self.backend.as_str(), "auto" | "uring" | "mmsg") {
            bail!("backend {:?} is none of auto, uring, mmsg", self.backend);
        }
        if self.gate && self.program != "bondgate" {
            bail!("it has no gate that could be switched on here");
        }
        if !(1..=64).contains(&self.shards) {
            bail!("shards = {} is not 1 to 64", self.shards);
        }
        Ok(())
    }
}

/// A scenario. The fields are the keys of the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Scenario {
    /// Its name in the report.
    pub name: String,
    /// One sentence for people.
    pub about: String,
    /// What is measured.
    pub kind: Kind,
    /// Where it takes place.
    pub topology: TopologyKind,
    /// What becomes of what is forwarded.
    pub sink: SinkKind,
    /// The path to the server takes segmentation off the receiver's hands.
    pub egress_gso: bool,
    /// How links send.
    pub senders: SendersKind,
    /// Measures a quarter of the groups first, to tell what memory grows by with each.
    pub memory_growth: bool,
    /// How senders register.
    pub auth: Auth,
    /// Groups.
    pub groups: u32,
    /// Links of each.
    pub links: u32,
    /// Players of each stream (relay).
    pub players: u32,
    /// The first so many groups carry data, the others keep still; 0: all.
    pub active_groups: u32,
    /// Datagrams per second over all groups; 0: as many as the generator can.
    pub rate_pps: u64,
    /// Datagrams in a row on one link, before the next group's turn.
    pub burst: u32,
    /// Length of a datagram.
    pub datagram_bytes: u32,
    /// Datagrams lost on purpose before the receiver, per cent.
    pub loss_percent: f64,
    /// Datagrams sent on a second link as well, per cent.
    pub duplicate_percent: f64,
    /// Interval of the server's SRT ACKs per group, in ms; 0: none.
    pub srt_ack_ms: u32,
    /// Interval of each link's keepalives, in ms; 0: none.
    pub keepalive_ms: u32,
    /// Registration packets per second at most; 0: no limit.
    pub registrations_per_s: u32,
    /// Time before the measurement, in ms.
    pub warm_up_ms: u32,
    /// Length of the measurement, in ms.
    pub measure_ms: u32,
    /// Interleaved rounds.
    pub rounds: u32,
    /// Bounds of a search, in datagrams per second.
    pub search_pps: [u64; 2],
    /// How many times cheaper the first receiver is to be than each other, in processor time per datagram.
    pub cost_ratio_min: Option<f64>,
    /// How many times as long as with each other the 99th percentile of latency may be with the first receiver.
    pub p99_ratio_max: Option<f64>,
    /// How many datagrams the first receiver may lose in a round.
    pub lost_max: Option<u64>,
    /// A flood beside it.
    pub flood: Option<Flood>,
    /// The receivers, measured in turns. The first is compared with each of the others.
    #[serde(rename = "receiver")]
    pub receivers: Vec<Receiver>,
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            name: String::new(),
            about: String::new(),
            kind: Kind::Forward,
            topology: TopologyKind::Auto,
            sink: SinkKind::Count,
            egress_gso: true,
            senders: SendersKind::Sockets,
            memory_growth: false,
            auth: Auth::Stock,
            groups: 1,
            links: 3,
            players: 0,
            active_groups: 0,
            rate_pps: 2000,
            burst: 1,
            datagram_bytes: frame::LEN_USUAL as u32,
            loss_percent: 0.0,
            duplicate_percent: 0.0,
            srt_ack_ms: 10,
            keepalive_ms: 1000,
            registrations_per_s: 1500,
            warm_up_ms: 500,
            measure_ms: 3000,
            rounds: 3,
            search_pps: [10_000, 1_000_000],
            cost_ratio_min: None,
            p99_ratio_max: None,
            lost_max: None,
            flood: None,
            receivers: vec![Receiver::bondgate(), Receiver::baseline()],
        }
    }
}

/// A scenario file that cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub struct ScenarioError {
    file: PathBuf,
    line: Option<usize>,
    text: String,
}

impl fmt::Display for ScenarioError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        write!(f, ": {}", self.text)
    }
}

impl std::error::Error for ScenarioError {}

impl Scenario {
    /// Reads a scenario from a file, or a built-in one by its name.
    ///
    /// # Errors
    /// [`ScenarioError`], or that there is no such file or name.
    pub fn load(name: &str) -> Result<Self> {
        let path = Path::new(name);
        if let Some((_, text)) = BUILT_IN.iter().find(|(known, _)| *known == name) {
            return Ok(Self::parse(&path.with_extension("toml"), text)?);
        }
        let text = std::fs::read_to_string(path).with_context(|| {
            let names: Vec<&str> = BUILT_IN.iter().map(|(name, _)| *name).collect();
            format!("cannot read the scenario {name}; built in are: {}", names.join(", "))
        })?;
        Ok(Self::parse(path, &text)?)
    }

    /// Reads a scenario from text; `file` is for messages.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn parse(file: &Path, text: &str) -> Result<Self, ScenarioError> {
        let fail = |line, text| ScenarioError { file: file.to_owned(), line, text };
        let mut scenario: Self = toml::from_str(text).map_err(|error| {
            let line = error.span().map(|span| line_at(text, span.start));
            let key = line.and_then(|line| key_of(text, line)).unwrap_or_default();
            let message = error.message().to_owned();
            let named = key.is_empty() || message.contains(&format!("`{key}`"));
            fail(line, if named { message } else { format!("{key}: {message}") })
        })?;
        if scenario.name.is_empty() {
            scenario.name =
                file.file_stem().map_or_else(|| "unnamed".into(), |stem| stem.to_string_lossy().into_owned());
        }
        match scenario.problem() {
            None => Ok(scenario),
            Some((key, why)) => Err(fail(line_of(text, key), format!("{key}: {why}"))),
        }
    }

    /// Fails when the scenario makes no sense, as after a change to it.
    ///
    /// # Errors
    /// The key, and why.
    pub fn check(&self) -> Result<()> {
        self.problem().map_or(Ok(()), |(key, why)| bail!("{key}: {why}"))
    }

    /// The first key that makes no sense, and why.
    fn problem(&self) -> Option<(&'static str, String)> {
        let range = |key, value: u64, from: u64, to: u64| {
            (!(from..=to).contains(&value)).then(|| (key, format!("{value} is not {from} to {to}")))
        };
        let percent = |key, value: f64| {
            (!(0.0..=90.0).contains(&value)).then(|| (key, format!("{value} is not 0 to 90")))
        };
        let lengths = (frame::LEN_MIN as u64, frame::LEN_MAX as u64);
        let [low, high] = self.search_pps;
        let problem = range("groups", self.groups.into(), 1, 50_000)
            .or_else(|| range("links", self.links.into(), 1, 64))
            .or_else(|| {
                let links = u64::from(self.groups) * u64::from(self.links);
                (links > 200_000).then(|| ("links", format!("{links} links in all are more than 200000")))
            })
            .or_else(|| range("active_groups", self.active_groups.into(), 0, self.groups.into()))
            .or_else(|| range("players", self.players.into(), 0, 1000))
            .or_else(|| range("rate_pps", self.rate_pps, 0, 10_000_000))
            .or_else(|| range("burst", self.burst.into(), 1, 64))
            .or_else(|| range("datagram_bytes", self.datagram_bytes.into(), lengths.0, lengths.1))
            .or_else(|| percent("loss_percent", self.loss_percent))
            .or_else(|| percent("duplicate_percent", self.duplicate_percent))
            .or_else(|| range("srt_ack_ms", self.srt_ack_ms.into(), 0, 10_000))
            .or_else(|| range("warm_up_ms", self.warm_up_ms.into(), 0, 60_000))
            .or_else(|| range("measure_ms", self.measure_ms.into(), 50, 600_000))
            .or_else(|| range("rounds", self.rounds.into(), 1, 100))
            .or_else(|| {
                let bad = low == 0 || low >= high || high > 10_000_000;
                bad.then(|| ("search_pps", format!("[{low}, {high}] must rise, from 1 to 10000000")))
            });
        if problem.is_some() {
            return problem;
        }
        if self.sink == SinkKind::Null {
            if self.topology == TopologyKind::Loopback {
                return Some(("sink", "\"null\" needs topology = \"veth\"".into()));
            }
            if self.p99_ratio_max.is_some() || self.lost_max.is_some() {
                return Some(("sink", "\"count\" is needed to tell latency and loss".into()));
            }
            if self.kind == Kind::Search {
                return Some(("sink", "a search needs \"count\": loss is counted one by one".into()));
            }
        }
        if self.memory_growth && self.groups < 4 {
            return Some(("memory_growth", "a quarter of the groups must be one at least".into()));
        }
        if self.senders != SendersKind::Sockets && self.topology != TopologyKind::Veth {
            return Some(("senders", "\"raw\" and \"bpf\" need topology = \"veth\"".into()));
        }
        if self.senders == SendersKind::Bpf
            && let Some(problem) = self.bpf_problem()
        {
            return Some(problem);
        }
        if self.topology != TopologyKind::Veth && self.receivers.iter().any(|receiver| receiver.gate) {
            return Some(("receiver", "a gate needs topology = \"veth\"".into()));
        }
        if self.receivers.is_empty() {
            return Some(("receiver", "name at least one".into()));
        }
        for (index, receiver) in self.receivers.iter().enumerate() {
            if (self.kind == Kind::Relay) != (receiver.program == SRT_LIVE_TRANSMIT)
                && receiver.program != "bondgate"
            {
                return Some(("receiver", format!("{} cannot do kind = {:?}", receiver.name, self.kind)));
            }
            if receiver.program == SRT_LIVE_TRANSMIT && self.players > 0 {
                return Some(("players", "srt-live-transmit serves none here; set 0".into()));
            }
            if let Err(error) = receiver.check() {
                return Some(("receiver", format!("{}: {error}", receiver.name)));
            }
            if self.auth == Auth::Sa1 && receiver.program != "bondgate" {
                return Some(("auth", format!("{} knows no device keys; use \"stock\"", receiver.name)));
            }
            if self.receivers.iter().take(index).any(|other| other.name == receiver.name) {
                return Some(("receiver", format!("two are called {:?}", receiver.name)));
            }
        }
        None
    }

    /// The first key that the generator inside the kernel can do nothing with.
    fn bpf_problem(&self) -> Option<(&'static str, String)> {
        let limit = |key, holds: bool, why: &str| (!holds).then(|| (key, format!("senders = \"bpf\" {why}")));
        limit("kind", matches!(self.kind, Kind::Forward | Kind::Search), "does forward and search only")
            .or_else(|| limit("loss_percent", self.loss_percent == 0.0, "loses nothing on purpose; set 0"))
            .or_else(|| limit("duplicate_percent", self.duplicate_percent == 0.0, "sends no copies; set 0"))
            .or_else(|| {
                limit("datagram_bytes", self.datagram_bytes.is_multiple_of(2), "wants an even length")
            })
            .or_else(|| {
                let links = u64::from(self.groups) * u64::from(self.links);
                limit("links", links <= u64::from(SENDERS_MAX), "has room for 65536 links")
            })
            .or_else(|| {
                let starves = self.flood.is_some() && self.rate_pps == 0;
                limit("rate_pps", !starves, "has no time for a flood beside a load without limit; set a rate")
            })
    }

    /// What is to be reached.
    pub fn targets(&self) -> Targets {
        Targets {
            cost_ratio_min: self.cost_ratio_min,
            p99_ratio_max: self.p99_ratio_max,
            lost_max: self.lost_max,
        }
    }

    /// Groups that carry data.
    pub fn groups_active(&self) -> u32 {
        if self.active_groups == 0 { self.groups } else { self.active_groups }
    }

    /// Length of the warm-up.
    pub fn warm_up(&self) -> Duration {
        Duration::from_millis(self.warm_up_ms.into())
    }

    /// Length of the measurement.
    pub fn measure(&self) -> Duration {
        Duration::from_millis(self.measure_ms.into())
    }

    /// Names of all built-in scenarios.
    pub fn built_in() -> impl Iterator<Item = &'static str> {
        BUILT_IN.iter().map(|(name, _)| *name)
    }
}

/// The line, from 1, of a byte in a text.
fn line_at(text: &str, at: usize) -> usize {
    text.get(..at).map_or(1, |before| before.matches('\n').count() + 1)
}

/// The first line that sets a key or opens a table of that name.
fn line_of(text: &str, key: &str) -> Option<usize> {
    let sets = |line: &str| {
        let line = line.trim_start_matches(['[', ' ']);
        line.strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with(['=', ']']))
    };
    text.lines().position(sets).map(|index| index + 1)
}

/// The key that a line sets.
fn key_of(text: &str, line: usize) -> Option<String> {
    let (key, _) = text.lines().nth(line.checked_sub(1)?)?.split_once('=')?;
    Some(key.trim().to_owned())
}

macro_rules! built_in {
    ($($name:literal),* $(,)?) => {
        /// The scenarios of this directory, built in.
        const BUILT_IN: &[(&str, &str)] =
            &[$(($name, include_str!(concat!("../scenarios/", $name, ".toml")))),*];
    };
}

built_in!(
    "canonical",
    "fat",
    "many-groups",
    "wide",
    "many-links",
    "growth",
    "idle",
    "part-load",
    "part-load-one",
    "small-packets",
    "lossy-bond",
    "reg-storm",
    "reg-flood",
    "unlisted-flood",
    "backends",
    "shards",
    "steering",
    "sa1",
    "relay-publishers",
    "relay-players",
    "smoke",
);

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        Scenario::parse(Path::new("x.toml"), text).unwrap_err().to_string()
    }

    #[test]
    fn built_in_scenarios_are_good() {
        for name in Scenario::built_in() {
            let scenario = Scenario::load(name).unwrap_or_else(|error| panic!("{name}: {error:#}"));
            assert_eq!(scenario.name, name);
            assert!(scenario.about.len() > 20, "{name} says what it is about");
        }
        let on_disk = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios")).unwrap().count();
        assert_eq!(on_disk, BUILT_IN.len(), "every file is built in");
    }

    #[test]
    fn mistakes_are_told_with_line_and_key() {
        assert_eq!(
            error("groups = 4\nlonks = 3\n").split(", expected").next().unwrap(),
            "x.toml:2: unknown field `lonks`"
        );
        assert_eq!(error("\n\ngroups = 0\n"), "x.toml:3: groups: 0 is not 1 to 50000");
        assert!(
            error("links = \"many\"\n").starts_with("x.toml:1: links: invalid type"),
            "{}",
            error("links = \"many\"\n")
        );
        assert_eq!(error("groups = 2\nactive_groups = 3"), "x.toml:2: active_groups: 3 is not 0 to 2");
        assert!(error("search_pps = [9, 3]").starts_with("x.toml:1: search_pps: [9, 3] must rise"));
        assert!(error("sink = \"null\"\nkind = \"search\"\n").starts_with("x.toml:1: sink: a search"));
        assert!(error("auth = \"sa1\"").contains("auth: baseline knows no device keys"));
        assert!(error("a = [").starts_with("x.toml:1: "));
        let flood = "rate_pps = 1\n[flood]\nkind = \"reg3\"\nrate_pps = 5\n";
        assert!(error(flood).starts_with("x.toml:3: kind: unknown variant"), "{}", error(flood));
        let peer = "[[receiver]]\nname = \"a\"\nprogram = \"rec {listen}\"\n";
        assert!(error(peer).starts_with("x.toml:1: receiver: a: the command"), "{}", error(peer));
    }

    #[test]
    fn peers() {
        let peer = Receiver::peer("/usr/bin/srtla_rec {listen_port} {target_host} {target_port}").unwrap();
        assert_eq!(peer.name, "srtla_rec");
        assert!(Receiver::peer("srtla_rec").unwrap_err().to_string().contains("{listen}"));
    }
}
