//! Grouping what a turn sends: per (socket, destination), cut into runs that can leave as one `UDP_SEGMENT` message.
//!
//! Promises: every pushed datagram appears in exactly one run; datagrams of one (socket, destination) keep their
//! order; a run holds datagrams of one length, only its last may be shorter (and not empty); messages of one socket
//! are adjacent; destinations whose datagrams are all small come after the others. No allocation after creation.
//! Used by every backend; knows nothing of buffers or system calls.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};

use crate::SocketId;

/// Datagrams in one segmented message, at most. The kernel's own bound is 64 (128 since 6.9).
pub const SEGMENTS_MAX: usize = 48;
/// Payload bytes in one segmented message, at most: below the 65535 of an IP packet with its headers.
pub const RUN_BYTES_MAX: usize = 65_000;
/// A destination none of whose datagrams in a turn is longer is served after the others.
pub const SMALL_BYTES_MAX: usize = 256;

const NONE: u32 = u32::MAX;

/// Datagrams to be sent as one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// The socket to send on.
    pub socket: SocketId,
    /// The destination, `None` for a connected socket.
    pub to: Option<SocketAddr>,
    /// Where the run's datagrams begin in [`Plan::sequence`].
    pub start: u32,
    /// How many there are.
    pub count: u32,
    /// Length of each but the last, in bytes.
    pub segment_bytes: u32,
    /// Length of all together, in bytes.
    pub bytes: u32,
}

/// The result of grouping.
#[derive(Debug, Clone, Copy)]
pub struct Plan<'a> {
    /// The messages in the order in which they are to be sent.
    pub runs: &'a [Run],
    /// Entry numbers (the order of the pushes), run after run.
    pub sequence: &'a [u32],
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    bytes: u32,
    next: u32,
}

/// The datagrams of one (socket, destination), linked in the order of the pushes.
#[derive(Debug, Clone, Copy)]
struct Chain {
    socket: SocketId,
    to: Option<SocketAddr>,
    first: u32,
    last: u32,
    longest: u32,
}

/// A place in the table of chains; it counts only if its stamp is the current turn's.
#[derive(Debug, Clone, Copy)]
struct Place {
    stamp: u32,
    chain: u32,
}

/// Collects the datagrams of a turn and groups them.
#[derive(Debug)]
pub struct Grouper {
    capacity: usize,
    entries: Vec<Entry>,
    chains: Vec<Chain>,
    places: Box<[Place]>,
    stamp: u32,
    seed: u64,
    order: Vec<u64>,
    runs: Vec<Run>,
    sequence: Vec<u32>,
}

impl Grouper {
    /// For at most `capacity` datagrams per turn.
    pub fn new(capacity: usize) -> Grouper {
        let capacity = capacity.clamp(1, 1 << 24);
        Grouper {
            capacity,
            entries: Vec::with_capacity(capacity),
            chains: Vec::with_capacity(capacity),
            places: vec![Place { stamp: 0, chain: 0 }; (capacity * 2).next_power_of_two()].into_boxed_slice(),
            stamp: 1,
            seed: RandomState::new().hash_one(0),
            order: Vec::with_capacity(capacity),
            runs: Vec::with_capacity(capacity),
            sequence: Vec::with_capacity(capacity),
        }
    }

    /// Adds a datagram and returns its entry number, or `None` when the turn is full.
    pub fn push(&mut self, socket: SocketId, to: Option<SocketAddr>, bytes: usize) -> Option<usize> {
        let number = self.entries.len();
        if number == self.capacity {
            return None;
        }
        self.entries.push(Entry { bytes: bytes as u32, next: NONE });
        let chain = self.chain(socket, to);
        let chain = &mut self.chains[chain];
        match chain.last {
            NONE => chain.first = number as u32,
            last => self.entries[last as usize].next = number as u32,
        }
        chain.last = number as u32;
        chain.longest = chain.longest.max(bytes as u32);
        Some(number)
    }

