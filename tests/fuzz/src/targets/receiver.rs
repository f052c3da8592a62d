//! The SRTLA receiver under a script of events from eight addresses and from the SRT side.
//!
//! Checked after every event: the conservation law; bounded tables; answers to one datagram are not longer than it (or than
//! an SRTLA ACK); timers make progress.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bondgate_auth::ticket::TicketKey;
use bondgate_proto::receiver::{
    Action, Actions, Admission, Clock, Command, Receiver, ReceiverConfig, Secrets, Verdict,
};
use bondgate_proto::{GroupKey, LinkAddr};

use super::script::Script;

const GROUPS_MAX: usize = 3;
const LINKS_MAX: usize = 3;
const ADDRS: usize = 8;
/// Bytes of the longest answer that is not bound to the length of a request: an SRTLA ACK of ten numbers.
const ACK_LEN: usize = 44;

struct World {
    receiver: Receiver,
    out: Actions,
    now: Instant,
    /// The last ID the receiver issued to each sender half.
    ids: [[u8; 256]; 4],
    groups: Vec<GroupKey>,
}

pub fn run(data: &[u8]) {
    let config = ReceiverConfig {
        groups_max: GROUPS_MAX,
        links_per_group_max: LINKS_MAX,
        pending_max: 4,
        foreign_max: 8,
        ..ReceiverConfig::default()
    };
    let secrets = Secrets { tickets: TicketKey::new([7; 32]), cookies: [8; 32], nonces: [9; 16] };
    let clock = Clock { at: Instant::now(), boot_ms: 0, wall_ms: 0 };
    let receiver = Receiver::new(config, secrets, Arc::new(Admission::open()), clock, [1, 2], 100);
    let (actions, bytes) = receiver.actions_min();
    let out = Actions::with_capacity(actions * 4, bytes * 8);
    let ids = std::array::from_fn(|half| [half as u8 + 1; 256]);
    let mut world = World { receiver, out, now: Instant::now(), ids, groups: Vec::new() };
    let mut script = Script::new(data);
    let mut seq = 1_u32;
    while let Some(op) = script.op() {
        let (addr, half) = (usize::from(op >> 4) % ADDRS, usize::from(op >> 4) % 4);
        match op & 15 {
            0 => world.uplink(addr, script.bytes(1600)),
            1 => world.register(addr, half, 0x9200),
            2 => world.register(addr, half, 0x9201),
            3 => {
                // The issued ID, slightly wrong.
                let mut datagram = reg(0x9201, &world.ids[half]);
                datagram[2 + usize::from(script.u8())] ^= script.u8();
                world.uplink(addr, &datagram);
            }
            4 => {
                let mut keepalive = vec![0; [2, 10, 38, 32][usize::from(script.u8()) % 4]];
                keepalive[..2].copy_from_slice(&[0x90, 0]);
                world.uplink(addr, &keepalive);
            }
            5 | 6 => {
                for _ in 0..=script.u8() % 24 {
                    let socket_id = u32::from(op >> 4 & 1) + 1;
                    world.uplink(addr, &srt(seq & 0x7FFF_FFFF, 0xC000_0001, socket_id, &[0x47; 32]));
                    seq = seq.wrapping_add(1);
                }
            }
            7 => seq = script.u32(),
            8 => {
                let body = script.bytes(80);
                world.uplink(
                    addr,
                    &srt(
                        0x8000_0000 | u32::from(script.u8() % 9) << 16,
                        script.u32(),
                        script.u32() & 3,
                        body,
                    ),
                );
            }
            9 => world.downlink(script.u8(), script.bytes(1600)),
            10 => {
                let kind = [2, 3, 0, 1, 5, 6][usize::from(script.u8()) % 6];
                let body = script.bytes(80);
                world.downlink(
                    script.u8(),
                    &srt(0x8000_0000 | kind << 16, script.u32(), script.u32() & 3, body),
                );
            }
            11 | 12 => world.wait(Duration::from_millis(u64::from(script.u8()))),
            13 => world.wait(Duration::from_millis(u64::from(script.u16()))),
            14 => {
                let command = match script.u8() % 8 {
                    0 => Command::SetDraining(true),
                    1..4 => Command::SetEpoch(100 + u32::from(script.u8() % 4)),
                    _ => match world.groups.get(usize::from(script.u8()) % world.groups.len().max(1)) {
                        Some(group) => Command::CloseGroup(*group),
                        None => continue,
                    },
                };
                world.receiver.handle_command(world.now, command, &mut world.out);
                world.settle(None);
            }
            _ => world.timeout(),
        }
    }
}

