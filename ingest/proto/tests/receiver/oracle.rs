//! The receiver against a model that knows no hash, no list of deadlines and no arena: vectors searched from front to back.
//!
//! The model covers registration, membership, eviction, timeouts, SRTLA ACKs, keepalives, the return path and credit. Time
//! moves in steps of 100 ms, so that the receiver's coarse timeouts are exact.

use crate::rig::*;
use bondgate_proto::LinkAddr;
use bondgate_proto::receiver::{Command, DropReason, ReceiverConfig, Verdict};
use proptest::prelude::*;
use std::collections::HashSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

const GROUPS: usize = 3;
const LINKS: usize = 3;
const CREDIT_CAP: u32 = 5_000;

#[derive(Clone, Debug)]
enum Op {
    Reg1 { from: u16, half: u8 },
    Join { from: u16, half: u8, epoch_back: u32 },
    Probe { from: u16, half: u8 },
    Data { from: u16 },
    Control { from: u16 },
    Keepalive { from: u16 },
    Junk { from: u16 },
    Return { half: u8, what: Return },
    Wait { steps: u32 },
    NextEpoch,
}

#[derive(Clone, Copy, Debug)]
enum Return {
    Ack,
    Nak,
    Keepalive,
    Data,
}

#[derive(Clone, Debug, PartialEq)]
enum Expect {
    Forward,
    FanOut(Vec<LinkAddr>),
    ToLink(LinkAddr),
    Consumed,
    Drop(DropReason),
}

type Replies = Vec<(LinkAddr, Vec<u8>)>;

#[derive(Clone)]
struct ModelLink {
    addr: LinkAddr,
    /// When it was last heard, and the how-manieth link to be heard in this step.
    heard: (Instant, u64),
    talked: Option<Instant>,
    srt: Option<Instant>,
    reg3_due: Option<Instant>,
    reg3_repeats: u32,
    unacked: Vec<u32>,
    flush_due: Option<Instant>,
    credit: i64,
    /// It has sent a keepalive since it joined.
    kept: bool,
    tokens: f64,
    tokens_at: Instant,
}

struct ModelGroup {
    half: u8,
    id: Id,
    born: u64,
    links: [Option<ModelLink>; LINKS],
    newest: Option<LinkAddr>,
    carried: bool,
    empty_since: Option<(Instant, u64)>,
}

struct ModelPending {
    addr: LinkAddr,
    credit: i64,
    touched: Instant,
    waits: Option<(u8, Instant, u64)>,
}

struct Model {
    now: Instant,
    epoch: u32,
    /// Counts events, to tell apart what happens in the same step.
    ticks: u64,
    groups: Vec<ModelGroup>,
    /// Addresses that are registering: what they may be sent, when they last registered, and the REG2 that waits.
    pending: Vec<ModelPending>,
    /// Who was sent 32 bytes more than it sent.
    indebted: HashSet<IpAddr>,
    seq: u32,
    config: ReceiverConfig,
}

impl Model {
    fn registers(&mut self, from: LinkAddr, answer: usize) -> &mut ModelPending {
        let known = self.pending.iter().position(|entry| entry.addr == from);
        let at = known.unwrap_or_else(|| {
            let entry = ModelPending { addr: from, credit: 0, touched: self.now, waits: None };
            self.pending.push(entry);
            self.pending.len() - 1
        });
        let entry = &mut self.pending[at];
        entry.credit += 258 - answer as i64;
        entry.touched = self.now;
        entry
    }

    fn hear(&mut self, g: usize, l: usize, len: usize) {
        self.ticks += 1;
        let link = self.groups[g].links[l].as_mut().unwrap();
        link.credit = (link.credit + len as i64).min(CREDIT_CAP.into());
        if link.heard.0 != self.now {
            link.heard = (self.now, self.ticks);
        }
    }

    fn member(&self, from: LinkAddr) -> Option<(usize, usize)> {
        self.groups.iter().enumerate().find_map(|(g, group)| {
            let l =
                group.links.iter().position(|link| link.as_ref().is_some_and(|link| link.addr == from))?;
            Some((g, l))
        })
    }

    fn by_half(&self, half: u8) -> Option<usize> {
        self.groups.iter().position(|group| group.half == half)
    }

    fn answer(&self, half_: u8) -> Vec<u8> {
        match self.by_half(half_) {
            Some(g) => reg2(&self.groups[g].id),
            None => reg2(&with_ticket(&half(half_), self.epoch)),
        }
    }

