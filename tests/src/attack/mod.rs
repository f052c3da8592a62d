//! What attackers have, and the ground they fight on.
//!
//! * [`Arena`]: a receiver's host, and around it hosts that can send from any address and are reached at their own.
//! * [`wire`]: datagrams from forged sources, and ears that count what really comes out of a cable.
//! * [`client`]: registration by hand, with a key and without, packet by packet.
//! * [`core`]: the receiver alone, on a virtual clock.
//!
//! Promise: everything stays within namespaces that end with the test; every flood has a bound in time or number.

pub mod client;
pub mod core;
pub mod wire;

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::bondgate::{self, Auth, Settings};
use crate::ledger;
use crate::media::{self, Feed, Recorder};
use crate::netns::{Namespace, ip};
use crate::process::Process;
use crate::scene::Scene;

/// The receiver's address.
pub const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 78, 255, 1);
/// Where links arrive.
pub const SRTLA_PORT: u16 = 5000;
/// Where players call.
pub const SRT_PORT: u16 = 9710;
/// Bit rate of the stream that is not to be hurt.
pub const RATE_BPS: u64 = 3_000_000;

/// A receiver's host with four others around it, each on a cable of its own: an encoder, an attacker, a victim and a
/// bystander. Whatever the receiver sends to addresses that are nobody's goes to the attacker's cable, where it is counted and
/// thrown away. No host looks at whether a source address can be right, as much of the Internet does not.
#[derive(Debug)]
pub struct Arena {
    /// Where `bondgate run` is.
    pub receiver: Namespace,
    /// An honest sender.
    pub encoder: Namespace,
    /// The one who forges.
    pub attacker: Namespace,
    /// The one in whose name it is done.
    pub victim: Namespace,
    /// Somebody else.
    pub bystander: Namespace,
}

/// The address of the encoder's, attacker's, victim's or bystander's host: 0 to 3. Each also has the one after it.
pub const fn host(index: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 78, index, 2)
}

/// The second address of a host.
pub const fn second(index: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 78, index, 3)
}

/// Indices for [`host`].
pub const ENCODER: u8 = 0;
/// See [`ENCODER`].
pub const ATTACKER: u8 = 1;
/// See [`ENCODER`].
pub const VICTIM: u8 = 2;
/// See [`ENCODER`].
pub const BYSTANDER: u8 = 3;

/// The receiver's address of links.
pub const fn srtla() -> SocketAddrV4 {
    SocketAddrV4::new(SERVICE, SRTLA_PORT)
}

impl Arena {
    /// Makes the hosts and the cables.
    ///
    /// # Errors
    /// When the kernel or the rights do not allow it.
    pub fn new() -> Result<Self> {
        let arena = Self {
            receiver: Namespace::new()?,
            encoder: Namespace::new()?,
            attacker: Namespace::new()?,
            victim: Namespace::new()?,
            bystander: Namespace::new()?,
        };
        let r = arena.receiver.name();
        arena.receiver.inside(|| {
            for scope in ["all", "default"] {
                let path = format!("/proc/sys/net/ipv4/conf/{scope}/rp_filter");
                std::fs::write(&path, "0").with_context(|| format!("cannot write {path}"))?;
            }
            Ok(())
        })?;
        ip(&["-n", r, "addr", "add", &format!("{SERVICE}/32"), "dev", "lo"])?;
        for (index, role) in
            [&arena.encoder, &arena.attacker, &arena.victim, &arena.bystander].iter().enumerate()
        {
            let (n, device) = (role.name(), format!("cable{index}"));
            let near = format!("10.78.{index}.1");
            ip(&["link", "add", &device, "netns", r, "type", "veth", "peer", "name", "uplink", "netns", n])?;
            ip(&["-n", r, "addr", "add", &format!("{near}/24"), "dev", &device])?;
            ip(&["-n", n, "addr", "add", &format!("{}/24", host(index as u8)), "dev", "uplink"])?;
            ip(&["-n", n, "addr", "add", &format!("{}/24", second(index as u8)), "dev", "uplink"])?;
            // One packet is one datagram: ears would count a batch as one.
            ip(&["-n", r, "link", "set", &device, "gso_max_segs", "1"])?;
            ip(&["-n", n, "link", "set", "uplink", "gso_max_segs", "1"])?;
            ip(&["-n", r, "link", "set", &device, "up"])?;
            ip(&["-n", n, "link", "set", "uplink", "up"])?;
            ip(&["-n", n, "route", "add", "default", "via", &near])?;
        }
        ip(&["-n", r, "route", "add", "default", "via", &host(ATTACKER).to_string()])?;
        Ok(arena)
    }

    /// `bondgate run` on the receiver's host, in relay mode.
    ///
    /// # Errors
    /// When no ports are free.
    pub fn settings(auth: Auth) -> Result<Settings> {
        Ok(Settings {
            srtla: srtla().into(),
            srt: SocketAddr::from((SERVICE, SRT_PORT)),
            admin: SocketAddr::from(([127, 0, 0, 1], 8080)),
            latency_ms: 1000,
            auth,
            ..Settings::loopback()?
        })
    }

