//! A changed configuration file is in force in the driver while streams and floods go on.

use std::net::SocketAddrV4;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bondgate_ebpf::Gate;
use bondgate_ebpf_common::reason::Reason;
use bondgate_sim::rng::Rng;
use bondgate_tests::attack::client::{Device, data, random_reg1, socket};
use bondgate_tests::attack::wire::{Spoofer, nobody};
use bondgate_tests::attack::{BYSTANDER, ENCODER, How, Live, VICTIM, host, srtla};
use bondgate_tests::bondgate::{self, Auth, Settings};
use bondgate_tests::scene::{Scene, wait_until};

use crate::figure;
use crate::rig::{Rig, cables};

/// The allowlist of some hosts of the arena, as in TOML.
fn allow(hosts: &[u8]) -> String {
    format!("{:?}", hosts.iter().map(|index| format!("10.78.{index}.0/24")).collect::<Vec<_>>())
}

fn settings(rig: &Rig, allow: &str) -> Result<Settings> {
    let gate = format!("attach = \"on\"\n{}", cables());
    Ok(Settings { allow: allow.to_owned(), ..rig.settings(Auth::Required, &gate)? })
}

/// A host that is on the list and off it by turns: what it sends is dropped, and let through, soon after the file has changed.
/// The link it has registered goes from the gate, too.
pub fn allowlist_in_the_gate(scene: &Scene) -> Result<()> {
    let rig = Rig::new(scene)?;
    let cam = bondgate::enroll(scene, "cam", srtla().into())?;
    let (both, one) = (settings(&rig, &allow(&[VICTIM, BYSTANDER]))?, settings(&rig, &allow(&[BYSTANDER]))?);
    let _run = rig.arena.start(scene, &both)?;
    let gate = Gate::open_pinned(&rig.pins.dir())?;
    let count = |wanted: Reason| -> Result<u64> {
        let counters = gate.counters()?;
        let found = counters.reasons.iter().find(|(reason, _)| *reason == wanted);
        Ok(found.map_or(0, |(_, count)| count.packets))
    };
    let at = SocketAddrV4::new(host(VICTIM), 7000);
    let mut device = Device::new(&cam, 3)?;
    let mut spoofer = Spoofer::new(&rig.arena.attacker, srtla())?;
    let (mut worst, mut links_gone) = (Duration::ZERO, Duration::ZERO);
    let victim = socket(&rig.arena.victim, host(VICTIM), srtla())?;
    for round in 0..5_u32 {
        Device::new(&cam, 100 + u64::from(round))?.register(&victim, 1, Duration::from_secs(5))?;
        wait_until("the link in the map", Duration::from_secs(5), || {
            Ok((gate.links()?.len() == 1).then_some(()))
        })?;
        for (settings, reason) in [(&one, Reason::NotAdmitted), (&both, Reason::Sa1)] {
            let since = Instant::now();
            settings.rewrite(scene, "run", round % 2 == 0)?;
            let before = count(reason)?;
            let waited = wait_until("the gate to follow", Duration::from_secs(5), || {
                spoofer.send(at, &device.hello(round, 0).packet()[..])?;
                Ok((count(reason)? > before).then(|| since.elapsed()))
            })?;
            worst = worst.max(waited);
            if reason == Reason::NotAdmitted {
                let gone = wait_until("the link gone from the map", Duration::from_secs(5), || {
                    Ok(gate.links()?.is_empty().then(|| since.elapsed()))
                })?;
                links_gone = links_gone.max(gone);
            }
        }
    }
    figure(
        "reload",
        format_args!(
            "10 changes of srtla.allow in force in the driver, slowest {worst:.0?} after the file began to change; the link of the \
             host that was taken off gone {links_gone:.0?} after it at the latest"
        ),
    );
    // The promise is 100 ms; this holds on a machine that is busy with other things.
    ensure!(
        worst < Duration::from_secs(1) && links_gone < Duration::from_secs(1),
        "{worst:?} {links_gone:?}"
    );
    Ok(())
}

/// Ten changes of the policy beside a stream of a listed sender and a flood of others: nothing of it is lost, and the flood stays
/// outside.
pub fn under_a_stream_and_a_flood(scene: &Scene) -> Result<()> {
    let rig = Rig::new(scene)?;
    let cam = bondgate::enroll(scene, "cam", srtla().into())?;
    let lists = [allow(&[ENCODER]), allow(&[ENCODER, BYSTANDER])];
    let variants = [settings(&rig, &lists[0])?, settings(&rig, &lists[1])?];
    let run = rig.arena.start(scene, &variants[0])?;
    let how = How::Key(bondgate::key_file(scene, "cam.key", &cam)?);
    let live = Live::start(scene, &rig.arena, (&rig.arena.encoder, ENCODER), &how, "cam1", 9)?;
    let stop = AtomicBool::new(false);
    let before = rig.count(Reason::Unregistered)?
        + rig.count(Reason::NotAdmitted)?
        + rig.count(Reason::StockNotAdmitted)?;
    let (sent, slowest) = std::thread::scope(|scope| {
        let attacker = scope.spawn(|| -> Result<u64> {
            let mut spoofer = Spoofer::new(&rig.arena.attacker, srtla())?;
            let mut rng = Rng::new(31);
            let (reg1, data) = (random_reg1(&mut rng), data(7, 9));
            while !stop.load(Ordering::Relaxed) {
                for _ in 0..20 {
                    let packet = if spoofer.datagrams.is_multiple_of(2) { &reg1[..] } else { &data };
                    spoofer.send(nobody(rng.next_u64()), packet)?;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok(spoofer.datagrams)
        });
        let reload = || -> Result<Duration> {
            let mut slowest = Duration::ZERO;
            for generation in 2..12_u32 {
                let since = Instant::now();
                variants[(generation as usize + 1) % 2].rewrite(scene, "run", generation % 4 < 2)?;
                let waited = wait_until("the configuration to be taken up", Duration::from_secs(5), || {
                    let now = rig.arena.metric("bondgate_config_generation", "")?;
                    Ok((now >= f64::from(generation)).then(|| since.elapsed()))
                })?;
                slowest = slowest.max(waited);
                std::thread::sleep(Duration::from_millis(150));
            }
            Ok(slowest)
        };
        let slowest = reload();
        stop.store(true, Ordering::Relaxed);
        let sent = attacker.join().map_err(|_| anyhow::anyhow!("the attacker panicked"))??;
        Ok::<_, anyhow::Error>((sent, slowest?))
    })?;
    let dropped = rig.count(Reason::Unregistered)?
        + rig.count(Reason::NotAdmitted)?
        + rig.count(Reason::StockNotAdmitted)?
        - before;
    let payloads = live.finish().context("the stream beside reloads and flood")?;
    let refused = rig.arena.metric("bondgate_config_reloads_total", "refused")? as u64;
    figure(
        "reload under a stream",
        format_args!(
            "10 reloads, slowest taken up after {slowest:.0?}, {dropped} of {sent} datagrams of a flood dropped by the gate; \
             {payloads} payloads, 0 lost"
        ),
    );
    ensure!(sent > 3000 && dropped >= sent, "{dropped} of {sent}");
    ensure!(refused == 0, "{refused} refused");
    ensure!(
        !run.log().lines().iter().any(|line| line.contains("group closed")),
        "the stream's group was closed"
    );
    let status = rig.xdp(scene, &["status"])?;
    status.expect_line(&["policy generation"])?;
    Ok(())
}
