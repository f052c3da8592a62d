//! The prefix lists: two tries for each, of which one is in force. A new list is made in the other one, which then takes its
//! place in one step.
//!
//! Both tries are made at the start, because making a map needs a capability and filling one does not. They are not emptied
//! and filled again: what is in them is known, and only differences are written. Nothing big is ever freed.

use std::fmt;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{ArrayOfMaps, MapData};
use bondgate_ebpf_common::abi::{self, List};

use crate::GateError;
use crate::maps::{ignore_missing, pinned, typed};
use crate::pins::Pins;

/// Prefixes one list takes.
pub const PREFIXES_MAX: usize = 200_000;
/// Tries allocate as they grow.
const BPF_F_NO_PREALLOC: u32 = 1;

/// A network as the maps have it: 16 bytes of address (IPv4 as v4-mapped), and prefix length in these 128 bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network {
    /// The address, zeros behind the prefix.
    pub address: [u8; 16],
    /// Bits that count, up to 128.
    pub prefix_len: u8,
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", std::net::Ipv6Addr::from(self.address), self.prefix_len)
    }
}

/// A network and its value in a list.
pub type Entry = (Network, u64);

type Trie = LpmTrie<MapData, [u8; 16], u64>;

/// One list.
#[derive(Debug)]
struct Pair {
    tries: [Trie; 2],
    /// What is in each trie, sorted.
    contents: [Vec<Entry>; 2],
    in_force: usize,
}

/// All lists.
#[derive(Debug)]
pub(crate) struct Lists {
    outer: ArrayOfMaps<MapData, Trie>,
    pairs: [Pair; List::ALL.len()],
}

fn trie_name(list: List, which: usize) -> String {
    format!("{list:?}_{}", ["a", "b"].get(which).unwrap_or(&"?"))
}

fn key(network: Network) -> Key<[u8; 16]> {
    Key::new(u32::from(network.prefix_len), network.address)
}

impl Lists {
    /// Empty lists, pinned if there are pins.
    pub(crate) fn create(outer: ArrayOfMaps<MapData, Trie>, pins: Option<&Pins>) -> Result<Self, GateError> {
        let make = |list: List, which: usize| {
            let name = trie_name(list, which);
            let trie = Trie::create(abi::PREFIXES_MAX, BPF_F_NO_PREALLOC).map_err(GateError::map(&name))?;
            let Some(pins) = pins else { return Ok(trie) };
            trie.pin(pins.map(&name))
                .map_err(|error| GateError::Map { map: name.clone(), why: crate::error::chain(&error) })?;
            typed(&name, pinned(pins, &name)?)
        };
        let mut lists = Self::new(outer, make, 0)?;
        for list in List::ALL {
            lists.put_in_force(list, 0)?;
        }
        Ok(lists)
    }

    /// The lists that are pinned, with what is in them.
    pub(crate) fn open(
        outer: ArrayOfMaps<MapData, Trie>,
        pins: &Pins,
        second_tries: u32,
    ) -> Result<Self, GateError> {
        let open = |list: List, which: usize| {
            let name = trie_name(list, which);
            typed(&name, pinned(pins, &name)?)
        };
        let mut lists = Self::new(outer, open, second_tries)?;
        for pair in &mut lists.pairs {
            for (trie, contents) in pair.tries.iter().zip(&mut pair.contents) {
                *contents = read(trie)?;
            }
        }
        Ok(lists)
    }

    fn new(
        outer: ArrayOfMaps<MapData, Trie>,
        mut trie: impl FnMut(List, usize) -> Result<Trie, GateError>,
        second_tries: u32,
    ) -> Result<Self, GateError> {
        let mut pair = |list: List| {
            Ok::<_, GateError>(Pair {
                tries: [trie(list, 0)?, trie(list, 1)?],
                contents: [Vec::new(), Vec::new()],
                in_force: (second_tries >> list as u32 & 1) as usize,
            })
        };
        let [a, b, c, d] = List::ALL;
        Ok(Self { outer, pairs: [pair(a)?, pair(b)?, pair(c)?, pair(d)?] })
    }

    /// Bit `n`: of list `n` the second trie is in force.
    pub(crate) fn second_tries(&self) -> u32 {
        self.pairs.iter().enumerate().map(|(list, pair)| (pair.in_force as u32) << list).sum()
    }

    pub(crate) fn len(&self, list: List) -> usize {
        let pair = &self.pairs[list as usize];
        pair.contents[pair.in_force].len()
    }

