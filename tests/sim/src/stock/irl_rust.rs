//! irlserver's Rust sender in classic mode.
//!
//! Emulated: probing with a separate ID for up to 2 s and REG1 on the fastest link, one REG1 per try with a 4 s wait and
//! no repeat, no check of any ID byte, broadcast of the joins at the next tick, REG3 required before a link carries
//! data, 38-byte keepalives each second, 5 s link timeout with a new socket and growing pauses, REG1 on two links when
//! two NGPs arrive together, SRT ACKs handed over twice, NAKs read from the wrong offset, SRT ACKs at or below the
//! highest ever seen ignored. Left out: the enhanced scheduler with its probes, and the exit after 10 s.

use std::time::{Duration, Instant};

use super::window::{Flavour, Windows};
use super::{BondingSender, Output};
use crate::rng::Rng;
use crate::wire::{self, GroupId, Kind};

const TICK: Duration = Duration::from_secs(1);
const PROBE_WINDOW: Duration = Duration::from_secs(2);
const REG2_WAIT: Duration = Duration::from_secs(4);
const REG_ERR_BAR: Duration = Duration::from_secs(4);
const LINK_TIMEOUT: Duration = Duration::from_secs(5);
const BACKOFF_FIRST: Duration = Duration::from_secs(5);
const BACKOFF_MAX: Duration = Duration::from_secs(120);
const BACKOFF_BEFORE_SUCCESS: Duration = Duration::from_secs(1);
/// NGPs this close together make two links send REG1: the first is not yet noted when the second is read.
const SAME_INSTANT: Duration = Duration::from_millis(1);

const FLAVOUR: Flavour = Flavour {
    log_slots: 4096,
    wrap_aware: false,
    remove_everywhere: false,
    every_link_grows: false,
    srt_ack_only_forward: true,
    nak_list_offset: 4,
};

#[derive(Clone, Debug)]
struct Link {
    connected: bool,
    ever_connected: bool,
    last_heard: Instant,
    retry_at: Instant,
    failures: u32,
    probe_rtt: Option<Duration>,
    nak_count: u32,
}

#[derive(Clone, Copy, Debug)]
struct Reg1Pending {
    link: usize,
    sent_at: Instant,
}

/// Emulator of irlserver's Rust sender.
#[derive(Clone, Debug)]
pub struct IrlRust {
    started: Instant,
    next_tick: Instant,
    id: GroupId,
    probe_id: GroupId,
    links: Vec<Link>,
    windows: Windows,
    probing: bool,
    pending: Option<Reg1Pending>,
    barred_until: Instant,
    join_at_next_tick: bool,
}

impl IrlRust {
    /// A sender over `links` links that starts at `now`.
    pub fn new(now: Instant, links: usize, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let link = Link {
            connected: false,
            ever_connected: false,
            last_heard: now,
            retry_at: now,
            failures: 0,
            probe_rtt: None,
            nak_count: 0,
        };
        Self {
            started: now,
            next_tick: now,
            id: rng.bytes(),
            probe_id: rng.bytes(),
            links: vec![link; links],
            windows: Windows::new(links, FLAVOUR),
            probing: true,
            pending: None,
            barred_until: now,
            join_at_next_tick: false,
        }
    }

    fn any_connected(&self) -> bool {
        self.links.iter().any(|link| link.connected)
    }

    fn send_reg1(&mut self, now: Instant, link: usize, out: &mut Vec<Output>) {
        self.pending = Some(Reg1Pending { link, sent_at: now });
        out.push(Output::ToLink { link, bytes: wire::registration(wire::REG1, &self.id) });
    }

    fn join_all(&mut self, out: &mut Vec<Output>) {
        for link in 0..self.links.len() {
            out.push(Output::ToLink { link, bytes: wire::registration(wire::REG2, &self.id) });
        }
    }

    fn handle_ngp(&mut self, now: Instant, link: usize, out: &mut Vec<Output>) {
        if self.probing {
            self.links[link].probe_rtt.get_or_insert(now.saturating_duration_since(self.started));
            return;
        }
        let pending = self.pending.is_some_and(|p| now > p.sent_at + SAME_INSTANT || p.link == link);
        if !self.any_connected() && !pending && now >= self.barred_until {
            self.send_reg1(now, link, out);
        }
    }

