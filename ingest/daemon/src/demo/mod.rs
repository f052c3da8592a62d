//! `bondgate demo`: the whole chain on one machine, without root, configuration or other programs.
//!
//! ```text
//! encoder -> SRT caller -> bonding sender =3 impaired links=> receiver (relay) -> SRT caller -> viewer
//!    |                                                                                            |
//!    +------------------------- ledger: byte by byte, once, in order ----------------------------+
//! ```
//!
//! Receiver and bonding sender are the ones of `bondgate run` and `bondgate send`. The receiver admits nobody but who
//! holds a key that is made for this run and kept nowhere. All ports are ephemeral, so that
//! any number of demos can run at once. Half-way one link goes dead, at three quarters it comes back. Promises: every
//! figure shown was measured in this run; whatever was started has ended when [`run`] returns.

pub mod bonding;
pub mod caller;
pub mod encoder;
pub mod impair;
pub mod ledger;
pub mod table;
pub mod ts;
pub mod verdict;

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bondgate_auth::keyring::{Keyring, NewDevice, Provision, key_id_text};
use bondgate_proto::sender::{LinkState, Registration};
use bondgate_sim::link::{LinkConfig, Loss};

use crate::config::{AuthMode, BackendChoice, Config, OutputMode, StrengthChoice};
use crate::policy::{Policy, wall_ms};
use crate::service::{Service, random};
use crate::shard::bond::state_name;
use crate::shard::snapshot::StreamStats;
use bonding::Bonding;
use caller::{Call, Caller};
use encoder::{Encoder, Source};
use impair::{Road, Roads};
use ledger::Ledger;
use table::{Figures, LinkFigures, Screen, ms, percent, rate, say};
use verdict::{Outage, Verdict};

/// Name of the stream.
const STREAM: &str = "demo";
/// Name offered for the user's own encoder with `--keep`.
const OWN_STREAM: &str = "mine";
/// Latency of the bonded leg: room for several retransmissions over the slowest link while a dead one is found out.
const PUBLISH_LATENCY: Duration = Duration::from_millis(1500);
/// Latency of the leg from the receiver to the viewer, which is a plain loopback.
const PLAY_LATENCY: Duration = Duration::from_millis(120);
/// How long the chain may take to stand.
const CONNECT_WITHIN: Duration = Duration::from_secs(15);
/// How long ffmpeg may take to its first payload.
const FIRST_PAYLOAD_WITHIN: Duration = Duration::from_secs(10);
/// What is still on its way this long after the configured latencies will not come any more.
const DRAIN_MARGIN: Duration = Duration::from_secs(2);
/// After the last payload: a second copy of one would come within this time.
const LATE_COPIES_WITHIN: Duration = Duration::from_millis(300);
/// How often the screen and the script of the run move on.
const TICK: Duration = Duration::from_millis(100);
/// The link that dies, counted from 0.
const VICTIM: usize = 1;
/// A link carries traffic again when it has this share of it.
const USED_SHARE: f32 = 0.05;

/// What the user asked for.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Leave everything running after the verdict.
    pub keep: bool,
    /// Length of the measured part.
    pub length: Duration,
    /// Backend of receiver and bonding sender.
    pub backend: BackendChoice,
    /// Use ffmpeg if it is installed.
    pub use_ffmpeg: bool,
    /// Plain lines even on a terminal.
    pub plain: bool,
}

/// Runs the demo until its verdict (with `keep`: until `stop`), printing as it goes.
///
/// # Errors
/// When the chain cannot be set up; the text says which part and why. A stream that does not arrive is no error but
/// a failing verdict.
pub fn run(options: &Options, stop: &AtomicBool) -> anyhow::Result<Verdict> {
    let roads = roads();
    let mut screen = Screen::new(options.plain, roads.len(), options.length);
    let mut chain = Chain::start(options, &roads, stop)?;
    screen.event(&format!("encoder    {}", chain.source.describe()));
    screen.event(&format!("receiver   {}", chain.service.backend()));
    screen.event(&format!("watch it   {}\n", chain.play_url()));
    chain.start_encoder(stop, &mut screen)?;
    let verdict = chain.measure(options.length, stop, &mut screen);
    screen.finish();
    say(&format!("\n{verdict}"));
    if options.keep && !stop.load(Ordering::Relaxed) {
        chain.keep(options, stop)?;
    }
    chain.end()?;
    Ok(verdict)
}

