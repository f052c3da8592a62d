//! `bondgate send`: the bonding sender. An encoder sends SRT to a local port; the packets leave over several links.

use std::net::{SocketAddr, ToSocketAddrs};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bondgate_io::socket::{BindOptions, bind_udp, interfaces};
use bondgate_io::{Limits, open};
use bondgate_proto::sender::{Scheduler, Sender, SenderConfig, SenderNotice};

use super::args::{SchedulerChoice, SendArgs};
use crate::control::signals::Signals;
use crate::exit::Failure;
use crate::service::{backend_choice, random};
use crate::shard::bond::{Bond, BondNotice, BondStatus, LinkSpec, state_name};

/// Kernel buffer of a link: a modem's worth of a second at 20 Mb/s.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;
/// How often the state of the links is logged.
const SUMMARY_EVERY: Duration = Duration::from_secs(10);

/// Bonds until a signal asks to stop.
///
/// # Errors
/// What stopped it.
pub fn run(args: &SendArgs) -> Result<(), Failure> {
    bond(args).map_err(|error| Failure::runtime(format!("{error:#}")))
}

fn bond(args: &SendArgs) -> anyhow::Result<()> {
    let signals = Signals::install().context("cannot handle signals")?;
    let receiver = resolve(&args.to)?;
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
    let config = SenderConfig { scheduler, ..SenderConfig::default() };
    let sender = Sender::new(config, random::<128>()?, u64::from_be_bytes(random::<8>()?));
    let mut bond = Bond::new(backend, sender, local, receiver, specs, SOCKET_BUFFER_BYTES, log)?;
    if bond.open_links(Instant::now()) == 0 {
        if !args.auto {
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
    let result = bond.run(&stop, |status| {
        if json {
            // Whoever read the lines may be gone; that must not stop the stream.
            let _ = super::print(&format!("{}\n", to_json(&status)));
        }
        if Instant::now() >= summary_at {
            summary_at = Instant::now() + SUMMARY_EVERY;
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
        }
    });
    tracing::info!("stopped");
    result.context("the packet backend failed")
}

fn resolve(to: &str) -> anyhow::Result<SocketAddr> {
    to.to_socket_addrs()
        .with_context(|| format!("--to {to}: cannot be resolved"))?
        .next()
        .with_context(|| format!("--to {to}: has no address"))
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
    if args.auto {
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

fn log(notice: BondNotice) {
    match notice {
        BondNotice::LinkAdded { name } => tracing::info!("link added: {name}"),
        BondNotice::LinkRemoved { name, reason } => tracing::warn!("link removed: {name}: {reason}"),
        BondNotice::LinkFailed { name, error } => {
            tracing::warn!("link {name} cannot be opened: {error}; tried again each second");
        }
        BondNotice::Srtla { notice, link } => match notice {
            SenderNotice::Registered { .. } => tracing::info!("registered over {link}"),
            SenderNotice::GroupLost { .. } => {
                tracing::warn!("the receiver has forgotten us (heard over {link}); registering again");
            }
            SenderNotice::Refused { .. } => tracing::warn!("the receiver refused {link}"),
            SenderNotice::Downgraded { .. } => {
                tracing::warn!("DOWNGRADED: the receiver does not speak SA1; registered without a key");
            }
            SenderNotice::KeyRetiring { .. } => tracing::warn!("the key is about to be replaced"),
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
    serde_json::json!({ "up": status.up, "local_datagrams": status.local_datagrams, "links": links })
}
