//! Registration of many links, without a key or with one, paced and repeated.
//!
//! Promise: a link counts as up only when the receiver said so (REG3, or a confirmation that verifies).

use std::collections::VecDeque;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Result, anyhow};
use bondgate_auth::keyring::Provision;
use bondgate_auth::sa1::Flags;
use bondgate_auth::sa1::sender::{Credentials, Greeting, Hello, Join, Outcome};

use bondgate_proto::wire::{HALF_LEN, ID_LEN, PacketType, REG_LEN, emit_reg};
use bondgate_srt::packet::{HANDSHAKE_LEN, HEADER_LEN, HandshakeKind, HandshakeRepr};

use super::Link;
use crate::frame;

/// A packet without answer is repeated after this time.
const REPEAT: Duration = Duration::from_millis(300);
/// A join is repeated so often before the link says hello again.
const JOINS_MAX: u8 = 4;
/// Links looked at in one go.
const LOOK_MAX: usize = 512;
/// A device key.
#[derive(Debug)]
pub struct Key(Credentials);

impl Key {
    /// From a provisioning URI.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(uri: &str) -> Result<Self> {
        let provision = Provision::parse(uri).map_err(|error| anyhow!("provisioning URI: {error:?}"))?;
        Ok(Self(provision.credentials(Flags::NONE)))
    }
}

/// How the swarm registers.
#[derive(Debug)]
pub enum SwarmAuth {
    /// Without a key.
    Stock,
    /// With these keys; each serves [`SwarmAuth::GROUPS_PER_KEY`] groups.
    Sa1(Vec<Key>),
}

impl SwarmAuth {
    /// Groups that one device key may have (the keyring's default).
    pub const GROUPS_PER_KEY: u32 = 4;
}

#[derive(Debug, Default)]
struct Steps {
    hello: Option<Box<Hello>>,
    join: Option<Box<Join>>,
    joins: u8,
}

/// The state of all registrations.
#[derive(Debug)]
pub struct Registration {
    auth: SwarmAuth,
    links_per_group: u32,
    halves: Vec<[u8; HALF_LEN]>,
    /// Full IDs, as far as they are known (stock).
    ids: Vec<Option<Box<[u8; ID_LEN]>>>,
    /// What each link waits for (SA1).
    steps: Vec<Steps>,
    waiting: VecDeque<u32>,
    up: Vec<bool>,
    up_count: usize,
    per_s: Option<u32>,
    since: Option<Instant>,
    sent: u64,
}

impl Registration {
    pub(super) fn new(auth: SwarmAuth, groups: u32, links: u32, per_s: Option<u32>) -> Self {
        let mut rng = fastrand::Rng::new();
        let half = |_| {
            let mut half = [0; HALF_LEN];
            half.fill_with(|| rng.u8(..));
            half
        };
        let all = groups * links;
        let is_sa1 = matches!(auth, SwarmAuth::Sa1(_));
        Self {
            auth,
            links_per_group: links.max(1),
            halves: (0..groups).map(half).collect(),
            ids: (0..groups).map(|_| None).collect(),
            steps: (0..if is_sa1 { all } else { 0 }).map(|_| Steps::default()).collect(),
            waiting: (0..all).collect(),
            up: vec![false; all as usize],
            up_count: 0,
            per_s,
            since: None,
            sent: 0,
        }
    }

    pub(super) fn links_up(&self) -> usize {
        self.up_count
    }

    /// Sends what is due for links that are not up. Returns how many packets.
    pub(super) fn ask(&mut self, now: Instant, links: &mut [Link], send: &mut impl FnMut(u32, &[u8])) -> u64 {
        let elapsed = now.duration_since(*self.since.get_or_insert(now));
        let mut allowed = self.per_s.map_or(64, |per_s| {
            ((elapsed.as_secs_f64() * f64::from(per_s)) as u64 + 1).saturating_sub(self.sent).min(64)
        });
        let before = self.sent;
        for _ in 0..self.waiting.len().min(LOOK_MAX) {
            if allowed == 0 {
                break;
            }
            let Some(index) = self.waiting.pop_front() else { break };
            if self.up.get(index as usize).is_none_or(|&up| up) {
                continue;
            }
            self.waiting.push_back(index);
            let Some(link) = links.get_mut(index as usize) else { continue };
            if link.tried_at.is_some_and(|at| now.duration_since(at) < REPEAT) {
                continue;
            }
            if let Some(packet) = self.packet(index) {
                send(index, &packet);
                link.tried_at = Some(now);
                allowed -= 1;
                self.sent += 1;
            }
        }
        self.sent - before
    }

