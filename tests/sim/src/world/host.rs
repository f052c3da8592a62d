//! The machine of the server: the receiver core in its wiring, and the SRT engine behind it.
//!
//! Promises: does with verdicts and actions what the daemon does, and nothing more, so that a world tests the cores and
//! not this file. Effects on the network come back as [`Effect`]s.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bondgate_auth::ticket::TicketKey;
use bondgate_proto::receiver::{
    Action, Actions, Admission, Clock, Command, DropReason, Receiver, SealedCopy, Secrets, Verdict,
};
use bondgate_proto::{GroupKey, LinkAddr};
use bondgate_srt::{AcceptOptions, ConnId, Endpoint, Event};
use bytes::Bytes;

use super::key;
use super::setup::{Direction, Output, SenderKind, Setup};
use crate::rng::Rng;

/// The epoch of all tickets in a world.
const EPOCH: u32 = 7;

/// Where an SRT engine's datagrams go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SrtPeer {
    /// The encoder's only peer.
    Server,
    /// The encoder behind an SRTLA group, in relay wiring.
    Group(GroupKey),
    /// The encoder behind a forwarder's source port, in forward wiring.
    Port(u16),
    /// An encoder without bonding.
    Plain(SocketAddr),
}

/// What the host wants done or noted.
pub enum Effect {
    /// A datagram to a sender's address.
    ToSender(SocketAddr, Vec<u8>),
    /// A datagram reached the SRT engine.
    ReachedServer(Vec<u8>),
    /// The receiver dropped a datagram.
    Dropped(Direction, DropReason, Vec<u8>),
    /// The SRT engine delivered a payload.
    Delivered(Bytes),
    /// A publisher's SRT session was set up.
    SessionBegan,
    /// The newest SRT session of a publisher ended.
    SessionEnded(String),
    /// A notice for people.
    Notice(String),
    /// Something a single-shard receiver must not do.
    Violation(String),
}

/// Receiver, forwarders and SRT engine.
pub struct Host {
    output: Output,
    receiver: Receiver,
    started: Instant,
    actions: Actions,
    server: Endpoint<SrtPeer>,
    forwarders: BTreeMap<GroupKey, u16>,
    next_port: u16,
    effects: Vec<Effect>,
    received_by_world: u64,
    /// The newest session of a publisher; older ones end without anybody missing them.
    publisher: Option<(SrtPeer, ConnId)>,
}

fn new_receiver(setup: &Setup, incarnation: u64, now: Instant, started: Instant) -> Receiver {
    let mut rng = Rng::new(setup.seed).fork(100 + incarnation);
    // The key is what survives a restart; the hash seed is what must not matter.
    let tickets = TicketKey::new(Rng::new(setup.seed).fork(99).bytes());
    let hash_seed = [rng.next_u64(), rng.next_u64()];
    let secrets = Secrets { tickets, cookies: rng.bytes(), nonces: rng.bytes() };
    let (clock, admission) = match setup.sender {
        SenderKind::BondgateKey(_) | SenderKind::BondgateDataMac(_) => {
            (key::clock(now, now.duration_since(started)), key::admission())
        }
        _ => (Clock { at: now, boot_ms: 0, wall_ms: 0 }, Admission::open()),
    };
    let admission = Arc::new(admission);
    Receiver::new(setup.receiver_config.clone(), secrets, admission, clock, hash_seed, EPOCH)
}

fn new_server(setup: &Setup, incarnation: u64, now: Instant) -> Endpoint<SrtPeer> {
    let mut rng = Rng::new(setup.seed).fork(200 + incarnation);
    let config = setup.endpoint_config_with_latency();
    Endpoint::new(config, rng.bytes(), rng.next_u64(), now)
}

impl Host {
    /// A host that has just started.
    pub fn new(setup: &Setup, now: Instant) -> Self {
        Self {
            output: setup.output,
            receiver: new_receiver(setup, 0, now, now),
            started: now,
            actions: Actions::with_capacity(1024, 256 * 1024),
            server: new_server(setup, 0, now),
            forwarders: BTreeMap::new(),
            next_port: 20_000,
            effects: Vec::new(),
            received_by_world: 0,
            publisher: None,
        }
    }

