//! The gate, without its maps: what the XDP program decides and how its maps are laid out; and the same of the programs of the
//! bench, in [`bench`](mod@bench).
//!
//! Compiled twice from the same source: into the BPF program, and into user space, where the loader fills the maps and the
//! tests hold the two against each other. Promises: `no_std`, no `unsafe`, no allocation; no frame, however cut or forged,
//! makes anything here panic.

#![no_std]
#![forbid(unsafe_code)]
#![expect(clippy::inline_always, reason = "what the BPF program calls has to become one function")]

#[cfg(any(test, feature = "testing"))]
extern crate std;

pub mod abi;
pub mod bench;
pub mod bucket;
pub mod gate;
pub mod packet;
pub mod reason;
pub mod siphash;
pub mod steer;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
