//! The handshake of one link: what was sent, what answers it, and the trailers of the link once it is confirmed.
//!
//! Promise: fixed size. What is under way and what is confirmed are apart: a link keeps its keys until another join of it
//! is confirmed.

use bondgate_auth::sa1::Flags;
use bondgate_auth::sa1::data::{DataOpener, DataSealer};
use bondgate_auth::sa1::sender::{Credentials, Disbelief, Hello, Join, Outcome};
use bondgate_auth::sa1::trailer::{Opener, RENEW_AT, SEALED_LEN_MAX, Sealer};
use bondgate_auth::sa1::wire::{Refusal, RefusalCode};

use super::Moment;
use crate::sender::link::NEVER;
use crate::wire::{PacketType, REG_LEN};

const S: u64 = 1_000_000;
/// M1s whose answers are awaited at the same time: with pauses of 200, 200, 400 ms and then 1 s, round trips of 1.8 s.
const HELLOS: usize = 4;
/// How often an M3 is sent before a new M1 takes its place.
const JOIN_SENDS_MAX: u8 = 4;
/// How long SRT packets under the keys before are taken.
const OLD_KEYS_GOOD_US: u64 = 2 * S;
/// After a refusal without advice; doubled each time.
const WAIT_MIN_US: u64 = 2 * S;
const WAIT_MAX_US: u64 = 30 * S;
/// The same for a link that is not wanted.
const LEFT_OUT_US: u64 = 60 * S;
/// No receiver makes us send keepalives more often.
const KEEPALIVE_MIN_US: u64 = S / 5;
/// No advice keeps a link waiting for longer.
const ADVICE_MAX_S: u32 = 3600;

struct SentHello {
    hello: Hello,
    sent_us: u64,
}

/// What a REG2 turned out to be.
pub(in crate::sender) enum Reply {
    /// A good M2: the M3 is to be sent. The round trip, when it answers an M1.
    Challenge { rtt_us: Option<u64> },
    /// The M2 that was answered last, once more: so is the M3.
    Again,
    /// The answer of a receiver that does not speak SA1: our half as it was sent, and no challenge behind it.
    Stock,
    /// Nothing to believe.
    Disbelieved,
}

/// What a REG3 or `REG_NAK` turned out to be.
pub(in crate::sender) enum Answer {
    /// The link is confirmed.
    Up { key_is_retiring: bool },
    /// It is not wanted.
    Refused(Refusal),
    /// Nothing to believe.
    Disbelieved,
}

/// One link's handshake.
#[derive(Default)]
pub(in crate::sender) struct Handshake {
    /// Sent since the last challenge, newest first.
    hellos: [Option<SentHello>; HELLOS],
    /// Not confirmed yet.
    join: Option<Join>,
    join_sends: u8,
    trailers: Option<Trailers>,
    /// How often the receiver wants keepalives, at the least; 0 if it does not say.
    keepalive_ms: u16,
    /// Nothing is sent before, because of a refusal.
    not_before_us: u64,
    refusals: u8,
}

impl Handshake {
    /// A fresh socket: answers to what left the old one cannot come any more.
    pub fn restart(&mut self) {
        self.hellos = Default::default();
        self.join = None;
    }

    /// An M3 is on its way and the receiver may have taken it.
    pub const fn is_joining(&self) -> bool {
        self.join.is_some()
    }

    /// The answers to M1s are not of interest any more.
    pub fn forget_hellos(&mut self) {
        self.hellos = Default::default();
    }

    pub const fn not_before_us(&self) -> u64 {
        self.not_before_us
    }

    /// The pause between two keepalives: ours, or the receiver's if that is shorter.
    pub fn keepalive_us(&self, ours_us: u64) -> u64 {
        match u64::from(self.keepalive_ms) * 1000 {
            0 => ours_us,
            theirs_us => ours_us.min(theirs_us.max(KEEPALIVE_MIN_US)),
        }
    }

    /// SRT packets of the link carry trailers.
    pub fn seals_data(&self) -> bool {
        self.trailers.as_ref().is_some_and(Trailers::seals_data)
    }

    pub fn trailers_mut(&mut self) -> Option<&mut Trailers> {
        self.trailers.as_mut()
    }

    pub(super) fn on_hello(&mut self, hello: &Hello, sent_us: u64) {
        self.hellos.rotate_right(1);
        if let Some(newest) = self.hellos.first_mut() {
            *newest = Some(SentHello { hello: *hello, sent_us });
        }
    }

    /// The M3, as long as it may be sent once more.
    pub(super) fn repeat_join(&mut self) -> Option<&[u8; REG_LEN]> {
        let join = self.join.as_ref()?;
        if self.join_sends >= JOIN_SENDS_MAX {
            return None;
        }
        self.join_sends += 1;
        Some(join.packet())
    }