    fn reg1(&mut self, from: LinkAddr, half: u8) -> (Expect, Replies) {
        let due = self.now + self.config.reg2_repeat;
        self.ticks += 1;
        let tick = self.ticks;
        self.registers(from, 258).waits = Some((half, due, tick));
        (Expect::Consumed, vec![(from, self.answer(half))])
    }

    fn join(&mut self, from: LinkAddr, id: &Id) -> (Expect, Replies) {
        let half_ = id[0];
        let stored = self.by_half(half_).is_some_and(|g| self.groups[g].id == *id);
        let valid = [self.epoch - 1, self.epoch, self.epoch + 1]
            .iter()
            .any(|&epoch| with_ticket(&half(half_), epoch) == *id);
        if !stored && !valid {
            self.registers(from, 32);
            return (Expect::Consumed, vec![(from, ngp())]);
        }
        let saved: i64 =
            self.pending.iter().filter(|entry| entry.addr == from).map(|entry| entry.credit).sum();
        self.pending.retain(|entry| entry.addr != from);
        let yes = (Expect::Consumed, vec![(from, reg3())]);
        if let Some((g, l)) = self.member(from) {
            let same_group = self.groups[g].half == half_;
            if same_group {
                self.hear(g, l, 258);
            }
            let link = self.groups[g].links[l].as_mut().unwrap();
            if same_group {
                assert!(link.pay(32));
                link.reg3_repeats = 0;
                link.kept = false;
                link.reg3_due = Some(self.now + self.config.reg3_repeat);
                return yes;
            }
            if link.talked.is_some_and(|talked| self.now - talked < self.config.move_silence) {
                return (Expect::Drop(DropReason::AddressBusy), vec![]);
            }
            self.remove(g, l);
            let now = self.now;
            let live = |link: &ModelLink| now - link.heard.0 <= self.config.link_live;
            if !self.groups[g].links.iter().flatten().any(live) {
                self.groups.remove(g);
            }
        }
        if self.by_half(half_).is_none() {
            if self.groups.len() == GROUPS && !self.evict_group() {
                return (Expect::Drop(DropReason::GroupTableFull), vec![]);
            }
            self.ticks += 1;
            self.groups.push(ModelGroup {
                half: half_,
                id: *id,
                born: self.ticks,
                links: [const { None }; LINKS],
                newest: None,
                carried: false,
                empty_since: None,
            });
        }
        let g = self.by_half(half_).unwrap();
        let l = self.groups[g].links.iter().position(Option::is_none).unwrap_or_else(|| {
            let heard = |l: &usize| self.groups[g].links[*l].as_ref().unwrap().heard.0;
            let oldest = (0..LINKS).map(|l| heard(&l)).min().unwrap();
            (0..LINKS).find(|l| heard(l) == oldest).unwrap()
        });
        if self.groups[g].links[l].is_some() {
            self.remove(g, l);
        }
        self.groups[g].empty_since = None;
        self.ticks += 1;
        self.groups[g].links[l] = Some(ModelLink {
            addr: from,
            heard: (self.now, self.ticks),
            talked: None,
            srt: None,
            reg3_due: Some(self.now + self.config.reg3_repeat),
            reg3_repeats: 0,
            unacked: Vec::new(),
            flush_due: None,
            credit: saved + 258 - 32,
            kept: false,
            tokens: f64::from(self.config.keepalive_rate.burst),
            tokens_at: self.now,
        });
        yes
    }

    /// The oldest group that never carried data, else the one that has been empty longest.
    fn evict_group(&mut self) -> bool {
        let ghost = (0..GROUPS).filter(|&g| !self.groups[g].carried).min_by_key(|&g| self.groups[g].born);
        let empty = (0..GROUPS)
            .filter(|&g| self.groups[g].empty_since.is_some())
            .min_by_key(|&g| self.groups[g].empty_since);
        ghost.or(empty).map(|g| self.groups.remove(g)).is_some()
    }

    fn remove(&mut self, g: usize, l: usize) {
        let gone = self.groups[g].links[l].take().unwrap();
        if self.groups[g].newest == Some(gone.addr) {
            let mut heir: Option<&ModelLink> = None;
            for link in self.groups[g].links.iter().flatten().filter(|link| link.srt.is_some()) {
                if heir.is_none_or(|heir| heir.srt <= link.srt) {
                    heir = Some(link);
                }
            }
            self.groups[g].newest = heir.map(|link| link.addr);
        }
    }

