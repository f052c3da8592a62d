//! Worlds: an encoder, a bonding sender, impaired links, the receiver and an SRT server under one virtual clock.
//!
//! Promises: the SRT engines, the receiver and bondgate's sender are the real cores; a world of the same [`Setup`] and
//! script repeats to the last bit (see [`Report::trace_hash`]); no wall clock, no threads, no real addresses. A world
//! that ends has checked its laws: datagrams are conserved in every link and in the receiver, and the [`ledger`] accounts
//! for every payload.
//!
//! ```text
//! encoder ─ bonding sender ═ links ═ receiver ─ SRT server ─ sink
//! ```

mod bondgate;
mod encoder;
mod host;
mod key;
pub mod ledger;
mod report;
mod setup;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use bondgate_proto::sender::{Scheduler, SenderConfig};
use bondgate_srt::EndpointConfig;
use bytes::Bytes;

pub use bondgate::BondgateSender;
pub use host::{Host, SrtPeer};
pub use report::Report;
pub use setup::{Direction, Fault, LinkSpec, Lose, Output, SenderKind, Setup};

use crate::link::{LinkCounters, LinkModel};
use crate::rng::Rng;
use crate::stock::{BelaboxC, BondingSender, IrlRust, Moblin, Output as SenderOutput};
use crate::wire::{self, Kind};
use encoder::Encoder;
use host::Effect;
use ledger::{Ledger, checksum};

/// A node whose timer is due this often without time moving on is stuck.
const TIMER_STUCK: u32 = 10_000;

impl Setup {
    fn endpoint_config_with_latency(&self) -> EndpointConfig {
        EndpointConfig { latency: self.latency, ..self.endpoint_config.clone() }
    }

    fn build_sender(
        &self,
        incarnation: u64,
        now: Instant,
        started: Instant,
    ) -> Option<Box<dyn BondingSender>> {
        let seed = Rng::new(self.seed).fork(400 + incarnation).next_u64();
        let links = self.links.len();
        Some(match self.sender {
            SenderKind::Bondgate(scheduler) => {
                let config = SenderConfig { scheduler, ..self.sender_config.clone() };
                Box::new(BondgateSender::new(now, config, links, seed))
            }
            SenderKind::BondgateKey(scheduler) | SenderKind::BondgateDataMac(scheduler) => {
                let config = SenderConfig { scheduler, ..self.sender_config.clone() };
                let entropy = Rng::new(self.seed).fork(500 + incarnation).bytes();
                let has_data_macs = matches!(self.sender, SenderKind::BondgateDataMac(_));
                let key = key::sender(now, started, entropy, has_data_macs);
                Box::new(BondgateSender::with_key(now, config, links, seed, key))
            }
            SenderKind::BelaboxC => Box::new(BelaboxC::new(now, links, seed)),
            SenderKind::IrlRust => Box::new(IrlRust::new(now, links, seed)),
            SenderKind::Moblin => Box::new(Moblin::new(now, links, seed)),
            SenderKind::Plain => return None,
        })
    }
}

impl SenderKind {
    /// All that bond, bondgate's with both schedulers.
    pub const BONDING: [Self; 5] = [
        Self::Bondgate(Scheduler::Adaptive),
        Self::Bondgate(Scheduler::Stock),
        Self::BelaboxC,
        Self::IrlRust,
        Self::Moblin,
    ];
}

struct SimLink {
    up: LinkModel,
    down: LinkModel,
    /// The address the receiver sees now.
    addr: SocketAddr,
    /// How many addresses the link had before.
    moves: u16,
    data_packets: u64,
}

#[derive(Debug)]
enum What {
    Up { link: usize, from: SocketAddr, bytes: Bytes },
    Down { link: usize, to: SocketAddr, bytes: Bytes },
    Fault(Fault),
}

struct Happening {
    at: Instant,
    order: u64,
    what: What,
}

impl PartialEq for Happening {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}

impl Eq for Happening {}