/// Three links, none of which can carry the stream of about 3.1 Mb/s alone; any two just can.
fn roads() -> Vec<Road> {
    let road = |last, ms, jitter_ms, loss, rate_bps| {
        let way = |rate_bps, loss| LinkConfig {
            delay: Duration::from_millis(ms),
            jitter: Duration::from_millis(jitter_ms),
            loss,
            ..LinkConfig::with_rate(rate_bps, Duration::from_millis(300))
        };
        Road {
            source: Ipv4Addr::new(127, 0, 0, last),
            uplink: way(rate_bps, loss),
            downlink: way(4 * rate_bps, Loss::Random(loss.mean() / 2.0)),
        }
    };
    // Two per cent and a bit, in bursts of four.
    let bursts =
        Loss::GilbertElliott { good_to_bad: 0.009, bad_to_good: 0.25, loss_good: 0.004, loss_bad: 0.6 };
    vec![
        road(2, 18, 5, Loss::Random(0.01), 2_400_000),
        road(3, 30, 10, Loss::Random(0.02), 2_200_000),
        road(4, 45, 25, bursts, 2_000_000),
    ]
}

fn describe_road(road: &Road) -> String {
    let up = &road.uplink;
    let kind = if matches!(up.loss, Loss::GilbertElliott { .. }) { " in bursts" } else { "" };
    format!(
        "{}+{} ms each way, {} loss{kind}, {}",
        up.delay.as_millis(),
        up.jitter.as_millis(),
        percent(up.loss.mean()),
        up.rate_bps.map_or_else(|| "no limit".to_owned(), rate)
    )
}

fn lock(ledger: &Mutex<Ledger>) -> MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Everything that runs. Ended in the order of the fields, from the encoder to the receiver.
struct Chain {
    encoder: Option<Encoder>,
    viewer: Caller,
    publisher: Caller,
    bonding: Bonding,
    roads: Roads,
    service: Service,
    key: Provision,
    road_texts: Vec<String>,
    sources: Vec<Ipv4Addr>,
    source: Source,
    ledger: Arc<Mutex<Ledger>>,
    configured_delay: Duration,
    started: Instant,
    arrived: RateMeter,
}

impl Chain {
    /// Sets everything up until the viewer plays; only the encoder does not run yet, so that its very first payload
    /// counts.
    fn start(options: &Options, roads: &[Road], stop: &AtomicBool) -> anyhow::Result<Self> {
        let config = config(options.backend);
        let (keyring, key) = keys().context("cannot make a key")?;
        let policy = Policy::compile(&config).with_keyring(Some(&keyring), wall_ms());
        let service = Service::start(&config, policy).context("cannot start the receiver")?;
        let srt_addr = service.srt_addr().context("the receiver has no SRT port")?;
        let impaired = Roads::start(roads, service.srtla_addr(), u64::from_be_bytes(random::<8>()?))
            .context("cannot start the impaired links")?;
        let sources: Vec<Ipv4Addr> = roads.iter().map(|road| road.source).collect();
        let bonding = Bonding::start(impaired.addr(), &sources, options.backend, &key)
            .context("cannot start the bonding sender")?;
        let ledger = Arc::new(Mutex::new(Ledger::new()));

        let call = Call {
            name: "publisher",
            to: bonding.local_addr(),
            stream_id: format!("publish/{STREAM}"),
            latency: PUBLISH_LATENCY,
        };
        let publisher = Caller::start(call, random()?, Box::new(|_, _| ()))?;
        let (publish_latency, _) = connected(&publisher, "the encoder's SRT over the bonded links", stop)?;

        let call =
            Call { name: "viewer", to: srt_addr, stream_id: format!("play/{STREAM}"), latency: PLAY_LATENCY };
        let book = Arc::clone(&ledger);
        let viewer =
            Caller::start(call, random()?, Box::new(move |now, bytes| lock(&book).arrive(now, bytes)))?;
        let (_, play_latency) = connected(&viewer, "the viewer's SRT", stop)?;

        let configured_delay = publish_latency + play_latency;
        lock(&ledger).set_configured_delay(configured_delay);
        Ok(Self {
            encoder: None,
            viewer,
            publisher,
            bonding,
            roads: impaired,
            service,
            key,
            road_texts: roads.iter().map(describe_road).collect(),
            sources,
            source: if options.use_ffmpeg { Source::find() } else { Source::BuiltIn },
            ledger,
            configured_delay,
            started: Instant::now(),
            arrived: RateMeter::default(),
        })
    }

