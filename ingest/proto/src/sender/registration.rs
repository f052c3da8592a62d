//! Getting a group and getting links into it: REG1, REG2, REG3 and the refusals.
//!
//! Opening a group: REG1 travels on one link at a time, because stock receivers answer a repeated REG1 with `REG_ERR` and
//! REG1 on two links with two different groups. A link that is left behind is given a fresh socket, because a stock
//! receiver may hold its old address in an orphaned group and refuse its join.

use super::link::{Link, NEVER};
use super::{
    LINKS_MAX, LinkIndex, LinkState, Registration, Sender, SenderActions, SenderDropReason, SenderNotice,
    SenderVerdict,
};
use crate::wire::{GroupId, ID_LEN, PacketType, REG_LEN, emit_reg};

const MS: u64 = 1000;
/// Pauses after the first, second and third REG1 on a link; after the last the next link is tried.
const REG1_PAUSES_US: [u64; 3] = [250 * MS, 250 * MS, 500 * MS];
/// NGPs this soon after an ID was adopted answer REG2s that carried the ID before it.
const STALE_NGP_US: u64 = 500 * MS;
const REFUSED_PAUSE_MIN_US: u64 = 1000 * MS;
const REFUSED_PAUSE_MAX_US: u64 = 8000 * MS;

/// The attempt to get a group.
#[derive(Clone, Copy, Debug)]
pub(super) struct Opening {
    /// The link REG1 is on; `None` while there is nothing to do, no link, or after refusals on all links.
    link: Option<usize>,
    sends: u8,
    pub next_at_us: u64,
    /// Links tried in this round, as bits.
    tried: u32,
    rounds: u32,
    refused_pause_us: u64,
}

impl Default for Opening {
    fn default() -> Self {
        Self {
            link: None,
            sends: 0,
            next_at_us: NEVER,
            tried: 0,
            rounds: 0,
            refused_pause_us: REFUSED_PAUSE_MIN_US,
        }
    }
}

const _: () = assert!(LINKS_MAX <= 32, "links tried are bits of a u32");

impl Sender {
    /// A link has a socket that the receiver has not seen: join, open the group, or probe while another link opens it.
    pub(super) fn start_link(&mut self, slot: usize, out: &mut SenderActions) {
        if self.is_registered || self.has_key_in_use() {
            self.join(slot, LinkState::Joining, out);
        } else if self.opening.link.is_none_or(|link| link == slot) {
            self.open_on(slot, out);
        } else {
            if let Some(link) = self.link_mut(slot) {
                link.state = LinkState::Idle;
            }
            // The ID is unknown to the receiver; its NGP tells that this link works, and how fast.
            self.send_reg2(slot, out);
            if let Some(link) = self.link_mut(slot) {
                link.join_at_us = NEVER;
            }
        }
    }

    /// A link was removed: REG1 must not wait for it.
    pub(super) fn on_link_gone(&mut self, slot: usize, out: &mut SenderActions) {
        if self.opening.link == Some(slot) {
            self.opening.link = None;
            self.open_on_next(slot, out);
        }
    }

    /// Starts a round of REG2, or of M1 and M3, on one link.
    pub(super) fn join(&mut self, slot: usize, state: LinkState, out: &mut SenderActions) {
        let now_us = self.now_us;
        let config = &self.config;
        if let Some(link) = self.links.get_mut(slot).and_then(Option::as_mut) {
            link.begin_join(now_us, state, config);
            self.send_join(slot, out);
        }
    }

    pub(super) fn send_join(&mut self, slot: usize, out: &mut SenderActions) {
        if self.has_key_in_use() {
            self.send_request(slot, out);
        } else {
            self.send_reg2(slot, out);
        }
    }

    fn send_reg2(&mut self, slot: usize, out: &mut SenderActions) {
        let now_us = self.now_us;
        let Some(link) = self.link_mut(slot) else { return };
        link.on_join_sent(now_us);
        self.counters.reg2_sent += 1;
        self.send_reg(PacketType::Reg2, slot, out);
    }

    fn send_reg(&self, kind: PacketType, slot: usize, out: &mut SenderActions) {
        let mut buf = [0; REG_LEN];
        if let Some(bytes) = emit_reg(kind, &self.id.0, &mut buf) {
            out.send(LinkIndex(slot as u8), bytes);
        }
    }

    // --- opening --------------------------------------------------------------------------------------------------

    /// The group is gone: a new one is opened on this link.
    pub(super) fn open_again(&mut self, slot: usize, out: &mut SenderActions) {
        self.is_registered = false;
        self.opening = Opening::default();
        for link in self.links.iter_mut().flatten() {
            (link.reg1_sends, link.owed_reg_errs) = (0, 0);
            (link.is_refused, link.is_reachable) = (false, false);
        }
        self.forget_downgrade();
        self.open_on(slot, out);
    }

