//! Where encryption sits: between the wire and the two buffers.
//!
//! Received payloads are opened on their way into the receive buffer (the one place where they are copied
//! anyway, and an authenticated cipher must refuse a forgery before it takes the place of the true packet);
//! payloads to send are sealed on their way from the send buffer into the datagram, so that a retransmission
//! gives the same bytes again. Only [`Crypto::Clear`] exists so far; key material in a handshake is refused
//! by the listener with `UNSECURE`.

use crate::packet::{DataView, KeyFlag};
use crate::pool::Pool;
use crate::seq::Seq;
use bytes::Bytes;

/// Encryption state of one connection.
#[derive(Debug)]
pub(crate) enum Crypto {
    /// No keys: payloads pass as they are.
    Clear,
}

/// Why a received payload is not kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum OpenError {
    /// Encrypted, and not with a key at hand.
    NoKey,
    /// The payload pool is exhausted.
    NoMemory,
}

impl Crypto {
    /// Copies a received payload into the pool, in clear.
    ///
    /// # Errors
    /// When it cannot be read with the keys at hand, or the pool is exhausted.
    pub(crate) fn open(&self, packet: &DataView<'_>, pool: &mut Pool) -> Result<Bytes, OpenError> {
        match (self, packet.key()) {
            (Self::Clear, KeyFlag::Clear) => pool.copy(packet.payload()).ok_or(OpenError::NoMemory),
            (Self::Clear, _) => Err(OpenError::NoKey),
        }
    }

    /// Writes the payload of packet `seq` into `out` and returns its length there and the key flag for the
    /// header; `None` when it does not fit.
    pub(crate) fn seal(&self, _seq: Seq, payload: &[u8], out: &mut [u8]) -> Option<(usize, KeyFlag)> {
        match self {
            Self::Clear => {
                out.get_mut(..payload.len())?.copy_from_slice(payload);
                Some((payload.len(), KeyFlag::Clear))
            }
        }
    }
}
