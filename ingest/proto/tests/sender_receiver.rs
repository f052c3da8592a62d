//! Our sender against our receiver, directly: joins, keepalives, acknowledgements, a restart and moved bindings.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bondgate_auth::ticket::TicketKey;
use bondgate_proto::LinkAddr;
use bondgate_proto::receiver::{
    Action, Actions, Admission, Clock, Receiver, ReceiverConfig, Secrets, Verdict,
};
use bondgate_proto::sender::{
    LinkIndex, LinkLabel, LinkState, Sender, SenderAction, SenderActions, SenderConfig, SenderVerdict,
};

const ONE_WAY: Duration = Duration::from_millis(15);

struct Pair {
    sender: Sender,
    out: SenderActions,
    receiver: Receiver,
    actions: Actions,
    now: Instant,
    links: Vec<LinkIndex>,
    ports: Vec<u16>,
    up: VecDeque<(Instant, SocketAddr, Vec<u8>)>,
    down: VecDeque<(Instant, SocketAddr, Vec<u8>)>,
    forwarded: u64,
    rebinds: u64,
}

fn receiver() -> Receiver {
    let secrets = Secrets { tickets: TicketKey::new([3; 32]), cookies: [4; 32], nonces: [5; 16] };
    let clock = Clock { at: Instant::now(), boot_ms: 0, wall_ms: 0 };
    Receiver::new(ReceiverConfig::default(), secrets, Arc::new(Admission::open()), clock, [1, 2], 77)
}

impl Pair {
    fn new() -> Self {
        let receiver = receiver();
        let (entries, arena) = receiver.actions_min();
        let mut pair = Self {
            sender: Sender::new(SenderConfig::default(), [9; 128], 5),
            out: SenderActions::default(),
            actions: Actions::with_capacity(entries * 4, arena * 4),
            receiver,
            now: Instant::now(),
            links: Vec::new(),
            ports: vec![5000, 5001, 5002],
            up: VecDeque::new(),
            down: VecDeque::new(),
            forwarded: 0,
            rebinds: 0,
        };
        for label in 0..3 {
            let link = pair.sender.add_link(pair.now, LinkLabel(label), &mut pair.out).expect("three fit");
            pair.links.push(link);
        }
        pair
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
            SenderAction::Notice(_) => {}
        });
        for (link, bytes) in sends {
            self.up.push_back((due, self.addr(link), bytes));
        }
        let down = &mut self.down;
        self.actions.drain(|action, bytes| {
            if let Action::Reply { to } = action {
                down.push_back((due, to.addr, bytes.to_vec()));
            }
        });
    }

    /// One millisecond: deliver, run timers, and if `data` is given send a packet with this number.
    fn step(&mut self, data: Option<u32>) {
        self.now += Duration::from_millis(1);
        if let Some(seq) = data {
            let mut bytes = [0; 1332];
            bytes[..4].copy_from_slice(&seq.to_be_bytes());
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
    }

    fn live(&self) -> usize {
        self.sender.links().filter(|link| link.state == LinkState::Live).count()
    }
}

#[test]
fn registers_streams_and_survives_a_restart_and_moved_bindings() {
    let mut pair = Pair::new();
    pair.flush();
    for _ in 0..65 {
        pair.step(None);
    }
    assert_eq!(pair.live(), 3, "two round trips");

    let mut seq = 1000;
    let stream = |pair: &mut Pair, ms: u32, seq: &mut u32| {
        for _ in 0..ms {
            *seq += 1;
            pair.step(Some(*seq));
        }
    };
    stream(&mut pair, 2000, &mut seq);
    assert!(pair.forwarded >= 1980, "{}", pair.forwarded);
    for link in pair.sender.links() {
        assert_eq!(link.state, LinkState::Live);
        assert_eq!(link.rtt.map(|rtt| rtt.as_millis()), Some(30), "{link:?}");
        assert!(link.acked_packets + 50 >= link.sent_packets && link.sent_packets > 10, "{link:?}");
    }

    // The process behind the same key starts again: the old ID is enough.
    let reg1 = pair.sender.counters().reg1_sent;
    pair.receiver = receiver();
    let before = pair.forwarded;
    stream(&mut pair, 450, &mut seq);
    assert_eq!(pair.live(), 3);
    assert!(pair.forwarded > before + 100, "{} of 450 after the restart", pair.forwarded - before);
    assert_eq!(pair.sender.counters().reg1_sent, reg1);

    // All bindings move.
    stream(&mut pair, 1000, &mut seq);
    pair.ports = vec![6000, 6001, 6002];
    let before = pair.forwarded;
    stream(&mut pair, 450, &mut seq);
    assert_eq!(pair.live(), 3);
    assert!(pair.forwarded > before + 100, "{} of 450 after the move", pair.forwarded - before);
    assert_eq!(pair.rebinds, 0);
    assert!(pair.sender.counters().is_conserved());
}
