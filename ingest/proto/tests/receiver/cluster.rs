//! All shards of a process as the daemon runs them: rings, news between shards, and a kernel that spreads datagrams by a
//! hash, by a steering table that lags behind, or at random. Time is virtual; what is lost is lost on purpose.

use crate::rig::*;
use bondgate_proto::LinkAddr;
use bondgate_proto::receiver::{Action, Admission, Command, DropReason, ReceiverConfig, Verdict};
use std::collections::{HashMap, VecDeque};

/// How the kernel picks the shard of a datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Spread {
    /// By the sender's address: always the same shard, rarely the owner.
    Hash,
    /// By the table of steered links, else by the address.
    Steered,
    /// Any shard, every time: the worst a switch between the two can do.
    Random,
}

enum Sent {
    Datagram(LinkAddr, u8, Vec<u8>),
    Claimed(LinkAddr, u8, bool),
    Released(LinkAddr, u8),
}

/// What became of a datagram in the end.
pub type Outcome = (usize, Verdict, Did);

pub struct Cluster {
    pub rigs: Vec<Rig>,
    pub spread: Spread,
    /// The kernel's table. Entries that are wrong stay until an order says otherwise.
    pub table: HashMap<LinkAddr, u8>,
    /// Claims and releases that get lost, of a thousand.
    pub news_lost: usize,
    pub handed_over: u64,
    rings: Vec<VecDeque<Sent>>,
    dice: Dice,
    claims_at: std::time::Instant,
}

impl Cluster {
    pub fn new(shards: u8) -> Self {
        Self::with(shards, &ReceiverConfig::default(), Admission::open)
    }

    pub fn with(shards: u8, config: &ReceiverConfig, admission: impl Fn() -> Admission) -> Self {
        let mut rigs: Vec<Rig> = (0..shards)
            .map(|shard| Rig::admitting(ReceiverConfig { shard, shards, ..config.clone() }, admission()))
            .collect();
        let now = rigs[0].now;
        for rig in &mut rigs {
            rig.now = now;
            rig.receiver.handle_command(now, Command::SetClock(clock(now)), &mut rig.out);
        }
        Self {
            rings: rigs.iter().map(|_| VecDeque::new()).collect(),
            rigs,
            spread: Spread::Hash,
            table: HashMap::new(),
            news_lost: 0,
            handed_over: 0,
            claims_at: now,
            dice: Dice(0x5EED_5A4D),
        }
    }

    /// The shard the kernel's hash gives an address.
    pub fn hash(&self, from: LinkAddr) -> usize {
        usize::from(from.addr.port()) * 7 % self.rigs.len()
    }

    fn arrival(&mut self, from: LinkAddr) -> usize {
        match self.spread {
            Spread::Hash => self.hash(from),
            Spread::Steered => self.table.get(&from).map_or(self.hash(from), |&shard| shard.into()),
            Spread::Random => self.dice.below(self.rigs.len()),
        }
    }

    /// A datagram comes in; its end.
    pub fn up(&mut self, from: LinkAddr, bytes: &[u8]) -> Outcome {
        let at = self.arrival(from);
        self.up_at(at, from, bytes)
    }

    /// The same on a shard of the test's choice.
    pub fn up_at(&mut self, at: usize, from: LinkAddr, bytes: &[u8]) -> Outcome {
        self.hear(at);
        let (verdict, did) = self.rigs[at].up(from, bytes);
        self.settle(at, from, bytes, 0, verdict, did)
    }

    fn settle(
        &mut self,
        at: usize,
        from: LinkAddr,
        bytes: &[u8],
        hand_offs: u8,
        verdict: Verdict,
        did: Did,
    ) -> Outcome {
        let did = self.spread_news(at, did);
        let Verdict::HandOff(to) = verdict else { return (at, verdict, did) };
        assert!(replies(&did).is_empty(), "the owner answers");
        assert_ne!(usize::from(to), at, "to itself");
        self.handed_over += 1;
        self.rings[usize::from(to)].push_back(Sent::Datagram(from, hand_offs + 1, bytes.to_vec()));
        self.hear(usize::from(to)).expect("the datagram just sent")
    }

