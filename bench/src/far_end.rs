//! Both ends around the receiver under test in one loop on one processor: the swarm, the sink, and a flood if there is one.
//!
//! One thread and one clock for both ends, so that latency needs no agreement between clocks and the ends never preempt one
//! another. With the generator inside the kernel it is the kernel that sends and takes the times, and the loop sleeps most of the
//! time. Promise: nothing waits for the receiver; what arrives is looked at as soon as what was due is sent.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bondgate_io::{AnyBackend, Backend, Choice, Gro, Limits, Role, SocketId};
use hdrhistogram::Histogram;

use crate::flood::Flooder;
use crate::generator::Generator;
use crate::scenario::Flood;
use crate::senders::{self, Senders};
use crate::sink::Sink;
use crate::swarm::{Load, Swarm, SwarmAuth};
use crate::topology::Ground;

/// Waits shorter than this are spun through: waking up takes longer than that.
const SPIN: Duration = Duration::from_micros(200);
/// Longest wait, so that phases end in time.
const WAIT_MAX: Duration = Duration::from_millis(1);
/// While the generator runs the loop leaves the processor to it for so long, whatever arrives.
const LEAVE: Duration = Duration::from_millis(2);

/// What was sent so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// The next number of the load.
    pub next: u64,
    /// Datagrams of the flood.
    pub flood: u64,
    /// The latest that a datagram was sent after it was due, in ns.
    pub late_ns_max: u64,
    /// Datagrams that left when the one behind them was due already; known of the generator inside the kernel.
    pub behind: Option<u64>,
}

/// Both ends.
pub struct FarEnd {
    backend: AnyBackend,
    senders: Senders,
    /// Who sends.
    pub swarm: Swarm,
    /// The server, unless a device is.
    pub sink: Option<(SocketId, Sink)>,
    /// What has no business there, from sockets.
    pub flood: Option<Flooder>,
    /// Who sends the data and the flood instead.
    pub generator: Option<Generator>,
    /// The last turn brought something.
    was_busy: bool,
    /// Since when times count.
    pub origin: Instant,
}

impl FarEnd {
    /// Opens all sockets on the ground. `srt_ack` is the interval in which the sink acknowledges.
    ///
    /// # Errors
    /// When there are not enough descriptors, or the kernel refuses.
    pub fn new(
        ground: &Ground,
        load: Load,
        (kind, auth): (senders::Kind, SwarmAuth),
        srt_ack: Option<Duration>,
        flood: Option<Flood>,
    ) -> Result<Self> {
        let links = match kind {
            senders::Kind::Sockets | senders::Kind::Bpf => load.groups as usize * load.links as usize,
            senders::Kind::Raw => 1,
        };
        let limits = Limits {
            sockets: links + 4104,
            gso: load.burst > 1 && kind == senders::Kind::Sockets,
            // The filter at the sink's socket sees datagrams, not what they are merged to.
            gro: if kind == senders::Kind::Bpf { Gro::Off } else { Gro::Adaptive },
            turn_sends: 16_384,
            turn_send_bytes: 4 << 20,
            linger_us_max: 0,
            ..Limits::default()
        };
        let (mut backend, _) = bondgate_io::open(Choice::Auto, &limits).context("the generator's backend")?;
        let senders = Senders::open(kind, ground, &mut backend, load.groups, load.links)?;
        let origin = Instant::now();
        let mut generator = match kind {
            senders::Kind::Bpf => Some(Generator::new(ground, &load, senders.addrs(), flood, origin)?),
            senders::Kind::Sockets | senders::Kind::Raw => None,
        };
        let sink = match ground.sink_socket()? {
            Some(socket) => {
                if let Some(generator) = &mut generator {
                    generator.note_arrivals(&socket)?;
                }
                let sink = Sink::new(load.magic, origin, load.groups as usize, srt_ack);
                Some((backend.add(socket, Role::Listener).context("the sink's socket")?, sink))
            }
            None => None,
        };
        let swarm = Swarm::new(load, auth, origin);
        Ok(Self { backend, senders, swarm, sink, flood: None, generator, was_busy: false, origin })
    }

