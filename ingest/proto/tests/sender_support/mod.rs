//! A small world for the sender's tests: virtual clock, impaired links with NAT, a stock receiver with an SRT server
//! behind it, and an encoder that repeats what is reported lost. Deterministic: same seed, same run.
#![allow(clippy::unwrap_used, reason = "test support")]
#![allow(dead_code, reason = "each test file uses its own part")]

pub mod sa1;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use bondgate_proto::Seq;
use bondgate_proto::sender::{
    LinkIndex, LinkLabel, LinkState, LinkStats, Sa1Config, Sa1Mode, Scheduler, Sender, SenderAction,
    SenderActions, SenderConfig, SenderNotice, SenderVerdict,
};
use bondgate_proto::wire::{Datagram, PacketType, Repr, classify, emit_ack, emit_reg, emit_short};

pub const MS: u64 = 1000;
pub const S: u64 = 1_000_000;
pub const PAYLOAD: usize = 1316;

pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
    pub fn chance(&mut self, p: f64) -> bool {
        p > 0.0 && (self.next() >> 11) as f64 / ((1u64 << 53) as f64) < p
    }
}

/// A source address as the receiver sees it: link, socket, NAT binding.
pub type Source = (usize, u32, u32);

#[derive(Clone, Copy, Debug)]
pub struct Path {
    pub delay_us: u64,
    pub jitter_us: u64,
    pub loss_up: f64,
    pub loss_down: f64,
    pub rate_bps: Option<u64>,
    pub buffer_bytes: u64,
    pub blackhole: bool,
}

impl Path {
    pub fn new(delay_ms: u64) -> Self {
        Self {
            delay_us: delay_ms * MS,
            jitter_us: 0,
            loss_up: 0.0,
            loss_down: 0.0,
            rate_bps: None,
            buffer_bytes: 200_000,
            blackhole: false,
        }
    }
    pub fn loss(mut self, p: f64) -> Self {
        self.loss_up = p;
        self
    }
    pub fn rate(mut self, mbps: f64) -> Self {
        self.rate_bps = Some((mbps * 1e6) as u64);
        self
    }
    pub fn buffer(mut self, bytes: u64) -> Self {
        self.buffer_bytes = bytes;
        self
    }
}

struct Link {
    index: LinkIndex,
    path: Path,
    socket: u32,
    nat: u32,
    busy_until_us: u64,
    last_up_us: u64,
    last_down_us: u64,
    socket_is_dead: bool,
}

/// How the receiver treats registration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Manners {
    /// BELABOX family: a repeated REG1 gets `REG_ERR`, each REG1 a new random half.
    Stock,
    /// Deterministic half, REG1 idempotent, own IDs recognised after a restart.
    Idempotent,
    /// Keys only; everything else is met with silence.
    Sa1,
}

#[derive(Default)]
struct Group {
    id: Vec<u8>,
    members: BTreeMap<Source, Member>,
    last: Option<Source>,
    born_us: u64,
}

#[derive(Default)]
struct Member {
    heard_us: u64,
    acks: Vec<Seq>,
}

/// The stock receiver and the SRT server behind it.
pub struct Receiver {
    pub manners: Manners,
    pub sa1: sa1::Sa1Receiver,
    groups: Vec<Group>,
    rng: Rng,
    pub is_down: bool,
    pub got: HashSet<u32>,
    pub arrivals: Vec<u64>,
    pub duplicates: u64,
    next_expected: Option<Seq>,
    highest: Option<Seq>,
    missing: BTreeMap<u32, (u64, u64)>,
    ack_number: u32,
    pub reorder_hold_us: u64,
    pub naks_sent: u64,
}