    fn srt(&mut self, from: LinkAddr, len: usize, seq: Option<u32>) -> (Expect, Replies) {
        let Some((g, l)) = self.member(from) else { return (Expect::Drop(DropReason::NotMember), vec![]) };
        self.hear(g, l, len);
        let group = &mut self.groups[g];
        let link = group.links[l].as_mut().unwrap();
        link.talked = Some(self.now);
        link.srt = Some(self.now);
        group.newest = Some(from);
        let mut replies = vec![];
        if let Some(seq) = seq {
            group.carried = true;
            if link.unacked.is_empty() {
                link.flush_due = Some(self.now + self.config.ack_flush);
            }
            link.unacked.push(seq);
            if link.unacked.len() == 10 {
                replies.extend(link.ack());
            }
        }
        (Expect::Forward, replies)
    }

    fn keepalive(&mut self, from: LinkAddr) -> Expect {
        let Some((g, l)) = self.member(from) else { return Expect::Drop(DropReason::NotMember) };
        self.hear(g, l, 38);
        let rate = self.config.keepalive_rate;
        let link = self.groups[g].links[l].as_mut().unwrap();
        link.talked = Some(self.now);
        link.reg3_due = None;
        link.kept = true;
        let earned = (self.now - link.tokens_at).as_secs_f64() * f64::from(rate.per_s);
        link.tokens = (link.tokens + earned).min(f64::from(rate.burst));
        link.tokens_at = self.now;
        if link.tokens < 0.999 {
            return Expect::Drop(DropReason::KeepaliveBudget);
        }
        link.tokens -= 1.0;
        assert!(link.pay(38), "an echo is always earned");
        Expect::ToLink(from)
    }

    fn returned(&mut self, half: u8, len: usize, to_all: bool) -> Expect {
        let now = self.now;
        let live_for = self.config.link_live;
        let live = move |link: &ModelLink| now - link.heard.0 <= live_for;
        let g = self.by_half(half).unwrap();
        let group = &mut self.groups[g];
        if to_all {
            let any = group.links.iter().flatten().any(live);
            let served: Vec<LinkAddr> = group
                .links
                .iter_mut()
                .flatten()
                .filter(|link| live(link))
                .filter_map(|link| link.pay_traffic(len).then_some(link.addr))
                .collect();
            return match (any, served.is_empty()) {
                (false, _) => Expect::Drop(DropReason::NoLiveLink),
                (true, true) => Expect::Drop(DropReason::NoCredit),
                (true, false) => Expect::FanOut(served),
            };
        }
        let newest = group.newest;
        let mut chosen: Option<&mut ModelLink> = None;
        for link in group.links.iter_mut().flatten().filter(|link| live(link)) {
            let better = match &chosen {
                None => true,
                Some(best) => {
                    Some(best.addr) != newest && (Some(link.addr) == newest || best.heard.0 <= link.heard.0)
                }
            };
            if better {
                chosen = Some(link);
            }
        }
        let found = chosen.is_some();
        let link = match chosen {
            Some(link) => Some(link),
            None => group.links.iter_mut().flatten().find(|link| !found && Some(link.addr) == newest),
        };
        let Some(link) = link else { return Expect::Drop(DropReason::NoLiveLink) };
        if link.pay_traffic(len) { Expect::ToLink(link.addr) } else { Expect::Drop(DropReason::NoCredit) }
    }

    /// One step of 100 ms: everything that falls due in it.
    fn step(&mut self) -> Replies {
        self.now += Duration::from_millis(100);
        let now = self.now;
        let mut replies = vec![];
        let mut due = vec![];
        self.pending.sort_by_key(|entry| entry.waits.map_or(0, |(.., tick)| tick));
        for entry in &mut self.pending {
            let Some((half, ..)) = entry.waits.take_if(|(_, at, _)| *at <= now) else { continue };
            let after = entry.credit - 258;
            // One address of an IP may be 32 bytes in debt in ten minutes; no case takes that long.
            let is_paid = after >= 0 || (after >= -32 && self.indebted.insert(entry.addr.ip()));
            if is_paid {
                entry.credit = after;
                due.push((entry.addr, half));
            }
        }
        replies.extend(due.into_iter().map(|(to, half)| (to, self.answer(half))));
        self.pending.retain(|entry| now - entry.touched < Duration::from_secs(5));
        let mut silent = vec![];
        for g in 0..self.groups.len() {
            for l in 0..LINKS {
                let Some(link) = self.groups[g].links[l].as_mut() else { continue };
                if link.flush_due.is_some_and(|due| due <= now) {
                    replies.extend(link.ack());
                }
                if link.reg3_due.is_some_and(|due| due <= now) {
                    link.reg3_due = None;
                    let talks = link.srt.is_some_and(|at| now - at < self.config.reg3_repeat);
                    if link.reg3_repeats < 5 {
                        link.reg3_due = Some(now + self.config.reg3_repeat);
                    }
                    if link.reg3_repeats < 5 && !talks {
                        link.reg3_repeats += 1;
                        replies.extend(link.pay(32).then(|| (link.addr, reg3())));
                    }
                }
                if now - link.heard.0 >= self.config.link_timeout + Duration::from_millis(100) {
                    silent.push((link.heard.1, g, l));
                }
            }
        }
        silent.sort_unstable();
        for (_, g, l) in silent {
            self.remove(g, l);
            if self.groups[g].links.iter().all(Option::is_none) {
                self.ticks += 1;
                self.groups[g].empty_since = Some((now, self.ticks));
            }
        }
        let config = &self.config;
        self.groups.retain(|group| {
            let patience = if group.carried { config.group_linger } else { config.ghost_linger };
            group.empty_since.is_none_or(|since| now - since.0 < patience)
        });
        replies
    }
}

