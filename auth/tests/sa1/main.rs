//! SA1 end to end, and under attack: both sides of `bondgate_auth::sa1` against each other with fixed keys and a clock
//! made of numbers.

#![allow(clippy::unwrap_used, reason = "a test that unwraps nothing fails, as it should")]

mod attacks;
mod flips;
mod registration;
mod rig;
mod vectors;
mod words;
