//! Floods of REG1: they cost no memory, no picture, and keep nobody out.

use std::net::SocketAddrV4;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bondgate_sim::rng::Rng;
use bondgate_tests::attack::client::{
    Device, KEEPALIVE, random_reg1, receive, socket, socket_at, stock_register,
};
use bondgate_tests::attack::wire::{Spoofer, nobody};
use bondgate_tests::attack::{
    Arena, BYSTANDER, ENCODER, How, Live, VICTIM, cpu_seconds, host, memory_bytes, srtla,
};
use bondgate_tests::bondgate::{self, Auth};
use bondgate_tests::netns::Namespace;
use bondgate_tests::scene::Scene;

use crate::{figure, is_long};

/// Resident memory that a flood may seem to take beyond what the stream beside it takes in the same time without one: pages of
/// tables that were reserved at the start and are written to for the first time, receive buffers of a turn that was longer than
/// any before. About a million REG1 are looked at meanwhile, so this is half a byte for each.
const PAGE_NOISE_BYTES: i64 = 512 << 10;
/// How long memory is watched without a flood.
const QUIET: Duration = Duration::from_millis(2500);

/// REG1 from nobody's addresses, as fast as they can be made, until told to stop. Returns how many.
pub fn flood_reg1(from: &Namespace, stop: &AtomicBool, pause: Option<Duration>) -> Result<u64> {
    let mut spoofer = Spoofer::new(from, srtla())?;
    let mut rng = Rng::new(31);
    let mut packet = random_reg1(&mut rng);
    while !stop.load(Ordering::Relaxed) {
        packet[2..10].copy_from_slice(&rng.next_u64().to_be_bytes());
        spoofer.send(nobody(rng.next_u64()), &packet)?;
        if let Some(pause) = pause {
            std::thread::sleep(pause);
        }
    }
    Ok(spoofer.datagrams)
}

/// Does `work` while `attack` goes on.
pub fn during<A: Send, T>(
    attack: impl FnOnce(&AtomicBool) -> Result<A> + Send,
    work: impl FnOnce() -> Result<T>,
) -> Result<(A, T)> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let attacker = scope.spawn(|| attack(&stop));
        let done = work();
        stop.store(true, Ordering::Relaxed);
        let attacked = attacker.join().map_err(|_| anyhow::anyhow!("the attacker panicked"))?;
        Ok((attacked?, done?))
    })
}

pub fn reg1_required(scene: &Scene) -> Result<()> {
    reg1(scene, "W2/A-01 required", Auth::Required)
}

pub fn reg1_mixed(scene: &Scene) -> Result<()> {
    reg1(scene, "W2/A-01 mixed", Auth::Mixed("[\"0.0.0.0/0\"]"))
}

