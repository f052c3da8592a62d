//! The links: a fixed arena, `links_per_group_max` neighbouring slots per group, found by address.
//!
//! A link's slot number names its group and its small stable index within it. Promises: lookups are O(1), walking a
//! group's links touches its own slots only, nothing is allocated after creation; a link takes 192 bytes, 16 for each of
//! the two deadlines all have, and 16 to 32 in the index.

use super::admission::Bar;
use super::bucket::Bucket;
use super::config::{ACK_EVERY_MAX, ReceiverConfig};
use super::table::{Index, KeyHash};
use super::time::Time;
use super::timers::Deadlines;
use crate::addr::AddrOctets;
use crate::wire::{SHORT_PADDED_LEN, Telemetry};
use crate::{LinkAddr, LinkKey, Seq};
use bondgate_auth::sa1::trailer::TRAILER_LEN;
use std::time::Duration;

/// Hearing from a link moves its timeout only this often; it may therefore time out this much late.
pub(super) const TIMEOUT_GRAIN: Duration = Duration::from_millis(100);

/// What an unproven link that has sent no keepalive keeps for REG3: five repetitions.
const REG3_RESERVE: i32 = 5 * SHORT_PADDED_LEN as i32;

/// One sender address within a group, or the place of one. Three cache lines, laid out by use: what every datagram touches,
/// what SRT adds, and the rest.
#[derive(Clone)]
#[repr(C, align(64))]
pub(super) struct Link {
    addr: AddrOctets,
    /// There is a link in this place. All but the generation means nothing otherwise.
    is_there: bool,
    /// A device's cookie came back from this address: it may be sent anything.
    pub proven: bool,
    /// SRT packets carry trailers, both ways.
    pub data_mac: bool,
    /// A keepalive came from this address since its last join.
    pub has_kept_alive: bool,
    /// The link is among the targets of its group's last fan-out.
    fan_out: bool,
    has_telemetry: bool,
    unacked_len: u8,
    /// One more than the plausible packets that came of a link adopted without REG2, which attracts no return traffic that
    /// belongs to one link; 0 for all others.
    probation: u8,
    pub reg3_repeats: u8,
    /// Its address is kept out: it is about to be removed, and nothing comes or goes here any more.
    pub barred: Option<Bar>,
    /// Anything came from this address.
    pub heard_at: Time,
    /// Hearing from it at this time or later moves its timeout.
    timeout_stands_until: Time,
    pub received_packets: u64,
    /// Bytes an unproven link may still be sent, earned by the bytes it sent. A ticket can be shown from a forged address,
    /// so no such link is ever sent more than came from it.
    pub credit_bytes: i32,
    generation: u32,

    /// SRT came from this address.
    pub srt_at: Option<Time>,
    /// SRT or a keepalive came from this address.
    pub talked_at: Option<Time>,
    pub received_bytes: u64,
    unacked: [Seq; ACK_EVERY_MAX as usize],

    pub keepalives: Bucket,
    pub joined_at: Time,
    pub sent_packets: u64,
    pub sent_bytes: u64,
    telemetry: Telemetry,
}

impl Link {
    /// Whether a fan-out goes to it.
    pub(super) const fn set_fan_out(&mut self, is_target: bool) {
        self.fan_out = is_target;
    }

    fn free(now: Time) -> Self {
        Self {
            addr: AddrOctets::default(),
            is_there: false,
            proven: false,
            data_mac: false,
            has_kept_alive: false,
            fan_out: false,
            has_telemetry: false,
            unacked_len: 0,
            probation: 0,
            reg3_repeats: 0,
            barred: None,
            heard_at: now,
            timeout_stands_until: now,
            received_packets: 0,
            credit_bytes: 0,
            generation: 0,
            srt_at: None,
            talked_at: None,
            received_bytes: 0,
            unacked: [Seq::default(); ACK_EVERY_MAX as usize],
            keepalives: Bucket::full(now),
            joined_at: now,
            sent_packets: 0,
            sent_bytes: 0,
            telemetry: Telemetry::default(),
        }
    }

