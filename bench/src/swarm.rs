//! Many bonding senders at once: registers all links for real, then offers datagrams by the clock.
//!
//! Promise: datagram `n` is due at `start + n / rate` whatever the receiver does, and carries that time; how late the
//! generator itself was is told. What is sent where depends on the number alone. Never allocates while it sends.

mod register;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use bondgate_ebpf_common::bench::Place;

use crate::frame::{Stamp, Template};
use register::Registration;
pub use register::{Key, SwarmAuth};

/// Datagrams offered in one go at most, so that what comes back is looked at in between.
const OFFER_MAX: u32 = 128;
/// Length of the keepalives sent: type and time, as Moblin's.
const KEEPALIVE_LEN: usize = 10;

/// What to offer.
#[derive(Clone, Debug)]
pub struct Load {
    /// Groups, and links of each.
    pub groups: u32,
    /// See `groups`.
    pub links: u32,
    /// The first so many groups carry data.
    pub active_groups: u32,
    /// Datagrams per second; 0: as many as possible.
    pub rate_pps: u64,
    /// Datagrams in a row on one link.
    pub burst: u32,
    /// Length of a datagram.
    pub datagram_bytes: usize,
    /// Share of datagrams that is lost before the receiver.
    pub loss: f64,
    /// Share that is sent on a second link as well.
    pub duplicates: f64,
    /// Interval of each link's keepalives.
    pub keepalive: Option<Duration>,
    /// Registration packets per second at most.
    pub registrations_per_s: Option<u32>,
    /// Names the run in every datagram.
    pub magic: u32,
}

impl Load {
    fn place(&self, number: u64) -> Place {
        Place::of(number, self.burst, self.active_groups, self.links)
    }

    /// When a datagram is due, in ns since the start; a burst is due at once.
    fn due_ns(&self, number: u64) -> u64 {
        let burst = u64::from(self.burst.max(1));
        let first = number / burst * burst;
        (u128::from(first) * 1_000_000_000 / u128::from(self.rate_pps.max(1))) as u64
    }
}

/// What a swarm has counted so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SwarmCounters {
    /// Datagrams of the load that were sent, each once.
    pub sent: u64,
    /// Datagrams lost on purpose.
    pub lost: u64,
    /// Datagrams sent a second time on purpose.
    pub duplicated: u64,
    /// Keepalives sent.
    pub keepalives: u64,
    /// Keepalives that came back.
    pub echoes: u64,
    /// SRTLA ACKs that came back.
    pub srtla_acks: u64,
    /// Numbers in them.
    pub srtla_acked: u64,
    /// Copies of SRT ACKs that came back.
    pub srt_acks: u64,
    /// Registration packets sent.
    pub registrations: u64,
    /// Refusals that came back.
    pub refused: u64,
    /// Anything else that came back.
    pub other: u64,
    /// The latest that a datagram was sent after it was due, in ns.
    pub late_ns_max: u64,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    is_up: bool,
    tried_at: Option<Instant>,
}

/// The senders.
#[derive(Debug)]
pub struct Swarm {
    load: Load,
    links: Vec<Link>,

    registration: Registration,
    template: Template,
    rng: fastrand::Rng,
    /// Since when datagrams are due, once sending has begun.
    start: Option<Instant>,
    origin: Instant,
    next: u64,
    /// Which numbers were lost on purpose so far, in order.
    lost_numbers: Vec<u64>,
    keepalive_from: Option<Instant>,
    keepalives: u64,
    /// What was counted.
    pub counters: SwarmCounters,
}

impl Swarm {
    /// Senders of this load. Links are numbered: all of group 0, then those of group 1, and so on. Times in datagrams count
    /// from `origin`.
    pub fn new(load: Load, auth: SwarmAuth, origin: Instant) -> Self {
        let links = load.groups as usize * load.links as usize;
        Self {
            links: vec![Link { is_up: false, tried_at: None }; links],
            registration: Registration::new(auth, load.groups, load.links, load.registrations_per_s),
            template: Template::new(load.datagram_bytes, load.magic),
            rng: fastrand::Rng::with_seed(u64::from(load.magic)),
            start: None,
            origin,
            next: 0,
            lost_numbers: Vec::new(),
            keepalive_from: None,
            keepalives: 0,
            counters: SwarmCounters::default(),
            load,
        }
    }

    /// Links that are registered, and all.
    pub fn links_up(&self) -> (usize, usize) {
        (self.registration.links_up(), self.links.len())
    }

    /// Whether all links of the first `groups` groups are registered.
    pub fn groups_up(&self, groups: u32) -> bool {
        let links = groups as usize * self.load.links as usize;
        self.links.iter().take(links).all(|link| link.is_up)
    }

    /// From now on datagrams are due.
    pub fn start(&mut self, now: Instant) {
        self.start = Some(now);
    }

