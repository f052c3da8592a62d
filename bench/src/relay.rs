//! A trial of a relay: SRT in, SRT out to players, or only in.
//!
//! Promise: as in [`crate::trial`]. Without players what was offered and taken by the publishers' SRT counts as delivered.

use std::time::Duration;

use anyhow::{Context, Result};
use bondgate_tests::scene::Scene;

use crate::callers::{Callers, Offer, payload_len};
use crate::machine::Watch;
use crate::receiver::{self, HARNESS_CPU, Running};
use crate::row::Row;
use crate::senders;
use crate::topology::{Ground, SinkKind};
use crate::trial::Plan;

/// Less than this share of the rate, and it is the harness that could not keep up.
const OFFERED_LEAST: f64 = 0.95;
/// How long all callers may take to connect, and one more for each.
const PATIENCE: Duration = Duration::from_secs(20);
const PATIENCE_EACH: Duration = Duration::from_millis(100);
/// Payloads still under way are held by SRT for its latency, and a little.
const DRAIN: Duration = Duration::from_millis(600);

/// Makes a trial.
///
/// # Errors
/// When the relay does not come up, or callers cannot connect or are thrown out.
pub fn run(plan: Plan<'_>) -> Result<Row> {
    let scene = Scene::new("bench")?;
    let scenario = plan.scenario;
    let ground = Ground::new(scenario.topology, SinkKind::Count, true, senders::Kind::Sockets)?;
    receiver::pin(HARNESS_CPU);
    let (mut running, servers) =
        Running::start_relay(&scene, &ground, plan.programs, scenario, plan.receiver)?;
    let offer = Offer {
        players: scenario.players,
        rate_pps: plan.rate_pps,
        datagram_bytes: scenario.datagram_bytes as usize,
        magic: fastrand::u32(1..),
    };
    let mut callers = Callers::new(|| ground.caller_socket(), &servers, offer)?;
    let all = scenario.groups * (1 + scenario.players);
    callers
        .connect(PATIENCE + PATIENCE_EACH * all, || running.expect_running(&scene))
        .with_context(|| format!("{}, {}", scenario.name, plan.receiver.name))?;
    let told_before = running.told(&ground);

    let watch = Watch::begin();
    let known_before = running.cpu_ns();
    callers.start();
    callers.turn_for(scenario.warm_up())?;
    let (first, refused, cpu_ns, at) =
        (callers.next_number(), callers.refused, running.cpu_ns(), std::time::Instant::now());
    callers.turn_for(plan.measure)?;
    let (end, cpu_ns) = (callers.next_number(), running.cpu_ns().saturating_sub(cpu_ns));
    let seconds = at.elapsed().as_secs_f64();
    let refused = callers.refused - refused;
    callers.stop();
    let quiet = watch.end(running.cpu_ns().saturating_sub(known_before)).compare();
    callers.turn_for(DRAIN)?;
    running.expect_running(&scene)?;
    let told = running.told(&ground);

    let sent = end - first - refused;
    let arrived: Option<u64> =
        (offer.players > 0).then(|| callers.sinks.iter().map(|sink| sink.arrived(first, end)).sum());
    let expected = sent * u64::from(offer.players.max(1));
    let delivered = arrived.unwrap_or(sent);
    let bits_in = sent * u64::from(payload_len(scenario.datagram_bytes)) * 8;
    let mut row = Row {
        scenario: scenario.name.clone(),
        receiver: plan.receiver.name.clone(),
        round: plan.round,
        step: plan.step.to_owned(),
        shape: format!("{} publishers, {} players each", scenario.groups, scenario.players),
        offered_pps: plan.rate_pps as f64,
        sent_pps: sent as f64 / seconds,
        delivered_pps: delivered as f64 / seconds,
        sent,
        lost: arrived.map(|arrived| expected.saturating_sub(arrived)),
        duplicates: arrived.map(|_| callers.sinks.iter().map(|sink| sink.counters.duplicates).sum()),
        process_ns: (delivered > 0).then(|| cpu_ns as f64 / delivered as f64),
        process_share: Some(cpu_ns as f64 / seconds / 1e9),
        mbps_per_cpu: (cpu_ns > 0).then(|| bits_in as f64 * 1e3 / cpu_ns as f64),
        per_wake: told_before.zip(told).and_then(|(before, told)| {
            let turns = told.turns - before.turns;
            (turns > 0.0).then(|| (told.rx - before.rx) / turns)
        }),
        memory_bytes: running.memory_bytes(),
        harness_lost: refused,
        topology: ground.description.clone(),
        quiet,
        ..Row::default()
    };
    let limit = if row.process_share.is_some_and(|share| share > 0.93) {
        "the receiver's processor"
    } else if refused > 0 {
        "the publishers' send buffers"
    } else if sent as f64 / seconds < OFFERED_LEAST * plan.rate_pps as f64 {
        "the generator"
    } else {
        "the offered rate"
    };
    limit.clone_into(&mut row.limited_by);
    running.stop();
    Ok(row)
}
