//! Who may register or connect.
//!
//! Sans-IO: keys, time (as epoch numbers) and randomness are arguments. Today this is the registration [`ticket`] that
//! stock senders carry without knowing it.

#![forbid(unsafe_code)]

pub mod ticket;
