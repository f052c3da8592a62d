//! One direction of an impaired link, as a pure function of time: delay, jitter, loss, duplication, rate and buffer.
//!
//! Promises: no clock, no thread, no I/O and no allocation; the same configuration, seed and sequence of calls give the
//! same arrivals. It therefore serves the simulator's virtual clock as well as real sockets (the demo's user-space
//! impairment sleeps until the returned instants).
//!
//! A datagram passes, in this order: blackhole, queue (finite buffer, tail drop), wire (loss), propagation (delay and
//! jitter), duplication. A datagram lost on the wire has used its share of the rate, as on a radio link.
//!
//! Counters obey `submitted + duplicated == delivered + lost + tail_dropped + blackholed`.

use std::time::{Duration, Instant};

use crate::rng::Rng;

/// Bytes that IPv4 and UDP add to a datagram and that use up the link's rate as well.
pub const IP_UDP_HEADER_LEN: usize = 28;

/// How datagrams are lost on the wire.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Loss {
    /// Nothing is lost.
    None,
    /// Each datagram is lost with this probability, independently.
    Random(f64),
    /// Two-state Markov chain, one step per datagram: losses come in bursts.
    GilbertElliott {
        /// Probability, per datagram, of going from the good into the bad state.
        good_to_bad: f64,
        /// Probability, per datagram, of going from the bad into the good state; its inverse is the mean burst length.
        bad_to_good: f64,
        /// Loss probability in the good state.
        loss_good: f64,
        /// Loss probability in the bad state.
        loss_bad: f64,
    },
}

impl Loss {
    /// The long-run share of lost datagrams, 0 to 1.
    pub fn mean(&self) -> f64 {
        match *self {
            Self::None => 0.0,
            Self::Random(p) => p,
            Self::GilbertElliott { good_to_bad, bad_to_good, loss_good, loss_bad } => {
                let bad = good_to_bad / (good_to_bad + bad_to_good);
                bad * loss_bad + (1.0 - bad) * loss_good
            }
        }
    }
}

/// What one direction of a link does to datagrams.
#[derive(Clone, Debug, PartialEq)]
pub struct LinkConfig {
    /// Propagation delay of every datagram.
    pub delay: Duration,
    /// Extra delay, uniform in `0..=jitter`, drawn per datagram.
    pub jitter: Duration,
    /// Whether jitter may let a datagram overtake an earlier one. If not, a datagram arrives no earlier than the one
    /// before it (radio links deliver in order; the overtaking happens between links).
    pub reorder: bool,
    /// How datagrams get lost.
    pub loss: Loss,
    /// Probability that a datagram arrives twice; the copy takes its own jitter (at least 1 ms of it).
    pub duplicate: f64,
    /// Rate in bits per second of IP packets ([`IP_UDP_HEADER_LEN`] is added to every datagram); `None` is unlimited.
    pub rate_bps: Option<u64>,
    /// Bytes that may wait in front of the rate limit, IP and UDP headers included; what does not fit is dropped.
    pub buffer_bytes: usize,
}

impl Default for LinkConfig {
    /// A perfect wire: no delay, no loss, no limit.
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            reorder: false,
            loss: Loss::None,
            duplicate: 0.0,
            rate_bps: None,
            buffer_bytes: 256 * 1024,
        }
    }
}

/// Presets. The numbers are round stand-ins for the order of magnitude of such links, not measurements of a network.
impl LinkConfig {
    /// A wire with only a propagation delay, one way.
    pub fn wire(delay: Duration) -> Self {
        Self { delay, ..Self::default() }
    }

    /// LTE with a strong signal: 12 Mb/s up, 25 ms one way, up to 10 ms of scheduling jitter, 0.1 % single losses,
    /// 250 ms of buffer.
    pub fn lte_good() -> Self {
        Self {
            delay: Duration::from_millis(25),
            jitter: Duration::from_millis(10),
            loss: Loss::Random(0.001),
            ..Self::with_rate(12_000_000, Duration::from_millis(250))
        }
    }

    /// LTE in a crowd: 3 Mb/s up, 45 ms one way, up to 40 ms jitter, about 2 % loss in bursts of 4 datagrams,
    /// 1 s of buffer (bufferbloat).
    pub fn lte_crowded() -> Self {
        Self {
            delay: Duration::from_millis(45),
            jitter: Duration::from_millis(40),
            loss: Loss::GilbertElliott {
                good_to_bad: 0.01,
                bad_to_good: 0.25,
                loss_good: 0.001,
                loss_bad: 0.5,
            },
            ..Self::with_rate(3_000_000, Duration::from_secs(1))
        }
    }

