//! The configuration is changed while bondgate runs. Nobody here has any privilege.

use std::net::{SocketAddr, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bondgate_tests::attack::client::Device;
use bondgate_tests::bondgate::{self, Auth, Settings, enroll, samples};
use bondgate_tests::ledger;
use bondgate_tests::media::{self, Feed, Recorder};
use bondgate_tests::process::{Finished, Process};
use bondgate_tests::scene::{Scene, wait_until};

use crate::streams::{HOLD, LINKS, RATE_BPS, local_port, synthetic};

const CODE_REFUSED: i32 = 3;
const CODE_CONFIG: i32 = 78;
const PATIENCE: Duration = Duration::from_secs(5);

fn bondgate(scene: &Scene, arguments: &[&str]) -> Result<Finished> {
    let mut command: Command = bondgate::command(arguments)?;
    command.arg("--config").arg(scene.path("run.toml"));
    Process::run(scene, arguments[0], command, Duration::from_secs(20))
}

/// The sum of a metric's samples, which are whole numbers.
fn count(admin: SocketAddr, name: &str) -> Result<u64> {
    Ok(samples(admin, name)?.iter().sum::<f64>() as u64)
}

fn generation(admin: SocketAddr) -> Result<u64> {
    count(admin, "bondgate_config_generation")
}

/// Waits until there are as many links.
fn wait_for_links(settings: &Settings, wanted: u64) -> Result<()> {
    wait_until("the links to come or go", PATIENCE, || {
        Ok((count(settings.admin, "bondgate_links")? == wanted).then_some(()))
    })
}

fn socket(from: &str, to: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind((from, 0))?;
    socket.connect(to)?;
    Ok(socket)
}

/// The allowlist by turns with one address and with another: who is on it registers, who is off it is refused, a link that is up
/// ends. `policy test` says the same.
pub fn allowlist_in_the_application(scene: &Scene) -> Result<()> {
    let with = |allow: &str, base: &Settings| Settings { allow: allow.to_owned(), ..base.clone() };
    let base = Settings { auth: Auth::Required, ..Settings::loopback()? };
    let (second, third) = (with("[\"127.0.0.2/32\"]", &base), with("[\"127.0.0.3/32\"]", &base));
    let cam = enroll(scene, "cam", base.srtla)?;
    let mut run = second.start(scene)?;
    let sockets = [socket("127.0.0.2", base.srtla)?, socket("127.0.0.3", base.srtla)?];
    let (mut worst, mut seed) = (Duration::ZERO, 10);
    for round in 0..10_usize {
        let (listed, other) = (&sockets[round % 2], &sockets[1 - round % 2]);
        let mut register = |socket: &UdpSocket, patience| -> Result<()> {
            seed += 1;
            Device::new(&cam, seed)?.register(socket, 1, patience).map(drop)
        };
        ensure!(
            register(other, Duration::from_millis(100)).is_err(),
            "an address that is not listed registered"
        );
        let word = format!("127.0.0.{}", 2 + round % 2);
        bondgate(scene, &["policy", "test", &word, "--key", "cam", "--state-dir", &state(scene)])?
            .expect_code(0)?;
        let word = format!("127.0.0.{}", 3 - round % 2);
        bondgate(scene, &["policy", "test", &word, "--key", "cam", "--state-dir", &state(scene)])?
            .expect_code(CODE_REFUSED)?
            .expect_line(&["srtla.allow"])?;
        register(listed, PATIENCE)?;
        // As its figures show, several times a second.
        wait_for_links(&base, 1)?;
        let log_lines = run.log().lines().len();
        [&third, &second][round % 2].rewrite(scene, "run", round % 4 < 2)?;
        let written = Instant::now();
        let cut = wait_until("the link to end", PATIENCE, || {
            let ended = |line: &String| line.contains("group closed") && line.contains("NotAdmitted");
            Ok(run.log().lines().iter().skip(log_lines).any(ended).then(|| written.elapsed()))
        })?;
        worst = worst.max(cut);
        wait_for_links(&base, 0)?;
    }
    eprintln!(
        "FIGURE reload without the gate: 10 changes of srtla.allow, slowest cut {worst:.0?} after the file was written"
    );
    // The promise is 100 ms; this holds on a machine that is busy with other things.
    ensure!(worst < Duration::from_secs(1), "{worst:?}");
    run.expect_running()
}

fn state(scene: &Scene) -> String {
    scene.path("state").display().to_string()
}

/// What cannot be taken up is said, by `bondgate reload`, in the log and in the metrics; nothing of it is in force, and nothing of
/// what was is lost: an invalid file, an empty one, none, and keys that need a restart. SIGHUP ends nobody.
pub fn what_cannot_be_is_said(scene: &Scene) -> Result<()> {
    let settings = Settings { auth: Auth::Required, ..Settings::loopback()? };
    let mut run = settings.start(scene)?;
    let file = scene.path("run.toml");
    let good = std::fs::read_to_string(&file)?;
    let figures = || -> Result<[u64; 3]> {
        let of = |name| count(settings.admin, name);
        Ok([
            of("bondgate_config_generation")?,
            of("bondgate_config_problems")?,
            of("bondgate_config_keys_awaiting_restart")?,
        ])
    };
    bondgate(scene, &["reload"])?.expect_code(0)?.expect_line(&["run.toml is in force, generation 1"])?;
    ensure!(figures()? == [1, 0, 0], "{:?}", figures()?);

    let broken = good.replace("[streams]\n", "allov = []\n\n[streams]\n");
    let line = broken.lines().position(|line| line.starts_with("allov")).context("no such line")? + 1;
    std::fs::write(&file, &broken)?;
    run.log().wait_for("the refusal", PATIENCE, |said| {
        said.contains("configuration refused, what was in force stays")
            && said.contains(&format!("run.toml:{line}:1: srtla.allov: unknown key (did you mean allow?)"))
    })?;
    wait_until("the figures", PATIENCE, || Ok((figures()? == [1, 1, 0]).then_some(())))?;
    bondgate(scene, &["reload"])?.expect_code(CODE_CONFIG)?.expect_line(&["did you mean allow?"])?;

    std::fs::write(&file, "")?;
    run.log().wait_for("the empty file", PATIENCE, |said| said.contains("the file is empty"))?;
    std::fs::remove_file(&file)?;
    run.log().wait_for("the missing file", PATIENCE, |said| {
        said.contains("what was in force stays") && said.contains("run.toml: cannot be read")
    })?;
    run.expect_running()?;

    // Its new port is not bound, and the rest is taken up beside it.
    let elsewhere = good
        .replace(&format!("listen = \"{}\"", settings.srt), &format!("listen = \"{}\"", local_port()?))
        + "\n[bans]\nstrikes = 7\n";
    std::fs::write(&file, elsewhere)?;
    bondgate(scene, &["reload"])?
        .expect_code(0)?
        .expect_line(&["generation 2"])?
        .expect_line(&["needs a restart: srt.listen"])?;
    run.log()
        .wait_for("what needs a restart", PATIENCE, |said| said.contains("needs a restart: srt.listen"))?;
    ensure!(figures()? == [2, 0, 1], "{:?}", figures()?);

    std::fs::write(&file, &good)?;
    run.signal(libc::SIGHUP)?;
    wait_until("the old file again", PATIENCE, || Ok((figures()? == [3, 0, 0]).then_some(())))?;
    let (status, body) = bondgate::http_get(settings.admin, "/config")?;
    let json: serde_json::Value = serde_json::from_str(&body)?;
    ensure!(status == 200 && json["generation"] == 3 && json["changed"][0] == "bans.strikes", "{body}");
    run.expect_running()
}

/// A thousand versions of the file as fast as they can be written, every fifth invalid: in the end the last good one is in force.
pub fn a_thousand_rewrites(scene: &Scene) -> Result<()> {
    let settings = Settings { auth: Auth::Required, ..Settings::loopback()? };
    let mut run = settings.start(scene)?;
    for n in 0..1000_u32 {
        let allow = match n % 5 {
            4 => "[\"127.0.0.0/40\"]".to_owned(),
            _ => format!("[\"10.{}.{}.0/24\"]", n / 250, n % 250),
        };
        Settings { allow, ..settings.clone() }.rewrite(scene, "run", n % 3 != 0)?;
        if n % 50 == 0 {
            std::thread::sleep(Duration::from_millis(30));
        }
    }
    let last = Settings { allow: "[\"203.0.113.0/24\"]".to_owned(), ..settings.clone() };
    last.rewrite(scene, "run", true)?;
    bondgate(scene, &["reload"])?.expect_code(0)?;
    let taken = generation(settings.admin)?;
    // An invalid one after it changes nothing.
    Settings { allow: "[\"203.0.113.0/40\"]".to_owned(), ..settings.clone() }.rewrite(scene, "run", false)?;
    bondgate(scene, &["reload"])?.expect_code(CODE_CONFIG)?.expect_line(&["srtla.allow"])?;
    ensure!(generation(settings.admin)? == taken, "an invalid file was taken up");
    // The last good one again, in other words: nothing to take up.
    last.rewrite(scene, "run", false)?;
    bondgate(scene, &["reload"])?.expect_code(0)?;
    ensure!(generation(settings.admin)? == taken, "it was not the last good one that was in force");
    if taken < 2 {
        bail!("nothing was ever taken up");
    }
    run.expect_running()
}

/// Ten changes of the policy beside a stream whose sender may go on: nothing of it is lost.
pub fn ten_under_a_stream(scene: &Scene) -> Result<()> {
    let settings = Settings { latency_ms: 1000, auth: Auth::Required, ..Settings::loopback()? };
    let cam = enroll(scene, "cam", settings.srtla)?;
    let run = settings.start(scene)?;
    let listen = local_port()?;
    let mut command = bondgate::send_command(listen, settings.srtla, &LINKS)?;
    command.arg("--key-file").arg(bondgate::key_file(scene, "cam.key", &cam)?);
    let mut send = Process::spawn(scene, "send", command)?;
    let sent = synthetic(6.0, 41);
    let publish = media::uri(listen, "streamid=cam1&latency=1000");
    let feed = Feed::start(scene, &publish, sent.clone(), RATE_BPS, HOLD)?;
    let play = media::uri(settings.srt, "streamid=play/cam1&latency=300");
    let viewer = Recorder::start_when_live(scene, "viewer", &play)?;
    for n in 0..10_u32 {
        let allow = format!("[\"127.0.0.0/8\", \"192.0.2.{n}/32\"]");
        Settings { allow, ..settings.clone() }.rewrite(scene, "run", n % 2 == 0)?;
        wait_until("the configuration to be taken up", PATIENCE, || {
            Ok((generation(settings.admin)? >= u64::from(n + 2)).then_some(()))
        })?;
        std::thread::sleep(Duration::from_millis(100));
    }
    feed.finish()?;
    let recorded = viewer.finish()?;
    ledger::complete(&sent, &recorded, sent.len() / 2)?;
    ensure!(!run.log().has_line("NotAdmitted"), "a link was cut");
    send.expect_running()
}
