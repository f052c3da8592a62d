//! Floods that end in the driver.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bondgate_ebpf_common::reason::Reason;
use bondgate_sim::rng::Rng;
use bondgate_tests::attack::client::{data, random_reg1};
use bondgate_tests::attack::wire::{Spoofer, nobody};
use bondgate_tests::attack::{ATTACKER, ENCODER, How, Live, cpu_seconds, host, srtla};
use bondgate_tests::bondgate::{self, Auth};
use bondgate_tests::scene::Scene;
use std::net::SocketAddrV4;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::figure;
use crate::rig::{Rig, cables};

/// How long each part is measured.
const PART: Duration = Duration::from_secs(3);

pub fn beside_a_stream_native(scene: &Scene) -> Result<()> {
    beside_a_stream(scene, "native")
}

pub fn beside_a_stream_generic(scene: &Scene) -> Result<()> {
    beside_a_stream(scene, "generic")
}

/// Data and registrations from nobody's addresses at the highest rate this machine gives, beside a live stream.
fn beside_a_stream(scene: &Scene, mode: &str) -> Result<()> {
    let rig = Rig::new(scene)?;
    let cam = bondgate::enroll(scene, "cam", srtla().into())?;
    let settings =
        rig.settings(Auth::Required, &format!("attach = \"on\"\nmode = \"{mode}\"\n{}", cables()))?;
    let run = rig.arena.start(scene, &settings)?;
    let how = How::Key(bondgate::key_file(scene, "cam.key", &cam)?);
    let live = Live::start(scene, &rig.arena, (&rig.arena.encoder, ENCODER), &how, "cam1", 14)?;

    let measure = || -> Result<(f64, f64)> {
        let (cpu, start) = (cpu_seconds(&run)?, Instant::now());
        let seen = rig.arena.metric("bondgate_srtla_received_datagrams_total", "")?;
        std::thread::sleep(PART);
        let seen = rig.arena.metric("bondgate_srtla_received_datagrams_total", "")? - seen;
        let took = start.elapsed().as_secs_f64();
        Ok(((cpu_seconds(&run)? - cpu) / took, seen / took))
    };
    let quiet = measure()?;
    let before = rig.count(Reason::Unregistered)? + rig.count(Reason::StockNotAdmitted)?;
    let stop = AtomicBool::new(false);
    let (sent, loud) = std::thread::scope(|scope| {
        let attacker = scope.spawn(|| -> Result<(u64, f64)> {
            let mut spoofer = Spoofer::new(&rig.arena.attacker, srtla())?;
            let mut rng = Rng::new(31);
            let (reg1, data) = (random_reg1(&mut rng), data(7, 9));
            let start = Instant::now();
            while !stop.load(Ordering::Relaxed) {
                let packet = if spoofer.datagrams.is_multiple_of(2) { &reg1[..] } else { &data };
                spoofer.send(nobody(rng.next_u64()), packet)?;
            }
            Ok((spoofer.datagrams, start.elapsed().as_secs_f64()))
        });
        std::thread::sleep(Duration::from_millis(300));
        let loud = measure();
        stop.store(true, Ordering::Relaxed);
        let sent = attacker.join().map_err(|_| anyhow::anyhow!("the attacker panicked"))?;
        Ok::<_, anyhow::Error>((sent?, loud?))
    })?;
    let dropped = rig.count(Reason::Unregistered)? + rig.count(Reason::StockNotAdmitted)? - before;
    let again = measure()?;
    let payloads = live.finish().context("the stream beside the flood")?;
    figure(
        &format!("flood {mode}"),
        format_args!(
            "{:.0} datagrams/s sent, {dropped} of {} dropped by the gate; daemon {:.1} % of a core before, {:.1} % during, {:.1} % after, \
             {:.0}, {:.0} and {:.0} datagrams/s looked at; {payloads} payloads, 0 lost",
            sent.0 as f64 / sent.1,
            sent.0,
            quiet.0 * 100.0,
            loud.0 * 100.0,
            again.0 * 100.0,
            quiet.1,
            loud.1,
            again.1,
        ),
    );
    ensure!(sent.0 > 3000, "that was no flood");
    ensure!(dropped >= sent.0, "{} of {} came through", sent.0.saturating_sub(dropped), sent.0);
    // What the daemon looks at is the stream's own, and a flood of thousands a second would show.
    ensure!(loud.1 < 2.0 * quiet.1.max(again.1) + 100.0, "the daemon saw {:.0} datagrams/s", loud.1);
    // Clock ticks, and a machine that is busy: without the gate it is a multiple.
    ensure!(loud.0 <= 1.5 * quiet.0.max(again.0) + 0.05, "the daemon's CPU rose to {:.1} %", loud.0 * 100.0);
    Ok(())
}

/// `bondgate xdp top` and `status` show who floods, with what.
pub fn seen_by_top(scene: &Scene) -> Result<()> {
    let rig = Rig::new(scene)?;
    let settings = rig.settings(Auth::Required, &cables())?;
    let _run = rig.arena.start(scene, &settings)?;
    let stop = AtomicBool::new(false);
    let top = std::thread::scope(|scope| {
        let attacker = scope.spawn(|| -> Result<()> {
            let mut spoofer = Spoofer::new(&rig.arena.attacker, srtla())?;
            let data = data(7, 9);
            while !stop.load(Ordering::Relaxed) {
                for _ in 0..50 {
                    spoofer.send(SocketAddrV4::new(host(ATTACKER), 99), &data)?;
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            Ok(())
        });
        let top = rig.xdp(scene, &["top", "--once", "--json"]);
        let text = rig.xdp(scene, &["top", "--once", "--interval", "0.5"]);
        stop.store(true, Ordering::Relaxed);
        attacker.join().map_err(|_| anyhow::anyhow!("the attacker panicked"))??;
        text?.expect_line(&["unregistered", "drop"])?.expect_line(&["10.78.1.2", "unregistered"])?;
        top
    })?;
    let json: serde_json::Value = serde_json::from_str(&top.lines[1..].join("\n"))?;
    let rate = json["reasons"]["unregistered"]["packets_per_s"].as_f64().context("no rate")?;
    figure("top", format_args!("{rate:.0}/s unregistered, busiest {}", json["sources"][0]));
    ensure!(rate > 100.0, "{rate}");
    ensure!(json["sources"][0]["source"] == host(ATTACKER).to_string(), "{json}");
    ensure!(json["sources"][0]["mostly"] == "unregistered", "{json}");
    let status = rig.xdp(scene, &["status"])?;
    status.expect_line(&["cable1", "native", "attached"])?.expect_line(&["unregistered", "drop"])?;
    Ok(())
}
