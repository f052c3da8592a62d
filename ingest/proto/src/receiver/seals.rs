//! What a device's link has beside a stock link: its number, its newest nonce, and the keys of its trailers.
//!
//! A table beside the links, so that the record every packet touches stays small. Promises: sized at creation; a
//! trailer is taken once; after new keys the old ones are good for what was on its way, and no longer.

use super::DropReason;
use super::bucket::{Bucket, Rate};
use bondgate_auth::sa1::keys::LinkKeys;
use bondgate_auth::sa1::trailer::{Opener, SEALED_LEN_MAX, Sealer, TrailerError};
use bondgate_auth::sa1::{Flags, Nonce};
use std::time::{Duration, Instant};

/// How long keepalives under the keys before are taken.
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
    before: Option<(Opener, Instant)>,
    macs: Bucket,
}

/// See the module's comment.
pub(super) struct Seals {
    slots: Box<[Option<Seal>]>,
}

impl Seals {
    /// One place per link slot.
    pub(super) fn new(slots: usize) -> Self {
        Self { slots: (0..slots).map(|_| None).collect() }
    }

    /// The seal of a link; stock links have none.
    pub(super) fn get(&self, slot: u32) -> Option<&Seal> {
        self.slots.get(slot as usize)?.as_ref()
    }

    /// Gives a link its keys. With `keep_old` the keys it had stay good for a moment.
    pub(super) fn set(
        &mut self,
        slot: u32,
        now: Instant,
        (link_id, nonce, accepted): (u32, Nonce, Flags),
        keys: &LinkKeys,
        keep_old: bool,
    ) {
        let Some(place) = self.slots.get_mut(slot as usize) else { return };
        let (sealer, opener) = keys.receiver_ends();
        let before = place.take().filter(|_| keep_old).map(|seal| (seal.opener, now + OLD_KEYS_GOOD));
        let macs = Bucket::full(MACS, now);
        *place = Some(Seal { link_id, nonce, accepted, sealer, opener, before, macs });
    }

    /// The link is gone.
    pub(super) fn clear(&mut self, slot: u32) {
        if let Some(place) = self.slots.get_mut(slot as usize) {
            *place = None;
        }
    }

    /// The packet without its trailer.
    ///
    /// # Errors
    /// Why it is not to be believed.
    pub(super) fn open<'a>(
        &mut self,
        slot: u32,
        now: Instant,
        sealed: &'a [u8],
    ) -> Result<&'a [u8], DropReason> {
        let seal = self.slots.get_mut(slot as usize).and_then(Option::as_mut).ok_or(DropReason::NotMember)?;
        if !seal.macs.take(MACS, now) {
            return Err(DropReason::TrailerBudget);
        }
        let error = match seal.opener.open(sealed) {
            Ok(packet) => return Ok(packet),
            Err(error) => error,
        };
        match &mut seal.before {
            Some((_, until)) if now >= *until => seal.before = None,
            Some((old, _)) if error != TrailerError::Shape => {
                if let Ok(packet) = old.open(sealed) {
                    return Ok(packet);
                }
            }
            _ => {}
        }
        Err(error.into())
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
        self.slots.get_mut(slot as usize)?.as_mut()?.sealer.seal(packet)
    }
}