    /// The M3, however often it was sent.
    pub fn join_packet(&self) -> Option<&[u8; REG_LEN]> {
        self.join.as_ref().map(Join::packet)
    }

    pub(super) fn on_reg2(&mut self, credentials: &Credentials, datagram: &[u8], at: Moment) -> Reply {
        if let Some(join) = &self.join {
            match join.answer(credentials, datagram, at.wall_ms) {
                Ok(None) => return Reply::Again,
                Ok(Some(next)) => {
                    self.begin_join(&next);
                    return Reply::Challenge { rtt_us: None };
                }
                Err(_) => {}
            }
        }
        for sent in self.hellos.iter().flatten() {
            match sent.hello.answer(credentials, datagram, at.wall_ms) {
                Ok(join) => {
                    let rtt_us = Some(at.now_us.saturating_sub(sent.sent_us));
                    self.begin_join(&join);
                    return Reply::Challenge { rtt_us };
                }
                Err(Disbelief::Layout(_)) if echoes(sent.hello.packet(), datagram) => return Reply::Stock,
                Err(_) => {}
            }
        }
        Reply::Disbelieved
    }

    fn begin_join(&mut self, join: &Join) {
        self.join = Some(*join);
        self.join_sends = 0;
        self.forget_hellos();
    }

    pub(super) fn on_answer(&mut self, credentials: &Credentials, datagram: &[u8], now_us: u64) -> Answer {
        let outcome = self.join.as_ref().and_then(|join| join.confirm(credentials, datagram).ok());
        let refusal = match outcome {
            Some(Outcome::Up(up)) => {
                let (sealer, opener) = up.keys.sender_ends();
                let data = up.accepted.contains(Flags::DATA_MAC).then(|| up.keys.sender_data_ends());
                let before = self.trailers.take().and_then(|trailers| trailers.data);
                let data_before = before.map(|(_, opener)| (opener, now_us + OLD_KEYS_GOOD_US));
                self.trailers =
                    Some(Trailers { accepted: up.accepted, sealer, opener, opened: 0, data, data_before });
                self.keepalive_ms = up.terms.keepalive_ms;
                self.restart();
                (self.not_before_us, self.refusals) = (0, 0);
                return Answer::Up { key_is_retiring: up.confirmation.key_retiring };
            }
            Some(Outcome::Refused(refusal)) => Some(refusal),
            None => {
                self.hellos.iter().flatten().find_map(|sent| sent.hello.refused(credentials, datagram).ok())
            }
        };
        refusal.map_or(Answer::Disbelieved, Answer::Refused)
    }

    /// Notes a refusal: what was under way is over, and nothing new begins before the time that is returned.
    pub fn on_refused(&mut self, refusal: Refusal, now_us: u64) -> u64 {
        self.restart();
        let wait_us = match (refusal.code, refusal.retry_after_s()) {
            (_, Some(advice_s @ 1..)) => u64::from(advice_s.min(ADVICE_MAX_S)) * S,
            (RefusalCode::Address | RefusalCode::LinkLimit, _) => LEFT_OUT_US,
            _ => (WAIT_MIN_US << self.refusals.min(5)).min(WAIT_MAX_US),
        };
        self.refusals = self.refusals.saturating_add(1);
        self.not_before_us = if is_final(refusal.code) { NEVER } else { now_us + wait_us };
        self.not_before_us
    }
}

/// Whether trying again is of no use.
pub(super) const fn is_final(code: RefusalCode) -> bool {
    matches!(code, RefusalCode::KeyExpired | RefusalCode::Stream | RefusalCode::Version)
}

/// A REG2 with the sender half of this M1.
fn echoes(hello: &[u8; REG_LEN], datagram: &[u8]) -> bool {
    datagram.len() == REG_LEN
        && datagram.starts_with(&PacketType::Reg2.word().to_be_bytes())
        && datagram[2..130] == hello[2..130]
}

/// MACs on keepalives, SRTLA ACKs and SRT packets of a confirmed link, as far as both sides agreed on them.
pub(in crate::sender) struct Trailers {
    accepted: Flags,
    sealer: Sealer,
    opener: Opener,
    opened: u32,
    data: Option<(DataSealer, DataOpener)>,
    data_before: Option<(DataOpener, u64)>,
}

impl Trailers {
    /// A keepalive as it is to be sent, and its length; `None` when these keys are used up.
    pub fn seal_keepalive(&mut self, packet: &[u8]) -> Option<([u8; SEALED_LEN_MAX], usize)> {
        if self.accepted.contains(Flags::KEEPALIVE_MAC) {
            return self.sealer.seal(packet);
        }
        let mut buf = [0; SEALED_LEN_MAX];
        buf.get_mut(..packet.len())?.copy_from_slice(packet);
        Some((buf, packet.len()))
    }

