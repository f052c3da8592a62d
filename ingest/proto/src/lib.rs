//! SRTLA as state machines: the receiver side, the sender side and the wire codec both share.
//!
//! The crate is sans-IO: it opens no socket, reads no clock and draws no randomness. Time, keys and seeds are
//! arguments; datagrams come in as byte slices and leave as verdicts about *where the bytes go* plus rare actions.
//! Nothing a peer sends can panic, grow a table or allocate at steady state.

#![forbid(unsafe_code)]
#![deny(clippy::disallowed_types)]

mod addr;
mod keys;
mod seq;

pub mod receiver;
pub mod sender;
pub mod wire;

pub use addr::LinkAddr;
pub use keys::{GroupKey, LinkKey};
pub use seq::Seq;