fn addr(index: usize) -> LinkAddr {
    LinkAddr::new(SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1 + (index / 2) as u8), 4000 + index as u16)))
}

fn reg(kind: u16, id: &[u8; 256]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], id].concat()
}

fn srt(first: u32, second: u32, socket_id: u32, body: &[u8]) -> Vec<u8> {
    let words = [first, second, 0, socket_id].map(u32::to_be_bytes);
    [words.as_flattened(), body].concat()
}

impl World {
    fn register(&mut self, addr: usize, half: usize, kind: u16) {
        let datagram = reg(kind, &self.ids[half]);
        self.uplink(addr, &datagram);
    }

    fn uplink(&mut self, from: usize, bytes: &[u8]) {
        let verdict = self.receiver.handle_uplink(self.now, addr(from), bytes, &mut self.out);
        match verdict {
            Verdict::Forward(group) => {
                if !self.groups.contains(&group) {
                    self.groups.truncate(7);
                    self.groups.insert(0, group);
                }
                let link = self.receiver.last_link().expect("a forwarded datagram came over a link");
                assert_eq!(self.receiver.link_addr(link), Some(addr(from)));
                assert!(self.receiver.link_index(link).is_some_and(|index| usize::from(index) < LINKS_MAX));
            }
            Verdict::ToLink(link) => {
                assert_eq!(self.receiver.link_addr(link), Some(addr(from)), "an echo goes astray");
            }
            Verdict::HandOff(shard) => panic!("the only shard hands off to {shard}"),
            Verdict::FanOut(_) => panic!("an uplink datagram is fanned out"),
            Verdict::Consumed | Verdict::Drop(_) => {}
        }
        self.settle(Some((addr(from), bytes.len().max(ACK_LEN))));
    }

    fn downlink(&mut self, group: u8, bytes: &[u8]) {
        let Some(group) = self.groups.get(usize::from(group) % self.groups.len().max(1)).copied() else {
            return;
        };
        match self.receiver.handle_downlink(self.now, group, bytes, &mut self.out) {
            Verdict::FanOut(to) => {
                assert_eq!(to, group);
                let links = self.receiver.live_links(self.now, group).count();
                assert!((1..=LINKS_MAX).contains(&links), "fanned out to {links} links");
            }
            Verdict::ToLink(link) => assert!(self.receiver.link_addr(link).is_some()),
            Verdict::Drop(_) => {}
            other => panic!("{other:?} for a downlink datagram"),
        }
        self.settle(None);
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
        self.timeout();
    }

    fn timeout(&mut self) {
        for _ in 0..1000 {
            self.receiver.handle_timeout(self.now, &mut self.out);
            self.settle(None);
            if self.receiver.poll_timeout().is_none_or(|at| at > self.now) {
                return;
            }
        }
        panic!("the timers make no progress");
    }

    /// Carries out the actions and checks what must always hold. `budget`: who was heard, and how many bytes it may get.
    fn settle(&mut self, budget: Option<(LinkAddr, usize)>) {
        let mut answered = 0;
        self.out.drain(|action, bytes| {
            if let Action::Reply { to } = action {
                if let Some((from, _)) = budget {
                    assert_eq!(to, from, "somebody else is answered");
                    answered += bytes.len();
                }
                if let (Some([0x92, 0x01]), Ok(id)) =
                    (bytes.first_chunk(), <[u8; 256]>::try_from(&bytes[2..]))
                {
                    self.ids[usize::from(id[0] - 1) % 4] = id;
                }
            }
        });
        if let Some((_, most)) = budget {
            assert!(answered <= most, "{answered} bytes answer a datagram that allows {most}");
        }
        assert_eq!(self.out.overflowed(), 0, "there was room");
        assert!(self.receiver.counters().is_conserved(), "{:?}", self.receiver.counters());
        let groups: Vec<_> = self.receiver.snapshot(self.now).map(|group| group.links.len()).collect();
        assert!(groups.len() <= GROUPS_MAX && groups.iter().all(|links| *links <= LINKS_MAX), "{groups:?}");
    }
}
