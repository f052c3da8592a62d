//! Bans, while streams go on.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bondgate_tests::attack::client::{Device, socket};
use bondgate_tests::attack::wire::Observer;
use bondgate_tests::attack::{Arena, BYSTANDER, ENCODER, How, Live, VICTIM, host, srtla};
use bondgate_tests::bondgate::{self, Auth};
use bondgate_tests::scene::{Scene, wait_until};

use crate::figure;

/// A ban is effective within this time, says the command.
const TAKEN_UP: Duration = Duration::from_millis(100);

/// The stream of a banned address ends, whatever key it has; another one loses nothing. Three times, and after each the ban is
/// lifted and the address is welcome again.
pub fn effective_within_100_ms(scene: &Scene) -> Result<()> {
    let arena = Arena::new()?;
    let cam = bondgate::enroll(scene, "cam", srtla().into())?;
    let banned = bondgate::enroll(scene, "banned", srtla().into())?;
    let mut run = arena.start(scene, &Arena::settings(Auth::Required)?)?;
    let key = bondgate::key_file(scene, "cam.key", &cam)?;
    let live = Live::start(scene, &arena, (&arena.encoder, ENCODER), &How::Key(key), "cam1", 9)?;
    // Both addresses it has.
    let victim = "10.78.2.0/24";
    let key = bondgate::key_file(scene, "banned.key", &banned)?;
    let hit = Live::start(scene, &arena, (&arena.victim, VICTIM), &How::Key(key), "cam2", 9)?;
    // What is sent to the banned address, answers to its data among it.
    let network = host(VICTIM).octets();
    let to_victim = Observer::arriving(&arena.victim, move |seen| {
        !seen.is_icmp && seen.to.ip().octets()[..3] == network[..3]
    })?;
    std::thread::sleep(Duration::from_millis(700));
    let before = to_victim.tally().packets;
    bondgate::administer(scene, &["ban", "add", victim, "--reason", "test"])?;
    let returned = Instant::now();
    let mut latest = Vec::new();
    std::thread::sleep(Duration::from_millis(1200));
    let mut silent = |since: Instant| -> Result<u64> {
        let tally = to_victim.tally();
        latest.push(tally.last.context("nothing was sent before")?.saturating_duration_since(since));
        Ok(tally.packets)
    };
    let at_ban = silent(returned)?;
    ensure!(before > 50, "the banned stream was not there before: {before}");
    ensure!(
        run.log().lines().iter().any(|line| line.contains("group closed") && line.contains("Banned")),
        "no word of it"
    );
    // Silence for everything, a hello with a good key included, while the device beside it registers.
    let other = socket(&arena.bystander, host(BYSTANDER), srtla())?;
    let from_victim = socket(&arena.victim, host(VICTIM), srtla())?;
    for round in 0..2u64 {
        let refused = Device::new(&banned, 10 + round)?.register(&from_victim, 9, Duration::from_millis(300));
        ensure!(refused.is_err(), "a banned address registered");
        Device::new(&banned, 20 + round)?.register(&other, 9, Duration::from_secs(5))?;
        bondgate::administer(scene, &["ban", "del", victim])?;
        let registered = wait_until("the ban to be over", Duration::from_secs(5), || {
            Ok(Device::new(&banned, 30 + round)?.register(&from_victim, 9, Duration::from_millis(300)).ok())
        });
        registered?;
        bondgate::administer(scene, &["ban", "add", victim])?;
        let returned = Instant::now();
        std::thread::sleep(Duration::from_millis(400));
        silent(returned)?;
    }
    let payloads = live.finish()?;
    let dropped = arena.dropped("banned")?;
    figure(
        "bans",
        format_args!(
            "last packet to the banned address {latest:.0?} after the command had returned; {dropped} datagrams dropped; the \
             other stream: {payloads} payloads, 0 lost"
        ),
    );
    ensure!(hit.finish().is_err(), "the banned stream went through to its end");
    ensure!(at_ban > 0 && dropped > 0, "nothing was dropped");
    ensure!(latest.iter().all(|last| *last <= TAKEN_UP), "{latest:?}");
    run.expect_running()
}

/// One of a device's two modems is banned: its link ends, and the stream goes on over the other without a loss.
pub fn one_modem_is_banned(scene: &Scene) -> Result<()> {
    let arena = Arena::new()?;
    let cam = bondgate::enroll(scene, "cam", srtla().into())?;
    let mut run = arena.start(scene, &Arena::settings(Auth::Required)?)?;
    let key = bondgate::key_file(scene, "cam.key", &cam)?;
    let live = Live::start(scene, &arena, (&arena.encoder, ENCODER), &How::Key(key), "cam1", 5)?;
    std::thread::sleep(Duration::from_millis(700));
    bondgate::administer(scene, &["ban", "add", &host(ENCODER).to_string()])?;
    run.log().wait_for("the end of the link", Duration::from_secs(2), |line| {
        line.contains("link left") && line.contains("Banned")
    })?;
    let payloads = live.finish()?;
    let lines = run.log().lines();
    ensure!(
        !lines.iter().any(|line| line.contains("group closed") && line.contains("Banned")),
        "its group ended"
    );
    figure("bans, one modem", format_args!("{payloads} payloads, 0 lost"));
    run.expect_running()
}
