//! What the endpoint tells the application.

use crate::reject::RejectReason;
use bytes::Bytes;
use std::fmt;
use std::time::Duration;

/// A connection or a call: the local SRT socket ID, unique within the endpoint's lifetime for all practical
/// purposes (slot index and random bits).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ConnId(pub(crate) u32);

impl ConnId {
    /// The local SRT socket ID, as packet captures show it.
    pub fn socket_id(self) -> u32 {
        self.0
    }
}

/// A caller that waits for an answer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct IncomingId(pub(crate) u32);

/// Why a connection ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum CloseReason {
    /// `close` was called.
    Local,
    /// `finish` was called and everything was delivered or given up.
    Finished,
    /// The peer sent SHUTDOWN.
    PeerShutdown,
    /// The peer fell silent.
    PeerIdle,
    /// The caller has begun a new session with the same socket ID.
    Replaced,
    /// No answer to a call.
    ConnectTimeout,
    /// The peer refused the call.
    Rejected(RejectReason),
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local => f.write_str("closed here"),
            Self::Finished => f.write_str("finished"),
            Self::PeerShutdown => f.write_str("closed by the peer"),
            Self::Replaced => f.write_str("replaced by a new session of the same caller"),
            Self::PeerIdle => f.write_str("peer fell silent"),
            Self::ConnectTimeout => f.write_str("no answer to the call"),
            Self::Rejected(reason) => write!(f, "call rejected: {reason}"),
        }
    }
}

/// Which side called.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Role {
    /// The peer called us.
    Listener,
    /// We called.
    Caller,
}

/// Something the application should know. Of one connection: `Connected`, then any number of `Data`, then one
/// `Closed`; a call that fails gives `Closed` alone.
#[derive(Clone, Debug)]
pub enum Event<P> {
    /// A caller wants in: answer with `accept` or `reject`.
    Incoming {
        /// For the answer.
        id: IncomingId,
        /// Where it comes from.
        peer: P,
        /// Its stream ID; arbitrary bytes, possibly none.
        stream_id: Bytes,
        /// Delay it wants for what it sends.
        send_latency: Duration,
        /// Delay it wants for what it receives.
        receive_latency: Duration,
        /// Its library version, `0x00MMmmpp`.
        version: u32,
    },
    /// A caller was not answered in time and has been refused.
    Expired {
        /// It.
        id: IncomingId,
    },
    /// A caller was refused by the engine itself (encryption, version, group, ...).
    Refused {
        /// Where it came from.
        peer: P,
        /// Its stream ID as far as it was read.
        stream_id: Bytes,
        /// Why.
        reason: RejectReason,
    },
    /// A connection is established.
    Connected {
        /// It.
        conn: ConnId,
        /// Its peer.
        peer: P,
        /// Who called.
        role: Role,
        /// Delay of what we deliver.
        receive_latency: Duration,
        /// Delay of what the peer delivers.
        send_latency: Duration,
    },
    /// A payload, in order, at its playback time.
    Data {
        /// From this connection.
        conn: ConnId,
        /// The bytes; cheap to clone.
        payload: Bytes,
        /// The sender's clock at this payload, microseconds since its start, unwrapped.
        source_us: i64,
    },
    /// A connection ended, or a call failed.
    Closed {
        /// It.
        conn: ConnId,
        /// Why.
        reason: CloseReason,
    },
}

/// Why a payload was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum SendError {
    /// No such connection, or not established yet.
    NotConnected,
    /// It is being closed.
    Closing,
    /// The send buffer is full; nothing was taken.
    Full,
    /// Larger than a packet of this connection can carry, or empty.
    BadLength,
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotConnected => "not connected",
            Self::Closing => "connection is closing",
            Self::Full => "send buffer full",
            Self::BadLength => "payload length does not fit a packet",
        })
    }
}

impl std::error::Error for SendError {}
