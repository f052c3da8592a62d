//! From a frame to the datagram in it: Ethernet, up to two VLAN tags, IPv4 with options or IPv6 with extension headers,
//! UDP.
//!
//! Promises: nothing is read outside the frame; a frame that is not UDP over IP is left alone; one that is has lengths that
//! agree with each other and with the frame, or is [`NotUdp::Malformed`] (the kernel would throw those away, too).

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

/// What a frame holds that is no datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotUdp {
    /// Not UDP over IP, or a later fragment, which does not say for which port it is.
    Other,
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

/// A family, and where in the frame the packet's header begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Packet {
    /// IPv4.
    V4(usize),
    /// IPv6.
    V6(usize),
}

/// Looks for the packet in a frame that begins with an Ethernet header.
///
/// # Errors
/// There is none of IP.
#[inline(always)]
pub fn packet(frame: &impl Frame) -> Result<Packet, NotUdp> {
    let mut kind = be16(frame, ETHERNET_LEN - 2)?;
    let mut at = ETHERNET_LEN;
    for _ in 0..VLAN_TAGS_MAX {
        if kind != ETHERTYPE_VLAN && kind != ETHERTYPE_QINQ {
            break;
        }
        kind = be16(frame, at + 2)?;
        at += VLAN_LEN;
    }
    match kind {
        ETHERTYPE_IPV4 => Ok(Packet::V4(at)),
        ETHERTYPE_IPV6 => Ok(Packet::V6(at)),
        _ => Err(NotUdp::Other),
    }
}

/// The datagram in an IPv4 packet that begins at `at`.
///
/// # Errors
/// There is none.
#[inline(always)]
pub fn ipv4(frame: &impl Frame, at: usize) -> Result<Datagram, NotUdp> {
    // Whole words, which the compiler leaves whole.
    let head = word(frame, at)?;
    let tail = word(frame, at + 8)?;
    let _destination: [u8; 4] = read(frame, at + 16)?;
    let header_len = (head as usize & 0x0f) * 4;
    if head >> 4 & 0x0f != 4 || header_len < IPV4_LEN {
        return Err(NotUdp::Malformed);
    }
    // More-fragments flag and offset; don't-fragment and the reserved bit do not matter.
    let fragment = ((head >> 48) as u16).swap_bytes() & 0x3fff;
    if (tail >> 8) as u8 != UDP || fragment & 0x1fff != 0 {
        return Err(NotUdp::Other);
    }
    let source = v4_words(((tail >> 32) as u32).to_le_bytes());
    let total_len = usize::from(((head >> 16) as u16).swap_bytes());
    udp(frame, at + header_len, at + total_len, source, (false, fragment != 0))
}

/// The datagram in an IPv6 packet that begins at `at`.
///
/// # Errors
/// There is none.
#[inline(always)]
pub fn ipv6(frame: &impl Frame, at: usize) -> Result<Datagram, NotUdp> {
    let head: [u8; 8] = read(frame, at)?;
    if head[0] >> 4 != 6 {
        return Err(NotUdp::Malformed);
    }
    let source = words(&read(frame, at + 8)?);
    let end = at + IPV6_LEN + usize::from(u16::from_be_bytes([head[4], head[5]]));
    let mut next = head[6];
    let mut at = at + IPV6_LEN;
    let mut fragment = false;
    let mut extensions = 0;
    while next != UDP {
        let units = match next {
            HOP_BY_HOP | ROUTING | DESTINATION | MOBILITY | HOST_IDENTITY | SHIM6 => 8,
            FRAGMENT => 0,
            AUTHENTICATION => 4,
            _ => return Err(NotUdp::Other),
        };
        if extensions == EXTENSION_HEADERS_MAX {
            return Err(NotUdp::ExtensionHeaders);
        }
        extensions += 1;
        let extension: [u8; 4] = read(frame, at)?;
        if units == 0 {
            if u16::from_be_bytes([extension[2], extension[3]]) & 0xfff8 != 0 {
                return Err(NotUdp::Other);
            }
            fragment = true;
        }
        at += 8 + usize::from(extension[1]) * units;
        next = extension[0];
    }
    udp(frame, at, end, source, (true, fragment))
}

/// The UDP header at `at` of an IP packet that says it ends at `end`.
#[inline(always)]
fn udp(
    frame: &impl Frame,
    at: usize,
    end: usize,
    source: Words,
    (ipv6, fragment): (bool, bool),
) -> Result<Datagram, NotUdp> {
    let header = word(frame, at)?;
    let ports = u32::from_ne_bytes((header as u32).to_le_bytes());
    let len = usize::from(((header >> 32) as u16).swap_bytes());
    // The length in a first fragment is that of the whole.
    if !fragment && (len < UDP_LEN || at + len > end || end > frame.len()) {
        return Err(NotUdp::Malformed);
    }
    Ok(Datagram {
        source: LinkKey::from_words(source, ports),
        ipv6,
        fragment,
        payload_at: at + UDP_LEN,
        payload_len: if fragment { 0 } else { len - UDP_LEN },
    })
}

#[inline(always)]
fn read<const N: usize>(frame: &impl Frame, at: usize) -> Result<[u8; N], NotUdp> {
    frame.array(at).ok_or(NotUdp::Malformed)
}

/// Eight bytes, the first in the lowest bits.
#[inline(always)]
fn word(frame: &impl Frame, at: usize) -> Result<u64, NotUdp> {
    read(frame, at).map(u64::from_le_bytes)
}

#[inline(always)]
fn be16(frame: &impl Frame, at: usize) -> Result<u16, NotUdp> {
    read(frame, at).map(u16::from_be_bytes)
}

#[cfg(test)]
mod tests;