    /// Whether nothing was pushed since the last `clear`.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The index of the chain of (socket, to), made if there is none yet.
    fn chain(&mut self, socket: SocketId, to: Option<SocketAddr>) -> usize {
        let mask = self.places.len() - 1;
        let mut at = self.hash(socket, to) as usize & mask;
        loop {
            let place = self.places[at];
            if place.stamp != self.stamp {
                self.places[at] = Place { stamp: self.stamp, chain: self.chains.len() as u32 };
                self.chains.push(Chain { socket, to, first: NONE, last: NONE, longest: 0 });
                return self.chains.len() - 1;
            }
            let chain = &self.chains[place.chain as usize];
            if chain.socket == socket && chain.to == to {
                return place.chain as usize;
            }
            at = (at + 1) & mask; // at most half of the places are taken
        }
    }

    fn hash(&self, socket: SocketId, to: Option<SocketAddr>) -> u64 {
        let (low, high) = match to {
            None => (0, 0),
            Some(to) => {
                let ip = match to.ip() {
                    IpAddr::V4(ip) => u128::from(ip.to_bits()),
                    IpAddr::V6(ip) => ip.to_bits(),
                };
                (ip as u64, (ip >> 64) as u64 ^ u64::from(to.port()) << 48)
            }
        };
        let h = fold(u64::from(socket.0) ^ self.seed, 0x9e37_79b9_7f4a_7c15);
        fold(fold(h ^ low, 0xd6e8_feb8_6659_fd93) ^ high, 0xff51_afd7_ed55_8ccd ^ self.seed)
    }

    /// Groups what was pushed. `segments_max` tells how many datagrams a message on a socket may carry (1: no
    /// segmentation).
    pub fn plan(&mut self, segments_max: impl Fn(SocketId) -> usize) -> Plan<'_> {
        self.order.clear();
        self.runs.clear();
        self.sequence.clear();
        for (index, chain) in self.chains.iter().enumerate() {
            let small = u64::from(chain.longest as usize <= SMALL_BYTES_MAX);
            self.order.push(small << 63 | (chain.socket.slot() as u64) << 32 | index as u64);
        }
        self.order.sort_unstable();
        for &key in &self.order {
            let chain = self.chains[(key & 0xffff_ffff) as usize];
            let limit = segments_max(chain.socket).clamp(1, SEGMENTS_MAX) as u32;
            let mut run: Option<Run> = None;
            let mut next = chain.first;
            while let Some(&entry) = self.entries.get(next as usize) {
                match &mut run {
                    Some(run) if fits(run, entry.bytes, limit) => {
                        run.count += 1;
                        run.bytes += entry.bytes;
                    }
                    _ => {
                        self.runs.extend(run);
                        run = Some(Run {
                            socket: chain.socket,
                            to: chain.to,
                            start: self.sequence.len() as u32,
                            count: 1,
                            segment_bytes: entry.bytes,
                            bytes: entry.bytes,
                        });
                    }
                }
                self.sequence.push(next);
                next = entry.next;
            }
            self.runs.extend(run);
        }
        Plan { runs: &self.runs, sequence: &self.sequence }
    }

    /// The result of the last `plan`, until `clear`.
    pub fn planned(&self) -> Plan<'_> {
        Plan { runs: &self.runs, sequence: &self.sequence }
    }

    /// Forgets everything and begins the next turn.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.chains.clear();
        self.runs.clear();
        self.sequence.clear();
        self.stamp = self.stamp.wrapping_add(1);
        if self.stamp == 0 {
            self.places.fill(Place { stamp: 0, chain: 0 });
            self.stamp = 1;
        }
    }
}

/// Whether a datagram of `bytes` may be appended to the run.
fn fits(run: &Run, bytes: u32, segments_max: u32) -> bool {
    let all_equal = run.bytes == run.count * run.segment_bytes; // else the last one was shorter and closed the run
    all_equal
        && run.count < segments_max
        && bytes > 0
        && bytes <= run.segment_bytes
        && (run.bytes + bytes) as usize <= RUN_BYTES_MAX
}

fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Pushed = (SocketId, Option<SocketAddr>, usize);

    fn addr(n: u16) -> Option<SocketAddr> {
        (n > 0).then(|| SocketAddr::from(([10, 0, 0, 1], n)))
    }

    /// The grouping spelled out with lists and searches.
    fn oracle(pushed: &[Pushed], segments_max: usize) -> Vec<(SocketId, Option<SocketAddr>, Vec<u32>)> {
        let mut keys: Vec<(SocketId, Option<SocketAddr>)> = Vec::new();
        for &(socket, to, _) in pushed {
            if !keys.contains(&(socket, to)) {
                keys.push((socket, to));
            }
        }
        let of = |key: &(SocketId, Option<SocketAddr>)| -> Vec<(u32, usize)> {
            let mine = pushed.iter().enumerate().filter(|(_, p)| (p.0, p.1) == *key);
            mine.map(|(i, p)| (i as u32, p.2)).collect()
        };
        let small =
            |key: &(SocketId, Option<SocketAddr>)| of(key).iter().all(|(_, len)| *len <= SMALL_BYTES_MAX);
        keys.sort_by_key(|key| (small(key), key.0.slot())); // stable: first appearance decides the rest
        let mut out = Vec::new();
        for key in &keys {
            let mut rest = of(key);
            while !rest.is_empty() {
                let size = rest[0].1;
                let mut take = 1;
                while take < rest.len()
                    && take < segments_max
                    && size > 0
                    && rest[take].1 > 0
                    && rest[take].1 <= size
                    && rest[..take].iter().all(|(_, len)| *len == size)
                    && rest[..=take].iter().map(|(_, len)| len).sum::<usize>() <= RUN_BYTES_MAX
                {
                    take += 1;
                }
                out.push((key.0, key.1, rest.drain(..take).map(|(i, _)| i).collect()));
            }
        }
        out
    }

    fn check(grouper: &mut Grouper, pushed: &[Pushed], segments_max: usize) {
        for (number, &(socket, to, len)) in pushed.iter().enumerate() {
            assert_eq!(grouper.push(socket, to, len), Some(number));
        }
        let plan = grouper.plan(|_| segments_max);
        let got: Vec<_> = plan
            .runs
            .iter()
            .map(|run| {
                let entries = plan.sequence[run.start as usize..][..run.count as usize].to_vec();
                let lens: Vec<usize> = entries.iter().map(|&e| pushed[e as usize].2).collect();
                assert_eq!(run.segment_bytes as usize, lens[0]);
                assert_eq!(run.bytes as usize, lens.iter().sum::<usize>());
                (run.socket, run.to, entries)
            })
            .collect();
        assert_eq!(got, oracle(pushed, segments_max));
        assert_eq!(plan.sequence.len(), pushed.len());
        grouper.clear();
        assert!(grouper.is_empty());
    }

    fn datagram() -> impl Strategy<Value = Pushed> {
        let len = prop_oneof![Just(1332_usize), Just(1332), Just(44), Just(0), 0_usize..2000, Just(60_000)];
        (0_usize..3, 0_u16..4, len).prop_map(|(socket, to, len)| (SocketId::new(socket, 0), addr(to), len))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        #[test]
        fn equals_the_oracle(
            turns in prop::collection::vec(prop::collection::vec(datagram(), 0..150), 1..4),
            segments_max in 1_usize..60,
        ) {
            let mut grouper = Grouper::new(150);
            for pushed in turns {
                check(&mut grouper, &pushed, segments_max.min(SEGMENTS_MAX));
            }
        }
    }

    #[test]
    fn a_full_turn_refuses() {
        let mut grouper = Grouper::new(2);
        let socket = SocketId::new(0, 0);
        assert_eq!(grouper.push(socket, None, 1), Some(0));
        assert_eq!(grouper.push(socket, None, 1), Some(1));
        assert_eq!(grouper.push(socket, None, 1), None);
        assert_eq!(grouper.plan(|_| 48).runs.len(), 1);
    }

    #[test]
    fn a_fat_group_leaves_in_runs_of_48() {
        let mut grouper = Grouper::new(200);
        for _ in 0..100 {
            grouper.push(SocketId::new(3, 9), None, 1332);
        }
        let counts: Vec<u32> = grouper.plan(|_| 64).runs.iter().map(|run| run.count).collect();
        assert_eq!(counts, [48, 48, 4]);
    }

    #[test]
    fn stamps_wrap_without_ghosts() {
        let mut grouper = Grouper::new(4);
        grouper.stamp = u32::MAX - 1;
        for _ in 0..4 {
            check(&mut grouper, &[(SocketId::new(0, 0), None, 5), (SocketId::new(0, 0), addr(1), 5)], 48);
        }
    }
}
