//! The return path: datagrams from the SRT side of a group to its links.
//!
//! ACK and NAK go to every live link, because a NAK that dies with one bad modem is a frozen picture; everything else
//! goes to the link that last carried plausible SRT, because stock senders do not deduplicate handshakes. A link whose SRT
//! packets carry trailers gets copies with its own ([`Receiver::sealed_copies`]).

use super::links::Link;
use super::seals::SealedCopy;
use super::session::Opening;
use super::time::Time;
use super::{Actions, DropReason, Receiver, Verdict};
use crate::wire::{self, Control, ControlType, DATAGRAM_LEN_MAX, Datagram};
use crate::{GroupKey, LinkAddr, LinkKey};
use std::time::Instant;

impl Receiver {
    pub(super) fn downlink(&mut self, now: Time, key: GroupKey, bytes: &[u8], out: &mut Actions) -> Verdict {
        let Some(group_slot) = self.groups.slot_of(key) else { return Verdict::Drop(DropReason::NoGroup) };
        if bytes.len() > DATAGRAM_LEN_MAX {
            return Verdict::Drop(DropReason::Oversize);
        }
        let verdict = match wire::classify(bytes) {
            Datagram::SrtControl(control) => self.downlink_control(now, key, &control, out),
            Datagram::SrtData(data) => match self.may_return(group_slot, data.dest_socket_id(), false) {
                Some(reason) => Verdict::Drop(reason),
                None => self.send_to_newest(now, key, bytes.len()),
            },
            Datagram::Srtla(_) => Verdict::Drop(DropReason::UnexpectedSrtla),
            Datagram::Runt => Verdict::Drop(DropReason::Runt),
        };
        if let Some(group) = self.groups.get_mut(group_slot)
            && !matches!(verdict, Verdict::Drop(_))
        {
            group.returned_packets += 1;
            group.returned_bytes += bytes.len() as u64;
        }
        verdict
    }

    /// Why a packet for this socket of the encoder must not pass, if so.
    fn may_return(&self, group_slot: u32, dest: u32, is_handshake: bool) -> Option<DropReason> {
        match self.groups.get(group_slot) {
            None => Some(DropReason::NoGroup),
            Some(group) if group.is_condemned() => Some(DropReason::Revoked),
            Some(group) if !group.session.admits_downlink(dest, is_handshake) => {
                Some(DropReason::ForeignSocket)
            }
            Some(_) => None,
        }
    }

    fn downlink_control(
        &mut self,
        now: Time,
        key: GroupKey,
        control: &Control<'_>,
        out: &mut Actions,
    ) -> Verdict {
        let len = control.bytes().len();
        let (dest, is_handshake) =
            (control.dest_socket_id(), control.control_type() == ControlType::Handshake);
        if let Some(reason) = self.may_return(key.slot, dest, is_handshake) {
            return Verdict::Drop(reason);
        }
        match control.control_type() {
            ControlType::Ack | ControlType::Nak => return self.fan_out(now, key, len),
            ControlType::Handshake => {
                if let Some(handshake) = control.handshake()
                    && let Some(group) = self.groups.get_mut(key.slot)
                {
                    let opening = group.session.follow_downlink(dest, &handshake);
                    self.groups.reindex(&self.hash, key.slot);
                    if let Opening::Replaced { old_server_id } = opening {
                        self.replace_session(key.slot, old_server_id, control.timestamp_us(), out);
                    }
                }
            }
            _ => {}
        }
        self.send_to_newest(now, key, len)
    }

    /// Marks and books the live links.
    fn fan_out(&mut self, now: Time, key: GroupKey, len: usize) -> Verdict {
        self.fan_out_to(now, key, len, |_, _| true)
    }

