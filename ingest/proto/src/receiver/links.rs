//! The links: a fixed arena, `links_per_group_max` neighbouring slots per group, found by address.
//!
//! A link's slot number names its group and its small stable index within it. Promises: lookups are O(1), walking a
//! group's links touches its own slots only, nothing is allocated after creation.

use super::admission::Bar;
use super::bucket::Bucket;
use super::config::{ACK_EVERY_MAX, ReceiverConfig};
use super::table::{Index, KeyHash};
use super::timers::Deadlines;
use crate::wire::{SHORT_PADDED_LEN, Telemetry};
use crate::{LinkAddr, LinkKey, Seq};
use bondgate_auth::sa1::trailer::TRAILER_LEN;
use std::time::{Duration, Instant};

/// Hearing from a link moves its timeout only this often; it may therefore time out this much late.
pub(super) const TIMEOUT_GRAIN: Duration = Duration::from_millis(100);

/// What an unproven link that has sent no keepalive keeps for REG3: five repetitions.
const REG3_RESERVE: i32 = 5 * SHORT_PADDED_LEN as i32;

/// One sender address within a group.
pub(super) struct Link {
    pub addr: LinkAddr,
    hash: u32,
    pub joined_at: Instant,
    /// Anything came from this address.
    pub heard_at: Instant,
    /// SRT or a keepalive came from this address.
    pub talked_at: Option<Instant>,
    /// SRT came from this address.
    pub srt_at: Option<Instant>,
    /// A keepalive came from this address since its last join.
    pub has_kept_alive: bool,
    /// Hearing from it at this time or later moves its timeout.
    timeout_stands_until: Instant,
    /// `Some(n)`: adopted without REG2, n plausible packets so far; attracts no return traffic that belongs to one link.
    pub probation: Option<u8>,
    pub reg3_repeats: u8,
    /// A device's cookie came back from this address: it may be sent anything.
    pub proven: bool,
    /// SRT packets carry trailers, both ways.
    pub data_mac: bool,
    /// Its address is kept out: it is about to be removed, and nothing comes or goes here any more.
    pub barred: Option<Bar>,
    /// Bytes an unproven link may still be sent, earned by the bytes it sent. A ticket can be shown from a forged address,
    /// so no such link is ever sent more than came from it.
    pub credit_bytes: i32,
    pub keepalives: Bucket,
    unacked: [Seq; ACK_EVERY_MAX as usize],
    unacked_len: u8,
    pub telemetry: Option<Telemetry>,
    pub received_packets: u64,
    pub received_bytes: u64,
    pub sent_packets: u64,
    pub sent_bytes: u64,
}