    /// One turn: takes what has arrived, sends what is due.
    ///
    /// # Errors
    /// When the backend can no longer work.
    pub fn turn(&mut self) -> Result<Instant> {
        let is_generating = self.generator.as_ref().is_some_and(Generator::is_running);
        if is_generating && !self.was_busy {
            std::thread::sleep(LEAVE);
        }
        let next = self.swarm.idle_until().filter(|_| self.flood.is_none());
        let wait = next
            .map(|at| at.saturating_duration_since(Instant::now()))
            .filter(|wait| *wait > SPIN)
            .map_or(Duration::ZERO, |wait| wait.saturating_sub(SPIN / 2).min(WAIT_MAX));
        let received = self.backend.receive(Some(wait)).context("the generator")?;
        self.was_busy = received > 0;
        let now = Instant::now();
        for index in 0..received {
            let datagram = self.backend.datagram(index);
            match &mut self.sink {
                Some((id, sink)) if *id == datagram.socket => {
                    sink.datagram(now, datagram.from, datagram.bytes);
                }
                _ => {
                    if let Some(link) = self.senders.link_of(datagram.socket) {
                        self.swarm.datagram(now, link, datagram.bytes);
                    }
                }
            }
        }
        self.senders.hear(|link, bytes| self.swarm.datagram(now, link, bytes));
        let (backend, senders) = (&mut self.backend, &mut self.senders);
        if let Some((id, sink)) = &mut self.sink {
            sink.answer(now, |to, bytes| backend.send(*id, Some(to), bytes));
        }
        self.swarm.send_due(now, |link, bytes| senders.send(backend, link, bytes));
        if let Some(flood) = &mut self.flood {
            flood.send_due(now, |socket, to, bytes| backend.send(socket, Some(to), bytes));
        }
        self.backend.flush();
        // Refused sends are the receiver's absence; the swarm tries again or counts the loss.
        while self.backend.next_error().is_some() {}
        Ok(now)
    }

    /// Turns for so long.
    ///
    /// # Errors
    /// When the backend can no longer work.
    pub fn turn_for(&mut self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        while self.turn()? < end {}
        Ok(())
    }

    /// Tells the receiver which streams the groups want, where it demands that.
    pub fn call(&mut self) {
        let (backend, senders) = (&mut self.backend, &mut self.senders);
        self.swarm.call(|link, bytes| senders.send(backend, link, bytes));
        self.backend.flush();
    }

    /// From now on datagrams are due.
    ///
    /// # Errors
    /// When the generator cannot begin.
    pub fn start(&mut self, ground: &Ground, now: Instant) -> Result<()> {
        if let Some(generator) = &mut self.generator {
            return generator.begin(ground);
        }
        self.swarm.start(now);
        Ok(())
    }

    /// No more datagrams; what else there is goes on.
    ///
    /// # Errors
    /// Why the generator had ended before.
    pub fn stop(&mut self) -> Result<()> {
        self.swarm.stop();
        self.generator.as_mut().map_or(Ok(()), Generator::stop)
    }

    /// What was sent so far, by whoever does.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn sent(&self) -> Result<Sent> {
        let flood_sent = self.flood.as_ref().map_or(0, |flood| flood.sent);
        let late_ns_max = self.swarm.counters.late_ns_max;
        let Some(generator) = &self.generator else {
            return Ok(Sent { next: self.swarm.next_number(), flood: flood_sent, late_ns_max, behind: None });
        };
        let progress = generator.progress()?;
        Ok(Sent {
            next: progress.next,
            flood: progress.flood_sent,
            late_ns_max: progress.late_ns_max,
            behind: Some(progress.behind),
        })
    }

    /// From here on only latencies of these numbers count.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_window(&mut self, from: u64) -> Result<()> {
        if let Some((_, sink)) = &mut self.sink {
            sink.set_window(from, u64::MAX);
        }
        self.generator.as_mut().map_or(Ok(()), |generator| generator.set_window(from))
    }

    /// Latencies of the window, in ns, of a sink that counts.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn latency(&self) -> Result<Option<Histogram<u64>>> {
        let Some((_, sink)) = &self.sink else { return Ok(None) };
        let mut latency = sink.latency().clone();
        if let Some(generator) = &self.generator {
            // The kernel knows when a datagram came; the sink only when it looked.
            latency.reset();
            generator.latencies(&mut latency)?;
        }
        Ok(Some(latency))
    }

    /// Adds a flood's sockets.
    ///
    /// # Errors
    /// When the backend has no room.
    pub fn add_socket(&mut self, socket: std::net::UdpSocket) -> Result<SocketId> {
        self.backend.add(socket, Role::Unconnected).context("the flood's socket")
    }

    /// Datagrams that the kernel dropped at the harness's own sockets.
    pub fn own_drops(&self) -> u64 {
        self.backend.counters().rx_kernel_drops
    }

    /// Datagrams that the harness could not send.
    pub fn own_failures(&self) -> u64 {
        let counters = self.backend.counters();
        counters.tx_would_block + counters.tx_errors + counters.tx_no_room
    }
}
