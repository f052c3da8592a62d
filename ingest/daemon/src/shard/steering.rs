//! What the shards tell whoever steers datagrams in the kernel: which link belongs to which shard.
//!
//! Promises: a bounded queue, no lock and no allocation. An order that does not fit is lost, and the loss is noted; the
//! listener then asks for all links again ([`SteerOrders::ask_resync`]), which every shard names in portions of
//! [`RESYNC_PORTION`] slots per turn and ends with [`SteerOrder::Synced`]. While nobody listens, nothing is queued.
//!
//! An order may be late or lost and no datagram is: one that arrives on the wrong shard is handed over.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;

use bondgate_proto::LinkAddr;
use crossbeam::queue::ArrayQueue;

/// Slots for links a shard looks at per turn while it names all its links.
pub const RESYNC_PORTION: u32 = 256;

/// News of one link, or the end of a resync. `port` is our own port that the link sends to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SteerOrder {
    /// What comes from `addr` to `port` belongs to `shard`, whatever was said before.
    Steer {
        /// The link's address.
        addr: LinkAddr,
        /// Where it sends to.
        port: u16,
        /// The owner of its group.
        shard: u8,
    },
    /// `shard` has no link at `addr` any more. If the link belongs to another shard by now, this says nothing.
    Unsteer {
        /// The address of a link that went away.
        addr: LinkAddr,
        /// Where it sent to.
        port: u16,
        /// Whose link it was.
        shard: u8,
    },
    /// `shard` has named all its links since resync `number` was asked for.
    Synced {
        /// Which shard.
        shard: u8,
        /// See [`SteerOrders::ask_resync`].
        number: u32,
    },
}

/// The queue from all shards to one listener.
#[derive(Clone, Debug)]
pub struct SteerOrders {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    queue: ArrayQueue<SteerOrder>,
    /// The last resync that was asked for; 0 while nobody listens.
    resync: AtomicU32,
    lost: AtomicBool,
    listener: OnceLock<Thread>,
}

impl SteerOrders {
    /// A queue for at most `capacity` orders between two looks of the listener.
    pub fn new(capacity: usize) -> Self {
        Self {
            shared: Arc::new(Shared {
                queue: ArrayQueue::new(capacity.max(1)),
                resync: AtomicU32::new(0),
                lost: AtomicBool::new(false),
                listener: OnceLock::new(),
            }),
        }
    }

    /// For shards: adds an order, or notes that one was lost. True if there is something to [`Self::wake`] for.
    pub fn push(&self, order: SteerOrder) -> bool {
        if self.resync_number() == 0 {
            return false;
        }
        if !self.offer(order) {
            self.shared.lost.store(true, Ordering::Release);
        }
        true
    }

    /// For shards: adds an order if there is room. Nothing is lost by a refusal: the shard offers it again.
    pub fn offer(&self, order: SteerOrder) -> bool {
        self.shared.queue.push(order).is_ok()
    }

    /// For shards: the resync that is asked for; 0 while nobody listens. One relaxed load.
    pub fn resync_number(&self) -> u32 {
        self.shared.resync.load(Ordering::Relaxed)
    }

    /// For shards: wakes the listener. A system call if it sleeps; once per turn in which something was pushed.
    pub fn wake(&self) {
        if let Some(listener) = self.shared.listener.get() {
            listener.unpark();
        }
    }

    /// The calling thread is the listener: it may park, and every order wakes it. Only the first call counts.
    pub fn listen(&self) {
        let _ = self.shared.listener.set(std::thread::current());
    }

    /// Asks every shard to name all its links, and is the only thing that makes shards push at all. Returns the number that
    /// their [`SteerOrder::Synced`] will show. Shards that sleep begin at their next turn.
    pub fn ask_resync(&self) -> u32 {
        self.shared.lost.store(false, Ordering::Release);
        let next = self.resync_number().checked_add(1).unwrap_or(1);
        self.shared.resync.store(next, Ordering::Release);
        next
    }

    /// Nobody listens any more; what is queued is forgotten.
    pub fn stop(&self) {
        self.shared.resync.store(0, Ordering::Release);
        while self.pop().is_some() {}
    }

    /// The oldest order.
    pub fn pop(&self) -> Option<SteerOrder> {
        self.shared.queue.pop()
    }

    /// Orders were lost since the last resync was asked for: ask for another.
    pub fn is_lossy(&self) -> bool {
        self.shared.lost.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steer(n: u8) -> SteerOrder {
        SteerOrder::Steer { addr: LinkAddr::new(([192, 0, 2, n], 5000).into()), port: 5000, shard: 1 }
    }

    #[test]
    fn queues_nothing_while_nobody_listens() {
        let orders = SteerOrders::new(2);
        assert!(!orders.push(steer(1)));
        assert_eq!(orders.pop(), None);
        assert!(!orders.is_lossy());
        assert_eq!(orders.ask_resync(), 1);
        assert!(orders.push(steer(1)));
        orders.stop();
        assert_eq!((orders.pop(), orders.resync_number()), (None, 0));
    }

    #[test]
    fn an_order_too_many_asks_for_a_resync() {
        let orders = SteerOrders::new(2);
        orders.ask_resync();
        assert!(orders.push(steer(1)) && orders.push(steer(2)));
        assert!(!orders.offer(steer(3)), "no room");
        assert!(!orders.is_lossy(), "an offer can be made again");
        assert!(orders.push(steer(3)));
        assert!(orders.is_lossy());
        assert_eq!(orders.ask_resync(), 2);
        assert!(!orders.is_lossy());
        assert_eq!([orders.pop(), orders.pop(), orders.pop()], [Some(steer(1)), Some(steer(2)), None]);
    }
}
