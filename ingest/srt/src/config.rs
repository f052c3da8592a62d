//! What the application decides: sizes, times and per-connection options.

use crate::seq::Seq;
use bytes::Bytes;
use std::time::Duration;

/// Settings of an endpoint; everything is sized from them at start or bounded by them.
#[derive(Clone, Debug)]
pub struct EndpointConfig {
    /// Answer handshakes of callers.
    pub listen: bool,
    /// Least latency of accepted connections, both directions; the peer may ask for more.
    pub latency: Duration,
    /// Most latency granted for what we receive, however much the peer asks for.
    pub latency_max: Duration,
    /// Connections at a time, calls included (at most 65 536).
    pub connections_max: usize,
    /// Callers waiting for the application's answer, and refusals remembered, at a time.
    pub incoming_max: usize,
    /// How long a caller waits for the application before it is refused with `RESOURCE`.
    pub incoming_timeout: Duration,
    /// Events not yet taken by the application. Payloads wait in their buffers meanwhile.
    pub events_max: usize,
    /// Receive buffer and announced flow window, packets. A connection begins with one packet for each millisecond of its
    /// latency and doubles that up to this limit when its stream needs more (64 bytes per packet, besides payloads).
    pub flow_window: usize,
    /// Send buffer, packets. A connection begins with one packet for each millisecond after which it drops (a second at
    /// least) and doubles that up to this limit when it needs more (64 bytes per packet).
    pub send_buffer: usize,
    /// Silence after which a peer is gone.
    pub peer_idle: Duration,
    /// Bytes of a chunk of the payload pool.
    pub pool_chunk_bytes: usize,
    /// Chunks of the payload pool. With the first payload of a connection in a direction as many are made as what its
    /// buffer begins with can pin, further ones when they are needed, up to this limit; when all are in use, received
    /// payloads are discarded.
    pub pool_chunks_max: usize,
}

impl Default for EndpointConfig {
    fn default() -> Self {
        Self {
            listen: true,
            latency: Duration::from_millis(120),
            latency_max: Duration::from_secs(10),
            connections_max: 256,
            incoming_max: 64,
            incoming_timeout: Duration::from_secs(3),
            events_max: 4096,
            flow_window: 8192,
            send_buffer: 8192,
            peer_idle: Duration::from_secs(5),
            pool_chunk_bytes: 64 << 10,
            pool_chunks_max: 8192,
        }
    }
}

/// Options of a call.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// Stream ID, at most 512 bytes; longer ones are cut.
    pub stream_id: Bytes,
    /// Latency wanted in both directions; the peer may ask for more.
    pub latency: Duration,
    /// How long the whole handshake may take.
    pub connect_timeout: Duration,
    /// First sequence number; random when `None`, which is right outside tests.
    pub initial_seq: Option<Seq>,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self {
            stream_id: Bytes::new(),
            latency: Duration::from_millis(120),
            connect_timeout: Duration::from_secs(3),
            initial_seq: None,
        }
    }
}

/// Options of an accepted connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct AcceptOptions {
    /// Least latency of what we receive; zero leaves the endpoint's.
    pub receive_latency: Duration,
    /// Least latency of what we send; zero leaves the endpoint's.
    pub send_latency: Duration,
}
