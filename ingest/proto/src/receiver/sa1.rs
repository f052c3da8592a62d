//! Registration of devices: SA1 around the groups and links of this receiver (`docs/registration-auth.md`, section 5).
//!
//! An M1 changes nothing and may be answered by any shard. An M3 belongs to the shard that owns its key; another one that
//! gets it checks it too, so that it knows where the address's datagrams go from now on, and hands it over. Promises:
//! nothing is answered unless a MAC was right; nothing changes unless the cookie was right as well; a join that is older
//! than what its link or its address has by now changes nothing.

use super::admission::Admission;
use super::groups::{DeviceGroup, Group, Identity};
use super::lanes::Source;
use super::members::Joining as How;
use super::time::Time;
use super::uplink::reply;
use super::{Actions, CloseReason, DropReason, LeaveReason, Receiver, Secrets, Verdict};
use crate::LinkAddr;
use crate::wire::{Packet, PacketType};
use bondgate_auth::sa1::keys::CookieKeys;
use bondgate_auth::sa1::receiver::{Joining, Placement, ProvenHello, ProvenJoin, Reject, Rejected, Verifier};
use bondgate_auth::sa1::replay::SeenFilter;
use bondgate_auth::sa1::wire::{Refusal, RefusalCode, SenderHalf, Terms};
use bondgate_auth::sa1::{Flags, KeyId, ListenerId, Nonce};
use bondgate_auth::table::{DeviceRules, KeyEntry};
use siphasher::sip::{SipHasher13, SipHasher24};
use std::net::IpAddr;
use std::sync::Arc;

/// What SA1 needs beside groups and links.
pub(super) struct Sa1 {
    verifier: Verifier,
    listener: ListenerId,
    cookie_secret: [u8; 32],
    nonces: SipHasher24,
    shard: u8,
    drawn: u64,
}

impl Sa1 {
    pub(super) fn new(admission: &Admission, secrets: &Secrets, boot_ms: u64, shard: u8) -> Self {
        let nonces = SipHasher24::new_with_key(&secrets.nonces);
        let mut sa1 = Self {
            verifier: verifier(admission, &secrets.cookies, &[0; 16], boot_ms),
            listener: admission.listener,
            cookie_secret: secrets.cookies,
            nonces,
            shard,
            drawn: 0,
        };
        sa1.verifier = sa1.new_verifier(admission, boot_ms);
        sa1
    }

    /// Takes over what a new policy says about listener and gate.
    pub(super) fn set(&mut self, admission: &Admission, boot_ms: u64) {
        if admission.listener == self.listener {
            self.verifier.set_gate(admission.gate);
        } else {
            self.listener = admission.listener;
            self.verifier = self.new_verifier(admission, boot_ms);
        }
    }

    fn new_verifier(&mut self, admission: &Admission, boot_ms: u64) -> Verifier {
        let filter = self.draw();
        verifier(admission, &self.cookie_secret, &filter, boot_ms)
    }

    /// 16 bytes that come once and that nobody can foretell.
    fn draw(&mut self) -> [u8; 16] {
        let mut bytes = [0; 16];
        for half in bytes.chunks_exact_mut(8) {
            let mut input = [0; 9];
            input[0] = self.shard;
            input[1..].copy_from_slice(&self.drawn.to_be_bytes());
            half.copy_from_slice(&self.nonces.hash(&input).to_be_bytes());
            self.drawn += 1;
        }
        bytes
    }

    fn random(&mut self) -> [u8; 10] {
        let mut random = [0; 10];
        random.copy_from_slice(&self.draw()[..10]);
        random
    }
}

fn verifier(admission: &Admission, cookies: &[u8; 32], filter: &[u8; 16], boot_ms: u64) -> Verifier {
    let seen = SeenFilter::new(filter, boot_ms);
    Verifier::new(admission.listener, admission.gate, CookieKeys::new(cookies, boot_ms), seen)
}

