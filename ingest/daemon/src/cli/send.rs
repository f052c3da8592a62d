//! `bondgate send`: the bonding sender. An encoder sends SRT to a local port; the packets leave over several links.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bondgate_auth::keyring::{Provision, key_id_text};
use bondgate_auth::sa1::Flags;
use bondgate_io::socket::{BindOptions, bind_udp, interfaces};
use bondgate_io::{Limits, open};
use bondgate_proto::sender::{
    DEFAULT_OFFER, Refusal, RefusalCode, Registration, Sa1Config, Sa1Mode, Scheduler, Sender, SenderConfig,
    SenderDropReason, SenderNotice,
};

use super::args::{AuthChoice, SchedulerChoice, SendArgs};
use crate::control::secret_file;
use crate::control::signals::Signals;
use crate::exit::Failure;
use crate::service::{backend_choice, random};
use crate::shard::bond::{Bond, BondNotice, BondStatus, LinkSpec, registration_name, state_name, wall_clock};

/// Kernel buffer of a link: a modem's worth of a second at 20 Mb/s.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;
/// How often the state of the links is logged.
const SUMMARY_EVERY: Duration = Duration::from_secs(10);
/// How often it is said that no answer comes at all.
const SILENCE_EVERY: Duration = Duration::from_secs(15);
/// Variable with the provisioning URI.
const KEY_VARIABLE: &str = "BONDGATE_KEY";

/// Where to, and as whom.
struct Account {
    to: String,
    /// The key and how it is used; `None` registers the stock way.
    key: Option<(Provision, Sa1Mode)>,
    /// SRT packets must carry MACs.
    data_mac: bool,
}

/// Bonds until a signal asks to stop, or the receiver refuses for good.
///
/// # Errors
/// What stopped it.
pub fn run(args: &SendArgs) -> Result<(), Failure> {
    let account = account(args)?;
    bond(args, &account).map_err(|error| Failure::runtime(format!("{error:#}")))
}

/// What the arguments say about key and receiver.
fn account(args: &SendArgs) -> Result<Account, Failure> {
    let uri = match (&args.key, &args.key_file) {
        (Some(uri), _) => {
            if std::env::var(KEY_VARIABLE).is_ok_and(|value| value == *uri) {
                tracing::debug!("the key is from {KEY_VARIABLE}");
            } else {
                tracing::warn!("--key can be seen in the process list; {KEY_VARIABLE} or --key-file can not");
            }
            Some(uri.clone())
        }
        (None, Some(file)) => Some(read_key_file(file)?),
        (None, None) => None,
    };
    let provision = uri
        .map(|uri| Provision::parse(&uri).map_err(|error| Failure::usage(format!("the key: {error}"))))
        .transpose()?;
    let mode = match (args.auth, &provision) {
        (Some(AuthChoice::Require | AuthChoice::Prefer), None) => {
            return Err(Failure::usage("--auth require and --auth prefer need --key or --key-file"));
        }
        (Some(AuthChoice::Stock), _) | (None, None) => None,
        (Some(AuthChoice::Require) | None, Some(_)) => Some(Sa1Mode::Require),
        (Some(AuthChoice::Prefer), Some(_)) => Some(Sa1Mode::Prefer),
    };
    let to = match (&args.to, &provision) {
        (Some(to), Some(provision)) if *to != provision.server => {
            tracing::warn!("the key is for {}; --to {to} is used", provision.server);
            to.clone()
        }
        (Some(to), _) => to.clone(),
        (None, Some(provision)) => provision.server.clone(),
        (None, None) => return Err(Failure::usage("--to or a key must say where the receiver is")),
    };
    if args.data_mac && mode != Some(Sa1Mode::Require) {
        return Err(Failure::usage("--data-mac needs a key, and --auth require"));
    }
    if let (Some(provision), None) = (&provision, mode) {
        let device = &provision.device;
        tracing::warn!(
            device,
            "--auth stock: the key is not used, and anybody may answer in the receiver's place"
        );
    }
    Ok(Account { to, key: provision.zip(mode), data_mac: args.data_mac })
}

/// The first line of the file that is neither empty nor a comment.
fn read_key_file(file: &Path) -> Result<String, Failure> {
    let shown = file.display();
    let bytes =
        secret_file::read(file).map_err(|error| Failure::runtime(format!("--key-file: {error:#}")))?;
    let bytes = bytes.ok_or_else(|| Failure::runtime(format!("--key-file {shown}: no such file")))?;
    let text = String::from_utf8_lossy(&bytes);
    let line = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
    line.map(str::to_owned).ok_or_else(|| {
        Failure::runtime(format!("--key-file {shown}: it is empty; there must be the provisioning URI"))
    })
}

/// The state machine for this account.
fn sender(config: SenderConfig, account: &Account) -> anyhow::Result<Sender> {
    let seed = u64::from_be_bytes(random::<8>()?);
    let Some((provision, mode)) = &account.key else {
        return Ok(Sender::new(config, random::<128>()?, seed));
    };
    let required = if account.data_mac { Flags::DATA_MAC } else { Flags::NONE };
    let key = Sa1Config {
        credentials: provision.credentials(required),
        offered: DEFAULT_OFFER.with(required),
        mode: *mode,
        entropy: random::<32>()?,
        clock: wall_clock(Instant::now()),
    };
    Ok(Sender::with_key(config, seed, key))
}