    pub(super) fn addr(&self) -> LinkAddr {
        self.addr.into()
    }

    /// Adopted without REG2, and not yet plausible for long enough.
    pub(super) const fn is_on_probation(&self) -> bool {
        self.probation > 0
    }

    /// A plausible packet came; the probation is over after `packets_max` of them. Whether it is.
    pub(super) fn proves_itself(&mut self, packets_max: u8) -> bool {
        if self.probation > 0 && self.probation <= packets_max && self.probation < u8::MAX {
            self.probation += 1;
            return false;
        }
        self.probation = 0;
        true
    }

    pub(super) const fn end_probation(&mut self) {
        self.probation = 0;
    }

    pub(super) fn telemetry(&self) -> Option<Telemetry> {
        self.has_telemetry.then_some(self.telemetry)
    }

    pub(super) const fn set_telemetry(&mut self, telemetry: Telemetry) {
        (self.telemetry, self.has_telemetry) = (telemetry, true);
    }

    /// Sequence numbers not yet acknowledged to the sender.
    pub(super) fn unacked(&self) -> &[Seq] {
        self.unacked.get(..usize::from(self.unacked_len)).unwrap_or_default()
    }

    /// Notes a data packet; `true` when it is the first since the last SRTLA ACK.
    pub(super) fn note_unacked(&mut self, seq: Seq) -> bool {
        if let Some(place) = self.unacked.get_mut(usize::from(self.unacked_len)) {
            *place = seq;
            self.unacked_len += 1;
        }
        self.unacked_len == 1
    }

    pub(super) fn clear_unacked(&mut self) {
        self.unacked_len = 0;
    }

    /// The link was heard recently enough to get return traffic.
    pub(super) fn is_live(&self, now: Time, link_live: Duration) -> bool {
        self.barred.is_none() && now.since(self.heard_at) <= link_live
    }

    /// Books `bytes` of an answer to be sent; `false` when they were not earned.
    pub(super) fn spend(&mut self, bytes: usize) -> bool {
        self.spend_down_to(0, bytes)
    }

    /// Books `bytes` of return traffic or of an SRTLA ACK. They leave enough for the REG3 that a link may still need: the
    /// server's ACKs would use up everything the moment the link falls silent.
    pub(super) fn spend_on_traffic(&mut self, bytes: usize) -> bool {
        let reserve = if self.has_kept_alive { 0 } else { REG3_RESERVE };
        self.spend_down_to(reserve, bytes)
    }

    /// Bytes that an SRT packet to this link grows by.
    pub(super) const fn trailer_len(&self) -> usize {
        if self.data_mac { TRAILER_LEN } else { 0 }
    }

    fn spend_down_to(&mut self, reserve: i32, bytes: usize) -> bool {
        let rest = self.credit_bytes.saturating_sub(i32::try_from(bytes).unwrap_or(i32::MAX));
        if !self.proven {
            if rest < reserve {
                return false;
            }
            self.credit_bytes = rest;
        }
        self.sent_packets += 1;
        self.sent_bytes += bytes as u64;
        true
    }
}

/// See the module's comment.
pub(super) struct Links {
    slots: Box<[Link]>,
    per_group: usize,
    credit_cap_bytes: i32,
    index: Index,
    /// The slot found last. Datagrams come in trains.
    last_found: u32,
    pub timeout: Deadlines,
    pub ack_flush: Deadlines,
    pub reg3: Deadlines,
    /// Links to be removed as soon as there is room for the actions.
    pub condemned: Deadlines,
}

