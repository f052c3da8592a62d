//! Who may register or connect.
//!
//! Sans-IO: keys, time and randomness are arguments. The registration [`ticket`] is what stock senders carry without
//! knowing it; [`sa1`] is the registration of senders that hold a device key; [`keyring`] is what an operator keeps of
//! devices and tokens, [`table`] what packet cores know of it; [`stream`] says who may publish or play what.

#![forbid(unsafe_code)]

pub mod bans;
pub mod cidr;
pub mod geo;
pub mod keyring;
pub mod prefix;
pub mod sa1;
pub mod stream;
pub mod table;
pub mod ticket;
mod verified;

pub use verified::Verified;
