//! The receive half of a connection: buffer, delivery times, loss reports and acknowledgements.
//!
//! Promises: payloads are delivered in order, once, at their playback time; what is missing then is skipped and
//! counted; a gap is reported as lost only after the reorder hold, and again once per RTT + 4 deviations; memory is
//! bounded by the flow window.

pub(crate) mod buffer;
pub(crate) mod hold;
pub(crate) mod loss;
#[cfg(test)]
mod oracle;
pub(crate) mod tsbpd;

use crate::crypto::{Crypto, OpenError};
use crate::packet::{Ack, AckRates, AckTiming, DataView, LossListWriter};
use crate::pool::Pool;
use crate::seq::Seq;
use crate::stats::Stats;
use crate::time::{MS, Micros, NEVER, RateMeter, Rtt, duration, slots_for};
use buffer::{Buffer, Place, Popped, Received};
use hold::ReorderHold;
use loss::Losses;
use tsbpd::Tsbpd;

/// Interval of full ACKs.
const ACK_INTERVAL: Micros = 10 * MS;
/// Packets after which a light ACK is sent.
const LIGHT_ACK_PACKETS: u32 = 64;
/// Least interval between two reports of the same loss.
const NAK_INTERVAL_MIN: Micros = 20 * MS;
/// Two packets beyond the window belong together when they are no further apart.
const WINDOW_STEP_MAX: i32 = 1024;
/// Unanswered full ACKs whose sending time is remembered.
const ACK_RECORDS: usize = 64;

#[derive(Clone, Copy, Debug)]
struct AckRecord {
    number: u32,
    next: Seq,
    sent_at: Micros,
}

/// Acknowledgement state.
#[derive(Debug)]
struct Acks {
    /// Number of the last full ACK.
    number: u32,
    /// Its position and time.
    sent: Seq,
    sent_at: Micros,
    /// Highest position the peer has confirmed by ACKACK.
    confirmed: Seq,
    /// Position of the last ACK of either kind, and packets since.
    packets_since: u32,
    /// Ring by ACK number.
    records: [Option<AckRecord>; ACK_RECORDS],
}

/// Parameters from the handshake.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReceiverSetup {
    pub(crate) isn: Seq,
    pub(crate) window: usize,
    pub(crate) latency: Micros,
    /// Arrival and timestamp of the peer's CONCLUSION.
    pub(crate) arrived_at: Micros,
    pub(crate) timestamp: u32,
    /// The peer marks retransmissions.
    pub(crate) rexmit_flag: bool,
}