impl Links {
    pub(super) fn new(config: &ReceiverConfig, now: Time) -> Self {
        let slots = config.groups_max * config.links_per_group_max;
        Self {
            slots: vec![Link::free(now); slots].into_boxed_slice(),
            per_group: config.links_per_group_max,
            credit_cap_bytes: config.credit_cap_bytes.cast_signed(),
            index: Index::new(slots),
            last_found: 0,
            timeout: Deadlines::new(config.link_timeout + TIMEOUT_GRAIN, slots),
            ack_flush: Deadlines::new(config.ack_flush, slots),
            reg3: Deadlines::new(config.reg3_repeat, slots),
            condemned: Deadlines::new(Duration::ZERO, slots),
        }
    }

    /// The slot of the link with this address.
    pub(super) fn find(&self, addr: LinkAddr, hash: u32) -> Option<u32> {
        self.find_octets(&addr.octets(), hash)
    }

    fn find_octets(&self, addr: &AddrOctets, hash: u32) -> Option<u32> {
        self.index.get(hash, |slot| self.get(slot).is_some_and(|link| link.addr == *addr))
    }

    /// The slot of the link with this address, or the address's hash.
    pub(super) fn find_or_hash(&mut self, addr: LinkAddr, hash: &KeyHash) -> Result<u32, u32> {
        let addr = addr.octets();
        if self.get(self.last_found).is_some_and(|link| link.addr == addr) {
            return Ok(self.last_found);
        }
        let hash = hash.of(&addr);
        let slot = self.find_octets(&addr, hash).ok_or(hash)?;
        self.last_found = slot;
        Ok(slot)
    }

    pub(super) fn get(&self, slot: u32) -> Option<&Link> {
        self.slots.get(slot as usize).filter(|link| link.is_there)
    }

    pub(super) fn get_mut(&mut self, slot: u32) -> Option<&mut Link> {
        self.slots.get_mut(slot as usize).filter(|link| link.is_there)
    }

    /// The link a key names, if it is still there.
    pub(super) fn get_key(&self, key: LinkKey) -> Option<&Link> {
        self.get(key.slot).filter(|link| link.generation == key.generation)
    }

    pub(super) fn key(&self, slot: u32) -> LinkKey {
        LinkKey { slot, generation: self.slots.get(slot as usize).map_or(0, |slot| slot.generation) }
    }

    /// The slot of the group a link slot belongs to.
    pub(super) fn group_of(&self, slot: u32) -> u32 {
        slot / self.per_group as u32
    }

    /// The link's index within its group.
    pub(super) fn index_of(&self, slot: u32) -> u8 {
        (slot as usize % self.per_group) as u8
    }

    /// The slots of a group.
    pub(super) fn range(&self, group: u32) -> std::ops::Range<usize> {
        let start = group as usize * self.per_group;
        start..start + self.per_group
    }

    /// The links of a group with their slots, in slot order.
    pub(super) fn of_group(&self, group: u32) -> impl Iterator<Item = (u32, &Link)> {
        let range = self.range(group);
        let slots = self.slots.get(range.clone()).unwrap_or_default();
        range.zip(slots).filter(|(_, link)| link.is_there).map(|(index, link)| (index as u32, link))
    }

    /// The same, mutable.
    pub(super) fn of_group_mut(&mut self, group: u32) -> impl Iterator<Item = (u32, &mut Link)> {
        let range = self.range(group);
        let slots = self.slots.get_mut(range.clone()).unwrap_or_default();
        range.zip(slots).filter(|(_, link)| link.is_there).map(|(index, link)| (index as u32, link))
    }

    /// The links the group's last fan-out goes to.
    pub(super) fn fan_out(&self, group: u32) -> impl Iterator<Item = (u32, &Link)> {
        self.of_group(group).filter(|(_, link)| link.fan_out)
    }

    /// A free slot of a group.
    pub(super) fn free_slot(&self, group: u32) -> Option<u32> {
        let range = self.range(group);
        let slots = self.slots.get(range.clone())?;
        let free = slots.iter().position(|link| !link.is_there)?;
        Some((range.start + free) as u32)
    }

    /// Any link of a group.
    pub(super) fn first_of_group(&self, group: u32) -> Option<u32> {
        self.of_group(group).next().map(|(slot, _)| slot)
    }