impl PartialOrd for Happening {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Happening {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// A running world. See the module.
pub struct World {
    setup: Setup,
    start: Instant,
    now: Instant,
    queue: BinaryHeap<Reverse<Happening>>,
    next_order: u64,
    links: Vec<SimLink>,
    encoder: Encoder,
    sender: Option<Box<dyn BondingSender>>,
    sender_outputs: Vec<SenderOutput>,
    host: Host,
    incarnation: u64,
    ledger: Ledger,
    losses: Vec<Lose>,
    violations: Vec<String>,
    notices: Vec<(Duration, String)>,
    history: Vec<String>,
    receiver_drops: BTreeMap<String, u64>,
    data_packets: u64,
    retransmissions: u64,
    is_shut_down: bool,
    overtaken: u64,
    trace_hash: u64,
    /// Whether every datagram is printed; set by the environment variable `SIM_TRACE`.
    is_verbose: bool,
    timer_rounds: u32,
}

impl World {
    /// A world at its first instant: all nodes have just started.
    pub fn new(setup: Setup) -> Self {
        // Any instant serves as the origin: everything that is observed is relative to it.
        let start = Instant::now();
        let mut rng = Rng::new(setup.seed).fork(1);
        let links = setup
            .links
            .iter()
            .enumerate()
            .map(|(index, spec)| SimLink {
                up: LinkModel::new(spec.up.clone(), rng.next_u64()),
                down: LinkModel::new(spec.down.clone(), rng.next_u64()),
                addr: address(index, 0, spec.ipv6),
                moves: 0,
                data_packets: 0,
            })
            .collect();
        let sender = setup.build_sender(0, start, start);
        Self {
            encoder: Encoder::new(&setup, 0, start),
            host: Host::new(&setup, start),
            ledger: Ledger::new(setup.seed, setup.payload_len, setup.latency),
            start,
            now: start,
            queue: BinaryHeap::new(),
            next_order: 0,
            links,
            sender,
            sender_outputs: Vec::new(),
            incarnation: 0,
            losses: Vec::new(),
            violations: Vec::new(),
            notices: Vec::new(),
            history: Vec::new(),
            receiver_drops: BTreeMap::new(),
            data_packets: 0,
            retransmissions: 0,
            is_shut_down: false,
            overtaken: 0,
            trace_hash: 0,
            is_verbose: std::env::var_os("SIM_TRACE").is_some(),
            timer_rounds: 0,
            setup,
        }
    }

    // --- the script -------------------------------------------------------------------------------------------------

    /// Something happens now.
    pub fn inflict(&mut self, fault: Fault) -> &mut Self {
        let what = format!("{fault:?}");
        self.trace(3, 0, what.as_bytes());
        self.note(&what);
        match fault {
            Fault::LinkDown(link) => self.set_blackholes(link, true, true),
            Fault::LinkUp(link) => self.set_blackholes(link, false, false),
            Fault::OneWayDown(link, Direction::Up) => self.set_blackholes(link, true, false),
            Fault::OneWayDown(link, Direction::Down) => self.set_blackholes(link, false, true),
            Fault::SetLink(link, spec) => {
                if let Some(link) = self.links.get_mut(link) {
                    link.up.set(spec.up);
                    link.down.set(spec.down);
                }
            }
            Fault::Rebind(link) => self.new_address(link),
            Fault::RebindAll => (0..self.links.len()).for_each(|link| self.new_address(link)),
            Fault::RestartReceiver => {
                self.check_receiver();
                self.incarnation += 1;
                // Either the engine is gone with its sessions, or their peer's port is.
                self.ledger.session_ended(self.now);
                self.host.restart(&self.setup, self.incarnation, self.now);
            }
            Fault::RestartEncoder => {
                self.incarnation += 1;
                self.ledger.session_ended(self.now);
                let mut encoder = Encoder::new(&self.setup, self.incarnation, self.now);
                encoder.continue_counts_of(&self.encoder);
                self.encoder = encoder;
            }
            Fault::CloseGroups => self.host.close_groups(self.now),
            Fault::HangUp => self.encoder.hang_up(self.now),
            Fault::RestartSender => {
                self.incarnation += 1;
                // Its group is new to the receiver, so the session's peer is another one for the SRT server.
                self.ledger.session_ended(self.now);
                (0..self.links.len()).for_each(|link| self.new_address(link));
                self.sender = self.setup.build_sender(self.incarnation, self.now, self.start);
            }
            Fault::Lose(lose) => self.losses.push(lose),
            Fault::LoseNoMore => self.losses.clear(),
        }
        self.pump();
        self
    }