    /// Carries out actions that concern other shards and the kernel; gives back the rest.
    fn spread_news(&mut self, at: usize, did: Did) -> Did {
        for (action, _) in &did {
            match *action {
                Action::Steer { addr, shard, proven } => {
                    assert_eq!(usize::from(shard), at);
                    self.table.insert(addr, shard);
                    self.tell(at, |owner| Sent::Claimed(addr, owner, proven));
                }
                Action::Unsteer { addr } => {
                    if self.table.get(&addr) == Some(&(at as u8)) {
                        self.table.remove(&addr);
                    }
                    self.tell(at, |owner| Sent::Released(addr, owner));
                }
                _ => {}
            }
        }
        did.into_iter()
            .filter(|(action, _)| !matches!(action, Action::Steer { .. } | Action::Unsteer { .. }))
            .collect()
    }

    fn tell(&mut self, owner: usize, news: impl Fn(u8) -> Sent) {
        for shard in (0..self.rigs.len()).filter(|&shard| shard != owner) {
            if self.dice.below(1000) >= self.news_lost {
                self.rings[shard].push_back(news(owner as u8));
            }
        }
    }

    /// A shard looks at what others sent it; the end of the last datagram among that.
    fn hear(&mut self, at: usize) -> Option<Outcome> {
        let mut last = None;
        while let Some(sent) = self.rings[at].pop_front() {
            let rig = &mut self.rigs[at];
            let command = match sent {
                Sent::Datagram(from, hand_offs, bytes) => {
                    let verdict =
                        rig.receiver.handle_handed_over(rig.now, from, &bytes, hand_offs, &mut rig.out);
                    assert!(rig.receiver.counters().is_conserved());
                    let did = rig.take();
                    last = Some(self.settle(at, from, &bytes, hand_offs, verdict, did));
                    continue;
                }
                Sent::Claimed(addr, owner, proven) => Command::Claimed { addr, owner, proven },
                Sent::Released(addr, owner) => Command::Released { addr, owner },
            };
            rig.receiver.handle_command(rig.now, command, &mut rig.out);
            let did = rig.take();
            self.spread_news(at, did);
        }
        last
    }

    /// All shards look at what others sent them.
    pub fn hear_all(&mut self) {
        for at in 0..self.rigs.len() {
            self.hear(at);
        }
    }

    /// Lets time pass, with claims repeated every four seconds as the daemon does.
    pub fn advance(&mut self, by: std::time::Duration) {
        let end = self.rigs[0].now + by;
        while self.rigs[0].now < end {
            let now = self.rigs[0].now;
            let step = (end - now).min(self.claims_at + ms(4000) - now);
            for at in 0..self.rigs.len() {
                let did = self.rigs[at].advance(step);
                self.spread_news(at, did);
            }
            if now + step == self.claims_at + ms(4000) {
                self.claims_at = now + step;
                self.repeat_claims();
            }
            self.hear_all();
        }
    }

    pub fn repeat_claims(&mut self) {
        for at in 0..self.rigs.len() {
            let receiver = &self.rigs[at].receiver;
            let links: Vec<_> = receiver.links_in(0..receiver.link_slots()).collect();
            for (addr, proven) in links {
                self.tell(at, |owner| Sent::Claimed(addr, owner, proven));
            }
        }
    }

    /// REG1 over the first link, REG2 over all; panics unless every link is let in. The ID and the owner.
    pub fn register(&mut self, n: u8, links: &[LinkAddr]) -> (Id, usize) {
        let (owner, verdict, did) = self.up(links[0], &reg1(&probe_id(n)));
        assert_eq!(verdict, Verdict::Consumed);
        let id: Id = replies(&did)[0].1[2..].try_into().unwrap();
        for &from in links {
            let (at, verdict, did) = self.up(from, &reg2(&id));
            assert_eq!((at, verdict), (owner, Verdict::Consumed));
            assert_eq!(replies(&did), [(from, reg3())]);
        }
        (id, owner)
    }

    /// Datagrams that came from the network, over all shards.
    pub fn received(&self) -> u64 {
        self.rigs.iter().map(|rig| rig.receiver.counters().received).sum()
    }

    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.rigs.iter().map(|rig| rig.receiver.counters().dropped(reason)).sum()
    }

    /// What is handed off is taken over, and every datagram of the network has one end.
    pub fn check(&self) {
        let sum = |figure: fn(&bondgate_proto::receiver::Counters) -> u64| -> u64 {
            self.rigs.iter().map(|rig| figure(rig.receiver.counters())).sum()
        };
        assert_eq!(sum(|c| c.handed_off), sum(|c| c.taken_over));
        assert_eq!(sum(|c| c.handed_off), self.handed_over);
        let ends = sum(|c| c.forwarded + c.fanned_out + c.to_link + c.consumed + c.dropped_total());
        assert_eq!(self.received(), ends);
    }
}
