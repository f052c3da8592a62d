//! The scheduler of our own: the link on which a packet is predicted to be useful first.
//!
//! Each link has a cost in microseconds, the predicted time until a packet sent now is *in the receiver's hands*:
//!
//! * the path: half the least round trip, plus the queue, seen two ways: what the newest round trips show, and what is in
//!   flight beyond the bandwidth-delay product at the believed capacity (that is quicker than any acknowledgement);
//! * loss: the share of packets that would need a retransmission times what one costs;
//! * use: the recent sending rate relative to the capacity, times a small spread. It makes links whose paths differ by
//!   less than the spread share the load by capacity, before any of them builds a queue;
//! * a penalty while more than twice the bandwidth-delay product is in flight.
//!
//! The lowest cost wins. The link used last gets a small discount, and the congested mark has different thresholds for
//! setting and clearing, so choices do not flap. Nothing is ever held back: when all links are bad the least bad gets the
//! packet. Promise: O(links) arithmetic per packet, no memory of its own.

use super::estimate::{PACKET_BYTES, SLACK_BYTES};
use super::link::Link;
use super::log::Flight;

/// Links whose predicted arrival differs by less than this share the load.
const SHARE_SPREAD_US: f32 = 30_000.0;
/// What a lost packet costs: detection, the NAK's way back, the second try.
const LOSS_COST_US: f32 = 400_000.0;
const CONGESTED_COST_US: f32 = 100_000.0;
const STICKY_DISCOUNT_US: f32 = 500.0;
const UNKNOWN_RTT_US: f32 = 100_000.0;
/// In flight always allowed before a link counts as congested.
const CONGESTED_BYTES_MIN: f32 = 16.0 * PACKET_BYTES;

/// What is to be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Purpose {
    /// New data: shared among links.
    Data,
    /// A retransmission or a control packet: the surest quick link, whatever its load.
    Urgent,
}

/// The cost of sending `len` bytes on `link` now, in microseconds.
pub(super) fn cost_us(
    link: &Link,
    flight: Flight,
    now_us: u64,
    len: usize,
    purpose: Purpose,
    was_last: bool,
) -> f32 {
    let capacity = &link.capacity;
    let (least_us, smooth_us) = match (link.rtt.min_us(), link.rtt.smoothed_us()) {
        (Some(least_us), Some(smooth_us)) => (least_us as f32, smooth_us as f32),
        _ => (UNKNOWN_RTT_US, UNKNOWN_RTT_US),
    };
    let backlog =
        (flight.bytes as f32 + len as f32 - capacity.bdp_bytes(least_us as u32) - SLACK_BYTES).max(0.0);
    let predicted_us = least_us / 2.0 + backlog / capacity.rate() * 1e6;
    let observed_us = smooth_us - least_us / 2.0;
    let mut cost = predicted_us.max(observed_us);
    if link.is_congested {
        cost += CONGESTED_COST_US;
    }
    match purpose {
        Purpose::Data => {
            cost += link.loss.loss() * LOSS_COST_US;
            cost += link.sent_rate.value(now_us) / capacity.rate() * SHARE_SPREAD_US;
            if was_last {
                cost -= STICKY_DISCOUNT_US;
            }
        }
        Purpose::Urgent => cost += link.loss.loss() * 4.0 * LOSS_COST_US,
    }
    cost
}

/// Sets or clears the link's congested mark: set above twice the bandwidth-delay product, cleared below 1.25 times.
pub(super) fn update_congested(link: &mut Link, flight: Flight) {
    let bdp = link.capacity.bdp_bytes(link.rtt.min_us().unwrap_or(UNKNOWN_RTT_US as u32));
    let factor = if link.is_congested { 1.25 } else { 2.0 };
    link.is_congested = flight.bytes as f32 > (factor * bdp + SLACK_BYTES).max(CONGESTED_BYTES_MIN);
}
