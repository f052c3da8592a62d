//! The loader of the gate: the only crate that knows aya.
//!
//! What the programs decide and how their maps are laid out is in `bondgate_ebpf_common`; they come as one committed object,
//! so that building needs the stable tool chain only. A [`Gate`] is made or found under a directory of a BPF file system, and
//! is attached, filled, read, replaced and detached through it.

#![deny(unsafe_code)]

pub mod bench;
mod error;
pub mod features;
mod gate;
mod interface;
mod links;
mod lists;
mod maps;
pub mod object;
mod pins;
mod stats;
mod sys;

pub use error::GateError;
pub use gate::{Attached, Attachment, Gate, Mode, Pinned, Wanted};
pub use lists::{Entry, Network, PREFIXES_MAX};
pub use maps::Info;
pub use stats::{Counters, Events, Fill, Sighting};