/// A flood at the highest rate this machine gives, beside a live stream, while a device registers again and again.
fn reg1(scene: &Scene, row: &str, auth: Auth) -> Result<()> {
    let (seconds, rounds) = if is_long() { (40, 60) } else { (13, 20) };
    let arena = Arena::new()?;
    let cam = bondgate::enroll(scene, "cam", srtla().into())?;
    let honest = bondgate::enroll(scene, "honest", srtla().into())?;
    let run = arena.start(scene, &Arena::settings(auth)?)?;
    let how = How::Key(bondgate::key_file(scene, "cam.key", &cam)?);
    let live = Live::start(scene, &arena, (&arena.encoder, ENCODER), &how, "cam1", seconds)?;
    let socket = socket(&arena.bystander, host(BYSTANDER), srtla())?;
    let mut device = Device::new(&honest, 5)?;
    device.register(&socket, 1, Duration::from_secs(3))?;

    // A first wave, so that every table has been written to once.
    let wave = |pause: Duration| {
        during(
            |stop| flood_reg1(&arena.attacker, stop, None),
            || {
                std::thread::sleep(pause);
                Ok(())
            },
        )
    };
    wave(Duration::from_millis(1500))?;
    let rss = memory_bytes(&run, "VmRSS")?;
    std::thread::sleep(QUIET);
    let quiet_growth = memory_bytes(&run, "VmRSS")? - rss;
    let before = (memory_bytes(&run, "VmRSS")?, memory_bytes(&run, "VmData")?);
    let received = arena.metric("bondgate_srtla_received_datagrams_total", "")?;
    let (cpu, start) = (cpu_seconds(&run)?, Instant::now());
    let (sent, (registered, hellos, worst)) = during(
        |stop| flood_reg1(&arena.attacker, stop, None),
        || {
            let (mut registered, mut hellos, mut worst) = (0, 0, Duration::ZERO);
            for _ in 0..rounds {
                let asked = Instant::now();
                // A device whose sender starts again and again would be told to wait: this one renews its link.
                if let Ok(done) = device.register(&socket, 1, Duration::from_secs(4)) {
                    registered += 1;
                    hellos += done.hellos;
                    worst = worst.max(asked.elapsed());
                }
                std::thread::sleep(Duration::from_millis(120).saturating_sub(asked.elapsed()));
            }
            Ok((registered, hellos, worst))
        },
    )?;
    let took = start.elapsed().as_secs_f64();
    let cpu = (cpu_seconds(&run)? - cpu) / took;
    let after = (memory_bytes(&run, "VmRSS")?, memory_bytes(&run, "VmData")?);
    let seen = arena.metric("bondgate_srtla_received_datagrams_total", "")? - received;
    let payloads = live.finish().context("the stream beside the flood")?;
    figure(
        row,
        format_args!(
            "{:.0} REG1/s sent, {:.0} datagrams/s looked at with {:.0} % of a core; memory {:+} KiB resident ({:+} KiB \
             in {QUIET:?} without the flood), {:+} KiB allocated; {registered} of {rounds} SA1 registrations ({hellos} M1, slowest {worst:.0?}); {payloads} payloads, \
             0 lost",
            sent as f64 / took,
            seen / took,
            cpu * 100.0,
            (after.0 - before.0) / 1024,
            quiet_growth / 1024,
            (after.1 - before.1) / 1024,
        ),
    );
    ensure!(registered == rounds, "{registered} of {rounds} registrations");
    let quiet_share = quiet_growth as f64 * took / QUIET.as_secs_f64();
    let growth = after.0 - before.0 - quiet_share as i64;
    ensure!(growth <= PAGE_NOISE_BYTES, "resident memory grew by {growth} bytes more than without the flood");
    ensure!(after.1 <= before.1, "{} bytes were allocated", after.1 - before.1);
    ensure!(sent as f64 / took > 1000.0, "that was no flood");
    let groups = arena.metric("bondgate_groups", "")?;
    ensure!(groups <= 2.0, "{groups} groups");
    Ok(())
}

/// What locks out 72 % of the honest senders of a stock receiver.
pub fn reg1_24_per_second(scene: &Scene) -> Result<()> {
    const ROUNDS: u32 = 40;
    let arena = Arena::new()?;
    let _run = arena.start(scene, &Arena::settings(Auth::Mixed("[\"0.0.0.0/0\"]"))?)?;
    let mut rng = Rng::new(3);
    let (sent, (joined, worst)) = during(
        |stop| flood_reg1(&arena.attacker, stop, Some(Duration::from_secs(1) / 24)),
        || {
            // 200 REG1 fill a stock receiver's table; these do it in 8 s.
            std::thread::sleep(Duration::from_secs(8));
            let (mut joined, mut worst) = (0, Duration::ZERO);
            for _ in 0..ROUNDS {
                let socket = socket(&arena.bystander, host(BYSTANDER), srtla())?;
                let asked = Instant::now();
                if stock_register(&socket, &mut rng, Duration::from_secs(1)).is_ok() {
                    joined += 1;
                    worst = worst.max(asked.elapsed());
                }
                std::thread::sleep(Duration::from_millis(100));
            }
            Ok((joined, worst))
        },
    )?;
    figure(
        "W2 24/s",
        format_args!(
            "{sent} spoofed REG1; {joined} of {ROUNDS} stock senders joined without a repetition, slowest {worst:.1?}"
        ),
    );
    ensure!(joined == ROUNDS, "{joined} of {ROUNDS}");
    Ok(())
}

