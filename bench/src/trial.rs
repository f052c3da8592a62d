//! One trial: ground, receiver, registration, warm-up, measurement, and what came of it.
//!
//! Promise: all figures of a row belong to the same measured time, but where the row says otherwise.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bondgate_ebpf::bench::Instruments;
use bondgate_tests::scene::Scene;
use hdrhistogram::Histogram;

use crate::far_end::{FarEnd, Sent};
use crate::flood::Flooder;
use crate::machine::Watch;
use crate::proc::{self, CpuTimes};
use crate::receiver::{self, HARNESS_CPU, Programs, RECEIVER_CPU, Running, Told};
use crate::relay;
use crate::row::{Latency, Row};
use crate::scenario::{Auth, Kind, Receiver, Scenario};
use crate::swarm::{Load, SwarmAuth};
use crate::topology::{Ground, SinkKind};

/// How long registration may take, beyond what its pace asks for.
const REGISTRATION_PATIENCE: Duration = Duration::from_secs(20);
/// After the last datagram was sent, so long is waited for those still under way.
const DRAIN: Duration = Duration::from_millis(300);
/// Length of the measurement with fewer groups: buffers are to be in use as they are with all.
const GROWTH_MEASURE: Duration = Duration::from_secs(1);
/// Share of a processor above which it was full.
const FULL: f64 = 0.93;

/// What a trial is given.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    /// The scenario.
    pub scenario: &'a Scenario,
    /// The receiver.
    pub receiver: &'a Receiver,
    /// Where the programs are.
    pub programs: &'a Programs,
    /// Round, from 0.
    pub round: u32,
    /// Rate instead of the scenario's.
    pub rate_pps: u64,
    /// Length of the measurement instead of the scenario's.
    pub measure: Duration,
    /// What distinguishes this trial.
    pub step: &'a str,
}

impl<'a> Plan<'a> {
    /// As the scenario says.
    pub fn new(scenario: &'a Scenario, receiver: &'a Receiver, programs: &'a Programs, round: u32) -> Self {
        let (rate_pps, measure) = (scenario.rate_pps, scenario.measure());
        Self { scenario, receiver, programs, round, rate_pps, measure, step: "" }
    }
}

/// What is read at both ends of the measured time.
#[derive(Clone, Copy, Debug)]
struct Mark {
    at: Instant,
    sent: Sent,
    cpu_ns: u64,
    ticks: Option<(u64, u64)>,
    unique: u64,
    thrown_away: Option<u64>,
    softirq_ns: u64,
}

/// A trial under way.
struct Trial<'a> {
    plan: Plan<'a>,
    scene: Scene,
    ground: Ground,
    running: Running,
    far_end: FarEnd,
    /// Times receiving soft interrupts, where the kernel lets it.
    softirq: Option<Instruments>,
    slab_before: Option<u64>,
    /// In a storm the measured time begins with its stream, amid registration.
    storm_begin: Option<Mark>,
}

/// Makes a trial, and a short one before it if memory is to be set beside that of fewer groups.
///
/// # Errors
/// When the ground cannot be made, the receiver does not come up, or links cannot register.
pub fn run(plan: Plan<'_>) -> Result<Row> {
    let scenario = plan.scenario;
    if scenario.kind == Kind::Relay {
        return relay::run(plan);
    }
    if !scenario.memory_growth {
        return one(plan);
    }
    let groups = scenario.groups / 4;
    let few = Scenario {
        groups,
        active_groups: scenario.active_groups.min(groups),
        memory_growth: false,
        ..scenario.clone()
    };
    let before = one(Plan { scenario: &few, measure: plan.measure.min(GROWTH_MEASURE), ..plan })?;
    let mut row = one(plan)?;
    let more = f64::from(scenario.groups - groups);
    let grown = |row: Option<u64>, before: Option<u64>| Some(row? as f64 - before? as f64);
    let memory = grown(row.memory_bytes, before.memory_bytes);
    let slabs = row.slab_bytes.zip(before.slab_bytes).map(|(now, then)| (now - then) as f64);
    row.link_bytes = memory.map(|memory| memory / more / f64::from(scenario.links));
    row.group_bytes = memory.zip(slabs).map(|(memory, slabs)| (memory + slabs) / more);
    Ok(row)
}