    /// LTE on a train: 5 Mb/s, 40 ms, up to 60 ms jitter, about 4 % loss in long bursts (20 datagrams, 80 % lost).
    pub fn lte_moving() -> Self {
        Self {
            delay: Duration::from_millis(40),
            jitter: Duration::from_millis(60),
            loss: Loss::GilbertElliott {
                good_to_bad: 0.0025,
                bad_to_good: 0.05,
                loss_good: 0.001,
                loss_bad: 0.8,
            },
            ..Self::with_rate(5_000_000, Duration::from_millis(600))
        }
    }

    /// 5G mid band: 40 Mb/s up, 12 ms one way, up to 6 ms jitter, 0.05 % loss, 150 ms of buffer.
    pub fn five_g() -> Self {
        Self {
            delay: Duration::from_millis(12),
            jitter: Duration::from_millis(6),
            loss: Loss::Random(0.0005),
            ..Self::with_rate(40_000_000, Duration::from_millis(150))
        }
    }

    /// Geostationary satellite: 6 Mb/s up, 290 ms one way, up to 10 ms jitter, 0.3 % loss, 500 ms of buffer.
    pub fn satellite() -> Self {
        Self {
            delay: Duration::from_millis(290),
            jitter: Duration::from_millis(10),
            loss: Loss::Random(0.003),
            ..Self::with_rate(6_000_000, Duration::from_millis(500))
        }
    }

    /// Low-orbit satellite: 10 Mb/s up, 30 ms one way, up to 25 ms jitter, about 1 % loss in bursts (hand-overs).
    pub fn low_orbit() -> Self {
        Self {
            delay: Duration::from_millis(30),
            jitter: Duration::from_millis(25),
            loss: Loss::GilbertElliott {
                good_to_bad: 0.002,
                bad_to_good: 0.1,
                loss_good: 0.002,
                loss_bad: 0.4,
            },
            ..Self::with_rate(10_000_000, Duration::from_millis(200))
        }
    }

    /// Busy Wi-Fi: 30 Mb/s, 4 ms one way, up to 12 ms jitter with overtaking, about 0.5 % loss in bursts of 3,
    /// 0.1 % duplicates (lost link-layer acknowledgements).
    pub fn wifi() -> Self {
        Self {
            delay: Duration::from_millis(4),
            jitter: Duration::from_millis(12),
            reorder: true,
            loss: Loss::GilbertElliott {
                good_to_bad: 0.003,
                bad_to_good: 0.33,
                loss_good: 0.0005,
                loss_bad: 0.5,
            },
            duplicate: 0.001,
            ..Self::with_rate(30_000_000, Duration::from_millis(100))
        }
    }

    /// A wire limited to `rate_bps` whose buffer holds `buffer` worth of traffic.
    pub fn with_rate(rate_bps: u64, buffer: Duration) -> Self {
        let bytes = u128::from(rate_bps) * buffer.as_millis() / 8000;
        Self {
            rate_bps: Some(rate_bps),
            buffer_bytes: usize::try_from(bytes).unwrap_or(usize::MAX).max(3000),
            ..Self::default()
        }
    }
}

/// What happened to the datagrams so far. See the module for the law they obey.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkCounters {
    /// Datagrams handed to [`LinkModel::submit`].
    pub submitted: u64,
    /// Bytes of UDP payload handed to [`LinkModel::submit`].
    pub submitted_bytes: u64,
    /// Arrivals, copies included.
    pub delivered: u64,
    /// Bytes of UDP payload that arrive, copies included.
    pub delivered_bytes: u64,
    /// Extra copies made.
    pub duplicated: u64,
    /// Lost on the wire.
    pub lost: u64,
    /// Dropped because the buffer was full.
    pub tail_dropped: u64,
    /// Swallowed while the link was a blackhole.
    pub blackholed: u64,
}

impl LinkCounters {
    /// Whether every datagram is accounted for.
    pub fn is_conserved(&self) -> bool {
        self.submitted + self.duplicated == self.delivered + self.lost + self.tail_dropped + self.blackholed
    }
}

