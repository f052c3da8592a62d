//! The generator inside the kernel: the data of links that sockets have registered, and a flood, sent by a BPF program.
//!
//! It has the harness's processor to itself but for short moments, in which the harness hears what came back. Promises:
//! datagram `n` is due at `start + n / rate` and is sent alone, not in a train; what was sent is counted one by one; a flood
//! comes from addresses that no link has and no allowlist of ours names.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bondgate_ebpf::bench::{Instruments, Offering};
use bondgate_ebpf_common::bench::{Flood as Kind, Offer, Progress, Sender};
use hdrhistogram::Histogram;
use rustix::time::{ClockId, clock_gettime};

use crate::frame::LEN_USUAL;
use crate::receiver::HARNESS_CPU;
use crate::scenario::{Flood, FloodKind};
use crate::swarm::Load;
use crate::topology::Ground;

/// Addresses of a flood: the network that RFC 2544 sets aside for benchmarks.
pub const FLOOD_FIRST: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
/// The length of its prefix.
pub const FLOOD_BITS: u32 = 15;
/// How many there are.
pub const FLOOD_SOURCES_MAX: u32 = 1 << (32 - FLOOD_BITS);
/// From when it begins until the first datagram is due: the thread has to come up.
const LEAD: Duration = Duration::from_millis(20);

/// A generator, before, while and after it runs.
#[derive(Debug)]
pub struct Generator {
    instruments: Instruments,
    offering: Option<Offering>,
    offer: Offer,
    senders: Vec<Sender>,
}

impl Generator {
    /// Prepares a load from these addresses, by link. Times count from `origin`.
    ///
    /// # Errors
    /// Missing rights, no veth, or addresses of IPv6.
    pub fn new(
        ground: &Ground,
        load: &Load,
        senders: &[SocketAddr],
        flood: Option<Flood>,
        origin: Instant,
    ) -> Result<Self> {
        let instruments = Instruments::load().context("senders \"bpf\"")?;
        let senders = senders.iter().map(|addr| Ok(sender(ipv4(*addr)?))).collect::<Result<Vec<_>>>()?;
        let wire = ground.wire()?;
        let to = sender(ipv4(ground.receiver)?);
        let interval = Offer::interval_of(load.rate_pps, load.burst);
        let mut offer = Offer {
            origin_ns: now_ns().saturating_sub(origin.elapsed().as_nanos() as u64),
            interval,
            interface: wire.interface,
            ethernet: wire.ethernet,
            magic: load.magic,
            groups: load.active_groups,
            links: load.links,
            burst: load.burst,
            datagram_bytes: load.datagram_bytes as u32,
            to: to.address,
            to_port: to.port,
            ..Offer::default()
        };
        if let Some(flood) = flood {
            offer.flood = kind(flood.kind) as u32;
            offer.flood_interval = Offer::interval_of(flood.rate_pps, 1);
            offer.flood_bytes = LEN_USUAL as u32;
            offer.flood_first = FLOOD_FIRST.into();
            offer.flood_sources = flood.sources.min(FLOOD_SOURCES_MAX);
        }
        if let Some(sender) = senders.iter().find(|sender| offer.is_flood_source(sender.address)) {
            bail!("the link {} would send from the flood's addresses", Ipv4Addr::from(sender.address));
        }
        Ok(Self { instruments, offering: None, offer, senders })
    }

    /// Latency is taken where datagrams come to this socket. Before [`Self::begin`].
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn note_arrivals(&mut self, socket: impl AsFd) -> Result<()> {
        self.instruments.note_arrivals(socket.as_fd()).context("latencies")
    }

    /// From a moment after this on datagrams are due.
    ///
    /// # Errors
    /// The kernel does not take the program.
    pub fn begin(&mut self, ground: &Ground) -> Result<()> {
        self.offer.start_ns = now_ns() + LEAD.as_nanos() as u64;
        self.instruments.set(&self.offer, self.senders.iter().copied())?;
        let instruments = &mut self.instruments;
        // The thread that sends inherits the host of the one that starts it.
        self.offering = Some(ground.inside_senders(|| Ok(instruments.begin(HARNESS_CPU)?))?);
        Ok(())
    }

    /// It is sending.
    pub fn is_running(&self) -> bool {
        self.offering.is_some()
    }

    /// No more datagrams.
    ///
    /// # Errors
    /// Why it had ended before.
    pub fn stop(&mut self) -> Result<()> {
        self.offering.take().map_or(Ok(()), Offering::stop).context("the generator")
    }

    /// What was sent so far.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn progress(&self) -> Result<Progress> {
        Ok(self.instruments.progress()?)
    }

    /// From here on only latencies of these numbers count.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn set_window(&mut self, from: u64) -> Result<()> {
        Ok(self.instruments.set_window(from)?)
    }

    /// Adds the latencies that were noted, in ns.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn latencies(&self, histogram: &mut Histogram<u64>) -> Result<()> {
        for (ns, count) in self.instruments.latencies()? {
            histogram.saturating_record_n(ns, count);
        }
        Ok(())
    }
}

fn ipv4(addr: SocketAddr) -> Result<SocketAddrV4> {
    match addr {
        SocketAddr::V4(addr) => Ok(addr),
        SocketAddr::V6(addr) => bail!("the generator speaks IPv4, and not to or from {addr}"),
    }
}

fn sender(addr: SocketAddrV4) -> Sender {
    Sender { address: (*addr.ip()).into(), port: addr.port().into() }
}

fn kind(kind: FloodKind) -> Kind {
    match kind {
        FloodKind::Reg1 => Kind::Reg1,
        FloodKind::Reg2 => Kind::Reg2,
        FloodKind::Data => Kind::Data,
        FloodKind::Mixed => Kind::Mixed,
    }
}

/// The clock of the programs, which is that of [`Instant`].
fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
