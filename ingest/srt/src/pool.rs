//! Payload pool: refcounted payloads cut from large chunks that are used again once all their payloads are gone.
//!
//! At steady state [`Pool::copy`] allocates nothing. When every chunk is pinned by payloads still in use and the
//! limit is reached, it refuses and counts: the memory of all connections together is bounded by the pool.

use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;

/// How many resting chunks are looked at when a new one is needed.
const TRIES: usize = 8;

/// Cuts payloads from chunks.
#[derive(Debug)]
pub(crate) struct Pool {
    current: BytesMut,
    resting: VecDeque<BytesMut>,
    chunk_bytes: usize,
    chunks_max: usize,
    overflowed: u64,
}

impl Pool {
    /// A pool of at most `chunks_max` chunks of `chunk_bytes` each. Chunks are made when first needed.
    pub(crate) fn new(chunk_bytes: usize, chunks_max: usize) -> Self {
        Self {
            current: BytesMut::with_capacity(chunk_bytes),
            resting: VecDeque::with_capacity(chunks_max),
            chunk_bytes,
            chunks_max: chunks_max.max(1),
            overflowed: 0,
        }
    }

    /// A payload with the contents of `bytes`; `None` when the pool is exhausted.
    pub(crate) fn copy(&mut self, bytes: &[u8]) -> Option<Bytes> {
        if self.current.capacity() < bytes.len() && !self.next_chunk(bytes.len()) {
            self.overflowed += 1;
            return None;
        }
        self.current.extend_from_slice(bytes);
        Some(self.current.split().freeze())
    }

    fn next_chunk(&mut self, len: usize) -> bool {
        if len > self.chunk_bytes {
            return false;
        }
        for _ in 0..TRIES.min(self.resting.len()) {
            let Some(mut chunk) = self.resting.pop_front() else { break };
            if chunk.try_reclaim(self.chunk_bytes) {
                self.resting.push_back(std::mem::replace(&mut self.current, chunk));
                return true;
            }
            self.resting.push_back(chunk);
        }
        if self.current.try_reclaim(self.chunk_bytes) {
            return true;
        }
        if self.resting.len() + 1 >= self.chunks_max {
            return false;
        }
        let chunk = BytesMut::with_capacity(self.chunk_bytes);
        self.resting.push_back(std::mem::replace(&mut self.current, chunk));
        true
    }

    /// Chunks made so far.
    #[cfg(test)]
    pub(crate) fn chunks(&self) -> usize {
        self.resting.len() + 1
    }

    /// Payloads refused because the pool was exhausted.
    pub(crate) fn overflowed(&self) -> u64 {
        self.overflowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_used_again() {
        let mut pool = Pool::new(64 << 10, 16);
        let mut window = VecDeque::new();
        for i in 0..100_000u32 {
            let payload = pool.copy(&i.to_be_bytes().repeat(329)).unwrap();
            window.push_back((i, payload));
            if window.len() > 200 {
                let (number, payload) = window.pop_front().unwrap();
                assert_eq!(payload[..4], number.to_be_bytes());
                assert_eq!(payload[1312..], number.to_be_bytes());
            }
        }
        // 200 payloads of 1316 bytes pin 5 chunks of 49 payloads; some slack for the search order.
        assert!(pool.chunks() <= 8, "{}", pool.chunks());
        assert_eq!(pool.overflowed(), 0);
    }

    #[test]
    fn a_full_pool_refuses_until_payloads_are_gone() {
        let mut pool = Pool::new(4096, 2);
        let held: Vec<_> = (0..10).filter_map(|_| pool.copy(&[9; 1316])).collect();
        assert_eq!((held.len(), pool.chunks(), pool.overflowed()), (6, 2, 4));
        assert!(held.iter().all(|payload| payload[..] == [9; 1316]));
        assert!(pool.copy(&[1; 5000]).is_none(), "larger than a chunk");
        drop(held);
        assert_eq!(pool.copy(&[1; 1316]).unwrap()[..], [1; 1316]);
    }
}
