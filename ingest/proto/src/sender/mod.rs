//! The SRTLA sender: one SRT stream from a local encoder, spread over several links to one receiver.
//!
//! Sans-IO: the caller owns the sockets (one per link, connected to the receiver) and the clock. Datagrams from the
//! encoder get a verdict that names a link, datagrams from the receiver one that says whether the encoder sees them;
//! everything the sender says by itself comes as [`SenderActions`]. Works with stock receivers (BELABOX family, Moblin) and
//! recovers faster than stock senders (all delays are the defaults of [`SenderConfig`] and the constants named):
//!
//! * **Registration** without a key ([`Sender::with_key`] and the module `sa1` for the other way). REG1 leaves with the first link, without waiting for a probe; the other links probe with REG2
//!   meanwhile. REG1 is repeated on its link after 250 and 500 ms and moves to the next link (if there is none, stays)
//!   after 1 s, or after 500 ms when another link answered its probe, or at once when refused (stock receivers refuse a
//!   repeated REG1 whose answer was lost). Any REG2 with our half is adopted, and all links join at once, each repeating
//!   REG2 after 200, 400, 800 ms and then each second.
//! * **Liveness.** Only answers count that prove the way up: SRTLA ACKs, keepalive echoes, REG3. A link that owes an answer
//!   is asked again after one and two thirds of max(250 ms, 4 RTT); after all of it, it is *suspect*: its data moves to the
//!   others (unless these swallow data and it has not) and it re-joins from the same socket (this alone repairs a moved NAT binding). After 1 s it is *lost*: a fresh socket is
//!   requested, then again with pauses of 1, 2, 4, 8 s, while REG2 goes on. If no link answers, all re-join together.
//! * **A receiver that forgot us** says NGP: the old full ID is tried by REG2 first (a restarted bondgate knows its own
//!   IDs), then REG1 carries it.
//! * **Scheduling**: [`Scheduler::Stock`] is the BELABOX arithmetic, [`Scheduler::Adaptive`] predicts arrival times.
//! * **Return path.** Of the copies of an SRT ACK or NAK that come back over all links the encoder gets one.
//!
//! Promise: no input panics; every table is sized at creation; nothing allocates per packet; the law *received = sent on +
//! handed up + consumed + dropped, by reason* holds at any moment ([`SenderCounters::is_conserved`]).

mod actions;
mod adaptive;
mod dedupe;
mod downlink;
mod estimate;
mod link;
mod log;
mod registration;
mod sa1;
mod stats;
mod stock;
mod timers;
mod uplink;

use std::time::{Duration, Instant};

pub use actions::{SenderAction, SenderActions, SenderNotice};
pub use bondgate_auth::sa1::wire::{Refusal, RefusalCode};
pub use sa1::{DEFAULT_OFFER, Registration, Sa1Config, Sa1Mode, WallClock};
pub use stats::{LinkStats, SenderCounters, SenderDropReason};

use crate::wire::{GroupId, HALF_LEN};
use dedupe::CopyFilter;
use link::{Link, micros};
use log::SendLog;
use registration::Opening;
use sa1::Sa1;
use stock::StockWindows;

/// Most links one sender can have. Stock receivers accept 8 or 16.
pub const LINKS_MAX: usize = 16;

/// Names a link of one [`Sender`]: its slot, `0..LINKS_MAX`. A slot is used again after [`Sender::remove_link`], so the
/// caller must not deliver datagrams of a removed link's socket.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct LinkIndex(pub(crate) u8);

impl LinkIndex {
    /// The slot, usable as an index into the caller's own arrays.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// The caller's own name for a link (an interface index, a position in a list). Also the link ID in extended keepalives.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct LinkLabel(pub u32);

/// How a link for a packet is chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Scheduler {
    /// Window arithmetic of the BELABOX sender family.
    Stock,
    /// Predicted arrival time from RTT, delivery rate, loss and what is in flight; see the module `adaptive`.
    #[default]
    Adaptive,
}