    /// Something will happen `after` from now.
    pub fn inflict_after(&mut self, after: Duration, fault: Fault) -> &mut Self {
        self.schedule(self.now + after, What::Fault(fault));
        self
    }

    /// Takes the link down for a while.
    pub fn flap(&mut self, link: usize, down_for: Duration) -> &mut Self {
        self.inflict(Fault::LinkDown(link)).inflict_after(down_for, Fault::LinkUp(link))
    }

    /// Lets the world run for a while.
    pub fn run_for(&mut self, time: Duration) -> &mut Self {
        let deadline = self.now + time;
        while self.step(deadline) {}
        self.now = deadline;
        self
    }

    /// Runs until `condition` holds (looked at after every event); panics if it takes longer than `at_most`.
    #[track_caller]
    pub fn run_until(
        &mut self,
        what: &str,
        at_most: Duration,
        condition: impl Fn(&Self) -> bool,
    ) -> &mut Self {
        let began = self.now;
        while !condition(self) {
            let stepped = self.step(began + at_most);
            assert!(
                stepped,
                "seed {}: not within {at_most:?}: {what}; {:#?}",
                self.setup.seed,
                self.report()
            );
        }
        self
    }

    /// Runs until the sink gets payloads.
    #[track_caller]
    pub fn run_until_video(&mut self, at_most: Duration) -> &mut Self {
        let delivered = self.ledger.delivered_count();
        self.run_until("video at the sink", at_most, |world| world.ledger.delivered_count() > delivered)
    }

    /// Stops the source, lets everything come to rest, checks all laws and reports.
    pub fn finish(mut self) -> Report {
        self.encoder.stop_feeding();
        let rest = self.setup.latency * 2 + Duration::from_secs(3);
        self.run_for(rest);
        self.check_receiver();
        for (index, link) in self.links.iter().enumerate() {
            for (way, counters) in [("up", link.up.counters()), ("down", link.down.counters())] {
                if !counters.is_conserved() {
                    self.violations.push(format!("link {index} {way} is not conserved: {counters:?}"));
                }
            }
        }
        if let Some(violation) = self.sender.as_ref().and_then(|sender| sender.violation()) {
            self.violations.push(violation);
        }
        let mut report = self.report();
        for (number, why) in self.ledger.missing() {
            *report.missing.entry(why).or_default() += 1;
            if report.missing_details.len() < 5 {
                report.missing_details.push(format!("{why:?}: {}", self.ledger.describe(number, self.start)));
            }
        }
        report
    }

    // --- questions --------------------------------------------------------------------------------------------------

    /// Time since the world began.
    pub fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    /// The ledger so far.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Starts the measurement of the longest gap again.
    pub fn reset_gap(&mut self) -> &mut Self {
        self.ledger.reset_gap();
        self
    }

    /// Sessions of the encoder so far.
    pub fn sessions(&self) -> u32 {
        self.encoder.sessions
    }

    /// Links the sender itself believes to be usable.
    pub fn sender_links_up(&self) -> usize {
        self.sender.as_ref().map_or(0, |sender| sender.links_up(self.now))
    }

    /// Groups and links the receiver holds now.
    pub fn receiver_table(&self) -> (usize, usize) {
        self.host.receiver().snapshot(self.now).fold((0, 0), |(g, l), group| (g + 1, l + group.links.len()))
    }

