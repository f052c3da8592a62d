//! Addresses of links that other shards own.
//!
//! The kernel spreads the links of a group over all shards until steering takes effect, and again whenever steering ends; a
//! shard that is not the owner knows where an address belongs and hands its datagrams over. It knows it for one of two
//! reasons, and each has room of its own:
//!
//! * a *claim*: the owner has a link there. It says so when the link joins and again and again after that, so that a lost
//!   claim is repeated and a dead one ends;
//! * a *guess*: a join went by on its way to its owner, which may refuse it. Good until the owner's claim comes, or until
//!   nothing comes from the address for a while.
//!
//! Promise: bounded; the oldest of its kind gives way, so that a flood of joins cannot push out a living link.

use super::table::Index;
use super::time::Time;
use super::timers::Deadlines;
use crate::LinkAddr;
use std::time::Duration;

/// Use of a guess is noted this often; its expiry may therefore be this much late.
const GRAIN: Duration = Duration::from_secs(1);

#[derive(Clone, Copy)]
struct Entry {
    addr: LinkAddr,
    hash: u32,
    owner: u8,
    /// A device's cookie came back from there.
    proven: bool,
    claimed: bool,
    /// When a datagram from there was last handed over by this shard.
    used_at: Option<Time>,
    armed_at: Time,
}

/// Entries of one kind: how many there are and may be, and when they end.
struct Kind {
    len: usize,
    max: usize,
    ends: Deadlines,
}

/// See the module's comment.
pub(super) struct Foreign {
    entries: Box<[Option<Entry>]>,
    free: Vec<u32>,
    index: Index,
    guesses: Kind,
    claims: Kind,
}

impl Foreign {
    /// Room for `guesses_max` guesses, each good for `idle_after` after its last use, and for `claims_max` claims, each
    /// good for `claim_life` after it was made or repeated.
    pub(super) fn new(
        (guesses_max, idle_after): (usize, Duration),
        (claims_max, claim_life): (usize, Duration),
    ) -> Self {
        let max = guesses_max + claims_max;
        let kind = |kind_max, life| Kind { len: 0, max: kind_max, ends: Deadlines::new(life, max) };
        Self {
            entries: vec![None; max].into_boxed_slice(),
            free: (0..max as u32).rev().collect(),
            index: Index::new(max),
            guesses: kind(guesses_max, idle_after + GRAIN),
            claims: kind(claims_max, claim_life),
        }
    }

    fn find(&self, addr: LinkAddr, hash: u32) -> Option<u32> {
        self.index.get(hash, |slot| self.get(slot).is_some_and(|entry| entry.addr == addr))
    }

    fn get(&self, slot: u32) -> Option<&Entry> {
        self.entries.get(slot as usize)?.as_ref()
    }

    fn entry(&self, addr: LinkAddr, hash: u32) -> Option<&Entry> {
        self.get(self.find(addr, hash)?)
    }

    fn kind(&mut self, claimed: bool) -> &mut Kind {
        if claimed { &mut self.claims } else { &mut self.guesses }
    }

    /// The owner of `addr`, from where a datagram came just now.
    pub(super) fn owner(&mut self, now: Time, addr: LinkAddr, hash: u32) -> Option<u8> {
        let slot = self.find(addr, hash)?;
        let entry = self.entries.get_mut(slot as usize)?.as_mut()?;
        entry.used_at = Some(now);
        if !entry.claimed && now.since(entry.armed_at) >= GRAIN {
            entry.armed_at = now;
            self.guesses.ends.arm(slot, now);
        }
        Some(entry.owner)
    }

    /// `addr` is a device's, as far as is known.
    pub(super) fn is_proven(&self, addr: LinkAddr, hash: u32) -> bool {
        self.entry(addr, hash).is_some_and(|entry| entry.proven)
    }

    /// `addr` is the link of a shard other than `owner`, and a datagram from there was handed over less than `within` ago.
    pub(super) fn is_busy(
        &self,
        now: Time,
        (addr, hash): (LinkAddr, u32),
        owner: u8,
        within: Duration,
    ) -> bool {
        self.entry(addr, hash).is_some_and(|entry| {
            let is_used = entry.used_at.is_some_and(|at| now.since(at) < within);
            entry.claimed && entry.owner != owner && is_used
        })
    }

    /// A valid join for `owner` went by: in place of what was known, unless that is a claim of the same owner.
    pub(super) fn guess(&mut self, now: Time, (addr, hash): (LinkAddr, u32), owner: u8, proven: bool) {
        if !self.entry(addr, hash).is_some_and(|entry| entry.claimed && entry.owner == owner) {
            self.put(Entry { addr, hash, owner, proven, claimed: false, used_at: None, armed_at: now });
        }
    }

    /// Something like a join for `owner` went by: nothing known gives way for it.
    pub(super) fn suggest(&mut self, now: Time, (addr, hash): (LinkAddr, u32), owner: u8) {
        if self.guesses.len < self.guesses.max && self.find(addr, hash).is_none() {
            self.guess(now, (addr, hash), owner, false);
        }
    }