    fn play_url(&self) -> String {
        let addr = self.service.srt_addr().unwrap_or((Ipv4Addr::LOCALHOST, 0).into());
        url(addr, &format!("play/{STREAM}"))
    }

    /// Starts the encoder and waits for its first payload; if ffmpeg has none, takes the built-in stream.
    fn start_encoder(&mut self, stop: &AtomicBool, screen: &mut Screen) -> anyhow::Result<()> {
        loop {
            let (ledger, outbox) = (Arc::clone(&self.ledger), self.publisher.outbox());
            let sink = move |payload: bytes::Bytes| {
                lock(&ledger).hand_over(Instant::now(), payload.clone());
                outbox.push(payload);
            };
            let mut encoder =
                Encoder::start(self.source, Box::new(sink)).context("cannot start the encoder")?;
            let first = wait_for(FIRST_PAYLOAD_WITHIN, stop, || {
                let begun = lock(&self.ledger).account().handed_over_payloads > 0;
                (begun || encoder.has_ended()).then_some(begun)
            });
            if first == Some(true) {
                self.encoder = Some(encoder);
                self.started = Instant::now();
                return Ok(());
            }
            let complaint = encoder.stop().unwrap_or_else(|| "no reason given".to_owned());
            if stop.load(Ordering::Relaxed) {
                bail!("interrupted before the first payload");
            }
            if self.source == Source::BuiltIn {
                bail!("the built-in encoder handed over nothing");
            }
            screen.event(&format!("ffmpeg hands over no stream ({complaint}); taking the built-in one"));
            self.source = Source::BuiltIn;
        }
    }

    /// The measured part: the stream runs for `length`, loses a link half-way and gets it back at three quarters;
    /// then everything on its way may arrive.
    fn measure(&mut self, length: Duration, stop: &AtomicBool, screen: &mut Screen) -> Verdict {
        let (kill_at, back_at) = (length / 2, length * 3 / 4);
        let mut outage: Option<Outage> = None;
        let mut acked_before = 0;
        let mut cut_short = None;
        let figures = loop {
            std::thread::sleep(TICK);
            let elapsed = self.started.elapsed();
            match &mut outage {
                None if elapsed >= kill_at => {
                    screen.event(&format!("killing link {}", VICTIM + 1));
                    lock(&self.ledger).mark_gap();
                    self.roads.set_dead(VICTIM, true);
                    outage = Some(Outage {
                        link: VICTIM + 1,
                        from: elapsed,
                        to: None,
                        gap_max: Duration::ZERO,
                        used_again_after: None,
                    });
                }
                Some(outage) if outage.to.is_none() && elapsed >= back_at => {
                    screen.event(&format!("link {} is back", VICTIM + 1));
                    acked_before = self.victim().map_or(0, |(acked, _)| acked);
                    self.roads.set_dead(VICTIM, false);
                    outage.to = Some(elapsed);
                }
                Some(Outage { to: Some(back), used_again_after: again @ None, .. }) => {
                    let used = |(acked, share)| acked > acked_before && share >= USED_SHARE;
                    if self.victim().is_some_and(used) {
                        *again = Some(elapsed.saturating_sub(*back));
                    }
                }
                _ => {}
            }
            let figures = self.figures(elapsed);
            screen.show(&figures);
            if stop.load(Ordering::Relaxed) {
                cut_short = Some(format!("interrupted after {:.1} s", elapsed.as_secs_f64()));
            } else if let Some(trouble) = self.trouble() {
                cut_short = Some(format!("{trouble} after {:.1} s", elapsed.as_secs_f64()));
            }
            if cut_short.is_some() || elapsed >= length {
                break figures;
            }
        };
        let complaint = self.encoder.take().and_then(|mut encoder| encoder.stop());
        if let (Some(why), Some(complaint)) = (&mut cut_short, complaint) {
            *why = format!("{why} ({complaint})");
        }
        let length = self.started.elapsed();
        let interrupted = stop.load(Ordering::Relaxed);
        self.drain(figures, stop, screen);
        self.verdict(length, cut_short, outage, interrupted || stop.load(Ordering::Relaxed))
    }

