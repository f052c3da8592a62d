//! The key under which a datagram's link is found when its socket is chosen.

use crate::abi::{LinkKey, v4_words, words};
use crate::packet::Frame;

/// The key of a datagram, from the IP header at the beginning of `network` and the first four bytes of its UDP header;
/// `None` when the header is cut short.
#[inline(always)]
pub fn link_key(ipv6: bool, network: &impl Frame, ports: [u8; 4]) -> Option<LinkKey> {
    let address = if ipv6 { words(&network.array(8)?) } else { v4_words(network.array(12)?) };
    Some(LinkKey::from_words(address, u32::from_ne_bytes(ports)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::v4_mapped;

    #[test]
    fn the_same_key_as_the_gate() {
        let mut v4 = [0; 20];
        v4[12..16].copy_from_slice(&[192, 0, 2, 7]);
        let key = link_key(false, &&v4[..], [0x12, 0x34, 0x13, 0x88]);
        assert_eq!(key, Some(LinkKey::new(v4_mapped([192, 0, 2, 7]), 0x1234, 5000)));
        assert_eq!(link_key(false, &&v4[..15], [0; 4]), None);
        let mut v6 = [0; 40];
        v6[8..24].copy_from_slice(&[7; 16]);
        assert_eq!(link_key(true, &&v6[..], [0, 1, 0, 2]), Some(LinkKey::new([7; 16], 1, 2)));
        assert_eq!(link_key(true, &&v6[..23], [0; 4]), None);
    }
}