/// One direction of a link.
#[derive(Clone, Debug)]
pub struct LinkModel {
    config: LinkConfig,
    rng: Rng,
    blackhole: bool,
    in_bad_state: bool,
    backlog: Backlog,
    last_arrival: Option<Instant>,
    counters: LinkCounters,
}

impl LinkModel {
    /// Makes a link whose random decisions follow from `seed`.
    pub fn new(config: LinkConfig, seed: u64) -> Self {
        Self {
            config,
            rng: Rng::new(seed),
            blackhole: false,
            in_bad_state: false,
            backlog: Backlog::default(),
            last_arrival: None,
            counters: LinkCounters::default(),
        }
    }

    /// Changes the behaviour from the next datagram on; what waits in the buffer drains at the new rate,
    /// but arrivals already told stay as told.
    pub fn set(&mut self, config: LinkConfig) {
        self.config = config;
    }

    /// The behaviour in force.
    pub fn config(&self) -> &LinkConfig {
        &self.config
    }

    /// Swallows everything from the next datagram on (or ends that). Datagrams already under way still arrive.
    pub fn set_blackhole(&mut self, blackhole: bool) {
        self.blackhole = blackhole;
    }

    /// Whether the link swallows everything.
    pub fn is_blackhole(&self) -> bool {
        self.blackhole
    }

    /// What happened so far.
    pub fn counters(&self) -> &LinkCounters {
        &self.counters
    }

    /// How long a datagram entering at `now` would wait in the buffer.
    pub fn queue_delay(&self, now: Instant) -> Duration {
        self.config.rate_bps.map_or(Duration::ZERO, |rate| self.backlog.at(now, rate).drain_time(rate))
    }

    /// Decides what happens to a datagram of `len` payload bytes that enters at `now`: no, one or two arrivals.
    ///
    /// Calls must come in time order; an earlier `now` counts as the latest one seen.
    pub fn submit(&mut self, now: Instant, len: usize) -> Arrivals {
        self.counters.submitted += 1;
        self.counters.submitted_bytes += len as u64;
        if self.blackhole {
            self.counters.blackholed += 1;
            return Arrivals::NONE;
        }
        let Some(departure) = self.enqueue(now, len) else {
            self.counters.tail_dropped += 1;
            return Arrivals::NONE;
        };
        if self.is_lost_on_wire() {
            self.counters.lost += 1;
            return Arrivals::NONE;
        }
        let first = self.propagate(departure, self.config.jitter);
        self.count_delivery(len);
        let copy = self.rng.chance(self.config.duplicate).then(|| {
            self.counters.duplicated += 1;
            self.count_delivery(len);
            self.propagate(departure, self.config.jitter.max(Duration::from_millis(1)))
        });
        Arrivals { first: Some(first), copy }
    }

    fn count_delivery(&mut self, len: usize) {
        self.counters.delivered += 1;
        self.counters.delivered_bytes += len as u64;
    }

    /// The instant at which the last bit leaves the queue; `None` if the buffer is full.
    fn enqueue(&mut self, now: Instant, len: usize) -> Option<Instant> {
        let Some(rate_bps) = self.config.rate_bps else { return Some(now) };
        let mut backlog = self.backlog.at(now, rate_bps);
        let size = (len + IP_UDP_HEADER_LEN) as u64;
        let fits = backlog.bytes().saturating_add(size) <= self.config.buffer_bytes as u64;
        if fits {
            backlog.add(size);
        }
        self.backlog = backlog;
        fits.then(|| backlog.updated_at(now) + backlog.drain_time(rate_bps))
    }

    fn is_lost_on_wire(&mut self) -> bool {
        match self.config.loss {
            Loss::None => false,
            Loss::Random(p) => self.rng.chance(p),
            Loss::GilbertElliott { good_to_bad, bad_to_good, loss_good, loss_bad } => {
                let flip = if self.in_bad_state { bad_to_good } else { good_to_bad };
                self.in_bad_state ^= self.rng.chance(flip);
                self.rng.chance(if self.in_bad_state { loss_bad } else { loss_good })
            }
        }
    }

    fn propagate(&mut self, departure: Instant, jitter: Duration) -> Instant {
        let extra_ns = self.rng.below(u64::try_from(jitter.as_nanos()).unwrap_or(u64::MAX).saturating_add(1));
        let mut arrival = departure + self.config.delay + Duration::from_nanos(extra_ns);
        if !self.config.reorder {
            arrival = arrival.max(self.last_arrival.unwrap_or(arrival));
            self.last_arrival = Some(arrival);
        }
        arrival
    }
}