    /// The link of a group heard longest ago.
    pub(super) fn longest_silent(&self, group: u32) -> Option<u32> {
        self.of_group(group).min_by_key(|(_, link)| link.heard_at).map(|(slot, _)| slot)
    }

    /// Puts a new link into a free slot.
    pub(super) fn insert(&mut self, slot: u32, now: Time, new: &NewLink) {
        let Some(link) = self.slots.get_mut(slot as usize) else { return };
        *link = Link {
            addr: new.addr.octets(),
            is_there: true,
            proven: new.proven,
            probation: u8::from(new.probation),
            timeout_stands_until: now + TIMEOUT_GRAIN,
            credit_bytes: new.credit_bytes,
            generation: link.generation,
            ..Link::free(now)
        };
        self.index.insert(new.hash, slot);
        self.timeout.arm(slot, now);
    }

    /// Takes a link out of its slot and returns its address; its key names nothing from now on.
    pub(super) fn remove(&mut self, hasher: &KeyHash, slot: u32) -> Option<LinkAddr> {
        self.timeout.disarm(slot);
        self.ack_flush.disarm(slot);
        self.reg3.disarm(slot);
        self.condemned.disarm(slot);
        let link = self.get_mut(slot)?;
        link.is_there = false;
        link.generation = link.generation.wrapping_add(1);
        let addr = link.addr;
        self.index.remove(hasher.of(&addr), slot);
        Some(addr.into())
    }

    /// The link's address is kept out: from now on nothing goes there, and it is to be removed.
    pub(super) fn bar(&mut self, slot: u32, now: Time, bar: Bar) {
        let Some(link) = self.get_mut(slot) else { return };
        link.barred = Some(bar);
        link.clear_unacked();
        self.ack_flush.disarm(slot);
        self.reg3.disarm(slot);
        self.condemned.arm(slot, now);
    }

    /// Something came from the link, which earns it as many bytes.
    pub(super) fn heard(&mut self, slot: u32, now: Time, bytes: usize) {
        let credit_cap_bytes = self.credit_cap_bytes;
        let Some(link) = self.get_mut(slot) else { return };
        link.heard_at = link.heard_at.max(now);
        link.received_packets += 1;
        link.received_bytes += bytes as u64;
        link.credit_bytes = link.credit_bytes.saturating_add(bytes as i32).min(credit_cap_bytes);
        if now >= link.timeout_stands_until {
            link.timeout_stands_until = now + TIMEOUT_GRAIN;
            self.timeout.arm(slot, now);
        }
    }

    /// SRT or a keepalive came from the link. A keepalive says that it knows of its registration; SRT does not, because
    /// stock senders use their first link before REG3 has come.
    pub(super) fn talked(&mut self, slot: u32, now: Time, keepalive: bool) {
        let Some(link) = self.get_mut(slot) else { return };
        link.talked_at = Some(now);
        if keepalive && !std::mem::replace(&mut link.has_kept_alive, true) {
            self.reg3.disarm(slot);
        }
    }
}

/// What distinguishes links at their beginning.
pub(super) struct NewLink {
    pub addr: LinkAddr,
    pub hash: u32,
    pub probation: bool,
    pub proven: bool,
    pub credit_bytes: i32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_three_cache_lines_by_use() {
        use std::mem::offset_of;
        assert_eq!((size_of::<Link>(), align_of::<Link>()), (192, 64));
        assert_eq!((offset_of!(Link, srt_at), offset_of!(Link, keepalives)), (64, 128));
    }

    #[test]
    fn probation_ends_after_so_many_packets() {
        for packets_max in [0, 1, 16, u8::MAX] {
            let mut link = Link { probation: 1, ..Link::free(Time::any()) };
            let packets = (0..1000).take_while(|_| !link.proves_itself(packets_max)).count();
            assert_eq!(packets, usize::from(packets_max.min(u8::MAX - 1)));
            assert!(!link.is_on_probation());
        }
    }
}
