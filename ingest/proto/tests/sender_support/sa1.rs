//! A receiver that registers keys, made of `auth`'s verifier alone: one link table, no policy but what a test sets.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::Instant;

use bondgate_auth::sa1::keys::{CookieKeys, DeviceKey, DeviceKeys, GateKey, GateKeys, Standing};
use bondgate_auth::sa1::receiver::{Joining, Placement, Rejected, Unlimited, Verifier};
use bondgate_auth::sa1::replay::SeenFilter;
use bondgate_auth::sa1::sender::Credentials;
use bondgate_auth::sa1::trailer::{Opener, Sealer};
use bondgate_auth::sa1::wire::{Refusal, Terms};
use bondgate_auth::sa1::{Flags, GroupNonce, KeyId, ListenerId, Nonce, Now, StreamBind};
use bondgate_proto::Seq;
use bondgate_proto::sender::{DEFAULT_OFFER, Sa1Config, Sa1Mode, WallClock};
use bondgate_proto::wire::emit_ack;

use super::{MS, Source};

pub const KEY: KeyId = *b"device 1";
pub const WALL_MS: u64 = 1_790_000_000_000;
const LISTENER: ListenerId = ListenerId([9; 16]);

/// What a test's sender registers with.
pub fn key(mode: Sa1Mode, at: Instant) -> Sa1Config {
    Sa1Config {
        credentials: Credentials {
            key_id: KEY,
            keys: DeviceKeys::derive(&[1; 32]),
            gate: GateKey::new(5, &[2; 16]),
            listener: LISTENER,
            bind: StreamBind::ANY,
            required: Flags::NONE,
        },
        offered: DEFAULT_OFFER,
        mode,
        entropy: [3; 32],
        clock: WallClock { at, wall_ms: WALL_MS },
    }
}

struct Link {
    source: Source,
    nonce: Nonce,
    accepted: Flags,
    seal: Sealer,
    open: Opener,
    heard_us: u64,
    acks: Vec<Seq>,
}

/// The receiver of keys.
pub struct Sa1Receiver {
    verifier: Verifier,
    keyring: HashMap<KeyId, DeviceKey>,
    links: BTreeMap<(GroupNonce, u32), Link>,
    starts: u8,
    draws: u64,
    /// What it accepts.
    pub accept: Flags,
    /// What it tells the `n`th hello of a link, from 0, instead of challenging it.
    pub refuse_hello: Option<Refusal>,
    /// What it tells every join instead of confirming it.
    pub refuse_join: Option<Refusal>,
    pub keepalives: u64,
    pub bad_trailers: u64,
    pub rejected: Vec<Rejected>,
}

impl Default for Sa1Receiver {
    fn default() -> Self {
        let mut receiver = Self {
            verifier: verifier(0),
            keyring: HashMap::new(),
            links: BTreeMap::new(),
            starts: 0,
            draws: 0,
            accept: Flags::ACCEPTABLE,
            refuse_hello: None,
            refuse_join: None,
            keepalives: 0,
            bad_trailers: 0,
            rejected: Vec::new(),
        };
        receiver.set_key(Some(Standing::Active));
        receiver
    }
}

fn verifier(start: u8) -> Verifier {
    let gate = GateKeys::new(GateKey::new(5, &[2; 16]));
    let cookies = CookieKeys::new(&[start; 32], 0);
    Verifier::new(LISTENER, Some(gate), cookies, SeenFilter::new(&[start; 16], 0))
}

fn address(source: Source) -> SocketAddr {
    let (link, socket, nat) = source;
    SocketAddr::from(([192, 0, 2, link as u8 + 1], 1000 + socket as u16 * 100 + nat as u16))
}

impl Sa1Receiver {
    /// How good the sender's key is; `None` for revoked.
    pub fn set_key(&mut self, standing: Option<Standing>) {
        self.keyring.clear();
        if let Some(standing) = standing {
            let keys = DeviceKeys::derive(&[1; 32]);
            self.keyring.insert(KEY, DeviceKey { keys, standing, clockless_allowed: false });
        }
    }

    /// A new process: other cookie keys, no links.
    pub fn restart(&mut self) {
        self.starts += 1;
        self.verifier = verifier(self.starts);
        self.links.clear();
    }

    pub fn groups(&self) -> usize {
        let mut groups: Vec<_> = self.links.keys().map(|(group, _)| group).collect();
        groups.dedup();
        groups.len()
    }