    /// SRTLA-acknowledged packets and share of the link that dies.
    fn victim(&self) -> Option<(u64, f32)> {
        let status = self.bonding.status()?;
        let name = self.sources.get(VICTIM)?.to_string();
        let link = status.links.iter().find(|link| link.name == name)?;
        Some((link.stats.acked_packets, link.stats.share))
    }

    /// What has broken, if something has.
    fn trouble(&self) -> Option<String> {
        let ended = |caller: &Caller, who: &str| {
            let line = caller.line();
            line.is_over.then(|| format!("{who}: {}", line.trouble.unwrap_or_default()))
        };
        if self.service.failed() {
            return Some("the receiver ended".to_owned());
        }
        if self.bonding.has_ended() {
            return Some("the bonding sender ended".to_owned());
        }
        if self.encoder.as_ref().is_some_and(Encoder::has_ended) {
            return Some("the encoder ended".to_owned());
        }
        ended(&self.publisher, "the encoder's connection broke")
            .or_else(|| ended(&self.viewer, "the viewer's connection broke"))
    }

    /// Waits until everything handed over has arrived or can no longer arrive. Only the payload counts of the screen
    /// still move, so that its rates remain those of the stream.
    fn drain(&mut self, mut figures: Figures, stop: &AtomicBool, screen: &mut Screen) {
        let settled = wait_for(self.configured_delay + DRAIN_MARGIN, stop, || {
            let ledger = lock(&self.ledger);
            figures.count(&ledger);
            screen.show(&figures);
            ledger.is_settled().then_some(())
        });
        if settled.is_some() {
            std::thread::sleep(LATE_COPIES_WITHIN);
        }
        figures.count(&lock(&self.ledger));
        screen.show(&figures);
    }

    fn stream(&self) -> Option<StreamStats> {
        let streams = self.service.slots().iter().flat_map(|slot| slot.read().streams);
        streams.into_iter().find(|stream| stream.name == STREAM)
    }

    fn figures(&mut self, elapsed: Duration) -> Figures {
        let status = self.bonding.status();
        let link = |(source, road): (&Ipv4Addr, &String)| {
            let name = source.to_string();
            let stats = status.iter().flat_map(|s| &s.links).find(|link| link.name == name).map(|l| l.stats);
            stats.map_or_else(
                || LinkFigures { road: road.clone(), state: "gone".to_owned(), ..LinkFigures::default() },
                |stats| LinkFigures {
                    road: road.clone(),
                    state: state_name(stats.state).to_owned(),
                    is_live: stats.state == LinkState::Live,
                    rate_bps: stats.rate_bps as u64,
                    rtt: stats.rtt,
                    loss: stats.loss.into(),
                    share: stats.share.into(),
                },
            )
        };
        let links = self.sources.iter().zip(&self.road_texts).map(link).collect();
        let received_bytes = self.stream().map_or(0, |stream| stream.rx_bytes);
        let group_rate_bps = self.arrived.rate_bps(Instant::now(), received_bytes);
        let retransmitted = self.publisher.line().stats.retransmitted;
        let mut figures = Figures { elapsed, links, group_rate_bps, retransmitted, ..Figures::default() };
        figures.count(&lock(&self.ledger));
        figures
    }