/// Bits waiting in front of the rate limit, kept exactly: in billionths of a bit, so that draining for any number of
/// nanoseconds at any rate is an integer.
#[derive(Clone, Copy, Debug, Default)]
struct Backlog {
    nanobits: u128,
    at: Option<Instant>,
}

impl Backlog {
    const NANOBITS_PER_BYTE: u128 = 8_000_000_000;

    fn updated_at(&self, now: Instant) -> Instant {
        self.at.map_or(now, |at| at.max(now))
    }

    #[must_use]
    fn at(mut self, now: Instant, rate_bps: u64) -> Self {
        let now = self.updated_at(now);
        let elapsed = self.at.map_or(Duration::ZERO, |at| now - at);
        self.nanobits = self.nanobits.saturating_sub(elapsed.as_nanos().saturating_mul(u128::from(rate_bps)));
        self.at = Some(now);
        self
    }

    fn add(&mut self, bytes: u64) {
        self.nanobits += u128::from(bytes) * Self::NANOBITS_PER_BYTE;
    }

    fn bytes(&self) -> u64 {
        u64::try_from(self.nanobits.div_ceil(Self::NANOBITS_PER_BYTE)).unwrap_or(u64::MAX)
    }

    fn drain_time(&self, rate_bps: u64) -> Duration {
        let ns = self.nanobits.div_ceil(u128::from(rate_bps.max(1)));
        Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX / 4).min(u64::MAX / 4))
    }
}

/// The arrivals of one datagram: an iterator over zero, one or two instants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrivals {
    first: Option<Instant>,
    copy: Option<Instant>,
}

impl Arrivals {
    const NONE: Self = Self { first: None, copy: None };

    /// Whether the datagram never arrives.
    pub fn is_empty(&self) -> bool {
        self.first.is_none() && self.copy.is_none()
    }
}

impl Iterator for Arrivals {
    type Item = Instant;

