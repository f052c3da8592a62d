//! What a world is made of, and what may happen to it.

use std::time::Duration;

use bondgate_proto::receiver::ReceiverConfig;
use bondgate_proto::sender::{Scheduler, SenderConfig};
use bondgate_srt::EndpointConfig;

use crate::link::LinkConfig;
use crate::wire::Kind;

/// Who bonds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SenderKind {
    /// bondgate's own sender.
    Bondgate(Scheduler),
    /// The same with a device key, at a receiver that admits nobody else.
    BondgateKey(Scheduler),
    /// The same with MACs on SRT packets.
    BondgateDataMac(Scheduler),
    /// The C sender of BELABOX, emulated.
    BelaboxC,
    /// irlserver's Rust sender, emulated.
    IrlRust,
    /// Moblin's client, emulated.
    Moblin,
    /// Nobody: the encoder speaks plain SRT over the first link.
    Plain,
}

/// Where the receiver passes the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// To the SRT engine in the same process; a restart of the receiver loses its sessions.
    Relay,
    /// To an SRT server elsewhere, from one source port per group; it outlives the receiver.
    Forward,
}

/// Which way a datagram goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// Sender to server.
    Up,
    /// Server to sender.
    Down,
}

/// Both directions of one link.
#[derive(Clone, Debug, PartialEq)]
pub struct LinkSpec {
    /// Sender to receiver.
    pub up: LinkConfig,
    /// Receiver to sender.
    pub down: LinkConfig,
    /// Whether its addresses are IPv6.
    pub ipv6: bool,
}

impl LinkSpec {
    /// The same behaviour in both directions.
    pub fn both(config: LinkConfig) -> Self {
        Self { up: config.clone(), down: config, ipv6: false }
    }
}

impl From<LinkConfig> for LinkSpec {
    fn from(config: LinkConfig) -> Self {
        Self::both(config)
    }
}

/// Everything that fixes a world: two worlds of the same setup and script are equal to the last bit.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Seed of all random numbers.
    pub seed: u64,
    /// Who bonds.
    pub sender: SenderKind,
    /// The links.
    pub links: Vec<LinkSpec>,
    /// Where the receiver passes the stream.
    pub output: Output,
    /// SRT latency asked for by the encoder, and floor of the server.
    pub latency: Duration,
    /// Bit rate of payload the encoder is fed with.
    pub bitrate_bps: u64,
    /// Length of every payload.
    pub payload_len: usize,
    /// First SRT sequence number of the encoder's first session, if it shall not be random.
    pub initial_seq: Option<u32>,
    /// How long the encoder waits after a lost or failed session before it tries again.
    pub encoder_retry: Duration,
    /// Configuration of the receiver core.
    pub receiver_config: ReceiverConfig,
    /// Configuration of bondgate's sender core; its scheduler is taken from `sender`.
    pub sender_config: SenderConfig,
    /// Configuration of both SRT engines; its latency is taken from `latency`.
    pub endpoint_config: EndpointConfig,
}

impl Default for Setup {
    /// bondgate's adaptive sender at 3 Mb/s over three perfect links of 20 ms, relay, 500 ms of latency.
    fn default() -> Self {
        Self {
            seed: 1,
            sender: SenderKind::Bondgate(Scheduler::Adaptive),
            links: vec![LinkConfig::wire(Duration::from_millis(20)).into(); 3],
            output: Output::Relay,
            latency: Duration::from_millis(500),
            bitrate_bps: 3_000_000,
            payload_len: 1316,
            initial_seq: None,
            encoder_retry: Duration::from_millis(200),
            // One group at a time needs no large tables, and hundreds of worlds are built.
            receiver_config: ReceiverConfig {
                groups_max: 8,
                pending_max: 32,
                foreign_max: 16,
                ..ReceiverConfig::default()
            },
            sender_config: SenderConfig::default(),
            endpoint_config: EndpointConfig {
                connections_max: 16,
                pool_chunks_max: 256,
                ..EndpointConfig::default()
            },
        }
    }
}

/// Something that happens to a world.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The link swallows everything, both ways.
    LinkDown(usize),
    /// The link works again.
    LinkUp(usize),
    /// Only this direction of the link swallows everything.
    OneWayDown(usize, Direction),
    /// The link behaves differently from now on.
    SetLink(usize, Box<LinkSpec>),
    /// The NAT in front of the link forgets it: new source address, the old one is dead.
    Rebind(usize),
    /// [`Fault::Rebind`] of all links at once.
    RebindAll,
    /// The receiver process restarts with the same ticket key and nothing else.
    RestartReceiver,
    /// The encoder process restarts: a new SRT session through the same sender.
    RestartEncoder,
    /// The receiver closes the groups it has, as when it evicts them.
    CloseGroups,
    /// The encoder is done and hangs up with its last payload: SHUTDOWN at once, and it does not come back.
    HangUp,
    /// The bonding sender's process restarts, with new sockets.
    RestartSender,
    /// Loses the next datagrams of a kind. See [`Lose`].
    Lose(Lose),
    /// Forgets all hooks of [`Fault::Lose`].
    LoseNoMore,
}

/// A hook that loses particular datagrams before the link sees them.
#[derive(Clone, Debug)]
pub struct Lose {
    /// Which way they go.
    pub direction: Direction,
    /// What they are.
    pub kind: Kind,
    /// On which link; `None` is any.
    pub link: Option<usize>,
    /// How many matching datagrams pass first.
    pub skip: u32,
    /// How many are lost then.
    pub count: u32,
}

impl Lose {
    /// The next datagram of `kind` in `direction`, on whatever link.
    pub fn next(direction: Direction, kind: Kind) -> Self {
        Self { direction, kind, link: None, skip: 0, count: 1 }
    }

    /// All of the next `count`.
    #[must_use]
    pub fn times(self, count: u32) -> Self {
        Self { count, ..self }
    }

    /// Only on this link.
    #[must_use]
    pub fn on(self, link: usize) -> Self {
        Self { link: Some(link), ..self }
    }

    /// After `skip` matching ones have passed.
    #[must_use]
    pub fn after(self, skip: u32) -> Self {
        Self { skip, ..self }
    }

    /// Whether this datagram is to be lost; counts it.
    pub(super) fn takes(&mut self, direction: Direction, link: usize, kind: Kind) -> bool {
        let matches = self.direction == direction && self.kind == kind && self.link.is_none_or(|l| l == link);
        if !matches || self.count == 0 {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        self.count -= 1;
        true
    }
}
