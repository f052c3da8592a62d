//! A shard among its siblings: what it hands over to them, what it tells them and control about its links, and the waking of
//! those who have something to look at.
//!
//! Every link is claimed when it joins and released when it leaves. Claims are repeated in rounds of `ROUND_BEATS` beats,
//! so that what a full queue lost is known a few seconds later, and what nobody claims any more is forgotten. The same
//! news go to control as orders for steering, if it listens. Promises: no lock, no allocation; wakes each once per turn.

use std::net::SocketAddr;
use std::ops::Range;

use bondgate_io::Waker;
use bondgate_proto::LinkAddr;
use bondgate_proto::receiver::Receiver;

use super::handoff::{Handoff, News};
use super::steering::{RESYNC_PORTION, SteerOrder, SteerOrders};

/// Beats after which all claims were repeated: four seconds, of the fifteen a claim is good for.
const ROUND_BEATS: u32 = 16;

/// One listener for what links come and go.
#[derive(Debug)]
struct Listener {
    orders: SteerOrders,
    /// It got something in this turn.
    is_woken: bool,
    /// The resync that is under way or done, and the next slot it looks at; `None` when it is done.
    resync: (u32, Option<u32>),
}

/// See the module's comment.
#[derive(Debug)]
pub struct Siblings {
    id: u8,
    /// Our own port, to which links send.
    port: u16,
    handoff: Handoff,
    listeners: [Listener; 2],
    /// Wakers of all shards, by number.
    wakers: Vec<Waker>,
    /// Shards that got something in this turn.
    woken: Vec<bool>,
    /// The next slot whose claim is repeated.
    claim_at: u32,
}

impl Siblings {
    /// The shard `id`, whose links send to `port`. Both queues of `orders` get all there is to say of links.
    pub fn new(id: u8, port: u16, handoff: Handoff, orders: [SteerOrders; 2]) -> Self {
        let listeners = orders.map(|orders| Listener { orders, is_woken: false, resync: (0, None) });
        Self { id, port, handoff, listeners, wakers: Vec::new(), woken: Vec::new(), claim_at: 0 }
    }

    /// Tells how to wake the others. Without it they look at what they got when they wake by themselves.
    pub fn set_wakers(&mut self, wakers: Vec<Waker>) {
        self.woken = vec![false; wakers.len()];
        self.wakers = wakers;
    }

    /// Hands a datagram over to its owner, for the `hand_offs`-th time; false when there is no room.
    pub fn hand_over(&mut self, shard: u8, from: SocketAddr, hand_offs: u8, datagram: &[u8]) -> bool {
        let accepted = self.handoff.push(shard, from, hand_offs, datagram);
        // The shard of a full inbox should look at it, too.
        if let Some(woken) = self.woken.get_mut(usize::from(shard)) {
            *woken = true;
        }
        accepted
    }

    fn tell_all(&self, news: News) {
        for shard in (0..self.handoff.shards()).filter(|&shard| shard != self.id) {
            self.handoff.tell(shard, news);
        }
    }

    fn order(&mut self, order: SteerOrder) {
        for listener in &mut self.listeners {
            listener.is_woken |= listener.orders.push(order);
        }
    }

    /// A link has joined. The others hear of it before they look at the next datagram; nobody is woken for it.
    pub fn joined(&mut self, addr: LinkAddr, proven: bool) {
        self.tell_all(News::Claimed { addr, owner: self.id, proven });
        self.order(SteerOrder::Steer { addr, port: self.port, shard: self.id });
    }

    /// A link has left.
    pub fn left(&mut self, addr: LinkAddr) {
        self.tell_all(News::Released { addr, owner: self.id });
        self.order(SteerOrder::Unsteer { addr, port: self.port, shard: self.id });
    }

    /// Repeats the claims of one beat.
    pub fn repeat_claims(&mut self, receiver: &Receiver) {
        if self.handoff.shards() < 2 {
            return;
        }
        let slots = receiver.link_slots();
        let portion = portion(self.claim_at, slots.div_ceil(ROUND_BEATS), slots);
        self.claim_at = if portion.end < slots { portion.end } else { 0 };
        for (addr, proven) in receiver.links_in(portion) {
            self.tell_all(News::Claimed { addr, owner: self.id, proven });
        }
    }

    /// Names the links of one portion to those listeners that have asked for all. True if there is more to do at once.
    pub fn resync(&mut self, receiver: &Receiver) -> bool {
        let (id, port) = (self.id, self.port);
        let mut has_more = false;
        for listener in &mut self.listeners {
            has_more |= listener.resync(id, port, receiver);
        }
        has_more
    }

    /// Wakes whoever got something in this turn.
    pub fn wake(&mut self) {
        for (woken, waker) in self.woken.iter_mut().zip(&self.wakers) {
            if std::mem::take(woken) {
                waker.wake();
            }
        }
        for listener in &mut self.listeners {
            if std::mem::take(&mut listener.is_woken) {
                listener.orders.wake();
            }
        }
    }
}

impl Listener {
    fn resync(&mut self, shard: u8, port: u16, receiver: &Receiver) -> bool {
        let number = self.orders.resync_number();
        if number != self.resync.0 {
            self.resync = (number, (number != 0).then_some(0));
        }
        let Some(start) = self.resync.1 else { return false };
        self.is_woken = true;
        let slots = receiver.link_slots();
        let portion = portion(start, RESYNC_PORTION, slots);
        for slot in portion.clone() {
            for (addr, _) in receiver.links_in(slot..slot + 1) {
                if !self.orders.offer(SteerOrder::Steer { addr, port, shard }) {
                    self.resync.1 = Some(slot); // from here on in the next turn
                    return false;
                }
            }
        }
        let is_done = portion.end >= slots && self.orders.offer(SteerOrder::Synced { shard, number });
        self.resync.1 = (!is_done).then_some(portion.end);
        portion.end < slots
    }
}

/// `len` slots from `start` on, of `slots`.
fn portion(start: u32, len: u32, slots: u32) -> Range<u32> {
    let start = start.min(slots);
    start..start.saturating_add(len).min(slots)
}
