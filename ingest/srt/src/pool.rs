//! Payload pool: refcounted payloads cut from large chunks that are used again once all their payloads are gone.
//!
//! Chunks are set aside with [`Pool::reserve`] when a stream begins, as many as its buffers begin with, and touched
//! only when needed; [`Pool::copy`] then allocates nothing. Where buffers have grown, or streams of very different latency
//! share chunks, more can be pinned than was set aside; then the pool grows, within its limit, and keeps what it has. When every chunk is pinned and the
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
    /// Set aside, not used yet.
    spare: Vec<BytesMut>,
    /// Chunks that the streams of now may need.
    reserved: usize,
    chunk_bytes: usize,
    chunks_max: usize,
    overflowed: u64,
}

impl Pool {
    /// A pool of at most `chunks_max` chunks of `chunk_bytes` each.
    pub(crate) fn new(chunk_bytes: usize, chunks_max: usize) -> Self {
        Self {
            current: chunk(chunk_bytes),
            resting: VecDeque::with_capacity(chunks_max),
            spare: Vec::with_capacity(chunks_max),
            reserved: 0,
            chunk_bytes,
            chunks_max: chunks_max.max(1),
            overflowed: 0,
        }
    }

    /// Chunks that `packets` payloads of `payload_max` bytes, one after the other, can pin.
    pub(crate) fn chunks_for(&self, packets: usize, payload_max: usize) -> usize {
        // One chunk is pinned by its last payload only, another is being filled.
        packets.div_ceil((self.chunk_bytes / payload_max.max(1)).max(1)) + 2
    }

    /// A stream begins: sets chunks aside, as far as the limit allows. Undone by [`Pool::release`].
    pub(crate) fn reserve(&mut self, chunks: usize) {
        self.reserved += chunks;
        while self.chunks() < self.reserved.min(self.chunks_max) {
            self.spare.push(chunk(self.chunk_bytes));
        }
    }

    /// A stream has ended. Its chunks are kept for the next one.
    pub(crate) fn release(&mut self, chunks: usize) {
        self.reserved = self.reserved.saturating_sub(chunks);
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
        let next = match self.spare.pop() {
            Some(spare) => spare,
            None if self.chunks() < self.chunks_max => chunk(self.chunk_bytes),
            None => return false,
        };
        self.resting.push_back(std::mem::replace(&mut self.current, next));
        true
    }

    /// Chunks made so far.
    fn chunks(&self) -> usize {
        self.resting.len() + self.spare.len() + 1
    }

    /// Payloads refused because the pool was exhausted.
    pub(crate) fn overflowed(&self) -> u64 {
        self.overflowed
    }
}

/// An empty chunk. Its first split would allocate the count of its payloads; that is done here.
fn chunk(bytes: usize) -> BytesMut {
    let mut chunk = BytesMut::with_capacity(bytes);
    drop(chunk.split());
    chunk
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
    fn what_was_reserved_is_there_and_is_kept() {
        let mut pool = Pool::new(64 << 10, 16);
        let chunks = pool.chunks_for(200, 1456);
        assert_eq!(chunks, 5 + 2);
        pool.reserve(chunks);
        assert_eq!(pool.chunks(), chunks);
        for _ in 0..10 {
            let held: Vec<_> = (0..200).filter_map(|_| pool.copy(&[9; 1456])).collect();
            assert_eq!((held.len(), pool.chunks()), (200, chunks));
        }
        // The next stream in its place needs nothing new, a second one does, and the limit holds.
        pool.release(chunks);
        pool.reserve(chunks);
        assert_eq!(pool.chunks(), chunks);
        pool.reserve(chunks);
        assert_eq!(pool.chunks(), 2 * chunks);
        pool.reserve(chunks);
        assert_eq!(pool.chunks(), 16);
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
