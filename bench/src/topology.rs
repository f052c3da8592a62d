//! The ground a trial takes place on: where senders, receiver and SRT server are, and how packets get from one to the other.
//!
//! *veth* (root): three hosts made of network namespaces. Senders reach the receiver over a veth pair whose near end
//! does not pass segmentation on, so that what arrives are single packets as from a network; its far end merges them again
//! as a network card's driver does (GRO). The server is behind a second pair, or is a device that throws everything away
//! at once (`null`), so that its share of work is nobody's. *loopback* (everybody): all on `lo`, each group on an
//! address of its own in 127.64.0.0/10.
//!
//! Promise: a group has one address and a port per link. Everything made here is gone when it is dropped.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::process::Command;

use anyhow::{Context, Result, bail};
use bondgate_io::socket::{BindOptions, bind_udp, connect_udp};
use bondgate_tests::netns::{self, Namespace, ip};
use bondgate_tests::scene::free_port;
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};

use crate::generator::{FLOOD_BITS, FLOOD_FIRST};
use crate::proc;
use crate::senders;

/// Where senders, receiver and server live.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// veth where it can be made, else loopback.
    #[default]
    Auto,
    /// Namespaces and veth pairs.
    Veth,
    /// One host.
    Loopback,
}

/// What becomes of what the receiver forwards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SinkKind {
    /// Counted one by one: loss, copies and latency are exact.
    #[default]
    Count,
    /// Thrown away by a device, which counts: the receiver's cost is its own (veth only).
    Null,
}

const ETH_P_IP: u16 = 0x0800;
const SRTLA_PORT: u16 = 5000;
const SRT_PORT: u16 = 9000;
const SRT_FIRST_PORT: u16 = 10_000;
const ADMIN_PORT: u16 = 8080;
const RECEIVER: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
const SENDERS: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);
const UPSTREAM: Ipv4Addr = Ipv4Addr::new(10, 98, 0, 1);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 98, 0, 2);
/// First address of groups, in namespaces and on loopback; 2^22 addresses each.
const GROUPS_VETH: u32 = 0x0a40_0000;
const GROUPS_LOOPBACK: u32 = 0x7f40_0000;
/// The receiver's device that senders come in by.
pub const RECEIVER_DEVICE: &str = "in0";
/// Device that throws away.
const NULL: &str = "null0";
/// Ethernet, IPv4 and UDP headers.
const HEADERS_LEN: u64 = 14 + 20 + 8;
/// Receive buffer of the sink, and of a link.
const SINK_BUFFER: usize = 64 << 20;
const LINK_BUFFER: usize = 256 << 10;

/// The ground.
#[derive(Debug)]
pub struct Ground {
    hosts: Option<Hosts>,
    sink: SinkKind,
    /// Where the receiver under test listens.
    pub receiver: SocketAddr,
    /// The SRT server it sends to.
    pub server: SocketAddr,
    /// Where it serves metrics, on its host.
    pub admin: SocketAddr,
    /// For the report.
    pub description: String,
}

#[derive(Debug)]
struct Hosts {
    senders: Namespace,
    receiver: Namespace,
    server: Namespace,
}

/// Why namespaces cannot be made here.
pub fn veth_unavailable() -> Option<String> {
    netns::unavailable()
}

impl Ground {
    /// Makes the ground. With `egress_gso` the path to the server takes segmentation off the receiver's hands, as network
    /// cards do that can.
    ///
    /// # Errors
    /// When what is asked for cannot be made here.
    pub fn new(kind: Kind, sink: SinkKind, egress_gso: bool, senders: senders::Kind) -> Result<Self> {
        let obstacle = if kind == Kind::Loopback { None } else { veth_unavailable() };
        match (kind, obstacle) {
            (Kind::Veth, Some(why)) => bail!("topology veth: {why}; use topology = \"loopback\""),
            (Kind::Loopback, _) => Self::loopback(sink, "asked for"),
            (Kind::Auto, Some(why)) => Self::loopback(sink, &why),
            (Kind::Auto | Kind::Veth, None) => Self::veth(sink, egress_gso, senders),
        }
    }

    /// No ground of ours: a receiver somewhere, and whatever it sends to. On loopback groups have addresses of their own,
    /// elsewhere they have this machine's.
    pub fn elsewhere(receiver: SocketAddr) -> Self {
        Self {
            hosts: None,
            sink: SinkKind::Null,
            receiver,
            server: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            admin: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            description: format!("a receiver at {receiver}"),
        }
    }

