//! A changed configuration file, while streams go on.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bondgate_tests::attack::client::{Device, socket};
use bondgate_tests::attack::wire::Observer;
use bondgate_tests::attack::{Arena, ENCODER, How, Live, VICTIM, host, srtla};
use bondgate_tests::bondgate::{self, Auth, Settings};
use bondgate_tests::scene::{Scene, wait_until};

use crate::figure;

/// A change is effective within this time.
const TAKEN_UP: Duration = Duration::from_millis(100);

/// The stream of an address that is taken off the allowlist ends, although its device has a key; another one loses nothing. Ten
/// changes, and whenever it is on the list again it is welcome.
pub fn effective_within_100_ms(scene: &Scene) -> Result<()> {
    let arena = Arena::new()?;
    let cam = bondgate::enroll(scene, "cam", srtla().into())?;
    let other = bondgate::enroll(scene, "other", srtla().into())?;
    let all = Arena::settings(Auth::Required)?;
    let without = Settings { allow: "[\"10.78.0.0/24\", \"10.78.3.0/24\"]".to_owned(), ..all.clone() };
    let mut run = arena.start(scene, &all)?;
    let key = bondgate::key_file(scene, "cam.key", &cam)?;
    let live = Live::start(scene, &arena, (&arena.encoder, ENCODER), &How::Key(key), "cam1", 12)?;
    let key = bondgate::key_file(scene, "other.key", &other)?;
    let hit = Live::start(scene, &arena, (&arena.victim, VICTIM), &How::Key(key), "cam2", 12)?;
    // What is sent to the address that is taken off, answers to its data among it. That its registrations are refused, it is
    // told.
    let network = host(VICTIM).octets();
    let to_victim = Observer::arriving(&arena.victim, move |seen| {
        !seen.is_icmp && seen.to.ip().octets()[..3] == network[..3] && seen.payload.first() != Some(&0x92)
    })?;
    std::thread::sleep(Duration::from_millis(700));
    let before = to_victim.tally().packets;
    without.rewrite(scene, "run", true)?;
    let written = Instant::now();
    std::thread::sleep(Duration::from_millis(1200));
    let last = to_victim.tally().last.context("nothing was sent before")?;
    let latest = last.saturating_duration_since(written);
    ensure!(before > 50, "the stream was not there before: {before}");
    ensure!(
        run.log().lines().iter().any(|line| line.contains("group closed") && line.contains("NotAdmitted")),
        "no word of it"
    );
    let from_victim = socket(&arena.victim, host(VICTIM), srtla())?;
    let (mut welcome, mut cut, mut seed) = (Vec::new(), Vec::new(), 100);
    for round in 0..5_u64 {
        let refused = Device::new(&other, 10 + round)?.register(&from_victim, 9, Duration::from_millis(300));
        ensure!(refused.is_err(), "an address that is not on the list registered");
        all.rewrite(scene, "run", round % 2 == 0)?;
        let written = Instant::now();
        welcome.push(wait_until("the list to name it again", Duration::from_secs(5), || {
            // A new one each time, or it would be a repetition; and not so often that its budget runs out.
            std::thread::sleep(Duration::from_millis(20));
            seed += 1;
            let registered = Device::new(&other, seed)?.register(&from_victim, 9, Duration::from_millis(300));
            Ok(registered.is_ok().then(|| written.elapsed()))
        })?);
        let said = run.log().lines().len();
        without.rewrite(scene, "run", round % 2 == 1)?;
        let written = Instant::now();
        cut.push(wait_until("the link to be gone", Duration::from_secs(5), || {
            let is_end = |line: &String| line.contains("NotAdmitted");
            Ok(run.log().lines().iter().skip(said).any(is_end).then(|| written.elapsed()))
        })?);
    }
    let payloads = live.finish()?;
    figure(
        "reload",
        format_args!(
            "last packet {latest:.0?}, ends said {cut:.0?}, welcome again {welcome:.0?} after the file was written; the other stream: \
             {payloads} payloads, 0 lost"
        ),
    );
    ensure!(hit.finish().is_err(), "the stream that was cut went through to its end");
    ensure!(latest <= TAKEN_UP, "{latest:?}");
    ensure!(cut.iter().chain(&welcome).all(|took| *took < Duration::from_secs(1)), "{cut:?} {welcome:?}");
    run.expect_running()
}
