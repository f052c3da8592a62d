//! The storm: a whole bonded conversation in virtual time, and mutated copies of its own datagrams thrown into every door.
//!
//! An encoder (SRT caller) publishes through the bonding sender and three links to the receiver and the SRT endpoint; a player
//! pulls the stream from the endpoint. Every genuine datagram is remembered, and mutants of recent ones are handed to
//! receiver and endpoint, as if they came from the links, from strangers, from the player; a smaller share goes to sender, encoder
//! and player. So mutants carry live IDs, cookies, socket IDs and sequence numbers, and reach as deep as a peer can.
//!
//! Checked: no panic; every datagram accounted for by all four counters of record; bytes in use do not grow from the second
//! fifth of the run on; the conversation goes on: mutants may end a session (a forged SHUTDOWN is a SHUTDOWN), and then a new
//! one must come up.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bondgate_auth::ticket::TicketKey;
use bondgate_proto::receiver::{
    Action, Actions, Admission, Clock, DropReason, Receiver, ReceiverConfig, Secrets, Verdict,
};
use bondgate_proto::sender::{
    LinkIndex, LinkLabel, Sender, SenderAction, SenderActions, SenderConfig, SenderVerdict,
};
use bondgate_proto::{GroupKey, LinkAddr};
use bondgate_srt::{AcceptOptions, ConnId, ConnectOptions, Endpoint, EndpointConfig, Event, TRANSMIT_MIN};
use bytes::Bytes;
use fastrand::Rng;

use crate::alloc;
use crate::mutate::mutate;

const LINKS: usize = 3;
const STEP: Duration = Duration::from_millis(1);
/// Mutants per genuine datagram.
const MUTANTS: u32 = 12;
/// Genuine datagrams remembered for mutation.
const RECENT: usize = 256;
/// Growth allowed between the highest water of the early run and of the rest.
const GROWTH_BYTES_MAX: usize = 1 << 20;
const STRANGERS: u8 = 12;

/// Where the endpoint's datagrams go.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Peer {
    Group(GroupKey),
    Player(u8),
}

/// What a storm was like.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Mutated datagrams handed to receiver and endpoint (and to sender, encoder and player).
    pub mutants: u64,
    /// Genuine datagrams of the conversation.
    pub genuine: u64,
    /// SRT sessions the encoder had.
    pub sessions: u64,
    /// Payloads the player got.
    pub played: u64,
    /// Groups the receiver opened.
    pub groups: u64,
    /// Datagrams the receiver dropped, by reason.
    pub receiver_drops: Vec<(&'static str, u64)>,
    /// Datagrams the endpoint dropped.
    pub endpoint_drops: u64,
    /// Most bytes in use in the second fifth of the run, and in the rest; zero without the counting allocator.
    pub peak_bytes: (usize, usize),
}

/// Throws `mutants` mutated datagrams, everything following from `seed`.
///
/// # Errors
/// When something does not hold; a defect that panics, panics.
pub fn run(mutants: u64, seed: u64) -> Result<Report> {
    let mut storm = Storm::new(seed);
    let mut early_peak = 0;
    let mut fifth = 0;
    while storm.mutants < mutants {
        storm.step();
        let now_in = storm.mutants * 5 / mutants.max(1);
        if now_in > fifth {
            let peak = alloc::take_peak_bytes();
            if fifth == 1 {
                early_peak = peak;
            }
            fifth = now_in.min(2);
        }
        storm.check()?;
    }
    let late_peak = alloc::take_peak_bytes();
    let report = storm.report((early_peak, late_peak));
    ensure!(
        late_peak <= early_peak + GROWTH_BYTES_MAX || early_peak == 0,
        "memory grows: at most {early_peak} bytes early, {late_peak} later"
    );
    ensure!(report.sessions > 0 && report.played > 0, "nothing was under way: {report:?}");
    Ok(report)
}

