//! The gate's maps, opened once and written ever after: no write needs a capability.
//!
//! Promises: what is written is seen whole or not at all (the configuration is double, so is each list); what did not change is
//! not written; a list or map that would be too full is refused and what was in force stays.

use std::collections::HashMap as StdHashMap;

use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, ReusePortSockArray, RingBuf};
use bondgate_ebpf_common::abi::{self, Config, Count, Globals, Link, LinkKey, List};

use crate::GateError;
use crate::links::Links;
use crate::lists::{Entry, Lists};
use crate::pins::Pins;

/// Raised whenever the meaning of a map changes, so that versions that do not understand each other notice.
pub(crate) const LAYOUT: u32 = 2;
/// Name of the loader's own map, which no program looks at.
pub(crate) const INFO: &str = "INFO";
/// The maps of the programs.
pub(crate) const PROGRAM_MAPS: [&str; 8] =
    [abi::GLOBALS, abi::LINKS, abi::BANS, abi::LISTS, abi::BUCKETS, abi::COUNTERS, abi::EVENTS, abi::SOCKETS];

/// Which version made the maps and the program that is attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// Layout of the maps.
    pub layout: u32,
    /// SHA-256 of the object the program came from.
    pub object: [u8; 32],
    /// Version of the bondgate that attached it.
    pub version: String,
    /// Bit `n`: of list `n` the second trie is in force.
    pub(crate) second_tries: u32,
}

impl Info {
    const LEN: usize = 64;

    /// Of this binary.
    pub fn own() -> Self {
        Self {
            layout: LAYOUT,
            object: crate::object::sha256(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            second_tries: 0,
        }
    }

    fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..4].copy_from_slice(&self.layout.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.second_tries.to_le_bytes());
        bytes[8..40].copy_from_slice(&self.object);
        for (to, from) in bytes[40..].iter_mut().zip(self.version.bytes()) {
            *to = from;
        }
        bytes
    }

    fn from_bytes(bytes: &[u8; Self::LEN]) -> Self {
        let word =
            |at: usize| bytes[at..at + 4].iter().rev().fold(0_u32, |word, byte| word << 8 | u32::from(*byte));
        let mut object = [0; 32];
        object.copy_from_slice(&bytes[8..40]);
        let version = String::from_utf8_lossy(&bytes[40..]).trim_end_matches('\0').to_owned();
        Self { layout: word(0), second_tries: word(4), object, version }
    }
}

/// All maps.
pub(crate) struct Maps {
    info: Array<MapData, [u8; Info::LEN]>,
    globals: Array<MapData, [u8; Globals::LEN]>,
    links: Links,
    bans: HashMap<MapData, [u8; 16], u64>,
    /// What is in `bans`.
    banned: StdHashMap<[u8; 16], u64>,
    lists: Lists,
    counters: PerCpuArray<MapData, [u8; Count::LEN]>,
    pub(crate) sockets: ReusePortSockArray<MapData>,
    events: Option<Map>,
}

/// A map of the kind its name is for.
pub(crate) fn typed<T: TryFrom<Map, Error = MapError>>(name: &str, map: Map) -> Result<T, GateError> {
    T::try_from(map).map_err(GateError::map(name))
}

/// Opens a pinned map.
pub(crate) fn pinned(pins: &Pins, name: &str) -> Result<Map, GateError> {
    MapData::from_pin(pins.map(name)).and_then(Map::from_map_data).map_err(|error| {
        let mut why = crate::error::chain(&error);
        if let MapError::SyscallError(call) = &error
            && call.io_error.kind() == std::io::ErrorKind::PermissionDenied
        {
            why.push_str(
                "; it is another user's: run bondgate as the user who attached the gate, or as root `bondgate xdp detach`",
            );
        }
        GateError::Map { map: name.to_owned(), why }
    })
}

impl Maps {
    /// Makes what the programs' maps need besides; with pins, pins it. `map` gives the programs' maps by name.
    pub(crate) fn create(
        pins: Option<&Pins>,
        mut map: impl FnMut(&str) -> Result<Map, GateError>,
    ) -> Result<Self, GateError> {
        let own = Info::own();
        let lists = Lists::create(typed(abi::LISTS, map(abi::LISTS)?)?, pins)?;
        let mut info = Array::create(1, 0).map_err(GateError::map(INFO))?;
        info.set(0, own.to_bytes(), 0).map_err(GateError::map(INFO))?;
        if let Some(pins) = pins {
            // Last, and filled: it says that the others are complete.
            info.pin(pins.map(INFO))
                .map_err(|error| GateError::Map { map: INFO.into(), why: crate::error::chain(&error) })?;
            info = typed(INFO, pinned(pins, INFO)?)?;
        }
        Self::new(info, lists, map)
    }

    /// Opens the maps that are pinned. Needs no capability.
    pub(crate) fn open(pins: &Pins) -> Result<Self, GateError> {
        let found = Self::info_of(pins)?;
        if found.layout != LAYOUT {
            return Err(GateError::Layout { found: found.layout, expected: LAYOUT });
        }
        let lists = Lists::open(typed(abi::LISTS, pinned(pins, abi::LISTS)?)?, pins, found.second_tries)?;
        let mut maps = Self::new(typed(INFO, pinned(pins, INFO)?)?, lists, |name| pinned(pins, name))?;
        for entry in &maps.bans {
            let (key, until) = entry.map_err(GateError::map(abi::BANS))?;
            maps.banned.insert(key, until);
        }
        Ok(maps)
    }

