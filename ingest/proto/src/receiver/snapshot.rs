//! The receiver's state for display, made on demand, never on the packet path: whole groups as owned values, or, without
//! allocating, what is counted of the links in a range of groups.

use super::Receiver;
use super::groups::{Group, Stage};
use super::time::Time;
use crate::wire::Telemetry;
use crate::{GroupKey, LinkAddr, LinkKey};
use bondgate_auth::sa1::KeyId;
use std::time::Duration;

/// A group as it was at the time of the snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupSnapshot {
    /// The group.
    pub key: GroupKey,
    /// The first four bytes of its ID, or of a device's group nonce, for people; not a secret.
    pub id_prefix: [u8; 4],
    /// The key of its device; none of a stock sender.
    pub key_id: Option<KeyId>,
    /// Its stream is not accepted yet: it may only shake hands.
    pub is_on_probation: bool,
    /// Since it was opened.
    pub age: Duration,
    /// It has carried SRT data.
    pub carried_data: bool,
    /// The SRT server's socket ID, once known.
    pub server_socket_id: Option<u32>,
    /// The encoder's socket ID, once known.
    pub caller_socket_id: Option<u32>,
    /// Uplink SRT packets passed on.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Downlink packets returned (a fan-out counts once).
    pub returned_packets: u64,
    /// Their bytes.
    pub returned_bytes: u64,
    /// The links, in order of their index.
    pub links: Vec<LinkSnapshot>,
}

/// A link as it was at the time of the snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LinkSnapshot {
    /// The link.
    pub key: LinkKey,
    /// Its index within the group.
    pub index: u8,
    /// Where it sends from.
    pub addr: LinkAddr,
    /// Since it joined.
    pub age: Duration,
    /// Since it was last heard.
    pub silent: Duration,
    /// It gets return traffic.
    pub is_live: bool,
    /// It was adopted by its traffic and has not proven itself yet.
    pub is_on_probation: bool,
    /// It is the link that last carried plausible SRT.
    pub is_newest_source: bool,
    /// Datagrams received, of any kind; of a device's link those that were taken.
    pub received_packets: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Datagrams sent, of any kind.
    pub sent_packets: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// What the sender last said about the link, if it is of the kind that does.
    pub telemetry: Option<Telemetry>,
}

/// A group and what is counted of its links.
#[derive(Clone, Copy)]
pub struct GroupView<'a> {
    receiver: &'a Receiver,
    now: Time,
    slot: u32,
    /// The group.
    pub key: GroupKey,
    /// Its stream is not accepted yet: it may only shake hands.
    pub is_on_probation: bool,
}

/// What is counted of a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LinkView {
    /// Its index within the group.
    pub index: u8,
    /// Where it sends from.
    pub addr: LinkAddr,
    /// Datagrams received, of any kind; of a device's link those that were taken.
    pub received_packets: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// It gets return traffic.
    pub is_live: bool,
}

impl<'a> GroupView<'a> {
    pub(super) fn new(receiver: &'a Receiver, now: Time, slot: u32, group: &Group) -> Self {
        let is_on_probation = matches!(group.stage, Stage::Probation(_));
        Self { receiver, now, slot, key: receiver.groups.key(slot), is_on_probation }
    }

    /// Its links, in order of their index.
    pub fn links(self) -> impl Iterator<Item = LinkView> + use<'a> {
        let Self { receiver, now, slot, .. } = self;
        receiver.links.of_group(slot).map(move |(slot, link)| LinkView {
            index: receiver.links.index_of(slot),
            addr: link.addr(),
            received_packets: link.received_packets,
            received_bytes: link.received_bytes,
            is_live: link.is_live(now, receiver.config.link_live),
        })
    }
}

pub(super) fn of(now: Time, receiver: &Receiver, slot: u32, group: &Group) -> GroupSnapshot {
    let since = |then| now.since(then);
    let links = receiver.links.of_group(slot).map(|(link_slot, link)| LinkSnapshot {
        key: receiver.links.key(link_slot),
        index: receiver.links.index_of(link_slot),
        addr: link.addr(),
        age: since(link.joined_at),
        silent: since(link.heard_at),
        is_live: link.is_live(now, receiver.config.link_live),
        is_on_probation: link.is_on_probation(),
        is_newest_source: group.newest_source == Some(link_slot),
        received_packets: link.received_packets,
        received_bytes: link.received_bytes,
        sent_packets: link.sent_packets,
        sent_bytes: link.sent_bytes,
        telemetry: link.telemetry(),
    });
    GroupSnapshot {
        key: receiver.groups.key(slot),
        id_prefix: group.identity.prefix(),
        key_id: group.device().map(|device| device.key_id),
        is_on_probation: matches!(group.stage, Stage::Probation(_)),
        age: since(group.opened_at),
        carried_data: group.carried_data,
        server_socket_id: group.session.server_id,
        caller_socket_id: group.session.caller_id,
        packets: group.forwarded_packets,
        bytes: group.forwarded_bytes,
        returned_packets: group.returned_packets,
        returned_bytes: group.returned_bytes,
        links: links.collect(),
    }
}