impl Receiver {
    fn new(manners: Manners) -> Self {
        Self {
            manners,
            sa1: sa1::Sa1Receiver::default(),
            groups: Vec::new(),
            rng: Rng(99),
            is_down: false,
            got: HashSet::new(),
            arrivals: Vec::new(),
            duplicates: 0,
            next_expected: None,
            highest: None,
            missing: BTreeMap::new(),
            ack_number: 0,
            reorder_hold_us: 60 * MS,
            naks_sent: 0,
        }
    }

    /// A new process: groups are gone, the SRT server behind it is not.
    pub fn forget_groups(&mut self) {
        self.groups.clear();
        self.sa1.restart();
    }

    pub fn groups_with_members(&self) -> usize {
        if self.manners == Manners::Sa1 {
            return self.sa1.groups();
        }
        self.groups.iter().filter(|g| !g.members.is_empty()).count()
    }

    fn expire(&mut self, now_us: u64) {
        for group in &mut self.groups {
            group.members.retain(|_, m| m.heard_us + 10 * S > now_us);
        }
        self.groups.retain(|g| !g.members.is_empty() || g.born_us + 10 * S > now_us);
        self.sa1.expire(now_us);
    }

    fn half_for(&mut self, sender_half: &[u8]) -> Vec<u8> {
        match self.manners {
            Manners::Idempotent => sender_half.iter().map(|b| b ^ 0x5A).collect(),
            Manners::Stock | Manners::Sa1 => (0..128).map(|_| self.rng.next() as u8).collect(),
        }
    }

    fn handle(&mut self, now_us: u64, from: Source, bytes: &[u8], reply: &mut Vec<(Source, Vec<u8>)>) {
        if self.is_down {
            return;
        }
        self.expire(now_us);
        if self.manners == Manners::Sa1 {
            self.handle_sa1(now_us, from, bytes, reply);
            return;
        }
        let short = |kind| {
            let mut buf = [0; 32];
            emit_short(kind, 2, &mut buf).unwrap().to_vec()
        };
        let reg = |kind, id: &[u8]| {
            let mut buf = [0; 258];
            emit_reg(kind, id.try_into().unwrap(), &mut buf).unwrap().to_vec()
        };
        let member_of = self.groups.iter().position(|g| g.members.contains_key(&from));
        match classify(bytes) {
            Datagram::Srtla(packet) => match (packet.kind(), packet.group_id()) {
                (PacketType::Reg1, Some(id)) => {
                    if self.manners == Manners::Stock
                        && (member_of.is_some() || self.groups.iter().any(|g| g.last == Some(from)))
                    {
                        reply.push((from, short(PacketType::RegErr)));
                        return;
                    }
                    let mut full = id[..128].to_vec();
                    full.extend(self.half_for(&id[..128]));
                    reply.push((from, reg(PacketType::Reg2, &full)));
                    if !self.groups.iter().any(|g| g.id == full) {
                        let group = Group { id: full, last: Some(from), born_us: now_us, ..Group::default() };
                        self.groups.push(group);
                    }
                }
                (PacketType::Reg2, Some(id)) => {
                    if self.manners == Manners::Idempotent
                        && id[128..].iter().zip(&id[..128]).all(|(r, s)| *r == s ^ 0x5A)
                        && !self.groups.iter().any(|g| g.id == id)
                    {
                        self.groups.push(Group { id: id.to_vec(), born_us: now_us, ..Group::default() });
                    }
                    let Some(target) = self.groups.iter().position(|g| g.id == id) else {
                        reply.push((from, short(PacketType::RegNgp)));
                        return;
                    };
                    let elsewhere =
                        self.groups.iter().enumerate().any(|(i, g)| {
                            i != target && (g.members.contains_key(&from) || g.last == Some(from))
                        });
                    if elsewhere && self.manners == Manners::Stock {
                        reply.push((from, short(PacketType::RegErr)));
                        return;
                    }
                    let group = &mut self.groups[target];
                    group.members.entry(from).or_default().heard_us = now_us;
                    group.last = Some(from);
                    reply.push((from, short(PacketType::Reg3)));
                }
                (PacketType::Keepalive, _) => {
                    if let Some(group) = member_of {
                        self.groups[group].members.get_mut(&from).unwrap().heard_us = now_us;
                        reply.push((from, bytes.to_vec()));
                    }
                }
                _ => {}
            },
            Datagram::SrtData(data) => {
                let Some(group) = member_of else { return };
                let member = self.groups[group].members.get_mut(&from).unwrap();
                member.heard_us = now_us;
                member.acks.push(data.seq());
                if member.acks.len() == 10 {
                    let mut buf = [0; 64];
                    reply.push((from, emit_ack(&member.acks, &mut buf).unwrap().to_vec()));
                    member.acks.clear();
                }
                self.groups[group].last = Some(from);
                self.srt_data(now_us, data.seq());
            }
            _ => {}
        }
    }

