//! How much a backend may use, decided once at start. Nothing grows afterwards: what does not fit is refused or
//! dropped, and counted in [`IoCounters`].

/// When a listener asks the kernel to merge consecutive datagrams of one peer (`UDP_GRO`).
///
/// Merged receiving needs 64 KB buffers. It pays when one peer has several datagrams in one drain (one fat link, a
/// backlog, a test) and costs a little when many peers interleave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Gro {
    /// Never.
    Off,
    /// Always, on every listener.
    On,
    /// Per listener: on when a turn brings more than two datagrams per peer, off when merging finds little to merge.
    #[default]
    Adaptive,
}

/// Sizes of every table and pool of a backend, all allocated by `open`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Sockets that may be added at the same time (at most 2^20). Each also takes a file descriptor.
    pub sockets: usize,
    /// Receive buffers of 2 KB; rounded up to a power of two, at most 32768.
    pub buffers: usize,
    /// Receive buffers of 64 KB for listeners with GRO; rounded up to a power of two, at most 32768. Memory is
    /// taken from the system only when such a buffer is first used. Ignored when `gro` is [`Gro::Off`].
    pub gro_buffers: usize,
    /// When listeners merge on receive.
    pub gro: Gro,
    /// Send runs of equal-sized datagrams with one `UDP_SEGMENT` call.
    pub gso: bool,
    /// Datagrams handed over in one turn, at most. At least 256.
    pub turn_datagrams: usize,
    /// `forward` and `send` calls accepted in one turn; further ones are dropped and counted.
    pub turn_sends: usize,
    /// Bytes that `send` may copy in one turn; further ones are dropped and counted.
    pub turn_send_bytes: usize,
    /// Upper bound, in microseconds, of the deliberate wait for more datagrams once the first has arrived. It is 0
    /// below about 2000 datagrams per second and adapts above; 0 here switches it off.
    pub linger_us_max: u32,
    /// Datagrams per turn that the deliberate wait aims at: it is as long as so many take to come, within its bound.
    pub linger_datagrams: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            sockets: 1024,
            buffers: 4096,
            gro_buffers: 256,
            gro: Gro::Adaptive,
            gso: true,
            turn_datagrams: 1024,
            turn_sends: 8192,
            turn_send_bytes: 1 << 20,
            linger_us_max: 300,
            linger_datagrams: 16,
        }
    }
}

/// What a backend counted since it was opened. Plain numbers, owned by the thread that runs the loop.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IoCounters {
    /// Turns (`receive` calls that returned).
    pub turns: u64,
    /// Turns ended by a [`crate::Waker`].
    pub wakes: u64,
    /// Turns that deliberately waited for more than the first datagram ([`Limits::linger_us_max`]).
    pub lingers: u64,
    /// Datagrams handed to the caller.
    pub rx_datagrams: u64,
    /// Payload bytes of those.
    pub rx_bytes: u64,
    /// Receives that carried more than one datagram (GRO).
    pub rx_gro_batches: u64,
    /// Datagrams that came in such receives.
    pub rx_gro_datagrams: u64,
    /// Datagrams longer than a buffer, discarded.
    pub rx_truncated: u64,
    /// Datagrams the kernel discarded because a socket's receive queue was full. Of listeners this
    /// is read every 100 ms ([`crate::Backend::note_time`]); for others the kernel tells with the next datagram that it could queue.
    pub rx_kernel_drops: u64,
    /// Times that no free receive buffer was left; the datagrams wait in the socket's queue.
    pub rx_no_buffers: u64,
    /// Multishot receives that ended and were armed again (uring).
    pub rx_rearms: u64,
    /// Datagrams of a socket that had been removed meanwhile, discarded.
    pub rx_stale: u64,
    /// Receive errors other than would-block.
    pub rx_errors: u64,
    /// Datagrams given to the kernel and accepted.
    pub tx_datagrams: u64,
    /// Payload bytes of those.
    pub tx_bytes: u64,
    /// Messages given to the kernel (one may carry several datagrams).
    pub tx_messages: u64,
    /// Messages that carried more than one datagram (GSO).
    pub tx_gso_messages: u64,
    /// Datagrams that went out in such messages.
    pub tx_gso_datagrams: u64,
    /// Sockets for which GSO was given up because the kernel refused it (device without it, segments above the MTU).
    pub tx_gso_fallbacks: u64,
    /// Datagrams dropped because the socket's send queue was full.
    pub tx_would_block: u64,
    /// Datagrams dropped by any other send error.
    pub tx_errors: u64,
    /// Datagrams dropped because the turn's send table or arena was full.
    pub tx_no_room: u64,
    /// Datagrams for a socket that does not exist (any more).
    pub tx_no_socket: u64,
    /// Errors that did not fit into the queue behind `next_error`.
    pub errors_lost: u64,
}