    fn loopback(sink: SinkKind, why: &str) -> Result<Self> {
        if sink == SinkKind::Null {
            bail!("sink \"null\" needs topology veth ({why})");
        }
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Ok(Self {
            hosts: None,
            sink,
            receiver: local(free_port()?),
            server: local(free_port()?),
            admin: local(free_port()?),
            description: format!("loopback ({why}): the receiver pays for its senders' and the sink's stack"),
        })
    }

    fn veth(sink: SinkKind, egress_gso: bool, senders: senders::Kind) -> Result<Self> {
        let hosts =
            Hosts { senders: Namespace::new()?, receiver: Namespace::new()?, server: Namespace::new()? };
        let (s, r, t) = (hosts.senders.name(), hosts.receiver.name(), hosts.server.name());
        ip(&["link", "add", "up0", "netns", s, "type", "veth", "peer", "name", RECEIVER_DEVICE, "netns", r])?;
        ip(&["-n", s, "addr", "add", &format!("{SENDERS}/30"), "dev", "up0"])?;
        ip(&["-n", r, "addr", "add", &format!("{RECEIVER}/30"), "dev", RECEIVER_DEVICE])?;
        ip(&["-n", s, "link", "set", "up0", "gso_max_segs", "1"])?;
        let single = ethtool(&hosts.senders, "up0", &["tso", "off", "tx-udp-segmentation", "off"]);
        let merges = ethtool(&hosts.receiver, RECEIVER_DEVICE, &["gro", "on"]);
        ip(&["-n", s, "link", "set", "up0", "up"])?;
        ip(&["-n", r, "link", "set", RECEIVER_DEVICE, "up"])?;
        let groups = format!("{}/10", Ipv4Addr::from(GROUPS_VETH));
        if senders != senders::Kind::Raw {
            // Senders have any address of theirs without configuring each. Raw ones have none that the kernel knows, so that
            // it does not answer what comes back.
            ip(&["-n", s, "route", "add", "local", &groups, "dev", "lo"])?;
        }
        let flood = format!("{FLOOD_FIRST}/{FLOOD_BITS}");
        for network in [&groups, &flood] {
            ip(&["-n", r, "route", "add", network, "via", &SENDERS.to_string()])?;
        }
        let device = match sink {
            SinkKind::Null => {
                ip(&["-n", r, "link", "add", NULL, "type", "ifb"])?;
                NULL
            }
            SinkKind::Count => {
                ip(&["link", "add", "out0", "netns", r, "type", "veth", "peer", "name", "in0", "netns", t])?;
                ip(&["-n", t, "addr", "add", &format!("{SERVER}/30"), "dev", "in0"])?;
                ip(&["-n", t, "link", "set", "in0", "up"])?;
                "out0"
            }
        };
        ip(&["-n", r, "addr", "add", &format!("{UPSTREAM}/30"), "dev", device])?;
        ip(&["-n", r, "link", "set", device, "up"])?;
        if !egress_gso {
            ethtool(&hosts.receiver, device, &["tx-udp-segmentation", "off"])?;
        }
        let says = |works: &Result<()>, yes: &str, no: &str| {
            works.as_ref().map_or_else(|error| format!("{no} ({error:#})"), |()| yes.to_owned())
        };
        let description = format!(
            "veth between namespaces; senders' side {}; receiver's side {}; egress {} segmentation offload; {}",
            says(&single, "sends single packets", "sends single packets by gso_max_segs alone"),
            says(&merges, "merges (GRO)", "does not merge"),
            if egress_gso { "with" } else { "without" },
            match sink {
                SinkKind::Null => "the server's side is a null device",
                SinkKind::Count => "the receiver pays for the sink's stack",
            }
        );
        Ok(Self {
            hosts: Some(hosts),
            sink,
            receiver: SocketAddr::from((RECEIVER, SRTLA_PORT)),
            server: SocketAddr::from((SERVER, SRT_PORT)),
            admin: SocketAddr::from((Ipv4Addr::LOCALHOST, ADMIN_PORT)),
            description,
        })
    }

    /// What becomes of what is forwarded.
    pub fn sink_kind(&self) -> SinkKind {
        self.sink
    }