    fn handle_sa1(&mut self, now_us: u64, from: Source, bytes: &[u8], reply: &mut Vec<(Source, Vec<u8>)>) {
        let answer = match classify(bytes) {
            Datagram::Srtla(packet) => match packet.kind() {
                PacketType::Reg1 | PacketType::Reg2 => self.sa1.register(now_us, from, bytes),
                PacketType::Keepalive => self.sa1.keepalive(now_us, from, bytes),
                _ => None,
            },
            Datagram::SrtData(data) => {
                if self.sa1.data(now_us, from, data.seq()) {
                    self.srt_data(now_us, data.seq());
                }
                self.sa1.ack(from)
            }
            _ => None,
        };
        reply.extend(answer.map(|bytes| (from, bytes)));
    }

    fn srt_data(&mut self, now_us: u64, seq: Seq) {
        self.arrivals.push(now_us);
        if !self.got.insert(seq.get()) {
            self.duplicates += 1;
            return;
        }
        let next = *self.next_expected.get_or_insert(seq);
        let highest = *self.highest.get_or_insert(seq.sub(1));
        self.missing.remove(&seq.get());
        if seq.is_after(highest) {
            let mut lost = highest.next();
            while lost != seq {
                self.missing.insert(lost.get(), (now_us + self.reorder_hold_us, now_us));
                lost = lost.next();
            }
            self.highest = Some(seq);
        }
        let mut next = next;
        while self.got.contains(&next.get()) {
            next = next.next();
        }
        self.next_expected = Some(next);
    }

    /// The SRT server's 10 ms timer: ACK and NAK to all members.
    fn tick(&mut self, now_us: u64, reply: &mut Vec<(Source, Vec<u8>)>) {
        if self.is_down {
            return;
        }
        self.expire(now_us);
        let Some(next) = self.next_expected else { return };
        self.ack_number += 1;
        let mut ack = vec![0u8; 44];
        ack[0..4].copy_from_slice(&0x8002_0000u32.to_be_bytes());
        ack[4..8].copy_from_slice(&self.ack_number.to_be_bytes());
        ack[8..12].copy_from_slice(&(now_us as u32).to_be_bytes());
        ack[16..20].copy_from_slice(&next.get().to_be_bytes());
        let mut packets = vec![ack];
        let mut nak = Vec::new();
        for (seq, (due_us, _)) in &mut self.missing {
            if *due_us <= now_us && nak.len() < 1200 {
                *due_us = now_us + 120 * MS;
                nak.extend_from_slice(&seq.to_be_bytes());
            }
        }
        if !nak.is_empty() {
            self.naks_sent += 1;
            let mut packet = vec![0u8; 16];
            packet[0..4].copy_from_slice(&0x8003_0000u32.to_be_bytes());
            packet[8..12].copy_from_slice(&(now_us as u32).to_be_bytes());
            packet.extend(nak);
            packets.push(packet);
        }
        let members = self.groups.iter().flat_map(|group| group.members.keys().copied());
        for source in members.chain(self.sa1.sources()) {
            for packet in &packets {
                reply.push((source, packet.clone()));
            }
        }
    }
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Up(Source, Vec<u8>),
    Down(Source, Vec<u8>),
    Rebound(usize),
    SrtTick,
    Packet,
}