impl ReceiverSetup {
    /// Slots of the receive buffer to begin with.
    pub(crate) fn slots(&self) -> usize {
        slots_for(self.latency).min(self.window)
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Receiver {
    buffer: Buffer,
    losses: Losses,
    hold: ReorderHold,
    tsbpd: Tsbpd,
    acks: Acks,
    rtt: Rtt,
    rate: RateMeter,
    rexmit_flag: bool,
    last_data_at: Micros,
    /// Last packet beyond the window.
    beyond: Option<Seq>,
    stats: Stats,
}

impl Receiver {
    pub(crate) fn new(setup: &ReceiverSetup) -> Self {
        let now = setup.arrived_at;
        Self {
            buffer: Buffer::new(setup.isn, setup.window, setup.slots()),
            losses: Losses::new(setup.window),
            hold: ReorderHold::new(now, setup.isn, setup.latency),
            tsbpd: Tsbpd::new(now, setup.timestamp, setup.latency),
            acks: Acks {
                number: 0,
                sent: setup.isn,
                sent_at: now,
                confirmed: setup.isn,
                packets_since: 0,
                records: [None; ACK_RECORDS],
            },
            rtt: Rtt::default(),
            rate: RateMeter::default(),
            rexmit_flag: setup.rexmit_flag,
            last_data_at: now,
            beyond: None,
            stats: Stats::default(),
        }
    }

    pub(crate) fn on_data(
        &mut self,
        now: Micros,
        path: u8,
        packet: &DataView<'_>,
        crypto: &Crypto,
        pool: &mut Pool,
    ) {
        let seq = packet.seq();
        let retransmitted = packet.retransmitted();
        self.last_data_at = now;
        self.stats.received += 1;
        self.stats.received_bytes += packet.payload().len() as u64;
        self.stats.received_retransmissions += u64::from(retransmitted);
        self.rate.add(now, packet.payload().len());

        let mut place = self.buffer.place(seq);
        if place == Place::Beyond {
            // Nothing is waiting and the sender is a whole window ahead: an outage longer than the buffer. One
            // packet alone is not believed, it could be a stray that would make all others belated.
            let confirmed =
                self.beyond.is_some_and(|before| (1..WINDOW_STEP_MAX).contains(&seq.distance(before)));
            self.beyond = Some(seq);
            if !confirmed || !self.buffer.is_empty() {
                self.stats.out_of_window += 1;
                return;
            }
            self.stats.dropped += u64::from(self.buffer.restart(seq));
            place = Place::New { missing: 0 };
        }
        let within_path = self.hold.arrived(now, path, seq);
        match place {
            Place::Belated => self.stats.belated += 1,
            Place::Duplicate { gap_at } => {
                self.stats.duplicates += 1;
                // The original comes after its retransmission: the hold was too short.
                if let Some(gap_at) = gap_at
                    && !retransmitted
                    && self.rexmit_flag
                {
                    self.hold.late(now, now - gap_at, within_path);
                    self.buffer.settle(seq);
                }
            }
            Place::New { .. } | Place::Fills { .. } => {
                if let Place::Fills { gap_at } = place
                    && !retransmitted
                    && (self.rexmit_flag || !self.losses.is_reported(seq))
                {
                    self.stats.reordered += 1;
                    self.hold.late(now, now - gap_at, within_path);
                }
                let (due_at, source_us) = self.tsbpd.due(now, packet.timestamp());
                if !retransmitted {
                    self.tsbpd.observe(now, source_us);
                }
                let end = self.buffer.end();
                let payload = crypto.open(packet, pool);
                match payload {
                    Err(OpenError::NoKey) => self.stats.undecryptable += 1,
                    // The place counts as received: asking again would only make the shortage worse.
                    Err(OpenError::NoMemory) => self.stats.no_memory += 1,
                    Ok(_) => {}
                }
                let received = payload.ok().map(|payload| Received { payload, due_at, source_us });
                self.buffer.insert(now, seq, retransmitted, received);
                if let Place::New { missing } = place
                    && missing > 0
                {
                    self.stats.gaps += u64::from(missing);
                    let loss_at = self.hold.loss_at(now);
                    for i in 0..missing {
                        self.losses.add(end.add(i), loss_at, &self.buffer);
                    }
                }
            }
            Place::Beyond => {}
        }
        if !self.losses.is_empty()
            && let Some((from, floor, due_at)) = self.hold.passed(now)
        {
            self.losses.hasten(from, floor, due_at);
        }
        self.acks.packets_since += 1;
    }

    /// The sender will not send `first..=last` again.
    pub(crate) fn on_drop_request(&mut self, now: Micros, first: Seq, last: Seq) {
        self.buffer.give_up(now, first, last);
    }

    pub(crate) fn on_ackack(&mut self, now: Micros, number: u32) {
        let slot = &mut self.acks.records[number as usize % ACK_RECORDS];
        if let Some(record) = slot.take_if(|record| record.number == number) {
            self.rtt.sample(now - record.sent_at);
            self.acks.confirmed = self.acks.confirmed.later(record.next);
        }
    }

    /// When the next full ACK is due.
    fn ack_at(&self) -> Micros {
        if self.buffer.ack_next() != self.acks.sent {
            self.acks.sent_at + ACK_INTERVAL
        } else if self.acks.confirmed.is_before(self.acks.sent) {
            self.acks.sent_at + self.rtt.timeout().max(ACK_INTERVAL)
        } else {
            NEVER
        }
    }

    fn light_ack_due(&self) -> bool {
        self.acks.packets_since >= LIGHT_ACK_PACKETS && self.buffer.ack_next() != self.acks.sent
    }

    /// The ACK to send now, if one is due: its number and body.
    pub(crate) fn poll_ack(&mut self, now: Micros) -> Option<(u32, Ack)> {
        let next = self.buffer.ack_next();
        if self.ack_at() <= now {
            let number = self.acks.number.wrapping_add(1).max(1);
            self.acks.number = number;
            self.acks.sent = next;
            self.acks.sent_at = now;
            self.acks.packets_since = 0;
            self.acks.records[number as usize % ACK_RECORDS] = Some(AckRecord { number, next, sent_at: now });
            self.stats.acks_sent += 1;
            let packets_per_s = self.rate.packets_per_s();
            let ack = Ack {
                next,
                timing: Some(AckTiming {
                    rtt_us: self.rtt.smoothed() as u32,
                    rtt_var_us: self.rtt.variance() as u32,
                    // libsrt never advertises less than 2.
                    buffer_free: self.buffer.free().max(2) as u32,
                }),
                // Link capacity is not probed; the receive rate is a true lower bound of it.
                rates: Some(AckRates {
                    packets_per_s,
                    capacity_per_s: packets_per_s,
                    bytes_per_s: Some(u32::try_from(self.rate.bytes_per_s()).unwrap_or(u32::MAX)),
                }),
            };
            return Some((number, ack));
        }
        if self.light_ack_due() {
            self.acks.packets_since = 0;
            self.stats.acks_sent += 1;
            return Some((0, Ack { next, timing: None, rates: None }));
        }
        None
    }

    /// Writes the loss list of a NAK that is due now to `out`; 0 bytes: none.
    pub(crate) fn poll_nak(&mut self, now: Micros, out: &mut [u8]) -> usize {
        if self.losses.next_at() > now {
            return 0;
        }
        let again = self.rtt.timeout().max(NAK_INTERVAL_MIN);
        let (len, first_reports) = self.losses.report(now, again, &self.buffer, LossListWriter::new(out));
        self.stats.lost += first_reports;
        self.stats.naks_sent += u64::from(len > 0);
        len
    }

    /// The next payload that is due.
    pub(crate) fn poll_data(&mut self, now: Micros) -> Option<Received> {
        loop {
            match self.buffer.pop(now)? {
                Popped::Data(received) => {
                    self.stats.delivered += 1;
                    self.stats.delivered_bytes += received.payload.len() as u64;
                    return Some(received);
                }
                Popped::Skipped(count) => self.stats.dropped += u64::from(count),
            }
        }
    }

    /// No payload is waiting for its time.
    pub(crate) fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// At least one data packet came.
    pub(crate) fn has_received(&self) -> bool {
        self.stats.received > 0
    }

    /// When the last data packet came, or the connection was made.
    pub(crate) fn last_data_at(&self) -> Micros {
        self.last_data_at
    }

    /// When the next payload is due.
    pub(crate) fn data_at(&self) -> Micros {
        self.buffer.next_due().unwrap_or(NEVER)
    }

    /// When an ACK or a NAK may be due.
    pub(crate) fn report_at(&self) -> Micros {
        if self.light_ack_due() {
            return 0;
        }
        self.ack_at().min(self.losses.next_at())
    }

    /// Fills in the receiving half.
    pub(crate) fn fill_stats(&self, stats: &mut Stats) {
        *stats = Stats {
            rtt: duration(self.rtt.smoothed()),
            rtt_var: duration(self.rtt.variance()),
            receive_latency: duration(self.tsbpd.latency()),
            reorder_hold: duration(self.hold.last()),
            receive_buffer: self.buffer.len() as u32,
            receive_rate: self.rate.bytes_per_s(),
            drift_us: self.tsbpd.drift(),
            ..self.stats
        };
    }

    pub(crate) fn rtt(&self) -> &Rtt {
        &self.rtt
    }
}
