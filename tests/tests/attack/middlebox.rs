//! Row B-06: our sender and our receiver with somebody on the path who changes, cuts, splices, repeats, delays and misdirects
//! whatever he likes. On a virtual clock.
//!
//! What must hold at every step: the receiver takes a join, and the sender believes that a link is up, only on bytes that the
//! other one really made; and there is no link at an address that is none of the sender's. Once the road is clean again,
//! everything is up within ten seconds.

use std::collections::{HashSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use bondgate_proto::receiver::{DropReason, Verdict};
use bondgate_proto::sender::{
    DEFAULT_OFFER, LinkIndex, LinkLabel, LinkState, Sa1Config, Sa1Mode, Sender, SenderAction, SenderActions,
    SenderConfig, SenderVerdict, WallClock,
};
use bondgate_sim::rng::Rng;
use bondgate_tests::attack::client::{data, fill};
use bondgate_tests::attack::core::{Core, WALL_MS, admission, credentials};
use bondgate_tests::scene::Scene;

use crate::{figure, is_long};

const LINKS: usize = 3;
const ONE_WAY_MS: u32 = 15;
const STUCK: Duration = Duration::from_secs(10);
const KEPT_MAX: usize = 64;

/// A datagram under way: due, link, bytes.
type Flight = (u32, usize, Vec<u8>);

struct Path {
    rng: Rng,
    core: Core,
    sender: Sender,
    out: SenderActions,
    links: Vec<LinkIndex>,
    up: VecDeque<Flight>,
    down: VecDeque<Flight>,
    /// What each side really said.
    by_sender: HashSet<Vec<u8>>,
    by_receiver: HashSet<Vec<u8>>,
    /// What the one on the path remembers.
    kept: Vec<Vec<u8>>,
    tampering: f64,
    tampered: u64,
    joins: u64,
    now_ms: u32,
    number: u32,
    forwarded: u64,
}

fn address(link: usize) -> SocketAddr {
    ([192, 0, 2, 1 + link as u8], 5000).into()
}

fn is_registration(bytes: &[u8]) -> bool {
    bytes.first() == Some(&0x92)
}

impl Path {
    fn new(seed: u64) -> Self {
        let core = Core::new(admission(&[1], false));
        let key = Sa1Config {
            credentials: credentials(1),
            offered: DEFAULT_OFFER,
            mode: Sa1Mode::Require,
            entropy: [seed as u8; 32],
            clock: WallClock { at: core.now, wall_ms: WALL_MS },
        };
        let mut path = Self {
            rng: Rng::new(seed),
            sender: Sender::with_key(SenderConfig::default(), seed, key),
            core,
            out: SenderActions::default(),
            links: Vec::new(),
            up: VecDeque::new(),
            down: VecDeque::new(),
            by_sender: HashSet::new(),
            by_receiver: HashSet::new(),
            kept: Vec::new(),
            tampering: 0.0,
            tampered: 0,
            joins: 0,
            now_ms: 0,
            number: 0,
            forwarded: 0,
        };
        for label in 0..LINKS {
            let link = path.sender.add_link(path.core.now, LinkLabel(label as u32), &mut path.out);
            path.links.extend(link);
        }
        path
    }

    fn live(&self) -> usize {
        self.sender.links().filter(|link| link.state == LinkState::Live).count()
    }

    /// What arrives in place of a datagram.
    fn tamper(&mut self, link: usize, bytes: &[u8]) -> Vec<Flight> {
        let due = self.now_ms + ONE_WAY_MS;
        if is_registration(bytes) || bytes.starts_with(&[0x90, 0]) {
            if self.kept.len() < KEPT_MAX {
                self.kept.push(bytes.to_vec());
            } else {
                let at = self.rng.below(KEPT_MAX as u64) as usize;
                self.kept[at] = bytes.to_vec();
            }
        }
        if !self.rng.chance(self.tampering) {
            return vec![(due, link, bytes.to_vec())];
        }
        self.tampered += 1;
        let rng = &mut self.rng;
        let mut changed = bytes.to_vec();
        let other = rng.below(self.kept.len().max(1) as u64) as usize;
        let other = self.kept.get(other).cloned().unwrap_or_default();
        let elsewhere = rng.below(LINKS as u64) as usize;
        let later = due + rng.below(2000) as u32;
        match rng.below(9) {
            0 => return Vec::new(),
            1 => return vec![(due, link, changed.clone()), (later, link, changed)],
            2 => return vec![(later, link, changed)],
            3 => return vec![(due, elsewhere, changed)],
            4 => return vec![(due, link, changed), (later, elsewhere, other)],
            5 => {
                for _ in 0..=rng.below(3) {
                    let at = rng.below(changed.len() as u64) as usize;
                    changed[at] ^= 1 << rng.below(8);
                }
            }
            6 => changed.truncate(rng.below(changed.len() as u64) as usize),
            7 => {
                let at = rng.below(changed.len() as u64) as usize;
                if let (Some(tail), Some(theirs)) = (changed.get_mut(at..), other.get(at..)) {
                    tail.iter_mut().zip(theirs).for_each(|(mine, theirs)| *mine = *theirs);
                }
            }
            _ => {
                let word = [0, 1, 2, 0x10, 0x11, 0x12][rng.below(6) as usize];
                changed[..2].copy_from_slice(&[0x92, word]);
                if rng.chance(0.3) {
                    fill(rng, &mut changed[2..]);
                }
            }
        }
        vec![(due, link, changed)]
    }

    /// One millisecond.
    fn step(&mut self) -> Result<()> {
        self.now_ms += 1;
        self.core.now += Duration::from_millis(1);
        let now = self.core.now;
        if self.now_ms.is_multiple_of(5) {
            self.number += 1;
            let bytes = data(self.number, 77);
            if let SenderVerdict::ToLink(link) = self.sender.handle_local(now, &bytes, &mut self.out) {
                self.send_up(link, &bytes);
            }
        }
        for (link, bytes) in due(&mut self.up, self.now_ms) {
            self.core.said.clear();
            let verdict = self.core.feed(address(link), &bytes);
            self.forwarded += u64::from(matches!(verdict, Verdict::Forward(_)));
            let said = std::mem::take(&mut self.core.said);
            if said.iter().any(|(_, answer)| answer.len() == 34 && answer.starts_with(&[0x92, 2])) {
                self.joins += 1;
                ensure!(
                    self.by_sender.contains(&bytes),
                    "the receiver took a join that the sender never made"
                );
            }
            self.send_down(said);
        }
        for (link, bytes) in due(&mut self.down, self.now_ms) {
            let before = self.live();
            let verdict = self.sender.handle_link(now, self.links[link], &bytes, &mut self.out);
            ensure!(
                verdict != SenderVerdict::ToLocal || bytes[0] != 0x92,
                "registration came through to the encoder"
            );
            if self.live() > before {
                ensure!(
                    self.by_receiver.contains(&bytes),
                    "a link is up on something the receiver never said"
                );
            }
        }
        self.core.said.clear();
        self.core.tick();
        let said = std::mem::take(&mut self.core.said);
        self.send_down(said);
        self.sender.handle_timeout(now, &mut self.out);
        self.flush();
        if self.now_ms.is_multiple_of(100) {
            for links in self.core.held() {
                ensure!(links.iter().all(|addr| (0..LINKS).any(|link| address(link) == *addr)), "{links:?}");
            }
        }
        Ok(())
    }

    fn flush(&mut self) {
        let mut sends = Vec::new();
        self.out.drain(|action| {
            if let SenderAction::Send { link, bytes } = action {
                sends.push((link, bytes.to_vec()));
            }
        });
        for (link, bytes) in sends {
            self.send_up(link, &bytes);
        }
    }

    fn send_up(&mut self, link: LinkIndex, bytes: &[u8]) {
        if is_registration(bytes) {
            self.by_sender.insert(bytes.to_vec());
        }
        let flights = self.tamper(link.index(), bytes);
        self.up.extend(flights);
    }

    fn send_down(&mut self, said: Vec<(SocketAddr, Vec<u8>)>) {
        for (to, bytes) in said {
            self.by_receiver.insert(bytes.clone());
            if let Some(link) = (0..LINKS).find(|link| address(*link) == to) {
                let flights = self.tamper(link, &bytes);
                self.down.extend(flights);
            }
        }
    }

    fn run(&mut self, time: Duration) -> Result<()> {
        (0..time.as_millis()).try_for_each(|_| self.step())
    }
}

fn due(flights: &mut VecDeque<Flight>, now_ms: u32) -> Vec<(usize, Vec<u8>)> {
    let mut arrived = Vec::new();
    flights.retain_mut(|(at, link, bytes)| {
        let is_due = *at <= now_ms;
        if is_due {
            arrived.push((*link, std::mem::take(bytes)));
        }
        !is_due
    });
    arrived
}

pub fn mutating(_: &Scene) -> Result<()> {
    let seeds = if is_long() { 60 } else { 12 };
    let (mut tampered, mut joins, mut worst) = (0, 0, Duration::ZERO);
    for seed in 1..=seeds {
        let mut path = Path::new(seed);
        for tampering in [0.3, 1.0, 0.05, 0.6] {
            path.tampering = tampering;
            path.run(Duration::from_secs(8))?;
            path.tampering = 0.0;
            let start = path.now_ms;
            let forwarded = path.forwarded;
            while path.live() < LINKS || path.forwarded < forwarded + 100 {
                let waited = Duration::from_millis(u64::from(path.now_ms - start));
                if waited >= STUCK {
                    let links: Vec<_> = path.sender.links().map(|link| link.state).collect();
                    let counters = path.core.receiver.counters();
                    bail!(
                        "seed {seed}, tampering {tampering}: {links:?} {:?} after {waited:?}; {} dropped as banned, {} strikes",
                        path.core.held(),
                        counters.dropped(DropReason::Banned),
                        counters.strikes
                    );
                }
                path.step()?;
            }
            worst = worst.max(Duration::from_millis(u64::from(path.now_ms - start)));
            path.run(Duration::from_secs(1))?;
        }
        tampered += path.tampered;
        joins += path.joins;
    }
    figure(
        "B-06",
        format_args!(
            "{seeds} sessions, {tampered} datagrams tampered with, {joins} joins taken, each one that the sender made; all \
             links up and streaming {worst:?} after the road was clean, at worst"
        ),
    );
    ensure!(tampered > 10_000 && joins > u64::try_from(LINKS)?, "nothing happened");
    Ok(())
}
