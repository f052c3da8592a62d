//! Passing a datagram to the shard that owns its group: bounded rings, one copy, a wake-up per turn.
//!
//! The kernel's hash scatters the links of a group over the shards' sockets; until a BPF program steers them, the
//! wrong shard hands the datagram over. A full ring drops the datagram; the sender's ARQ repairs it.

use std::net::SocketAddr;
use std::sync::Arc;

use crossbeam::queue::ArrayQueue;

/// Largest datagram that is handed over; SRTLA never sends more.
pub const HANDOFF_LEN_MAX: usize = 1500;

/// A datagram on its way to another shard.
#[derive(Debug)]
pub struct Parcel {
    /// Sender's address as the kernel gave it.
    pub from: SocketAddr,
    len: u16,
    bytes: [u8; HANDOFF_LEN_MAX],
}

impl Parcel {
    /// The datagram.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }
}

/// The rings of all shards, indexed by the receiving shard.
#[derive(Clone, Debug)]
pub struct Handoff {
    rings: Arc<[ArrayQueue<Parcel>]>,
}

impl Handoff {
    /// Rings for `shards` shards with room for `depth` datagrams each. One shard needs none: pass depth 1.
    pub fn new(shards: u8, depth: usize) -> Self {
        Self { rings: (0..shards).map(|_| ArrayQueue::new(depth.max(1))).collect() }
    }

    /// Copies a datagram into the ring of `shard`; false when the ring is full or there is no such shard.
    pub fn push(&self, shard: u8, from: SocketAddr, datagram: &[u8]) -> bool {
        let Some(ring) = self.rings.get(usize::from(shard)) else { return false };
        let mut bytes = [0; HANDOFF_LEN_MAX];
        let Some(room) = bytes.get_mut(..datagram.len()) else { return false };
        room.copy_from_slice(datagram);
        ring.push(Parcel { from, len: datagram.len() as u16, bytes }).is_ok()
    }

    /// The oldest datagram for `shard`.
    pub fn pop(&self, shard: u8) -> Option<Parcel> {
        self.rings.get(usize::from(shard))?.pop()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_order_and_bounds() {
        let from = SocketAddr::from(([192, 0, 2, 1], 5));
        let handoff = Handoff::new(2, 2);
        assert!(handoff.push(1, from, &[1; 20]));
        assert!(handoff.push(1, from, &[2; 1500]));
        assert!(!handoff.push(1, from, &[3; 20]), "the ring holds two");
        assert!(!handoff.push(0, from, &[0; 1501]), "too long");
        assert!(!handoff.push(2, from, &[0; 20]), "no such shard");
        assert_eq!(handoff.pop(1).unwrap().bytes(), &[1; 20]);
        assert_eq!(handoff.pop(1).unwrap().bytes(), &[2; 1500]);
        assert!(handoff.pop(1).is_none());
        assert!(handoff.pop(0).is_none());
    }
}