    /// It has hosts of its own.
    pub fn is_veth(&self) -> bool {
        self.hosts.is_some()
    }

    /// Turns a command into one that runs on the receiver's host.
    pub fn on_receiver(&self, command: Command) -> Command {
        match &self.hosts {
            Some(hosts) => hosts.receiver.wrap(&command),
            None => command,
        }
    }

    /// Does something on the receiver's host.
    ///
    /// # Errors
    /// When the host cannot be entered, or what is done fails.
    pub fn inside_receiver<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        match &self.hosts {
            Some(hosts) => hosts.receiver.inside(work),
            None => work(),
        }
    }

    /// Does something on the senders' host.
    ///
    /// # Errors
    /// When the host cannot be entered, or what is done fails.
    pub fn inside_senders<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        match &self.hosts {
            Some(hosts) => hosts.senders.inside(work),
            None => work(),
        }
    }

    /// The way from the senders' host to the receiver's, for frames that are made whole.
    ///
    /// # Errors
    /// Without hosts.
    pub fn wire(&self) -> Result<Wire> {
        let Some(hosts) = &self.hosts else { bail!("whole frames need topology veth") };
        let (interface, from) = link(hosts.senders.name(), "up0")?;
        let (_, to) = link(hosts.receiver.name(), RECEIVER_DEVICE)?;
        let ethernet = [&to[..], &from, &ETH_P_IP.to_be_bytes(), &[0; 2]].concat();
        Ok(Wire { interface, ethernet: ethernet.try_into().unwrap_or_default() })
    }

    /// Network of all links, as an allowlist has it.
    pub fn links_network(&self) -> String {
        format!("{}/10", Ipv4Addr::from(self.first_link_addr() - 1))
    }

    /// The address of a group's links.
    pub fn link_addr(&self, group: u32) -> IpAddr {
        Ipv4Addr::from(self.first_link_addr() + group).into()
    }

    /// A socket per link, connected to `to`: all links of group 0, then those of group 1, and so on.
    ///
    /// # Errors
    /// When there are not enough descriptors, or the kernel refuses.
    pub fn link_sockets(&self, groups: u32, links: u32, to: SocketAddr) -> Result<Vec<UdpSocket>> {
        raise_file_limit(u64::from(groups) * u64::from(links) + 1024)?;
        let options = BindOptions { recv_buf: LINK_BUFFER, send_buf: LINK_BUFFER, ..BindOptions::default() };
        let open = || {
            let mut sockets = Vec::new();
            for group in 0..groups {
                let is_ours = self.is_veth() || matches!(to, SocketAddr::V4(to) if to.ip().is_loopback());
                let from = is_ours.then(|| SocketAddr::new(self.link_addr(group), 0));
                for _ in 0..links {
                    sockets.push(connect_udp(to, from, &options)?);
                }
            }
            Ok(sockets)
        };
        match &self.hosts {
            Some(hosts) => hosts.senders.inside(open),
            None => open(),
        }
    }

    /// The first group's address, as a number.
    pub fn first_link_addr(&self) -> u32 {
        1 + if self.is_veth() { GROUPS_VETH } else { GROUPS_LOOPBACK }
    }

    /// A socket that sends whole IP packets, and one that hears all that comes to the senders' host.
    ///
    /// # Errors
    /// Without a host of its own, or the rights for raw sockets.
    pub fn raw_sockets(&self) -> Result<(UdpSocket, Socket)> {
        let Some(hosts) = &self.hosts else { bail!("raw senders need topology veth") };
        hosts.senders.inside(|| {
            let mouth = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::UDP)).context("raw socket")?;
            mouth.set_header_included_v4(true)?;
            mouth.set_send_buffer_size(4 << 20)?;
            let protocol = Protocol::from(i32::from(ETH_P_IP.to_be()));
            let ears = Socket::new(Domain::PACKET, Type::DGRAM, Some(protocol)).context("packet socket")?;
            ears.set_recv_buffer_size(16 << 20)?;
            ears.set_nonblocking(true)?;
            Ok((UdpSocket::from(OwnedFd::from(mouth)), ears))
        })
    }

    /// So many addresses for SRT servers on the receiver's host.
    ///
    /// # Errors
    /// When no ports are free.
    pub fn srt_addrs(&self, count: usize) -> Result<Vec<SocketAddr>> {
        let port =
            |index: usize| if self.is_veth() { Ok(SRT_FIRST_PORT + index as u16) } else { free_port() };
        (0..count).map(|index| Ok(SocketAddr::new(self.receiver.ip(), port(index)?))).collect()
    }

    /// A socket for SRT callers.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn caller_socket(&self) -> Result<UdpSocket> {
        let options = BindOptions { recv_buf: SINK_BUFFER, send_buf: 4 << 20, ..BindOptions::default() };
        match &self.hosts {
            Some(hosts) => hosts.senders.inside(|| Ok(bind_udp(SocketAddr::from((SENDERS, 0)), &options)?)),
            None => Ok(bind_udp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), &options)?),
        }
    }

    /// Sockets of addresses that are no group's, from the `first` place behind them.
    ///
    /// # Errors
    /// When the kernel refuses one.
    pub fn stranger_sockets(&self, first: u32, count: u32) -> Result<Vec<UdpSocket>> {
        let open = || {
            (first..first + count)
                .map(|place| {
                    Ok(bind_udp(SocketAddr::new(self.link_addr(place), 0), &BindOptions::default())?)
                })
                .collect()
        };
        match &self.hosts {
            Some(hosts) => hosts.senders.inside(open),
            None => open(),
        }
    }

    /// The sink's socket, unless a device is the sink.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn sink_socket(&self) -> Result<Option<UdpSocket>> {
        let options = BindOptions { recv_buf: SINK_BUFFER, ..BindOptions::default() };
        let open = || Ok(Some(bind_udp(self.server, &options)?));
        match (&self.hosts, self.sink) {
            (_, SinkKind::Null) => Ok(None),
            (Some(hosts), SinkKind::Count) => hosts.server.inside(open),
            (None, SinkKind::Count) => open(),
        }
    }

    /// How many datagrams of `len` bytes the null device has thrown away so far, as the receiver `pid` sees it.
    pub fn thrown_away(&self, pid: u32, len: u64) -> Option<u64> {
        if self.sink != SinkKind::Null {
            return None;
        }
        let device = proc::device(pid, NULL)?;
        // Which side of its counters a device books these on is its own affair; the other side is 0. A segmented packet
        // counts once and has its headers once, but all its bytes.
        let (bytes, packets) =
            (device.rx_bytes.max(device.tx_bytes), device.rx_packets.max(device.tx_packets));
        Some(bytes.saturating_sub(packets * HEADERS_LEN) / len.max(1))
    }
}