struct Storm {
    rng: Rng,
    now: Instant,
    receiver: Receiver,
    actions: Actions,
    server: Endpoint<Peer>,
    sender: Sender,
    sender_actions: SenderActions,
    links: Vec<LinkIndex>,
    /// Source port of every link; a rebind gives a new one.
    ports: [u16; LINKS],
    encoder: Endpoint<()>,
    encoder_conn: Option<ConnId>,
    player: Endpoint<()>,
    player_conn: Option<ConnId>,
    publisher: Option<ConnId>,
    players: Vec<ConnId>,
    recent: Vec<Vec<u8>>,
    recent_at: usize,
    mutant: Vec<u8>,
    mutants: u64,
    genuine: u64,
    sessions: u64,
    played: u64,
    paused_until: Instant,
}

impl Storm {
    fn new(seed: u64) -> Self {
        let now = Instant::now();
        let receiver_config = ReceiverConfig {
            groups_max: 8,
            links_per_group_max: 4,
            pending_max: 64,
            foreign_max: 64,
            ..ReceiverConfig::default()
        };
        let secrets = Secrets { tickets: TicketKey::new([1; 32]), cookies: [2; 32], nonces: [3; 16] };
        let clock = Clock { at: now, boot_ms: 0, wall_ms: 0 };
        let admission = Arc::new(Admission::open());
        let receiver = Receiver::new(receiver_config, secrets, admission, clock, [2, 3], 1000);
        let (actions, bytes) = receiver.actions_min();
        // Small: what comes with a connection or a stream must be less than what counts as growth.
        let endpoint_config = EndpointConfig {
            connections_max: 16,
            incoming_max: 8,
            flow_window: 256,
            send_buffer: 256,
            latency: Duration::from_millis(60),
            pool_chunks_max: 14,
            ..EndpointConfig::default()
        };
        let caller_config = EndpointConfig { listen: false, connections_max: 2, ..endpoint_config.clone() };
        let mut storm = Self {
            rng: Rng::with_seed(seed),
            now,
            actions: Actions::with_capacity(actions * 8, bytes * 16),
            receiver,
            server: Endpoint::new(endpoint_config, [4; 16], 5, now),
            sender: Sender::new(SenderConfig::default(), [6; 128], 7),
            sender_actions: SenderActions::with_capacity(512, 256 << 10),
            links: Vec::new(),
            ports: [4001, 4002, 4003],
            encoder: Endpoint::new(caller_config.clone(), [8; 16], 9, now),
            encoder_conn: None,
            player: Endpoint::new(caller_config, [10; 16], 11, now),
            player_conn: None,
            publisher: None,
            players: Vec::new(),
            recent: vec![vec![0; 64]; RECENT],
            recent_at: 0,
            mutant: Vec::with_capacity(8192),
            mutants: 0,
            genuine: 0,
            sessions: 0,
            played: 0,
            paused_until: now,
        };
        for label in 0..LINKS {
            if let Some(link) = storm.sender.add_link(now, LinkLabel(label as u32), &mut storm.sender_actions)
            {
                storm.links.push(link);
            }
        }
        storm
    }

    fn step(&mut self) {
        self.now += STEP;
        let now = self.now;
        if now >= self.paused_until {
            self.drive_encoder();
            self.drive_player();
        }
        self.sender.handle_timeout(now, &mut self.sender_actions);
        self.receiver.handle_timeout(now, &mut self.actions);
        self.encoder.handle_timeout(now);
        self.player.handle_timeout(now);
        self.server.handle_timeout(now);
        // Now and then everything falls silent for long enough that links and sessions time out.
        if self.rng.u32(..50_000) == 0 {
            self.paused_until = now + Duration::from_secs(12);
            self.now = self.paused_until;
        }
        // Other senders come, register and leave again without a word.
        if self.rng.u32(..200) == 0 {
            let mut id = [0; 256];
            self.rng.fill(&mut id[..128]);
            let from = self.stranger();
            let reg1 = [&[0x92, 0x00][..], &id].concat();
            self.remember(&reg1);
            self.uplink(from, &reg1);
        }
        self.settle();
    }

