//! The map of registered links, kept equal to what the shards say.
//!
//! Promises: a link that a shard has named is in the map until that shard takes it back; entries of a predecessor stay until it is
//! clear that nobody owns them any more, so that streams of living groups pass while senders register again.

use std::collections::HashMap;
use std::time::Instant;

use bondgate_ebpf::{Gate, GateError};
use bondgate_ebpf_common::abi::{Link, LinkKey};
use bondgate_proto::LinkAddr;

use super::tables::octets;
use crate::shard::steering::SteerOrder;

/// What is written of links: the gate's map, or what stands for it in a test.
pub trait Table {
    /// Writes a link.
    ///
    /// # Errors
    /// The map is full or cannot be written.
    fn insert(&mut self, key: LinkKey, link: Link) -> Result<(), GateError>;
    /// Removes a link, if it is there.
    ///
    /// # Errors
    /// The map cannot be written.
    fn remove(&mut self, key: LinkKey) -> Result<(), GateError>;
}

impl Table for Gate {
    fn insert(&mut self, key: LinkKey, link: Link) -> Result<(), GateError> {
        self.insert_link(key, link)
    }
    fn remove(&mut self, key: LinkKey) -> Result<(), GateError> {
        self.remove_link(key)
    }
}

/// A link as it is known here.
#[derive(Clone, Copy, Debug)]
struct Known {
    shard: u8,
    /// The resync in which it was last named.
    resync: u32,
}

/// The links in the map.
#[derive(Debug)]
pub struct Links {
    known: HashMap<LinkKey, Known>,
    /// Of a predecessor.
    inherited: Vec<LinkKey>,
    /// When they go, if nobody has named them.
    inherited_until: Instant,
    /// Marks our entries in the map.
    generation: u32,
    shards: u8,
    /// The resync that is going on or was last.
    resync: u32,
    /// Shards that have named all.
    synced: Vec<bool>,
}

/// The key of a link.
pub fn key(addr: LinkAddr, port: u16) -> LinkKey {
    LinkKey::new(octets(addr.ip()), addr.addr.port(), port)
}

impl Links {
    /// What a predecessor has left in the map stays until `inherited_until`.
    pub fn new(inherited: Vec<LinkKey>, inherited_until: Instant, generation: u32, shards: u8) -> Self {
        let synced = vec![false; usize::from(shards)];
        Self { known: HashMap::new(), inherited, inherited_until, generation, shards, resync: 0, synced }
    }

    /// How many links our shards have.
    pub fn count(&self) -> usize {
        self.known.len()
    }

    /// All shards are asked to name all their links.
    pub fn begin_resync(&mut self, number: u32) {
        self.resync = number;
        self.synced = vec![false; usize::from(self.shards)];
    }

    /// All shards have named all their links.
    pub fn is_synced(&self) -> bool {
        self.resync != 0 && self.synced.iter().all(|synced| *synced)
    }

    /// Carries out one order.
    ///
    /// # Errors
    /// The map is full or cannot be written; what is known here is what was ordered, and the next resync tries again.
    pub fn apply(&mut self, order: SteerOrder, table: &mut impl Table) -> Result<(), GateError> {
        match order {
            SteerOrder::Steer { addr, port, shard } => {
                let key = key(addr, port);
                let known = Known { shard, resync: self.resync };
                let same = self.known.insert(key, known).is_some_and(|known| known.shard == shard);
                // Writing it again would fill its bucket of registrations.
                if same {
                    return Ok(());
                }
                let link = Link { shard: u32::from(shard), generation: self.generation, reg_bucket: 0 };
                table.insert(key, link).inspect_err(|_| {
                    self.known.remove(&key);
                })
            }
            SteerOrder::Unsteer { addr, port, shard } => {
                let key = key(addr, port);
                if self.known.get(&key).is_none_or(|known| known.shard != shard) {
                    return Ok(());
                }
                self.known.remove(&key);
                table.remove(key)
            }
            SteerOrder::Synced { shard, number } if number == self.resync => {
                if let Some(synced) = self.synced.get_mut(usize::from(shard)) {
                    *synced = true;
                }
                if self.is_synced() { self.sweep(table) } else { Ok(()) }
            }
            SteerOrder::Synced { .. } => Ok(()),
        }
    }

    /// Removes what no shard has named in this resync.
    fn sweep(&mut self, table: &mut impl Table) -> Result<(), GateError> {
        let resync = self.resync;
        let gone: Vec<LinkKey> =
            self.known.iter().filter(|(_, known)| known.resync != resync).map(|(key, _)| *key).collect();
        for key in gone {
            self.known.remove(&key);
            table.remove(key)?;
        }
        Ok(())
    }

