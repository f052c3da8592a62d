//! Fuzzing on the stable toolchain: targets, seeds, a structure-aware mutator, and the storm.
//!
//! * [`targets`]: one plain function `fn(&[u8])` for every parser and every state machine; a defect is a panic.
//! * [`seeds`]: committed inputs to start from.
//! * [`mutate`]: changes inputs the way hostile or broken peers do, reproducibly.
//! * [`storm`]: a whole conversation (encoder, bonding sender, receiver, SRT endpoint, player) in virtual time, into which
//!   mutated copies of its own datagrams are thrown by the million.
//! * [`alloc`]: counts the bytes that are allocated, so that growth is noticed.

pub mod alloc;
pub mod mutate;
pub mod seeds;
pub mod storm;
pub mod targets;