    /// The receiver's machine, for questions to the cores.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// What the receiver told people, with the time since the world began.
    pub fn notices(&self) -> &[(Duration, String)] {
        &self.notices
    }

    /// Counters of a link, both directions.
    pub fn link_counters(&self, link: usize) -> (LinkCounters, LinkCounters) {
        (*self.links[link].up.counters(), *self.links[link].down.counters())
    }

    /// The figures so far; missing payloads are only known in the end.
    pub fn report(&self) -> Report {
        let latencies = self.ledger.latencies();
        let percentile = |p: usize| latencies.get(latencies.len() * p / 100).copied().unwrap_or_default();
        let mut violations = self.violations.clone();
        violations.extend_from_slice(self.ledger.violations());
        Report {
            seed: self.setup.seed,
            offered: self.encoder.offered,
            accepted: self.ledger.accepted_count(),
            delivered: self.ledger.delivered_count(),
            missing: BTreeMap::new(),
            missing_details: Vec::new(),
            violations,
            first_video: self.ledger.first_delivery().map(|at| at - self.start),
            longest_gap: self.ledger.longest_gap(),
            latency_p50: percentile(50),
            latency_p99: percentile(99),
            latency_max: latencies.last().copied().unwrap_or_default(),
            data_packets: self.data_packets,
            retransmissions: self.retransmissions,
            overtaken: self.overtaken,
            link_packets: self.links.iter().map(|link| link.data_packets).collect(),
            sessions: self.encoder.sessions,
            session_ends: self.encoder.ends.clone(),
            receiver_drops: self.receiver_drops.clone(),
            history: self.history.clone(),
            trace_hash: self.trace_hash,
        }
    }

    // --- the machine ------------------------------------------------------------------------------------------------

    /// Does the next thing if it is due before the deadline.
    fn step(&mut self, deadline: Instant) -> bool {
        let timers = [
            self.encoder.poll_timeout(),
            self.sender.as_ref().and_then(|sender| sender.poll_timeout()),
            self.host.poll_timeout(),
        ];
        let timer = timers.into_iter().flatten().min();
        let arrival = self.queue.peek().map(|Reverse(next)| next.at);
        let Some(next) = timer.into_iter().chain(arrival).min().filter(|&at| at <= deadline) else {
            return false;
        };
        if next > self.now {
            self.now = next;
            self.timer_rounds = 0;
        }
        if arrival.is_some_and(|at| at <= self.now) {
            if let Some(Reverse(happening)) = self.queue.pop() {
                self.happen(happening.what);
            }
        } else {
            self.timer_rounds += 1;
            assert!(
                self.timer_rounds < TIMER_STUCK,
                "seed {}: a timer does not move on at {:?}: {timers:?}, now {:?}",
                self.setup.seed,
                self.elapsed(),
                self.now
            );
            self.encoder.handle_timeout(self.now, &mut self.ledger);
            if let Some(sender) = &mut self.sender
                && sender.poll_timeout().is_some_and(|at| at <= self.now)
            {
                sender.handle_timeout(self.now, &mut self.sender_outputs);
            }
            self.host.handle_timeout(self.now);
        }
        self.pump();
        true
    }

    fn happen(&mut self, what: What) {
        match what {
            What::Fault(fault) => {
                self.inflict(fault);
            }
            What::Up { link, from, bytes } => {
                self.trace(1, link, &bytes);
                self.say("arrives up", link, &bytes);
                if self.sender.is_some() {
                    self.host.uplink(self.now, from, &bytes);
                } else {
                    self.host.plain(self.now, from, &bytes);
                }
            }
            What::Down { link, to, bytes } => {
                // A datagram to an address the link no longer has reaches nobody.
                if self.links.get(link).is_none_or(|l| l.addr != to) {
                    return;
                }
                self.trace(2, link, &bytes);
                self.say("arrives down", link, &bytes);
                match &mut self.sender {
                    Some(sender) => sender.handle_link(self.now, link, &bytes, &mut self.sender_outputs),
                    None => self.encoder.handle(self.now, &bytes),
                }
            }
        }
    }