    /// A keepalive or SRTLA ACK without its trailer; `None` unless its trailer is right and new, or none is agreed on.
    pub fn open<'a>(&mut self, kind: PacketType, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let flag = match kind {
            PacketType::Keepalive => Flags::KEEPALIVE_MAC,
            PacketType::Ack => Flags::ACK_MAC,
            _ => return None,
        };
        if !self.accepted.contains(flag) {
            return Some(bytes);
        }
        let packet = self.opener.open(bytes).ok()?;
        self.opened = self.opened.saturating_add(1);
        Some(packet)
    }

    /// SRT packets carry trailers.
    const fn seals_data(&self) -> bool {
        self.data.is_some()
    }

    /// What seals SRT packets, if they are sealed.
    pub fn data_sealer(&mut self) -> Option<&mut DataSealer> {
        self.data.as_mut().map(|(sealer, _)| sealer)
    }

    /// An SRT packet without its trailer; `None` unless that is right and new.
    pub fn open_data<'a>(&mut self, now_us: u64, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let (_, opener) = self.data.as_mut()?;
        if let Ok(packet) = opener.open(bytes) {
            return Some(packet);
        }
        self.data_before = self.data_before.take().filter(|(_, until_us)| now_us < *until_us);
        self.data_before.as_mut().and_then(|(opener, _)| opener.open(bytes).ok())
    }

    /// As after years of streaming.
    #[cfg(test)]
    pub const fn wear_out(&mut self) {
        self.opened = RENEW_AT;
    }

    /// One side's counter is half used up.
    pub const fn should_renew(&self) -> bool {
        let is_data_worn = match &self.data {
            Some((sealer, opener)) => sealer.should_renew() || opener.should_renew(),
            None => false,
        };
        self.sealer.should_renew() || self.opened >= RENEW_AT || is_data_worn
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bondgate_auth::sa1::keys::{DeviceKeys, GateKey};
    use bondgate_auth::sa1::sender::Greeting;
    use bondgate_auth::sa1::{ListenerId, StreamBind};

    fn credentials() -> Credentials {
        Credentials {
            key_id: [1; 8],
            keys: DeviceKeys::derive(&[2; 32]),
            gate: GateKey::new(0, &[3; 16]),
            listener: ListenerId([4; 16]),
            bind: StreamBind::ANY,
            required: Flags::NONE,
        }
    }

    fn hello(credentials: &Credentials, nonce: u8) -> Hello {
        let greeting = Greeting {
            group: [5; 16],
            link_nonce: [nonce; 16],
            link_id: 6,
            links: 1,
            offered: Flags::NONE,
            caps: 0,
        };
        Hello::new(credentials, &greeting, 0)
    }

    #[test]
    fn the_last_four_hellos_are_remembered() {
        let (credentials, mut handshake) = (credentials(), Handshake::default());
        let mut sent = Vec::new();
        for nonce in 0..6 {
            let hello = hello(&credentials, nonce);
            sent.push(*hello.packet());
            handshake.on_hello(&hello, u64::from(nonce));
        }
        for (nonce, m1) in sent.iter().enumerate() {
            let mut stock = *m1;
            stock[1] = 1;
            stock[130..].fill(0xA7);
            let at = Moment { now_us: 10, wall_ms: 0 };
            let is_ours = matches!(handshake.on_reg2(&credentials, &stock, at), Reply::Stock);
            assert_eq!(is_ours, nonce >= 2, "{nonce}");
            stock[20] ^= 1;
            assert!(matches!(handshake.on_reg2(&credentials, &stock, at), Reply::Disbelieved));
        }
    }

    #[test]
    fn refusals_make_wait_as_advised_or_ever_longer() {
        let mut handshake = Handshake::default();
        let mut wait_s = |code, advice_s| {
            handshake.on_refused(Refusal::new(code, advice_s), 5 * S).saturating_sub(5 * S) / S
        };
        assert_eq!(wait_s(RefusalCode::Draining, 7), 7);
        assert_eq!(wait_s(RefusalCode::Lockdown, u32::MAX), 3600);
        assert_eq!(wait_s(RefusalCode::RateLimited, 0), 8, "the third");
        assert_eq!(wait_s(RefusalCode::GroupLimit, 0), 16);
        assert_eq!(wait_s(RefusalCode::ClockRequired, 0), 30);
        assert_eq!(wait_s(RefusalCode::ClockRequired, 0), 30);
        assert_eq!(wait_s(RefusalCode::LinkLimit, 0), 60);
        assert_eq!(wait_s(RefusalCode::Address, 0), 60);
        for code in [RefusalCode::KeyExpired, RefusalCode::Stream] {
            assert_eq!(handshake.on_refused(Refusal::new(code, 3), 0), NEVER);
        }
        assert_eq!(handshake.on_refused(Refusal::version(), 0), NEVER);
    }
}
