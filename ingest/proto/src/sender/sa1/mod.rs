//! Registration with a key (SA1): M1, M2, M3 and M4 of `docs/registration-auth.md` on each link, and what a key changes in
//! the rest of the sender.
//!
//! The states of a link and their timers are those of a link without a key; where that one sends REG2, this one sends an
//! M1 or, once that was challenged, the M3. Promises:
//!
//! * On a link that registers with a key no state changes by an SRTLA packet that is not proven to come from the receiver.
//!   Such packets are dropped as [`SenderDropReason::Unproven`](super::SenderDropReason::Unproven).
//! * [`Sa1Mode::Require`] never registers without a key, whatever is answered or not answered. [`Sa1Mode::Prefer`] does
//!   when a receiver answers M1 as stock receivers do, and says so; once a receiver has shown that it has the key, never.
//! * Where MACs on SRT packets are required, no SRT leaves without, and none that comes without is believed.
//! * An M1 is never sent twice, because receivers do not answer a repeated one. Answers to the last few are good, so that
//!   round trips may be longer than the pauses between them.

mod data;
mod events;
mod handshake;

use std::time::Instant;

use bondgate_auth::sa1::sender::{Credentials, Greeting, Hello};
use bondgate_auth::sa1::wire::Refusal;
use bondgate_auth::sa1::{Flags, GroupNonce};
use ring::hmac;

use super::LINKS_MAX;
use crate::wire::{HALF_LEN, REG_LEN};
use handshake::{Answer, Handshake, Reply};

/// The sender's version as M1 tells it, for the receiver's statistics.
const CAPS: u16 = 1;

/// What a [`Sender`](super::Sender) registers with.
#[derive(Debug)]
pub struct Sa1Config {
    /// Key, gate key, receiver, stream, and the flags without which no receiver is accepted.
    pub credentials: Credentials,
    /// What is offered; [`DEFAULT_OFFER`] is what bondgate's receiver accepts.
    pub offered: Flags,
    /// What becomes of it when the receiver does not speak SA1.
    pub mode: Sa1Mode,
    /// 32 random secret bytes, different at each start; the nonces are made from them.
    pub entropy: [u8; 32],
    /// The time of day.
    pub clock: WallClock,
}

/// MACs on keepalives and on SRTLA ACKs.
pub const DEFAULT_OFFER: Flags = Flags::KEEPALIVE_MAC.with(Flags::ACK_MAC);

/// What becomes of a registration when the receiver does not speak SA1.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Sa1Mode {
    /// There is none.
    #[default]
    Require,
    /// It is done the stock way, with a notice. Somebody on the path can bring this about.
    Prefer,
}

/// The time of day at an instant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WallClock {
    /// The instant.
    pub at: Instant,
    /// Milliseconds since 1970 UTC at that instant; 0 for a machine that does not know.
    pub wall_ms: u64,
}

impl WallClock {
    fn at(&self, now: Instant) -> u64 {
        if self.wall_ms == 0 {
            return 0;
        }
        let later = now.saturating_duration_since(self.at).as_millis() as u64;
        let earlier = self.at.saturating_duration_since(now).as_millis() as u64;
        self.wall_ms.saturating_add(later).saturating_sub(earlier)
    }
}

/// How the sender registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Registration {
    /// The stock way; it has no key.
    Stock,
    /// It has a key and prefers to use it; no receiver has answered yet.
    Undecided,
    /// With its key.
    Sa1,
    /// The stock way although it has a key, because the receiver does not speak SA1.
    Downgraded,
}

/// The key's part of a sender.
pub(super) struct Sa1 {
    credentials: Credentials,
    offered: Flags,
    registration: Registration,
    random: Random,
    pub clock: WallClock,
    group: GroupNonce,
    links: Box<[Handshake]>,
    /// A refusal that trying again does not change.
    pub stopped_by: Option<Refusal>,
    /// The last confirmation said that the key is about to be replaced.
    pub key_is_retiring: bool,
}

impl Sa1 {
    pub fn new(config: Sa1Config) -> Self {
        let mut random = Random::new(&config.entropy);
        let requires_data_mac = config.credentials.required.contains(Flags::DATA_MAC);
        Self {
            credentials: config.credentials,
            offered: config.offered,
            // A receiver without SA1 has no MACs on SRT packets either.
            registration: match config.mode {
                Sa1Mode::Prefer if !requires_data_mac => Registration::Undecided,
                Sa1Mode::Prefer | Sa1Mode::Require => Registration::Sa1,
            },
            group: random.bytes(),
            random,
            clock: config.clock,
            links: (0..LINKS_MAX).map(|_| Handshake::default()).collect(),
            stopped_by: None,
            key_is_retiring: false,
        }
    }

    /// No SRT packet goes or comes without a MAC.
    pub const fn requires_data_mac(&self) -> bool {
        self.credentials.required.contains(Flags::DATA_MAC)
    }