    fn stranger(&mut self) -> LinkAddr {
        let number = self.rng.u8(..STRANGERS);
        LinkAddr::new(SocketAddr::from((Ipv4Addr::new(198, 51, 100, number), 5000)))
    }

    fn drive_encoder(&mut self) {
        match self.encoder_conn {
            None => {
                let options = ConnectOptions {
                    stream_id: Bytes::from_static(b"publish/a"),
                    ..ConnectOptions::default()
                };
                self.encoder_conn = self.encoder.connect(self.now, (), options);
            }
            Some(conn) => {
                let payload = Bytes::from_static(&[0x47; 1316]);
                let _ = self.encoder.send(self.now, conn, payload);
            }
        }
    }

    fn drive_player(&mut self) {
        if self.player_conn.is_none() {
            let options =
                ConnectOptions { stream_id: Bytes::from_static(b"play/a"), ..ConnectOptions::default() };
            self.player_conn = self.player.connect(self.now, (), options);
        }
    }

    /// Carries everything that waits to where it goes, until nothing waits.
    fn settle(&mut self) {
        let mut buf = [0; TRANSMIT_MIN];
        for _ in 0..100_000 {
            self.take_events();
            if let Some(transmit) = self.encoder.poll_transmit(self.now, &mut buf) {
                self.send_from_encoder(&buf[..transmit.len]);
            } else if let Some(transmit) = self.player.poll_transmit(self.now, &mut buf) {
                self.remember(&buf[..transmit.len]);
                self.server.handle(self.now, Peer::Player(0), 0, &buf[..transmit.len]);
                self.throw(Self::at_server);
            } else if let Some(transmit) = self.server.poll_transmit(self.now, &mut buf) {
                self.send_from_server(transmit.to, &buf[..transmit.len]);
            } else if !self.actions.is_empty() {
                self.receiver_actions();
            } else if !self.sender_actions.is_empty() {
                self.take_sender_actions();
            } else {
                return;
            }
        }
        panic!("the conversation does not come to rest within one step");
    }

    fn send_from_encoder(&mut self, bytes: &[u8]) {
        self.remember(bytes);
        if let SenderVerdict::ToLink(link) =
            self.sender.handle_local(self.now, bytes, &mut self.sender_actions)
        {
            self.uplink(self.addr(link), bytes);
        }
        self.throw(Self::at_receiver);
    }

    fn addr(&self, link: LinkIndex) -> LinkAddr {
        let port = self.ports.get(link.index()).copied().unwrap_or(4000);
        LinkAddr::new(SocketAddr::from((Ipv4Addr::new(192, 0, 2, link.index() as u8 + 1), port)))
    }

    fn link_of(&self, addr: LinkAddr) -> Option<LinkIndex> {
        self.links.iter().copied().find(|link| self.addr(*link) == addr)
    }

    /// A datagram at the receiver's door, genuine or not.
    fn uplink(&mut self, from: LinkAddr, bytes: &[u8]) {
        match self.receiver.handle_uplink(self.now, from, bytes, &mut self.actions) {
            Verdict::Forward(group) => {
                let path =
                    self.receiver.last_link().and_then(|link| self.receiver.link_index(link)).unwrap_or(0);
                self.server.handle(self.now, Peer::Group(group), path, bytes);
            }
            Verdict::ToLink(link) => {
                if let Some(addr) = self.receiver.link_addr(link) {
                    self.deliver_to_sender(addr, bytes);
                }
            }
            Verdict::FanOut(_) | Verdict::HandOff(_) | Verdict::Consumed | Verdict::Drop(_) => {}
        }
    }

    /// A datagram at the sender's end of a link; strangers' answers go nowhere.
    fn deliver_to_sender(&mut self, addr: LinkAddr, bytes: &[u8]) {
        let Some(link) = self.link_of(addr) else { return };
        if self.sender.handle_link(self.now, link, bytes, &mut self.sender_actions) == SenderVerdict::ToLocal
        {
            self.encoder.handle(self.now, (), 0, bytes);
        }
    }