/// Settings of a [`Sender`]. The defaults are meant for the field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SenderConfig {
    /// How links are chosen.
    pub scheduler: Scheduler,
    /// Pause between two keepalives on a live link. Default 1 s.
    pub keepalive_interval: Duration,
    /// Send the 38-byte keepalive with telemetry instead of the 10-byte one. Default off.
    pub has_extended_keepalives: bool,
    /// Least time an answer is awaited before a link is suspect; four round trips if that is longer. Default 250 ms.
    pub suspect_after: Duration,
    /// When no link has answered for this long (or 1.5 round trips), all re-join together. Default 300 ms.
    pub all_silent_after: Duration,
    /// Least time an answer is awaited before a fresh socket is requested; six round trips if longer. Default 1 s.
    pub lost_after: Duration,
    /// `Adaptive`: each live link gets at least one packet (a copy) per this many packets of the group. Default 100.
    pub probe_every_packets: u32,
    /// Slots of the sequence log: packets that can be unacknowledged, rounded up to a power of two. Default 16,384.
    pub log_slots: usize,
    /// How long a returning ACK or NAK is compared with earlier ones. Default 2 s.
    pub copy_window: Duration,
}

impl Default for SenderConfig {
    fn default() -> Self {
        Self {
            scheduler: Scheduler::default(),
            keepalive_interval: Duration::from_secs(1),
            has_extended_keepalives: false,
            suspect_after: Duration::from_millis(250),
            all_silent_after: Duration::from_millis(300),
            lost_after: Duration::from_secs(1),
            probe_every_packets: 100,
            log_slots: 16_384,
            copy_window: Duration::from_secs(2),
        }
    }
}

/// Where a link stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum LinkState {
    /// The group has no ID yet; this link waits for it or carries REG1.
    Idle,
    /// REG2 was sent, REG3 has not come.
    Joining,
    /// Carries data.
    Live,
    /// Owes an answer for too long: data goes elsewhere, REG2 and a keepalive ask again.
    Suspect,
    /// Silent: a fresh socket was requested, REG2 goes on.
    Lost,
}

/// What to do with the datagram that was handed in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum SenderVerdict {
    /// Send it unchanged from this link's socket to the receiver.
    ToLink(LinkIndex),
    /// Hand it to the encoder, without the trailer: the first [`Sender::to_local_len`] bytes.
    ToLocal,
    /// It was SRTLA's own and has done its work; or it is SRT for a link with MACs, and the actions hold a sealed copy.
    Consumed,
    /// Forget it.
    Drop(SenderDropReason),
}

/// The sender's state machine. One per stream.
pub struct Sender {
    config: SenderConfig,
    id: GroupId,
    /// The receiver's half of `id` is known.
    is_registered: bool,
    adopted_us: u64,
    opening: Opening,
    sa1: Option<Sa1>,
    links: Box<[Option<Link>]>,
    log: SendLog,
    stock: Option<StockWindows>,
    copies: CopyFilter,
    /// The sender's clock counts from the first `now` it is given.
    base: Option<Instant>,
    now_us: u64,
    /// Data packets of the encoder so far, retransmissions excluded.
    data_number: u64,
    last_link: usize,
    /// The SRT socket that the encoder's data was last addressed to.
    encoder_peer: Option<u32>,
    to_local_len: usize,
    counters: SenderCounters,
}

impl Sender {
    /// A sender without links. `id_half` must be random and secret: whoever knows the full ID can join the group. `seed`
    /// keys the table that recognises copies.
    pub fn new(config: SenderConfig, id_half: [u8; HALF_LEN], seed: u64) -> Self {
        Self::build(config, id_half, seed, None)
    }

    /// A sender without links that registers with a key.
    pub fn with_key(config: SenderConfig, seed: u64, key: Sa1Config) -> Self {
        let mut sa1 = Sa1::new(key);
        Self::build(config, sa1.id_half(), seed, Some(sa1))
    }

    fn build(config: SenderConfig, id_half: [u8; HALF_LEN], seed: u64, sa1: Option<Sa1>) -> Self {
        let log = SendLog::new(config.log_slots);
        Self {
            id: GroupId::from_halves(&id_half, &[0; HALF_LEN]),
            is_registered: false,
            adopted_us: 0,
            opening: Opening::default(),
            sa1,
            links: (0..LINKS_MAX).map(|_| None).collect(),
            log,
            stock: (config.scheduler == Scheduler::Stock).then(StockWindows::new),
            copies: CopyFilter::new(seed, micros(config.copy_window)),
            base: None,
            now_us: 0,
            data_number: 0,
            last_link: 0,
            encoder_peer: None,
            to_local_len: 0,
            counters: SenderCounters::default(),
            config,
        }
    }