    /// The receiver process dies and starts again. In relay wiring the SRT engine goes with it.
    pub fn restart(&mut self, setup: &Setup, incarnation: u64, now: Instant) {
        self.receiver = new_receiver(setup, incarnation, now, self.started);
        self.actions.clear();
        self.received_by_world = 0;
        self.forwarders.clear();
        if self.output == Output::Relay {
            self.server = new_server(setup, incarnation, now);
            self.publisher = None;
        }
    }

    /// Closes all groups.
    pub fn close_groups(&mut self, now: Instant) {
        let groups: Vec<GroupKey> = self.receiver.snapshot(now).map(|group| group.key).collect();
        for group in groups {
            self.receiver.handle_command(now, Command::CloseGroup(group), &mut self.actions);
            self.run_actions(now);
        }
    }

    /// The receiver core, for questions.
    pub fn receiver(&self) -> &Receiver {
        &self.receiver
    }

    /// The SRT engine, for questions.
    pub fn server(&self) -> &Endpoint<SrtPeer> {
        &self.server
    }

    /// Datagrams handed to the receiver core since it started, both ways.
    pub fn received_by_world(&self) -> u64 {
        self.received_by_world
    }

    /// A datagram from a sender's address.
    pub fn uplink(&mut self, now: Instant, from: SocketAddr, bytes: &[u8]) {
        self.received_by_world += 1;
        let verdict = self.receiver.handle_uplink(now, LinkAddr::new(from), bytes, &mut self.actions);
        // Actions come first: they may open what the verdict needs.
        self.run_actions(now);
        match verdict {
            Verdict::Forward(group) => {
                let path =
                    self.receiver.last_link().and_then(|link| self.receiver.link_index(link)).unwrap_or(0);
                match bytes.get(..self.receiver.forwarded_len()) {
                    Some(packet) => self.forward(now, group, path, packet),
                    None => self.effects.push(Effect::Violation("forwards more than came".to_owned())),
                }
            }
            Verdict::ToLink(link) => match self.receiver.link_addr(link) {
                Some(addr) => self.effects.push(Effect::ToSender(addr.addr, bytes.to_vec())),
                None => self.effects.push(Effect::Violation(format!("echo to the unknown {link:?}"))),
            },
            Verdict::Consumed => {}
            Verdict::Drop(reason) => {
                self.effects.push(Effect::Dropped(Direction::Up, reason, bytes.to_vec()));
            }
            Verdict::FanOut(_) | Verdict::HandOff(_) => {
                self.effects.push(Effect::Violation(format!("verdict {verdict:?} on the uplink")));
            }
        }
    }

    /// A datagram of a plain SRT encoder.
    pub fn plain(&mut self, now: Instant, from: SocketAddr, bytes: &[u8]) {
        self.effects.push(Effect::ReachedServer(bytes.to_vec()));
        self.server.handle(now, SrtPeer::Plain(from), 0, bytes);
    }

    fn forward(&mut self, now: Instant, group: GroupKey, path: u8, bytes: &[u8]) {
        let peer = match self.output {
            Output::Relay => SrtPeer::Group(group),
            Output::Forward => SrtPeer::Port(self.port_of(group)),
        };
        self.effects.push(Effect::ReachedServer(bytes.to_vec()));
        // A forwarder's packets carry no path to a server elsewhere.
        let path = if self.output == Output::Relay { path } else { 0 };
        self.server.handle(now, peer, path, bytes);
    }

    fn port_of(&mut self, group: GroupKey) -> u16 {
        *self.forwarders.entry(group).or_insert_with(|| {
            self.next_port += 1;
            self.next_port
        })
    }