    fn reconnect(&mut self, now: Instant, index: usize, out: &mut Vec<Output>) {
        let link = &mut self.links[index];
        link.connected = false;
        if now < link.retry_at {
            return;
        }
        let pause = if link.ever_connected {
            (BACKOFF_FIRST * 2_u32.pow(link.failures.min(5))).min(BACKOFF_MAX)
        } else {
            BACKOFF_BEFORE_SUCCESS
        };
        link.retry_at = now + pause;
        link.failures += 1;
        self.windows.reset(index);
        out.push(Output::NewSocket(index));
        out.push(Output::ToLink { link: index, bytes: wire::registration(wire::REG2, &self.id) });
    }

    /// The extended keepalive: timestamp, then magic, version, connection, window, in flight, RTT, NAKs, bytes per s.
    fn keepalive(&self, now: Instant, index: usize) -> Vec<u8> {
        let elapsed_ms = now.saturating_duration_since(self.started).as_millis() as u64;
        let mut bytes = wire::KEEPALIVE.to_be_bytes().to_vec();
        bytes.extend(elapsed_ms.to_be_bytes());
        bytes.extend([0xc0, 0x1f, 0x00, 0x01]);
        bytes.extend((index as u32).to_be_bytes());
        bytes.extend((self.windows.window(index) as i32).to_be_bytes());
        bytes.extend((self.windows.in_flight(index) as i32).to_be_bytes());
        bytes.extend(0_u32.to_be_bytes());
        bytes.extend(self.links[index].nak_count.to_be_bytes());
        bytes.extend(0_u32.to_be_bytes());
        bytes
    }
}

impl BondingSender for IrlRust {
    fn handle_local(&mut self, _now: Instant, bytes: &[u8], out: &mut Vec<Output>) {
        let links = &self.links;
        let connected = self.windows.select(|i| links[i].connected);
        let registering = !links.iter().any(|link| link.ever_connected);
        let Some(link) = connected.or((registering && !links.is_empty()).then_some(0)) else { return };
        self.windows.sent(link, bytes);
        out.push(Output::ToLink { link, bytes: bytes.to_vec() });
    }

    fn handle_link(&mut self, now: Instant, link: usize, bytes: &[u8], out: &mut Vec<Output>) {
        if link >= self.links.len() {
            return;
        }
        match wire::kind(bytes) {
            Kind::Runt => {}
            Kind::RegNgp => self.handle_ngp(now, link, out),
            Kind::Reg2 => {
                let Some(id) = wire::registration_id(bytes) else { return };
                if self.pending.is_some_and(|p| p.link == link) {
                    self.id = id;
                    self.pending = None;
                    self.join_at_next_tick = true;
                }
            }
            Kind::Reg3 => {
                let state = &mut self.links[link];
                state.connected = true;
                state.ever_connected = true;
                state.failures = 0;
                state.retry_at = now;
                state.last_heard = now;
                state.nak_count = 0;
                self.windows.heard(link);
                self.windows.forget_in_flight(link);
            }
            Kind::RegErr => {
                self.links[link].connected = false;
                self.pending = None;
                self.barred_until = now + REG_ERR_BAR;
            }
            kind => {
                self.links[link].last_heard = now;
                self.windows.heard(link);
                self.windows.learn(bytes);
                match kind {
                    Kind::Keepalive | Kind::SrtlaAck => {}
                    Kind::SrtAck => {
                        // Known mistake: two paths hand it over.
                        out.push(Output::ToLocal(bytes.to_vec()));
                        out.push(Output::ToLocal(bytes.to_vec()));
                    }
                    _ => {
                        self.links[link].nak_count += u32::from(kind == Kind::SrtNak);
                        out.push(Output::ToLocal(bytes.to_vec()));
                    }
                }
            }
        }
    }