type DropRule = Box<dyn FnMut(u64, usize, bool, &[u8]) -> bool>;

pub struct World {
    pub sender: Sender,
    pub out: SenderActions,
    pub receiver: Receiver,
    start: Instant,
    pub now_us: u64,
    links: Vec<Link>,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    order: u64,
    rng: Rng,
    /// (time, link, is up, bytes) -> lose it
    pub drop_rule: DropRule,
    pub notices: Vec<(u64, SenderNotice)>,
    pub rebinds: u64,
    pub obeys_rebind: bool,
    pub sent_reg1: Vec<(u64, usize)>,
    pub sent_reg2: Vec<(u64, usize)>,
    // encoder
    pub packet_every_us: u64,
    encoder_is_on: bool,
    srt_is_on: bool,
    /// Uncounted packets still to come after the end, so that the loss of the last counted ones is noticed.
    tail: u32,
    next_seq: Seq,
    pub first_seq: Seq,
    kept: VecDeque<(Seq, u64)>,
    pub latency_us: u64,
    pub encoded: u64,
    pub resent: u64,
    pub acks_at_encoder: u64,
    pub ack_copies_at_encoder: u64,
    seen_acks: BTreeSet<u32>,
    pub refused: u64,
    pub sent_at: HashMap<u32, u64>,
    pub tail_dropped: u64,
}

impl World {
    pub fn new(scheduler: Scheduler, manners: Manners, seed: u64) -> Self {
        Self::with_config(SenderConfig { scheduler, ..SenderConfig::default() }, manners, seed)
    }

    pub fn with_config(config: SenderConfig, manners: Manners, seed: u64) -> Self {
        Self::with_sender(Sender::new(config, [7; 128], seed), manners, seed)
    }

    /// A sender with a key.
    pub fn with_key(mode: Sa1Mode, manners: Manners, seed: u64) -> Self {
        let key = sa1::key(mode, Instant::now());
        Self::with_this_key(key, SenderConfig::default(), manners, seed)
    }

    pub fn with_this_key(key: Sa1Config, config: SenderConfig, manners: Manners, seed: u64) -> Self {
        Self::with_sender(Sender::with_key(config, seed, key), manners, seed)
    }

    fn with_sender(sender: Sender, manners: Manners, seed: u64) -> Self {
        let first_seq = Seq::new((seed as u32).wrapping_mul(77_777_777));
        Self {
            sender,
            out: SenderActions::default(),
            receiver: Receiver::new(manners),
            start: Instant::now(),
            now_us: 0,
            links: Vec::new(),
            events: BinaryHeap::new(),
            order: 0,
            rng: Rng(seed),
            drop_rule: Box::new(|_, _, _, _| false),
            notices: Vec::new(),
            rebinds: 0,
            obeys_rebind: true,
            sent_reg1: Vec::new(),
            sent_reg2: Vec::new(),
            packet_every_us: 0,
            encoder_is_on: false,
            srt_is_on: false,
            tail: 0,
            next_seq: first_seq,
            first_seq,
            kept: VecDeque::new(),
            latency_us: 2 * S,
            encoded: 0,
            resent: 0,
            acks_at_encoder: 0,
            ack_copies_at_encoder: 0,
            seen_acks: BTreeSet::new(),
            refused: 0,
            sent_at: HashMap::new(),
            tail_dropped: 0,
        }
    }

    /// The encoder's first sequence number.
    pub fn start_at(&mut self, seq: Seq) {
        (self.first_seq, self.next_seq) = (seq, seq);
    }

    pub fn now(&self) -> Instant {
        self.start + Duration::from_micros(self.now_us)
    }

