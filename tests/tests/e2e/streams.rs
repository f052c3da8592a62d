//! Streams from encoder to viewer, bit by bit.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bondgate_sim::link::{LinkConfig, Loss};
use bondgate_tests::bondgate::{self, Output, Settings};
use bondgate_tests::ledger;
use bondgate_tests::media::{self, Feed, Recorder};
use bondgate_tests::relay::Relay;
use bondgate_tests::scene::{Scene, free_port};

pub const LINKS: [&str; 3] = ["127.0.0.2", "127.0.0.3", "127.0.0.4"];
pub const RATE_BPS: u64 = 3_000_000;
/// How long a publisher stays after its last byte, so that what is under way arrives.
pub const HOLD: Duration = Duration::from_secs(2);
const VIEWER_TIMEOUT: Duration = Duration::from_secs(10);

pub fn local_port() -> Result<SocketAddr> {
    Ok((Ipv4Addr::LOCALHOST, free_port()?).into())
}

/// Packets of a synthetic stream that lasts about `seconds` at [`RATE_BPS`].
pub fn synthetic(seconds: f64, seed: u64) -> Vec<u8> {
    let messages = (RATE_BPS as f64 * seconds / 8.0 / media::MESSAGE_LEN as f64).ceil() as usize;
    media::synthetic_ts(messages * 7, seed)
}

/// The measuring instruments themselves: libsrt to libsrt over the impaired relay must come out as libsrt promises. A lost
/// payload that none follows is the exception: the receiver cannot miss it, and libsrt repeats nothing unasked.
pub fn libsrt_through_an_impaired_relay(scene: &Scene) -> Result<()> {
    let server = local_port()?;
    let query = "mode=listener&latency=400";
    let viewer = Recorder::start(scene, "listener", &media::uri(server, query))?;
    let road = LinkConfig { loss: Loss::Random(0.02), ..LinkConfig::wire(Duration::from_millis(15)) };
    let relay = Relay::start(server, road, 7)?;
    let sent = synthetic(3.0, 1);
    let uri = media::uri(relay.addr(), "latency=400");
    Feed::start(scene, &uri, sent.clone(), RATE_BPS, HOLD)?.finish()?;
    let recorded = viewer.finish()?;
    let session = relay.only_session()?;
    ensure!(session.sent()? == sent, "the feed kept something to itself: {} payloads", session.len());
    let knowable = session.knowable()?;
    ensure!(sent.len() - knowable.len() <= 4 * media::MESSAGE_LEN, "the road swallowed the whole end");
    ledger::complete(&knowable, &recorded, 0)?;
    let (up, down) = relay.counters(Ipv4Addr::LOCALHOST.into());
    ensure!(up.lost > 0 && up.delivered > 800, "the relay did nothing: {up:?} {down:?}");
    ensure!(up.is_conserved() && down.is_conserved(), "the relay lost count: {up:?} {down:?}");
    Ok(())
}

pub fn bonded_ffmpeg_uring(scene: &Scene) -> Result<()> {
    bonded_ffmpeg(scene, "uring")
}

pub fn bonded_ffmpeg_mmsg(scene: &Scene) -> Result<()> {
    bonded_ffmpeg(scene, "mmsg")
}

/// ffmpeg over three addresses into the relay, watched by libsrt and by ffmpeg. The recording ends with the last byte of
/// the encoder's own file, and ffmpeg decodes all of it.
fn bonded_ffmpeg(scene: &Scene, backend: &'static str) -> Result<()> {
    const SECONDS: u32 = 9;
    let settings = Settings { backend, ..Settings::loopback()? };
    let mut run = settings.start(scene)?;
    let listen = local_port()?;
    let mut send = bondgate::send(scene, listen, settings.srtla, &LINKS)?;
    let sent = scene.path("sent.ts");
    let publish = media::uri(listen, "streamid=cam1&latency=300000&pkt_size=1316&linger=5");
    let encoder = media::encode(scene, &publish, &sent, SECONDS)?;
    let play = media::uri(settings.srt, "streamid=play/cam1&latency=300");
    let viewer = Recorder::start_when_live(scene, "viewer-libsrt", &play)?;
    let play = media::uri(settings.srt, "streamid=play/cam1&latency=300000");
    let second = media::decode_live(scene, &play, 3)?;

    let per_link = bondgate::samples(settings.admin, "bondgate_link_rx_datagrams_total")?;
    ensure!(
        per_link.len() == 3 && per_link.iter().all(|count| *count > 0.0),
        "datagrams per link: {per_link:?}"
    );
    encoder.finish(Duration::from_secs(30))?.expect_code(0)?;
    let complaints = second.finish(VIEWER_TIMEOUT)?;
    complaints.expect_code(0)?;
    ensure!(complaints.lines.len() == 1, "the second viewer complains: {:?}", &complaints.lines[1..]);
    let (sent, recorded) = (std::fs::read(&sent)?, viewer.finish()?);
    // The viewer came after the start.
    let second_len = sent.len() / SECONDS as usize;
    ledger::complete(&sent, &recorded, 4 * second_len)?;
    media::expect_decodes(scene, &recorded)?;
    bondgate::expect_accounted(settings.admin)?;
    send.expect_running()?;
    run.expect_running()
}

