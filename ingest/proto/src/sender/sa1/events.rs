//! What the sender does with its key: which packets leave, which answers it believes, and what follows from them.

use std::time::Duration;

use bondgate_auth::sa1::wire::{Refusal, SHORT_LEN};

use super::handshake::{Answer, Handshake, Reply, is_final};
use super::{Moment, Registration, WallClock};
use crate::sender::link::{NEVER, micros};
use crate::sender::registration::Opening;
use crate::sender::{
    LinkIndex, LinkState, Sender, SenderActions, SenderDropReason, SenderNotice, SenderVerdict,
};
use crate::wire::{GroupId, Packet, PacketType};

/// When nothing has come from a receiver without SA1 for this long, it may be another one now.
const RECONSIDER_AFTER_US: u64 = 10_000_000;
const UNPROVEN: SenderVerdict = SenderVerdict::Drop(SenderDropReason::Unproven);

impl Sender {
    /// How the sender registers.
    pub fn registration(&self) -> Registration {
        self.sa1.as_ref().map_or(Registration::Stock, super::Sa1::registration)
    }

    /// The refusal because of which no more links will come up; links that are up go on.
    pub fn stopped_by(&self) -> Option<Refusal> {
        self.sa1.as_ref().and_then(|sa1| sa1.stopped_by)
    }

    /// Tells the time of day anew: clocks are set while a sender runs. Without a key nothing depends on it.
    pub fn set_clock(&mut self, clock: WallClock) {
        if let Some(sa1) = &mut self.sa1 {
            sa1.clock = clock;
        }
    }

    /// What registers is a key, and nothing else.
    pub(in crate::sender) fn has_key_in_use(&self) -> bool {
        self.registration() == Registration::Sa1
    }

    pub(in crate::sender) fn handshake(&mut self, slot: usize) -> Option<&mut Handshake> {
        self.sa1.as_mut()?.link_mut(slot)
    }

    fn moment(&self) -> Moment {
        let now = self.base.map(|base| base + Duration::from_micros(self.now_us));
        let clock = self.sa1.as_ref().map(|sa1| sa1.clock);
        let wall_ms = now.zip(clock).map_or(0, |(now, clock)| clock.at(now));
        Moment { now_us: self.now_us, wall_ms }
    }

    // --- what leaves ----------------------------------------------------------------------------------------------

    /// The M1 or M3 that is due on a link, unless the receiver wants us to wait.
    pub(in crate::sender) fn send_request(&mut self, slot: usize, out: &mut SenderActions) {
        let now_us = self.now_us;
        let is_stopped = self.stopped_by().is_some();
        let not_before_us = self.handshake(slot).map_or(NEVER, |handshake| handshake.not_before_us());
        let not_before_us = if is_stopped { NEVER } else { not_before_us };
        if not_before_us > now_us {
            self.leave_out(slot, not_before_us);
            return;
        }
        let Some(link) = self.link_mut(slot) else { return };
        link.on_join_sent(now_us);
        self.send_hello(slot, out);
    }

    pub(in crate::sender) fn send_hello(&mut self, slot: usize, out: &mut SenderActions) {
        let at = self.moment();
        let links = self.links.iter().flatten().count() as u16;
        let Some(link_id) = self.link(slot).map(|link| link.label.0) else { return };
        let Some(request) = self.sa1.as_mut().and_then(|sa1| sa1.packet(slot, link_id, links, at)) else {
            return;
        };
        if request.is_join {
            self.counters.reg2_sent += 1;
        } else {
            self.counters.reg1_sent += 1;
        }
        out.send(LinkIndex(slot as u8), &request.packet);
    }

    /// A keepalive, with its trailer where one is agreed on.
    pub(in crate::sender) fn send_sealed(&mut self, slot: usize, bytes: &[u8], out: &mut SenderActions) {
        let index = LinkIndex(slot as u8);
        if !self.has_key_in_use() {
            out.send(index, bytes);
            return;
        }
        let Some(trailers) = self.handshake(slot).and_then(Handshake::trailers_mut) else { return };
        let (sealed, is_worn) = (trailers.seal_keepalive(bytes), trailers.should_renew());
        if let Some((bytes, len)) = sealed {
            out.send(index, bytes.get(..len).unwrap_or_default());
        }
        let now_us = self.now_us;
        if let Some(link) = self.link_mut(slot)
            && is_worn
            && link.state == LinkState::Live
            && link.join_at_us == NEVER
        {
            link.join_at_us = now_us;
        }
    }