    pub fn add_link(&mut self, path: Path) -> usize {
        let at = self.links.len();
        let index = self.sender.add_link(self.now(), LinkLabel(at as u32), &mut self.out).unwrap();
        assert_eq!(index.index(), at);
        self.links.push(Link {
            index,
            path,
            socket: 0,
            nat: 0,
            busy_until_us: 0,
            last_up_us: 0,
            last_down_us: 0,
            socket_is_dead: false,
        });
        self.act();
        at
    }

    pub fn path(&mut self, link: usize) -> &mut Path {
        &mut self.links[link].path
    }

    /// The NAT in front of the link forgets its binding: the same socket now shows another address.
    pub fn move_nat(&mut self, link: usize) {
        self.links[link].nat += 1;
    }

    /// Nothing leaves this link's socket any more, until it is replaced.
    pub fn kill_socket(&mut self, link: usize) {
        self.links[link].socket_is_dead = true;
    }

    /// Starts the encoder at `mbps` of payload datagrams.
    pub fn start_encoder(&mut self, mbps: f64) {
        self.packet_every_us = ((PAYLOAD + 16) as f64 * 8.0 / mbps) as u64;
        let was_on = std::mem::replace(&mut self.encoder_is_on, true) || self.tail > 0;
        self.tail = 0;
        if !was_on {
            self.schedule(0, Event::Packet);
        }
        if !std::mem::replace(&mut self.srt_is_on, true) {
            // Known from the SRT handshake.
            self.receiver.next_expected = Some(self.first_seq);
            self.receiver.highest = Some(self.first_seq.sub(1));
            self.schedule(10 * MS, Event::SrtTick);
        }
    }

    pub fn stop_encoder(&mut self) {
        self.encoder_is_on = false;
        self.tail = 100;
    }

    fn schedule(&mut self, in_us: u64, event: Event) {
        self.order += 1;
        self.events.push(Reverse((self.now_us + in_us, self.order, event)));
    }

    /// Runs until `until_us`.
    pub fn run_until(&mut self, until_us: u64) {
        loop {
            let timer_us = self
                .sender
                .poll_timeout()
                .map(|at| (at.saturating_duration_since(self.start).as_micros() as u64).max(self.now_us));
            let event_us = self.events.peek().map(|Reverse((at, _, _))| *at);
            let next = [timer_us, event_us].into_iter().flatten().min();
            let Some(next_us) = next.filter(|at| *at <= until_us) else {
                self.now_us = until_us;
                return;
            };
            self.now_us = next_us;
            if event_us == Some(next_us) {
                let Some(Reverse((_, _, event))) = self.events.pop() else { return };
                self.handle(event);
            } else {
                let now = self.now();
                self.sender.handle_timeout(now, &mut self.out);
                self.act();
                let after = self.sender.poll_timeout();
                assert!(after.is_none_or(|at| at > now), "the timer at {next_us} us does not advance");
            }
        }
    }

    pub fn run_for(&mut self, us: u64) {
        self.run_until(self.now_us + us);
    }

    /// Runs until `done` holds, in steps of 1 ms; the time it took, or `None` after `limit_us`.
    pub fn run_until_true(&mut self, limit_us: u64, done: impl Fn(&Self) -> bool) -> Option<u64> {
        let start_us = self.now_us;
        while self.now_us <= start_us + limit_us {
            if done(self) {
                return Some(self.now_us - start_us);
            }
            self.run_for(MS);
        }
        None
    }

    pub fn stats(&self, link: usize) -> LinkStats {
        self.sender.links().find(|s| s.index.index() == link).unwrap()
    }

    pub fn live(&self) -> usize {
        self.sender.links().filter(|s| s.state == LinkState::Live).count()
    }

    /// Payloads handed to the sender up to `latency` ago that have not arrived.
    pub fn lost_payloads(&self) -> u64 {
        let mut lost = 0;
        let mut seq = self.first_seq;
        for _ in 0..self.encoded {
            lost += u64::from(!self.receiver.got.contains(&seq.get()));
            seq = seq.next();
        }
        lost
    }

