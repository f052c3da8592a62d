//! The C sender of BELABOX: one housekeeping tick per second does everything that is not an answer.
//!
//! Emulated: probe with the own ID on all links, NGP answered by one REG1 at a time, REG1 repeated each tick for 4 s,
//! first-half check, whole-second timeouts of 4 s, REG2 each second on dead links over the same socket, 2-byte
//! keepalives on idle links, plain window arithmetic, refusals and unknown types passed to the encoder, exit after 10 s
//! without a live link. Left out: reloading the list of addresses.

use std::time::{Duration, Instant};

use super::window::{Flavour, Windows};
use super::{BondingSender, Output};
use crate::rng::Rng;
use crate::wire::{self, GroupId, HALF_LEN, Kind};

const TICK: Duration = Duration::from_secs(1);
const LINK_TIMEOUT_S: u64 = 4;
const REG_TIMEOUT_S: u64 = 4;
const IDLE_S: u64 = 1;
const EXIT_S: u64 = 10;

const FLAVOUR: Flavour = Flavour {
    log_slots: 256,
    wrap_aware: false,
    remove_everywhere: false,
    every_link_grows: false,
    srt_ack_only_forward: false,
    nak_list_offset: 16,
};

#[derive(Clone, Debug, Default)]
struct Link {
    /// Second in which something that counts as life arrived; `None` while the link counts as dead.
    received_s: Option<u64>,
    /// Second of the last data or registration.
    sent_s: u64,
}

/// Emulator of the BELABOX C sender.
#[derive(Clone, Debug)]
pub struct BelaboxC {
    started: Instant,
    next_tick: Instant,
    id: GroupId,
    links: Vec<Link>,
    windows: Windows,
    reg1_link: Option<usize>,
    reg1_blocked_until_s: u64,
    links_active: usize,
    all_failed_at_s: Option<u64>,
    exited: bool,
}

impl BelaboxC {
    /// A sender over `links` links that starts at `now`.
    pub fn new(now: Instant, links: usize, seed: u64) -> Self {
        Self {
            started: now,
            next_tick: now,
            id: Rng::new(seed).bytes(),
            links: vec![Link::default(); links],
            windows: Windows::new(links, FLAVOUR),
            reg1_link: None,
            reg1_blocked_until_s: 0,
            links_active: 0,
            all_failed_at_s: None,
            exited: false,
        }
    }

    /// Whether the program has given up (it exits; its supervisor starts a new one).
    pub fn has_exited(&self) -> bool {
        self.exited
    }

    /// The program counts whole seconds of a clock that does not begin with its start.
    fn second(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.started).as_secs() + 1_000
    }

    fn is_timed_out(link: &Link, second: u64) -> bool {
        link.received_s.is_none_or(|at| at + LINK_TIMEOUT_S < second)
    }

    fn send_registration(&mut self, kind: u16, link: usize, second: u64, out: &mut Vec<Output>) {
        self.links[link].sent_s = second;
        if kind == wire::REG1 {
            self.reg1_link = Some(link);
        }
        out.push(Output::ToLink { link, bytes: wire::registration(kind, &self.id) });
    }

    fn housekeeping(&mut self, second: u64, out: &mut Vec<Output>) {
        if self.reg1_link.is_some() && second > self.reg1_blocked_until_s {
            self.reg1_link = None;
        }
        self.links_active = 0;
        for index in 0..self.links.len() {
            if Self::is_timed_out(&self.links[index], second) {
                if self.links[index].received_s.take().is_some() {
                    self.windows.reset(index);
                }
                match self.reg1_link {
                    None => self.send_registration(wire::REG2, index, second, out),
                    Some(link) if link == index => self.send_registration(wire::REG1, index, second, out),
                    Some(_) => {}
                }
                continue;
            }
            self.links_active += 1;
            if self.links[index].sent_s + IDLE_S < second {
                out.push(Output::ToLink { link: index, bytes: wire::KEEPALIVE.to_be_bytes().to_vec() });
            }
        }
        if self.links_active > 0 {
            self.all_failed_at_s = None;
        } else if second > *self.all_failed_at_s.get_or_insert(second) + EXIT_S {
            self.exited = true;
        }
    }
}

impl BondingSender for BelaboxC {
    fn handle_local(&mut self, now: Instant, bytes: &[u8], out: &mut Vec<Output>) {
        let second = self.second(now);
        let links = &self.links;
        let Some(link) = self.windows.select(|i| !Self::is_timed_out(&links[i], second)) else { return };
        if self.exited {
            return;
        }
        self.windows.sent(link, bytes);
        self.links[link].sent_s = second;
        out.push(Output::ToLink { link, bytes: bytes.to_vec() });
    }