/// When a refused sender should try again, in seconds.
const fn retry_after_s(code: RefusalCode) -> u32 {
    match code {
        RefusalCode::GroupLimit | RefusalCode::LinkLimit => 3,
        RefusalCode::RateLimited => 1,
        RefusalCode::Draining => 5,
        _ => 0,
    }
}

impl Receiver {
    /// A REG1 or REG2 of registration length that carries SA1's magic.
    pub(super) fn sa1(
        &mut self,
        now: Time,
        from: (LinkAddr, u32),
        packet: &Packet<'_>,
        out: &mut Actions,
    ) -> Verdict {
        if !self.has_room(out) {
            return Verdict::Drop(DropReason::ActionsFull);
        }
        let source = Source::of(&self.hash, from.0.ip());
        if packet.kind() == PacketType::Reg1 {
            self.m1(now, from.0, source, packet.bytes(), out)
        } else {
            self.m3(now, from, source, packet.bytes(), out)
        }
    }

    /// The shard that holds the groups of a key. A pure function of the key ID, so that a device's quota is counted in one
    /// place.
    fn owner_of_key(&self, key_id: KeyId) -> u8 {
        (SipHasher13::new().hash(&key_id) % u64::from(self.config.shards)) as u8
    }

    fn m1(&mut self, now: Time, from: LinkAddr, source: Source, bytes: &[u8], out: &mut Actions) -> Verdict {
        let admission = Arc::clone(&self.admission);
        let clock = self.clock_at(now);
        let mut purse = self.lanes.purse(&admission.keys, source, now);
        match self.sa1.verifier.m1(bytes, from.addr, clock, &*admission.keys, &mut purse) {
            Ok(hello) => self.challenge(now, from, &admission, &hello, out),
            Err(rejected) => self.rejected(from, &rejected, out),
        }
    }

    /// Answers a genuine hello, or a join that needs a new cookie.
    fn challenge(
        &mut self,
        now: Time,
        from: LinkAddr,
        admission: &Admission,
        hello: &ProvenHello<'_>,
        out: &mut Actions,
    ) -> Verdict {
        let claims = hello.claims();
        let Some(entry) = admission.keys.entry(&claims.key_id) else {
            return Verdict::Drop(DropReason::Sa1UnknownKey);
        };
        let known = self.groups.find_device(&self.hash, claims.key_id, &claims.group).is_some();
        let draining = self.draining && !known && self.owner_of_key(claims.key_id) == self.config.shard;
        let refused = if draining {
            Some(RefusalCode::Draining)
        } else {
            policy(admission, from.ip(), claims, &entry.rules)
        };
        if let Some(code) = refused {
            return self.refuse(from, code, |refusal| hello.refuse(refusal), out);
        }
        let terms = Terms { links_max: self.links_max(&entry.rules) as u16, ..Terms::default() };
        let random = self.sa1.random();
        let clock = self.clock_at(now);
        let denied = if admission.data_mac { Flags::NONE } else { Flags::DATA_MAC };
        let accept = Flags::ACCEPTABLE.without(denied);
        let packet = self.sa1.verifier.challenge(hello, clock, &random, accept, terms);
        reply(from, &packet, out);
        self.counters.sa1_challenged += 1;
        Verdict::Consumed
    }

