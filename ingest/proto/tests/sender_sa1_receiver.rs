//! Our sender with a key against our receiver, directly: joins, trailers, a restart, moved bindings, each lost packet of the
//! handshake, key rotation and revocation, MACs on SRT packets.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bondgate_auth::sa1::keys::{DeviceKey, DeviceKeys, GateKey, GateKeys, Standing};
use bondgate_auth::sa1::sender::Credentials;
use bondgate_auth::sa1::{Flags, ListenerId, StreamBind};
use bondgate_auth::table::{DeviceRules, KeyTable};
use bondgate_auth::ticket::TicketKey;
use bondgate_proto::LinkAddr;
use bondgate_proto::receiver::{
    Action, Actions, Admission, Clock, Command, Receiver, ReceiverConfig, SealedCopy, Secrets,
    StockAdmission, Verdict,
};
use bondgate_proto::sender::{
    DEFAULT_OFFER, LinkIndex, LinkLabel, LinkState, Sa1Config, Sa1Mode, Sender, SenderAction, SenderActions,
    SenderConfig, SenderDropReason, SenderNotice, SenderVerdict, WallClock,
};

const ONE_WAY: Duration = Duration::from_millis(15);
const WALL_MS: u64 = 1_790_000_000_000;
const LISTENER: ListenerId = ListenerId([4; 16]);
const LINKS: usize = 3;
const SERVER_PACKET_LEN: usize = 44;

type DropRule = Box<dyn FnMut(bool, &[u8]) -> bool>;

struct Pair {
    start: Instant,
    sender: Sender,
    out: SenderActions,
    receiver: Receiver,
    actions: Actions,
    now: Instant,
    links: Vec<LinkIndex>,
    ports: Vec<u16>,
    up: VecDeque<(Instant, SocketAddr, Vec<u8>)>,
    down: VecDeque<(Instant, SocketAddr, Vec<u8>)>,
    seq: u32,
    forwarded: u64,
    /// Return traffic the encoder got.
    returned: u64,
    rebinds: u64,
    notices: Vec<SenderNotice>,
    /// (is up, bytes) -> lose it
    drop_rule: DropRule,
}

/// Knows one key, if it is good at all, and admits nobody else.
fn admission(standing: Option<Standing>) -> Arc<Admission> {
    let key = standing.map(|standing| {
        let rules = DeviceRules {
            name: "backpack".into(),
            tenant: "".into(),
            binds: vec![],
            streams: vec![],
            groups_max: 2,
            links_max: 16,
        };
        let key = DeviceKey { keys: DeviceKeys::derive(&[1; 32]), standing, clockless_allowed: false };
        ([2; 8], key, Arc::new(rules))
    });
    Arc::new(Admission {
        stock: StockAdmission::Never,
        listener: LISTENER,
        gate: Some(GateKeys::new(GateKey::new(6, &[3; 16]))),
        keys: Arc::new(KeyTable::new(key)),
        ..Admission::open()
    })
}

impl Pair {
    fn new() -> Self {
        Self::losing(Box::new(|_, _| false))
    }

    fn losing(drop_rule: DropRule) -> Self {
        Self::with(Flags::NONE, drop_rule)
    }

    /// A sender that requires this besides what it offers always.
    fn with(required: Flags, drop_rule: DropRule) -> Self {
        let start = Instant::now();
        let receiver = Self::receiver(start, start, 0);
        let (entries, arena) = receiver.actions_min();
        let key = Sa1Config {
            credentials: Credentials {
                key_id: [2; 8],
                keys: DeviceKeys::derive(&[1; 32]),
                gate: GateKey::new(6, &[3; 16]),
                listener: LISTENER,
                bind: StreamBind::ANY,
                required,
            },
            offered: DEFAULT_OFFER.with(required),
            mode: Sa1Mode::Require,
            entropy: [5; 32],
            clock: WallClock { at: start, wall_ms: WALL_MS },
        };
        let mut pair = Self {
            start,
            sender: Sender::with_key(SenderConfig::default(), 5, key),
            out: SenderActions::default(),
            actions: Actions::with_capacity(entries * 4, arena * 4),
            receiver,
            now: start,
            links: Vec::new(),
            ports: vec![5000; LINKS],
            up: VecDeque::new(),
            down: VecDeque::new(),
            seq: 1000,
            forwarded: 0,
            returned: 0,
            rebinds: 0,
            notices: Vec::new(),
            drop_rule,
        };
        for label in 0..LINKS {
            let link =
                pair.sender.add_link(start, LinkLabel(label as u32), &mut pair.out).expect("three fit");
            pair.links.push(link);
        }
        pair.flush();
        pair
    }

