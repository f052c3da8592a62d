//! What is measured on a link: round-trip time, loss, delivery rate, and the belief about its capacity.
//!
//! Promise: constant size and constant time per sample; no sample, however absurd, makes a value infinite or negative.
//! Times are microseconds of the sender's own clock, rates bytes per second.

/// One packet's worth of bytes in all budgets that are counted in packets (7 TS packets, the usual SRT payload).
pub(super) const PACKET_BYTES: f32 = 1316.0;
/// How long an acknowledgement may take beyond the round trip without being late, in microseconds: our receiver flushes
/// its SRTLA ACKs after 30 ms, SRT ACKs come every 10 ms, and ten packets pass a link of 3.5 Mb/s in that time.
pub(super) const ACK_DELAY_US: u32 = 30_000;
/// Bytes per second, 128 kb/s and 10 Gb/s: what a belief is kept between.
const CAPACITY_MIN: f32 = 16_000.0;
const CAPACITY_MAX: f32 = 1.25e9;
/// Packets per round trip believed in before anything was acknowledged: the window stock senders start with.
const START_PACKETS: f32 = 20.0;
/// As long as no queue shows, a link is believed to carry this many times what it just delivered: twice as in TCP's slow
/// start until the first queue, then a quarter more as in BBR's probing.
const START_GAIN: f32 = 2.0;
const PROBE_GAIN: f32 = 1.25;
/// A tenth more while a queue shows, lest a path that merely became longer be given less, therefore deliver less, and so
/// on down. Found by simulation: 1.0 spirals down, at 1.25 queues of weak links make the others' packets overtake.
const HOLD_GAIN: f32 = 1.1;
/// Shortest span of time over which delivery is measured.
const ROUND_MIN_US: u64 = 50_000;

/// A sum that forgets: what was added loses a tenth every 100 ms, so a steady flow of x per second settles near x.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Decaying {
    sum: f32,
    tick: u64,
}

impl Decaying {
    const TICK_US: u64 = 100_000;

    pub fn add(&mut self, now_us: u64, amount: f32) {
        self.sum = self.value(now_us) + amount;
        self.tick = self.tick.max(now_us / Self::TICK_US);
    }

    pub fn value(&self, now_us: u64) -> f32 {
        match (now_us / Self::TICK_US).saturating_sub(self.tick) {
            0 => self.sum,
            ticks @ 1..200 => self.sum * 0.9f32.powi(ticks as i32),
            _ => 0.0,
        }
    }
}

/// Smoothed round-trip time (1/8, 1/4 as in RFC 6298) and its minimum over the last 5 to 10 s.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_field_names, reason = "names end with their unit")]
pub(super) struct Rtt {
    srtt_us: u32,
    var_us: u32,
    min_now_us: u32,
    min_before_us: u32,
    bucket_start_us: u64,
}

impl Default for Rtt {
    fn default() -> Self {
        Self { srtt_us: 0, var_us: 0, min_now_us: u32::MAX, min_before_us: u32::MAX, bucket_start_us: 0 }
    }
}

impl Rtt {
    const BUCKET_US: u64 = 5_000_000;
    /// Longer samples are not measurements but packets kept by a sleeping modem.
    const SAMPLE_MAX_US: u64 = 10_000_000;

    pub fn sample(&mut self, now_us: u64, rtt_us: u64) {
        if rtt_us > Self::SAMPLE_MAX_US {
            return;
        }
        let sample = (rtt_us as u32).max(1);
        if self.srtt_us == 0 {
            (self.srtt_us, self.var_us) = (sample, sample / 2);
        } else {
            let error = sample.abs_diff(self.srtt_us);
            self.var_us = self.var_us - self.var_us / 4 + error / 4;
            self.srtt_us = (self.srtt_us - self.srtt_us / 8 + sample / 8).max(1);
        }
        let age = now_us.saturating_sub(self.bucket_start_us);
        if age >= Self::BUCKET_US {
            self.min_before_us = if age >= 2 * Self::BUCKET_US { u32::MAX } else { self.min_now_us };
            self.min_now_us = u32::MAX;
            self.bucket_start_us = now_us;
        }
        self.min_now_us = self.min_now_us.min(sample);
    }

    /// `None` before the first sample.
    pub fn smoothed_us(&self) -> Option<u32> {
        (self.srtt_us > 0).then_some(self.srtt_us)
    }

    pub fn min_us(&self) -> Option<u32> {
        (self.srtt_us > 0).then(|| self.min_now_us.min(self.min_before_us))
    }