    /// The longest time without any arrival at the SRT server within the given span.
    pub fn longest_gap_us(&self, from_us: u64, to_us: u64) -> u64 {
        let mut last = from_us;
        let mut longest = 0;
        for at in self.receiver.arrivals.iter().copied().filter(|at| (from_us..=to_us).contains(at)) {
            longest = longest.max(at - last);
            last = at;
        }
        longest.max(to_us - last)
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Up(source, bytes) => {
                let mut replies = Vec::new();
                self.receiver.handle(self.now_us, source, &bytes, &mut replies);
                self.reply(replies);
            }
            Event::Down((link, socket, nat), bytes) => {
                let l = &self.links[link];
                if l.socket != socket || l.nat != nat || l.socket_is_dead {
                    return;
                }
                let (index, now) = (l.index, self.now());
                let verdict = self.sender.handle_link(now, index, &bytes, &mut self.out);
                self.act();
                if verdict == SenderVerdict::ToLocal {
                    self.encoder_hears(&bytes);
                }
            }
            Event::Rebound(link) => {
                self.links[link].socket += 1;
                self.links[link].socket_is_dead = false;
                let (index, now) = (self.links[link].index, self.now());
                self.sender.link_rebound(now, index, &mut self.out);
                self.act();
            }
            Event::SrtTick => {
                let mut replies = Vec::new();
                self.receiver.tick(self.now_us, &mut replies);
                self.reply(replies);
                self.schedule(10 * MS, Event::SrtTick);
            }
            Event::Packet => {
                if self.encoder_is_on || self.tail > 0 {
                    let seq = self.next_seq;
                    self.next_seq = seq.next();
                    if self.encoder_is_on {
                        self.encoded += 1;
                    } else {
                        self.tail -= 1;
                    }
                    self.sent_at.insert(seq.get(), self.now_us);
                    self.kept.push_back((seq, self.now_us));
                    while self.kept.front().is_some_and(|(_, at)| at + self.latency_us < self.now_us) {
                        self.kept.pop_front();
                    }
                    self.encode(seq, false);
                    self.schedule(self.packet_every_us, Event::Packet);
                }
            }
        }
        assert!(self.sender.counters().is_conserved());
        assert_eq!(self.out.overflowed(), 0);
    }

    fn encode(&mut self, seq: Seq, again: bool) {
        let mut bytes = vec![0u8; 16 + PAYLOAD];
        bytes[0..4].copy_from_slice(&seq.get().to_be_bytes());
        bytes[4..8].copy_from_slice(&(0xC000_0001u32 | if again { 0x0400_0000 } else { 0 }).to_be_bytes());
        let now = self.now();
        let verdict = self.sender.handle_local(now, &bytes, &mut self.out);
        if let SenderVerdict::ToLink(link) = verdict {
            self.transmit(link.index(), &bytes);
        } else {
            self.refused += 1;
        }
        self.act();
    }

    fn encoder_hears(&mut self, bytes: &[u8]) {
        let Datagram::SrtControl(control) = classify(bytes) else { return };
        if let Some(ack) = control.ack() {
            self.acks_at_encoder += 1;
            self.ack_copies_at_encoder += u64::from(!self.seen_acks.insert(ack.number));
        }
        if let Some(ranges) = control.nak_ranges() {
            let lost: Vec<Seq> = ranges.numbers(10_000).collect();
            for seq in lost {
                let is_kept = self.kept.front().is_some_and(|(first, _)| !seq.is_before(*first));
                if is_kept {
                    self.resent += 1;
                    self.encode(seq, true);
                }
            }
        }
    }

    /// Executes what the sender asked for.
    pub fn act(&mut self) {
        let mut todo = Vec::new();
        let mut out = std::mem::replace(&mut self.out, SenderActions::with_capacity(0, 0));
        out.drain(|action| match action {
            SenderAction::Send { link, bytes } => todo.push((link.index(), Some(bytes.to_vec()))),
            SenderAction::Rebind { link } => todo.push((link.index(), None)),
            SenderAction::Notice(notice) => self.notices.push((self.now_us, notice)),
        });
        self.out = out;
        for (link, bytes) in todo {
            if let Some(bytes) = bytes {
                self.transmit(link, &bytes);
                continue;
            }
            self.rebinds += 1;
            if self.obeys_rebind {
                self.schedule(MS, Event::Rebound(link));
            }
        }
    }

    fn transmit(&mut self, link: usize, bytes: &[u8]) {
        if let Datagram::Srtla(packet) = classify(bytes) {
            match packet.kind() {
                PacketType::Reg1 => self.sent_reg1.push((self.now_us, link)),
                PacketType::Reg2 => self.sent_reg2.push((self.now_us, link)),
                PacketType::Keepalive if bytes.len() == 58 => {}
                _ => assert!(Repr::parse(&packet).is_some(), "the sender spoke {packet:?}"),
            }
        }
        let is_dropped = (self.drop_rule)(self.now_us, link, true, bytes);
        let now_us = self.now_us;
        // add_link runs before the link is known here; its first datagrams are sent right after.
        let l = &mut self.links[link];
        let mut at_us = now_us;
        if let Some(rate) = l.path.rate_bps {
            let wait_us = l.busy_until_us.saturating_sub(now_us);
            if wait_us * rate / 8_000_000 > l.path.buffer_bytes {
                self.tail_dropped += 1;
                return;
            }
            at_us = l.busy_until_us.max(now_us) + (bytes.len() as u64 + 28) * 8_000_000 / rate;
            l.busy_until_us = at_us;
        }
        let lost = is_dropped || l.path.blackhole || l.socket_is_dead || self.rng.chance(l.path.loss_up);
        if lost {
            return;
        }
        let jitter_us = if l.path.jitter_us > 0 { self.rng.next() % l.path.jitter_us } else { 0 };
        let arrive_us = (at_us + l.path.delay_us + jitter_us).max(l.last_up_us);
        l.last_up_us = arrive_us;
        let source = (link, l.socket, l.nat);
        self.schedule(arrive_us - now_us, Event::Up(source, bytes.to_vec()));
    }

    fn reply(&mut self, replies: Vec<(Source, Vec<u8>)>) {
        for (source, bytes) in replies {
            let link = source.0;
            if (self.drop_rule)(self.now_us, link, false, &bytes) {
                continue;
            }
            let l = &mut self.links[link];
            if l.path.blackhole || self.rng.chance(l.path.loss_down) {
                continue;
            }
            let jitter_us = if l.path.jitter_us > 0 { self.rng.next() % l.path.jitter_us } else { 0 };
            let arrive_us = (self.now_us + l.path.delay_us + jitter_us).max(l.last_down_us);
            l.last_down_us = arrive_us;
            let in_us = arrive_us - self.now_us;
            self.schedule(in_us, Event::Down(source, bytes));
        }
    }
}

/// The SRTLA type of a datagram, if it is one.
pub fn kind(bytes: &[u8]) -> Option<PacketType> {
    match classify(bytes) {
        Datagram::Srtla(packet) => Some(packet.kind()),
        _ => None,
    }
}

/// A rule that loses the `nth` (from 0) datagram of this type, direction and link (any link if `None`).
pub fn lose_nth(what: PacketType, up: bool, link: Option<usize>, nth: usize) -> DropRule {
    let mut seen = 0;
    Box::new(move |_, at, is_up, bytes| {
        if is_up != up || kind(bytes) != Some(what) || link.is_some_and(|l| l != at) {
            return false;
        }
        seen += 1;
        seen == nth + 1
    })
}