    fn receiver(start: Instant, now: Instant, starts: u8) -> Receiver {
        let since_ms = now.duration_since(start).as_millis() as u64;
        let clock = Clock { at: now, boot_ms: 900_000 + since_ms, wall_ms: WALL_MS + since_ms };
        let secrets =
            Secrets { tickets: TicketKey::new([3; 32]), cookies: [starts; 32], nonces: [starts; 16] };
        let admission = admission(Some(Standing::Active));
        Receiver::new(ReceiverConfig::default(), secrets, admission, clock, [1, 2], 77)
    }

    fn restart_receiver(&mut self) {
        self.receiver = Self::receiver(self.start, self.now, 1);
    }

    fn addr(&self, link: LinkIndex) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1 + link.index() as u8], self.ports[link.index()]))
    }

    fn flush(&mut self) {
        let due = self.now + ONE_WAY;
        let mut sends = Vec::new();
        self.out.drain(|action| match action {
            SenderAction::Send { link, bytes } => sends.push((link, bytes.to_vec())),
            SenderAction::Rebind { .. } => self.rebinds += 1,
            SenderAction::Notice(notice) => self.notices.push(notice),
        });
        for (link, bytes) in sends {
            if !(self.drop_rule)(true, &bytes) {
                self.up.push_back((due, self.addr(link), bytes));
            }
        }
        let (down, drop_rule) = (&mut self.down, &mut self.drop_rule);
        self.actions.drain(|action, bytes| {
            if let Action::Reply { to } = action
                && !drop_rule(false, bytes)
            {
                down.push_back((due, to.addr, bytes.to_vec()));
            }
        });
    }

    /// One millisecond, with a data packet if wanted.
    fn step(&mut self, has_data: bool) {
        self.now += Duration::from_millis(1);
        if has_data {
            self.seq += 1;
            let mut bytes = [0; 1332];
            bytes[..4].copy_from_slice(&self.seq.to_be_bytes());
            bytes[12..16].copy_from_slice(&77u32.to_be_bytes());
            if let SenderVerdict::ToLink(link) = self.sender.handle_local(self.now, &bytes, &mut self.out) {
                self.up.push_back((self.now + ONE_WAY, self.addr(link), bytes.to_vec()));
            }
        }
        while self.up.front().is_some_and(|(at, _, _)| *at <= self.now) {
            let Some((_, from, bytes)) = self.up.pop_front() else { break };
            match self.receiver.handle_uplink(self.now, LinkAddr::new(from), &bytes, &mut self.actions) {
                Verdict::Forward(_) => {
                    self.forwarded += 1;
                    assert_eq!(self.receiver.forwarded_len(), 1332, "what the encoder sent");
                }
                Verdict::ToLink(_) => self.down.push_back((self.now + ONE_WAY, from, bytes)),
                _ => {}
            }
        }
        while self.down.front().is_some_and(|(at, _, _)| *at <= self.now) {
            let Some((_, to, bytes)) = self.down.pop_front() else { break };
            let link = self.links.iter().copied().find(|link| self.addr(*link) == to);
            if let Some(link) = link {
                let verdict = self.sender.handle_link(self.now, link, &bytes, &mut self.out);
                if verdict == SenderVerdict::ToLocal {
                    assert_eq!((bytes[0], self.sender.to_local_len()), (0x80, SERVER_PACKET_LEN));
                    self.returned += 1;
                }
            }
        }
        self.receiver.handle_timeout(self.now, &mut self.actions);
        self.sender.handle_timeout(self.now, &mut self.out);
        self.flush();
        assert_eq!(self.out.overflowed() + self.actions.overflowed(), 0);
        assert!(self.sender.counters().is_conserved());
    }

    fn run(&mut self, ms: u32) {
        (0..ms).for_each(|_| self.step(false));
    }

    /// How many of `ms` data packets, one per millisecond, were forwarded by then.
    fn stream(&mut self, ms: u32) -> u64 {
        let before = self.forwarded;
        (0..ms).for_each(|_| self.step(true));
        self.forwarded - before
    }

    /// A packet of the SRT server, each another one.
    fn server_says(&mut self, number: u32) {
        let mut packet = [0x5A; SERVER_PACKET_LEN];
        packet[..8].copy_from_slice(&[0x80, 0x02, 0, 0, 0, 0, 0, 0]);
        packet[16..20].copy_from_slice(&number.to_be_bytes());
        let Some(group) = self.receiver.snapshot(self.now).next().map(|group| group.key) else { return };
        let verdict = self.receiver.handle_downlink(self.now, group, &packet, &mut self.actions);
        let due = self.now + ONE_WAY;
        let mut copy = SealedCopy::new(&packet);
        let (down, drop_rule) = (&mut self.down, &mut self.drop_rule);
        let mut send = |to: LinkAddr, bytes: &[u8]| {
            if !drop_rule(false, bytes) {
                down.push_back((due, to.addr, bytes.to_vec()));
            }
        };
        self.receiver.sealed_copies(self.now, verdict, &mut copy, &mut send);
        if let Verdict::FanOut(group) = verdict {
            let links = self.receiver.live_links(self.now, group);
            links.filter(|(link, _)| !self.receiver.seals_data(*link)).for_each(|(_, to)| send(to, &packet));
        }
    }

    fn live(&self) -> usize {
        self.sender.links().filter(|link| link.state == LinkState::Live).count()
    }

    fn unproven(&self) -> u64 {
        self.sender.counters().dropped_for(SenderDropReason::Unproven)
    }

    /// Links the receiver holds, in how many groups.
    fn held(&self) -> (usize, usize) {
        let groups: Vec<usize> = self.receiver.snapshot(self.now).map(|group| group.links.len()).collect();
        (groups.iter().sum(), groups.len())
    }
}