    /// Passes on what the nodes have ready until all are silent.
    fn pump(&mut self) {
        let mut buf = [0; 1500];
        loop {
            let mut busy = self.encoder.pump(self.now, &mut self.ledger);
            while let Some(len) = self.encoder.poll_transmit(self.now, &mut buf) {
                busy = true;
                self.uplink_of_encoder(&buf[..len]);
            }
            for output in std::mem::take(&mut self.sender_outputs) {
                busy = true;
                match output {
                    SenderOutput::ToLink { link, bytes } => self.send_up(link, &bytes),
                    SenderOutput::ToLocal(bytes) => self.encoder.handle(self.now, &bytes),
                    SenderOutput::NewSocket(link) => self.new_address(link),
                }
            }
            busy |= self.host.pump(self.now);
            for effect in self.host.take_effects() {
                busy = true;
                self.take_effect(effect);
            }
            if !busy {
                break;
            }
        }
    }

    fn uplink_of_encoder(&mut self, bytes: &[u8]) {
        if let Some(payload) = wire::srt_data_payload(bytes) {
            self.ledger.transmitted(payload);
            match wire::kind(bytes) {
                Kind::SrtRetransmission => self.retransmissions += 1,
                _ => self.data_packets += 1,
            }
        }
        self.say("from encoder", 0, bytes);
        match &mut self.sender {
            Some(sender) => {
                let before = self.sender_outputs.len();
                sender.handle_local(self.now, bytes, &mut self.sender_outputs);
                if self.sender_outputs.len() == before && sender.links_up(self.now) == 0 {
                    // No link to send on: the datagram is gone.
                    self.lost(bytes);
                }
            }
            None => self.send_up(0, bytes),
        }
    }

    fn take_effect(&mut self, effect: Effect) {
        match effect {
            Effect::ToSender(to, bytes) => self.send_down(to, &bytes),
            Effect::ReachedServer(bytes) => {
                self.is_shut_down |= wire::kind(&bytes) == Kind::SrtShutdown;
                if let Some(payload) = wire::srt_data_payload(&bytes) {
                    let is_new = self.ledger.arrived(self.now, payload);
                    self.overtaken += u64::from(is_new && self.is_shut_down);
                }
            }
            Effect::Dropped(direction, reason, bytes) => {
                self.say(&format!("drop {reason:?}"), 0, &bytes);
                *self.receiver_drops.entry(format!("{direction:?} {reason:?}")).or_default() += 1;
                self.lost(&bytes);
            }
            Effect::Delivered(payload) => {
                self.trace(4, 0, &payload);
                self.ledger.delivered(self.now, &payload);
            }
            Effect::SessionBegan => {
                self.trace(5, 0, &[]);
                self.ledger.session_began(self.now);
                self.note("the server has a session");
            }
            Effect::SessionEnded(why) => {
                self.note(&format!("the server's session ended: {why}"));
                self.trace(6, 0, why.as_bytes());
                self.ledger.session_ended(self.now);
            }
            Effect::Notice(text) => {
                if self.is_verbose {
                    eprintln!("{:>14?} {text}", self.elapsed());
                }
                if self.notices.len() < 10_000 {
                    self.notices.push((self.elapsed(), text));
                }
            }
            Effect::Violation(text) => self.violations.push(text),
        }
    }

    fn send_up(&mut self, index: usize, bytes: &[u8]) {
        if self.is_lost_by_script(Direction::Up, index, bytes) {
            return self.lost(bytes);
        }
        let Some(link) = self.links.get_mut(index) else {
            self.violations.push(format!("the sender sent on link {index}, which does not exist"));
            return;
        };
        link.data_packets += u64::from(wire::srt_data_seq(bytes).is_some());
        let from = link.addr;
        let arrivals = link.up.submit(self.now, bytes.len());
        if arrivals.is_empty() {
            self.say("lost up", index, bytes);
            self.lost(bytes);
        }
        let bytes = Bytes::copy_from_slice(bytes);
        for at in arrivals {
            self.schedule(at, What::Up { link: index, from, bytes: bytes.clone() });
        }
    }

