//! What shards pass to one another: datagrams that came to the wrong one, and news of their links.
//!
//! The kernel's hash scatters the links of a group over the shards' sockets; until steering takes effect, the wrong shard
//! hands the datagram over. Promises: bounded; nothing is allocated after creation and no lock is taken; a datagram is
//! copied once, into a parcel that belongs to the receiving shard and goes back to it; what one shard sends another
//! arrives in order. A full ring refuses the datagram, which the sending shard counts; the encoder's ARQ repairs it.

use std::net::SocketAddr;
use std::sync::Arc;

use bondgate_proto::LinkAddr;
use crossbeam::queue::ArrayQueue;

/// Largest datagram that is handed over; SRTLA never sends more.
pub const HANDOFF_LEN_MAX: usize = 1500;

/// News waiting for one shard. Lost news are repeated (see `siblings`).
const NEWS_MAX: usize = 4096;

/// A datagram on its way to another shard.
#[derive(Debug)]
pub struct Parcel {
    /// Sender's address as the kernel gave it.
    pub from: SocketAddr,
    /// How often it was handed over, this time included.
    pub hand_offs: u8,
    len: u16,
    bytes: [u8; HANDOFF_LEN_MAX],
}

impl Parcel {
    /// The datagram.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }
}

/// What one shard tells the others about a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum News {
    /// It has a link there.
    Claimed {
        /// The link's address.
        addr: LinkAddr,
        /// Who says so.
        owner: u8,
        /// It is a device's.
        proven: bool,
    },
    /// It has none there any more.
    Released {
        /// The address of a link that went away.
        addr: LinkAddr,
        /// Who says so.
        owner: u8,
    },
}

#[derive(Debug)]
struct Inbox {
    parcels: ArrayQueue<Box<Parcel>>,
    /// Parcels with nothing in them; as many in all as `parcels` has room for.
    empty: ArrayQueue<Box<Parcel>>,
    news: ArrayQueue<News>,
}

impl Inbox {
    fn new(depth: usize) -> Self {
        let empty = ArrayQueue::new(depth);
        let from = SocketAddr::from(([0; 4], 0));
        while empty.push(Box::new(Parcel { from, hand_offs: 0, len: 0, bytes: [0; HANDOFF_LEN_MAX] })).is_ok()
        {
        }
        Self { parcels: ArrayQueue::new(depth), empty, news: ArrayQueue::new(NEWS_MAX) }
    }
}

/// The inboxes of all shards.
#[derive(Clone, Debug)]
pub struct Handoff {
    inboxes: Arc<[Inbox]>,
}

impl Handoff {
    /// Inboxes for `shards` shards with room for `depth` datagrams each. One shard needs none: pass depth 1.
    pub fn new(shards: u8, depth: usize) -> Self {
        Self { inboxes: (0..shards).map(|_| Inbox::new(depth.max(1))).collect() }
    }

    fn inbox(&self, shard: u8) -> Option<&Inbox> {
        self.inboxes.get(usize::from(shard))
    }

    /// How many shards there are.
    pub fn shards(&self) -> u8 {
        self.inboxes.len() as u8
    }

    /// Copies a datagram into the inbox of `shard`; false when that is full or there is no such shard.
    pub fn push(&self, shard: u8, from: SocketAddr, hand_offs: u8, datagram: &[u8]) -> bool {
        let Some(inbox) = self.inbox(shard).filter(|_| datagram.len() <= HANDOFF_LEN_MAX) else {
            return false;
        };
        let Some(mut parcel) = inbox.empty.pop() else { return false };
        (parcel.from, parcel.hand_offs, parcel.len) = (from, hand_offs, datagram.len() as u16);
        if let Some(room) = parcel.bytes.get_mut(..datagram.len()) {
            room.copy_from_slice(datagram);
        }
        inbox.parcels.push(parcel).is_ok()
    }