    /// The owner says that it has a link at `addr`.
    pub(super) fn claim(&mut self, now: Time, (addr, hash): (LinkAddr, u32), owner: u8, proven: bool) {
        let used_at = self.entry(addr, hash).and_then(|entry| entry.used_at);
        self.put(Entry { addr, hash, owner, proven, claimed: true, used_at, armed_at: now });
    }

    /// `owner` has no link at `addr` any more.
    pub(super) fn release(&mut self, addr: LinkAddr, hash: u32, owner: u8) {
        if let Some(slot) = self.find(addr, hash)
            && self.get(slot).is_some_and(|entry| entry.owner == owner)
        {
            self.remove(slot);
        }
    }

    /// `addr` belongs to this shard now, or to nobody.
    pub(super) fn forget(&mut self, addr: LinkAddr, hash: u32) {
        if let Some(slot) = self.find(addr, hash) {
            self.remove(slot);
        }
    }

    fn put(&mut self, entry: Entry) {
        self.forget(entry.addr, entry.hash);
        let kind = self.kind(entry.claimed);
        if kind.len >= kind.max
            && let Some(oldest) = kind.ends.oldest()
        {
            self.remove(oldest);
        }
        let Some(slot) = self.free.pop() else { return };
        if let Some(place) = self.entries.get_mut(slot as usize) {
            *place = Some(entry);
        }
        self.index.insert(entry.hash, slot);
        let kind = self.kind(entry.claimed);
        kind.len += 1;
        kind.ends.arm(slot, entry.armed_at);
    }

    /// When the next entry ends.
    pub(super) fn next_end(&self) -> Option<Time> {
        [self.guesses.ends.next(), self.claims.ends.next()].into_iter().flatten().min()
    }

    /// Drops the entries whose time is over.
    pub(super) fn expire(&mut self, now: Time) {
        for claimed in [false, true] {
            while let Some(slot) = self.kind(claimed).ends.pop_due(now) {
                self.remove(slot);
            }
        }
    }

    fn remove(&mut self, slot: u32) {
        if let Some(entry) = self.entries.get_mut(slot as usize).and_then(Option::take) {
            let kind = self.kind(entry.claimed);
            kind.len -= 1;
            kind.ends.disarm(slot);
            self.index.remove(entry.hash, slot);
            self.free.push(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Duration = Duration::from_secs(10);

    fn addr(n: u16) -> (LinkAddr, u32) {
        (LinkAddr::new(([192, 0, 2, 1], n).into()), u32::from(n) / 4)
    }

    #[test]
    fn guesses_never_push_out_claims() {
        let now = Time::any();
        let mut foreign = Foreign::new((4, LIFE), (8, LIFE));
        for n in 0..8 {
            foreign.claim(now, addr(n), 1, false);
        }
        for n in 100..1000 {
            foreign.guess(now, addr(n), 2, false);
        }
        let known = |foreign: &mut Foreign, range: std::ops::Range<u16>| {
            range.filter(|&n| foreign.owner(now, addr(n).0, addr(n).1).is_some()).count()
        };
        assert_eq!((known(&mut foreign, 0..8), known(&mut foreign, 100..1000)), (8, 4));
        for n in 2000..2100 {
            foreign.claim(now, addr(n), 1, false);
        }
        assert_eq!((known(&mut foreign, 2000..2100), known(&mut foreign, 100..1000)), (8, 4));
        foreign.expire(now + LIFE + GRAIN);
        assert_eq!((foreign.next_end(), foreign.guesses.len, foreign.claims.len), (None, 0, 0));
        assert_eq!(foreign.free.len(), 12);
    }

    #[test]
    fn a_claim_ends_when_it_is_not_repeated_however_much_it_is_used() {
        let now = Time::any();
        let mut foreign = Foreign::new((1, LIFE), (1, LIFE));
        let (link, hash) = addr(1);
        foreign.claim(now, (link, hash), 3, true);
        assert!(foreign.is_proven(link, hash) && !foreign.is_busy(now, (link, hash), 0, LIFE));
        let later = now + Duration::from_secs(9);
        assert_eq!(foreign.owner(later, link, hash), Some(3));
        assert!(foreign.is_busy(later, (link, hash), 0, LIFE));
        assert!(!foreign.is_busy(later, (link, hash), 3, LIFE), "its own shard decides for itself");
        foreign.claim(later, (link, hash), 3, true);
        assert!(foreign.is_busy(later, (link, hash), 0, LIFE), "a claim repeated is the same link");
        foreign.release(link, hash, 2);
        foreign.expire(now + LIFE);
        assert_eq!(foreign.owner(later, link, hash), Some(3), "somebody else's release means nothing");
        foreign.expire(later + LIFE);
        assert_eq!(foreign.owner(later, link, hash), None);
    }
}