fn bond(args: &SendArgs, account: &Account) -> anyhow::Result<()> {
    let signals = Signals::install().context("cannot handle signals")?;
    let receiver = resolve(&account.to)?;
    let specs = specs(args, receiver)?;
    let options = BindOptions { recv_buf: SOCKET_BUFFER_BYTES, ..BindOptions::default() };
    let local = bind_udp(args.listen, &options).with_context(|| format!("--listen {}", args.listen))?;
    let listen = local.local_addr()?;
    let limits = Limits { sockets: 256, ..Limits::default() };
    let (backend, reason) = open(backend_choice(args.backend), &limits)
        .context("no packet backend works here; try --backend mmsg")?;
    tracing::info!("backend {reason}");
    let scheduler = match args.scheduler {
        SchedulerChoice::Adaptive => Scheduler::Adaptive,
        SchedulerChoice::Stock => Scheduler::Stock,
    };
    let sender = sender(SenderConfig { scheduler, ..SenderConfig::default() }, account)?;
    let identity = match &account.key {
        Some((provision, _)) => format!(" with key {} at {}", key_id_text(&provision.key_id), account.to),
        None => String::new(),
    };
    let tell = move |notice| log(notice, &identity);
    let mut bond = Bond::new(backend, sender, local, receiver, specs, SOCKET_BUFFER_BYTES, tell)?;
    if bond.open_links(Instant::now()) == 0 {
        if !args.links.is_empty() {
            bail!(
                "none of the given links can be opened: {}; there are: {}",
                args.links.join(", "),
                known()?
            );
        }
        tracing::warn!("no interface has a usable address yet; waiting for one");
    }
    tracing::info!(listen = %listen, to = %receiver, "ready: send SRT (caller) to {listen}");

    let stop = signals.flag();
    let json = args.json;
    let mut summary_at = Instant::now() + SUMMARY_EVERY;
    let mut silence_at = Instant::now() + SILENCE_EVERY;
    let result = bond.run(&stop, |status| {
        if json {
            // Whoever read the lines may be gone; that must not stop the stream.
            let _ = super::print(&format!("{}\n", to_json(&status)));
        }
        let now = Instant::now();
        if status.up || status.counters.refusals > 0 || status.links.is_empty() {
            silence_at = now + SILENCE_EVERY;
        } else if now >= silence_at {
            silence_at = now + SILENCE_EVERY;
            let means = if account.data_mac { NO_DATA_MAC } else { silence_means(status.registration) };
            tracing::warn!("no answer from {}{means}", account.to);
        }
        if now >= summary_at {
            summary_at = now + SUMMARY_EVERY;
            summary(&status);
        }
    });
    tracing::info!("stopped");
    result.context("the packet backend failed")?;
    match bond.stopped_by() {
        Some(refusal) if !stop.load(Ordering::Relaxed) => {
            bail!("the receiver refuses for good: {}", words(refusal))
        }
        _ => Ok(()),
    }
}

fn summary(status: &BondStatus) {
    for link in &status.links {
        let s = &link.stats;
        tracing::info!(
            link = link.name,
            state = state_name(s.state),
            rate_kbps = (s.rate_bps / 1000.0) as u64,
            rtt_ms = s.rtt.map(|rtt| rtt.as_millis() as u64),
            share_percent = format!("{:.0}", s.share * 100.0),
            "link"
        );
    }
    if status.registration == Registration::Downgraded {
        tracing::warn!("DOWNGRADED: registered without the key");
    }
}

/// The same for a sender that demands MACs on SRT packets.
const NO_DATA_MAC: &str = ": is it there, does it know this key, and does it accept --data-mac (srtla.data_mac)? What does not \
                           is met with silence";

/// What may be the matter with a receiver that says nothing.
fn silence_means(registration: Registration) -> &'static str {
    match registration {
        Registration::Sa1 | Registration::Undecided => {
            ": is it there, and does it know this key? A key that is revoked or not known, and a receiver without SA1, \
             are met with silence"
        }
        Registration::Stock | Registration::Downgraded => {
            ": is it there? Receivers that demand a key are silent to those who have none"
        }
    }
}

/// A refusal as the person at the encoder should read it.
fn words(refusal: Refusal) -> String {
    let cause = match refusal.code {
        RefusalCode::KeyExpired => "this key has expired; ask for a new one",
        RefusalCode::Lockdown => "the owner of this key is locked down",
        RefusalCode::Address => "this link's address is not allowed",
        RefusalCode::Stream => "this key may not publish the stream it is for",
        RefusalCode::GroupLimit => {
            "this key is in use as often as it may be; does another bondgate send run with it?"
        }
        RefusalCode::LinkLimit => "there may be no more links",
        RefusalCode::RateLimited => "too many attempts",
        RefusalCode::Version => {
            let [low, high, ..] = refusal.detail;
            return format!("the receiver speaks versions {low} to {high} of SA1, not ours");
        }
        RefusalCode::Draining => "the receiver is about to stop",
        RefusalCode::ClockRequired => {
            "the clock of this machine is wrong by more than 90 s; set it (timedatectl set-ntp true)"
        }
    };
    match refusal.retry_after_s() {
        Some(seconds @ 1..) => format!("{cause}; next attempt in {seconds} s"),
        _ => cause.to_owned(),
    }
}

