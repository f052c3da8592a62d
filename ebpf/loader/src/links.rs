//! The registered links, and the source ports that they have.
//!
//! The program looks for a frame's source port among these before it asks for the link, so the two maps are written together: a
//! port's bit comes before its first link and goes after its last one. Promises: a link in the map always has its bit, whatever
//! write fails and whenever this process ends; a bit that is left over is cleared by whoever writes next.

use std::collections::HashMap as StdHashMap;

use aya::maps::{Array, HashMap, MapData, MapError};
use bondgate_ebpf_common::abi::{self, Globals, Link, LinkKey};

use crate::GateError;

/// `BPF_NOEXIST`: refused if the key is there.
const BPF_NOEXIST: u64 = 1;

/// The map with the bits.
type Ports = Array<MapData, [u8; Globals::LEN]>;

/// The links.
pub(crate) struct Links {
    map: HashMap<MapData, [u8; LinkKey::LEN], [u8; Link::LEN]>,
    /// How many links have a port: read from the map before the first is written.
    counts: Option<StdHashMap<u16, u32>>,
}

impl Links {
    pub(crate) fn new(map: HashMap<MapData, [u8; LinkKey::LEN], [u8; Link::LEN]>) -> Self {
        Self { map, counts: None }
    }

    pub(crate) fn all(&self) -> Result<Vec<(LinkKey, Link)>, GateError> {
        self.map
            .iter()
            .map(|entry| {
                let (key, link) = entry.map_err(GateError::map(abi::LINKS))?;
                Ok((LinkKey::from_bytes(&key), Link::from_bytes(&link)))
            })
            .collect()
    }

    pub(crate) fn insert(&mut self, globals: &mut Ports, key: LinkKey, link: Link) -> Result<(), GateError> {
        self.count(globals)?;
        let port = key.port();
        let is_first = self.links_of(port) == 0;
        if is_first {
            set_bit(globals, port, true)?;
        }
        let (key, link) = (key.to_bytes(), link.to_bytes());
        let inserted = match self.map.insert(key, link, BPF_NOEXIST) {
            Err(error) if is_errno(&error, libc::EEXIST) => {
                return self.map.insert(key, link, 0).map_err(refused);
            }
            inserted => inserted,
        };
        match inserted {
            Ok(()) => *self.counts.get_or_insert_default().entry(port).or_default() += 1,
            Err(error) => {
                if is_first {
                    set_bit(globals, port, false)?;
                }
                return Err(refused(error));
            }
        }
        Ok(())
    }

    pub(crate) fn remove(&mut self, globals: &mut Ports, key: LinkKey) -> Result<(), GateError> {
        self.count(globals)?;
        match self.map.remove(&key.to_bytes()) {
            Ok(()) => {}
            Err(MapError::KeyNotFound) => return Ok(()),
            Err(error) if is_errno(&error, libc::ENOENT) => return Ok(()),
            Err(error) => return Err(GateError::map(abi::LINKS)(error)),
        }
        let port = key.port();
        let left = self.links_of(port).saturating_sub(1);
        let counts = self.counts.get_or_insert_default();
        if left > 0 {
            counts.insert(port, left);
            return Ok(());
        }
        counts.remove(&port);
        set_bit(globals, port, false)
    }

    fn links_of(&self, port: u16) -> u32 {
        self.counts.as_ref().and_then(|counts| counts.get(&port)).copied().unwrap_or(0)
    }

    /// Counts the links that a predecessor left, and makes the bits theirs.
    fn count(&mut self, globals: &mut Ports) -> Result<(), GateError> {
        if self.counts.is_some() {
            return Ok(());
        }
        let mut counts = StdHashMap::new();
        let mut now = globals.get(&0, 0).map_err(GateError::map(abi::GLOBALS))?;
        Globals::clear_link_ports(&mut now);
        for (key, _) in self.all()? {
            *counts.entry(key.port()).or_default() += 1;
            Globals::set_link_port(&mut now, key.port(), true);
        }
        globals.set(0, now, 0).map_err(GateError::map(abi::GLOBALS))?;
        self.counts = Some(counts);
        Ok(())
    }
}

fn set_bit(globals: &mut Ports, port: u16, value: bool) -> Result<(), GateError> {
    let mut now = globals.get(&0, 0).map_err(GateError::map(abi::GLOBALS))?;
    Globals::set_link_port(&mut now, port, value);
    globals.set(0, now, 0).map_err(GateError::map(abi::GLOBALS))
}

fn is_errno(error: &MapError, errno: i32) -> bool {
    matches!(error, MapError::SyscallError(call) if call.io_error.raw_os_error() == Some(errno))
}

fn refused(error: MapError) -> GateError {
    if is_errno(&error, libc::E2BIG) {
        return GateError::Full { map: abi::LINKS, entries_max: abi::LINKS_MAX as usize };
    }
    GateError::map(abi::LINKS)(error)
}