    fn m3(
        &mut self,
        now: Time,
        (from, hash): (LinkAddr, u32),
        source: Source,
        bytes: &[u8],
        out: &mut Actions,
    ) -> Verdict {
        let admission = Arc::clone(&self.admission);
        let clock = self.clock_at(now);
        let mut purse = self.lanes.purse(&admission.keys, source, now);
        let mut asked = None;
        let (groups, hasher) = (&self.groups, &self.hash);
        let found =
            self.sa1.verifier.m3(bytes, from.addr, clock, &*admission.keys, &mut purse, |key_id, group| {
                asked = Some(key_id);
                let slot = groups.find_device(hasher, key_id, group);
                slot.and_then(|slot| groups.get(slot)).is_some_and(|group| group.links > 0)
            });
        match found {
            Ok(Joining::Proven(join)) => {
                let owner = self.owner_of_key(join.claims().sender.key_id);
                if owner != self.config.shard {
                    return self.joins_elsewhere(now, (from, hash), &join, owner, out);
                }
                self.joins(now, (from, hash), &admission, &join, out)
            }
            Ok(Joining::Rechallenge(hello, _)) => {
                let verdict = self.challenge(now, from, &admission, &hello, out);
                self.counters.sa1_rechallenged += u64::from(verdict == Verdict::Consumed);
                verdict
            }
            // The group may live on the shard that owns the key.
            Err(Rejected { reason: Reject::Stale, .. })
                if asked.is_some_and(|key_id| self.owner_of_key(key_id) != self.config.shard) =>
            {
                Verdict::HandOff(asked.map_or(0, |key_id| self.owner_of_key(key_id)))
            }
            // A wrong MAC behind a good cookie is not held against the address: whoever saw the join go by can send that.
            Err(rejected) => self.rejected(from, &rejected, out),
        }
    }

    /// A proven join for another shard: from now on what comes from this address is handed over.
    fn joins_elsewhere(
        &mut self,
        now: Time,
        (from, hash): (LinkAddr, u32),
        join: &ProvenJoin<'_>,
        owner: u8,
        out: &mut Actions,
    ) -> Verdict {
        if let Some(link) = self.links.find(from, hash) {
            if self.is_older(link, join.claims().nonce) {
                return Verdict::Drop(DropReason::Sa1Old);
            }
            self.move_away(now, link, out);
        }
        self.foreign.guess(now, (from, hash), owner, true);
        Verdict::HandOff(owner)
    }

    /// A join with this nonce comes from before the one that made this link what it is.
    fn is_older(&self, link: u32, nonce: Nonce) -> bool {
        self.seals.get(link).is_some_and(|seal| seal.nonce >= nonce)
    }

    /// A proven join for a group of this shard (spec 5.2).
    fn joins(
        &mut self,
        now: Time,
        (from, hash): (LinkAddr, u32),
        admission: &Admission,
        join: &ProvenJoin<'_>,
        out: &mut Actions,
    ) -> Verdict {
        let claims = join.claims();
        let (sender, nonce) = (&claims.sender, claims.nonce);
        let Some(entry) = admission.keys.entry(&sender.key_id) else {
            return Verdict::Drop(DropReason::Sa1UnknownKey);
        };
        let refuse = |refusal| join.refuse(refusal);
        if let Some(code) = policy(admission, from.ip(), sender, &entry.rules) {
            return self.refuse(from, code, refuse, out);
        }
        let group = self.groups.find_device(&self.hash, sender.key_id, &sender.group);
        let named = group.and_then(|group| self.link_of_id(group, sender.link_id));
        let known =
            named.and_then(|slot| Some((self.seals.get(slot)?.nonce, self.links.get(slot)?.addr().addr)));
        let placement = join.placement(known);
        match placement {
            Placement::Old => return Verdict::Drop(DropReason::Sa1Old),
            Placement::Repeated => {
                if let Some(slot) = named {
                    return self.confirm(now, slot, join, out);
                }
            }
            Placement::New | Placement::Renewed | Placement::Moved => {}
        }
        let at = self.links.find(from, hash).filter(|&slot| Some(slot) != named);
        if at.is_some_and(|link| self.is_older(link, nonce)) {
            return Verdict::Drop(DropReason::Sa1Old);
        }
        if claims.accepted.contains(Flags::DATA_MAC) && self.seals.is_retired(nonce) {
            return Verdict::Drop(DropReason::Sa1Old);
        }
        if !self.lanes.change(entry.slot, now) {
            return self.refuse(from, RefusalCode::RateLimited, refuse, out);
        }
        if placement == Placement::Renewed
            && let Some(slot) = named
        {
            self.set_keys(now, slot, join, true);
            return self.confirm(now, slot, join, out);
        }
        let group = match self.group_to_join(now, (from.ip(), at), group, sender, entry, out) {
            Ok(group) => group,
            Err(code) => return self.refuse(from, code, refuse, out),
        };
        let slot = match named {
            Some(slot) => {
                self.remove_link(slot, LeaveReason::Moved, out);
                self.counters.sa1_moved += 1;
                slot
            }
            None => match self.slot_to_join(now, group, at, &entry.rules, out) {
                Some(slot) => slot,
                None => return self.refuse(from, RefusalCode::LinkLimit, refuse, out),
            },
        };
        // The address may have been another link's, in this group or another.
        if let Some(link) = self.links.find(from, hash) {
            if self.links.group_of(link) == group {
                self.remove_link(link, LeaveReason::Moved, out);
            } else {
                self.move_away(now, link, out);
            }
        }
        self.pending.take(from, hash);
        self.add_link(now, group, slot, (from, hash), How::Device, out);
        self.set_keys(now, slot, join, false);
        self.confirm(now, slot, join, out)
    }

