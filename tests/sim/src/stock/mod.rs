//! Emulators of the stock bonding senders, written by us from their observed behaviour.
//!
//! * [`BelaboxC`]: the C sender of BELABOX (and, in a debug build, irlserver's C++ sender).
//! * [`IrlRust`]: irlserver's Rust sender in its classic mode.
//! * [`Moblin`]: the client inside the iOS app.
//!
//! Promises: no I/O and no clock, so the same emulator drives simulated links and real sockets. They are behaviour, not
//! code: timers, what is repeated and what is not, which packets are believed, and the window arithmetic, with the known
//! mistakes. What is left out is said at each of them.

mod belabox;
mod irl_rust;
mod moblin;
mod window;

use std::time::Instant;

pub use belabox::BelaboxC;
pub use irl_rust::IrlRust;
pub use moblin::Moblin;

/// What a bonding sender wants done, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send the datagram to the receiver on this link's socket.
    ToLink {
        /// Index of the link.
        link: usize,
        /// The datagram.
        bytes: Vec<u8>,
    },
    /// Hand the datagram to the local SRT encoder.
    ToLocal(Vec<u8>),
    /// Close this link's socket and open a new one (new source port) before the next `ToLink` on it.
    NewSocket(usize),
}

/// A bonding sender without I/O: stock emulators, and bondgate's own sender behind an adapter.
///
/// The sender starts by itself: `poll_timeout` is due at once after creation.
pub trait BondingSender {
    /// A datagram from the local encoder.
    fn handle_local(&mut self, now: Instant, bytes: &[u8], out: &mut Vec<Output>);
    /// A datagram from the receiver on a link.
    fn handle_link(&mut self, now: Instant, link: usize, bytes: &[u8], out: &mut Vec<Output>);
    /// Does what is due at `now`.
    fn handle_timeout(&mut self, now: Instant, out: &mut Vec<Output>);
    /// When [`BondingSender::handle_timeout`] wants to be called next.
    fn poll_timeout(&self) -> Option<Instant>;
    /// How many links the sender itself believes to be usable.
    fn links_up(&self, now: Instant) -> usize;
    /// A name for reports.
    fn name(&self) -> &'static str;
    /// A law the sender broke about its own counters, if it has such laws.
    fn violation(&self) -> Option<String> {
        None
    }
}
