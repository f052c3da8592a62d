//! Half-open connections: accepted, but the caller has not yet used the socket ID it was given.
//!
//! They are what a flood of handshakes leaves behind. Promise: they never take more than half of the connection
//! table, one peer holds at most [`PER_PEER`] of them, and old ones make room for new callers. A caller that finds
//! no room is not answered; it repeats its CONCLUSION 250 ms later.

use super::{Endpoint, Slot};
use crate::event::CloseReason;
use crate::time::{MS, Micros};
use std::collections::VecDeque;
use std::hash::Hash;

/// Half-open connections at a time, all peers together; less when the connection table is small.
const TOTAL: usize = 256;
/// Half-open connections and waiting callers of one peer at a time.
const PER_PEER: usize = 32;
/// Age from which a half-open connection makes room: an idle caller sends its first keepalive after a second.
const AGE: Micros = 1_200 * MS;

/// Accepted connections in order of age. Entries whose connection was confirmed or has ended are dropped when room
/// is short.
#[derive(Debug)]
pub(super) struct HalfOpen<P> {
    list: VecDeque<(P, u32, Micros)>,
    total: usize,
    per_peer: usize,
}

impl<P: Copy + Eq> HalfOpen<P> {
    pub(super) fn new(connections_max: usize) -> Self {
        let total = (connections_max / 2).clamp(1, TOTAL);
        Self { list: VecDeque::with_capacity(total + 1), total, per_peer: (total / 2).clamp(1, PER_PEER) }
    }

    /// A connection was accepted; there was room for it.
    pub(super) fn add(&mut self, peer: P, local_id: u32, now: Micros) {
        if self.list.len() > self.total {
            self.list.pop_front();
        }
        self.list.push_back((peer, local_id, now));
    }

    fn of(&self, peer: P) -> usize {
        self.list.iter().filter(|(other, ..)| *other == peer).count()
    }
}

impl<P: Copy + Eq + Hash> Endpoint<P> {
    /// One more caller of `peer` may be let in.
    pub(super) fn half_open_room(&mut self, now: Micros, peer: P) -> bool {
        let waiting = self.listener.waiting(peer);
        if self.half_open.of(peer) + waiting >= self.half_open.per_peer
            || self.half_open.list.len() >= self.half_open.total
        {
            self.prune_half_open();
        }
        if self.half_open.of(peer) + waiting >= self.half_open.per_peer {
            return false;
        }
        self.half_open.list.len() < self.half_open.total || self.evict_half_open(now)
    }

    fn prune_half_open(&mut self) {
        let mut list = std::mem::take(&mut self.half_open.list);
        list.retain(|(_, id, _)| {
            let slot = self.find(*id).and_then(|index| self.slots.get(index));
            matches!(slot, Some(Slot::Live(conn)) if conn.is_half_open())
        });
        self.half_open.list = list;
    }

    /// Ends the oldest half-open connection if it is old enough.
    pub(super) fn evict_half_open(&mut self, now: Micros) -> bool {
        self.prune_half_open();
        let Some(&(_, id, accepted_at)) = self.half_open.list.front() else { return false };
        if now - accepted_at < AGE {
            return false;
        }
        self.half_open.list.pop_front();
        if let Some(index) = self.find(id)
            && let Some(Slot::Live(conn)) = self.slots.get_mut(index)
        {
            conn.close(now, CloseReason::PeerIdle);
            self.touch(now, index);
        }
        true
    }
}
