//! What can go wrong with the gate, each with what to do about it.

use std::fmt;
use std::io;
use std::path::PathBuf;

use bondgate_ebpf_common::abi::List;

use crate::features::Missing;

/// Why something could not be done.
#[derive(Debug)]
pub enum GateError {
    /// The kernel, the rights or the machine lack something.
    Missing(Vec<Missing>),
    /// There is no such network interface here.
    NoInterface(String),
    /// Another XDP program has the interface.
    Occupied(String),
    /// The driver refused.
    Attach {
        /// The interface.
        interface: String,
        /// What was tried.
        mode: crate::Mode,
        /// What the system said, and what that usually means.
        why: String,
    },
    /// The kernel did not take the programs or maps.
    Load(String),
    /// What is pinned belongs to another version of bondgate.
    Layout {
        /// Layout of the maps that are pinned.
        found: u32,
        /// Layout of this binary.
        expected: u32,
    },
    /// Nothing is pinned there.
    NotThere(PathBuf),
    /// More prefixes than a list takes.
    ListFull {
        /// Which list.
        list: List,
        /// How many there were to be.
        prefixes: usize,
        /// How many it takes.
        prefixes_max: usize,
    },
    /// A map does not take more entries.
    Full {
        /// Name of the map.
        map: &'static str,
        /// How many it takes.
        entries_max: usize,
    },
    /// A map could not be read or written.
    Map {
        /// Name of the map.
        map: String,
        /// What the system said.
        why: String,
    },
    /// A file of the BPF file system.
    Pin {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// What is kept of both ends of a message that is too long.
const KEPT_CHARS: usize = 600;

impl GateError {
    pub(crate) fn map(map: impl Into<String>) -> impl FnOnce(aya::maps::MapError) -> Self {
        let map = map.into();
        move |error| Self::Map { map, why: chain(&error) }
    }

    pub(crate) fn pin(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Pin { path, source }
    }

    pub(crate) fn load(what: &'static str) -> impl FnOnce(&dyn std::error::Error) -> Self {
        move |error| Self::Load(format!("{what}: {}", chain(error)))
    }
}

/// An error with its causes, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    shortened(&text)
}

/// The verifier's log can be long: how it began and why it ended are enough.
fn shortened(text: &str) -> String {
    let count = text.chars().count();
    if count <= 2 * KEPT_CHARS {
        return text.to_owned();
    }
    let head = text.chars().take(KEPT_CHARS);
    let tail = text.chars().skip(count - KEPT_CHARS);
    head.chain(" [...] ".chars()).chain(tail).collect()
}

impl fmt::Display for GateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(missing) => {
                for (index, one) in missing.iter().enumerate() {
                    write!(f, "{}{one}", if index == 0 { "" } else { "; " })?;
                }
                Ok(())
            }
            Self::NoInterface(name) => {
                write!(f, "there is no network interface \"{name}\" here; `ip link` lists them")
            }
            Self::Occupied(name) => write!(
                f,
                "another XDP program is attached to {name}; `ip link show dev {name}` names it, `ip link set dev {name} xdp off` \
                 removes it unless a program holds it"
            ),
            Self::Attach { interface, mode, why } => {
                write!(f, "{interface} does not take XDP in {mode} mode: {why}")
            }
            Self::Load(why) => write!(f, "the kernel did not take the gate: {why}"),
            Self::Layout { found, expected } => write!(
                f,
                "the gate that is attached belongs to another version of bondgate (maps of layout {found}, this is {expected}); \
                 `bondgate xdp replace` puts this version's in its place"
            ),
            Self::NotThere(dir) => write!(
                f,
                "there is no gate in {}; `bondgate xdp attach` or gate.interfaces in the configuration make one",
                dir.display()
            ),
            Self::ListFull { list, prefixes, prefixes_max } => write!(
                f,
                "{prefixes} prefixes are too many for the gate's list of {}: it takes {prefixes_max}; the list in force stays. \
                 Merge neighbouring networks",
                match list {
                    List::Bans => "bans",
                    List::Allow => "allowed networks",
                    List::Geo => "countries",
                    List::StockAllow => "networks of senders without a key",
                }
            ),
            Self::Full { map, entries_max } => {
                write!(f, "the gate's map {map} is full: it takes {entries_max} entries")
            }
            Self::Map { map, why } => write!(f, "the gate's map {map}: {why}"),
            Self::Pin { path, source } => write!(f, "{}: {source}", path.display()),
        }
    }
}

impl std::error::Error for GateError {}