    fn next(&mut self) -> Option<Instant> {
        self.first.take().or_else(|| self.copy.take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn run(config: LinkConfig, seed: u64, count: u32, gap: Duration) -> (Vec<Vec<Duration>>, LinkCounters) {
        let start = Instant::now();
        let mut link = LinkModel::new(config, seed);
        let arrivals = (0..count)
            .map(|n| link.submit(start + gap * n, 1316).map(|at| at - start).collect::<Vec<_>>())
            .collect();
        assert!(link.counters().is_conserved(), "{:?}", link.counters());
        (arrivals, *link.counters())
    }

    #[test]
    fn a_wire_only_delays() {
        let (arrivals, counters) = run(LinkConfig::wire(20 * MS), 1, 100, MS);
        for (n, got) in arrivals.iter().enumerate() {
            assert_eq!(got, &[20 * MS + MS * n as u32]);
        }
        assert_eq!((counters.delivered, counters.delivered_bytes), (100, 131_600));
    }

    #[test]
    fn jitter_keeps_order_unless_told_otherwise() {
        let ordered = LinkConfig { jitter: 40 * MS, ..LinkConfig::wire(10 * MS) };
        let (arrivals, _) = run(ordered.clone(), 2, 2000, MS);
        let flat: Vec<_> = arrivals.into_iter().flatten().collect();
        assert!(flat.is_sorted());
        let (arrivals, _) = run(LinkConfig { reorder: true, ..ordered }, 2, 2000, MS);
        let extra: Vec<Duration> = arrivals
            .iter()
            .flatten()
            .enumerate()
            .map(|(n, &at)| at.checked_sub(MS * (n as u32 + 10)).unwrap())
            .collect();
        assert!(!arrivals.into_iter().flatten().is_sorted());
        assert!(extra.iter().all(|&e| e <= 40 * MS));
        let mean = extra.iter().sum::<Duration>() / 2000;
        assert!((18 * MS..22 * MS).contains(&mean), "{mean:?}");
    }

    #[test]
    fn loss_rates_are_as_configured_and_bursts_are_bursts() {
        let (_, random) = run(LinkConfig { loss: Loss::Random(0.1), ..LinkConfig::default() }, 3, 50_000, MS);
        assert!((4700..5300).contains(&random.lost), "{}", random.lost);
        let loss =
            Loss::GilbertElliott { good_to_bad: 0.01, bad_to_good: 0.1, loss_good: 0.0, loss_bad: 1.0 };
        let (arrivals, bursty) = run(LinkConfig { loss, ..LinkConfig::default() }, 3, 50_000, MS);
        let expected = loss.mean() * 50_000.0;
        assert!((bursty.lost as f64 - expected).abs() < expected * 0.15, "{} {expected}", bursty.lost);
        let bursts = arrivals.windows(2).filter(|w| !w[0].is_empty() && w[1].is_empty()).count();
        let mean_burst = bursty.lost as f64 / bursts as f64;
        assert!((8.0..12.0).contains(&mean_burst), "{mean_burst}");
    }

    #[test]
    fn rate_limit_queues_then_drops_at_the_tail() {
        // 1344 bytes of IP packet at 1,075,200 bit/s take exactly 10 ms; the buffer holds five of them.
        let config =
            LinkConfig { rate_bps: Some(1_075_200), buffer_bytes: 5 * 1344, ..LinkConfig::default() };
        let start = Instant::now();
        let mut link = LinkModel::new(config.clone(), 4);
        let burst: Vec<_> = (0..8).map(|_| link.submit(start, 1316).next()).collect();
        let expected: Vec<_> = (1..=8).map(|n| (n <= 5).then(|| start + 10 * MS * n)).collect();
        assert_eq!(burst, expected);
        assert_eq!(link.counters().tail_dropped, 3);
        assert_eq!(link.queue_delay(start + 20 * MS), 30 * MS);
        // Two have left after 20 ms, so two more fit.
        let later: Vec<_> = (0..3).map(|_| link.submit(start + 20 * MS, 1316).next()).collect();
        assert_eq!(later, [Some(start + 60 * MS), Some(start + 70 * MS), None]);
        // Twice the rate drains the 50 ms in 25 ms.
        link.set(LinkConfig { rate_bps: Some(2 * 1_075_200), ..config });
        assert_eq!(link.queue_delay(start + 20 * MS), 25 * MS);
        assert_eq!(link.submit(start + 70 * MS, 1316).next(), Some(start + 75 * MS));
    }

    #[test]
    fn goodput_of_a_saturated_link_is_its_rate() {
        let config = LinkConfig::with_rate(8_000_000, Duration::from_millis(200));
        let (arrivals, counters) = run(config, 5, 20_000, MS / 2);
        let span = arrivals.into_iter().flatten().max().unwrap();
        let bps = counters.delivered as f64 * 1344.0 * 8.0 / span.as_secs_f64();
        assert!((7_950_000.0..8_050_000.0).contains(&bps), "{bps}");
    }

    #[test]
    fn duplicates_arrive_and_are_counted() {
        let (arrivals, counters) = run(LinkConfig { duplicate: 0.2, ..LinkConfig::wire(MS) }, 6, 10_000, MS);
        let twice = arrivals.iter().filter(|a| a.len() == 2).count() as u64;
        assert_eq!(twice, counters.duplicated);
        assert!((1850..2150).contains(&twice), "{twice}");
    }

    #[test]
    fn a_blackhole_swallows_until_it_ends() {
        let start = Instant::now();
        let mut link = LinkModel::new(LinkConfig::wire(MS), 7);
        link.set_blackhole(true);
        assert!(link.submit(start, 100).is_empty());
        link.set_blackhole(false);
        assert_eq!(link.submit(start, 100).count(), 1);
        assert_eq!(link.counters().blackholed, 1);
        assert!(link.counters().is_conserved());
    }

    #[test]
    fn the_same_seed_repeats_and_another_differs() {
        let config = LinkConfig::lte_crowded();
        assert_eq!(run(config.clone(), 8, 3000, MS), run(config.clone(), 8, 3000, MS));
        assert_ne!(run(config.clone(), 8, 3000, MS).0, run(config, 9, 3000, MS).0);
    }

    #[test]
    fn presets_have_the_loss_their_comments_claim() {
        for (config, low, high) in [
            (LinkConfig::lte_crowded(), 0.015, 0.025),
            (LinkConfig::lte_moving(), 0.03, 0.05),
            (LinkConfig::low_orbit(), 0.005, 0.015),
            (LinkConfig::wifi(), 0.003, 0.007),
        ] {
            assert!((low..high).contains(&config.loss.mean()), "{config:?}: {}", config.loss.mean());
        }
    }
}
