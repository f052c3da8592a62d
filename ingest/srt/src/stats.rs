//! Counters: of one connection and of the endpoint.

use std::time::Duration;

/// State and totals of one connection. Counts are since the connection began.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Smoothed round-trip time: measured by ACKACK when receiving, else as the peer reports it.
    pub rtt: Duration,
    /// Deviation of the round-trip time.
    pub rtt_var: Duration,
    /// Negotiated delay of what we deliver.
    pub receive_latency: Duration,
    /// Negotiated delay of what the peer delivers.
    pub send_latency: Duration,
    /// How long a gap is held before it is reported as loss.
    pub reorder_hold: Duration,
    /// Data packets received, of any kind.
    pub received: u64,
    /// Their payload bytes.
    pub received_bytes: u64,
    /// Payloads handed to the application.
    pub delivered: u64,
    /// Their bytes.
    pub delivered_bytes: u64,
    /// Sequence numbers that were found missing when a later one arrived, reordered ones included.
    pub gaps: u64,
    /// Sequence numbers that were reported to the peer as lost (each counted once).
    pub lost: u64,
    /// Packets that filled a gap without having been retransmitted.
    pub reordered: u64,
    /// Retransmitted packets received.
    pub received_retransmissions: u64,
    /// Packets received a second time while still in the buffer.
    pub duplicates: u64,
    /// Packets received after their place had been delivered or given up.
    pub belated: u64,
    /// Packets that never arrived in time and were skipped.
    pub dropped: u64,
    /// Packets outside the flow window.
    pub out_of_window: u64,
    /// Payloads that could not be decrypted.
    pub undecryptable: u64,
    /// Payloads discarded because the endpoint's payload pool was exhausted.
    pub no_memory: u64,
    /// NAK packets sent.
    pub naks_sent: u64,
    /// ACK packets sent, light ones included.
    pub acks_sent: u64,
    /// Packets between the next to deliver and the highest received.
    pub receive_buffer: u32,
    /// Bytes per second received, over the last half second.
    pub receive_rate: u64,
    /// Clock drift applied so far, microseconds (positive: the peer's clock is slower).
    pub drift_us: i64,
    /// Data packets sent for the first time.
    pub sent: u64,
    /// Their payload bytes.
    pub sent_bytes: u64,
    /// Retransmissions sent.
    pub retransmitted: u64,
    /// Sequence numbers asked for by NAK that were asked for again within a round trip, and ignored.
    pub naks_deduplicated: u64,
    /// NAK packets received.
    pub naks_received: u64,
    /// Packets dropped unsent or unacknowledged because they were too late.
    pub send_dropped: u64,
    /// ACKs for packets never sent, and NAKs outside what is in flight; ignored.
    pub invalid_reports: u64,
    /// Packets waiting to be sent or acknowledged.
    pub send_buffer: u32,
}

/// Totals of an endpoint. `received` is always the sum of `consumed` and the drops.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct EndpointCounters {
    /// Datagrams handed in.
    pub received: u64,
    /// Datagrams that reached a connection or the handshake.
    pub consumed: u64,
    /// Dropped: not SRT, or body malformed.
    pub dropped_malformed: u64,
    /// Dropped: for a socket ID that does not exist (any more).
    pub dropped_unknown_socket: u64,
    /// Dropped: from another peer than the connection's.
    pub dropped_wrong_peer: u64,
    /// Dropped: CONCLUSION without a valid cookie.
    pub dropped_bad_cookie: u64,
    /// Dropped: handshake out of place, or a table or queue was full.
    pub dropped_handshake: u64,
    /// Datagrams given out.
    pub transmitted: u64,
    /// Connections established, both roles.
    pub connected: u64,
    /// Connections refused, by us.
    pub refused: u64,
    /// Payloads discarded because the pool was exhausted.
    pub pool_overflowed: u64,
}

impl EndpointCounters {
    /// Sum of all drops.
    pub fn dropped(&self) -> u64 {
        self.dropped_malformed
            + self.dropped_unknown_socket
            + self.dropped_wrong_peer
            + self.dropped_bad_cookie
            + self.dropped_handshake
    }
}
