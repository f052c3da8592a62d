//! Keys come and go while streams go on.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bondgate_tests::attack::client::{Device, socket};
use bondgate_tests::attack::wire::{Observer, Seen, Tally};
use bondgate_tests::attack::{Arena, BYSTANDER, ENCODER, How, Live, RATE_BPS, VICTIM, host, srtla};
use bondgate_tests::bondgate::{self, Auth, Output};
use bondgate_tests::media::{self, Feed, Recorder};
use bondgate_tests::process::Process;
use bondgate_tests::scene::{Scene, wait_until};

use crate::stock::token;
use crate::{figure, is_long};

/// The daemon takes a keyring up within this time, says the command.
const TAKEN_UP: Duration = Duration::from_millis(250);

/// K-03: a key is replaced every second. The stream of a device whose key was replaced once goes on under its old key, that
/// of others does not notice, every new key registers, the key before it too, and the one before that does not.
pub fn rotation_every_second(scene: &Scene) -> Result<()> {
    let rotations: u32 = if is_long() { 60 } else { 15 };
    let arena = Arena::new()?;
    let server = srtla().into();
    let cam = bondgate::enroll(scene, "cam", server)?;
    let mut uris = vec![bondgate::enroll(scene, "other", server)?];
    let mut run = arena.start(scene, &Arena::settings(Auth::Required)?)?;
    let how = How::Key(bondgate::key_file(scene, "cam.key", &cam)?);
    let live = Live::start(scene, &arena, (&arena.encoder, ENCODER), &how, "cam1", u64::from(rotations) + 4)?;
    let socket = socket(&arena.bystander, host(BYSTANDER), srtla())?;
    let (mut new_taken, mut old_taken, mut old_refused) = (0, 0, 0);
    let start = Instant::now();
    for n in 1..=rotations {
        if n == 3 {
            bondgate::administer(scene, &["key", "rotate", "cam", "--no-qr"])?;
        }
        if n == 6 {
            bondgate::administer(scene, &["key", "rotate", "--gate", "--force"])?;
        }
        let printed = bondgate::administer(scene, &["key", "rotate", "other", "--no-qr", "--grace", "24h"])?;
        uris.push(bondgate::uri_in(&printed)?);
        let try_key = |age: usize, patience: Duration| -> Result<bool> {
            let Some(uri) = uris.len().checked_sub(1 + age).map(|at| &uris[at]) else { return Ok(true) };
            let mut device = Device::new(uri, u64::from(n) * 10 + age as u64)?;
            // One link number and group of each kind: the quota of groups is not what is tested here.
            device.group = [age as u8; 16];
            Ok(device.register(&socket, 1 + age as u32, patience).is_ok())
        };
        std::thread::sleep(Duration::from_millis(300));
        new_taken += u32::from(try_key(0, Duration::from_secs(2))?);
        old_taken += u32::from(try_key(1, Duration::from_secs(2))?);
        if n >= 2 && n % 3 == 2 {
            old_refused += u32::from(!try_key(2, Duration::from_millis(250))?);
        }
        std::thread::sleep((start + Duration::from_secs(1) * n).saturating_duration_since(Instant::now()));
    }
    let took = start.elapsed();
    let refusals_wanted = (2..=rotations).filter(|n| n % 3 == 2).count() as u32;
    let payloads = live.finish()?;
    figure(
        "K-03",
        format_args!(
            "{rotations} rotations of a device key in {took:.1?}, one of the stream's own, one of the gate key: {payloads} \
             payloads, 0 lost; new key taken {new_taken} times, the one before {old_taken}, the one before that refused \
             {old_refused} of {refusals_wanted}"
        ),
    );
    ensure!(new_taken == rotations && old_taken == rotations, "{new_taken} and {old_taken} of {rotations}");
    ensure!(old_refused == refusals_wanted, "a key that is two rotations old was taken");
    run.expect_running()
}