    fn verdict(
        &self,
        length: Duration,
        cut_short: Option<String>,
        outage: Option<Outage>,
        interrupted: bool,
    ) -> Verdict {
        let stream = self.stream();
        let ledger = lock(&self.ledger);
        let delays = [0.5, 0.99, 1.0].map(|quantile| ledger.added_delay(quantile));
        Verdict {
            account: ledger.account(),
            under_way: if interrupted { ledger.outstanding_payloads() } else { 0 },
            missing_between: ledger.missing_between().map(|(first, last)| {
                let since = |at: Instant| at.saturating_duration_since(self.started);
                (since(first), since(last))
            }),
            encoder: self.source.describe(),
            length,
            cut_short,
            key_id: key_id_text(&self.key.key_id),
            // No data leave over a link before it is confirmed.
            links_registered: self.bonding.status().map_or(0, |status| {
                let has_key = status.registration == Registration::Sa1;
                status.links.iter().filter(|link| has_key && link.stats.sent_packets > 0).count()
            }),
            uplinks: self.roads.counters().into_iter().map(|(uplink, _)| uplink).collect(),
            retransmitted: self.publisher.line().stats.retransmitted,
            recovered: stream.as_ref().map_or(0, |stream| stream.recovered_datagrams),
            given_up: stream.as_ref().map_or(0, |stream| stream.dropped_datagrams),
            outage: outage.map(|outage| Outage { gap_max: ledger.gap_since_mark(), ..outage }),
            added_delay: match delays {
                [Some(median), Some(high), Some(greatest)] => Some([median, high, greatest]),
                _ => None,
            },
            configured_delay: self.configured_delay,
        }
    }

    /// Runs on for the user's own players and encoder until `stop`.
    fn keep(&mut self, options: &Options, stop: &AtomicBool) -> anyhow::Result<()> {
        let outbox = self.publisher.outbox();
        let encoder = Encoder::start(self.source, Box::new(move |payload| outbox.push(payload)))
            .context("cannot start the encoder again")?;
        self.encoder = Some(encoder);
        // A bonding sender serves one encoder, so the user's own gets another one, over the same links.
        let own = Bonding::start(self.roads.addr(), &self.sources, options.backend, &self.key)
            .context("cannot start a second bonding sender")?;
        let srt_addr = self.service.srt_addr().context("the receiver has no SRT port")?;
        let latency_us = PUBLISH_LATENCY.as_micros();
        let publish =
            format!("{}&latency={latency_us}", url(own.local_addr(), &format!("publish/{OWN_STREAM}")));
        say(&format!(
            "\nStill running; Ctrl-C ends it.\n\
             watch     ffplay -fflags nobuffer \"{play}\"\n\
             \x20         OBS: Media Source, not a local file, input {play}, input format mpegts\n\
             \x20         VLC 3.0.17 or later: Open Network Stream, {play}\n\
             publish   OBS: Settings, Stream, Custom, server {publish}\n\
             \x20         ffmpeg -re -i FILE -c copy -f mpegts \"{publish}\"\n\
             \x20         goes over the same three links; watch it at {own_play}",
            play = self.play_url(),
            own_play = url(srt_addr, &format!("play/{OWN_STREAM}")),
        ));
        while !stop.load(Ordering::Relaxed) {
            std::thread::sleep(TICK);
            if let Some(trouble) = self.trouble() {
                bail!("{trouble}");
            }
        }
        Ok(())
    }

    /// Ends everything, the receiver last.
    fn end(self) -> anyhow::Result<()> {
        let Self { encoder, viewer, publisher, bonding, roads, service, .. } = self;
        drop(encoder);
        drop(viewer);
        drop(publisher);
        drop(bonding);
        drop(roads);
        service.stop().context("the receiver did not end well")
    }
}

/// The receiver's configuration: relay, loopback, ephemeral ports, no HTTP.
fn config(backend: BackendChoice) -> Config {
    let mut config = Config::open();
    config.runtime.backend = backend;
    config.srtla.listen = (Ipv4Addr::LOCALHOST, 0).into();
    config.srtla.auth = AuthMode::Required;
    config.streams.default = StrengthChoice::Sa1;
    config.srt.listen = (Ipv4Addr::LOCALHOST, 0).into();
    // The least granted, both ways; the encoder asks for more.
    config.srt.latency_ms = PLAY_LATENCY.as_millis() as u64;
    config.output.mode = OutputMode::Relay;
    config.admin.listen = None;
    config
}

