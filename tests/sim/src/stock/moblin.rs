//! The client inside the Moblin app.
//!
//! Emulated: a probe REG2 per link with its own random ID, the first NGP (and no later one) answered by REG1 with another
//! fresh ID, REG2 believed only with exactly 258 bytes and the right first half on that link, REG1 never repeated, REG3
//! counted only while waited for, the local SRT port open only after the first REG3, 10-byte timestamped keepalives each
//! second on every registered link, a new socket 5 s after a silent or unregistered one, data flushed at more than 15
//! packets or 15 ms, unknown types swallowed. Left out: interface priorities, and the app's restart of the whole client
//! when the SRT session dies or does not come up (a world does that by making a new client).

use std::time::{Duration, Instant};

use super::window::{Flavour, Windows};
use super::{BondingSender, Output};
use crate::rng::Rng;
use crate::wire::{self, GroupId, HALF_LEN, Kind, REG_LEN};

const KEEPALIVE_EVERY: Duration = Duration::from_secs(1);
const LINK_TIMEOUT: Duration = Duration::from_secs(5);
const FLUSH_AFTER: Duration = Duration::from_millis(15);
const FLUSH_PACKETS: usize = 15;

const FLAVOUR: Flavour = Flavour {
    log_slots: usize::MAX,
    wrap_aware: true,
    remove_everywhere: true,
    every_link_grows: true,
    srt_ack_only_forward: false,
    nak_list_offset: 16,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LinkState {
    /// The socket is open; nothing to say yet.
    ShouldRegister,
    /// REG2 with the group's ID is out.
    WaitForRegisterResponse,
    /// REG3 came.
    Registered,
}

#[derive(Clone, Debug)]
struct Link {
    state: LinkState,
    opened_at: Instant,
    last_heard: Instant,
    keepalive_at: Instant,
    own_id: GroupId,
    queue: Vec<Vec<u8>>,
    flush_at: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ClientState {
    WaitForProbe,
    WaitForGroupId { link: usize },
    WaitForRegistered,
    Running,
}

/// Emulator of the Moblin client.
#[derive(Clone, Debug)]
pub struct Moblin {
    started: Instant,
    is_started: bool,
    rng: Rng,
    state: ClientState,
    group_id: Option<GroupId>,
    links: Vec<Link>,
    windows: Windows,
}

impl Moblin {
    /// A client over `links` interfaces that starts at `now`.
    pub fn new(now: Instant, links: usize, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let links: Vec<_> = (0..links)
            .map(|_| Link {
                state: LinkState::ShouldRegister,
                opened_at: now,
                last_heard: now,
                keepalive_at: now,
                own_id: rng.bytes(),
                queue: Vec::new(),
                flush_at: None,
            })
            .collect();
        Self {
            started: now,
            is_started: false,
            rng,
            state: ClientState::WaitForProbe,
            group_id: None,
            windows: Windows::new(links.len(), FLAVOUR),
            links,
        }
    }

    fn is_running(&self) -> bool {
        self.state == ClientState::Running
    }

    /// What a link says when its socket is ready.
    fn socket_ready(&mut self, now: Instant, index: usize, out: &mut Vec<Output>) {
        let link = &mut self.links[index];
        link.opened_at = now;
        link.last_heard = now;
        link.state = LinkState::ShouldRegister;
        link.queue.clear();
        link.flush_at = None;
        if self.group_id.is_some() {
            self.send_join(index, out);
        } else if self.state == ClientState::WaitForProbe {
            link.own_id = self.rng.bytes();
            out.push(Output::ToLink { link: index, bytes: wire::registration(wire::REG2, &link.own_id) });
        }
    }

    fn send_join(&mut self, index: usize, out: &mut Vec<Output>) {
        let Some(id) = self.group_id else { return };
        self.links[index].state = LinkState::WaitForRegisterResponse;
        out.push(Output::ToLink { link: index, bytes: wire::registration(wire::REG2, &id) });
    }

    fn flush(&mut self, index: usize, out: &mut Vec<Output>) {
        let link = &mut self.links[index];
        link.flush_at = None;
        out.extend(link.queue.drain(..).map(|bytes| Output::ToLink { link: index, bytes }));
    }

    /// When a link, silent or without answer, gets a new socket.
    fn dead_at(&self, index: usize) -> Instant {
        let link = &self.links[index];
        let since = if link.state == LinkState::Registered { link.last_heard } else { link.opened_at };
        since + LINK_TIMEOUT
    }
}

impl BondingSender for Moblin {
    fn handle_local(&mut self, now: Instant, bytes: &[u8], out: &mut Vec<Output>) {
        if !self.is_running() {
            return;
        }
        let links = &self.links;
        let Some(index) = self.windows.select(|i| links[i].state == LinkState::Registered) else { return };
        self.windows.sent(index, bytes);
        let link = &mut self.links[index];
        link.queue.push(bytes.to_vec());
        link.flush_at.get_or_insert(now + FLUSH_AFTER);
        if link.queue.len() > FLUSH_PACKETS {
            self.flush(index, out);
        }
    }

    fn handle_link(&mut self, now: Instant, link: usize, bytes: &[u8], out: &mut Vec<Output>) {
        if link >= self.links.len() {
            return;
        }
        self.links[link].last_heard = now;
        match wire::kind(bytes) {
            Kind::RegNgp if self.state == ClientState::WaitForProbe => {
                let id = self.rng.bytes();
                self.links[link].own_id = id;
                self.state = ClientState::WaitForGroupId { link };
                out.push(Output::ToLink { link, bytes: wire::registration(wire::REG1, &id) });
            }
            Kind::Reg2 if self.state == (ClientState::WaitForGroupId { link }) && bytes.len() == REG_LEN => {
                let Some(id) = wire::registration_id(bytes) else { return };
                if id[..HALF_LEN] == self.links[link].own_id[..HALF_LEN] {
                    self.group_id = Some(id);
                    self.state = ClientState::WaitForRegistered;
                    (0..self.links.len()).for_each(|index| self.send_join(index, out));
                }
            }
            Kind::Reg3 if self.links[link].state == LinkState::WaitForRegisterResponse => {
                self.links[link].state = LinkState::Registered;
                self.links[link].keepalive_at = now + KEEPALIVE_EVERY;
                self.state = ClientState::Running;
            }
            Kind::SrtlaAck if bytes.len().is_multiple_of(4) => self.windows.learn(bytes),
            Kind::Keepalive
            | Kind::Reg1
            | Kind::Reg2
            | Kind::Reg3
            | Kind::RegErr
            | Kind::RegNgp
            | Kind::SrtlaAck
            | Kind::OtherSrtla
            | Kind::Runt => {}
            _ if self.is_running() => {
                self.windows.learn(bytes);
                out.push(Output::ToLocal(bytes.to_vec()));
            }
            _ => {}
        }
    }

    fn handle_timeout(&mut self, now: Instant, out: &mut Vec<Output>) {
        if !self.is_started {
            self.is_started = true;
            (0..self.links.len()).for_each(|index| self.socket_ready(now, index, out));
            return;
        }
        for index in 0..self.links.len() {
            if self.links[index].flush_at.is_some_and(|at| now >= at) {
                self.flush(index, out);
            }
            if now >= self.dead_at(index) {
                self.windows.reset(index);
                out.push(Output::NewSocket(index));
                self.socket_ready(now, index, out);
            } else if self.links[index].state == LinkState::Registered
                && now >= self.links[index].keepalive_at
            {
                self.links[index].keepalive_at = now + KEEPALIVE_EVERY;
                let elapsed_ms = now.saturating_duration_since(self.started).as_millis() as i64;
                let mut bytes = wire::KEEPALIVE.to_be_bytes().to_vec();
                bytes.extend(elapsed_ms.to_be_bytes());
                out.push(Output::ToLink { link: index, bytes });
            }
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        if !self.is_started {
            return Some(self.started);
        }
        let of_link = |index: usize| {
            let link = &self.links[index];
            let keepalive_at = (link.state == LinkState::Registered).then_some(link.keepalive_at);
            [Some(self.dead_at(index)), link.flush_at, keepalive_at].into_iter().flatten()
        };
        (0..self.links.len()).flat_map(of_link).min()
    }

    fn links_up(&self, _now: Instant) -> usize {
        self.links.iter().filter(|link| link.state == LinkState::Registered).count()
    }

    fn name(&self) -> &'static str {
        "moblin"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(out: &mut Vec<Output>) -> Vec<(usize, Vec<u8>)> {
        out.drain(..)
            .filter_map(|o| match o {
                Output::ToLink { link, bytes } => Some((link, bytes)),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn registers_with_a_fresh_id_and_never_repeats_reg1() {
        let t0 = Instant::now();
        let mut client = Moblin::new(t0, 2, 5);
        let mut out = Vec::new();
        client.handle_timeout(t0, &mut out);
        let probes = sent(&mut out);
        assert_eq!(
            probes.iter().map(|(l, b)| (*l, wire::kind(b))).collect::<Vec<_>>(),
            [(0, Kind::Reg2), (1, Kind::Reg2)]
        );
        assert_ne!(probes[0].1, probes[1].1);
        client.handle_link(t0, 1, &[0x92, 0x11], &mut out);
        client.handle_link(t0, 0, &[0x92, 0x11], &mut out);
        let reg1 = sent(&mut out);
        assert_eq!((reg1.len(), reg1[0].0, wire::kind(&reg1[0].1)), (1, 1, Kind::Reg1));
        assert_ne!(reg1[0].1[2..], probes[1].1[2..]);
        // Nothing but new sockets follows, without a word on them.
        let mut now = t0;
        while now < t0 + Duration::from_secs(20) {
            now = client.poll_timeout().unwrap();
            client.handle_timeout(now, &mut out);
        }
        assert!(out.iter().all(|o| matches!(o, Output::NewSocket(_))), "{out:?}");
        assert_eq!(client.links_up(now), 0);
    }

    #[test]
    fn wants_exactly_258_bytes_with_its_own_half() {
        let t0 = Instant::now();
        let mut client = Moblin::new(t0, 2, 5);
        let mut out = Vec::new();
        client.handle_timeout(t0, &mut out);
        client.handle_link(t0, 0, &[0x92, 0x11], &mut out);
        let mut answer = sent(&mut out).pop().unwrap().1;
        answer[1] = 0x01;
        answer[200] ^= 0xff;
        let mut long = answer.clone();
        long.push(0);
        client.handle_link(t0, 0, &long, &mut out);
        client.handle_link(t0, 1, &answer, &mut out);
        assert!(out.is_empty());
        client.handle_link(t0, 0, &answer, &mut out);
        assert_eq!(sent(&mut out), [(0, answer.clone()), (1, answer)]);
        client.handle_local(t0, &[0; 20], &mut out);
        assert!(out.is_empty(), "the local port opens with the first REG3");
        client.handle_link(t0, 1, &[0x92, 0x02], &mut out);
        client.handle_local(t0, &[0; 20], &mut out);
        assert!(out.is_empty(), "held for the flush");
        let flush = client.poll_timeout().unwrap();
        assert_eq!(flush, t0 + FLUSH_AFTER);
        client.handle_timeout(flush, &mut out);
        assert_eq!(sent(&mut out), [(1, vec![0; 20])]);
    }
}
