//! What a device's link has beside a stock link: its number, its newest nonce, and the keys of its trailers.
//!
//! A table beside the links, so that the record every packet touches stays small and stock senders pay nothing for it.
//! Promises: a place for a link takes memory when a device's first link joins there, and keeps it, and 3 KB more while its link
//! has agreed on keys of SRT packets, so that all is bounded by the number of places; a trailer is taken once; after new
//! keys the old ones are good for what was on its way, and no longer; keys of SRT packets that were in use are never in use
//! again.

use super::DropReason;
use super::bucket::{Bucket, Rate};
use super::time::Time;
use bondgate_auth::sa1::data::{DataOpener, DataSealer, SEALED_DATA_LEN_MAX};
use bondgate_auth::sa1::keys::LinkKeys;
use bondgate_auth::sa1::trailer::{Opener, SEALED_LEN_MAX, Sealer, TRAILER_LEN, TrailerError};
use bondgate_auth::sa1::{COOKIE_AGE_MS_MAX, Flags, Nonce};
use std::time::Duration;

/// How long packets under the keys before are taken.
const OLD_KEYS_GOOD: Duration = Duration::from_secs(2);
/// Trailers looked at per link: more than the keepalives of any sender, less than what would cost a core.
const MACS: Rate = Rate { per_s: 500, burst: 200 };

/// What a device's link has agreed on.
pub(super) struct Seal {
    /// The sender's number of this modem.
    pub link_id: u32,
    /// The nonce of its newest join.
    pub nonce: Nonce,
    accepted: Flags,
    sealer: Sealer,
    opener: Opener,
    /// For SRT packets, if agreed on.
    data: Option<Box<(DataSealer, DataOpener)>>,
    before: Option<Before>,
    macs: Bucket,
}

/// The keys before.
struct Before {
    opener: Opener,
    data: Option<Box<(DataSealer, DataOpener)>>,
    until: Time,
}

impl Seal {
    /// The keys before, as long as they are good.
    fn before_at(&mut self, now: Time) -> Option<&mut Before> {
        self.before = self.before.take().filter(|before| now < before.until);
        self.before.as_mut()
    }
}

/// An SRT packet and room for a trailer, which each link it goes to has its own of.
pub struct SealedCopy {
    bytes: [u8; SEALED_DATA_LEN_MAX],
    /// Trailer included; 0 for a packet that has no room for one.
    len: usize,
}

impl SealedCopy {
    /// A copy of `packet`.
    pub fn new(packet: &[u8]) -> Self {
        let mut copy = Self { bytes: [0; SEALED_DATA_LEN_MAX], len: 0 };
        let len = packet.len() + TRAILER_LEN;
        if len <= SEALED_DATA_LEN_MAX
            && let Some(place) = copy.bytes.get_mut(..packet.len())
        {
            place.copy_from_slice(packet);
            copy.len = len;
        }
        copy
    }
}

/// How many nonces of joins are remembered one by one.
const RETIRED_MAX: usize = 1024;

/// Nonces of joins whose keys have sealed SRT packets and do not any more. While its cookie is good such a join could be
/// repeated, when its link is gone, and the same keys would begin to count anew: with GCM no counter may come twice.
struct Retired {
    nonces: Vec<Nonce>,
    /// All up to here count as retired: what had no room.
    floor: Nonce,
}

impl Retired {
    fn add(&mut self, nonce: Nonce) {
        if self.nonces.len() >= RETIRED_MAX
            && let Some(oldest) = (0..self.nonces.len()).min_by_key(|at| self.nonces.get(*at))
        {
            self.floor = self.floor.max(self.nonces.swap_remove(oldest));
        }
        self.nonces.push(nonce);
    }

    /// Whether it is one of them. `nonce` is of a join whose cookie is good: when it was issued, time has come so far.
    fn contains(&mut self, nonce: Nonce) -> bool {
        self.nonces.retain(|old| old.issued_ms() + COOKIE_AGE_MS_MAX >= nonce.issued_ms());
        nonce <= self.floor || self.nonces.contains(&nonce)
    }
}

/// The places of a group's links; none if it never had a device's. A place keeps its memory once it has some.
type Places = Box<[Option<Box<Option<Seal>>>]>;

/// See the module's comment.
pub(super) struct Seals {
    groups: Box<[Places]>,
    per_group: usize,
    retired: Retired,
}

impl Seals {
    /// One place per link slot, `per_group` of them in each group.
    pub(super) fn new(groups: usize, per_group: usize) -> Self {
        let retired = Retired { nonces: Vec::with_capacity(RETIRED_MAX), floor: Nonce([0; 16]) };
        Self { groups: (0..groups).map(|_| Box::default()).collect(), per_group, retired }
    }

    /// The seal of a link; stock links have none.
    pub(super) fn get(&self, slot: u32) -> Option<&Seal> {
        let slot = slot as usize;
        self.groups.get(slot / self.per_group)?.get(slot % self.per_group)?.as_deref()?.as_ref()
    }

    fn get_mut(&mut self, slot: u32) -> Option<&mut Seal> {
        self.place(slot)?.as_mut()
    }

    fn place(&mut self, slot: u32) -> Option<&mut Option<Seal>> {
        let slot = slot as usize;
        self.groups.get_mut(slot / self.per_group)?.get_mut(slot % self.per_group)?.as_deref_mut()
    }

