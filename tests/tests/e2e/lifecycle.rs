//! Start, stop, crash and return.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bondgate_tests::bondgate::{self, Settings, http_get};
use bondgate_tests::ledger;
use bondgate_tests::media::{self, Feed, Recorder};
use bondgate_tests::scene::{Scene, wait_until};

use crate::streams::{HOLD, LINKS, RATE_BPS, local_port, synthetic};

const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// SIGTERM in mid-stream: both programs end by themselves, with exit code 0.
pub fn sigterm_is_graceful(scene: &Scene) -> Result<()> {
    let settings = Settings::loopback()?;
    let run = settings.start(scene)?;
    let listen = local_port()?;
    let send = bondgate::send(scene, listen, settings.srtla, &LINKS)?;
    let publish = media::uri(listen, "streamid=cam1&latency=300");
    let _feed = Feed::start(scene, &publish, synthetic(30.0, 31), RATE_BPS, HOLD)?;
    let play = media::uri(settings.srt, "streamid=play/cam1&latency=300");
    let viewer = Recorder::start_when_live(scene, "viewer", &play)?;
    run.terminate(STOP_TIMEOUT)?.expect_code(0)?;
    // The viewer is told, it does not have to find out by a timeout of its own (five seconds in libsrt).
    viewer.into_process().finish(Duration::from_secs(3))?;
    send.terminate(STOP_TIMEOUT)?.expect_code(0)?;
    Ok(())
}

/// The receiver dies as in a power failure and comes back on the same state directory: the sender's old group ID is good,
/// and the next SRT session flows without a restart of the sender.
pub fn kill_and_restart(scene: &Scene) -> Result<()> {
    let settings = Settings::loopback()?;
    let run = settings.start(scene)?;
    let listen = local_port()?;
    let mut send = bondgate::send(scene, listen, settings.srtla, &LINKS)?;
    let publish = media::uri(listen, "streamid=cam1&latency=300");
    let play = media::uri(settings.srt, "streamid=play/cam1&latency=300");
    {
        let _feed = Feed::start(scene, &publish, synthetic(30.0, 32), RATE_BPS, HOLD)?;
        let _viewer = Recorder::start_when_live(scene, "viewer-before", &play)?;
        run.kill()?;
    }
    let restarted = Instant::now();
    // As the systemd unit does (Restart=always, RestartSec=100ms): for some milliseconds after a SIGKILL the kernel still takes
    // io_uring's rings apart, and with them the old sockets.
    let mut run = wait_until("start after the crash", Duration::from_secs(3), || {
        std::thread::sleep(Duration::from_millis(100));
        Ok(settings.start_as(scene, "run-again", |command| command).ok())
    })?;
    let sent = synthetic(5.0, 33);
    let feed = Feed::start(scene, &publish, sent.clone(), RATE_BPS, HOLD)?;
    let viewer = Recorder::start_when_live(scene, "viewer-after", &play)?;
    let outage = restarted.elapsed();
    ensure!(outage < Duration::from_secs(5), "the first bytes came {outage:?} after the restart");
    feed.finish()?;
    let recorded = viewer.finish()?;
    ledger::complete(&sent, &recorded, sent.len() * 4 / 5)?;
    send.expect_running()?;
    run.expect_running()
}

/// The three addresses operators and machines ask.
pub fn health_and_metrics(scene: &Scene) -> Result<()> {
    let settings = Settings::loopback()?;
    let _run = settings.start(scene)?;
    for path in ["/livez", "/readyz"] {
        let (status, body) = http_get(settings.admin, path)?;
        ensure!(status == 200, "{path} answers {status}: {body}");
    }
    let (status, body) = http_get(settings.admin, "/metrics")?;
    ensure!(status == 200 && body.contains("bondgate_build_info"), "/metrics answers {status}:\n{body}");
    ensure!(body.trim_end().ends_with("# EOF"), "the metrics do not end as OpenMetrics asks");
    let (status, _) = http_get(settings.admin, "/no-such-page")?;
    ensure!(status == 404, "an unknown page answers {status}");
    Ok(())
}