    /// The pause between two keepalives on a link.
    pub(in crate::sender) fn keepalive_us(&self, slot: usize) -> u64 {
        let ours_us = micros(self.config.keepalive_interval);
        let sa1 = self.sa1.as_ref().filter(|_| self.has_key_in_use());
        sa1.and_then(|sa1| sa1.link(slot)).map_or(ours_us, |handshake| handshake.keepalive_us(ours_us))
    }

    // --- what arrives ---------------------------------------------------------------------------------------------

    /// Settles what a sender with a key must settle itself and returns what the rest of the sender may believe, without
    /// its trailer.
    ///
    /// # Errors
    /// The verdict, when nothing is left to do.
    pub(in crate::sender) fn prove<'a>(
        &mut self,
        slot: usize,
        packet: &Packet<'a>,
        out: &mut SenderActions,
    ) -> Result<Packet<'a>, SenderVerdict> {
        let (kind, bytes) = (packet.kind(), packet.bytes());
        match (self.registration(), kind) {
            (Registration::Stock | Registration::Downgraded, _) => Ok(*packet),
            (_, PacketType::Reg2) => Err(self.on_reg2_with_key(slot, bytes, out)),
            (_, PacketType::Reg3 | PacketType::RegNak) if bytes.len() == SHORT_LEN => {
                Err(self.on_answer(slot, bytes, out))
            }
            (_, PacketType::Reg3) => Err(UNPROVEN),
            (Registration::Sa1, PacketType::RegNak | PacketType::RegErr | PacketType::RegNgp) => {
                Err(UNPROVEN)
            }
            (Registration::Sa1, PacketType::Keepalive | PacketType::Ack) => self
                .handshake(slot)
                .and_then(Handshake::trailers_mut)
                .and_then(|trailers| trailers.open(kind, bytes))
                .and_then(Packet::new)
                .ok_or(UNPROVEN),
            // In this case the rest shows what a receiver without SA1 thinks.
            (Registration::Undecided | Registration::Sa1, _) => Ok(*packet),
        }
    }

    fn on_reg2_with_key(&mut self, slot: usize, bytes: &[u8], out: &mut SenderActions) -> SenderVerdict {
        let (at, before) = (self.moment(), self.registration());
        let Some(sa1) = &mut self.sa1 else { return UNPROVEN };
        match sa1.reply(slot, bytes, at) {
            Reply::Challenge { rtt_us } => {
                let config = &self.config;
                if let Some(link) = self.links.get_mut(slot).and_then(Option::as_mut) {
                    if let Some(rtt_us) = rtt_us {
                        link.rtt_sample(at.now_us, rtt_us);
                    }
                    link.on_challenged(at.now_us, config);
                }
                self.send_request(slot, out);
                self.on_sa1_receiver(before, slot, out);
                SenderVerdict::Consumed
            }
            Reply::Again => {
                let Some(m3) = sa1.link(slot).and_then(Handshake::join_packet) else { return UNPROVEN };
                self.counters.reg2_sent += 1;
                out.send(LinkIndex(slot as u8), m3);
                SenderVerdict::Consumed
            }
            Reply::Stock => {
                let Some(id) = bytes.get(2..).and_then(|id| id.try_into().ok()) else { return UNPROVEN };
                self.downgrade(slot, GroupId(id), out);
                SenderVerdict::Consumed
            }
            Reply::Disbelieved => UNPROVEN,
        }
    }

    fn on_answer(&mut self, slot: usize, bytes: &[u8], out: &mut SenderActions) -> SenderVerdict {
        let (before, now_us) = (self.registration(), self.now_us);
        let Some(sa1) = &mut self.sa1 else { return UNPROVEN };
        match sa1.answer(slot, bytes, now_us) {
            Answer::Up { key_is_retiring } => {
                let was_retiring = std::mem::replace(&mut sa1.key_is_retiring, key_is_retiring);
                self.on_confirmed(slot, out);
                if key_is_retiring && !was_retiring {
                    out.notice(SenderNotice::KeyRetiring { link: LinkIndex(slot as u8) });
                }
                SenderVerdict::Consumed
            }
            Answer::Refused(refusal) => {
                self.on_tagged_refusal(slot, refusal, out);
                self.on_sa1_receiver(before, slot, out);
                SenderVerdict::Consumed
            }
            Answer::Disbelieved => UNPROVEN,
        }
    }

    /// M4.
    fn on_confirmed(&mut self, slot: usize, out: &mut SenderActions) {
        let now_us = self.now_us;
        let Some(link) = self.link_mut(slot) else { return };
        link.on_heard();
        if let Some(rtt_us) = link.join_rtt_us(now_us) {
            link.rtt_sample(now_us, rtt_us);
        }
        link.join_at_us = NEVER;
        if !std::mem::replace(&mut self.is_registered, true) {
            self.adopted_us = now_us;
            out.notice(SenderNotice::Registered { link: LinkIndex(slot as u8) });
        }
        self.on_proof(slot, out);
    }

    fn on_tagged_refusal(&mut self, slot: usize, refusal: Refusal, out: &mut SenderActions) {
        let now_us = self.now_us;
        self.counters.refusals += 1;
        out.notice(SenderNotice::Refused { link: LinkIndex(slot as u8), cause: Some(refusal) });
        if let Some(sa1) = self.sa1.as_mut().filter(|_| is_final(refusal.code)) {
            sa1.stopped_by = Some(refusal);
        }
        let until_us = self.handshake(slot).map_or(NEVER, |handshake| handshake.on_refused(refusal, now_us));
        self.leave_out(slot, until_us);
    }

    /// The receiver does not want this link for now.
    fn leave_out(&mut self, slot: usize, until_us: u64) {
        let Some(link) = self.link_mut(slot) else { return };
        link.on_left_out(until_us);
        if link.state == LinkState::Live {
            return;
        }
        self.log.forget_link(slot);
        if let Some(stock) = &mut self.stock {
            stock.timed_out(slot);
        }
    }

    /// A link is up: answers to its M1s are not awaited any more, the one to an M3 that the receiver may have taken is.
    pub(in crate::sender) fn settle_handshake(&mut self, slot: usize, join_at_us: u64) {
        let Some(handshake) = self.handshake(slot) else { return };
        handshake.forget_hellos();
        if handshake.is_joining()
            && let Some(link) = self.link_mut(slot)
        {
            link.join_at_us = join_at_us;
        }
    }

    // --- which way ------------------------------------------------------------------------------------------------

    /// If it was open until now whether the receiver speaks SA1: it does, and all other links begin.
    fn on_sa1_receiver(&mut self, before: Registration, slot: usize, out: &mut SenderActions) {
        if before != Registration::Undecided {
            return;
        }
        self.opening = Opening::default();
        for other in (0..self.links.len()).filter(|other| *other != slot) {
            self.join(other, LinkState::Joining, out);
        }
    }

    fn downgrade(&mut self, slot: usize, id: GroupId, out: &mut SenderActions) {
        if let Some(sa1) = &mut self.sa1 {
            sa1.downgrade();
        }
        let now_us = self.now_us;
        if let Some(link) = self.link_mut(slot) {
            link.on_heard();
            if link.reg1_sends == 1 {
                let rtt_us = now_us.saturating_sub(link.reg1_sent_us);
                link.rtt_sample(now_us, rtt_us);
            }
        }
        self.counters.downgrades += 1;
        out.notice(SenderNotice::Downgraded { link: LinkIndex(slot as u8) });
        self.adopt(slot, id, out);
    }

    /// When a receiver without SA1 has been silent for so long that another one may be in its place.
    pub(in crate::sender) fn reconsider_at_us(&self) -> u64 {
        let is_waiting = self.registration() == Registration::Downgraded && self.is_registered;
        if !is_waiting || self.is_up() {
            return NEVER;
        }
        let proofs = self.links.iter().flatten().map(|link| link.last_proof_us);
        let latest_us = proofs.max().map_or(NEVER, |proof_us| proof_us.max(self.adopted_us));
        latest_us.saturating_add(RECONSIDER_AFTER_US)
    }

    pub(in crate::sender) fn reconsider(&mut self, out: &mut SenderActions) {
        if let Some(slot) = self.links.iter().position(Option::is_some) {
            self.open_again(slot, out);
        }
    }

    /// A new group is opened with the key again, if there is one.
    pub(in crate::sender) fn forget_downgrade(&mut self) {
        let Some(sa1) = self.sa1.as_mut().filter(|sa1| sa1.registration() == Registration::Downgraded) else {
            return;
        };
        sa1.reconsider();
        for link in self.links.iter_mut().flatten() {
            link.state = LinkState::Idle;
            (link.join_at_us, link.give_up_at_us) = (NEVER, NEVER);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::time::Instant;

    use bondgate_auth::sa1::keys::{CookieKeys, DeviceKey, DeviceKeys, GateKey, Standing};
    use bondgate_auth::sa1::receiver::{Joining, Placement, ProvenJoin, Unlimited, Verifier};
    use bondgate_auth::sa1::replay::SeenFilter;
    use bondgate_auth::sa1::sender::Credentials;
    use bondgate_auth::sa1::trailer::{Opener, Sealer};
    use bondgate_auth::sa1::wire::Terms;
    use bondgate_auth::sa1::{Flags, KeyId, ListenerId, Nonce, Now, StreamBind};

    use super::*;
    use crate::sender::sa1::{DEFAULT_OFFER, Sa1Config, Sa1Mode};
    use crate::sender::{LinkLabel, SenderAction, SenderConfig};

    struct Receiver {
        verifier: Verifier,
        keyring: HashMap<KeyId, DeviceKey>,
        joins: Vec<Nonce>,
        ends: Option<(Sealer, Opener)>,
        draws: u8,
    }

    impl Receiver {
        fn answer(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
            let from = ([192, 0, 2, 1], 7).into();
            self.draws += 1;
            let now = Now { boot_ms: 1000 + u64::from(self.draws), wall_ms: 1_000_000 };
            let Self { verifier, keyring, joins, ends, .. } = self;
            match bytes.get(..2)? {
                [0x92, 0] => {
                    let hello = verifier.m1(bytes, from, now, keyring, &mut Unlimited).ok()?;
                    Some(
                        verifier
                            .challenge(&hello, now, &[0; 10], Flags::ACCEPTABLE, Terms::default())
                            .to_vec(),
                    )
                }
                [0x92, 1] => {
                    let joining = verifier.m3(bytes, from, now, keyring, &mut Unlimited, |_, _| true).ok()?;
                    let Joining::Proven(join) = joining else { return None };
                    let placed =
                        |join: &ProvenJoin<'_>| join.placement(joins.last().map(|nonce| (*nonce, from)));
                    assert!(matches!(placed(&join), Placement::New | Placement::Renewed));
                    joins.push(join.claims().nonce);
                    *ends = Some(join.link_keys().receiver_ends());
                    Some(join.confirm(0).to_vec())
                }
                _ => {
                    let (seal, open) = ends.as_mut()?;
                    let (echo, len) = seal.seal(open.open(bytes).expect("the keys fit"))?;
                    Some(echo[..len].to_vec())
                }
            }
        }
    }

    /// Delivers what waits, both ways, until nobody has anything to say.
    fn talk(sender: &mut Sender, receiver: &mut Receiver, now: Instant, out: &mut SenderActions) {
        loop {
            let mut answers = Vec::new();
            out.drain(|action| {
                if let SenderAction::Send { link, bytes } = action {
                    answers.extend(receiver.answer(bytes).map(|answer| (link, answer)));
                }
            });
            if answers.is_empty() {
                return;
            }
            for (link, answer) in answers {
                assert_eq!(sender.handle_link(now, link, &answer, out), SenderVerdict::Consumed);
            }
        }
    }

    #[test]
    fn worn_keys_are_renewed_while_the_link_is_up() {
        let keys = || DeviceKeys::derive(&[1; 32]);
        let device = DeviceKey { keys: keys(), standing: Standing::Active, clockless_allowed: true };
        let listener = ListenerId([2; 16]);
        let mut receiver = Receiver {
            verifier: Verifier::new(
                listener,
                None,
                CookieKeys::new(&[3; 32], 0),
                SeenFilter::new(&[4; 16], 0),
            ),
            keyring: HashMap::from([([5; 8], device)]),
            joins: Vec::new(),
            ends: None,
            draws: 0,
        };
        let mut now = Instant::now();
        let credentials = Credentials {
            key_id: [5; 8],
            keys: keys(),
            gate: GateKey::new(0, &[0; 16]),
            listener,
            bind: StreamBind::ANY,
            required: DEFAULT_OFFER,
        };
        let clock = WallClock { at: now, wall_ms: 0 };
        let key = Sa1Config {
            credentials,
            offered: DEFAULT_OFFER,
            mode: Sa1Mode::Require,
            entropy: [6; 32],
            clock,
        };
        let (mut sender, mut out) =
            (Sender::with_key(SenderConfig::default(), 7, key), SenderActions::default());
        let link = sender.add_link(now, LinkLabel(8), &mut out).expect("one fits");
        let mut live_ms = 0;
        for ms in 0..10_000 {
            talk(&mut sender, &mut receiver, now, &mut out);
            live_ms += u32::from(sender.links().all(|link| link.state == LinkState::Live));
            if ms == 5000 {
                assert_eq!(receiver.joins.len(), 1);
                let trailers = sender.handshake(link.index()).and_then(Handshake::trailers_mut);
                trailers.expect("it is up").wear_out();
            }
            now += Duration::from_millis(1);
            sender.handle_timeout(now, &mut out);
        }
        assert_eq!(receiver.joins.len(), 2, "renewed once");
        assert_eq!(live_ms, 10_000, "it never left");
        assert_eq!(sender.counters().keepalives_sent, 10);
    }
}