    /// Marks and books those of the live links that are wanted.
    fn fan_out_to(
        &mut self,
        now: Time,
        key: GroupKey,
        len: usize,
        wanted: impl Fn(u32, &Link) -> bool,
    ) -> Verdict {
        let (mut live, mut paid, mut roomy) = (false, false, false);
        for (slot, link) in self.links.of_group_mut(key.slot) {
            let is_live = link.is_live(now, self.config.link_live) && wanted(slot, link);
            let fits = is_live && (!link.data_mac || self.seals.takes_data(slot, len));
            let is_paid = fits && link.spend_on_traffic(len + link.trailer_len());
            link.set_fan_out(is_paid);
            live |= is_live;
            roomy |= fits;
            paid |= is_paid;
        }
        if paid {
            return Verdict::FanOut(key);
        }
        Verdict::Drop(match (live, roomy) {
            (false, _) => DropReason::NoLiveLink,
            (true, false) => DropReason::TrailerRoom,
            (true, true) => DropReason::NoCredit,
        })
    }

    /// Chooses and books one link: the newest source while it is live, else the live link heard last, else the newest
    /// source after all (one link that may be dead is worth one packet). While a link on probation is heard after the
    /// newest source, both get it: the newest source may have moved there, or somebody wants us to think so.
    fn send_to_newest(&mut self, now: Time, key: GroupKey, len: usize) -> Verdict {
        let Some(group) = self.groups.get(key.slot) else { return Verdict::Drop(DropReason::NoGroup) };
        let newest = group.newest_source;
        let link_live = self.config.link_live;
        let newest_heard = newest.and_then(|slot| self.links.get(slot)).map(|link| link.heard_at);
        let moved = self.links.of_group(key.slot).any(|(_, link)| {
            link.is_on_probation() && link.is_live(now, link_live) && Some(link.heard_at) > newest_heard
        });
        if moved {
            return self
                .fan_out_to(now, key, len, |slot, link| link.is_on_probation() || Some(slot) == newest);
        }
        let is_live = |slot: u32| self.links.get(slot).is_some_and(|link| link.is_live(now, link_live));
        let chosen = newest.filter(|&slot| is_live(slot)).or_else(|| {
            self.links
                .of_group(key.slot)
                .filter(|(_, link)| !link.is_on_probation() && link.is_live(now, link_live))
                .max_by_key(|(_, link)| link.heard_at)
                .map(|(slot, _)| slot)
                .or_else(|| {
                    newest.filter(|&slot| self.links.get(slot).is_some_and(|link| link.barred.is_none()))
                })
        });
        let Some(slot) = chosen else { return Verdict::Drop(DropReason::NoLiveLink) };
        let Some(link) = self.links.get_mut(slot) else { return Verdict::Drop(DropReason::NoLiveLink) };
        if link.data_mac && !self.seals.takes_data(slot, len) {
            return Verdict::Drop(DropReason::TrailerRoom);
        }
        if !link.spend_on_traffic(len + link.trailer_len()) {
            return Verdict::Drop(DropReason::NoCredit);
        }
        Verdict::ToLink(self.links.key(slot))
    }

    /// SRT packets to this link carry trailers: what a verdict sends there goes as a sealed copy instead.
    pub fn seals_data(&self, link: LinkKey) -> bool {
        self.links.get_key(link).is_some_and(|link| link.data_mac)
    }

    /// Calls `each` for those links that a verdict on return traffic goes to and whose SRT packets carry trailers, with
    /// address and sealed packet. To be called once, right after the verdict.
    pub fn sealed_copies(
        &mut self,
        now: Instant,
        verdict: Verdict,
        copy: &mut SealedCopy,
        mut each: impl FnMut(LinkAddr, &[u8]),
    ) {
        let now = self.origin.time(now);
        let (links, seals, link_live) = (&self.links, &mut self.seals, self.config.link_live);
        let mut send = |slot: u32, link: &Link| {
            if link.data_mac
                && let Some(sealed) = seals.seal_data(slot, copy)
            {
                each(link.addr(), sealed);
            }
        };
        match verdict {
            Verdict::FanOut(group) => {
                let Some(group) = self.groups.slot_of(group) else { return };
                links
                    .fan_out(group)
                    .filter(|(_, link)| link.is_live(now, link_live))
                    .for_each(|(slot, link)| send(slot, link));
            }
            Verdict::ToLink(key) => {
                if let Some(link) = links.get_key(key) {
                    send(key.slot, link);
                }
            }
            _ => {}
        }
    }
}
