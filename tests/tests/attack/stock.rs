//! Senders without a key, where they are admitted; and receivers without.

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bondgate_sim::rng::Rng;
use bondgate_tests::attack::client::{Device, receive, reg, socket_at};
use bondgate_tests::attack::wire::Observer;
use bondgate_tests::attack::{
    Arena, BYSTANDER, ENCODER, How, Live, SERVICE, SRT_PORT, host, send_command, srtla,
};
use bondgate_tests::bondgate::{self, Auth, Output, Settings};
use bondgate_tests::ledger;
use bondgate_tests::media::{self, Feed, Recorder};
use bondgate_tests::process::Process;
use bondgate_tests::scene::{Scene, free_port, wait_until};

use crate::figure;
use crate::reflection::overheard_id;

/// `bondgate run` with the documented profile for phones, moved to the arena's addresses.
fn phones(scene: &Scene, arena: &Arena) -> Result<Process> {
    let profile = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../configs/phones.toml"));
    let mut command = bondgate::command(&["run", "--log-format", "human", "--log-level", "debug"])?;
    command.arg("-c").arg(profile);
    for setting in [
        format!("srtla.listen={}", srtla()),
        format!("srt.listen={SERVICE}:{SRT_PORT}"),
        format!("runtime.state_dir={}", scene.path("state").display()),
        "admin.listen=127.0.0.1:8080".to_owned(),
    ] {
        command.args(["--set", &setting]);
    }
    let mut run = Process::spawn(scene, "run", arena.receiver.wrap(&command))?;
    wait_until("readiness", Duration::from_secs(10), || {
        run.expect_running()?;
        Ok(run.log().lines().iter().skip(1).any(|line| line.contains("ready")).then_some(()))
    })?;
    Ok(run)
}

/// A new token for a stream.
pub fn token(scene: &Scene, stream: &str) -> Result<String> {
    let printed = bondgate::administer(scene, &["token", "create", stream])?;
    printed.lines().find(|line| line.starts_with("bgt_")).map(str::to_owned).context("no token")
}

const RATE_BPS: u64 = 2_000_000;

/// An encoder that calls and has nothing to say yet.
pub fn caller(scene: &Scene, command: std::process::Command) -> Result<Process> {
    // srt-live-transmit does not even call if it cannot wait for its input.
    Process::spawn_with(scene, "caller", command, Stdio::piped(), Stdio::piped())
}

/// A stock sender with the token streams as if there were no keys.
pub fn phones_with_token(scene: &Scene) -> Result<()> {
    let arena = Arena::new()?;
    let token = token(scene, "cam1")?;
    let _run = phones(scene, &arena)?;
    let id = format!("cam1?token={token}");
    let payloads = Live::start(scene, &arena, (&arena.encoder, ENCODER), &How::Stock, &id, 5)?.finish()?;
    figure("phones", format_args!("stock sender with token: {payloads} payloads, 0 lost"));
    Ok(())
}

/// Without the token, with a wrong one, or for a stream that demands a key: refused, and nothing reaches a player.
pub fn phones_without_token(scene: &Scene) -> Result<()> {
    let arena = Arena::new()?;
    let good = token(scene, "cam2")?;
    let run = phones(scene, &arena)?;
    let send = send_command(&How::Stock, ENCODER)?;
    let _send = Process::spawn(scene, "send", arena.encoder.wrap(&send))?;
    let mut wrong = good.clone().into_bytes();
    let last = wrong.len() - 1;
    wrong[last] = if wrong[last] == b'0' { b'1' } else { b'0' };
    let wrong = String::from_utf8(wrong)?;
    let to_viewers = Observer::arriving(&arena.receiver, |seen| {
        seen.from.port() == SRT_PORT && seen.payload.first().is_some_and(|byte| byte & 0x80 == 0)
    })?;
    let mut told = Vec::new();
    for (stream, id, code) in [
        ("cam1", "cam1".to_owned(), "code=1401"),
        ("cam1", format!("cam1?token={wrong}"), "code=1401"),
        ("cam1", format!("cam1?token={good}"), "code=140"),
        ("main", format!("main?token={good}"), "code=1403"),
    ] {
        let play =
            media::uri(SocketAddr::from((SERVICE, SRT_PORT)), &format!("streamid=play/{stream}&latency=300"));
        let _viewer =
            Recorder::start_command(scene, "viewer", arena.receiver.wrap(&media::record_command(&play)))?;
        let before = run.log().lines().len();
        let publish =
            media::uri(SocketAddr::from(([127, 0, 0, 1], 9000)), &format!("streamid={id}&latency=300"));
        let _feed = caller(scene, arena.encoder.wrap(&media::feed_command(&publish)))?;
        let line = wait_until(&format!("{code} for {id}"), Duration::from_secs(8), || {
            let lines = run.log().lines();
            Ok(lines
                .into_iter()
                .skip(before)
                .find(|line| line.contains("caller refused") && !line.contains("play/")))
        })?;
        ensure!(line.contains(code), "{id}: {line}");
        ensure!(!line.contains("bgt_"), "the log shows a token: {line}");
        told.push(
            line.split("code=").nth(1).and_then(|rest| rest.split(' ').next()).unwrap_or("?").to_owned(),
        );
        std::thread::sleep(Duration::from_millis(400));
    }
    let leaked = to_viewers.settled().packets;
    figure(
        "phones",
        format_args!(
            "no token, wrong token, another stream's token, stream with a key: {told:?}; {leaked} data packets to players"
        ),
    );
    ensure!(leaked == 0, "{leaked} data packets reached a player");
    ensure!(!run.log().has_line("publisher up"), "somebody published");
    Ok(())
}