    /// What a link sends next; `None` while another link of its group has to ask first.
    fn packet(&mut self, index: u32) -> Option<[u8; REG_LEN]> {
        let (group, link) = (index / self.links_per_group, index % self.links_per_group);
        let half = self.halves.get(group as usize)?;
        let mut out = [0; REG_LEN];
        match &self.auth {
            SwarmAuth::Stock => match self.ids.get(group as usize)? {
                Some(id) => {
                    emit_reg(PacketType::Reg2, id, &mut out)?;
                }
                None if link == 0 => {
                    let mut id = [0; ID_LEN];
                    id.first_chunk_mut().map(|first: &mut [u8; HALF_LEN]| *first = *half)?;
                    emit_reg(PacketType::Reg1, &id, &mut out)?;
                }
                None => return None,
            },
            SwarmAuth::Sa1(keys) => {
                let Key(credentials) = keys.get((group / SwarmAuth::GROUPS_PER_KEY) as usize)?;
                let steps = self.steps.get_mut(index as usize)?;
                match &steps.join {
                    Some(join) if steps.joins < JOINS_MAX => {
                        steps.joins += 1;
                        return Some(*join.packet());
                    }
                    _ => *steps = Steps::default(),
                }
                let mut link_nonce = [0; 16];
                link_nonce.fill_with(|| fastrand::u8(..));
                let greeting = Greeting {
                    group: *half.first_chunk()?,
                    link_nonce,
                    link_id: link,
                    links: self.links_per_group as u16,
                    offered: Flags::ACK_MAC,
                    caps: 1,
                };
                let hello = Hello::new(credentials, &greeting, wall_ms());
                out = *hello.packet();
                steps.hello = Some(Box::new(hello));
            }
        }
        Some(out)
    }

    /// Takes an answer to a link. `true` when that link is up now.
    pub(super) fn answer(&mut self, _now: Instant, index: u32, bytes: &[u8]) -> bool {
        let group = (index / self.links_per_group) as usize;
        let is_up = match &self.auth {
            SwarmAuth::Stock => match bytes {
                [0x92, 0x01, id @ ..] => {
                    if let (Ok(id), Some(half)) = (<[u8; ID_LEN]>::try_from(id), self.halves.get(group))
                        && id.starts_with(half)
                        && let Some(place) = self.ids.get_mut(group)
                        && place.is_none()
                    {
                        *place = Some(Box::new(id));
                        // The next look sends the joins.
                        let first = index - index % self.links_per_group;
                        for link in first..first + self.links_per_group {
                            self.waiting.push_front(link);
                        }
                    }
                    false
                }
                [0x92, 0x02, ..] => self.ids.get(group).is_some_and(Option::is_some),
                [0x92, 0x11, ..] => {
                    if let Some(place) = self.ids.get_mut(group) {
                        *place = None;
                    }
                    false
                }
                _ => false,
            },
            SwarmAuth::Sa1(keys) => {
                let (Some(Key(credentials)), Some(steps)) = (
                    keys.get(group / SwarmAuth::GROUPS_PER_KEY as usize),
                    self.steps.get_mut(index as usize),
                ) else {
                    return false;
                };
                if let Some(join) = &steps.join {
                    matches!(join.confirm(credentials, bytes), Ok(Outcome::Up(_)))
                } else {
                    if let Some(hello) = &steps.hello
                        && let Ok(join) = hello.answer(credentials, bytes, wall_ms())
                    {
                        steps.join = Some(Box::new(join));
                        self.waiting.push_front(index);
                    }
                    false
                }
            }
        };
        let Some(up) = self.up.get_mut(index as usize).filter(|up| is_up && !**up) else { return false };
        *up = true;
        self.up_count += 1;
        if let Some(steps) = self.steps.get_mut(index as usize) {
            *steps = Steps::default();
        }
        true
    }

    /// With keys a group may only stream once its caller has told which stream it wants.
    pub(super) fn needs_call(&self) -> bool {
        matches!(self.auth, SwarmAuth::Sa1(_))
    }
}

/// An SRT caller's CONCLUSION without stream ID.
pub(super) fn call(group: u32) -> [u8; HEADER_LEN + HANDSHAKE_LEN] {
    let mut out = [0; HEADER_LEN + HANDSHAKE_LEN];
    let handshake = HandshakeRepr {
        version: 5,
        encryption: 0,
        extension: 0,
        isn: bondgate_srt::Seq::default(),
        mtu: 1500,
        flow_window: 8192,
        kind: HandshakeKind::Conclusion,
        socket_id: frame::socket_id(group) | 0x4000_0000,
        cookie: 1,
        peer_ip: [0; 4],
    };
    if let Some((head, body)) = out.split_at_mut_checked(HEADER_LEN) {
        if let Some(first) = head.first_mut() {
            *first = 0x80;
        }
        // The length is right by the type of `out`.
        let _ = handshake.emit(body);
    }
    out
}

fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
