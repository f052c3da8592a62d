//! The verdict on a frame.
//!
//! Checks come in the order of their cost, and none remembers anything about a source that has shown nothing: what a flood of
//! forged addresses can change is one counter and, where senders without a key are welcome, the one bucket they all share.
//! Promises: the same frame, maps and time give the same verdict in the kernel and in user space; everything that is not for
//! a guarded port passes untouched.

use crate::abi::{
    self, Budget, CHECK_ALLOW, CHECK_BANS, CHECK_GATE_TAG, CHECK_GEO, Config, GEO_ALLOWED, GEO_REFUSED,
    GEO_UNKNOWN_REFUSED, LinkKey, List, PortKind, STOCK_LISTED, STOCK_NEVER, Words,
};
use crate::bucket::{self, Word};
use crate::packet::{Datagram, Frame, NotUdp, Packet, ipv4, ipv6, packet};
use crate::reason::{Action, Reason};
use crate::siphash::SipHash;

/// The maps, as the verdict sees them.
pub trait Lookups {
    /// A token bucket.
    type Bucket: Word;

    /// `CLOCK_MONOTONIC`, in ns; a few ms late do no harm. Asked only where a bucket or a ban is looked at.
    fn now_ns(&self) -> u64;

    /// Whether any registered link has this source port. True for a port that none has does no harm.
    fn is_link_port(&self, port: u16) -> bool;

    /// A registered link's bucket of registration packets.
    fn link(&self, key: &LinkKey) -> Option<&Self::Bucket>;

    /// When the ban of this [`abi::ban_key`] ends, 0 without one.
    fn ban(&self, key: &Words) -> u64;

    /// The value of the longest prefix in the list that holds the address, 0 without one.
    fn list(&self, list: List, address: &Words) -> u64;

    /// A bucket, by [`Budget::bucket`].
    fn bucket(&self, index: u32) -> Option<&Self::Bucket>;
}

/// What becomes of a frame, why, and whose it is.
// Aligned because the verifier takes no crooked word on the stack, and the compiler moves arrays in words.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// The source, with the port it is for: zeros if the verdict came before they were known.
    pub source: LinkKey,
    /// Why.
    pub reason: Reason,
}

impl Verdict {
    /// Pass or drop.
    pub const fn action(&self) -> Action {
        self.reason.action()
    }
}

/// Length of REG1 and REG2.
const REG_LEN: usize = 258;
/// First byte of all registration packets.
const REG: u8 = 0x92;
/// Where in a registration the ID begins, and in the ID the gate's epoch, and what the gate tag covers.
const ID_AT: usize = 2;
const EPOCH_AT: usize = 52;
const TAGGED_LEN: usize = 64;

/// What becomes of verdicts.
pub trait Sink {
    /// What it makes of one.
    type Output;

    /// The verdict on a frame: why, and whose it is if that was read.
    fn verdict(&self, reason: Reason, source: Option<&LinkKey>) -> Self::Output;
}

/// Decides about a frame that begins with an Ethernet header.
#[inline(always)]
pub fn decide<S: Sink>(frame: &impl Frame, config: &Config, lookups: &impl Lookups, sink: &S) -> S::Output {
    // Each family looks at first by itself, with what it has in registers: a datagram that could be of either lies in memory,
    // where it costs more to fill than what most frames cost altogether.
    let looked = match packet(frame) {
        Ok(Packet::V4(at)) => look(frame, ipv4(frame, at), config, lookups, sink),
        Ok(Packet::V6(at)) => look(frame, ipv6(frame, at), config, lookups, sink),
        Err(not_udp) => Err(sink.verdict(not_udp.into(), None)),
    };
    match looked {
        Ok((datagram, kind)) => {
            let reason = judge(frame, &datagram, kind, config, lookups);
            sink.verdict(reason, Some(&datagram.source))
        }
        Err(output) => output,
    }
}

impl From<NotUdp> for Reason {
    #[inline(always)]
    fn from(not_udp: NotUdp) -> Self {
        match not_udp {
            NotUdp::Other => Self::Other,
            NotUdp::ExtensionHeaders => Self::ExtensionHeaders,
            NotUdp::Malformed => Self::Malformed,
        }
    }
}

/// What can be said without asking for an address. Gives the datagram, if it is for one of our ports and may be somebody's.
#[inline(always)]
fn look<S: Sink>(
    frame: &impl Frame,
    datagram: Result<Datagram, NotUdp>,
    config: &Config,
    lookups: &impl Lookups,
    sink: &S,
) -> Result<(Datagram, PortKind), S::Output> {
    let datagram = match datagram {
        Ok(datagram) => datagram,
        Err(not_udp) => return Err(sink.verdict(not_udp.into(), None)),
    };
    let reason = match config.port_kind(datagram.source.dest_port()) {
        None => Reason::Other,
        Some(_) if datagram.fragment => Reason::Fragment,
        Some(_) if datagram.ipv6 && abi::is_v4(&datagram.source.address_words()) => Reason::BadSource,
        Some(PortKind::Srtla)
            if !lookups.is_link_port(datagram.source.port()) && !is_registration(frame, &datagram) =>
        {
            Reason::Unregistered
        }
        Some(kind) => return Ok((datagram, kind)),
    };
    Err(sink.verdict(reason, Some(&datagram.source)))
}