    pub fn variation_us(&self) -> u32 {
        self.var_us
    }
}

/// Loss of a link, from what its SRTLA ACKs leave out, checked against NAKs.
///
/// Every packet sent on the link has an ordinal. An acknowledged ordinal beyond the highest one so far tells how many
/// should have been acknowledged; what is missing was lost, *or* one SRTLA ACK datagram (ten packets) was. Lost packets
/// show up in NAKs, packets whose SRTLA ACK was lost do not, and reordered ones do without being missing: so the smaller
/// count of both is the loss. Copies never show up in NAKs (their original arrived); their share is taken from the gaps alone.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct LossMeter {
    expected: Decaying,
    acked: Decaying,
    naked: Decaying,
    sent: Decaying,
    sent_copies: Decaying,
    highest_ordinal: Option<u32>,
    loss: f32,
    refreshed_us: u64,
    floor_now: f32,
    floor_before: f32,
    floor_start_us: u64,
}

impl LossMeter {
    const FLOOR_BUCKET_US: u64 = 5_000_000;
    /// A link that is not used enough to be measured is forgiven in about this time, so that it is tried again.
    const FADE_US: f32 = 5_000_000.0;
    /// Below this many expected acknowledgements the figure would be noise.
    const EXPECTED_MIN: f32 = 10.0;

    pub fn on_sent(&mut self, now_us: u64, is_copy: bool) {
        self.sent.add(now_us, 1.0);
        if is_copy {
            self.sent_copies.add(now_us, 1.0);
        }
    }

    pub fn on_ack(&mut self, now_us: u64, ordinal: u32) {
        let step = match self.highest_ordinal {
            None => 1,
            Some(highest) => ordinal.wrapping_sub(highest).cast_signed(),
        };
        if step > 0 {
            self.expected.add(now_us, step as f32);
            self.highest_ordinal = Some(ordinal);
        }
        self.acked.add(now_us, 1.0);
    }

    pub fn on_nak(&mut self, now_us: u64) {
        self.naked.add(now_us, 1.0);
    }

    /// Brings [`LossMeter::loss`] up to date; called once per SRTLA ACK, NAK and keepalive.
    pub fn refresh(&mut self, now_us: u64) {
        let waited_us = now_us.saturating_sub(self.refreshed_us);
        self.refreshed_us = self.refreshed_us.max(now_us);
        let expected = self.expected.value(now_us);
        if expected < Self::EXPECTED_MIN {
            self.loss *= 1.0 - (waited_us as f32 / Self::FADE_US).min(1.0);
            return;
        }
        let missing = (expected - self.acked.value(now_us)).max(0.0);
        let copies = (self.sent_copies.value(now_us) / self.sent.value(now_us).max(1.0)).min(1.0);
        let explained = self.naked.value(now_us) + copies * missing;
        self.loss = (missing.min(explained) / expected).clamp(0.0, 1.0);
        if now_us.saturating_sub(self.floor_start_us) >= Self::FLOOR_BUCKET_US {
            self.floor_before = self.floor_now;
            self.floor_now = self.loss;
            self.floor_start_us = now_us;
        }
        self.floor_now = self.floor_now.min(self.loss);
    }

    /// Share of packets lost, 0..=1, over about the last second.
    pub fn loss(&self) -> f32 {
        self.loss
    }

    /// The lowest loss of the last 5 to 10 s: what the link loses whether or not it is loaded.
    pub fn floor(&self) -> f32 {
        self.floor_now.min(self.floor_before)
    }

    /// A new socket or a new session: ordinals start afresh, the figure stays until there is a better one.
    pub fn restart(&mut self) {
        *self = Self {
            loss: self.loss,
            refreshed_us: self.refreshed_us,
            floor_now: self.floor_now,
            floor_before: self.floor_before,
            floor_start_us: self.floor_start_us,
            ..Self::default()
        };
    }
}

/// The belief about what a link can carry without building a queue.
///
/// It follows what is acknowledged: while neither queueing delay nor more loss than the link's own floor shows, the link
/// is believed to carry at least somewhat more than it delivers; once either shows, the belief falls to that. It is used
/// for predictions, never to hold a packet back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Capacity {
    rate: f32,
    is_measured: bool,
    is_starting: bool,
    round_start_us: Option<u64>,
    round_bytes: f32,
    round_in_flight_min: u32,
    round_rtt_min_us: u32,
}

