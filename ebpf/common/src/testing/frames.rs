//! Frames from their parts.

use std::net::IpAddr;
use std::vec::Vec;

use crate::abi::{GateKey, v4_mapped};
use crate::siphash::SipHash;

/// An IPv6 extension header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extension {
    /// Its number.
    pub kind: u8,
    /// Its length field, in the units of its kind.
    pub len: u8,
}

/// A UDP datagram to be put into a frame. Lengths are right unless said otherwise; checksums are those of the kernel's
/// reach, so that the frame also arrives over a wire: the IPv4 header's is right, UDP's is 0 over IPv4 and right over IPv6.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FrameSpec {
    /// Ethertypes of VLAN tags, outermost first.
    pub vlans: Vec<u16>,
    /// Source address; its family is the frame's.
    pub source: IpAddr,
    /// Destination address, of the same family.
    pub dest: IpAddr,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub dest_port: u16,
    /// Words of IPv4 options, 0 to 10.
    pub option_words: u8,
    /// IPv6 extension headers.
    pub extensions: Vec<Extension>,
    /// Fragment offset in units of 8 bytes, and whether more follow. Over IPv6 a fragment header is put behind the other
    /// extension headers.
    pub fragment: Option<(u16, bool)>,
    /// What follows the UDP header.
    pub payload: Vec<u8>,
    /// Bytes behind the IP packet, as Ethernet pads short ones.
    pub padding: usize,
}

impl FrameSpec {
    /// From `source` to `dest_port`.
    pub fn new(source: &str, dest_port: u16, payload: Vec<u8>) -> Self {
        let source: IpAddr = source.parse().expect("an address");
        let dest = if source.is_ipv4() { "198.18.0.1" } else { "2001:2::1" };
        Self {
            vlans: Vec::new(),
            source,
            dest: dest.parse().expect("an address"),
            source_port: 40000,
            dest_port,
            option_words: 0,
            extensions: Vec::new(),
            fragment: None,
            payload,
            padding: 0,
        }
    }

    /// Where the IP header begins.
    pub fn network_at(&self) -> usize {
        14 + 4 * self.vlans.len()
    }

    /// The frame.
    pub fn build(&self) -> Vec<u8> {
        let mut frame = std::vec![0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2];
        for kind in &self.vlans {
            frame.extend(kind.to_be_bytes());
            frame.extend([0, 5]);
        }
        let udp = self.udp();
        match (self.source, self.dest) {
            (IpAddr::V4(source), IpAddr::V4(dest)) => {
                frame.extend([0x08, 0x00]);
                let words = 5 + self.option_words.min(10);
                let total = usize::from(words) * 4 + udp.len();
                let mut header = std::vec![0x40 | words, 0];
                header.extend((total as u16).to_be_bytes());
                let (offset, more) = self.fragment.unwrap_or((0, false));
                header.extend([0x12, 0x34]);
                header.extend((offset | u16::from(more) << 13).to_be_bytes());
                header.extend([64, 17, 0, 0]);
                header.extend(source.octets());
                header.extend(dest.octets());
                header.resize(usize::from(words) * 4, 1); // no-operation options
                let sum = checksum(&header, 0);
                header[10..12].copy_from_slice(&sum.to_be_bytes());
                frame.extend(header);
            }
            (IpAddr::V6(source), IpAddr::V6(dest)) => {
                frame.extend([0x86, 0xdd]);
                let (first, chain) = self.chain();
                frame.extend([0x60, 0, 0, 0]);
                frame.extend(((chain.len() + udp.len()) as u16).to_be_bytes());
                frame.extend([first, 64]);
                frame.extend(source.octets());
                frame.extend(dest.octets());
                frame.extend(chain);
            }
            _ => panic!("one family: {} and {}", self.source, self.dest),
        }
        frame.extend(udp);
        frame.resize(frame.len() + self.padding, 0);
        frame
    }

    fn udp(&self) -> Vec<u8> {
        let len = (8 + self.payload.len()) as u16;
        let mut udp = Vec::new();
        udp.extend(self.source_port.to_be_bytes());
        udp.extend(self.dest_port.to_be_bytes());
        udp.extend(len.to_be_bytes());
        udp.extend([0, 0]);
        udp.extend(&self.payload);
        if let (IpAddr::V6(source), IpAddr::V6(dest)) = (self.source, self.dest) {
            let mut pseudo = Vec::new();
            pseudo.extend(source.octets());
            pseudo.extend(dest.octets());
            pseudo.extend([0, 0, len.to_be_bytes()[0], len.to_be_bytes()[1], 0, 0, 0, 17]);
            let sum = match checksum(&udp, sum_of(&pseudo)) {
                0 => 0xffff,
                sum => sum,
            };
            udp[6..8].copy_from_slice(&sum.to_be_bytes());
        }
        udp
    }

    /// The first next-header number, and the extension headers.
    fn chain(&self) -> (u8, Vec<u8>) {
        let mut kinds: Vec<u8> = self.extensions.iter().map(|extension| extension.kind).collect();
        kinds.extend(self.fragment.map(|_| 44));
        kinds.push(17);
        let mut chain = Vec::new();
        for (extension, next) in self.extensions.iter().zip(&kinds[1..]) {
            let unit = match extension.kind {
                44 => 0,
                51 => 4,
                _ => 8,
            };
            let at = chain.len();
            chain.extend([*next, extension.len]);
            chain.resize(at + 8 + usize::from(extension.len) * unit, 0);
            if matches!(extension.kind, 0 | 60) {
                // One padding option over all of it.
                chain[at + 2] = 1;
                chain[at + 3] = (4 + usize::from(extension.len) * 8).min(255) as u8;
            }
        }
        if let Some((offset, more)) = self.fragment {
            chain.extend([17, 0]);
            chain.extend((offset << 3 | u16::from(more)).to_be_bytes());
            chain.extend([0, 0, 0, 9]);
        }
        (kinds[0], chain)
    }
}

fn sum_of(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum()
}

fn checksum(bytes: &[u8], start: u32) -> u16 {
    let mut sum = start + sum_of(bytes);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// An address as the maps have it.
pub fn address(text: &str) -> [u8; 16] {
    match text.parse().expect("an address") {
        IpAddr::V4(v4) => v4_mapped(v4.octets()),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// A REG1 (`kind` 0) or REG2 (1) without a key.
pub fn stock(kind: u8) -> Vec<u8> {
    let mut packet: Vec<u8> = (0..258_u32).map(|i| (i * 7 + 3) as u8).collect();
    packet[..2].copy_from_slice(&[0x92, kind]);
    packet
}

/// An M1 (`kind` 0) or M3 (1) with the gate tag of this key; what comes behind the tag is anything.
pub fn sa1(kind: u8, key: &GateKey) -> Vec<u8> {
    sa1_with(kind, key, |_| {})
}

/// The same, with changes that the gate tag covers.
pub fn sa1_with(kind: u8, key: &GateKey, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut packet = stock(kind);
    packet[2..10].copy_from_slice(&[b'S', b'L', b'A', b'1', 1, 1, 1 + 2 * kind, 0]);
    packet[54..58].copy_from_slice(&key.epoch.to_be_bytes());
    change(&mut packet);
    let mut tag = SipHash::<2, 4>::new(&key.key);
    for bytes in packet[2..66].chunks_exact(8) {
        tag.word(u64::from_le_bytes(bytes.try_into().expect("eight bytes")));
    }
    packet[66..74].copy_from_slice(&tag.finish().to_le_bytes());
    packet
}