/// ffmpeg as it is: it hangs up with its last packet, with a latency's worth unplayed and the end unacknowledged. All that
/// it has put on the wire is in the recording, though libsrt as receiver would discard the last latency.
pub fn ffmpeg_that_hangs_up(scene: &Scene) -> Result<()> {
    const SECONDS: u32 = 5;
    let settings = Settings::loopback()?;
    let _run = settings.start(scene)?;
    let listen = local_port()?;
    let _send = bondgate::send(scene, listen, settings.srtla, &LINKS)?;
    let tap = Relay::start(listen, LinkConfig::wire(Duration::ZERO), 1)?;
    let sent = scene.path("sent.ts");
    let publish = media::uri(tap.addr(), "streamid=cam1&latency=300000&pkt_size=1316");
    let encoder = media::encode(scene, &publish, &sent, SECONDS)?;
    let play = media::uri(settings.srt, "streamid=play/cam1&latency=300");
    let viewer = Recorder::start_when_live(scene, "viewer", &play)?;
    encoder.finish(Duration::from_secs(30))?.expect_code(0)?;
    let (sent, recorded) = (std::fs::read(&sent)?, viewer.finish()?);
    let on_the_wire = tap.only_session()?.sent()?;
    let second_len = sent.len() / SECONDS as usize;
    let unsent =
        sent.strip_prefix(&on_the_wire[..]).context("the encoder sent something else than its file")?;
    ensure!(unsent.len() < second_len, "the encoder never sent its last {} bytes", unsent.len());
    ledger::complete(&on_the_wire, &recorded, 4 * second_len)?;
    bondgate::expect_accounted(settings.admin)
}

/// An encoder that knows nothing of bonding publishes on the SRT port.
pub fn plain_srt_publisher(scene: &Scene) -> Result<()> {
    let settings = Settings::loopback()?;
    let _run = settings.start(scene)?;
    let sent = synthetic(4.0, 3);
    let publish = media::uri(settings.srt, "streamid=#!::r=studio/cam2,m=publish&latency=300");
    let feed = Feed::start(scene, &publish, sent.clone(), RATE_BPS, HOLD)?;
    let play = media::uri(settings.srt, "streamid=#!::r=studio/cam2,m=request&latency=300");
    let viewer = Recorder::start_when_live(scene, "viewer", &play)?;
    feed.finish()?;
    let recorded = viewer.finish()?;
    ledger::complete(&sent, &recorded, sent.len() / 2)
}

/// SRT passes unmodified to a libsrt server.
pub fn forward_to_libsrt_listener(scene: &Scene) -> Result<()> {
    let server = local_port()?;
    let recorder = Recorder::start(scene, "server", &media::uri(server, "mode=listener&latency=300"))?;
    let settings = Settings { output: Output::Forward(server), ..Settings::loopback()? };
    let _run = settings.start(scene)?;
    let listen = local_port()?;
    let _send = bondgate::send(scene, listen, settings.srtla, &LINKS)?;
    let sent = synthetic(4.0, 4);
    let uri = media::uri(listen, "streamid=cam1&latency=300");
    Feed::start(scene, &uri, sent.clone(), RATE_BPS, HOLD)?.finish()?;
    let recorded = recorder.finish()?;
    bondgate::expect_accounted(settings.admin)?;
    ledger::complete(&sent, &recorded, 0)
}