    fn open_on(&mut self, slot: usize, out: &mut SenderActions) {
        self.opening.link = Some(slot);
        self.opening.sends = 0;
        if let Some(link) = self.link_mut(slot) {
            link.state = LinkState::Idle;
            link.join_at_us = NEVER;
            link.give_up_at_us = NEVER;
        }
        self.send_reg1(slot, out);
    }

    fn send_reg1(&mut self, slot: usize, out: &mut SenderActions) {
        let now_us = self.now_us;
        let Some(link) = self.link_mut(slot) else { return };
        if link.reg1_sends > 0 {
            link.owed_reg_errs = link.owed_reg_errs.saturating_add(1);
        }
        link.reg1_sends = link.reg1_sends.saturating_add(1);
        link.reg1_sent_us = now_us;
        let pause_us = REG1_PAUSES_US.get(usize::from(self.opening.sends)).copied().unwrap_or(1000 * MS);
        self.opening.sends = self.opening.sends.saturating_add(1);
        // A receiver that is away for long is asked at a quarter of the speed.
        self.opening.next_at_us = now_us + (pause_us << self.opening.rounds.min(2));
        if self.registration() == Registration::Undecided {
            self.send_hello(slot, out);
            return;
        }
        self.counters.reg1_sent += 1;
        self.send_reg(PacketType::Reg1, slot, out);
    }

    /// Repeats REG1, or moves it to the next link.
    pub(super) fn opening_timeout(&mut self, out: &mut SenderActions) {
        if self.now_us < self.opening.next_at_us {
            return;
        }
        let Some(slot) = self.opening.link else {
            // All links were refused and the pause is over.
            for link in self.links.iter_mut().flatten() {
                link.is_refused = false;
            }
            self.open_on_next(LINKS_MAX, out);
            return;
        };
        let is_reachable = self.link(slot).is_some_and(|link| link.is_reachable);
        let other_is_reachable = self
            .links
            .iter()
            .enumerate()
            .any(|(other, link)| other != slot && link.as_ref().is_some_and(|link| link.is_reachable));
        let sends_max = if other_is_reachable && !is_reachable { 2 } else { REG1_PAUSES_US.len() };
        if usize::from(self.opening.sends) < sends_max {
            self.send_reg1(slot, out);
        } else {
            self.ask_rebind(slot, out);
            self.open_on_next(slot, out);
        }
    }

    /// Moves REG1 to the best link not yet tried in this round; `last` was tried just now.
    fn open_on_next(&mut self, last: usize, out: &mut SenderActions) {
        if last < LINKS_MAX {
            self.opening.tried |= 1 << last;
        }
        let candidate = |tried: u32, links: &[Option<Link>]| {
            links
                .iter()
                .enumerate()
                .filter_map(|(slot, link)| Some((slot, link.as_ref()?)))
                .filter(|(slot, link)| tried & (1 << slot) == 0 && !link.is_refused)
                .min_by_key(|(_, link)| (!link.is_reachable, link.rtt.smoothed_us().unwrap_or(u32::MAX)))
                .map(|(slot, _)| slot)
        };
        let next = candidate(self.opening.tried, &self.links).or_else(|| {
            self.opening.tried = 0;
            self.opening.rounds += 1;
            candidate(0, &self.links)
        });
        if let Some(slot) = next {
            self.open_on(slot, out);
            return;
        }
        self.opening.link = None;
        self.opening.next_at_us = NEVER;
        if self.links.iter().any(Option::is_some) {
            self.opening.next_at_us = self.now_us + self.opening.refused_pause_us;
            self.opening.refused_pause_us = (self.opening.refused_pause_us * 2).min(REFUSED_PAUSE_MAX_US);
        }
    }

    /// The receiver gave us an ID (or took ours as it is): all links join at once.
    pub(super) fn adopt(&mut self, slot: usize, id: GroupId, out: &mut SenderActions) {
        self.id = id;
        self.is_registered = true;
        self.adopted_us = self.now_us;
        self.opening = Opening::default();
        out.notice(SenderNotice::Registered { link: LinkIndex(slot as u8) });
        for other in 0..self.links.len() {
            let Some(link) = self.link_mut(other) else { continue };
            link.reg1_sends = 0;
            link.is_refused = false;
            link.is_reachable = false;
            self.join(other, LinkState::Joining, out);
        }
    }

    // --- answers --------------------------------------------------------------------------------------------------

    pub(super) fn on_reg2(
        &mut self,
        slot: usize,
        id: &[u8; ID_LEN],
        out: &mut SenderActions,
    ) -> SenderVerdict {
        let id = GroupId(*id);
        if id.sender_half() != self.id.sender_half() {
            return SenderVerdict::Drop(SenderDropReason::ForeignId);
        }
        let now_us = self.now_us;
        let is_registered = self.is_registered;
        if let Some(link) = self.link_mut(slot)
            && !is_registered
            && link.reg1_sends > 0
        {
            if link.reg1_sends == 1 {
                let rtt_us = now_us.saturating_sub(link.reg1_sent_us);
                link.rtt_sample(now_us, rtt_us);
            }
            self.adopt(slot, id, out);
        }
        SenderVerdict::Consumed
    }