/// K-04, in forward mode: after the command has returned, how long do packets still reach the SRT server?
pub fn revocation_at_the_sink(scene: &Scene) -> Result<()> {
    let sink = Sink::new(scene, Auth::Required, "")?;
    let mut latest = Vec::new();
    for round in 0..3 {
        let name = format!("cam-{round}");
        let uri = bondgate::enroll(scene, &name, srtla().into())?;
        let key = bondgate::key_file(scene, &format!("{name}.key"), &uri)?;
        latest.push(sink.silent_after(scene, round, Some(&key), "cam1", &["key", "revoke", &name])?);
    }
    sink_figure("K-04 sink", &latest)
}

/// The same for the token of a stock sender.
pub fn token_revocation_at_the_sink(scene: &Scene) -> Result<()> {
    let token = token(scene, "cam1")?;
    let sink = Sink::new(scene, Auth::Mixed("[\"0.0.0.0/0\"]"), "default = \"token\"")?;
    let id = format!("cam1?token={token}");
    let last = sink.silent_after(scene, 0, None, &id, &["token", "revoke", &token])?;
    sink_figure("K-04 token at the sink", &[last])
}

fn sink_figure(row: &str, latest: &[Duration]) -> Result<()> {
    figure(row, format_args!("last packet at the SRT server {latest:.0?} after the command had returned"));
    let worst = latest.iter().max().copied().unwrap_or(Duration::MAX);
    ensure!(worst <= TAKEN_UP, "{worst:?}");
    Ok(())
}

/// bondgate in forward mode.
struct Sink {
    arena: Arena,
    server: SocketAddr,
    _run: Process,
}

impl Sink {
    fn new(scene: &Scene, auth: Auth, streams: &'static str) -> Result<Self> {
        let arena = Arena::new()?;
        let server = SocketAddr::from(([127, 0, 0, 1], 9990));
        let settings =
            bondgate::Settings { output: Output::Forward(server), streams, ..Arena::settings(auth)? };
        let run = arena.start(scene, &settings)?;
        Ok(Self { arena, server, _run: run })
    }

    /// Streams, revokes, and says how long after that command the last data packet reached the SRT server.
    fn silent_after(
        &self,
        scene: &Scene,
        round: u16,
        key: Option<&std::path::Path>,
        stream_id: &str,
        revoke: &[&str],
    ) -> Result<Duration> {
        let Self { arena, server, .. } = self;
        let port = server.port();
        let listener = media::record_command(&media::uri(*server, "mode=listener&latency=300"));
        let _server =
            Recorder::start_command(scene, &format!("server-{round}"), arena.receiver.wrap(&listener))?;
        let sink = Observer::arriving(&arena.receiver, move |seen| {
            seen.to.port() == port && seen.payload.first().is_some_and(|byte| byte & 0x80 == 0)
        })?;
        // A port of its own: the kernel takes a moment to free that of a sender that was killed.
        let listen = SocketAddr::from(([127, 0, 0, 1], 9000 + round));
        let mut command = bondgate::send_command(listen, srtla().into(), &[&host(ENCODER).to_string()])?;
        command.args(key.map(|_| "--key-file")).args(key);
        let _send = Process::spawn(scene, &format!("send-{round}"), arena.encoder.wrap(&command))?;
        let stream = media::synthetic_ts((RATE_BPS * 6 / 8) as usize / media::MESSAGE_LEN * 7, 5);
        let publish = media::uri(listen, &format!("streamid={stream_id}&latency=300"));
        let _feed = Feed::start_command(
            scene,
            || arena.encoder.wrap(&media::feed_command(&publish)),
            stream,
            RATE_BPS,
            Duration::ZERO,
        )?;
        wait_until("data at the SRT server", Duration::from_secs(5), || {
            Ok((sink.tally().packets > 300).then_some(()))
        })?;
        let before = sink.tally().packets;
        bondgate::administer(scene, revoke)?;
        let returned = Instant::now();
        std::thread::sleep(Duration::from_millis(1500));
        let tally = sink.tally();
        ensure!(tally.packets >= before, "the sink has lost count");
        Ok(tally.last.context("nothing came")?.saturating_duration_since(returned))
    }
}