#[test]
fn registers_streams_and_survives_a_restart_and_moved_bindings() {
    let mut pair = Pair::new();
    pair.run(65);
    assert_eq!((pair.live(), pair.held()), (LINKS, (LINKS, 1)), "two round trips");
    let forwarded = pair.stream(3000);
    assert!(forwarded >= 2980, "{forwarded}");
    for link in pair.sender.links() {
        assert_eq!(link.state, LinkState::Live);
        assert_eq!(link.rtt.map(|rtt| rtt.as_millis()), Some(30), "{link:?}");
        assert!(link.acked_packets + 50 >= link.sent_packets && link.sent_packets > 10, "{link:?}");
    }
    assert_eq!(pair.unproven(), 0, "the two sides agree on every trailer");

    // Other cookie keys, no links, the same clock: an M1 on each link is enough.
    pair.restart_receiver();
    let forwarded = pair.stream(480);
    assert_eq!((pair.live(), pair.held()), (LINKS, (LINKS, 1)));
    assert!(forwarded > 100, "{forwarded} of 480 after the restart");

    pair.stream(1000);
    pair.ports = vec![6000; LINKS];
    let forwarded = pair.stream(480);
    assert_eq!((pair.live(), pair.held()), (LINKS, (LINKS, 1)), "the links moved and did not multiply");
    assert!(forwarded > 100, "{forwarded} of 480 after the move");
    assert_eq!(pair.rebinds, 0);

    // A quiet hour later everything is still there.
    let suspects = pair.notices.len();
    pair.run(60_000);
    assert_eq!((pair.live(), pair.notices.len()), (LINKS, suspects));
}

#[test]
fn each_packet_of_the_handshake_may_be_lost() {
    for (is_up, word) in
        [(true, [0x92, 0x00]), (false, [0x92, 0x01]), (true, [0x92, 0x01]), (false, [0x92, 0x02])]
    {
        let mut left = LINKS;
        let mut pair = Pair::losing(Box::new(move |up, bytes| {
            let is_lost = left > 0 && up == is_up && bytes.get(..2) == Some(&word);
            left -= usize::from(is_lost);
            is_lost
        }));
        pair.run(300);
        assert_eq!((pair.live(), pair.held()), (LINKS, (LINKS, 1)), "{is_up} {word:x?} lost on every link");
        assert!(pair.stream(1000) >= 980);
        assert_eq!(pair.unproven(), 0);
    }
}