fn one(plan: Plan<'_>) -> Result<Row> {
    let scenario = plan.scenario;
    let scene = Scene::new("bench")?;
    let ground = Ground::new(scenario.topology, scenario.sink, scenario.egress_gso, scenario.senders)?;
    let auth = match scenario.auth {
        Auth::Stock => SwarmAuth::Stock,
        Auth::Sa1 => {
            let keys = scenario.groups.div_ceil(SwarmAuth::GROUPS_PER_KEY);
            SwarmAuth::Sa1(receiver::enroll(&scene, &ground, plan.programs, keys)?)
        }
    };
    let load = Load {
        groups: scenario.groups,
        links: scenario.links,
        active_groups: scenario.groups_active(),
        rate_pps: plan.rate_pps,
        burst: scenario.burst,
        datagram_bytes: scenario.datagram_bytes as usize,
        loss: scenario.loss_percent / 100.0,
        duplicates: scenario.duplicate_percent / 100.0,
        keepalive: millis(scenario.keepalive_ms),
        registrations_per_s: (scenario.registrations_per_s > 0).then_some(scenario.registrations_per_s),
        magic: fastrand::u32(1..),
    };
    receiver::pin(HARNESS_CPU);
    let flood = scenario.flood.filter(|_| plan.receiver.flooded);
    let senders = (scenario.senders, auth);
    let far_end = FarEnd::new(&ground, load, senders, millis(scenario.srt_ack_ms), flood)?;
    let slab_before = proc::slab_bytes();
    let running = Running::start(&scene, &ground, plan.programs, scenario, plan.receiver)?;
    let softirq = softirq_clock();
    let trial = Trial { plan, scene, ground, running, far_end, softirq, slab_before, storm_begin: None };
    trial.measure().with_context(|| format!("{}, {}", scenario.name, plan.receiver.name))
}

/// Programs at the tracepoints of soft interrupts; not every kernel has them, nor every user the right.
fn softirq_clock() -> Option<Instruments> {
    let mut clock = Instruments::load().ok()?;
    clock.time_softirqs().ok()?;
    Some(clock)
}

fn millis(ms: u32) -> Option<Duration> {
    (ms > 0).then(|| Duration::from_millis(ms.into()))
}