    /// The group a join is for, opened if need be.
    fn group_to_join(
        &mut self,
        now: Time,
        (ip, at): (IpAddr, Option<u32>),
        group: Option<u32>,
        sender: &SenderHalf,
        entry: &KeyEntry,
        out: &mut Actions,
    ) -> Result<u32, RefusalCode> {
        if let Some(group) = group {
            let bind = self.groups.get(group).and_then(Group::device).map(|device| device.bind);
            return if bind == Some(sender.bind) { Ok(group) } else { Err(RefusalCode::Stream) };
        }
        if self.draining {
            return Err(RefusalCode::Draining);
        }
        let device = self.hash.of(entry.rules.name.as_bytes());
        if !self.has_quota(now, (device, &entry.rules), at, out) {
            return Err(RefusalCode::GroupLimit);
        }
        let identity = Identity::Device(DeviceGroup {
            key_id: sender.key_id,
            nonce: sender.group,
            bind: sender.bind,
            device,
        });
        self.open_group(now, &identity, ip, out).ok_or(RefusalCode::GroupLimit)
    }

    /// The device may have another group. If it has all it may, one without a live link gives way: its sender was started
    /// anew. `at`, the link at the joining address, does not count as live.
    fn has_quota(
        &mut self,
        now: Time,
        (device, rules): (u32, &DeviceRules),
        at: Option<u32>,
        out: &mut Actions,
    ) -> bool {
        let is_ours = |group: &Group| {
            let key = group.device().map(|device| device.key_id);
            key.and_then(|key_id| self.admission.keys.entry(&key_id))
                .is_some_and(|entry| entry.rules.name == rules.name)
        };
        let (mut count, mut dead) = (0, None);
        for (slot, group) in self.groups.of_device(device).filter(|(_, group)| is_ours(group)) {
            count += 1;
            let older = dead.is_none_or(|(opened_at, _)| group.opened_at < opened_at);
            let mut links = self.links.of_group(slot);
            if older && !links.any(|(link, it)| Some(link) != at && it.is_live(now, self.config.link_live)) {
                dead = Some((group.opened_at, slot));
            }
        }
        match dead {
            _ if count < usize::from(rules.groups_max) => {}
            Some((_, slot)) if count == usize::from(rules.groups_max) => {
                self.close_group(slot, CloseReason::Replaced, out);
            }
            _ => return false,
        }
        self.tenant_has_quota(rules)
    }