#[test]
fn a_key_that_is_replaced_and_one_that_is_revoked() {
    let mut pair = Pair::new();
    pair.run(100);
    let (now, retiring) = (pair.now, admission(Some(Standing::Retiring)));
    pair.receiver.handle_command(now, Command::SetAdmission(retiring), &mut pair.actions);
    pair.stream(1000);
    assert_eq!(pair.live(), LINKS);
    assert!(!pair.notices.iter().any(|notice| matches!(notice, SenderNotice::KeyRetiring { .. })));
    pair.ports[0] = 6000;
    pair.stream(1000);
    assert_eq!((pair.live(), pair.held()), (LINKS, (LINKS, 1)));
    let told = pair.notices.iter().filter(|notice| matches!(notice, SenderNotice::KeyRetiring { .. }));
    assert_eq!(told.count(), 1, "told with the next confirmation");

    let now = pair.now;
    pair.receiver.handle_command(now, Command::SetAdmission(admission(None)), &mut pair.actions);
    assert_eq!(pair.stream(5000), 0, "not one packet after the key was revoked");
    assert_eq!((pair.live(), pair.held()), (0, (0, 0)));
    let now = pair.now;
    let back = admission(Some(Standing::Active));
    pair.receiver.handle_command(now, Command::SetAdmission(back), &mut pair.actions);
    pair.stream(2000);
    assert_eq!((pair.live(), pair.held()), (LINKS, (LINKS, 1)), "and back when it is good again");
}

/// Whether a datagram is SRT, and with which length.
fn srt_len(bytes: &[u8]) -> Option<usize> {
    (bytes[0] < 0x90).then_some(bytes.len())
}

#[test]
fn srt_packets_carry_macs_both_ways() {
    let mut lost = 0_u32;
    let mut pair = Pair::with(
        Flags::DATA_MAC,
        Box::new(move |up, bytes| {
            let Some(len) = srt_len(bytes) else { return false };
            assert_eq!(len, if up { 1352 } else { 64 }, "every SRT packet has its trailer");
            lost += 1;
            lost.is_multiple_of(10)
        }),
    );
    pair.run(65);
    assert_eq!(pair.live(), LINKS);
    for number in 0..3000 {
        pair.step(true);
        if number % 10 == 0 {
            pair.server_says(number);
        }
    }
    pair.run(50);
    assert!((2600..2800).contains(&pair.forwarded), "nine of ten of 3000: {}", pair.forwarded);
    assert!(pair.returned >= 299, "300 over three links: {}", pair.returned);
    let counters = *pair.sender.counters();
    assert_eq!((counters.to_link, pair.unproven()), (0, 0), "{counters:?}");
    assert_eq!(counters.sealed_sent, 3000 + counters.copies_sent);
    assert_eq!(pair.receiver.counters().dropped_total(), 0);

    // SHUTDOWN goes over two links, and each copy opens on its own only.
    let mut shutdown = [0; 20];
    shutdown[..2].copy_from_slice(&[0x80, 0x05]);
    shutdown[12..16].copy_from_slice(&77u32.to_be_bytes());
    let mut out = SenderActions::default();
    assert_eq!(pair.sender.handle_local(pair.now, &shutdown, &mut out), SenderVerdict::Consumed);
    let mut copies = Vec::new();
    out.drain(|action| match action {
        SenderAction::Send { link, bytes } => copies.push((link, bytes.to_vec())),
        action => panic!("{action:?}"),
    });
    assert_eq!((copies.len(), pair.sender.counters().copies_sent), (2, counters.copies_sent + 1));
    for (at, taken) in [(1, 0), (0, 1), (0, 0), (1, 1)] {
        let from = LinkAddr::new(pair.addr(copies[at].0));
        let bytes = &copies[taken].1;
        let verdict = pair.receiver.handle_uplink(pair.now, from, bytes, &mut pair.actions);
        assert_eq!(matches!(verdict, Verdict::Forward(_)), at == taken, "{verdict:?}");
    }

    let mut long = [0; 1453];
    long[12..16].copy_from_slice(&77u32.to_be_bytes());
    let verdict = pair.sender.handle_local(pair.now, &long, &mut pair.out);
    assert_eq!(verdict, SenderVerdict::Drop(SenderDropReason::TrailerRoom));
    assert_eq!(pair.sender.handle_local(pair.now, &long[..1452], &mut pair.out), SenderVerdict::Consumed);
    let mut full = SenderActions::with_capacity(1, 1400);
    assert_eq!(pair.sender.handle_local(pair.now, &long[..1332], &mut full), SenderVerdict::Consumed);
    let verdict = pair.sender.handle_local(pair.now, &long[..1332], &mut full);
    assert_eq!(verdict, SenderVerdict::Drop(SenderDropReason::ActionsFull));
}

