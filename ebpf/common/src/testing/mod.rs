//! What the tests of the gate share: frames, a gate without a kernel, and the table of verdicts.
//!
//! The table is run through [`decide`](crate::gate::decide) here, through the kernel's test run by the loader's tests, and
//! over a wire by those of the daemon. Only with the feature `testing`.

mod frames;
mod table;
mod world;

pub use frames::{Extension, FrameSpec, address, sa1, sa1_with, stock};
pub use table::{Row, rows};
pub use world::{DRY, EPOCHS, ListEntry, OTHER_PORT, SRT_PORT, SRTLA_PORT, World, gate_key};