    /// Puts a list in force, whole. Of entries for one network the last counts. True if it was another list.
    pub(crate) fn set(&mut self, list: List, mut entries: Vec<Entry>) -> Result<bool, GateError> {
        // Stable, so that of entries for one network the last is the last.
        entries.sort_by_key(|(network, _)| *network);
        entries.dedup_by(|later, kept| {
            let same = later.0 == kept.0;
            if same {
                kept.1 = later.1;
            }
            same
        });
        if entries.len() > PREFIXES_MAX {
            let prefixes = entries.len();
            return Err(GateError::ListFull { list, prefixes, prefixes_max: PREFIXES_MAX });
        }
        let pair = &mut self.pairs[list as usize];
        if pair.contents[pair.in_force] == entries {
            return Ok(false);
        }
        let spare = 1 - pair.in_force;
        let old = std::mem::take(&mut pair.contents[spare]);
        if let Err(error) = write_difference(&mut pair.tries[spare], &old, &entries) {
            // It is not in force; what is in it will be read from it again.
            pair.contents[spare] = read(&pair.tries[spare])?;
            return Err(error);
        }
        pair.contents[spare] = entries;
        self.put_in_force(list, spare)?;
        Ok(true)
    }

    fn put_in_force(&mut self, list: List, which: usize) -> Result<(), GateError> {
        let pair = &mut self.pairs[list as usize];
        self.outer.set(list as u32, &pair.tries[which], 0).map_err(GateError::map(abi::LISTS))?;
        pair.in_force = which;
        Ok(())
    }
}

fn read(trie: &Trie) -> Result<Vec<Entry>, GateError> {
    let mut contents = Vec::new();
    for entry in trie {
        let (key, value) = entry.map_err(GateError::map(abi::LISTS))?;
        contents.push((Network { address: key.data(), prefix_len: key.prefix_len() as u8 }, value));
    }
    contents.sort_unstable();
    Ok(contents)
}

/// Makes of a trie with the entries `old` one with the entries `new`, both sorted.
fn write_difference(trie: &mut Trie, old: &[Entry], new: &[Entry]) -> Result<(), GateError> {
    let error = || GateError::map(abi::LISTS);
    difference(old, new, |network, value| match value {
        Some(value) => trie.insert(&key(network), value, 0).map_err(error()),
        None => ignore_missing(trie.remove(&key(network))).map_err(error()),
    })
}

/// What has to be written (a value) or removed (none) to make `new` of `old`, both sorted.
fn difference<E>(
    old: &[Entry],
    new: &[Entry],
    mut write: impl FnMut(Network, Option<u64>) -> Result<(), E>,
) -> Result<(), E> {
    let (mut old, mut new) = (old.iter().copied().peekable(), new.iter().copied().peekable());
    loop {
        match (old.peek().copied(), new.peek().copied()) {
            (None, None) => return Ok(()),
            (Some((gone, _)), next) if next.is_none_or(|(network, _)| gone < network) => {
                write(gone, None)?;
                old.next();
            }
            (was, Some((network, value))) => {
                let same = was.is_some_and(|(old, _)| old == network);
                if !same || was.is_some_and(|(_, old)| old != value) {
                    write(network, Some(value))?;
                }
                if same {
                    old.next();
                }
                new.next();
            }
            (Some(_), None) => old.next().map_or((), drop),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn network(address: u8, prefix_len: u8) -> Network {
        Network { address: [address; 16], prefix_len }
    }

    #[test]
    fn only_differences_are_written() {
        // A little generator of our own: sixteen networks, three values.
        let mut state = 7_u64;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        for _ in 0..2000 {
            let mut list = || -> Vec<Entry> {
                let mut entries = BTreeMap::new();
                for _ in 0..random(12) {
                    entries.insert(network(random(4) as u8, random(4) as u8), random(3));
                }
                entries.into_iter().collect()
            };
            let (old, new) = (list(), list());
            let mut map: BTreeMap<Network, u64> = old.iter().copied().collect();
            let mut writes = 0;
            difference(&old, &new, |network, value| {
                writes += 1;
                match value {
                    Some(value) => assert_ne!(map.insert(network, value), Some(value), "written in vain"),
                    None => assert!(map.remove(&network).is_some(), "removed in vain"),
                }
                Ok::<_, ()>(())
            })
            .unwrap();
            assert_eq!(map.into_iter().collect::<Vec<_>>(), new);
            if old == new {
                assert_eq!(writes, 0);
            }
        }
    }
}
