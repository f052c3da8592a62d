//! A receiver with a virtual clock, and the packets to feed it with.
#![allow(dead_code, reason = "shared by several test binaries, none of which uses everything")]

use bondgate_auth::ticket::TicketKey;
use bondgate_proto::receiver::{
    Action, Actions, Admission, Clock, Command, Notice, Receiver, ReceiverConfig, Secrets, Verdict,
};
use bondgate_proto::wire::{PacketType, emit_reg};
use bondgate_proto::{GroupKey, LinkAddr, LinkKey};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub const SECRET: [u8; 32] = [0x42; 32];
pub const EPOCH: u32 = 1000;

pub type Id = [u8; 256];
pub type Half = [u8; 128];
pub type Did = Vec<(Action, Vec<u8>)>;

pub fn secrets() -> Secrets {
    Secrets { tickets: TicketKey::new(SECRET), cookies: [0x43; 32], nonces: [0x44; 16] }
}

/// The clocks as they are when a test begins.
pub fn clock(at: Instant) -> Clock {
    Clock { at, boot_ms: 5_000_000, wall_ms: 1_800_000_000_000 }
}

pub struct Rig {
    pub receiver: Receiver,
    pub out: Actions,
    pub now: Instant,
}

pub fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// The `n`-th link: every third one shares the IP of its neighbours, as behind one carrier NAT.
pub fn link(n: u16) -> LinkAddr {
    LinkAddr::new(format!("192.0.{}.{}:{}", 2 + n / 600, 1 + n % 600 / 3, 5000 + n).parse().unwrap())
}

pub fn half(n: u8) -> Half {
    [n; 128]
}

/// A full ID whose receiver half is not ours.
pub fn probe_id(n: u8) -> Id {
    let mut id = [0x5A; 256];
    id[..128].fill(n);
    id
}

pub fn with_ticket(half: &Half, epoch: u32) -> Id {
    let mut id = [0; 256];
    id[..128].copy_from_slice(half);
    id[128..].copy_from_slice(&TicketKey::new(SECRET).issue(half, epoch, 0));
    id
}

pub fn reg1(id: &Id) -> Vec<u8> {
    emit_reg(PacketType::Reg1, id, &mut [0; 258]).unwrap().to_vec()
}

pub fn reg2(id: &Id) -> Vec<u8> {
    emit_reg(PacketType::Reg2, id, &mut [0; 258]).unwrap().to_vec()
}

pub fn reg3() -> Vec<u8> {
    let mut bytes = vec![0; 32];
    bytes[..2].copy_from_slice(&[0x92, 0x02]);
    bytes
}

pub fn ngp() -> Vec<u8> {
    let mut bytes = vec![0; 32];
    bytes[..2].copy_from_slice(&[0x92, 0x11]);
    bytes
}

pub fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

pub fn data(seq: u32, dest: u32) -> Vec<u8> {
    let mut bytes = words(&[seq, 0xC000_0001, 12345, dest]);
    bytes.resize(16 + 1316, 0x47);
    bytes
}

/// An SRT control packet without body.
pub fn control(kind: u16, info: u32, dest: u32) -> Vec<u8> {
    words(&[0x8000_0000 | u32::from(kind) << 16, info, 777, dest])
}

pub fn srt_ack(number: u32, next: u32, dest: u32) -> Vec<u8> {
    let mut bytes = control(2, number, dest);
    bytes.extend(words(&[next, 100, 50, 8192, 1000, 2000, 1_000_000]));
    bytes
}

pub fn srt_light_ack(next: u32, dest: u32) -> Vec<u8> {
    let mut bytes = control(2, 0, dest);
    bytes.extend(words(&[next]));
    bytes
}

pub fn srt_nak(lost: &[u32], dest: u32) -> Vec<u8> {
    let mut bytes = control(3, 0, dest);
    bytes.extend(words(lost));
    bytes
}

/// A handshake: type word, the speaker's socket ID, destination.
pub fn handshake(kind: u32, socket_id: u32, isn: u32, dest: u32) -> Vec<u8> {
    let mut bytes = control(0, 0, dest);
    bytes.extend(words(&[5, 0x0000_4A17, isn, 1500, 8192, kind, socket_id, 0xC00C_1E00, 0, 0, 0, 0]));
    bytes
}

pub fn induction(caller: u32) -> Vec<u8> {
    handshake(1, caller, 100, 0)
}

pub fn conclusion(caller: u32, isn: u32) -> Vec<u8> {
    handshake(0xFFFF_FFFF, caller, isn, 0)
}

pub fn conclusion_answer(caller: u32, server: u32) -> Vec<u8> {
    handshake(0xFFFF_FFFF, server, 100, caller)
}

/// A keepalive of any length.
pub fn keepalive(len: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..len).map(|n| n as u8).collect();
    bytes[..2].copy_from_slice(&[0x90, 0x00]);
    bytes
}

impl Rig {
    pub fn new() -> Self {
        Self::with(ReceiverConfig::default())
    }

    pub fn with(config: ReceiverConfig) -> Self {
        Self::admitting(config, Admission::open())
    }

    pub fn admitting(config: ReceiverConfig, admission: Admission) -> Self {
        let now = Instant::now();
        let receiver = Receiver::new(config, secrets(), Arc::new(admission), clock(now), [1, 2], EPOCH);
        let (actions, bytes) = receiver.actions_min();
        Self { receiver, out: Actions::with_capacity(2 * actions, 8 * bytes + 65_536), now }
    }

    /// The same receiver program started again: same secret, nothing else.
    pub fn restarted(&self) -> Self {
        let mut rig = Self::with(self.receiver.config().clone());
        rig.now = self.now;
        rig
    }