/// A keyring of one device, and what that device is given.
fn keys() -> anyhow::Result<(Keyring, Provision)> {
    let now_ms = wall_ms();
    let mut keyring = Keyring::new(random()?, random()?, now_ms);
    // The sender is told the way through the impaired links; the name only has to be one.
    let key = keyring.enroll(NewDevice::named("demo"), "demo.invalid:5000", &random()?, now_ms)?;
    Ok((keyring, key))
}

fn url(addr: SocketAddr, stream_id: &str) -> String {
    format!("srt://{addr}?streamid={stream_id}")
}

/// Waits for a caller's connection; returns its latencies of sending and receiving.
fn connected(caller: &Caller, what: &str, stop: &AtomicBool) -> anyhow::Result<(Duration, Duration)> {
    if let Some(latencies) = wait_for(CONNECT_WITHIN, stop, || caller.line().latencies) {
        return Ok(latencies);
    }
    if stop.load(Ordering::Relaxed) {
        bail!("interrupted while connecting");
    }
    let trouble = caller.line().trouble.unwrap_or_else(|| "no answer".to_owned());
    bail!("{what} did not connect within {}: {trouble}", ms(CONNECT_WITHIN));
}

/// Asks now and then until there is an answer, the time is up or a stop is wanted.
fn wait_for<T>(limit: Duration, stop: &AtomicBool, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        let answer = ask();
        if answer.is_some() || Instant::now() >= deadline || stop.load(Ordering::Relaxed) {
            return answer;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

impl Figures {
    /// Takes the payload counts and delays from the ledger.
    fn count(&mut self, ledger: &Ledger) {
        let account = ledger.account();
        self.handed_over_payloads = account.handed_over_payloads;
        self.delivered_payloads = account.delivered_payloads;
        self.faulty_payloads = ledger.overtaken_payloads()
            + account.reordered_payloads
            + account.duplicated_payloads
            + account.corrupt_payloads;
        self.added_delay = ledger.added_delay(0.5).zip(ledger.added_delay(0.99));
    }
}

/// Bytes per second over the last second or two, from a running total.
#[derive(Debug, Default)]
struct RateMeter {
    samples: VecDeque<(Instant, u64)>,
}

impl RateMeter {
    const SPAN: Duration = Duration::from_millis(1500);

    fn rate_bps(&mut self, now: Instant, total_bytes: u64) -> u64 {
        self.samples.push_back((now, total_bytes));
        while self.samples.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= Self::SPAN) {
            self.samples.pop_front();
        }
        let Some((since, before)) = self.samples.front() else { return 0 };
        let seconds = now.duration_since(*since).as_secs_f64();
        if seconds < 0.2 { 0 } else { (total_bytes.saturating_sub(*before) as f64 * 8.0 / seconds) as u64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bondgate_sim::link::IP_UDP_HEADER_LEN;

    #[test]
    fn no_link_can_carry_the_stream_alone_and_any_two_can() {
        // SRT adds 16 bytes to a payload, IP and UDP theirs.
        let payload = ts::PAYLOAD_LEN as f64;
        let stream_bps = encoder::RATE_BPS as f64 * (payload + 16.0 + IP_UDP_HEADER_LEN as f64) / payload;
        let usable: Vec<f64> = roads()
            .iter()
            .map(|road| road.uplink.rate_bps.unwrap() as f64 * (1.0 - road.uplink.loss.mean()))
            .collect();
        let total: f64 = usable.iter().sum();
        for one in &usable {
            assert!(*one < stream_bps, "{one} {stream_bps}");
            assert!(total - one > 1.25 * stream_bps, "{total} - {one} {stream_bps}");
        }
    }

    #[test]
    fn a_rate_is_measured_over_a_second_and_a_half() {
        let start = Instant::now();
        let mut meter = RateMeter::default();
        let mut rate = 0;
        for n in 0..50_u64 {
            let per_tick = if n < 25 { 1000 } else { 2000 };
            let total = 1000 * n.min(25) + 2000 * n.saturating_sub(25);
            rate = meter.rate_bps(start + Duration::from_millis(100) * n as u32, total);
            if n == 20 {
                assert_eq!((rate, per_tick), (80_000, 1000));
            }
        }
        assert_eq!(rate, 160_000);
    }
}