impl Link {
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
    pub(super) fn is_live(&self, now: Instant, link_live: Duration) -> bool {
        self.barred.is_none() && now.saturating_duration_since(self.heard_at) <= link_live
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

struct Slot {
    generation: u32,
    link: Option<Link>,
    /// The link is among the targets of its group's last fan-out.
    fan_out: bool,
}

/// See the module's comment.
pub(super) struct Links {
    slots: Box<[Slot]>,
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
    pub(super) fn new(config: &ReceiverConfig) -> Self {
        let slots = config.groups_max * config.links_per_group_max;
        Self {
            slots: (0..slots).map(|_| Slot { generation: 0, link: None, fan_out: false }).collect(),
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
        self.index.get(hash, |slot| self.get(slot).is_some_and(|link| link.addr == addr))
    }

    /// The hash of this address, and the slot of the link that has it.
    pub(super) fn hash_and_find(&mut self, addr: LinkAddr, hash: &KeyHash) -> (u32, Option<u32>) {
        if let Some(link) = self.get(self.last_found).filter(|link| link.addr == addr) {
            return (link.hash, Some(self.last_found));
        }
        let hash = hash.of(&addr.octets());
        let found = self.find(addr, hash);
        self.last_found = found.unwrap_or(self.last_found);
        (hash, found)
    }

    pub(super) fn get(&self, slot: u32) -> Option<&Link> {
        self.slots.get(slot as usize)?.link.as_ref()
    }

    pub(super) fn get_mut(&mut self, slot: u32) -> Option<&mut Link> {
        self.slots.get_mut(slot as usize)?.link.as_mut()
    }

    /// The link a key names, if it is still there.
    pub(super) fn get_key(&self, key: LinkKey) -> Option<&Link> {
        self.slots.get(key.slot as usize).filter(|slot| slot.generation == key.generation)?.link.as_ref()
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
        range.zip(slots).filter_map(|(index, slot)| Some((index as u32, slot.link.as_ref()?)))
    }

    /// The same, mutable, with each link's fan-out mark.
    pub(super) fn of_group_mut(&mut self, group: u32) -> impl Iterator<Item = (u32, &mut Link, &mut bool)> {
        let range = self.range(group);
        let slots = self.slots.get_mut(range.clone()).unwrap_or_default();
        range
            .zip(slots)
            .filter_map(|(index, slot)| Some((index as u32, slot.link.as_mut()?, &mut slot.fan_out)))
    }

    /// The links the group's last fan-out goes to.
    pub(super) fn fan_out(&self, group: u32) -> impl Iterator<Item = (u32, &Link)> {
        self.of_group(group)
            .filter(|&(slot, _)| self.slots.get(slot as usize).is_some_and(|slot| slot.fan_out))
    }

    /// A free slot of a group.
    pub(super) fn free_slot(&self, group: u32) -> Option<u32> {
        let range = self.range(group);
        let slots = self.slots.get(range.clone())?;
        let free = slots.iter().position(|slot| slot.link.is_none())?;
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
    pub(super) fn insert(&mut self, slot: u32, now: Instant, link: &NewLink) {
        let Some(place) = self.slots.get_mut(slot as usize) else { return };
        place.fan_out = false;
        place.link = Some(Link {
            addr: link.addr,
            hash: link.hash,
            joined_at: now,
            heard_at: now,
            talked_at: None,
            srt_at: None,
            has_kept_alive: false,
            timeout_stands_until: now + TIMEOUT_GRAIN,
            probation: link.probation.then_some(0),
            reg3_repeats: 0,
            proven: link.proven,
            data_mac: false,
            barred: None,
            credit_bytes: link.credit_bytes,
            keepalives: link.keepalives,
            unacked: [Seq::default(); ACK_EVERY_MAX as usize],
            unacked_len: 0,
            telemetry: None,
            received_packets: 0,
            received_bytes: 0,
            sent_packets: 0,
            sent_bytes: 0,
        });
        self.index.insert(link.hash, slot);
        self.timeout.arm(slot, now);
    }

    /// Takes a link out of its slot; its key names nothing from now on.
    pub(super) fn remove(&mut self, slot: u32) -> Option<Link> {
        self.timeout.disarm(slot);
        self.ack_flush.disarm(slot);
        self.reg3.disarm(slot);
        self.condemned.disarm(slot);
        let place = self.slots.get_mut(slot as usize)?;
        let link = place.link.take()?;
        place.generation = place.generation.wrapping_add(1);
        place.fan_out = false;
        self.index.remove(link.hash, slot);
        Some(link)
    }

    /// The link's address is kept out: from now on nothing goes there, and it is to be removed.
    pub(super) fn bar(&mut self, slot: u32, now: Instant, bar: Bar) {
        let Some(link) = self.get_mut(slot) else { return };
        link.barred = Some(bar);
        link.clear_unacked();
        self.ack_flush.disarm(slot);
        self.reg3.disarm(slot);
        self.condemned.arm(slot, now);
    }

    /// Something came from the link, which earns it as many bytes.
    pub(super) fn heard(&mut self, slot: u32, now: Instant, bytes: usize) {
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
    pub(super) fn talked(&mut self, slot: u32, now: Instant, keepalive: bool) {
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
    pub keepalives: Bucket,
}