impl Default for Capacity {
    fn default() -> Self {
        Self {
            rate: CAPACITY_MIN,
            is_measured: false,
            is_starting: true,
            round_start_us: None,
            round_bytes: 0.0,
            round_in_flight_min: u32::MAX,
            round_rtt_min_us: u32::MAX,
        }
    }
}

impl Capacity {
    /// First belief once the round-trip time is known.
    pub fn start_with(&mut self, rtt_us: u32) {
        if !self.is_measured {
            let rate = START_PACKETS * PACKET_BYTES * 1e6 / rtt_us.saturating_add(ACK_DELAY_US) as f32;
            self.rate = rate.clamp(CAPACITY_MIN, CAPACITY_MAX);
        }
    }

    /// The link comes back after silence: as if it were new.
    pub fn restart(&mut self) {
        *self = Self::default();
    }

    /// Bytes per second believed in.
    pub fn rate(&self) -> f32 {
        self.rate
    }

    /// Bytes that may be unacknowledged without a queue, at the believed rate.
    pub fn pipe_bytes(&self, min_rtt_us: u32) -> f32 {
        self.rate * min_rtt_us.saturating_add(ACK_DELAY_US) as f32 * 1e-6 + PACKET_BYTES
    }

    /// Takes one SRTLA ACK: `bytes` newly acknowledged, the least round trip it leaves possible, if it
    /// tells, and what remains in flight.
    pub fn on_ack(
        &mut self,
        now_us: u64,
        bytes: u32,
        rtt_least_us: Option<u32>,
        in_flight_bytes: u32,
        rtt: &Rtt,
        loss: &LossMeter,
    ) {
        let Some(start_us) = self.round_start_us else {
            self.round_start_us = Some(now_us);
            return;
        };
        self.round_bytes += bytes as f32;
        self.round_in_flight_min = self.round_in_flight_min.min(in_flight_bytes);
        self.round_rtt_min_us = self.round_rtt_min_us.min(rtt_least_us.unwrap_or(u32::MAX));
        let took_us = now_us.saturating_sub(start_us);
        let Some(min_rtt_us) = rtt.min_us() else { return };
        if took_us < ROUND_MIN_US.max(u64::from(min_rtt_us)) {
            return;
        }
        if took_us < 2_000_000 {
            self.end_round(took_us, min_rtt_us, loss);
        }
        self.round_start_us = Some(now_us);
        self.round_bytes = 0.0;
        self.round_in_flight_min = in_flight_bytes;
        self.round_rtt_min_us = u32::MAX;
    }