    pub(super) fn on_reg3(&mut self, slot: usize, out: &mut SenderActions) {
        let now_us = self.now_us;
        let Some(link) = self.link_mut(slot) else { return };
        if let Some(rtt_us) = link.join_rtt_us(now_us) {
            link.rtt_sample(now_us, rtt_us);
        }
        if !self.is_registered {
            // The ID of a probe or of an earlier group is known to the receiver after all.
            let id = self.id;
            self.adopt(slot, id, out);
        }
        self.on_proof(slot, out);
    }

    pub(super) fn on_refusal(&mut self, slot: usize, out: &mut SenderActions) {
        self.counters.refusals += 1;
        let is_opening = !self.is_registered && self.opening.link == Some(slot);
        let Some(link) = self.link_mut(slot) else { return };
        let was_owed = link.owed_reg_errs > 0;
        link.owed_reg_errs = link.owed_reg_errs.saturating_sub(1);
        if is_opening {
            link.is_refused = true;
            out.notice(SenderNotice::Refused { link: LinkIndex(slot as u8), cause: None });
            self.ask_rebind(slot, out);
            self.open_on_next(slot, out);
        } else if !was_owed && matches!(link.state, LinkState::Joining | LinkState::Suspect | LinkState::Lost)
        {
            out.notice(SenderNotice::Refused { link: LinkIndex(slot as u8), cause: None });
            self.ask_rebind(slot, out);
        }
    }

    pub(super) fn on_ngp(&mut self, slot: usize, out: &mut SenderActions) {
        self.counters.ngps += 1;
        let now_us = self.now_us;
        let (is_registered, adopted_us) = (self.is_registered, self.adopted_us);
        let other_is_live = self.links.iter().enumerate().any(|(other, link)| {
            other != slot && link.as_ref().is_some_and(|link| link.state == LinkState::Live)
        });
        let Some(link) = self.link_mut(slot) else { return };
        if !is_registered {
            link.is_reachable = true;
            if link.state == LinkState::Idle
                && let Some(rtt_us) = link.join_rtt_us(now_us)
            {
                link.rtt_sample(now_us, rtt_us);
            }
            return;
        }
        if now_us < adopted_us + STALE_NGP_US.max(2 * link.rtt_or_guess_us()) {
            return;
        }
        match link.state {
            // Out of the blue: the receiver does not know this address, but perhaps the ID.
            LinkState::Live => self.join(slot, LinkState::Joining, out),
            LinkState::Joining | LinkState::Suspect | LinkState::Lost if !other_is_live => {
                out.notice(SenderNotice::GroupLost { link: LinkIndex(slot as u8) });
                self.open_again(slot, out);
            }
            _ => {}
        }
    }

    /// Something came back that only a member gets.
    pub(super) fn on_proof(&mut self, slot: usize, out: &mut SenderActions) {
        let now_us = self.now_us;
        let data_number = self.data_number;
        let has_key = self.has_key_in_use();
        let Some(link) = self.link_mut(slot) else { return };
        link.on_proof(now_us);
        let is_up_again = match link.state {
            LinkState::Joining | LinkState::Suspect | LinkState::Lost => true,
            LinkState::Idle => has_key,
            LinkState::Live => false,
        };
        if is_up_again {
            let join_at_us = link.join_at_us;
            link.on_live(now_us, data_number);
            self.settle_handshake(slot, join_at_us);
            if !self.is_registered {
                self.is_registered = true;
                self.opening = Opening::default();
            }
            out.notice(SenderNotice::LinkUp { link: LinkIndex(slot as u8) });
        }
    }

    /// Asks for a fresh socket now, or as soon as the pause since the last request allows.
    pub(super) fn ask_rebind(&mut self, slot: usize, out: &mut SenderActions) {
        if let Some(link) = self.link_mut(slot) {
            link.rebind_is_wanted = true;
        }
        self.rebind_timeout(slot, out);
    }

    pub(super) fn rebind_timeout(&mut self, slot: usize, out: &mut SenderActions) {
        let now_us = self.now_us;
        let Some(link) = self.link_mut(slot) else { return };
        if now_us < link.rebind_at_us() {
            return;
        }
        link.on_rebind_asked(now_us);
        // A lost link keeps asking until its socket is replaced or something is heard on the old one.
        link.rebind_is_wanted = link.state == LinkState::Lost;
        self.counters.rebinds_asked += 1;
        out.rebind(LinkIndex(slot as u8));
    }
}