    fn handle_link(&mut self, now: Instant, link: usize, bytes: &[u8], out: &mut Vec<Output>) {
        if self.exited || link >= self.links.len() {
            return;
        }
        let second = self.second(now);
        match wire::kind(bytes) {
            Kind::RegNgp => {
                let free = self.reg1_link.is_none() && second > self.reg1_blocked_until_s;
                if self.links_active == 0 && free {
                    self.send_registration(wire::REG1, link, second, out);
                    self.reg1_blocked_until_s = second + REG_TIMEOUT_S;
                }
                return;
            }
            Kind::Reg2 => {
                let Some(id) = wire::registration_id(bytes) else { return };
                if self.reg1_link != Some(link) || id[..HALF_LEN] != self.id[..HALF_LEN] {
                    return;
                }
                self.id = id;
                self.reg1_link = None;
                self.reg1_blocked_until_s = second + REG_TIMEOUT_S;
                for index in 0..self.links.len() {
                    self.send_registration(wire::REG2, index, second, out);
                }
                return;
            }
            Kind::Runt => return,
            _ => {}
        }
        self.links[link].received_s = Some(second);
        self.windows.heard(link);
        match wire::kind(bytes) {
            Kind::Reg3 => self.links_active += 1,
            Kind::Keepalive => {}
            Kind::SrtlaAck => self.windows.learn(bytes),
            _ => {
                self.windows.learn(bytes);
                out.push(Output::ToLocal(bytes.to_vec()));
            }
        }
    }

    fn handle_timeout(&mut self, now: Instant, out: &mut Vec<Output>) {
        if self.exited || now < self.next_tick {
            return;
        }
        self.next_tick = now + TICK;
        self.housekeeping(self.second(now), out);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        (!self.exited).then_some(self.next_tick)
    }

    fn links_up(&self, now: Instant) -> usize {
        let second = self.second(now);
        self.links.iter().filter(|link| !Self::is_timed_out(link, second)).count()
    }

    fn name(&self) -> &'static str {
        "belabox-c"
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
    fn registers_in_the_order_a_receiver_sees() {
        let t0 = Instant::now();
        let mut sender = BelaboxC::new(t0, 3, 1);
        let mut out = Vec::new();
        assert_eq!(sender.poll_timeout(), Some(t0));
        sender.handle_timeout(t0, &mut out);
        assert_eq!(kinds(&mut out), [(0, Kind::Reg2), (1, Kind::Reg2), (2, Kind::Reg2)]);
        sender.handle_link(t0, 1, &[0x92, 0x11], &mut out);
        sender.handle_link(t0, 0, &[0x92, 0x11], &mut out);
        assert_eq!(kinds(&mut out), [(1, Kind::Reg1)], "only the first NGP counts");
        // Nothing comes: REG1 again on the same link for four ticks, then probes on all.
        let mut seen = Vec::new();
        for s in 1..=5 {
            sender.handle_timeout(t0 + TICK * s, &mut out);
            seen.extend(kinds(&mut out));
        }
        let reg1 = (1, Kind::Reg1);
        assert_eq!(seen, [reg1, reg1, reg1, reg1, (0, Kind::Reg2), (1, Kind::Reg2), (2, Kind::Reg2)]);
    }

    #[test]
    fn believes_only_its_own_half_on_the_pending_link() {
        let t0 = Instant::now();
        let mut sender = BelaboxC::new(t0, 2, 1);
        let mut out = Vec::new();
        sender.handle_timeout(t0, &mut out);
        sender.handle_link(t0, 0, &[0x92, 0x11], &mut out);
        kinds(&mut out);
        let mut id = sender.id;
        id[200] ^= 1;
        let good = wire::registration(wire::REG2, &id);
        id[0] ^= 1;
        sender.handle_link(t0, 0, &wire::registration(wire::REG2, &id), &mut out);
        sender.handle_link(t0, 1, &good, &mut out);
        assert!(out.is_empty());
        sender.handle_link(t0, 0, &good, &mut out);
        assert_eq!(kinds(&mut out), [(0, Kind::Reg2), (1, Kind::Reg2)]);
        sender.handle_link(t0, 0, &[0x92, 0x02], &mut out);
        assert_eq!(sender.links_up(t0), 1);
        // Data goes to the link that is up; a refusal is passed on to the encoder and counts as life.
        sender.handle_local(t0, &[0; 20], &mut out);
        assert_eq!(kinds(&mut out), [(0, Kind::SrtData)]);
        sender.handle_link(t0, 1, &[0x92, 0x10], &mut out);
        assert_eq!(out, [Output::ToLocal(vec![0x92, 0x10])]);
        assert_eq!(sender.links_up(t0), 2);
    }

    #[test]
    fn exits_after_ten_seconds_without_a_link() {
        let t0 = Instant::now();
        let mut sender = BelaboxC::new(t0, 1, 1);
        let mut out = Vec::new();
        for s in 0..20 {
            sender.handle_timeout(t0 + TICK * s, &mut out);
            assert_eq!(sender.has_exited(), s > 10, "{s}");
        }
    }
}