/// W3 and F-10: the SRT server behind forward mode goes away and comes back. The group stays, its ID stays good, and the
/// encoder's next call goes through.
pub fn server_closed_and_back(scene: &Scene) -> Result<()> {
    let arena = Arena::new()?;
    let server = SocketAddr::from(([127, 0, 0, 1], 9990));
    let mut settings =
        Settings { output: Output::Forward(server), ..Arena::settings(Auth::Mixed("[\"10.78.0.0/16\"]"))? };
    settings.streams = "default = \"cidr\"";
    let run = arena.start(scene, &settings)?;
    let on_wire = Observer::arriving(&arena.receiver, |seen| seen.to.port() == srtla().port())?;
    let mut send = Process::spawn(scene, "send", arena.encoder.wrap(&send_command(&How::Stock, ENCODER)?))?;
    let listen = || {
        let listener = media::record_command(&media::uri(server, "mode=listener&latency=300"));
        Recorder::start_command(scene, "server", arena.receiver.wrap(&listener))
    };
    let publish = media::uri(SocketAddr::from(([127, 0, 0, 1], 9000)), "streamid=cam1&latency=300");
    let feed = |seconds: u64| {
        let stream = media::synthetic_ts((RATE_BPS * seconds / 8) as usize / media::MESSAGE_LEN * 7, 5);
        Feed::start_command(
            scene,
            || arena.encoder.wrap(&media::feed_command(&publish)),
            stream.clone(),
            RATE_BPS,
            Duration::from_secs(2),
        )
        .map(|feed| (feed, stream))
    };
    let first = listen()?;
    let first_feed = feed(20)?;
    wait_until("data at the server", Duration::from_secs(5), || {
        Ok((std::fs::metadata(first.file())?.len() > 100_000).then_some(()))
    })?;
    first.into_process().kill()?;
    // One ECONNREFUSED ends the group at a stock receiver. Here there are hundreds.
    run.log().wait_for("ICMP of the closed port", Duration::from_secs(5), |line| {
        line.contains("refuses packets")
    })?;
    std::thread::sleep(Duration::from_secs(2));
    let id = overheard_id(&on_wire, host(ENCODER))?;
    let probe = socket_at(&arena.bystander, std::net::SocketAddrV4::new(host(BYSTANDER), 7000), srtla())?;
    probe.send(&reg(1, &id))?;
    receive(&probe, Duration::from_secs(1), |answer| answer.starts_with(&[0x92, 2]).then_some(()))
        .context("REG2 with the old ID was not answered with REG3")?;

    drop(first_feed);
    let second = listen()?;
    let back = Instant::now();
    let (second_feed, stream) = feed(3)?;
    let resumed = back.elapsed();
    second_feed.finish()?;
    let recorded = second.finish()?;
    ledger::complete(&stream, &recorded, 0)?;
    let opened = run.log().lines().iter().filter(|line| line.contains("group opened")).count();
    figure(
        "W3/F-10",
        format_args!(
            "server away for 2 s and more: {opened} group in all, old ID good, next call up {resumed:.1?} after its return, 0 lost"
        ),
    );
    ensure!(opened == 1, "{opened} groups were opened");
    send.expect_running()
}