impl ModelLink {
    /// Five REG3 are kept for a link that has sent no keepalive.
    fn pay_traffic(&mut self, len: usize) -> bool {
        let enough = self.kept || self.credit >= len as i64 + 160;
        enough && self.pay(len)
    }

    fn pay(&mut self, len: usize) -> bool {
        let enough = self.credit >= len as i64;
        if enough {
            self.credit -= len as i64;
        }
        enough
    }

    fn ack(&mut self) -> Option<(LinkAddr, Vec<u8>)> {
        self.flush_due = None;
        let mut all = vec![0x9100_0000];
        all.append(&mut self.unacked);
        let bytes = words(&all);
        self.pay_traffic(bytes.len()).then_some((self.addr, bytes))
    }
}

fn ops() -> impl Strategy<Value = Op> {
    let from = 0u16..7;
    let half = 1u8..6;
    prop_oneof![
        2 => (from.clone(), half.clone()).prop_map(|(from, half)| Op::Reg1 { from, half }),
        4 => (from.clone(), half.clone(), prop_oneof![4 => Just(0u32), 1 => 0u32..4])
            .prop_map(|(from, half, epoch_back)| Op::Join { from, half, epoch_back }),
        1 => (from.clone(), half.clone()).prop_map(|(from, half)| Op::Probe { from, half }),
        9 => from.clone().prop_map(|from| Op::Data { from }),
        2 => from.clone().prop_map(|from| Op::Control { from }),
        3 => from.clone().prop_map(|from| Op::Keepalive { from }),
        1 => from.prop_map(|from| Op::Junk { from }),
        5 => (half, prop_oneof![Just(Return::Ack), Just(Return::Nak), Just(Return::Keepalive), Just(Return::Data)])
            .prop_map(|(half, what)| Op::Return { half, what }),
        3 => prop_oneof![3 => 1u32..4, 1 => Just(31u32), 1 => 90u32..120, 1 => Just(320u32)]
            .prop_map(|steps| Op::Wait { steps }),
        1 => Just(Op::NextEpoch),
    ]
}

/// The SRT server's socket ID behind a group, so that data teaches it and everything stays plausible.
fn server_of(model: &Model, from: LinkAddr) -> u32 {
    model.member(from).map_or(77, |(g, _)| 1000 + u32::from(model.groups[g].half))
}