    /// The oldest datagram for `shard`, which gives the parcel back with [`Self::give_back`].
    pub fn pop(&self, shard: u8) -> Option<Box<Parcel>> {
        self.inbox(shard)?.parcels.pop()
    }

    /// Takes back the parcel of a datagram that `shard` is done with.
    pub fn give_back(&self, shard: u8, parcel: Box<Parcel>) {
        if let Some(inbox) = self.inbox(shard) {
            // There is room: it came from here.
            let _ = inbox.empty.push(parcel);
        }
    }

    /// Tells `shard` news; false when they are lost.
    pub fn tell(&self, shard: u8, news: News) -> bool {
        self.inbox(shard).is_some_and(|inbox| inbox.news.push(news).is_ok())
    }

    /// The oldest news for `shard`.
    pub fn hear(&self, shard: u8) -> Option<News> {
        self.inbox(shard)?.news.pop()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_order_and_bounds() {
        let from = SocketAddr::from(([192, 0, 2, 1], 5));
        let handoff = Handoff::new(2, 2);
        for _ in 0..3 {
            assert!(handoff.push(1, from, 1, &[1; 20]));
            assert!(handoff.push(1, from, 2, &[2; 1500]));
            assert!(!handoff.push(1, from, 1, &[3; 20]), "the inbox holds two");
            assert!(!handoff.push(0, from, 1, &[0; 1501]), "too long");
            assert!(!handoff.push(2, from, 1, &[0; 20]), "no such shard");
            let first = handoff.pop(1).unwrap();
            assert_eq!((first.bytes(), first.hand_offs), (&[1; 20][..], 1));
            assert!(!handoff.push(1, from, 1, &[3; 20]), "a parcel in hand takes its room");
            handoff.give_back(1, first);
            let second = handoff.pop(1).unwrap();
            assert_eq!((second.bytes(), second.hand_offs), (&[2; 1500][..], 2));
            handoff.give_back(1, second);
            assert!(handoff.pop(1).is_none() && handoff.pop(0).is_none());
        }
    }

    #[test]
    fn news_are_bounded() {
        let handoff = Handoff::new(2, 1);
        let news = News::Released { addr: LinkAddr::new(([192, 0, 2, 1], 5).into()), owner: 0 };
        assert_eq!((0..10_000).filter(|_| handoff.tell(1, news)).count(), NEWS_MAX);
        assert_eq!(handoff.hear(1), Some(news));
        assert!(!handoff.tell(2, news) && handoff.hear(0).is_none());
    }

    /// Several shards send to one that takes its time: everything that was accepted arrives, in order per sender.
    #[test]
    fn nothing_accepted_is_lost_and_order_is_kept() {
        const SENDERS: u8 = 3;
        const EACH: u32 = 20_000;
        let handoff = Handoff::new(SENDERS + 1, 64);
        let senders: Vec<_> = (0..SENDERS)
            .map(|id| {
                let handoff = handoff.clone();
                std::thread::spawn(move || {
                    let from = SocketAddr::from(([192, 0, 2, id], 5));
                    for n in 0..EACH {
                        while !handoff.push(SENDERS, from, 1, &n.to_be_bytes()) {
                            std::thread::yield_now();
                        }
                    }
                })
            })
            .collect();
        let mut next = [0; SENDERS as usize];
        while next != [EACH; SENDERS as usize] {
            let Some(parcel) = handoff.pop(SENDERS) else {
                std::thread::yield_now();
                continue;
            };
            let SocketAddr::V4(from) = parcel.from else { panic!("another address") };
            let next = &mut next[usize::from(from.ip().octets()[3])];
            assert_eq!(parcel.bytes(), next.to_be_bytes(), "lost or out of order");
            *next += 1;
            handoff.give_back(SENDERS, parcel);
        }
        for sender in senders {
            sender.join().unwrap();
        }
        assert!(handoff.pop(SENDERS).is_none());
    }
}
