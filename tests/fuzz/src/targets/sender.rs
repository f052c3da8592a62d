//! The bonding sender under a script of events from the encoder, from the receiver's side of each link, and from its sockets.
//!
//! Checked after every event: the conservation law; a chosen link exists; actions stay within the documented bound; timers
//! make progress.

use std::time::{Duration, Instant};

use bondgate_proto::sender::{
    LinkIndex, LinkLabel, Scheduler, Sender, SenderAction, SenderActions, SenderConfig, SenderVerdict,
};

use super::script::Script;

struct World {
    sender: Sender,
    out: SenderActions,
    now: Instant,
    links: Vec<LinkIndex>,
    to_rebind: Vec<LinkIndex>,
    /// The ID as last seen on the wire.
    id: [u8; 256],
}

pub fn run(data: &[u8]) {
    let mut script = Script::new(data);
    let scheduler = if script.u8() & 1 == 0 { Scheduler::Adaptive } else { Scheduler::Stock };
    let config = SenderConfig { scheduler, log_slots: 256, ..SenderConfig::default() };
    let mut world = World {
        sender: Sender::new(config, [5; 128], 6),
        out: SenderActions::with_capacity(256, 64 << 10),
        now: Instant::now(),
        links: Vec::new(),
        to_rebind: Vec::new(),
        id: [0; 256],
    };
    for label in 0..3 {
        world.add_link(label);
    }
    let mut seq = 1_u32;
    while let Some(op) = script.op() {
        let link = usize::from(op >> 4);
        match op & 15 {
            0 => world.local(script.bytes(1600)),
            1 | 2 => {
                for _ in 0..=script.u8() % 32 {
                    world.local(&srt(seq & 0x7FFF_FFFF, 0xC000_0001, &[0x47; 64]));
                    seq = seq.wrapping_add(1);
                }
            }
            3 => seq = script.u32(),
            4 => world.receive(link, script.bytes(1600)),
            5 => world.receive(link, &reg(0x9211, &[])),
            6 => {
                let mut id = world.id;
                id[128..].fill(op >> 4);
                let answer = reg(0x9201, &id);
                world.receive(link, &answer);
            }
            7 => world.receive(link, &reg(0x9202, &[])),
            8 => {
                // SRTLA ACK of recent numbers.
                let mut ack = vec![0x91, 0, 0, 0];
                for _ in 0..=script.u8() % 12 {
                    ack.extend(seq.wrapping_sub(u32::from(script.u8())).to_be_bytes());
                }
                world.receive(link, &ack);
            }
            9 => {
                let back = u32::from(script.u8());
                world.receive(link, &srt(0x8002_0000, 1, &seq.wrapping_sub(back).to_be_bytes()));
            }
            10 => {
                let first = seq.wrapping_sub(u32::from(script.u8()));
                let body =
                    [(first | 0x8000_0000).to_be_bytes(), seq.wrapping_add(script.u32()).to_be_bytes()];
                world.receive(link, &srt(0x8003_0000, 0, body.as_flattened()));
            }
            11 => world.wait(Duration::from_millis(u64::from(script.u8()))),
            12 => world.wait(Duration::from_millis(u64::from(script.u16()))),
            13 => match script.u8() % 4 {
                0 => world.add_link(u32::from(op)),
                1 if !world.links.is_empty() => {
                    let gone = world.links.remove(link % world.links.len());
                    world.sender.remove_link(world.now, gone, &mut world.out);
                    world.settle();
                }
                _ => {
                    if let Some(link) = world.link(link) {
                        world.sender.handle_send_error(world.now, link);
                        world.settle();
                    }
                }
            },
            14 => {
                if let Some(link) = world.to_rebind.pop() {
                    world.sender.link_rebound(world.now, link, &mut world.out);
                    world.settle();
                }
            }
            _ => {
                // The echo of a keepalive.
                let timestamp = u64::from(script.u16());
                let echo = [&[0x90, 0][..], &timestamp.to_be_bytes()].concat();
                world.receive(link, &echo);
            }
        }
    }
}

fn reg(kind: u16, id: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], id].concat()
}

fn srt(first: u32, second: u32, body: &[u8]) -> Vec<u8> {
    let words = [first, second, 0, 1].map(u32::to_be_bytes);
    [words.as_flattened(), body].concat()
}

impl World {
    fn link(&self, index: usize) -> Option<LinkIndex> {
        self.links.get(index % self.links.len().max(1)).copied()
    }

    fn add_link(&mut self, label: u32) {
        if let Some(link) = self.sender.add_link(self.now, LinkLabel(label), &mut self.out) {
            assert!(!self.links.contains(&link), "a link in use is given out again");
            self.links.push(link);
        }
        self.settle();
    }

    fn local(&mut self, bytes: &[u8]) {
        match self.sender.handle_local(self.now, bytes, &mut self.out) {
            SenderVerdict::ToLink(link) => {
                assert!(self.links.contains(&link), "a link that does not exist is chosen");
            }
            SenderVerdict::ToLocal => panic!("the encoder's datagram goes back to it"),
            SenderVerdict::Consumed | SenderVerdict::Drop(_) => {}
        }
        self.settle();
    }

    fn receive(&mut self, link: usize, bytes: &[u8]) {
        let Some(link) = self.link(link) else { return };
        if let SenderVerdict::ToLink(_) = self.sender.handle_link(self.now, link, bytes, &mut self.out) {
            panic!("the receiver's datagram goes back to it");
        }
        self.settle();
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
        for _ in 0..1000 {
            self.sender.handle_timeout(self.now, &mut self.out);
            self.settle();
            if self.sender.poll_timeout().is_none_or(|at| at > self.now) {
                return;
            }
        }
        panic!("the timers make no progress");
    }

    fn settle(&mut self) {
        let mut to_rebind = Vec::new();
        self.out.drain(|action| match action {
            SenderAction::Send { link, bytes } => {
                assert!(!bytes.is_empty() && bytes.len() <= 1500);
                assert!(self.links.contains(&link), "a link that does not exist sends");
                if let Some(Ok(id)) = bytes.get(2..).map(<[u8; 256]>::try_from) {
                    self.id = id;
                }
            }
            SenderAction::Rebind { link } => to_rebind.push(link),
            SenderAction::Notice(_) => {}
        });
        self.to_rebind.truncate(8);
        self.to_rebind.extend(to_rebind.into_iter().filter(|link| self.links.contains(link)));
        assert_eq!(self.out.overflowed(), 0, "there was room");
        assert!(self.sender.counters().is_conserved(), "{:?}", self.sender.counters());
        assert_eq!(self.sender.links().count(), self.links.len());
    }
}