/// K-04, in relay mode: the one stream ends, the other loses nothing.
pub fn revocation_leaves_others_alone(scene: &Scene) -> Result<()> {
    let arena = Arena::new()?;
    let cam = bondgate::enroll(scene, "cam", srtla().into())?;
    let stolen = bondgate::enroll(scene, "stolen", srtla().into())?;
    let run = arena.start(scene, &Arena::settings(Auth::Required)?)?;
    let key = |name: &str, uri: &str| bondgate::key_file(scene, name, uri).map(How::Key);
    let live = Live::start(scene, &arena, (&arena.encoder, ENCODER), &key("cam.key", &cam)?, "cam1", 9)?;
    let thief = Live::start(scene, &arena, (&arena.victim, VICTIM), &key("stolen.key", &stolen)?, "cam2", 9)?;
    // Where the viewer of the second stream is; the first call of a viewer may have hung.
    let lines = run.log().lines();
    let last = lines.iter().rfind(|line| line.contains("player up: stream=cam2"));
    let viewer =
        last.and_then(|line| line.rsplit(':').next()?.trim().parse::<u16>().ok()).context("no viewer")?;
    let is_data = move |seen: &Seen| {
        seen.to.port() == viewer && seen.payload.first().is_some_and(|byte| byte & 0x80 == 0)
    };
    let to_viewer = Observer::arriving(&arena.receiver, is_data)?;
    // A packet that the viewer has missed is repeated, also after the end; nothing new may come.
    let new_to_viewer = Observer::arriving(&arena.receiver, move |seen| {
        is_data(seen) && seen.payload.get(4).is_some_and(|byte| byte & 0x04 == 0)
    })?;
    std::thread::sleep(Duration::from_millis(700));
    let before = to_viewer.tally().packets;
    bondgate::administer(scene, &["key", "revoke", "stolen"])?;
    let returned = Instant::now();
    let closed = run.log().wait_for("the end of its group", Duration::from_secs(1), |line| {
        line.contains("group closed") && line.contains("Revoked")
    })?;
    std::thread::sleep(Duration::from_millis(1500));
    let last = |tally: Tally| tally.last.map(|at| at.saturating_duration_since(returned)).context("nothing");
    let (repeated, last) = (last(to_viewer.tally())?, last(new_to_viewer.tally())?);
    let payloads = live.finish()?;
    figure(
        "K-04 others",
        format_args!(
            "last new packet to a viewer {last:.0?}, last of any {repeated:.0?} after the command had returned ({closed}); the other stream: {payloads} payloads, 0 lost"
        ),
    );
    ensure!(before > 50, "the stolen device's viewer saw nothing before: {before}");
    if thief.finish().is_ok() {
        bail!("the stolen device's stream went through to its end");
    }
    ensure!(last <= TAKEN_UP, "{last:?}");
    Ok(())
}

/// K-04 for tokens: a stock sender's stream ends with its token, and another token's stream does not.
pub fn token_revocation(scene: &Scene) -> Result<()> {
    let arena = Arena::new()?;
    let tokens = [token(scene, "cam1")?, token(scene, "cam2")?];
    let mut settings = Arena::settings(Auth::Mixed("[\"0.0.0.0/0\"]"))?;
    settings.streams = "default = \"token\"";
    let run = arena.start(scene, &settings)?;
    let id = |n: usize| format!("cam{}?token={}", n + 1, tokens[n]);
    let live = Live::start(scene, &arena, (&arena.encoder, ENCODER), &How::Stock, &id(0), 9)?;
    let doomed = Live::start(scene, &arena, (&arena.victim, VICTIM), &How::Stock, &id(1), 9)?;
    std::thread::sleep(Duration::from_millis(700));
    bondgate::administer(scene, &["token", "revoke", &tokens[1]])?;
    let returned = Instant::now();
    let closed = wait_until("the end of its stream", Duration::from_secs(2), || {
        Ok(run.log().has_line("publisher down: stream=cam2").then(|| returned.elapsed()))
    })?;
    let payloads = live.finish()?;
    figure(
        "K-04 token",
        format_args!(
            "stream ended {closed:.0?} after the command had returned; the other: {payloads} payloads, 0 lost"
        ),
    );
    ensure!(doomed.finish().is_err(), "the stream of a revoked token went through to its end");
    // The log comes up to 100 ms after what it tells of.
    ensure!(closed <= TAKEN_UP + Duration::from_millis(100), "{closed:?}");
    Ok(())
}