    /// Adds a link whose socket exists already and is connected to the receiver. `None` when [`LINKS_MAX`] are in use.
    pub fn add_link(&mut self, now: Instant, label: LinkLabel, out: &mut SenderActions) -> Option<LinkIndex> {
        self.advance(now);
        let slot = self.links.iter().position(Option::is_none)?;
        *self.links.get_mut(slot)? = Some(Link::new(label, self.data_number));
        if let Some(sa1) = &mut self.sa1 {
            sa1.forget(slot);
        }
        self.log.forget_link(slot);
        if let Some(stock) = &mut self.stock {
            stock.add(slot);
        }
        self.start_link(slot, out);
        Some(LinkIndex(slot as u8))
    }

    /// Removes a link; its slot may be used again. A registration under way on it moves to another link.
    pub fn remove_link(&mut self, now: Instant, link: LinkIndex, out: &mut SenderActions) {
        self.advance(now);
        let slot = link.index();
        if self.links.get_mut(slot).and_then(Option::take).is_none() {
            return;
        }
        self.log.forget_link(slot);
        if let Some(stock) = &mut self.stock {
            stock.remove(slot);
        }
        self.on_link_gone(slot, out);
    }

    /// The link's socket was replaced (answer to [`SenderAction::Rebind`], or the caller's own decision, for instance
    /// after an address change). The link joins again at once.
    pub fn link_rebound(&mut self, now: Instant, link: LinkIndex, out: &mut SenderActions) {
        self.advance(now);
        let slot = link.index();
        let Some(link) = self.link_mut(slot) else { return };
        link.on_rebound();
        if let Some(handshake) = self.handshake(slot) {
            handshake.restart();
        }
        self.log.forget_link(slot);
        self.start_link(slot, out);
    }

    /// Some link carries data.
    pub fn is_up(&self) -> bool {
        self.links.iter().flatten().any(|link| link.state == LinkState::Live)
    }

    /// The receiver has answered REG1 and not said NGP since, or has confirmed a link that registered with a key.
    pub const fn is_registered(&self) -> bool {
        self.is_registered
    }

    /// How many of its bytes, from the first on, the encoder gets of the datagram whose verdict was
    /// [`SenderVerdict::ToLocal`] last. On links with MACs on SRT packets the rest is the trailer; on others there is none.
    pub const fn to_local_len(&self) -> usize {
        self.to_local_len
    }

    /// What happened to all datagrams so far.
    pub const fn counters(&self) -> &SenderCounters {
        &self.counters
    }

    /// The links, in the order of their slots.
    pub fn links(&self) -> impl Iterator<Item = LinkStats> {
        let total: f32 = self.links.iter().flatten().map(|link| link.sent_rate.value(self.now_us)).sum();
        self.links.iter().enumerate().filter_map(move |(slot, link)| {
            Some(LinkStats::new(
                LinkIndex(slot as u8),
                link.as_ref()?,
                self.log.flight(slot),
                self.window(slot),
                self.now_us,
                total,
            ))
        })
    }

    /// The window in the stock sense: thousandths of packets.
    fn window(&self, slot: usize) -> i32 {
        match (&self.stock, self.link(slot)) {
            (Some(stock), _) => stock.window(slot),
            (None, Some(link)) => {
                let packets =
                    link.capacity.pipe_bytes(link.rtt.min_us().unwrap_or(0)) / estimate::PACKET_BYTES;
                ((packets * 1000.0) as i32).clamp(stock::WINDOW_MIN, stock::WINDOW_MAX)
            }
            (None, None) => 0,
        }
    }

    /// Moves the clock; it never goes back.
    fn advance(&mut self, now: Instant) -> u64 {
        let base = *self.base.get_or_insert(now);
        self.now_us = self.now_us.max(micros(now.saturating_duration_since(base)));
        self.now_us
    }

    fn link(&self, slot: usize) -> Option<&Link> {
        self.links.get(slot)?.as_ref()
    }

    fn link_mut(&mut self, slot: usize) -> Option<&mut Link> {
        self.links.get_mut(slot)?.as_mut()
    }
}

impl std::fmt::Debug for Sender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sender")
            .field("id", &self.id)
            .field("is_registered", &self.is_registered)
            .field("links", &self.links.iter().flatten().count())
            .finish_non_exhaustive()
    }
}
