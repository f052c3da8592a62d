//! The scheduler of our own: the link on which a packet is predicted to be useful first.
//!
//! Each link has a cost in microseconds, the predicted time until a packet sent now is *in the receiver's hands*:
//!
//! * the path: half the least round trip;
//! * the queue, the worse of two views: what is in flight beyond what the pipe holds at the believed capacity (quicker
//!   than any acknowledgement, and it makes a burst of repairs spread itself), and how long an answer is overdue (a dying
//!   link is left before it is declared suspect). Measured round trips enter by way of the capacity alone: taken for the
//!   queue itself, they are late by a round trip and make the links take turns;
//! * loss: the share of packets that would need a retransmission times what one costs;
//! * use: the link's share of the group's recent sending, times a small spread. It makes links whose paths differ by less
//!   than the spread share the load equally until the first of them builds a queue. No belief enters it, so that a link
//!   cannot be left out because it was left out before.
//!
//! The lowest cost wins. The link used last gets a small discount, so choices do not flap. Nothing is ever held back: when
//! all links are bad the least bad gets the packet. Promise: O(links) arithmetic per packet, no memory of its own.

use super::estimate::{ACK_DELAY_US, PACKET_BYTES};
use super::link::{Link, NEVER};
use super::log::Flight;

/// Links whose predicted arrival differs by less than this share the load; half of what the receivers' reorder buffers
/// wait before they report a loss.
const SHARE_SPREAD_US: f32 = 30_000.0;
/// What a lost packet costs: detection, the NAK's way back, the second try.
const LOSS_COST_US: f32 = 400_000.0;
/// What a packet costs on a link whose answer is overdue beyond the retransmission timeout of RFC 6298: the default of
/// `SenderConfig::lost_after`, since that is how long such a packet may be missing.
const SILENT_COST_US: f32 = 1_000_000.0;
/// Less than what a packet more adds to the cost of a slow link, so that it decides only between equals.
const STICKY_DISCOUNT_US: f32 = 500.0;
/// As long as the round trip is unknown: that of a fair mobile link.
const UNKNOWN_RTT_US: u32 = 100_000;
/// A link with more queue than this is marked congested, with less than half of it no longer.
const CONGESTED_QUEUE_US: f32 = 60_000.0;

/// What is to be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Purpose {
    /// New data: shared among links.
    Data,
    /// A retransmission or a control packet: the surest quick link.
    Urgent,
}

/// The circumstances of a choice.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    /// What the link has in flight.
    pub flight: Flight,
    pub now_us: u64,
    /// Bytes to be sent.
    pub len: usize,
    /// Bytes per second recently sent on all links.
    pub sent_rate: f32,
}

/// The cost of sending on `link` now, in microseconds.
pub(super) fn cost_us(link: &Link, load: Load, purpose: Purpose, was_last: bool) -> f32 {
    let least_us = link.rtt.min_us().unwrap_or(UNKNOWN_RTT_US);
    let mut cost = least_us as f32 / 2.0 + queue_us(link, load.flight, load.now_us, load.len);
    match purpose {
        Purpose::Data => {
            cost += link.loss.loss() * LOSS_COST_US;
            cost += link.sent_rate.value(load.now_us) / load.sent_rate.max(PACKET_BYTES) * SHARE_SPREAD_US;
            if was_last {
                cost -= STICKY_DISCOUNT_US;
            }
        }
        Purpose::Urgent => cost += link.loss.loss() * 4.0 * LOSS_COST_US,
    }
    cost
}

/// How long `len` bytes more would wait in front of the link, in microseconds.
fn queue_us(link: &Link, flight: Flight, now_us: u64, len: usize) -> f32 {
    let least_us = link.rtt.min_us().unwrap_or(UNKNOWN_RTT_US);
    let backlog = (flight.bytes as f32 + len as f32 - link.capacity.pipe_bytes(least_us)).max(0.0);
    let silent_us = if is_silent(link, now_us) { SILENT_COST_US } else { 0.0 };
    (overdue_us(link, now_us) + silent_us).max(backlog / link.capacity.rate() * 1e6)
}

/// How long an answer is overdue, beyond the round trip.
fn overdue_us(link: &Link, now_us: u64) -> f32 {
    let age_us = match link.expects_since_us() {
        NEVER => 0,
        since_us => now_us.saturating_sub(since_us),
    };
    age_us.saturating_sub(u64::from(link.rtt.smoothed_us().unwrap_or(UNKNOWN_RTT_US))) as f32
}

/// An answer is overdue beyond the retransmission timeout of RFC 6298, and not for want of a single lost question.
pub(super) fn is_silent(link: &Link, now_us: u64) -> bool {
    link.is_doubtful() && overdue_us(link, now_us) > (4 * link.rtt.variation_us() + ACK_DELAY_US) as f32
}

/// Sets or clears the link's congested mark.
pub(super) fn update_congested(link: &mut Link, flight: Flight, now_us: u64) {
    let limit_us = if link.is_congested { CONGESTED_QUEUE_US / 2.0 } else { CONGESTED_QUEUE_US };
    link.is_congested = queue_us(link, flight, now_us, 0) > limit_us;
}