    fn end_round(&mut self, took_us: u64, min_rtt_us: u32, loss: &LossMeter) {
        let delivered = self.round_bytes * 1e6 / took_us as f32;
        self.is_measured = true;
        let queue_us_max = (min_rtt_us / 4).max(15_000);
        let is_queueing = self.round_rtt_min_us != u32::MAX
            && self.round_rtt_min_us > min_rtt_us.saturating_add(queue_us_max);
        let is_losing = loss.loss() > loss.floor() + 0.05;
        if is_queueing || is_losing {
            if self.round_in_flight_min == 0 {
                // It ran empty in between: what it delivered is what it was given.
                return;
            }
            self.rate = HOLD_GAIN * delivered;
            self.is_starting = false;
        } else {
            let gain = if self.is_starting { START_GAIN } else { PROBE_GAIN };
            self.rate = self.rate.max(gain * delivered);
        }
        self.rate = self.rate.clamp(CAPACITY_MIN, CAPACITY_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: u64 = 1000;

    #[test]
    fn decaying_sum_of_a_steady_flow_is_its_rate() {
        let mut sum = Decaying::default();
        for ms in 0..10_000 {
            sum.add(ms * MS, 1.0);
        }
        assert!((900.0..1100.0).contains(&sum.value(9_999 * MS)), "{sum:?}");
        assert!(sum.value(12_000 * MS) < 150.0);
        assert!(sum.value(u64::MAX).abs() < 1e-6);
    }

    #[test]
    fn rtt_minimum_forgets_after_two_buckets() {
        let mut rtt = Rtt::default();
        assert_eq!(rtt.smoothed_us(), None);
        rtt.sample(0, 20_000);
        rtt.sample(MS, 80_000);
        assert_eq!(rtt.min_us(), Some(20_000));
        for ms in (1000..12_000).step_by(100) {
            rtt.sample(ms * MS, 80_000);
        }
        assert_eq!(rtt.min_us(), Some(80_000));
        assert!((79_000..=80_000).contains(&rtt.smoothed_us().unwrap()), "{rtt:?}");
        rtt.sample(13_000 * MS, 60_000_000);
        assert!(rtt.smoothed_us().unwrap() <= 80_000, "absurd samples are ignored");
    }

    /// Sends `n` packets 1 ms apart; `lost` are lost and in NAKs, `ack_lost` only miss their acknowledgement.
    fn meter(n: u32, lost: impl Fn(u32) -> bool, ack_lost: impl Fn(u32) -> bool, copies: bool) -> f32 {
        let mut meter = LossMeter::default();
        for i in 0..n {
            let now = u64::from(i) * MS;
            meter.on_sent(now, copies);
            if lost(i) {
                if !copies {
                    meter.on_nak(now);
                }
            } else if !ack_lost(i) {
                meter.on_ack(now, i);
            }
            meter.refresh(now);
        }
        meter.loss()
    }

    #[test]
    fn loss_is_what_is_missing_and_was_nakked() {
        let tenth = |i: u32| i % 10 == 3;
        assert!((meter(5000, tenth, |_| false, false) - 0.1).abs() < 0.02);
        assert!(meter(5000, |_| false, |i| i / 10 % 10 == 3, false) < 0.01, "lost SRTLA ACKs are no loss");
        assert!((meter(5000, tenth, |_| false, true) - 0.1).abs() < 0.02, "copies count by gaps alone");
        let mut spurious = LossMeter::default();
        for i in 0..5000 {
            spurious.on_sent(u64::from(i) * MS, false);
            spurious.on_nak(u64::from(i) * MS);
            spurious.on_ack(u64::from(i) * MS, i);
            spurious.refresh(u64::from(i) * MS);
        }
        assert!(spurious.loss() < 0.01, "NAKs for packets that arrive are reordering");
    }

    /// A link of `capacity` bytes/s and 40 ms, fed at `offered`; returns the belief after 10 s.
    fn believe(capacity: f32, offered: f32) -> f32 {
        let (mut belief, mut rtt, loss) = (Capacity::default(), Rtt::default(), LossMeter::default());
        let mut queue = 0.0f32;
        for step in 0..1000u64 {
            let now = step * 10 * MS;
            queue = (queue + (offered - capacity) * 0.01).clamp(0.0, capacity);
            let delivered = offered.min(capacity) * 0.01;
            let sample = 40_000 + (queue / capacity * 1e6) as u32;
            rtt.sample(now, u64::from(sample));
            let in_flight = offered * 0.04 + queue;
            belief.on_ack(now, delivered as u32, Some(sample), in_flight as u32, &rtt, &loss);
        }
        belief.rate()
    }

    #[test]
    fn belief_follows_delivery_under_congestion_and_grows_without() {
        let saturated = believe(300_000.0, 330_000.0);
        // Within the tenth that a belief keeps above what is delivered.
        assert!((290_000.0..331_000.0).contains(&saturated), "{saturated}");
        let roomy = believe(5_000_000.0, 2_000_000.0);
        assert!((2_000_000.0..5_000_000.0).contains(&roomy), "{roomy}");
    }

    proptest! {
        #[test]
        fn nothing_makes_estimates_leave_their_ranges(
            steps in proptest::collection::vec((0u64..3_000_000, any::<u32>(), any::<u32>(), any::<u32>(), 0u8..4), 1..200)
        ) {
            let (mut capacity, mut rtt, mut loss) = (Capacity::default(), Rtt::default(), LossMeter::default());
            let mut now = 0;
            for (wait, a, b, c, kind) in steps {
                now += wait;
                match kind {
                    0 => rtt.sample(now, u64::from(a) * 3),
                    1 => loss.on_ack(now, b),
                    2 => loss.on_nak(now),
                    _ => loss.on_sent(now, a % 2 == 0),
                }
                loss.refresh(now);
                capacity.on_ack(now, a, Some(b), c, &rtt, &loss);
                prop_assert!((0.0..=1.0).contains(&loss.loss()));
                prop_assert!((CAPACITY_MIN..=CAPACITY_MAX).contains(&capacity.rate()));
                prop_assert!(rtt.smoothed_us().is_none_or(|us| us >= 1));
                if let (Some(min), Some(_)) = (rtt.min_us(), rtt.smoothed_us()) {
                    prop_assert!(min < u32::MAX);
                }
            }
        }
    }
}