    fn handle_timeout(&mut self, now: Instant, out: &mut Vec<Output>) {
        if now < self.next_tick {
            return;
        }
        self.next_tick = now + TICK;
        if now == self.started {
            let probe = wire::registration(wire::REG2, &self.probe_id);
            out.extend((0..self.links.len()).map(|link| Output::ToLink { link, bytes: probe.clone() }));
            return;
        }
        if self.pending.is_some_and(|p| now >= p.sent_at + REG2_WAIT) {
            self.pending = None;
        }
        let all_answered = self.links.iter().all(|link| link.probe_rtt.is_some());
        if self.probing && (all_answered || now >= self.started + PROBE_WINDOW) {
            self.probing = false;
            let fastest = (0..self.links.len())
                .min_by_key(|&i| (self.links[i].probe_rtt.unwrap_or(Duration::MAX), i))
                .unwrap_or(0);
            self.send_reg1(now, fastest, out);
        }
        if std::mem::take(&mut self.join_at_next_tick) {
            self.join_all(out);
            return;
        }
        for link in 0..self.links.len() {
            if now >= self.links[link].last_heard + LINK_TIMEOUT {
                self.reconnect(now, link, out);
            } else if self.links[link].connected {
                let bytes = self.keepalive(now, link);
                out.push(Output::ToLink { link, bytes });
            }
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        Some(self.next_tick)
    }

    fn links_up(&self, _now: Instant) -> usize {
        self.links.iter().filter(|link| link.connected).count()
    }

    fn name(&self) -> &'static str {
        "irl-rust"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(out: &mut Vec<Output>) -> Vec<(usize, Kind)> {
        out.drain(..)
            .filter_map(|o| match o {
                Output::ToLink { link, bytes } => Some((link, wire::kind(&bytes))),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn registration_takes_two_ticks_by_design() {
        let t0 = Instant::now();
        let ms = Duration::from_millis;
        let mut sender = IrlRust::new(t0, 2, 3);
        let mut out = Vec::new();
        sender.handle_timeout(t0, &mut out);
        assert_eq!(kinds(&mut out), [(0, Kind::Reg2), (1, Kind::Reg2)]);
        sender.handle_link(t0 + ms(40), 1, &[0x92, 0x11], &mut out);
        sender.handle_link(t0 + ms(60), 0, &[0x92, 0x11], &mut out);
        assert!(out.is_empty());
        sender.handle_timeout(t0 + TICK, &mut out);
        assert_eq!(kinds(&mut out), [(1, Kind::Reg1)], "the fastest link");
        let answer = wire::registration(wire::REG2, &[7; 256]);
        sender.handle_link(t0 + ms(1040), 1, &answer, &mut out);
        assert!(out.is_empty());
        sender.handle_timeout(t0 + TICK * 2, &mut out);
        assert_eq!(kinds(&mut out), [(0, Kind::Reg2), (1, Kind::Reg2)]);
        sender.handle_link(t0 + ms(2040), 0, &[0x92, 0x02], &mut out);
        assert_eq!(sender.links_up(t0 + ms(2040)), 1);
        sender.handle_timeout(t0 + TICK * 3, &mut out);
        let keepalive = match &out[..] {
            [Output::ToLink { link: 0, bytes }] => bytes.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!((keepalive.len(), &keepalive[10..14]), (38, &[0xc0, 0x1f, 0, 1][..]));
    }

    #[test]
    fn reg1_is_not_repeated_within_four_seconds_and_then_waits_for_an_ngp() {
        let t0 = Instant::now();
        let mut sender = IrlRust::new(t0, 1, 3);
        let mut out = Vec::new();
        sender.handle_timeout(t0, &mut out);
        sender.handle_link(t0, 0, &[0x92, 0x11], &mut out);
        let mut reg1_at = Vec::new();
        kinds(&mut out);
        for s in 1..=12 {
            let now = t0 + TICK * s;
            sender.handle_timeout(now, &mut out);
            if kinds(&mut out).contains(&(0, Kind::Reg2)) {
                sender.handle_link(now, 0, &[0x92, 0x11], &mut out);
            }
            reg1_at.extend(kinds(&mut out).iter().filter(|k| k.1 == Kind::Reg1).map(|_| s));
        }
        // The first is not among them: its kinds were taken with the probe answers' tick.
        assert_eq!(reg1_at, [5, 9]);
    }
}