/// Unsealed, forged, reflected and repeated return traffic reaches no encoder and brings no link up.
#[test]
fn return_traffic_without_a_good_trailer_is_ignored() {
    let mut pair = Pair::with(Flags::DATA_MAC, Box::new(|_, _| false));
    pair.run(100);
    pair.stream(20);
    pair.server_says(1);
    let (_, _, good) = pair.down.iter().rev().find(|(_, _, bytes)| bytes[0] == 0x80).unwrap().clone();
    let (_, _, own) = pair.up.iter().rev().find(|(_, _, bytes)| bytes[0] < 0x80).unwrap().clone();
    let link = pair.links[LINKS - 1];
    let mut take = |bytes: &[u8]| pair.sender.handle_link(pair.now, link, bytes, &mut pair.out);
    let unproven = SenderVerdict::Drop(SenderDropReason::Unproven);
    for bit in 0..good.len() * 8 {
        let mut flipped = good.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert_ne!(take(&flipped), SenderVerdict::ToLocal, "bit {bit}");
    }
    assert_eq!((take(&good[..44]), take(&own)), (unproven, unproven));
    assert_eq!((take(&good), take(&good)), (SenderVerdict::ToLocal, unproven));
}

/// A receiver that does not accept them gets not one SRT packet, however long it takes, and whatever the mode.
#[test]
fn without_them_nothing_is_sent() {
    let mut pair = Pair::with(
        Flags::DATA_MAC,
        Box::new(|_, bytes| {
            assert_eq!(srt_len(bytes), None, "SRT leaves");
            false
        }),
    );
    let mut policy = Arc::into_inner(admission(Some(Standing::Active))).unwrap();
    policy.data_mac = false;
    let now = pair.now;
    pair.receiver.handle_command(now, Command::SetAdmission(Arc::new(policy)), &mut pair.actions);
    assert_eq!(pair.stream(20_000), 0);
    assert_eq!((pair.live(), pair.held()), (0, (0, 0)));
}

/// New keys on all links, again and again, and an answer to that lost each time: all that was on its way arrives.
#[test]
fn new_keys_under_traffic_lose_nothing() {
    let mut m4 = 0_u32;
    let mut pair = Pair::with(
        Flags::DATA_MAC,
        Box::new(move |up, bytes| {
            let is_m4 = !up && bytes.starts_with(&[0x92, 0x02]);
            m4 += u32::from(is_m4);
            is_m4 && m4.is_multiple_of(4)
        }),
    );
    pair.run(1000);
    assert_eq!(pair.live(), LINKS);
    let (before, confirmed) = (pair.forwarded, pair.receiver.counters().sa1_confirmed);
    for _ in 0..10 {
        for link in pair.links.clone() {
            // The same socket, so the receiver sees the same address and renews the keys.
            pair.sender.link_rebound(pair.now, link, &mut pair.out);
            (0..200).for_each(|_| pair.step(true));
        }
    }
    pair.run(1000);
    assert!(pair.receiver.counters().sa1_confirmed >= confirmed + 30);
    assert_eq!(pair.forwarded - before, 6000 + pair.sender.counters().copies_sent);
    assert_eq!(pair.receiver.counters().dropped_total(), 0);
}