    fn send_from_server(&mut self, to: Peer, bytes: &[u8]) {
        self.remember(bytes);
        match to {
            Peer::Player(0) => self.player.handle(self.now, (), 0, bytes),
            Peer::Player(_) => {}
            Peer::Group(group) => self.downlink(group, bytes),
        }
        match (self.rng.u8(..4), to) {
            (0, _) => self.throw(Self::at_far_ends),
            // Not too many: what is fanned out costs the links' credit, and without credit the conversation starves.
            (1, Peer::Group(group)) => self.throw(|storm, mutant| storm.downlink(group, mutant)),
            _ => {}
        }
    }

    fn downlink(&mut self, group: GroupKey, bytes: &[u8]) {
        match self.receiver.handle_downlink(self.now, group, bytes, &mut self.actions) {
            Verdict::FanOut(group) => {
                let mut targets = [None; 4];
                for (target, (_, addr)) in targets.iter_mut().zip(self.receiver.live_links(self.now, group)) {
                    *target = Some(addr);
                }
                for addr in targets.into_iter().flatten() {
                    self.deliver_to_sender(addr, bytes);
                }
            }
            Verdict::ToLink(link) => {
                if let Some(addr) = self.receiver.link_addr(link) {
                    self.deliver_to_sender(addr, bytes);
                }
            }
            Verdict::Forward(_) | Verdict::HandOff(_) | Verdict::Consumed | Verdict::Drop(_) => {}
        }
    }

    fn receiver_actions(&mut self) {
        let mut waiting = Vec::new();
        self.actions.drain(|action, bytes| {
            if matches!(action, Action::Reply { .. } | Action::SendDownstream { .. }) {
                waiting.push((action, bytes.to_vec()));
            }
        });
        for (action, bytes) in waiting {
            match action {
                Action::Reply { to } => {
                    self.remember(&bytes);
                    if self.link_of(to).is_none() && bytes.starts_with(&[0x92, 0x01]) {
                        // A stranger was answered: it joins.
                        self.uplink(to, &bytes);
                    }
                    self.deliver_to_sender(to, &bytes);
                }
                Action::SendDownstream { group } => {
                    self.server.handle(self.now, Peer::Group(group), 0, &bytes);
                }
                _ => {}
            }
        }
    }

    fn take_sender_actions(&mut self) {
        let mut waiting = Vec::new();
        let mut rebinds = Vec::new();
        self.sender_actions.drain(|action| match action {
            SenderAction::Send { link, bytes } => waiting.push((link, bytes.to_vec())),
            SenderAction::Rebind { link } => rebinds.push(link),
            SenderAction::Notice(_) => {}
        });
        for (link, bytes) in waiting {
            self.remember(&bytes);
            self.uplink(self.addr(link), &bytes);
            self.throw(Self::at_receiver);
        }
        for link in rebinds {
            if let Some(port) = self.ports.get_mut(link.index()) {
                *port = port.wrapping_add(16).max(1024);
            }
            self.sender.link_rebound(self.now, link, &mut self.sender_actions);
        }
    }

