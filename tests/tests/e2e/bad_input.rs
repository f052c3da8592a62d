//! What people get wrong: each a clear message and a stable exit code, and nothing lost that already flows.

use std::net::UdpSocket;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bondgate_tests::bondgate::{self, Output, Settings};
use bondgate_tests::ledger;
use bondgate_tests::media::{self, Feed, Recorder};
use bondgate_tests::process::{Finished, Process};
use bondgate_tests::scene::Scene;

use crate::streams::{HOLD, LINKS, RATE_BPS, local_port, synthetic};

const CODE_RUNTIME: i32 = 1;
const CODE_USAGE: i32 = 2;
const CODE_CONFIG: i32 = 78;
const TIMEOUT: Duration = Duration::from_secs(10);

/// Both commands that read a configuration must refuse it in the same way.
fn refused(scene: &Scene, content: &str) -> Result<[Finished; 2]> {
    let file = scene.write("bad.toml", content)?;
    let attempt = |arguments: &[&str]| -> Result<Finished> {
        let mut command = bondgate::command(arguments)?;
        command.arg(&file);
        let finished = Process::run(scene, arguments[0], command, TIMEOUT)?;
        finished.expect_code(CODE_CONFIG)?;
        Ok(finished)
    };
    Ok([attempt(&["check-config"])?, attempt(&["run", "-c"])?])
}

pub fn truncated_config(scene: &Scene) -> Result<()> {
    let whole = Settings::loopback()?.to_toml(scene);
    let at = whole.find("listen = \"127").context("no listen key")? + 14;
    for finished in refused(scene, &whole[..at])? {
        finished.expect_line(&["bad.toml"])?;
    }
    Ok(())
}

pub fn unknown_key(scene: &Scene) -> Result<()> {
    for finished in refused(scene, "[srt]\n\n  latency_m = 3\n")? {
        finished
            .expect_line(&["bad.toml", "3:3"])?
            .expect_line(&["latency_m"])?
            .expect_line(&["latency_ms"])?;
    }
    Ok(())
}

pub fn all_problems_at_once(scene: &Scene) -> Result<()> {
    for finished in
        refused(scene, "[srt]\nlatency_ms = \"soon\"\n[srtla]\nlisten = \"5000\"\ngroups_max = 0\n")?
    {
        finished.expect_line(&["latency_ms"])?.expect_line(&["listen"])?.expect_line(&["groups_max"])?;
    }
    Ok(())
}

pub fn missing_config(scene: &Scene) -> Result<()> {
    let mut command = bondgate::command(&["run", "-c"])?;
    command.arg(scene.path("nowhere.toml"));
    Process::run(scene, "run", command, TIMEOUT)?.expect_code(CODE_CONFIG)?.expect_line(&["nowhere.toml"])?;
    Ok(())
}

pub fn port_in_use(scene: &Scene) -> Result<()> {
    let settings = Settings::loopback()?;
    for (occupied, role) in [(settings.srtla, "srtla"), (settings.srt, "srt")] {
        let _occupant = UdpSocket::bind(occupied)?;
        let config = scene.write("run.toml", &settings.to_toml(scene))?;
        let mut command = bondgate::command(&["run", "--accept-open-ingest", "-c"])?;
        command.arg(config);
        let finished = Process::run(scene, role, command, TIMEOUT)?;
        finished.expect_code(CODE_RUNTIME)?.expect_line(&[&occupied.to_string()])?;
    }
    Ok(())
}

pub fn missing_interface(scene: &Scene) -> Result<()> {
    let command = bondgate::send_command(local_port()?, local_port()?, &["nosuch0"])?;
    Process::run(scene, "send", command, TIMEOUT)?.expect_code(CODE_RUNTIME)?.expect_line(&["nosuch0"])?;
    Ok(())
}

pub fn usage(scene: &Scene) -> Result<()> {
    for arguments in [&["runn"][..], &["send"], &["run", "--no-such-flag"]] {
        Process::run(scene, "usage", bondgate::command(arguments)?, TIMEOUT)?.expect_code(CODE_USAGE)?;
    }
    Process::run(scene, "version", bondgate::command(&["version"])?, TIMEOUT)?.expect_code(0)?;
    Ok(())
}

/// The downstream server is away: the group lives on, and the server gets the next session as soon as it is there.
pub fn unreachable_srt_server(scene: &Scene) -> Result<()> {
    let server = local_port()?;
    let settings = Settings { output: Output::Forward(server), ..Settings::loopback()? };
    let mut run = settings.start(scene)?;
    let listen = local_port()?;
    let mut send = bondgate::send(scene, listen, settings.srtla, &LINKS)?;
    let uri = media::uri(listen, "streamid=cam1&latency=300");
    let mut early = Command::new("srt-live-transmit");
    early.args(["-loglevel:error", "-autoreconnect:no", "-timeout:2", &uri, "file://con"]);
    Process::run(scene, "early-encoder", early, TIMEOUT)?;
    run.log().wait_for("the server's address", Duration::from_secs(2), |line| {
        line.contains("WARN") && line.contains(&server.to_string())
    })?;
    let registrations =
        |run: &Process| run.log().lines().iter().filter(|line| line.contains("group opened")).count();
    let groups_before = registrations(&run);

    let recorder = Recorder::start(scene, "server", &media::uri(server, "mode=listener&latency=300"))?;
    let sent = synthetic(3.0, 21);
    Feed::start(scene, &uri, sent.clone(), RATE_BPS, HOLD)?.finish()?;
    let recorded = recorder.finish()?;
    ledger::complete(&sent, &recorded, 0)?;
    ensure!(groups_before == 1, "the log tells of {groups_before} groups, not of one");
    ensure!(registrations(&run) == 1, "the group did not survive the absence of the server");
    run.expect_running()?;
    send.expect_running()
}

/// A viewer of a stream that does not exist is refused by name; the stream that does exist never notices.
pub fn wrong_stream_id(scene: &Scene) -> Result<()> {
    let settings = Settings::loopback()?;
    let run = settings.start(scene)?;
    let sent = synthetic(4.0, 22);
    let publish = media::uri(settings.srt, "streamid=publish/cam1&latency=300");
    let feed = Feed::start(scene, &publish, sent.clone(), RATE_BPS, HOLD)?;
    let play = media::uri(settings.srt, "streamid=play/cam1&latency=300");
    let viewer = Recorder::start_when_live(scene, "viewer", &play)?;

    for (stream_id, told) in [("play/nosuch", "nosuch"), ("#!::r=cam1,m=bogus", "bogus")] {
        let stray =
            Recorder::start(scene, "stray", &media::uri(settings.srt, &format!("streamid={stream_id}")))?;
        run.log().wait_for(&format!("a refusal naming {told}"), Duration::from_secs(2), |line| {
            line.contains("caller refused: code=") && line.contains(told)
        })?;
        ensure!(stray.finish()?.is_empty(), "the stray viewer received something");
    }
    feed.finish()?;
    let recorded = viewer.finish()?;
    ledger::complete(&sent, &recorded, sent.len() / 2)
}