#[inline(always)]
fn judge(
    frame: &impl Frame,
    datagram: &Datagram,
    kind: PortKind,
    config: &Config,
    lookups: &impl Lookups,
) -> Reason {
    let address = datagram.source.address_words();
    if kind == PortKind::Srtla {
        if let Some(bucket) = lookups.link(&datagram.source) {
            return link(frame, datagram, bucket, config, lookups);
        }
        if !is_registration(frame, datagram) {
            return Reason::Unregistered;
        }
    }
    let slot = match admit(&address, config, lookups) {
        Ok(slot) => slot,
        Err(reason) => return reason,
    };
    if kind == PortKind::Srt {
        return Reason::Srt;
    }
    match frame.array(datagram.payload_at + ID_AT) {
        Some(magic) if magic == *b"SLA1" => {
            sa1(frame, datagram, slot, config, lookups).unwrap_or(Reason::Malformed)
        }
        _ => stock(&address, slot, config, lookups),
    }
}

/// A registered link may send what it likes, but not any number of registrations.
#[inline(always)]
fn link(
    frame: &impl Frame,
    datagram: &Datagram,
    bucket: &impl Word,
    config: &Config,
    lookups: &impl Lookups,
) -> Reason {
    let rate = config.rate(Budget::Link);
    let kind = if datagram.payload_len < 2 { None } else { frame.array::<2>(datagram.payload_at) };
    if kind.is_none_or(|kind| kind[0] != REG)
        || rate.interval_ns == 0
        || bucket::take(bucket, rate, lookups.now_ns())
    {
        Reason::Link
    } else {
        Reason::LinkBudget
    }
}

/// It has the length and type of REG1 or REG2.
#[inline(always)]
fn is_registration(frame: &impl Frame, datagram: &Datagram) -> bool {
    datagram.payload_len == REG_LEN
        && frame.array::<2>(datagram.payload_at).is_some_and(|kind| kind[0] == REG && kind[1] <= 1)
}

/// Bans, allowlist and countries. Gives the number of the bucket of the entry in the allowlist, 0 without one.
#[inline(always)]
fn admit(address: &Words, config: &Config, lookups: &impl Lookups) -> Result<u16, Reason> {
    let mut banned_until = lookups.ban(&abi::subscriber(address));
    if banned_until == 0 && config.flags & CHECK_BANS != 0 {
        banned_until = lookups.list(List::Bans, address);
    }
    if banned_until != 0 && banned_until > lookups.now_ns() {
        return Err(Reason::Banned);
    }
    let mut slot = 0;
    if config.flags & CHECK_ALLOW != 0 {
        let entry = lookups.list(List::Allow, address);
        if entry == 0 {
            return Err(Reason::NotAdmitted);
        }
        slot = entry as u16;
    }
    if config.flags & CHECK_GEO != 0 {
        let allowed = match lookups.list(List::Geo, address) {
            GEO_ALLOWED => true,
            GEO_REFUSED => false,
            _ => config.flags & GEO_UNKNOWN_REFUSED == 0,
        };
        if !allowed {
            return Err(Reason::Geo);
        }
    }
    Ok(slot)
}

/// A registration with SA1's magic: the gate tag, then budgets, which nobody without a gate key can spend. `None` where the
/// frame ends too early.
#[inline(always)]
fn sa1(
    frame: &impl Frame,
    datagram: &Datagram,
    slot: u16,
    config: &Config,
    lookups: &impl Lookups,
) -> Option<Reason> {
    let id_at = datagram.payload_at + ID_AT;
    // In every version the gate's fields are where they are in this one; the message number is not.
    let [kind, _, _, _, _, version, suite, message] = frame.array(id_at - 1)?;
    if version == 1 && suite == 1 && message != 1 + 2 * kind {
        return Some(Reason::Sa1Message);
    }
    if config.flags & CHECK_GATE_TAG != 0 {
        let epoch = frame.array(id_at + EPOCH_AT).map(u32::from_be_bytes)?;
        let Some(key) = config.gate_keys.iter().find(|key| key.used != 0 && key.epoch == epoch) else {
            return Some(Reason::Sa1GateEpoch);
        };
        let mut tag = SipHash::<2, 4>::new(&key.key);
        for at in (0..TAGGED_LEN).step_by(8) {
            tag.word(frame.array(id_at + at).map(u64::from_le_bytes)?);
        }
        if tag.finish() != frame.array(id_at + TAGGED_LEN).map(u64::from_le_bytes)? {
            return Some(Reason::Sa1GateTag);
        }
    }
    if !take_hashed(Budget::Sa1Source, &abi::site(&datagram.source.address_words()), config, lookups) {
        return Some(Reason::Sa1SourceBudget);
    }
    if slot != 0 && !take(Budget::Prefix, slot, config, lookups) {
        return Some(Reason::PrefixBudget);
    }
    Some(Reason::Sa1)
}

