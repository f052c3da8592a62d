//! What the gate has counted, and whom it has seen.

use std::net::{IpAddr, Ipv6Addr};

use aya::maps::{MapData, RingBuf};
use bondgate_ebpf_common::abi::{Config, Count, Event, Link, LinkKey, List, Stat};
use bondgate_ebpf_common::reason::Reason;

use crate::lists::Entry;
use crate::{Gate, GateError};

/// All counters, summed over the CPUs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames and bytes by reason, in the order of [`Reason::ALL`].
    pub reasons: Vec<(Reason, Count)>,
    /// Events written.
    pub events: u64,
    /// Events not written because their budget was spent.
    pub events_over_budget: u64,
    /// Events not written because nobody reads them, or too slowly.
    pub events_lost: u64,
}

/// How full the maps are. Links are counted by whoever writes them; reading them all takes long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fill {
    /// Banned addresses.
    pub bans: usize,
    /// Prefixes, by [`List`].
    pub lists: [usize; List::ALL.len()],
}

/// A sampled frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// Its source; unspecified if the verdict came before it was read.
    pub source: IpAddr,
    /// Why it passed or was dropped.
    pub reason: Reason,
    /// How many frames it stands for.
    pub weight: u32,
}

/// The reader of events. There is one ring for all readers: what one has read the others do not see.
pub struct Events(RingBuf<MapData>);

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Events")
    }
}

impl Iterator for Events {
    type Item = Sighting;

    fn next(&mut self) -> Option<Sighting> {
        loop {
            let event = Event::from_bytes(&self.0.next()?);
            if let Some((event, reason)) = event.and_then(|event| Some((event, event.reason()?))) {
                let source = IpAddr::V6(Ipv6Addr::from(event.source.address())).to_canonical();
                return Some(Sighting { source, reason, weight: event.weight });
            }
        }
    }
}

impl Gate {
    /// All counters. They begin when the maps are made and go on over restarts and replacements.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn counters(&self) -> Result<Counters, GateError> {
        let mut reasons = Vec::with_capacity(Reason::ALL.len());
        for reason in Reason::ALL {
            reasons.push((reason, self.maps.count(reason as u32)?));
        }
        Ok(Counters {
            reasons,
            events: self.maps.count(Stat::Events as u32)?.packets,
            events_over_budget: self.maps.count(Stat::EventsOverBudget as u32)?.packets,
            events_lost: self.maps.count(Stat::EventsLost as u32)?.packets,
        })
    }

    /// The reader of sampled frames; can be had once.
    ///
    /// # Errors
    /// It was had before, or the ring cannot be mapped.
    pub fn events(&mut self) -> Result<Events, GateError> {
        Ok(Events(self.maps.take_events()?))
    }

    /// Puts a configuration in force, whole.
    ///
    /// # Errors
    /// The map cannot be written.
    pub fn set_config(&mut self, config: &Config) -> Result<(), GateError> {
        self.maps.set_config(config)
    }

    /// The generation of the configuration in force; 0 if none was ever written, and then everything passes.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn generation(&self) -> Result<u64, GateError> {
        self.maps.generation()
    }

    /// Puts a list in force, whole. Of entries for one network the last counts. True if it was another list.
    ///
    /// # Errors
    /// More than [`crate::PREFIXES_MAX`] prefixes, or the kernel does not take one; the list in force stays.
    pub fn set_list(&mut self, list: List, entries: Vec<Entry>) -> Result<bool, GateError> {
        self.maps.set_list(list, entries)
    }

    /// Puts exactly these bans of addresses in force: [`bondgate_ebpf_common::abi::ban_key`] to the `CLOCK_MONOTONIC` time in ns
    /// at which each ends.
    ///
    /// # Errors
    /// More than the map takes; then nothing is changed. Or the map cannot be written.
    pub fn set_bans(&mut self, bans: &std::collections::HashMap<[u8; 16], u64>) -> Result<(), GateError> {
        self.maps.set_bans(bans)
    }

    /// Lets everything from a registered link pass, and steers it to its shard.
    ///
    /// # Errors
    /// The map is full or cannot be written.
    pub fn insert_link(&mut self, key: LinkKey, link: Link) -> Result<(), GateError> {
        self.maps.insert_link(key, link)
    }

    /// Forgets a link. One that is not there is fine.
    ///
    /// # Errors
    /// The map cannot be written.
    pub fn remove_link(&mut self, key: LinkKey) -> Result<(), GateError> {
        self.maps.remove_link(key)
    }

    /// All links in the map.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn links(&self) -> Result<Vec<(LinkKey, Link)>, GateError> {
        self.maps.links()
    }

    /// How full the maps are.
    pub fn fill(&self) -> Fill {
        Fill { bans: self.maps.bans_len(), lists: List::ALL.map(|list| self.maps.list_len(list)) }
    }
}