fn check(rig: &mut Rig, model: &mut Model, op: &Op) {
    let mut actual: Replies = vec![];
    let (bytes, from, expected, mut replies_expected) = match *op {
        Op::Wait { steps } => {
            for _ in 0..steps {
                let mut expected = model.step();
                let mut got = replies(&rig.advance(ms(100)));
                expected.sort_by_key(|(to, bytes)| (to.addr, bytes.clone()));
                got.sort_by_key(|(to, bytes)| (to.addr, bytes.clone()));
                assert_eq!(got, expected);
            }
            return;
        }
        Op::NextEpoch => {
            model.epoch += 1;
            rig.receiver.handle_command(rig.now, Command::SetEpoch(model.epoch), &mut rig.out);
            return;
        }
        Op::Return { half, what } => {
            let Some(g) = model.by_half(half) else { return };
            let key = rig
                .receiver
                .snapshot(rig.now)
                .find(|group| group.id_prefix == [half; 4])
                .unwrap_or_else(|| panic!("group {} of the model is missing", model.groups[g].half))
                .key;
            let bytes = match what {
                Return::Ack => srt_ack(1, 5, 1),
                Return::Nak => srt_nak(&[1, 2, 3], 1),
                Return::Keepalive => control(1, 0, 1),
                Return::Data => data(9, 1),
            };
            let expected = model.returned(half, bytes.len(), matches!(what, Return::Ack | Return::Nak));
            let got = match rig.down(key, &bytes) {
                Verdict::FanOut(_) => {
                    Expect::FanOut(rig.receiver.live_links(rig.now, key).map(|(_, addr)| addr).collect())
                }
                Verdict::ToLink(link) => Expect::ToLink(rig.receiver.link_addr(link).unwrap()),
                Verdict::Drop(reason) => Expect::Drop(reason),
                other => panic!("{other:?}"),
            };
            assert_eq!(got, expected);
            return;
        }
        Op::Reg1 { from, half } => {
            let (expected, replies) = model.reg1(link(from), half);
            (reg1(&probe_id(half)), from, expected, replies)
        }
        Op::Join { from, half: h, epoch_back } => {
            let id = with_ticket(&half(h), model.epoch + 1 - epoch_back);
            let (expected, replies) = model.join(link(from), &id);
            (reg2(&id), from, expected, replies)
        }
        Op::Probe { from, half } => {
            let (expected, replies) = model.join(link(from), &probe_id(half));
            (reg2(&probe_id(half)), from, expected, replies)
        }
        Op::Data { from } => {
            model.seq += 1;
            let bytes = data(model.seq, server_of(model, link(from)));
            let seq = model.seq;
            let (expected, replies) = model.srt(link(from), bytes.len(), Some(seq));
            (bytes, from, expected, replies)
        }
        Op::Control { from } => {
            let bytes = control(6, 1, server_of(model, link(from)));
            let (expected, replies) = model.srt(link(from), bytes.len(), None);
            (bytes, from, expected, replies)
        }
        Op::Keepalive { from } => (keepalive(38), from, model.keepalive(link(from)), vec![]),
        Op::Junk { from } => {
            let reason = DropReason::UnexpectedSrtla;
            if let Some((g, l)) = model.member(link(from)) {
                model.hear(g, l, 4);
            }
            (vec![0x93, 0, 0, 0], from, Expect::Drop(reason), vec![])
        }
    };
    let (verdict, did) = rig.up(link(from), &bytes);
    actual.extend(replies(&did));
    actual.sort_by_key(|(to, bytes)| (to.addr, bytes.clone()));
    replies_expected.sort_by_key(|(to, bytes)| (to.addr, bytes.clone()));
    let got = match verdict {
        Verdict::Forward(key) => {
            assert_eq!(rig.group_of(link(from)), Some(key));
            Expect::Forward
        }
        Verdict::ToLink(key) => Expect::ToLink(rig.receiver.link_addr(key).unwrap()),
        Verdict::Consumed => Expect::Consumed,
        Verdict::Drop(reason) => Expect::Drop(reason),
        other => panic!("{other:?}"),
    };
    assert_eq!((got, actual), (expected, replies_expected));
}

fn same_members(rig: &Rig, model: &Model) {
    let mut got: Vec<(u8, Vec<(usize, LinkAddr)>)> = rig
        .receiver
        .snapshot(rig.now)
        .map(|group| {
            let links = group.links.iter().map(|link| (usize::from(link.index), link.addr)).collect();
            (group.id_prefix[0], links)
        })
        .collect();
    let mut expected: Vec<(u8, Vec<(usize, LinkAddr)>)> = model
        .groups
        .iter()
        .map(|group| {
            let links = group
                .links
                .iter()
                .enumerate()
                .filter_map(|(l, link)| Some((l, link.as_ref()?.addr)))
                .collect();
            (group.half, links)
        })
        .collect();
    got.sort_by_key(|group| group.0);
    expected.sort_by_key(|group| group.0);
    assert_eq!(got, expected);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn behaves_like_the_model(ops in prop::collection::vec(ops(), 1..120)) {
        let config = ReceiverConfig {
            groups_max: GROUPS,
            links_per_group_max: LINKS,
            credit_cap_bytes: CREDIT_CAP,
            roaming: false,
            ..ReceiverConfig::default()
        };
        let mut rig = Rig::with(config.clone());
        let mut model = Model {
            now: rig.now,
            epoch: EPOCH,
            ticks: 0,
            groups: vec![],
            pending: vec![],
            indebted: HashSet::new(),
            seq: 100,
            config,
        };
        for op in &ops {
            check(&mut rig, &mut model, op);
            same_members(&rig, &model);
        }
    }
}