    fn take_events(&mut self) {
        while let Some(event) = self.encoder.poll_event() {
            match event {
                Event::Connected { .. } => self.sessions += 1,
                Event::Closed { conn, .. } if self.encoder_conn == Some(conn) => self.encoder_conn = None,
                _ => {}
            }
        }
        while let Some(event) = self.player.poll_event() {
            match event {
                Event::Data { .. } => self.played += 1,
                Event::Closed { conn, .. } if self.player_conn == Some(conn) => self.player_conn = None,
                _ => {}
            }
        }
        while let Some(event) = self.server.poll_event() {
            match event {
                Event::Incoming { id, peer, .. } => {
                    if let Some(conn) = self.server.accept(self.now, id, AcceptOptions::default()) {
                        match peer {
                            Peer::Group(_) => {
                                if let Some(old) = self.publisher.replace(conn) {
                                    self.server.close(self.now, old);
                                }
                            }
                            Peer::Player(_) => {
                                if self.players.len() == 4 {
                                    let oldest = self.players.remove(0);
                                    self.server.close(self.now, oldest);
                                }
                                self.players.push(conn);
                            }
                        }
                    }
                }
                Event::Data { payload, .. } => {
                    for player in &self.players {
                        let _ = self.server.send(self.now, *player, payload.clone());
                    }
                }
                Event::Closed { conn, .. } => {
                    self.players.retain(|player| *player != conn);
                    self.publisher = self.publisher.filter(|publisher| *publisher != conn);
                }
                Event::Connected { .. } | Event::Expired { .. } | Event::Refused { .. } => {}
            }
        }
    }

    fn remember(&mut self, bytes: &[u8]) {
        self.genuine += 1;
        let slot = &mut self.recent[self.recent_at];
        slot.clear();
        slot.extend_from_slice(bytes);
        self.recent_at = (self.recent_at + 1) % RECENT;
    }

    /// Hands mutants of recent datagrams to `door`.
    fn throw(&mut self, door: impl Fn(&mut Self, &[u8])) {
        for _ in 0..MUTANTS {
            let back = if self.rng.bool() { 1 + self.rng.usize(..8) } else { 1 + self.rng.usize(..RECENT) };
            let input = &self.recent[(self.recent_at + RECENT - back) % RECENT];
            let other = &self.recent[self.rng.usize(..RECENT)];
            let mut mutant = std::mem::take(&mut self.mutant);
            mutate(&mut self.rng, input, other, &mut mutant);
            self.mutants += 1;
            door(self, &mutant);
            self.mutant = mutant;
        }
    }

    fn at_receiver(&mut self, mutant: &[u8]) {
        let from = if self.rng.u8(..4) == 0 {
            self.stranger()
        } else {
            let link = self.links[self.rng.usize(..self.links.len())];
            self.addr(link)
        };
        self.uplink(from, mutant);
    }

    fn at_server(&mut self, mutant: &[u8]) {
        let peer = Peer::Player(self.rng.u8(..3));
        self.server.handle(self.now, peer, 0, mutant);
    }

    fn at_far_ends(&mut self, mutant: &[u8]) {
        match self.rng.u8(..4) {
            0 => self.player.handle(self.now, (), 0, mutant),
            1 => self.encoder.handle(self.now, (), 0, mutant),
            2 => {
                let _ = self.sender.handle_local(self.now, mutant, &mut self.sender_actions);
            }
            _ => {
                let link = self.links[self.rng.usize(..self.links.len())];
                let _ = self.sender.handle_link(self.now, link, mutant, &mut self.sender_actions);
            }
        }
    }

    fn check(&self) -> Result<()> {
        ensure!(self.receiver.counters().is_conserved(), "receiver: {:?}", self.receiver.counters());
        ensure!(self.sender.counters().is_conserved(), "sender: {:?}", self.sender.counters());
        for counters in [self.server.counters(), self.encoder.counters(), self.player.counters()] {
            ensure!(counters.received == counters.consumed + counters.dropped(), "endpoint: {counters:?}");
        }
        ensure!(self.server.connections() <= 16, "{} connections", self.server.connections());
        Ok(())
    }

    fn report(&self, peak_bytes: (usize, usize)) -> Report {
        let counters = self.receiver.counters();
        Report {
            mutants: self.mutants,
            genuine: self.genuine,
            sessions: self.sessions,
            played: self.played,
            groups: counters.groups_opened,
            receiver_drops: DropReason::ALL
                .iter()
                .zip(counters.dropped)
                .map(|(reason, count)| (reason.name(), count))
                .filter(|(_, count)| *count > 0)
                .collect(),
            endpoint_drops: self.server.counters().dropped(),
            peak_bytes,
        }
    }
}
