//! Deterministic simulator: impaired links, a virtual clock, and worlds in which the real protocol cores meet.
//!
//! * [`link`]: one direction of an impaired link, pure; also used on real sockets by the demo.
//! * [`stock`]: emulators of the stock bonding senders, sans-IO; also used on real sockets by the end-to-end tests.
//! * [`world`]: encoder, sender, links, receiver and SRT server under one virtual clock.
//! * [`rng`]: the reproducible random numbers behind all of it.
//! * [`wire`]: the few wire facts needed, independent of the crates under test.
#![forbid(unsafe_code)]

pub mod link;
pub mod rng;
pub mod stock;
pub mod wire;
pub mod world;