    fn run_actions(&mut self, now: Instant) {
        if self.actions.is_empty() {
            return;
        }
        let actions: Vec<(Action, Vec<u8>)> = self.actions.iter().map(|(a, b)| (a, b.to_vec())).collect();
        self.actions.clear();
        for (action, bytes) in actions {
            match action {
                Action::Reply { to } => self.effects.push(Effect::ToSender(to.addr, bytes)),
                Action::SendDownstream { group } => self.forward(now, group, 0, &bytes),
                Action::OpenForwarder(group) => {
                    self.port_of(group);
                }
                Action::CloseForwarder(group) => {
                    self.forwarders.remove(&group);
                    // In relay wiring, what the group's publisher has sent is still played.
                    let gone = self.publisher.filter(|(peer, _)| *peer == SrtPeer::Group(group));
                    if let Some((_, conn)) = gone {
                        self.server.drain(now, conn);
                    }
                }
                Action::Steer { .. } | Action::Unsteer { .. } => {}
                Action::Notice(notice) => self.effects.push(Effect::Notice(format!("{notice:?}"))),
            }
        }
    }

    /// Sends and reports what the SRT engine has ready. True if there was anything.
    pub fn pump(&mut self, now: Instant) -> bool {
        let mut busy = false;
        let mut buf = [0; 1500];
        while let Some(transmit) = self.server.poll_transmit(now, &mut buf) {
            busy = true;
            self.downlink(now, transmit.to, &buf[..transmit.len]);
        }
        while let Some(event) = self.server.poll_event() {
            busy = true;
            match event {
                Event::Incoming { id, .. } => {
                    // The engine's own latency is the floor; a full table refuses by itself.
                    let _ = self.server.accept(now, id, AcceptOptions::default());
                }
                Event::Connected { conn, peer, .. } => {
                    self.publisher = Some((peer, conn));
                    self.effects.push(Effect::SessionBegan);
                }
                Event::Data { payload, .. } => self.effects.push(Effect::Delivered(payload)),
                Event::Closed { conn, reason } if self.publisher.is_some_and(|(_, c)| c == conn) => {
                    self.publisher = None;
                    self.effects.push(Effect::SessionEnded(format!("{reason:?}")));
                }
                _ => {}
            }
        }
        busy
    }

    fn downlink(&mut self, now: Instant, to: SrtPeer, bytes: &[u8]) {
        let group = match to {
            SrtPeer::Group(group) => Some(group),
            SrtPeer::Port(port) => self.forwarders.iter().find(|(_, p)| **p == port).map(|(group, _)| *group),
            SrtPeer::Plain(addr) => return self.effects.push(Effect::ToSender(addr, bytes.to_vec())),
            SrtPeer::Server => None,
        };
        let Some(group) = group else { return };
        self.received_by_world += 1;
        let verdict = self.receiver.handle_downlink(now, group, bytes, &mut self.actions);
        self.run_actions(now);
        let Self { receiver, effects, .. } = self;
        receiver.sealed_copies(now, verdict, &mut SealedCopy::new(bytes), |to, sealed| {
            effects.push(Effect::ToSender(to.addr, sealed.to_vec()));
        });
        match verdict {
            Verdict::FanOut(group) => {
                let targets: Vec<SocketAddr> = self
                    .receiver
                    .live_links(now, group)
                    .filter(|(link, _)| !self.receiver.seals_data(*link))
                    .map(|(_, addr)| addr.addr)
                    .collect();
                self.effects.extend(targets.into_iter().map(|addr| Effect::ToSender(addr, bytes.to_vec())));
            }
            Verdict::ToLink(link) => {
                if let Some(addr) = self.receiver.link_addr(link).filter(|_| !self.receiver.seals_data(link))
                {
                    self.effects.push(Effect::ToSender(addr.addr, bytes.to_vec()));
                }
            }
            Verdict::Drop(reason) => {
                self.effects.push(Effect::Dropped(Direction::Down, reason, bytes.to_vec()));
            }
            Verdict::Consumed => {}
            Verdict::Forward(_) | Verdict::HandOff(_) => {
                self.effects.push(Effect::Violation(format!("verdict {verdict:?} on the downlink")));
            }
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.receiver.poll_timeout().is_some_and(|at| at <= now) {
            self.receiver.handle_timeout(now, &mut self.actions);
            self.run_actions(now);
        }
        if self.server.poll_timeout().is_some_and(|at| at <= now) {
            self.server.handle_timeout(now);
        }
    }

    /// When something is due next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        [self.receiver.poll_timeout(), self.server.poll_timeout()].into_iter().flatten().min()
    }

    /// Takes what happened since the last call.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }
}
