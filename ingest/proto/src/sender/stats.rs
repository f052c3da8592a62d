//! What the sender tells about itself: counters of datagrams by fate, and a snapshot per link.

use std::time::Duration;

use super::link::Link;
use super::log::Flight;
use super::{LinkIndex, LinkLabel, LinkState};

/// Why a datagram went nowhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u8)]
pub enum SenderDropReason {
    /// Too short to be SRT or SRTLA, or longer than any datagram spoken.
    Malformed,
    /// The encoder sent something that is not SRT.
    NotSrt,
    /// No link has joined the group yet.
    NoLink,
    /// The datagram came from a link that does not exist.
    UnknownLink,
    /// An ACK or NAK the encoder already got by another link.
    Copy,
    /// A REG2 that does not carry our half of the ID.
    ForeignId,
    /// A packet that a sender with a key has no proof of who sent it.
    Unproven,
    /// From the encoder, for a link whose SRT packets carry trailers: with its own it would be longer than 1472 bytes, or
    /// the link has none left to give.
    TrailerRoom,
    /// From the encoder, for such a link: the caller's action list is full.
    ActionsFull,
}

impl SenderDropReason {
    /// Every reason, in the order of [`SenderCounters::dropped`].
    pub const ALL: [Self; 9] = [
        Self::Malformed,
        Self::NotSrt,
        Self::NoLink,
        Self::UnknownLink,
        Self::Copy,
        Self::ForeignId,
        Self::Unproven,
        Self::TrailerRoom,
        Self::ActionsFull,
    ];

    /// A short name for metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::NotSrt => "not_srt",
            Self::NoLink => "no_link",
            Self::UnknownLink => "unknown_link",
            Self::Copy => "copy",
            Self::ForeignId => "foreign_id",
            Self::Unproven => "unproven",
            Self::TrailerRoom => "trailer_room",
            Self::ActionsFull => "actions_full",
        }
    }
}

/// Datagrams by fate, since creation. Each datagram handed in is counted once.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct SenderCounters {
    /// Datagrams handed in from the encoder.
    pub local_received: u64,
    /// Datagrams handed in from links.
    pub links_received: u64,
    /// Verdict `ToLink`.
    pub to_link: u64,
    /// Verdict `ToLocal`.
    pub to_local: u64,
    /// Verdict `Consumed`.
    pub consumed: u64,
    /// Verdict `Drop`, by [`SenderDropReason`] as index.
    pub dropped: [u64; SenderDropReason::ALL.len()],
    /// Additional copies sent (probes of idle links, doubled important packets).
    pub copies_sent: u64,
    /// SRT packets sent with trailers, additional copies included; the verdict of the others is `Consumed`.
    pub sealed_sent: u64,
    /// REG1 sent, M1 included.
    pub reg1_sent: u64,
    /// REG2 sent, probes and M3 included.
    pub reg2_sent: u64,
    /// Keepalives sent.
    pub keepalives_sent: u64,
    /// Fresh sockets asked for.
    pub rebinds_asked: u64,
    /// Refusals received (`REG_ERR`, `REG_NAK`) and believed.
    pub refusals: u64,
    /// How often a sender with a key registered without it ([`Sa1Mode::Prefer`](super::Sa1Mode::Prefer)).
    pub downgrades: u64,
    /// NGPs received.
    pub ngps: u64,
    /// Sends that failed, as told by the caller.
    pub send_errors: u64,
    /// Sessions begun by the encoder, as far as its INDUCTIONs tell.
    pub inductions: u64,
}

impl SenderCounters {
    /// The conservation law: everything received has exactly one fate.
    pub fn is_conserved(&self) -> bool {
        self.local_received + self.links_received
            == self.to_link + self.to_local + self.consumed + self.dropped.iter().sum::<u64>()
    }

    /// How many datagrams were dropped for this reason.
    pub fn dropped_for(&self, reason: SenderDropReason) -> u64 {
        self.dropped.get(reason as usize).copied().unwrap_or(0)
    }

    pub(super) fn drop(&mut self, reason: SenderDropReason) {
        if let Some(count) = self.dropped.get_mut(reason as usize) {
            *count += 1;
        }
    }
}

/// A link as it stands now.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct LinkStats {
    /// The link's slot.
    pub index: LinkIndex,
    /// The caller's name for it.
    pub label: LinkLabel,
    /// Where it stands.
    pub state: LinkState,
    /// Smoothed round-trip time, once measured.
    pub rtt: Option<Duration>,
    /// Least round-trip time of the last 5 to 10 s.
    pub rtt_min: Option<Duration>,
    /// Smoothed mean deviation of the round-trip time.
    pub rtt_variation: Duration,
    /// Share of packets lost on the way up, 0..=1, over about a second.
    pub loss: f32,
    /// Window in thousandths of packets (stock arithmetic, or what the adaptive scheduler believes the pipe holds without a queue).
    pub window: i32,
    /// Data packets in flight.
    pub in_flight_packets: u32,
    /// Data bytes in flight.
    pub in_flight_bytes: u32,
    /// Data packets sent, retransmissions and copies included.
    pub sent_packets: u64,
    /// Data bytes sent (SRT datagrams without UDP and IP headers).
    pub sent_bytes: u64,
    /// Retransmissions among them.
    pub retransmitted_packets: u64,
    /// Copies among them.
    pub copied_packets: u64,
    /// Data packets acknowledged by SRTLA ACKs.
    pub acked_packets: u64,
    /// Data packets reported lost while this link was the last to carry them.
    pub naks: u64,
    /// This link's share of the group's recent sending rate, 0..=1.
    pub share: f32,
    /// Recent sending rate in bits per second.
    pub rate_bps: f32,
    /// What the adaptive scheduler believes the link can carry, in bits per second.
    pub capacity_bps: f32,
    /// The adaptive scheduler holds the link for congested.
    pub is_congested: bool,
}

impl LinkStats {
    pub(super) fn new(
        index: LinkIndex,
        link: &Link,
        flight: Flight,
        window: i32,
        now_us: u64,
        total_rate: f32,
    ) -> Self {
        let rate = link.sent_rate.value(now_us);
        let duration = |us: u32| Duration::from_micros(u64::from(us));
        Self {
            index,
            label: link.label,
            state: link.state,
            rtt: link.rtt.smoothed_us().map(duration),
            rtt_min: link.rtt.min_us().map(duration),
            rtt_variation: duration(link.rtt.variation_us()),
            loss: link.loss.loss(),
            window,
            in_flight_packets: flight.packets,
            in_flight_bytes: flight.bytes,
            sent_packets: link.sent_packets,
            sent_bytes: link.sent_bytes,
            retransmitted_packets: link.retransmitted_packets,
            copied_packets: link.copied_packets,
            acked_packets: link.acked_packets,
            naks: link.naks,
            share: if total_rate > 1.0 { rate / total_rate } else { 0.0 },
            rate_bps: rate * 8.0,
            capacity_bps: link.capacity.rate() * 8.0,
            is_congested: link.is_congested,
        }
    }
}