/// A registration without a key.
#[inline(always)]
fn stock(address: &Words, slot: u16, config: &Config, lookups: &impl Lookups) -> Reason {
    if config.flags & STOCK_NEVER != 0
        || (config.flags & STOCK_LISTED != 0 && lookups.list(List::StockAllow, address) == 0)
    {
        return Reason::StockNotAdmitted;
    }
    // The bucket of all is looked at first, so that a flood of forged sources does not touch one bucket after the other; it
    // is drawn from last, so that one source that is over its own budget does not spend that of all.
    let total = config.rate(Budget::StockTotal);
    if total.interval_ns != 0 {
        let has = lookups
            .bucket(Budget::StockTotal.bucket(0))
            .is_some_and(|bucket| bucket::has_token(bucket, total, lookups.now_ns()));
        if !has {
            return Reason::StockBudget;
        }
    }
    if !take_hashed(Budget::StockSource, &abi::subscriber(address), config, lookups) {
        return Reason::StockBudget;
    }
    if slot != 0 && !take(Budget::Prefix, slot, config, lookups) {
        return Reason::PrefixBudget;
    }
    if take(Budget::StockTotal, 0, config, lookups) { Reason::Stock } else { Reason::StockBudget }
}

/// Takes a token from the bucket that a source shares with the few that have the same hash.
#[inline(always)]
fn take_hashed(budget: Budget, source: &Words, config: &Config, lookups: &impl Lookups) -> bool {
    if config.rate(budget).interval_ns == 0 {
        return true;
    }
    let mut hash = SipHash::<1, 3>::new(&config.seed);
    hash.word(pair(source[0], source[1]));
    hash.word(pair(source[2], source[3]));
    take(budget, hash.finish() as u16, config, lookups)
}

/// Takes a token from a bucket. One that is not there gives none.
#[inline(always)]
pub fn take(budget: Budget, slot: u16, config: &Config, lookups: &impl Lookups) -> bool {
    let rate = config.rate(budget);
    rate.interval_ns == 0
        || lookups
            .bucket(budget.bucket(slot))
            .is_some_and(|bucket| bucket::take(bucket, rate, lookups.now_ns()))
}

#[inline(always)]
const fn pair(low: u32, high: u32) -> u64 {
    low as u64 | (high as u64) << 32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::rows;
    use std::collections::HashSet;
    use std::vec::Vec;

    #[test]
    fn every_row_of_the_table() {
        let mut wrong = Vec::new();
        for row in rows() {
            for (index, (frame, reason)) in row.frames.iter().enumerate() {
                let verdict = row.world.decide(frame);
                if verdict.reason != *reason {
                    wrong.push(std::format!("{} [{index}]: {:?}, not {reason:?}", row.name, verdict.reason));
                }
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    #[test]
    fn the_table_has_every_reason_and_each_name_once() {
        let rows = rows();
        let reasons: HashSet<Reason> =
            rows.iter().flat_map(|row| &row.frames).map(|(_, reason)| *reason).collect();
        assert_eq!(reasons.len(), Reason::ALL.len());
        let names: HashSet<&str> = rows.iter().map(|row| row.name.as_str()).collect();
        assert_eq!(names.len(), rows.len());
    }

    /// What a flood of forged sources can change is the one bucket that all senders without a key share.
    #[test]
    fn forged_sources_touch_nothing() {
        use crate::testing::{DRY, FrameSpec, SRTLA_PORT, World, gate_key, sa1, stock};
        let mut world = World::standard_with(|world| world.config.flags &= !(CHECK_ALLOW | STOCK_LISTED));
        for budget in [Budget::Prefix, Budget::Sa1Source, Budget::StockSource, Budget::StockTotal] {
            world.limit(budget, DRY);
        }
        for i in 0..=255 {
            let source = std::format!("203.0.{i}.{i}");
            for payload in [stock(0), sa1(0, &gate_key(99)), std::vec![0x11; 1332]] {
                world.decide(&FrameSpec::new(&source, SRTLA_PORT, payload).build());
            }
        }
        assert_eq!(world.spent().len(), 1 + 3, "everybody's, and those of the three that were served");
    }
}