/// Three roads of unequal length; one is cut for two and a half seconds while it carries its share.
pub fn one_link_dies_and_returns(scene: &Scene) -> Result<()> {
    let settings = Settings { latency_ms: 1200, ..Settings::loopback()? };
    let _run = settings.start(scene)?;
    let road = LinkConfig {
        jitter: Duration::from_millis(10),
        reorder: true,
        ..LinkConfig::wire(Duration::from_millis(20))
    };
    let relay = Relay::start(settings.srtla, road, 11)?;
    let listen = local_port()?;
    let _send = bondgate::send(scene, listen, relay.addr(), &LINKS)?;
    let sent = synthetic(8.0, 5);
    let publish = media::uri(listen, "streamid=cam1&latency=1200");
    let feed = Feed::start(scene, &publish, sent.clone(), RATE_BPS, Duration::from_secs(3))?;
    let play = media::uri(settings.srt, "streamid=play/cam1&latency=300");
    let viewer = Recorder::start_when_live(scene, "viewer", &play)?;

    let victim: IpAddr = LINKS[1].parse()?;
    std::thread::sleep(Duration::from_secs(1));
    let before = relay.counters(victim).0;
    ensure!(
        before.delivered > 20,
        "the second link carried only {} datagrams before it was cut",
        before.delivered
    );
    relay.set_blackhole(victim, true);
    std::thread::sleep(Duration::from_millis(2500));
    let cut = relay.counters(victim).0;
    relay.set_blackhole(victim, false);
    ensure!(cut.blackholed > 0, "nothing was on the link while it was cut");

    feed.finish()?;
    let recorded = viewer.finish()?;
    ledger::complete(&sent, &recorded, sent.len() / 3)?;
    let after = relay.counters(victim).0;
    let returned = after.delivered.checked_sub(cut.delivered).context("a counter ran backwards")?;
    ensure!(returned > 50, "the link carried only {returned} datagrams after its return");
    bondgate::expect_accounted(settings.admin)?;
    Ok(())
}

/// The carrier resets its NAT, and again some seconds later: every link has a new address in the same instant, and nothing
/// reaches the old ones. `bondgate send` gets no word of it. The SRT session goes on and nothing is lost.
pub fn all_links_rebind_at_once(scene: &Scene) -> Result<()> {
    const GAP_MAX: Duration = Duration::from_secs(2);
    let settings = Settings::loopback()?;
    let run = settings.start(scene)?;
    let road = LinkConfig {
        jitter: Duration::from_millis(10),
        reorder: true,
        ..LinkConfig::wire(Duration::from_millis(20))
    };
    let nat = Relay::start(settings.srtla, road, 13)?;
    let listen = local_port()?;
    let mut send = bondgate::send(scene, listen, nat.addr(), &LINKS)?;
    let sent = synthetic(12.0, 6);
    let publish = media::uri(listen, "streamid=cam1&latency=300");
    let feed = Feed::start(scene, &publish, sent.clone(), RATE_BPS, HOLD)?;
    let play = media::uri(settings.srt, "streamid=play/cam1&latency=300");
    let viewer = Recorder::start_when_live(scene, "viewer", &play)?;

    for _ in 0..2 {
        let before = nat.bindings();
        nat.rebind_all();
        let gap = viewer.longest_gap(Duration::from_secs(4))?;
        let after = nat.bindings();
        for link in LINKS {
            let ip: IpAddr = link.parse()?;
            ensure!(before.iter().any(|(client, _)| *client == ip), "{link} carried nothing before");
            ensure!(after.iter().any(|(client, _)| *client == ip), "{link} has not come back");
        }
        let is_old = |(_, binding): &(IpAddr, SocketAddr)| before.iter().any(|(_, old)| old == binding);
        ensure!(!after.iter().any(is_old), "an old address lives on: {before:?} {after:?}");
        ensure!(gap < GAP_MAX, "the viewer saw nothing for {gap:?}");
    }
    feed.finish()?;
    let recorded = viewer.finish()?;
    ledger::complete(&sent, &recorded, sent.len() / 3)?;
    let publishers = run.log().lines().iter().filter(|line| line.contains("publisher up")).count();
    ensure!(publishers == 1, "the receiver saw {publishers} SRT sessions");
    bondgate::expect_accounted(settings.admin)?;
    send.expect_running()
}