impl Trial<'_> {
    fn measure(mut self) -> Result<Row> {
        let scenario = self.plan.scenario;
        let registration = self.register()?;
        let told_before = self.running.told(&self.ground);
        if let Some(flood) = scenario.flood.filter(|_| self.plan.receiver.flooded)
            && self.far_end.generator.is_none()
        {
            Flooder::start(&mut self.far_end, &self.ground, flood)?;
        }
        let watch = Watch::begin();
        let known_before = self.running.cpu_ns();
        self.far_end.call();
        if self.storm_begin.is_none() {
            self.far_end.start(&self.ground, Instant::now())?;
        }
        let begin = if let Some(begin) = self.storm_begin {
            begin
        } else {
            self.far_end.turn_for(scenario.warm_up())?;
            let begin = self.mark()?;
            self.far_end.set_window(begin.sent.next)?;
            begin
        };
        self.far_end.turn_for(self.plan.measure)?;
        let end = self.mark()?;
        // While the generator's thread is there, so that its time is known to be ours.
        let watched = watch.end(self.running.cpu_ns().saturating_sub(known_before));
        self.far_end.stop()?;
        let quiet = watched.compare();

        self.far_end.turn_for(DRAIN)?;
        self.running.expect_running(&self.scene)?;
        // Its figures are published a few times a second.
        std::thread::sleep(Duration::from_millis(300));
        let told = self.running.told(&self.ground);
        let mut row = self.row(&begin, &end, told_before.as_ref(), told.as_ref())?;
        row.registration_s = registration.as_secs_f64();
        row.quiet = quiet;
        self.running.stop();
        Ok(row)
    }

    /// Registers all links; in a storm the first groups stream meanwhile.
    fn register(&mut self) -> Result<Duration> {
        let scenario = self.plan.scenario;
        let storm = scenario.kind == Kind::Storm;
        let links = u64::from(scenario.groups) * u64::from(scenario.links);
        let pace = if storm { 2000 } else { scenario.registrations_per_s.max(1) };
        let patience =
            REGISTRATION_PATIENCE + Duration::from_secs_f64(2.0 * links as f64 / f64::from(pace.min(2000)));
        let begun = Instant::now();
        let mut first = None;
        loop {
            let now = self.far_end.turn()?;
            let swarm = &self.far_end.swarm;
            let (up, all) = swarm.links_up();
            if up == 0 {
                self.running.expect_running(&self.scene)?;
            } else {
                // The receiver needs a moment to come up: time counts from the first link.
                first.get_or_insert(now);
            }
            if storm && swarm.next_number() == 0 && swarm.groups_up(scenario.groups_active()) {
                self.far_end.swarm.start(now);
                self.storm_begin = Some(self.mark()?);
            }
            if up == all {
                return Ok(now.duration_since(first.unwrap_or(now)));
            }
            if now.duration_since(begun) > patience {
                bail!(
                    "{up} of {all} links were registered within {patience:?}; {} refusals came back\n{}",
                    self.far_end.swarm.counters.refused,
                    self.scene.transcript()
                );
            }
        }
    }

    fn mark(&self) -> Result<Mark> {
        let scenario = self.plan.scenario;
        let pid = self.running.pid();
        Ok(Mark {
            at: Instant::now(),
            sent: self.far_end.sent()?,
            cpu_ns: self.running.cpu_ns(),
            ticks: proc::user_system_ticks(pid),
            unique: self.far_end.sink.as_ref().map_or(0, |(_, sink)| sink.counters.unique),
            thrown_away: self.ground.thrown_away(pid, scenario.datagram_bytes.into()),
            softirq_ns: self.softirq_ns()?,
        })
    }

    /// Time in soft interrupts so far on the harness's and the receiver's processor, in ns.
    fn softirq_ns(&self) -> Result<u64> {
        let cpus = [HARNESS_CPU, RECEIVER_CPU];
        if let Some(clock) = &self.softirq {
            let times = clock.softirq_ns()?;
            return Ok(cpus.iter().filter_map(|cpu| times.get(*cpu)).sum());
        }
        let ticks = cpus.iter().filter_map(|cpu| Some(CpuTimes::read(Some(*cpu))?.softirq)).sum::<u64>();
        Ok(ticks * 1_000_000_000 / proc::ticks_per_s())
    }

    fn row(&self, begin: &Mark, end: &Mark, before: Option<&Told>, told: Option<&Told>) -> Result<Row> {
        let (scenario, swarm) = (self.plan.scenario, &self.far_end.swarm);
        let seconds = end.at.duration_since(begin.at).as_secs_f64();
        let (first, last) = (begin.sent.next, end.sent.next);
        let sent = last - first - swarm.lost_between(first, last);
        let sink = self.far_end.sink.as_ref().map(|(_, sink)| sink);
        let arrived = sink.map(|sink| sink.arrived(first, last));
        let delivered = match (end.thrown_away, begin.thrown_away) {
            (Some(end), Some(begin)) => end - begin,
            _ => end.unique - begin.unique,
        };
        let per_datagram = |ns: f64| (delivered > 0).then(|| ns / delivered as f64);
        let process_ns = end.cpu_ns.saturating_sub(begin.cpu_ns) as f64;
        let softirq_ns = end.softirq_ns.saturating_sub(begin.softirq_ns) as f64;
        let (pid, counters) = (self.running.pid(), swarm.counters);
        let mut row = Row {
            scenario: scenario.name.clone(),
            receiver: self.plan.receiver.name.clone(),
            round: self.plan.round,
            step: self.plan.step.to_owned(),
            shape: format!("{} x {}", scenario.groups, scenario.links),
            offered_pps: self.plan.rate_pps as f64,
            sent_pps: sent as f64 / seconds,
            delivered_pps: delivered as f64 / seconds,
            sent,
            lost: arrived.map(|arrived| sent.saturating_sub(arrived)),
            duplicates: sink.map(|sink| sink.counters.duplicates),
            process_ns: per_datagram(process_ns),
            process_share: Some(process_ns / seconds / 1e9),
            system_share: end.ticks.zip(begin.ticks).and_then(|(end, begin)| {
                let (user, system) = (end.0 - begin.0, end.1 - begin.1);
                (user + system > 20).then(|| system as f64 / (user + system) as f64)
            }),
            softirq_ns: if self.ground.is_veth() { per_datagram(softirq_ns) } else { None },
            softirq_exact: self.softirq.is_some(),
            per_wake: before.zip(told).and_then(|(before, told)| {
                let turns = told.turns - before.turns;
                (turns > 0.0).then(|| (told.rx - before.rx) / turns)
            }),
            latency: self
                .far_end
                .latency()?
                .filter(|_| self.plan.rate_pps > 0)
                .map(|histogram| latency(&histogram))
                .filter(|latency| !latency.curve.is_empty()),
            memory_bytes: proc::memory_bytes(pid, "VmRSS"),
            slab_bytes: proc::slab_bytes().zip(self.slab_before).map(|(now, then)| now as i64 - then as i64),
            srtla_acks: counters.srtla_acks,
            srtla_acked: counters.srtla_acked,
            srt_acks: counters.srt_acks,
            drops: told.map(|told| told.drops.clone()).unwrap_or_default(),
            gate_drops: told.map(|told| told.gate_drops.clone()).unwrap_or_default(),
            buffer_drops: if self.ground.is_veth() { proc::udp_buffer_drops(pid) } else { None },
            flood_sent: self.far_end.sent()?.flood,
            flood_pps: (end.sent.flood - begin.sent.flood) as f64 / seconds,
            generator_late_us: end.sent.late_ns_max as f64 / 1000.0,
            generator_behind: end.sent.behind.zip(begin.sent.behind).map(|(end, begin)| end - begin),
            harness_lost: self.far_end.own_drops() + self.far_end.own_failures(),
            topology: self.ground.description.clone(),
            ..Row::default()
        };
        row.limited_by = limit(&row, self.ground.sink_kind()).to_owned();
        Ok(row)
    }
}

/// What kept the rate from being higher.
fn limit(row: &Row, sink: SinkKind) -> &'static str {
    let wanted = row.offered_pps;
    let is_behind = wanted > 0.0 && row.sent_pps < 0.98 * wanted;
    if row.harness_lost > 0 {
        "the harness lost datagrams of its own"
    } else if row.process_share.is_some_and(|share| share > FULL) {
        "the receiver's processor"
    } else if row.lost.is_some_and(|lost| lost > 0) || (sink == SinkKind::Null && row.buffer_drops > Some(0))
    {
        "the receiver's receive buffer"
    } else if is_behind || wanted == 0.0 {
        "the generator"
    } else {
        "the offered rate"
    }
}

fn latency(histogram: &Histogram<u64>) -> Latency {
    let us = |quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
    let quantiles = [0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 0.9995, 0.9999, 0.99999, 1.0];
    if histogram.is_empty() {
        return Latency::default();
    }
    Latency {
        p50_us: us(0.5),
        p99_us: us(0.99),
        p999_us: us(0.999),
        max_us: histogram.max() as f64 / 1000.0,
        curve: quantiles.map(|quantile| (quantile, us(quantile))).to_vec(),
    }
}
