//! SRT in live mode (handshake version 5) as state machines: listener and caller, receiving and sending.
//!
//! No sockets, no threads, no clock: datagrams and `Instant`s go in, datagrams and events come out. One
//! [`Endpoint`] holds any number of connections; `P` is whatever the application uses to say where datagrams go
//! (a plain address, or the key of a bonded group whose links are passed as `path`).
//!
//! # The loop
//!
//! 1. Wait for a datagram until [`Endpoint::poll_timeout`] at the latest.
//! 2. Hand every datagram to [`Endpoint::handle`]; then call [`Endpoint::handle_timeout`].
//! 3. Call [`Endpoint::poll_event`] until it returns `None`, answering `Incoming` with [`Endpoint::accept`] or
//!    [`Endpoint::reject`] and taking the payloads of `Data`.
//! 4. Call [`Endpoint::send`], [`Endpoint::connect`], [`Endpoint::finish`] or [`Endpoint::close`] as wanted.
//! 5. Call [`Endpoint::poll_transmit`] until it returns `None`, sending each datagram.
//! 6. Go to 1.
//!
//! Steps 3 and 5 must be done after every call that takes `now`, before waiting again. When the event queue is
//! full, payloads stay in their receive buffers and callers are not seen; nothing else is lost by draining late.
//!
//! # Promises
//!
//! * Bytes from the network cannot cause a panic or unbounded memory.
//! * Nothing is stored about a caller before it has returned a keyed cookie.
//! * Payloads come in order, once, each at its playback time (timestamp + negotiated latency, drift corrected).
//! * Reordering between links of a bonded group is not reported as loss while a packet may still be under way.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_types)]

mod config;
mod connection;
mod cookie;
mod crypto;
mod endpoint;
mod event;
pub mod packet;
mod pool;
mod receive;
mod reject;
mod send;
mod seq;
mod stats;
mod time;

pub use config::{AcceptOptions, ConnectOptions, EndpointConfig};
pub use endpoint::{Endpoint, TRANSMIT_MIN, Transmit};
pub use event::{CloseReason, ConnId, Event, IncomingId, Role, SendError};
pub use reject::RejectReason;
pub use seq::{MsgNo, Seq};
pub use stats::{EndpointCounters, Stats};
