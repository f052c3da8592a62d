//! Deterministic simulator: impaired links, a virtual clock, and worlds in which the real protocol cores meet.
//!
//! * [`link`]: one direction of an impaired link, pure; also used on real sockets by the demo.
//! * [`rng`]: the reproducible random numbers behind it.
#![forbid(unsafe_code)]

pub mod link;
pub mod rng;