    /// Which version made the pinned maps.
    pub(crate) fn info_of(pins: &Pins) -> Result<Info, GateError> {
        if !pins.map(INFO).exists() {
            return Err(GateError::NotThere(pins.dir().to_owned()));
        }
        let info: Array<MapData, [u8; Info::LEN]> = typed(INFO, pinned(pins, INFO)?)?;
        Ok(Info::from_bytes(&info.get(&0, 0).map_err(GateError::map(INFO))?))
    }

    fn new(
        info: Array<MapData, [u8; Info::LEN]>,
        lists: Lists,
        mut map: impl FnMut(&str) -> Result<Map, GateError>,
    ) -> Result<Self, GateError> {
        Ok(Self {
            info,
            lists,
            globals: typed(abi::GLOBALS, map(abi::GLOBALS)?)?,
            links: Links::new(typed(abi::LINKS, map(abi::LINKS)?)?),
            bans: typed(abi::BANS, map(abi::BANS)?)?,
            banned: StdHashMap::new(),
            counters: typed(abi::COUNTERS, map(abi::COUNTERS)?)?,
            sockets: typed(abi::SOCKETS, map(abi::SOCKETS)?)?,
            events: Some(map(abi::EVENTS)?),
        })
    }

    /// Says that the program is now the one of this binary.
    pub(crate) fn set_info(&mut self) -> Result<(), GateError> {
        let info = Info { second_tries: self.lists.second_tries(), ..Info::own() };
        self.info.set(0, info.to_bytes(), 0).map_err(GateError::map(INFO))
    }

    /// Puts a configuration in force.
    pub(crate) fn set_config(&mut self, config: &Config) -> Result<(), GateError> {
        let mut now = self.globals.get(&0, 0).map_err(GateError::map(abi::GLOBALS))?;
        Globals::set_spare(&mut now, config);
        self.globals.set(0, now, 0).map_err(GateError::map(abi::GLOBALS))?;
        Globals::switch(&mut now);
        self.globals.set(0, now, 0).map_err(GateError::map(abi::GLOBALS))
    }

    /// The generation of the configuration in force; 0 if none was ever written.
    pub(crate) fn generation(&self) -> Result<u64, GateError> {
        let now = self.globals.get(&0, 0).map_err(GateError::map(abi::GLOBALS))?;
        let config = Globals::in_force_of(&now);
        Ok(config[..8].iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)))
    }

    /// Puts a list in force. True if it was another one.
    pub(crate) fn set_list(&mut self, list: List, entries: Vec<Entry>) -> Result<bool, GateError> {
        let changed = self.lists.set(list, entries)?;
        if changed {
            self.set_second_tries()?;
        }
        Ok(changed)
    }

    fn set_second_tries(&mut self) -> Result<(), GateError> {
        let bytes = self.info.get(&0, 0).map_err(GateError::map(INFO))?;
        let info = Info { second_tries: self.lists.second_tries(), ..Info::from_bytes(&bytes) };
        self.info.set(0, info.to_bytes(), 0).map_err(GateError::map(INFO))
    }

    pub(crate) fn list_len(&self, list: List) -> usize {
        self.lists.len(list)
    }

    /// Puts exactly these bans of single addresses in force. New ones come before old ones go.
    pub(crate) fn set_bans(&mut self, bans: &StdHashMap<[u8; 16], u64>) -> Result<(), GateError> {
        let entries_max = abi::BANS_MAX as usize;
        if bans.len() > entries_max {
            return Err(GateError::Full { map: abi::BANS, entries_max });
        }
        let gone: Vec<[u8; 16]> =
            self.banned.keys().filter(|key| !bans.contains_key(*key)).copied().collect();
        if self.banned.len() + bans.len() > entries_max {
            // Room for the new ones first.
            self.remove_bans(&gone)?;
        }
        for (key, until) in bans {
            if self.banned.get(key) != Some(until) {
                self.bans.insert(key, until, 0).map_err(GateError::map(abi::BANS))?;
                self.banned.insert(*key, *until);
            }
        }
        self.remove_bans(&gone)
    }

    fn remove_bans(&mut self, keys: &[[u8; 16]]) -> Result<(), GateError> {
        for key in keys {
            if self.banned.remove(key).is_some() {
                ignore_missing(self.bans.remove(key)).map_err(GateError::map(abi::BANS))?;
            }
        }
        Ok(())
    }

    pub(crate) fn bans_len(&self) -> usize {
        self.banned.len()
    }

    pub(crate) fn insert_link(&mut self, key: LinkKey, link: Link) -> Result<(), GateError> {
        self.links.insert(&mut self.globals, key, link)
    }

    pub(crate) fn remove_link(&mut self, key: LinkKey) -> Result<(), GateError> {
        self.links.remove(&mut self.globals, key)
    }

    pub(crate) fn links(&self) -> Result<Vec<(LinkKey, Link)>, GateError> {
        self.links.all()
    }

    /// A counter, summed over all CPUs.
    pub(crate) fn count(&self, index: u32) -> Result<Count, GateError> {
        let per_cpu = self.counters.get(&index, 0).map_err(GateError::map(abi::COUNTERS))?;
        Ok(per_cpu.iter().map(Count::from_bytes).fold(Count::default(), |sum, count| Count {
            packets: sum.packets.wrapping_add(count.packets),
            bytes: sum.bytes.wrapping_add(count.bytes),
        }))
    }

    /// The ring buffer, once.
    pub(crate) fn take_events(&mut self) -> Result<RingBuf<MapData>, GateError> {
        let map = self
            .events
            .take()
            .ok_or_else(|| GateError::Map { map: abi::EVENTS.into(), why: "is being read already".into() })?;
        typed(abi::EVENTS, map)
    }
}

/// Removing what is not there is fine.
pub(crate) fn ignore_missing(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(call)) if call.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        result => result,
    }
}
