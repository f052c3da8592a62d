//! From a frame to the datagram in it: Ethernet, up to two VLAN tags, IPv4 with options or IPv6 with extension headers,
//! UDP.
//!
//! Promises: nothing is read outside the frame; a frame that is not UDP over IP is left alone; one that is has lengths that
//! agree with each other and with the frame, or is [`Walk::Malformed`] (the kernel would throw those away, too).

use crate::abi::{LinkKey, Words, v4_words, words};

/// The bytes of a frame, wherever they are.
pub trait Frame {
    /// How many there are.
    fn len(&self) -> usize;

    /// There are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The `N` bytes at `at`, if all of them are there.
    fn array<const N: usize>(&self, at: usize) -> Option<[u8; N]>;
}

impl Frame for &[u8] {
    fn len(&self) -> usize {
        <[u8]>::len(self)
    }

    fn array<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.get(at..)?.first_chunk().copied()
    }
}

/// A UDP datagram.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Datagram {
    /// Where it comes from, and for which port it is.
    pub source: LinkKey,
    /// It came over IPv6.
    pub ipv6: bool,
    /// It is the first of several fragments, or says so; then there is no payload.
    pub fragment: bool,
    /// Where in the frame the payload begins.
    pub payload_at: usize,
    /// Its length by the UDP header; the frame may be longer.
    pub payload_len: usize,
}

/// What a frame holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Walk {
    /// Not UDP over IP, or a later fragment, which does not say for which port it is.
    Other,
    /// A datagram.
    Udp(Datagram),
    /// More extension headers than [`EXTENSION_HEADERS_MAX`].
    ExtensionHeaders,
    /// Cut short, or with lengths that contradict each other.
    Malformed,
}

/// VLAN tags that are looked through.
pub const VLAN_TAGS_MAX: usize = 2;
/// IPv6 extension headers that are looked through.
pub const EXTENSION_HEADERS_MAX: usize = 6;

const ETHERNET_LEN: usize = 14;
const VLAN_LEN: usize = 4;
const IPV4_LEN: usize = 20;
const IPV6_LEN: usize = 40;
const UDP_LEN: usize = 8;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_QINQ: u16 = 0x88a8;

const UDP: u8 = 17;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;
const MOBILITY: u8 = 135;
const HOST_IDENTITY: u8 = 139;
const SHIM6: u8 = 140;

/// Looks for the datagram in a frame that begins with an Ethernet header.
#[inline(always)]
pub fn walk(frame: &impl Frame) -> Walk {
    walk_ethernet(frame).unwrap_or(Walk::Malformed)
}

/// `None` where the frame ends too early.
#[inline(always)]
fn walk_ethernet(frame: &impl Frame) -> Option<Walk> {
    let mut kind = be16(frame, ETHERNET_LEN - 2)?;
    let mut at = ETHERNET_LEN;
    for _ in 0..VLAN_TAGS_MAX {
        if kind == ETHERTYPE_VLAN || kind == ETHERTYPE_QINQ {
            kind = be16(frame, at + 2)?;
            at += VLAN_LEN;
        }
    }
    match kind {
        ETHERTYPE_IPV4 => walk_ipv4(frame, at),
        ETHERTYPE_IPV6 => walk_ipv6(frame, at),
        _ => Some(Walk::Other),
    }
}

#[inline(always)]
fn walk_ipv4(frame: &impl Frame, at: usize) -> Option<Walk> {
    let header: [u8; IPV4_LEN] = frame.array(at)?;
    let header_len = usize::from(header[0] & 0x0f) * 4;
    if header[0] >> 4 != 4 || header_len < IPV4_LEN {
        return None;
    }
    if header[9] != UDP {
        return Some(Walk::Other);
    }
    // More-fragments flag and offset; don't-fragment and the reserved bit do not matter.
    let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff;
    if fragment & 0x1fff != 0 {
        return Some(Walk::Other);
    }
    let source = v4_words([header[12], header[13], header[14], header[15]]);
    let total_len = usize::from(u16::from_be_bytes([header[2], header[3]]));
    walk_udp(frame, at + header_len, at + total_len, source, (false, fragment != 0))
}

#[inline(always)]
fn walk_ipv6(frame: &impl Frame, at: usize) -> Option<Walk> {
    let head: [u8; 8] = frame.array(at)?;
    if head[0] >> 4 != 6 {
        return None;
    }
    let source = words(&frame.array(at + 8)?);
    let end = at + IPV6_LEN + usize::from(u16::from_be_bytes([head[4], head[5]]));
    let mut next = head[6];
    let mut at = at + IPV6_LEN;
    let mut fragment = false;
    for _ in 0..EXTENSION_HEADERS_MAX {
        let units = match next {
            UDP => return walk_udp(frame, at, end, source, (true, fragment)),
            HOP_BY_HOP | ROUTING | DESTINATION | MOBILITY | HOST_IDENTITY | SHIM6 => 8,
            FRAGMENT => 0,
            AUTHENTICATION => 4,
            _ => return Some(Walk::Other),
        };
        let extension: [u8; 4] = frame.array(at)?;
        if units == 0 {
            if u16::from_be_bytes([extension[2], extension[3]]) & 0xfff8 != 0 {
                return Some(Walk::Other);
            }
            fragment = true;
        }
        at += 8 + usize::from(extension[1]) * units;
        next = extension[0];
    }
    match next {
        UDP => walk_udp(frame, at, end, source, (true, fragment)),
        HOP_BY_HOP | ROUTING | DESTINATION | MOBILITY | HOST_IDENTITY | SHIM6 | FRAGMENT | AUTHENTICATION => {
            Some(Walk::ExtensionHeaders)
        }
        _ => Some(Walk::Other),
    }
}

/// The UDP header at `at` of an IP packet that says it ends at `end`.
#[inline(always)]
fn walk_udp(
    frame: &impl Frame,
    at: usize,
    end: usize,
    source: Words,
    (ipv6, fragment): (bool, bool),
) -> Option<Walk> {
    let [len_high, len_low, _, _] = frame.array(at + 4)?;
    let ports = frame.array(at).map(u32::from_ne_bytes)?;
    let len = usize::from(u16::from_be_bytes([len_high, len_low]));
    // The length in a first fragment is that of the whole.
    if !fragment && (len < UDP_LEN || at + len > end || end > frame.len()) {
        return None;
    }
    Some(Walk::Udp(Datagram {
        source: LinkKey::from_words(source, ports),
        ipv6,
        fragment,
        payload_at: at + UDP_LEN,
        payload_len: if fragment { 0 } else { len - UDP_LEN },
    }))
}

#[inline(always)]
fn be16(frame: &impl Frame, at: usize) -> Option<u16> {
    frame.array(at).map(u16::from_be_bytes)
}

#[cfg(test)]
mod tests;