    /// Puts another policy in force.
    pub fn admit(&mut self, admission: Admission) -> Did {
        self.receiver.handle_command(self.now, Command::SetAdmission(Arc::new(admission)), &mut self.out);
        self.take()
    }

    pub fn up(&mut self, from: LinkAddr, bytes: &[u8]) -> (Verdict, Did) {
        let verdict = self.receiver.handle_uplink(self.now, from, bytes, &mut self.out);
        assert!(self.receiver.counters().is_conserved());
        (verdict, self.take())
    }

    /// The same when the outcome is not the point.
    pub fn feed(&mut self, from: LinkAddr, bytes: &[u8]) {
        let _ = self.up(from, bytes);
    }

    pub fn down(&mut self, group: GroupKey, bytes: &[u8]) -> Verdict {
        let verdict = self.receiver.handle_downlink(self.now, group, bytes, &mut self.out);
        assert!(self.receiver.counters().is_conserved());
        assert!(replies(&self.take()).is_empty(), "the return path answers nobody");
        verdict
    }

    pub fn take(&mut self) -> Did {
        let mut did = Vec::new();
        self.out.drain(|action, bytes| did.push((action, bytes.to_vec())));
        did
    }

    /// Lets time pass, serving every deadline when it is due; each action with the time it came.
    pub fn advance_timed(&mut self, by: Duration) -> Vec<(Instant, Action, Vec<u8>)> {
        let end = self.now + by;
        let mut did = Vec::new();
        let mut rounds = 0;
        while let Some(due) = self.receiver.poll_timeout().filter(|&due| due <= end) {
            rounds += 1;
            assert!(rounds < 1_000_000, "a timer does not go away");
            self.now = self.now.max(due);
            self.receiver.handle_timeout(self.now, &mut self.out);
            did.extend(self.take().into_iter().map(|(action, bytes)| (self.now, action, bytes)));
        }
        self.now = end;
        did
    }

    pub fn advance(&mut self, by: Duration) -> Did {
        self.advance_timed(by).into_iter().map(|(_, action, bytes)| (action, bytes)).collect()
    }

    /// Registers `half` and joins with all `links`; the group.
    pub fn register(&mut self, half: &Half, links: &[LinkAddr]) -> GroupKey {
        let mut id = [0; 256];
        id[..128].copy_from_slice(half);
        let (verdict, did) = self.up(links[0], &reg1(&id));
        assert_eq!(verdict, Verdict::Consumed);
        let id: Id = replies(&did)[0].1[2..].try_into().unwrap();
        for &from in links {
            let (verdict, did) = self.up(from, &reg2(&id));
            assert_eq!(verdict, Verdict::Consumed);
            assert_eq!(replies(&did), [(from, reg3())]);
        }
        self.group_of(links[0]).unwrap()
    }

    /// Lets an SRT session begin over `from`.
    pub fn open_session(&mut self, group: GroupKey, from: LinkAddr, caller: u32, server: u32, isn: u32) {
        assert_eq!(self.up(from, &induction(caller)).0, Verdict::Forward(group));
        let _ = self.down(group, &handshake(1, caller, 0, caller));
        assert_eq!(self.up(from, &conclusion(caller, isn)).0, Verdict::Forward(group));
        let _ = self.down(group, &conclusion_answer(caller, server));
    }

    pub fn group_of(&self, from: LinkAddr) -> Option<GroupKey> {
        let mut groups = self.receiver.snapshot(self.now);
        groups.find(|group| group.links.iter().any(|link| link.addr == from)).map(|group| group.key)
    }

    pub fn link_key(&self, from: LinkAddr) -> LinkKey {
        let groups = self.receiver.snapshot(self.now);
        groups.flat_map(|group| group.links).find(|link| link.addr == from).unwrap().key
    }

    /// Addresses of a group, in index order.
    pub fn members(&self, group: GroupKey) -> Vec<LinkAddr> {
        let mut groups = self.receiver.snapshot(self.now);
        let group = groups.find(|snapshot| snapshot.key == group);
        group.map(|group| group.links.iter().map(|link| link.addr).collect()).unwrap_or_default()
    }

    pub fn groups(&self) -> usize {
        self.receiver.snapshot(self.now).count()
    }

    /// Where a fan-out goes; panics if the packet is not fanned out.
    pub fn fan_out(&mut self, group: GroupKey, bytes: &[u8]) -> Vec<LinkAddr> {
        assert_eq!(self.down(group, bytes), Verdict::FanOut(group));
        self.receiver.live_links(self.now, group).map(|(_, addr)| addr).collect()
    }

    /// Where a packet for one link goes.
    pub fn one_link(&mut self, group: GroupKey, bytes: &[u8]) -> Option<LinkAddr> {
        match self.down(group, bytes) {
            Verdict::ToLink(link) => self.receiver.link_addr(link),
            Verdict::Drop(_) => None,
            other => panic!("{other:?}"),
        }
    }
}

/// The datagrams sent, with their addresses.
pub fn replies(did: &Did) -> Vec<(LinkAddr, Vec<u8>)> {
    did.iter()
        .filter_map(|(action, bytes)| match action {
            Action::Reply { to } => Some((*to, bytes.clone())),
            _ => None,
        })
        .collect()
}

pub fn notices(did: &Did) -> Vec<Notice> {
    did.iter()
        .filter_map(|(action, _)| match action {
            Action::Notice(notice) => Some(*notice),
            _ => None,
        })
        .collect()
}

/// A small deterministic generator (xorshift64*), for tests that need volume rather than shrinking.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub fn below(&mut self, n: usize) -> usize {
        ((self.roll() >> 32) as usize) % n
    }
}