    /// Tells the receiver which stream each group wants, where it demands that.
    pub fn call(&self, mut send: impl FnMut(u32, &[u8])) {
        if !self.registration.needs_call() {
            return;
        }
        for group in 0..self.load.active_groups {
            send(group * self.load.links, &register::call(group));
        }
    }

    /// No more datagrams; what else there is goes on.
    pub fn stop(&mut self) {
        self.start = None;
    }

    /// The next number to be sent.
    pub fn next_number(&self) -> u64 {
        self.next
    }

    /// How many of the numbers `from..to` were lost on purpose.
    pub fn lost_between(&self, from: u64, to: u64) -> u64 {
        let index = |number| self.lost_numbers.partition_point(|&lost| lost < number);
        (index(to) - index(from)) as u64
    }

    /// When something is due next; `None`: at once, or nobody knows.
    pub fn idle_until(&self) -> Option<Instant> {
        let start = self.start?;
        if self.load.rate_pps == 0 || self.registration.links_up() < self.links.len() {
            return None;
        }
        Some(start + Duration::from_nanos(self.load.due_ns(self.next)))
    }

    /// Takes what came back to a link.
    pub fn datagram(&mut self, now: Instant, index: u32, bytes: &[u8]) {
        match bytes {
            [0x91, 0x00, ..] => {
                self.counters.srtla_acks += 1;
                // A device's ACK has a trailer behind its ten numbers at most.
                self.counters.srtla_acked += (bytes.len().saturating_sub(4) / 4).min(10) as u64;
            }
            [0x80, 0x02, ..] => self.counters.srt_acks += 1,
            [0x90, 0x00, ..] => self.counters.echoes += 1,
            [0x92, 0x10 | 0x12, ..] => self.counters.refused += 1,
            [0x92, ..] => {
                if self.registration.answer(now, index, bytes)
                    && let Some(link) = self.links.get_mut(index as usize)
                {
                    link.is_up = true;
                }
            }
            _ => self.counters.other += 1,
        }
    }

    /// Sends what is due: registrations, keepalives, datagrams.
    pub fn send_due(&mut self, now: Instant, mut send: impl FnMut(u32, &[u8])) {
        if self.registration.links_up() < self.links.len() {
            let links = &mut self.links;
            self.counters.registrations += self.registration.ask(now, links, &mut send);
        }
        self.send_keepalives(now, &mut send);
        let Some(start) = self.start else { return };
        let elapsed_ns = now.duration_since(start).as_nanos() as u64;
        for _ in 0..OFFER_MAX {
            let due_ns = if self.load.rate_pps == 0 { elapsed_ns } else { self.load.due_ns(self.next) };
            if due_ns > elapsed_ns {
                break;
            }
            self.counters.late_ns_max = self.counters.late_ns_max.max(elapsed_ns - due_ns);
            let intended_ns = start.duration_since(self.origin).as_nanos() as u64 + due_ns;
            self.send_next(intended_ns, &mut send);
        }
    }

    fn send_next(&mut self, intended_ns: u64, send: &mut impl FnMut(u32, &[u8])) {
        let number = self.next;
        self.next += 1;
        if self.load.loss > 0.0 && self.rng.f64() < self.load.loss {
            self.counters.lost += 1;
            self.lost_numbers.push(number);
            return;
        }
        let place = self.load.place(number);
        let stamp = Stamp { group: place.group, number, intended_ns };
        let bytes = self.template.fill(&stamp, place.sequence);
        let first = place.group * self.load.links;
        send(first + place.link, bytes);
        self.counters.sent += 1;
        if self.load.duplicates > 0.0 && self.rng.f64() < self.load.duplicates {
            send(first + (place.link + 1) % self.load.links.max(1), bytes);
            self.counters.duplicated += 1;
        }
    }

    /// Keepalives are spread evenly over their interval.
    fn send_keepalives(&mut self, now: Instant, send: &mut impl FnMut(u32, &[u8])) {
        let (Some(every), false) = (self.load.keepalive, self.links.is_empty()) else { return };
        let from = *self.keepalive_from.get_or_insert(now);
        let rounds = now.duration_since(from).as_secs_f64() / every.as_secs_f64();
        let due = (rounds * self.links.len() as f64) as u64;
        let mut keepalive = [0; KEEPALIVE_LEN];
        let ms = now.duration_since(self.origin).as_millis() as u64;
        keepalive[..2].copy_from_slice(&[0x90, 0]);
        keepalive[2..].copy_from_slice(&ms.to_be_bytes());
        for _ in 0..due.saturating_sub(self.keepalives).min(64) {
            let index = (self.keepalives % self.links.len() as u64) as usize;
            self.keepalives += 1;
            if self.links.get(index).is_some_and(|link| link.is_up) {
                send(index as u32, &keepalive);
                self.counters.keepalives += 1;
            }
        }
    }
}