    /// The tenant may have another group. Looks at all groups, which is done for new groups of genuine devices only.
    fn tenant_has_quota(&self, rules: &DeviceRules) -> bool {
        let max = usize::from(self.admission.tenant_groups_max);
        if max == 0 || rules.tenant.is_empty() {
            return true;
        }
        let keys = self.groups.iter().filter_map(|(_, group)| Some(group.device()?.key_id));
        let tenants = keys.filter_map(|key_id| Some(&self.admission.keys.entry(&key_id)?.rules.tenant));
        tenants.filter(|tenant| **tenant == rules.tenant).count() < max
    }

    fn links_max(&self, rules: &DeviceRules) -> usize {
        usize::from(rules.links_max).clamp(1, self.config.links_per_group_max)
    }

    /// A slot for another link of a group, which may be that of its link longest silent if that is dead. The link at the
    /// joining address, `at`, is about to leave.
    fn slot_to_join(
        &mut self,
        now: Time,
        group: u32,
        at: Option<u32>,
        rules: &DeviceRules,
        out: &mut Actions,
    ) -> Option<u32> {
        if let Some(slot) = at.filter(|&slot| self.links.group_of(slot) == group) {
            self.remove_link(slot, LeaveReason::Moved, out);
            return Some(slot);
        }
        let count = self.groups.get(group).map_or(0, |group| usize::from(group.links));
        if count < self.links_max(rules) {
            return self.links.free_slot(group);
        }
        let slot = self.links.longest_silent(group)?;
        if self.links.get(slot)?.is_live(now, self.config.link_live) {
            return None;
        }
        self.remove_link(slot, LeaveReason::Evicted, out);
        Some(slot)
    }

    /// The link of a group that has this number.
    fn link_of_id(&self, group: u32, link_id: u32) -> Option<u32> {
        self.links
            .of_group(group)
            .map(|(slot, _)| slot)
            .find(|&slot| self.seals.get(slot).is_some_and(|seal| seal.link_id == link_id))
    }

    /// Gives a link the keys of its join. With `keep_old` those it had stay good for a moment.
    fn set_keys(&mut self, now: Time, slot: u32, join: &ProvenJoin<'_>, keep_old: bool) {
        let claims = join.claims();
        let agreed = (claims.sender.link_id, claims.nonce, claims.accepted);
        self.seals.set(slot, now, agreed, &join.link_keys(), keep_old);
        if let Some(link) = self.links.get_mut(slot) {
            link.data_mac = claims.accepted.contains(Flags::DATA_MAC);
        }
    }

    /// M4.
    fn confirm(&mut self, now: Time, slot: u32, join: &ProvenJoin<'_>, out: &mut Actions) -> Verdict {
        let packet = join.confirm(u16::from(self.links.index_of(slot)));
        self.links.heard(slot, now, crate::wire::REG_LEN);
        if let Some(link) = self.links.get_mut(slot) {
            link.spend(packet.len());
            reply(link.addr(), &packet, out);
        }
        self.counters.sa1_confirmed += 1;
        Verdict::Consumed
    }

    fn rejected(&mut self, from: LinkAddr, rejected: &Rejected, out: &mut Actions) -> Verdict {
        if let Some(answer) = &rejected.answer {
            reply(from, answer, out);
            self.counters.sa1_refused += 1;
        }
        Verdict::Drop(rejected.reason.into())
    }

    fn refuse(
        &mut self,
        from: LinkAddr,
        code: RefusalCode,
        tagged: impl Fn(Refusal) -> [u8; 34],
        out: &mut Actions,
    ) -> Verdict {
        reply(from, &tagged(Refusal::new(code, retry_after_s(code))), out);
        self.counters.sa1_refused += 1;
        Verdict::Drop(code.into())
    }
}

/// What policy says of a registration before it is known what it changes.
fn policy(
    admission: &Admission,
    ip: IpAddr,
    sender: &SenderHalf,
    rules: &DeviceRules,
) -> Option<RefusalCode> {
    if !admission.networks.allows(ip) {
        return Some(RefusalCode::Address);
    }
    (!rules.allows_bind(&sender.bind)).then_some(RefusalCode::Stream)
}