/// A receiver that knows nothing of keys: echoes the sender's half, draws the other, passes SRT on.
struct StockReceiver {
    addr: SocketAddr,
    stop: Arc<AtomicBool>,
    data: Arc<AtomicU64>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl StockReceiver {
    fn start(server: SocketAddr) -> Result<Self> {
        let front = UdpSocket::bind(("127.0.0.1", free_port()?))?;
        let back = UdpSocket::bind("127.0.0.1:0")?;
        back.connect(server)?;
        front.set_nonblocking(true)?;
        back.set_nonblocking(true)?;
        let addr = front.local_addr()?;
        let (stop, data) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (flag, count) = (Arc::clone(&stop), Arc::clone(&data));
        let thread = std::thread::spawn(move || {
            let mut half = [0; 128];
            bondgate_tests::attack::client::fill(&mut Rng::new(77), &mut half);
            let (mut id, mut last, mut buf) = (None, None, [0; 2048]);
            let mut acks = Vec::new();
            while !flag.load(Ordering::Relaxed) {
                let mut idle = true;
                while let Ok((len, from)) = front.recv_from(&mut buf) {
                    idle = false;
                    let bytes = &mut buf[..len];
                    match bytes.get(..2) {
                        Some([0x92, 0]) => {
                            bytes[1] = 1;
                            bytes[130..].copy_from_slice(&half);
                            id = Some(bytes.to_vec());
                            let _ = front.send_to(bytes, from);
                        }
                        Some([0x92, 1]) => {
                            let is_known = id.as_deref() == Some(&*bytes);
                            let _ = front.send_to(&[0x92, if is_known { 2 } else { 0x11 }], from);
                        }
                        Some([0x90, 0]) => drop(front.send_to(bytes, from)),
                        Some([first, ..]) => {
                            last = Some(from);
                            if first & 0x80 == 0 {
                                count.fetch_add(1, Ordering::Relaxed);
                                acks.extend_from_slice(&bytes[..4]);
                            }
                            let _ = back.send(bytes);
                            if acks.len() == 40 {
                                let _ = front.send_to(&[&[0x91, 0, 0, 0][..], &acks].concat(), from);
                                acks.clear();
                            }
                        }
                        _ => {}
                    }
                }
                while let Ok(len) = back.recv(&mut buf) {
                    idle = false;
                    if let Some(last) = last {
                        let _ = front.send_to(&buf[..len], last);
                    }
                }
                if idle {
                    std::thread::sleep(Duration::from_micros(300));
                }
            }
        });
        Ok(Self { addr, stop, data, thread: Some(thread) })
    }
}

impl Drop for StockReceiver {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// `--auth prefer` streams into a receiver that does not speak SA1, and says so; the default never does.
pub fn prefer_into_a_stock_receiver(scene: &Scene) -> Result<()> {
    let server = SocketAddr::from(([127, 0, 0, 1], free_port()?));
    let recorder = Recorder::start(scene, "server", &media::uri(server, "mode=listener&latency=300"))?;
    let stock = StockReceiver::start(server)?;
    let uri = bondgate::enroll(scene, "cam", stock.addr)?;
    ensure!(Device::new(&uri, 1).is_ok(), "not a URI: {uri}");
    let key = bondgate::key_file(scene, "cam.key", &uri)?;
    let sender = |auth: Option<&str>| -> Result<(Process, SocketAddr)> {
        let listen = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let mut command = bondgate::send_command(listen, stock.addr, &["127.0.0.2", "127.0.0.3"])?;
        command.arg("--key-file").arg(&key);
        if let Some(auth) = auth {
            command.args(["--auth", auth]);
        }
        Ok((Process::spawn(scene, "send", command)?, listen))
    };

    let (mut strict, listen) = sender(None)?;
    let publish = media::uri(listen, "streamid=cam1&latency=300");
    let refused = caller(scene, media::feed_command(&publish))?;
    std::thread::sleep(Duration::from_secs(4));
    let leaked = stock.data.load(Ordering::Relaxed);
    ensure!(
        leaked == 0 && !refused.log().has_line("connected"),
        "a sender that requires keys has sent {leaked} packets"
    );
    strict.expect_running()?;
    drop((strict, refused));

    let (mut prefer, listen) = sender(Some("prefer"))?;
    let stream = media::synthetic_ts((RATE_BPS * 4 / 8) as usize / media::MESSAGE_LEN * 7, 5);
    let publish = media::uri(listen, "streamid=cam1&latency=300");
    Feed::start(scene, &publish, stream.clone(), RATE_BPS, Duration::from_secs(2))?.finish()?;
    ledger::complete(&stream, &recorder.finish()?, 0)?;
    let told = prefer.log().lines().iter().any(|line| line.to_lowercase().contains("without"));
    figure(
        "prefer",
        format_args!(
            "{} data packets into a stock receiver, 0 lost, warned: {told}; without prefer: none",
            stock.data.load(Ordering::Relaxed)
        ),
    );
    ensure!(told, "it did not say that it fell back");
    prefer.expect_running()
}