    pub const fn registration(&self) -> Registration {
        self.registration
    }

    /// 128 random bytes, for the ID of probes.
    pub fn id_half(&mut self) -> [u8; HALF_LEN] {
        let mut half = [0; HALF_LEN];
        for chunk in half.chunks_exact_mut(32) {
            chunk.copy_from_slice(&self.random.bytes::<32>());
        }
        half
    }

    pub fn link(&self, slot: usize) -> Option<&Handshake> {
        self.links.get(slot)
    }

    pub fn link_mut(&mut self, slot: usize) -> Option<&mut Handshake> {
        self.links.get_mut(slot)
    }

    /// A slot is empty or has another link now.
    pub fn forget(&mut self, slot: usize) {
        if let Some(link) = self.links.get_mut(slot) {
            *link = Handshake::default();
        }
    }

    /// The registration packet that is due on a link: the M3 while it may be repeated, else a new M1.
    pub fn packet(&mut self, slot: usize, link_id: u32, links: u16, at: Moment) -> Option<Request> {
        let Self { credentials, random, links: handshakes, .. } = self;
        let link = handshakes.get_mut(slot)?;
        if let Some(packet) = link.repeat_join() {
            return Some(Request { packet: *packet, is_join: true });
        }
        let greeting = Greeting {
            group: self.group,
            link_nonce: random.bytes(),
            link_id,
            links,
            offered: self.offered,
            caps: CAPS,
        };
        let hello = Hello::new(credentials, &greeting, at.wall_ms);
        let packet = *hello.packet();
        link.on_hello(&hello, at.now_us);
        Some(Request { packet, is_join: false })
    }

    /// Takes a REG2 from the receiver's address.
    pub fn reply(&mut self, slot: usize, datagram: &[u8], at: Moment) -> Reply {
        let Self { credentials, links, registration, .. } = self;
        let Some(link) = links.get_mut(slot) else { return Reply::Disbelieved };
        let reply = link.on_reg2(credentials, datagram, at);
        match reply {
            Reply::Stock if *registration != Registration::Undecided => Reply::Disbelieved,
            Reply::Challenge { .. } => {
                *registration = Registration::Sa1;
                reply
            }
            _ => reply,
        }
    }

    /// Takes a REG3 or `REG_NAK` from the receiver's address.
    pub fn answer(&mut self, slot: usize, datagram: &[u8], now_us: u64) -> Answer {
        let Self { credentials, links, registration, .. } = self;
        let Some(link) = links.get_mut(slot) else { return Answer::Disbelieved };
        let answer = link.on_answer(credentials, datagram, now_us);
        if !matches!(answer, Answer::Disbelieved) {
            *registration = Registration::Sa1;
        }
        answer
    }

    /// Registers the stock way from now on.
    pub fn downgrade(&mut self) {
        self.registration = Registration::Downgraded;
        self.links.iter_mut().for_each(Handshake::restart);
    }

    /// Asks once more whether the receiver speaks SA1.
    pub fn reconsider(&mut self) {
        self.registration = Registration::Undecided;
    }
}

/// Now, on both clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub now_us: u64,
    pub wall_ms: u64,
}

/// A registration packet to send.
pub(super) struct Request {
    pub packet: [u8; REG_LEN],
    pub is_join: bool,
}

/// Random bytes from 32 of the caller's: HMAC-SHA-256 in counter mode.
struct Random {
    key: hmac::Key,
    counter: u64,
}

impl Random {
    fn new(entropy: &[u8; 32]) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, entropy), counter: 0 }
    }

    /// At most 32.
    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        const { assert!(N <= 32) };
        self.counter += 1;
        let block = hmac::sign(&self.key, &self.counter.to_be_bytes());
        let mut bytes = [0; N];
        bytes.copy_from_slice(&block.as_ref()[..N]);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::time::Duration;

    #[test]
    fn random_bytes_do_not_repeat_and_depend_on_the_entropy() {
        let mut seen = HashSet::new();
        for entropy in [[1; 32], [2; 32]] {
            let mut random = Random::new(&entropy);
            for _ in 0..1000 {
                assert!(seen.insert(random.bytes::<16>()));
            }
        }
        assert_eq!(Random::new(&[1; 32]).bytes::<32>()[..16], Random::new(&[1; 32]).bytes::<16>());
    }

    #[test]
    fn the_time_of_day_goes_with_the_instant() {
        let at = Instant::now();
        let clock = WallClock { at, wall_ms: 1_000_000 };
        assert_eq!(clock.at(at + Duration::from_secs(2)), 1_002_000);
        assert_eq!(WallClock { at: at + Duration::from_secs(3), ..clock }.at(at), 997_000);
        assert_eq!(WallClock { at, wall_ms: 0 }.at(at + Duration::from_secs(2)), 0, "unknown stays unknown");
    }
}
