//! Who may register or connect.
//!
//! Sans-IO: keys, time and randomness are arguments. The registration [`ticket`] is what stock senders carry without
//! knowing it; [`sa1`] is the registration of senders that hold a device key.

#![forbid(unsafe_code)]

pub mod sa1;
pub mod table;
pub mod ticket;
mod verified;

pub use verified::Verified;