    /// Removes what a predecessor has left once its time is over. Says how many it were.
    ///
    /// # Errors
    /// The map cannot be written.
    pub fn forget_inherited(&mut self, now: Instant, table: &mut impl Table) -> Result<usize, GateError> {
        if self.inherited.is_empty() || now < self.inherited_until {
            return Ok(0);
        }
        let mut removed = 0;
        for key in std::mem::take(&mut self.inherited) {
            if !self.known.contains_key(&key) {
                table.remove(key)?;
                removed += 1;
            }
        }
        Ok(removed)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[derive(Default)]
    struct Map {
        links: HashMap<LinkKey, Link>,
        is_full: bool,
        writes: usize,
    }

    impl Table for Map {
        fn insert(&mut self, key: LinkKey, link: Link) -> Result<(), GateError> {
            if self.is_full {
                return Err(GateError::Full { map: "LINKS", entries_max: 0 });
            }
            self.writes += 1;
            self.links.insert(key, link);
            Ok(())
        }
        fn remove(&mut self, key: LinkKey) -> Result<(), GateError> {
            self.links.remove(&key);
            Ok(())
        }
    }

    fn addr(n: u8) -> LinkAddr {
        LinkAddr::new(([192, 0, 2, n], 7).into())
    }

    fn steer(n: u8, shard: u8) -> SteerOrder {
        SteerOrder::Steer { addr: addr(n), port: 5000, shard }
    }

    fn unsteer(n: u8, shard: u8) -> SteerOrder {
        SteerOrder::Unsteer { addr: addr(n), port: 5000, shard }
    }

    fn shards_of(map: &Map) -> Vec<(u8, u32)> {
        let mut shards: Vec<_> =
            map.links.iter().map(|(key, link)| (key.address()[15], link.shard)).collect();
        shards.sort_unstable();
        shards
    }

    #[test]
    fn the_map_follows_the_orders() {
        let (now, mut map) = (Instant::now(), Map::default());
        let mut links = Links::new(vec![], now, 9, 2);
        for order in [steer(1, 0), steer(2, 1), steer(1, 0)] {
            links.apply(order, &mut map).unwrap();
        }
        assert_eq!((shards_of(&map), map.writes), (vec![(1, 0), (2, 1)], 2));
        assert!(map.links.values().all(|link| link.generation == 9));
        // It moved to another shard; what the old one says of it after that is no news.
        links.apply(steer(1, 1), &mut map).unwrap();
        links.apply(unsteer(1, 0), &mut map).unwrap();
        assert_eq!(shards_of(&map), [(1, 1), (2, 1)]);
        links.apply(unsteer(1, 1), &mut map).unwrap();
        links.apply(unsteer(3, 1), &mut map).unwrap();
        assert_eq!((shards_of(&map), links.count()), (vec![(2, 1)], 1));
    }

    #[test]
    fn a_resync_removes_what_nobody_names() {
        let (now, mut map) = (Instant::now(), Map::default());
        let mut links = Links::new(vec![], now, 1, 2);
        for n in 0..4 {
            links.apply(steer(n, n % 2), &mut map).unwrap();
        }
        links.begin_resync(5);
        links.apply(steer(0, 0), &mut map).unwrap();
        links.apply(SteerOrder::Synced { shard: 0, number: 5 }, &mut map).unwrap();
        // Of another resync, or twice the same shard: not all are done.
        links.apply(SteerOrder::Synced { shard: 1, number: 4 }, &mut map).unwrap();
        links.apply(SteerOrder::Synced { shard: 0, number: 5 }, &mut map).unwrap();
        assert!(!links.is_synced() && map.links.len() == 4);
        links.apply(steer(3, 1), &mut map).unwrap();
        links.apply(SteerOrder::Synced { shard: 1, number: 5 }, &mut map).unwrap();
        assert!(links.is_synced());
        assert_eq!(shards_of(&map), [(0, 0), (3, 1)]);
    }

    #[test]
    fn what_a_predecessor_left_goes_when_its_time_is_over() {
        let (now, mut map) = (Instant::now(), Map::default());
        let left: Vec<_> = (1..4).map(|n| key(addr(n), 5000)).collect();
        for key in &left {
            map.links.insert(*key, Link::default());
        }
        let until = now + Duration::from_secs(10);
        let mut links = Links::new(left, until, 1, 1);
        links.begin_resync(1);
        links.apply(steer(2, 0), &mut map).unwrap();
        links.apply(SteerOrder::Synced { shard: 0, number: 1 }, &mut map).unwrap();
        assert_eq!(links.forget_inherited(now, &mut map).unwrap(), 0);
        assert_eq!(map.links.len(), 3, "living groups register again; until then their data must pass");
        assert_eq!(links.forget_inherited(until, &mut map).unwrap(), 2);
        assert_eq!(shards_of(&map), [(2, 0)]);
        assert_eq!(links.forget_inherited(until, &mut map).unwrap(), 0);
    }

    #[test]
    fn what_did_not_fit_is_tried_again() {
        let (now, mut map) = (Instant::now(), Map { is_full: true, ..Map::default() });
        let mut links = Links::new(vec![], now, 1, 1);
        assert!(links.apply(steer(1, 0), &mut map).is_err());
        map.is_full = false;
        links.apply(steer(1, 0), &mut map).unwrap();
        assert_eq!(shards_of(&map), [(1, 0)]);
    }
}