    /// Starts it.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn start(&self, scene: &Scene, settings: &Settings) -> Result<Process> {
        settings.start_as(scene, "run", |command| self.receiver.wrap(&command))
    }

    /// The sum of all samples of a metric whose line holds `label` (empty: any). 0 when there is none.
    ///
    /// # Errors
    /// When the metrics cannot be read.
    pub fn metric(&self, name: &str, label: &str) -> Result<f64> {
        let (_, body) = self
            .receiver
            .inside(|| bondgate::http_get(SocketAddr::from(([127, 0, 0, 1], 8080)), "/metrics"))?;
        Ok(body
            .lines()
            .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{'])))
            .filter(|line| line.contains(label))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum())
    }

    /// How many datagrams were dropped for this reason.
    ///
    /// # Errors
    /// When the metrics cannot be read.
    pub fn dropped(&self, reason: &str) -> Result<u64> {
        let label = format!("reason=\"{reason}\"");
        Ok(self.metric("bondgate_srtla_dropped_datagrams_total", &label)? as u64)
    }
}

/// How an encoder's sender registers.
#[derive(Clone, Debug)]
pub enum How {
    /// With the provisioning URI in this file.
    Key(PathBuf),
    /// Without a key.
    Stock,
}

/// A stream from the encoder's host to a viewer, of which not a bit may be lost.
#[derive(Debug)]
pub struct Live {
    sent: Vec<u8>,
    feed: Feed,
    viewer: Recorder,
    send: Process,
}

/// The command of an honest `bondgate send` with two links on a host of the arena, listening on its loopback.
///
/// # Errors
/// When the binary cannot be built.
pub fn send_command(how: &How, index: u8) -> Result<std::process::Command> {
    let listen = SocketAddr::from(([127, 0, 0, 1], 9000));
    let links = [host(index).to_string(), second(index).to_string()];
    let mut command = bondgate::send_command(listen, srtla().into(), &[&links[0], &links[1]])?;
    match how {
        How::Key(file) => command.arg("--key-file").arg(file),
        How::Stock => command.args(["--auth", "stock"]),
    };
    Ok(command)
}

impl Live {
    /// Streams for `seconds` from a host of the arena, and returns as soon as a viewer on the receiver's host sees it.
    ///
    /// # Errors
    /// When it does not come to be.
    pub fn start(
        scene: &Scene,
        arena: &Arena,
        (role, index): (&Namespace, u8),
        how: &How,
        stream_id: &str,
        seconds: u64,
    ) -> Result<Self> {
        let send = Process::spawn(scene, "send", role.wrap(&send_command(how, index)?))?;
        let packets = (RATE_BPS * seconds / 8) as usize / media::MESSAGE_LEN * 7;
        let sent = media::synthetic_ts(packets, 78 + u64::from(index));
        let publish = media::uri(
            SocketAddr::from(([127, 0, 0, 1], 9000)),
            &format!("streamid={stream_id}&latency=1000"),
        );
        let feed = Feed::start_command(
            scene,
            || role.wrap(&media::feed_command(&publish)),
            sent.clone(),
            RATE_BPS,
            Duration::from_secs(3),
        )?;
        let name = stream_id.split('?').next().unwrap_or(stream_id);
        let play =
            media::uri(SocketAddr::from((SERVICE, SRT_PORT)), &format!("streamid=play/{name}&latency=300"));
        let viewer = Recorder::start_command_when_live(scene, &format!("viewer-{index}"), || {
            arena.receiver.wrap(&media::record_command(&play))
        })?;
        Ok(Self { sent, feed, viewer, send })
    }

    /// The sender's process.
    pub fn sender(&mut self) -> &mut Process {
        &mut self.send
    }

    /// Waits for the end of the stream. Returns the number of payloads that the viewer got; all from its first to the last
    /// one sent.
    ///
    /// # Errors
    /// When one is missing, doubled or changed.
    pub fn finish(mut self) -> Result<usize> {
        self.feed.finish()?;
        let recorded = self.viewer.finish()?;
        ledger::complete(&self.sent, &recorded, self.sent.len() / 2)?;
        self.send.expect_running()?;
        Ok(recorded.len() / media::MESSAGE_LEN)
    }
}

/// A line of a process's `/proc/PID/status`, in bytes: `VmRSS`, `VmData`.
///
/// # Errors
/// When the process is gone.
pub fn memory_bytes(process: &Process, field: &str) -> Result<i64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id()))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kib = line.and_then(|line| line.split_whitespace().next()).context("no such line")?;
    Ok(kib.parse::<i64>()? * 1024)
}

/// Seconds of CPU a process has used.
///
/// # Errors
/// When the process is gone.
pub fn cpu_seconds(process: &Process) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.id()))?;
    let (_, fields) = stat.rsplit_once(") ").context("unreadable stat")?;
    let ticks: u64 = fields.split(' ').skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    Ok(ticks as f64 / 100.0)
}