fn resolve(to: &str) -> anyhow::Result<SocketAddr> {
    to.to_socket_addrs()
        .with_context(|| format!("receiver {to}: cannot be resolved"))?
        .next()
        .with_context(|| format!("receiver {to}: has no address"))
}

/// The interfaces of this machine with their addresses, for messages.
fn known() -> anyhow::Result<String> {
    let known = interfaces().context("cannot list the network interfaces")?;
    let names: Vec<String> = known.iter().map(|i| format!("{} ({})", i.name, i.addr)).collect();
    Ok(names.join(", "))
}

/// The links the user named. A modem may be plugged in later: an unknown interface is only warned about as long as
/// another link works.
fn specs(args: &SendArgs, receiver: SocketAddr) -> anyhow::Result<Vec<LinkSpec>> {
    if args.links.is_empty() {
        return Ok(vec![LinkSpec::Auto]);
    }
    let interfaces = interfaces().context("cannot list the network interfaces")?;
    let mut specs = Vec::new();
    for text in &args.links {
        let Ok(spec) = text.parse::<LinkSpec>();
        match &spec {
            LinkSpec::Interface(name) if !interfaces.iter().any(|i| i.name == *name) => {
                tracing::warn!("--link {name}: no such interface now; it is used when it appears");
            }
            LinkSpec::Address(ip) if ip.is_ipv4() != receiver.is_ipv4() => {
                bail!("--link {ip}: the receiver {receiver} is of the other address family");
            }
            _ => {}
        }
        if specs.contains(&spec) {
            bail!("--link {text} is given twice");
        }
        specs.push(spec);
    }
    Ok(specs)
}

fn log(notice: BondNotice, identity: &str) {
    match notice {
        BondNotice::LinkAdded { name } => tracing::info!("link added: {name}"),
        BondNotice::LinkRemoved { name, reason } => tracing::warn!("link removed: {name}: {reason}"),
        BondNotice::LinkFailed { name, error } => {
            tracing::warn!("link {name} cannot be opened: {error}; tried again each second");
        }
        BondNotice::Srtla { notice, link, registration } => match notice {
            SenderNotice::Registered { .. } if registration == Registration::Sa1 => {
                tracing::info!("registered{identity} over {link}");
            }
            SenderNotice::Registered { .. } => tracing::info!("registered over {link}"),
            SenderNotice::GroupLost { .. } => {
                tracing::warn!("the receiver has forgotten us (heard over {link}); registering again");
            }
            SenderNotice::Refused { cause: None, .. } => tracing::warn!("the receiver refused {link}"),
            SenderNotice::Refused { cause: Some(refusal), .. } => {
                tracing::warn!(code = refusal.code as u8, "the receiver refused {link}: {}", words(refusal));
            }
            SenderNotice::Downgraded { .. } => tracing::warn!(
                "DOWNGRADED: the receiver does not speak SA1 (heard over {link}); registering without the key. \
                 --auth require forbids that"
            ),
            SenderNotice::KeyRetiring { .. } => {
                tracing::warn!(
                    "this key is about to be replaced: ask for the new one and start again with it"
                );
            }
            SenderNotice::LinkUp { .. } => tracing::info!("link up: {link}"),
            SenderNotice::LinkSuspect { .. } => tracing::info!("link does not answer: {link}"),
            SenderNotice::LinkLost { .. } => tracing::warn!("link lost: {link}; trying a new port"),
        },
    }
}

fn to_json(status: &BondStatus) -> serde_json::Value {
    let links: Vec<serde_json::Value> = status
        .links
        .iter()
        .map(|link| {
            let s = &link.stats;
            serde_json::json!({
                "name": link.name,
                "state": state_name(s.state),
                "rtt_ms": s.rtt.map(|rtt| rtt.as_secs_f64() * 1000.0),
                "loss": s.loss,
                "rate_bps": s.rate_bps,
                "share": s.share,
                "sent_datagrams": s.sent_packets,
                "sent_bytes": s.sent_bytes,
                "in_flight_packets": s.in_flight_packets,
                "naks": s.naks,
            })
        })
        .collect();
    serde_json::json!({
        "up": status.up,
        "registration": registration_name(status.registration),
        "downgrades": status.counters.downgrades,
        "refusals": status.counters.refusals,
        "unproven_datagrams": status.counters.dropped_for(SenderDropReason::Unproven),
        "sealed_datagrams": status.counters.sealed_sent,
        "trailer_room_datagrams": status.counters.dropped_for(SenderDropReason::TrailerRoom),
        "local_datagrams": status.local_datagrams,
        "links": links,
    })
}