/// A way for whole frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wire {
    /// Number of the device they leave by, on its host.
    pub interface: u32,
    /// Their Ethernet header, and two unused bytes.
    pub ethernet: [u8; 16],
}

/// Number and address of a device.
fn link(host: &str, device: &str) -> Result<(u32, [u8; 6])> {
    let output = ip(&["-j", "-n", host, "link", "show", "dev", device])?;
    let links: serde_json::Value = serde_json::from_str(&output).context("ip speaks no JSON")?;
    let read = || {
        let link = links.get(0)?;
        let bytes = link.get("address")?.as_str()?.split(':').map(|byte| u8::from_str_radix(byte, 16));
        let address = bytes.collect::<Result<Vec<u8>, _>>().ok()?.try_into().ok()?;
        Some((u32::try_from(link.get("ifindex")?.as_u64()?).ok()?, address))
    };
    read().with_context(|| format!("ip does not tell about {device}: {output}"))
}

/// Switches features of a device.
fn ethtool(host: &Namespace, device: &str, features: &[&str]) -> Result<()> {
    let mut command = Command::new("ethtool");
    command.args(["-K", device]).args(features);
    let output = host.wrap(&command).output().context("cannot run ethtool (package ethtool)")?;
    if !output.status.success() {
        bail!("ethtool {device} {features:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Lets this process, and what it starts, open so many files.
fn raise_file_limit(files: u64) -> Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= files) {
        return Ok(());
    }
    let maximum = limit.maximum.map(|maximum| maximum.max(files));
    setrlimit(Resource::Nofile, Rlimit { current: Some(files), maximum })
        .or_else(|_| setrlimit(Resource::Nofile, Rlimit { current: Some(files), maximum: limit.maximum }))
        .with_context(|| {
            format!("{files} open files are needed, a socket per link; raise `ulimit -n`, or run as root")
        })
}