    fn send_down(&mut self, to: SocketAddr, bytes: &[u8]) {
        let Some(index) = self.links.iter().position(|link| link.addr == to) else { return };
        if self.is_lost_by_script(Direction::Down, index, bytes) {
            return;
        }
        let arrivals = self.links[index].down.submit(self.now, bytes.len());
        let bytes = Bytes::copy_from_slice(bytes);
        for at in arrivals {
            self.schedule(at, What::Down { link: index, to, bytes: bytes.clone() });
        }
    }

    fn is_lost_by_script(&mut self, direction: Direction, link: usize, bytes: &[u8]) -> bool {
        let kind = wire::kind(bytes);
        let lost = self.losses.iter_mut().any(|lose| lose.takes(direction, link, kind));
        if lost {
            self.losses.retain(|lose| lose.count > 0);
        }
        lost
    }

    fn lost(&mut self, bytes: &[u8]) {
        if let Some(payload) = wire::srt_data_payload(bytes) {
            self.ledger.lost(payload);
        }
    }

    fn schedule(&mut self, at: Instant, what: What) {
        self.next_order += 1;
        self.queue.push(Reverse(Happening { at, order: self.next_order, what }));
    }

    fn set_blackholes(&mut self, link: usize, up: bool, down: bool) {
        if let Some(link) = self.links.get_mut(link) {
            link.up.set_blackhole(up);
            link.down.set_blackhole(down);
        }
    }

    fn new_address(&mut self, index: usize) {
        if let Some(link) = self.links.get_mut(index) {
            link.moves = link.moves.wrapping_add(1);
            link.addr = address(index, link.moves, link.addr.is_ipv6());
        }
    }

    /// The receiver's own law, and that it saw what the world gave it.
    fn check_receiver(&mut self) {
        let counters = self.host.receiver().counters();
        if !counters.is_conserved() {
            self.violations.push(format!("the receiver does not conserve datagrams: {counters:?}"));
        }
        let server = self.host.server().counters();
        if server.received != server.consumed + server.dropped() {
            self.violations.push(format!("the SRT engine does not conserve datagrams: {server:?}"));
        }
        if counters.received != self.host.received_by_world() {
            let given = self.host.received_by_world();
            self.violations.push(format!("the receiver counted {} of {given} datagrams", counters.received));
        }
    }

    fn note(&mut self, what: &str) {
        if self.is_verbose {
            eprintln!("{:>14?} {what}", self.elapsed());
        }
        if self.history.len() < 200 {
            self.history.push(format!("{:?} {what}", self.elapsed()));
        }
    }

    fn say(&self, what: &str, link: usize, bytes: &[u8]) {
        if self.is_verbose {
            let detail = match wire::kind(bytes) {
                Kind::SrtHandshake => wire::word32(bytes, 36).unwrap_or(0),
                _ => wire::word32(bytes, 0).unwrap_or(0) & 0x7fff_ffff,
            };
            let (elapsed, kind) = (self.elapsed(), wire::kind(bytes));
            eprintln!("{elapsed:>14?} {what:<14} link {link} {kind:?} {detail:#x} {} bytes", bytes.len());
        }
    }

    fn trace(&mut self, tag: u64, link: usize, bytes: &[u8]) {
        let words = [tag, link as u64, self.elapsed().as_nanos() as u64, checksum(bytes)];
        for word in words {
            self.trace_hash = (self.trace_hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        }
    }
}

/// The source address of a link as the receiver sees it, from the ranges reserved for documentation.
fn address(link: usize, moves: u16, ipv6: bool) -> SocketAddr {
    let host = 10 + link as u16 % 200;
    let port = 40_000 + moves % 20_000;
    if ipv6 {
        (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, host), port).into()
    } else {
        (Ipv4Addr::new(192, 0, 2, host as u8), port).into()
    }
}
