//! Our sender with a key against our receiver, directly: joins, trailers, a restart, moved bindings, each lost packet of the
//! handshake, key rotation and revocation.

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
    Action, Actions, Admission, Clock, Command, Receiver, ReceiverConfig, Secrets, StockAdmission, Verdict,
};
use bondgate_proto::sender::{
    DEFAULT_OFFER, LinkIndex, LinkLabel, LinkState, Sa1Config, Sa1Mode, Sender, SenderAction, SenderActions,
    SenderConfig, SenderDropReason, SenderNotice, SenderVerdict, WallClock,
};

const ONE_WAY: Duration = Duration::from_millis(15);
const WALL_MS: u64 = 1_790_000_000_000;
const LISTENER: ListenerId = ListenerId([4; 16]);
const LINKS: usize = 3;

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
        keys: KeyTable::new(key),
        ..Admission::open()
    })
}

impl Pair {
    fn new() -> Self {
        Self::losing(Box::new(|_, _| false))
    }

    fn losing(drop_rule: DropRule) -> Self {
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
                required: Flags::NONE,
            },
            offered: DEFAULT_OFFER,
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
                Verdict::Forward(_) => self.forwarded += 1,
                Verdict::ToLink(_) => self.down.push_back((self.now + ONE_WAY, from, bytes)),
                _ => {}
            }
        }
        while self.down.front().is_some_and(|(at, _, _)| *at <= self.now) {
            let Some((_, to, bytes)) = self.down.pop_front() else { break };
            let link = self.links.iter().copied().find(|link| self.addr(*link) == to);
            if let Some(link) = link {
                let verdict = self.sender.handle_link(self.now, link, &bytes, &mut self.out);
                assert_ne!(verdict, SenderVerdict::ToLocal, "nothing here is for the encoder");
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