/// One spoofed REG1 blocks the victim's address at a stock receiver for ten seconds and more.
pub fn reg1_in_the_victim_s_name(scene: &Scene) -> Result<()> {
    let arena = Arena::new()?;
    let uri = bondgate::enroll(scene, "cam", srtla().into())?;
    let _run = arena.start(scene, &Arena::settings(Auth::Mixed("[\"0.0.0.0/0\"]"))?)?;
    let mut rng = Rng::new(4);
    let mut spoofer = Spoofer::new(&arena.attacker, srtla())?;
    let mut slowest = Duration::ZERO;
    for round in 0..10u16 {
        let at = SocketAddrV4::new(host(VICTIM), 7000 + round);
        for _ in 0..8 {
            spoofer.send(at, &random_reg1(&mut rng))?;
            let mut reg2 = random_reg1(&mut rng);
            reg2[1] = 1;
            spoofer.send(at, &reg2)?;
            spoofer.send(at, &Device::new(&uri, u64::from(round))?.hello(1, 0).packet()[..])?;
        }
        let socket = socket_at(&arena.victim, at, srtla())?;
        let asked = Instant::now();
        if round % 2 == 0 {
            stock_register(&socket, &mut rng, Duration::from_millis(500))
                .with_context(|| format!("round {round}"))?;
        } else {
            let mut device = Device::new(&uri, 100 + u64::from(round))?;
            device.group = [round as u8 & 2; 16];
            device.register(&socket, u32::from(round), Duration::from_secs(2))?;
        }
        slowest = slowest.max(asked.elapsed());
        // 24 forged registrations in the victim's name are three quarters of a source's budget for a second.
        std::thread::sleep(Duration::from_millis(500));
    }
    figure("W4/A-02", format_args!("10 of 10 victims joined, slowest {slowest:.1?}"));
    ensure!(slowest < Duration::from_millis(900), "{slowest:?}");
    Ok(())
}

/// The same, kept up at a thousand per second. A device joins all the same, and a stock link that is up stays up. A stock
/// sender that is about to register has to wait, because its source's budget is spent: the figure says so, and
/// `docs/threat-model.md` too.
pub fn in_the_victim_s_name(scene: &Scene) -> Result<()> {
    let arena = Arena::new()?;
    let uri = bondgate::enroll(scene, "cam", srtla().into())?;
    let _run = arena.start(scene, &Arena::settings(Auth::Mixed("[\"0.0.0.0/0\"]"))?)?;
    let mut rng = Rng::new(4);
    let up = socket(&arena.victim, host(VICTIM), srtla())?;
    stock_register(&up, &mut rng, Duration::from_secs(1))?;
    let flood = |stop: &AtomicBool| {
        let (mut spoofer, mut rng) = (Spoofer::new(&arena.attacker, srtla())?, Rng::new(5));
        while !stop.load(Ordering::Relaxed) {
            let port = 1024 + rng.below(60_000) as u16;
            spoofer.send(SocketAddrV4::new(host(VICTIM), port), &random_reg1(&mut rng))?;
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(spoofer.datagrams)
    };
    let (sent, (devices, stock, echoes)) = during(flood, || {
        std::thread::sleep(Duration::from_secs(1));
        let (mut devices, mut stock, mut echoes, mut rng) = (0, 0, 0, Rng::new(6));
        let mut sender = Device::new(&uri, 9)?;
        for n in 0..10 {
            let device = socket(&arena.victim, host(VICTIM), srtla())?;
            devices += u32::from(sender.register(&device, n, Duration::from_secs(2)).is_ok());
            let other = socket(&arena.victim, host(VICTIM), srtla())?;
            stock += u32::from(stock_register(&other, &mut rng, Duration::from_millis(100)).is_ok());
            up.send(&KEEPALIVE)?;
            let echo = receive(&up, Duration::from_millis(300), |echo| (echo == KEEPALIVE).then_some(()));
            echoes += u32::from(echo.is_some());
        }
        Ok((devices, stock, echoes))
    })?;
    figure(
        "W4/A-02 flood",
        format_args!(
            "{sent} REG1 in the victim's name: {devices} of 10 devices joined there, {echoes} of 10 keepalives of its stock link \
             echoed; {stock} of 10 stock senders joined at the first attempt"
        ),
    );
    ensure!(devices == 10, "{devices} of 10 devices");
    ensure!(echoes == 10, "{echoes} of 10 echoes");
    Ok(())
}