    pub fn sources(&self) -> Vec<Source> {
        self.links.values().map(|link| link.source).collect()
    }

    pub fn expire(&mut self, now_us: u64) {
        self.links.retain(|_, link| link.heard_us + 10_000 * MS > now_us);
    }

    fn now(now_us: u64) -> Now {
        Now { boot_ms: 500_000 + now_us / MS, wall_ms: WALL_MS + now_us / MS }
    }

    fn random(&mut self) -> [u8; 10] {
        self.draws += 1;
        let mut random = [0x5A; 10];
        random[..8].copy_from_slice(&self.draws.to_be_bytes());
        random
    }

    fn link_of(&mut self, source: Source) -> Option<&mut Link> {
        self.links.values_mut().find(|link| link.source == source)
    }

    /// M1 or M3.
    pub fn register(&mut self, now_us: u64, from: Source, bytes: &[u8]) -> Option<Vec<u8>> {
        let (now, addr, random) = (Self::now(now_us), address(from), self.random());
        let Self { verifier, keyring, links, accept, .. } = self;
        let rejected = if bytes[1] == 0 {
            match verifier.m1(bytes, addr, now, keyring, &mut Unlimited) {
                Ok(hello) => {
                    return Some(match self.refuse_hello {
                        Some(refusal) => hello.refuse(refusal).to_vec(),
                        None => verifier.challenge(&hello, now, &random, *accept, Terms::default()).to_vec(),
                    });
                }
                Err(rejected) => rejected,
            }
        } else {
            let lives = |_, group: &GroupNonce| links.keys().any(|(known, _)| known == group);
            match verifier.m3(bytes, addr, now, keyring, &mut Unlimited, lives) {
                Ok(Joining::Rechallenge(hello, _)) => {
                    return Some(
                        verifier.challenge(&hello, now, &random, *accept, Terms::default()).to_vec(),
                    );
                }
                Ok(Joining::Proven(join)) => {
                    if let Some(refusal) = self.refuse_join {
                        return Some(join.refuse(refusal).to_vec());
                    }
                    let claims = join.claims();
                    let id = (claims.sender.group, claims.sender.link_id);
                    let known = links.get(&id).map(|link| (link.nonce, address(link.source)));
                    match join.placement(known) {
                        Placement::Old => return None,
                        Placement::Repeated => {}
                        Placement::New | Placement::Renewed | Placement::Moved => {
                            let (seal, open) = join.link_keys().receiver_ends();
                            let (nonce, accepted) = (claims.nonce, claims.accepted);
                            let link = Link {
                                source: from,
                                nonce,
                                accepted,
                                seal,
                                open,
                                heard_us: now_us,
                                acks: vec![],
                            };
                            links.insert(id, link);
                        }
                    }
                    return Some(join.confirm(7).to_vec());
                }
                Err(rejected) => rejected,
            }
        };
        self.rejected.push(rejected);
        rejected.answer.map(|answer| answer.to_vec())
    }

    /// The echo of a keepalive.
    pub fn keepalive(&mut self, now_us: u64, from: Source, bytes: &[u8]) -> Option<Vec<u8>> {
        let link = self.link_of(from)?;
        if !link.accepted.contains(Flags::KEEPALIVE_MAC) {
            link.heard_us = now_us;
            self.keepalives += 1;
            return Some(bytes.to_vec());
        }
        let Ok(packet) = link.open.open(bytes) else {
            self.bad_trailers += 1;
            return None;
        };
        link.heard_us = now_us;
        let (echo, len) = link.seal.seal(packet)?;
        self.keepalives += 1;
        Some(echo[..len].to_vec())
    }

    /// Notes data from there; whether it is a member's.
    pub fn data(&mut self, now_us: u64, from: Source, seq: Seq) -> bool {
        let Some(link) = self.link_of(from) else { return false };
        link.heard_us = now_us;
        link.acks.push(seq);
        true
    }

    /// The SRTLA ACK, if one is due.
    pub fn ack(&mut self, from: Source) -> Option<Vec<u8>> {
        let link = self.link_of(from).filter(|link| link.acks.len() == 10)?;
        let mut buf = [0; 64];
        let ack = emit_ack(&link.acks, &mut buf)?;
        link.acks.clear();
        if !link.accepted.contains(Flags::ACK_MAC) {
            return Some(ack.to_vec());
        }
        let (sealed, len) = link.seal.seal(ack)?;
        Some(sealed[..len].to_vec())
    }
}