    /// Gives a link its keys. With `keep_old` the keys it had stay good for a moment.
    pub(super) fn set(
        &mut self,
        slot: u32,
        now: Time,
        (link_id, nonce, accepted): (u32, Nonce, Flags),
        keys: &LinkKeys,
        keep_old: bool,
    ) {
        let Some(places) = self.groups.get_mut(slot as usize / self.per_group) else { return };
        if places.is_empty() {
            *places = (0..self.per_group).map(|_| None).collect();
        }
        let Some(place) = places.get_mut(slot as usize % self.per_group) else { return };
        let place = place.get_or_insert_default();
        let (sealer, opener) = keys.receiver_ends();
        if let Some(old) = place.as_ref().as_ref().filter(|old| old.data.is_some()) {
            self.retired.add(old.nonce);
        }
        let data = accepted.contains(Flags::DATA_MAC).then(|| Box::new(keys.receiver_data_ends()));
        let before = place.take().filter(|_| keep_old).map(|seal| Before {
            opener: seal.opener,
            data: seal.data,
            until: now + OLD_KEYS_GOOD,
        });
        let macs = Bucket::full(now);
        **place = Some(Seal { link_id, nonce, accepted, sealer, opener, data, before, macs });
    }

    /// The link is gone.
    pub(super) fn clear(&mut self, slot: u32) {
        let gone = self.place(slot).and_then(Option::take);
        if let Some(gone) = gone.filter(|gone| gone.data.is_some()) {
            self.retired.add(gone.nonce);
        }
    }

    /// The keys of a join with this nonce have sealed SRT packets before and must not do so again.
    pub(super) fn is_retired(&mut self, nonce: Nonce) -> bool {
        self.retired.contains(nonce)
    }

    /// The packet without its trailer.
    ///
    /// # Errors
    /// Why it is not to be believed.
    pub(super) fn open<'a>(
        &mut self,
        slot: u32,
        now: Time,
        sealed: &'a [u8],
    ) -> Result<&'a [u8], DropReason> {
        let seal = self.get_mut(slot).ok_or(DropReason::NotMember)?;
        if !seal.macs.take(MACS, now) {
            return Err(DropReason::TrailerBudget);
        }
        let error = match seal.opener.open(sealed) {
            Ok(packet) => return Ok(packet),
            Err(error) => error,
        };
        if error != TrailerError::Shape
            && let Some(before) = seal.before_at(now)
            && let Ok(packet) = before.opener.open(sealed)
        {
            return Ok(packet);
        }
        Err(error.into())
    }

    /// The SRT packet without its trailer. It has no budget: a forgery costs what a good packet does.
    ///
    /// # Errors
    /// Why it is not to be believed.
    pub(super) fn open_data<'a>(
        &mut self,
        slot: u32,
        now: Time,
        sealed: &'a [u8],
    ) -> Result<&'a [u8], DropReason> {
        let seal = self.get_mut(slot).ok_or(DropReason::NotMember)?;
        let (_, opener) = seal.data.as_deref_mut().ok_or(DropReason::TrailerShape)?;
        let error = match opener.open(sealed) {
            Ok(packet) => return Ok(packet),
            Err(error) => error,
        };
        if error != TrailerError::Shape
            && let Some(before) = seal.before_at(now)
            && let Some((_, opener)) = before.data.as_deref_mut()
            && let Ok(packet) = opener.open(sealed)
        {
            return Ok(packet);
        }
        Err(error.into())
    }

    /// An SRT packet of this length can be sealed for this link.
    pub(super) fn takes_data(&self, slot: u32, packet_len: usize) -> bool {
        let data = self.get(slot).and_then(|seal| seal.data.as_deref());
        data.is_some_and(|(sealer, _)| sealer.takes(packet_len))
    }

    /// Puts this link's trailer behind an SRT packet.
    pub(super) fn seal_data<'a>(&mut self, slot: u32, copy: &'a mut SealedCopy) -> Option<&'a [u8]> {
        let (sealer, _) = self.get_mut(slot)?.data.as_deref_mut()?;
        let sealed = copy.bytes.get_mut(..copy.len)?;
        sealer.seal(sealed).then_some(sealed)
    }

    /// Keepalives of this link carry trailers.
    pub(super) fn seals_keepalives(&self, slot: u32) -> bool {
        self.get(slot).is_some_and(|seal| seal.accepted.contains(Flags::KEEPALIVE_MAC))
    }

    /// SRTLA ACKs of this link carry trailers.
    pub(super) fn seals_acks(&self, slot: u32) -> bool {
        self.get(slot).is_some_and(|seal| seal.accepted.contains(Flags::ACK_MAC))
    }

    /// The packet with a trailer of the newest keys, and its length; `None` when these keys are used up.
    pub(super) fn seal(&mut self, slot: u32, packet: &[u8]) -> Option<([u8; SEALED_LEN_MAX], usize)> {
        self.get_mut(slot)?.sealer.seal(packet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retired_nonces_are_kept_while_their_cookies_are_good() {
        let nonce = |ms: u64, n: u8| Nonce::issue(ms, &[n; 10]);
        let mut retired = Retired { nonces: Vec::new(), floor: Nonce([0; 16]) };
        retired.add(nonce(1000, 1));
        assert!(retired.contains(nonce(1000, 1)) && !retired.contains(nonce(1000, 2)));
        assert!(!retired.contains(nonce(31_000, 1)) && retired.contains(nonce(1000, 1)));
        assert!(
            !retired.contains(nonce(31_001, 1)) && retired.nonces.is_empty(),
            "its cookie is too old now"
        );

        let issued = |at: usize| nonce(40_000 + (at * 7919 % 2000) as u64, 1);
        (0..2000).for_each(|at| retired.add(issued(at)));
        assert_eq!(retired.nonces.len(), RETIRED_MAX);
        assert!((0..2000).all(|at| retired.contains(issued(at))), "what has no room is not forgotten");
        assert!(!retired.contains(nonce(42_000, 1)));
    }
}
