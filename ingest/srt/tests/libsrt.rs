//! The engine against real libsrt (`srt-live-transmit`) in all four roles, through a relay in user space that
//! loses, delays and reorders. Every payload is compared.
//!
//! Without `srt-live-transmit` the tests are reported as ignored and say so.
#![allow(clippy::unwrap_used, reason = "a test that unwraps nothing fails, as it should")]
#![allow(clippy::print_stdout, reason = "measured figures and the reason of skipped tests")]

use bondgate_srt::{
    AcceptOptions, CloseReason, ConnId, ConnectOptions, Endpoint, EndpointConfig, Event, RejectReason, Stats,
};
use bytes::Bytes;
use libtest_mimic::{Arguments, Failed, Trial};
use std::collections::BinaryHeap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const TOOL: &str = "srt-live-transmit";
const PACKETS: usize = 1200;
/// libsrt repeats nothing unasked, and a receiver cannot miss what nothing follows: of the last packets as many may be
/// missing as the relay has swallowed in a row. More than this many in a row do not happen (10 % loss: once in 10^8).
const SWALLOWED_MAX: usize = 8;
const PER_S: u32 = 400;
const PAYLOAD: usize = 1316;
/// Everything a test waits for must have happened by then.
const PATIENCE: Duration = Duration::from_secs(15);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

fn free_port() -> u16 {
    UdpSocket::bind(local(0)).unwrap().local_addr().unwrap().port()
}

fn payload(number: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(number as u64);
    let mut bytes = vec![0; PAYLOAD];
    rng.fill(&mut bytes);
    bytes
}

/// What the link does to datagrams, each way.
#[derive(Clone, Copy)]
struct Impairment {
    delay: Duration,
    jitter: Duration,
    loss: f64,
}

const LOSS_2: Impairment = Impairment { delay: ms_const(20), jitter: Duration::ZERO, loss: 0.02 };
const LOSS_10: Impairment = Impairment { delay: ms_const(20), jitter: Duration::ZERO, loss: 0.10 };
const REORDER: Impairment = Impairment { delay: ms_const(10), jitter: ms_const(40), loss: 0.0 };

/// The tool overlooks answers that come before it has set up its polling.
const SLOW: Impairment = Impairment { delay: ms_const(50), jitter: Duration::ZERO, loss: 0.0 };

const fn ms_const(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Held {
    at: std::cmp::Reverse<(Instant, u64)>,
    forth: bool,
    bytes: Vec<u8>,
}

/// The stream that passes a relay; data flow one way only.
#[derive(Default)]
struct Passed {
    /// Payloads put on the wire.
    sent: AtomicUsize,
    /// Payloads up to the last one of which a copy was let through: the receiver can know of so many.
    knowable: AtomicUsize,
}

/// Relays between whoever speaks first to `front` and `target`.
struct Relay {
    front: SocketAddr,
    stop: Arc<AtomicBool>,
    passed: Arc<Passed>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    fn start(target: SocketAddr, impairment: Impairment, seed: u64) -> Self {
        let front = UdpSocket::bind(local(0)).unwrap();
        let back = UdpSocket::bind(local(0)).unwrap();
        back.connect(target).unwrap();
        front.set_nonblocking(true).unwrap();
        back.set_nonblocking(true).unwrap();
        let address = front.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let passed = Arc::new(Passed::default());
        let counted = passed.clone();
        let thread = std::thread::spawn(move || {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut held = BinaryHeap::new();
            let mut client = None;
            let mut serial = 0;
            let mut first_seq = None;
            let mut buf = [0; 2048];
            while !stopped.load(Ordering::Relaxed) {
                loop {
                    let (forth, len) = match front.recv_from(&mut buf) {
                        Ok((len, from)) => {
                            client = Some(from);
                            (true, len)
                        }
                        Err(_) => match back.recv(&mut buf) {
                            Ok(len) => (false, len),
                            Err(_) => break,
                        },
                    };
                    let is_lost = rng.f64() < impairment.loss;
                    let word = u32::from_be_bytes(*buf.first_chunk().unwrap());
                    if word & 0x8000_0000 == 0 && len > 16 {
                        let first = *first_seq.get_or_insert(word);
                        let count = (word.wrapping_sub(first) & 0x7fff_ffff) as usize + 1;
                        counted.sent.fetch_max(count, Ordering::Relaxed);
                        counted.knowable.fetch_max(if is_lost { 0 } else { count }, Ordering::Relaxed);
                    }
                    if is_lost {
                        continue;
                    }
                    serial += 1;
                    let at = Instant::now() + impairment.delay + impairment.jitter.mul_f64(rng.f64());
                    held.push(Held {
                        at: std::cmp::Reverse((at, serial)),
                        forth,
                        bytes: buf[..len].to_vec(),
                    });
                }
                let now = Instant::now();
                while held.peek().is_some_and(|packet| packet.at.0.0 <= now) {
                    let packet = held.pop().unwrap();
                    // Nobody listening yet, or any more, is part of the game.
                    if packet.forth {
                        let _ = back.send(&packet.bytes);
                    } else if let Some(client) = client {
                        let _ = front.send_to(&packet.bytes, client);
                    }
                }
                std::thread::sleep(Duration::from_micros(500));
            }
        });
        Self { front: address, stop, passed, thread: Some(thread) }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// An endpoint on a real socket.
struct Host {
    socket: UdpSocket,
    endpoint: Endpoint<SocketAddr>,
    conn: Option<ConnId>,
    stats: Stats,
    received: Vec<Bytes>,
    stream_id: Option<Bytes>,
    refused: Option<RejectReason>,
    closed: Option<CloseReason>,
    reject: Option<RejectReason>,
}

impl Host {
    fn new(latency: Duration) -> Self {
        let socket = UdpSocket::bind(local(0)).unwrap();
        let config = EndpointConfig { latency, ..EndpointConfig::default() };
        let endpoint = Endpoint::new(config, rand_secret(), fastrand::u64(..), Instant::now());
        Self {
            socket,
            endpoint,
            conn: None,
            stats: Stats::default(),
            received: Vec::new(),
            stream_id: None,
            refused: None,
            closed: None,
            reject: None,
        }
    }

    fn port(&self) -> u16 {
        self.socket.local_addr().unwrap().port()
    }

    /// One turn of the loop that the crate documents.
    fn turn(&mut self, wait_max: Duration) {
        self.drain();
        let now = Instant::now();
        let timeout = self.endpoint.poll_timeout().map_or(wait_max, |at| at.saturating_duration_since(now));
        self.socket.set_read_timeout(Some(timeout.min(wait_max).max(Duration::from_micros(100)))).unwrap();
        let mut buf = [0; 2048];
        if let Ok((len, from)) = self.socket.recv_from(&mut buf) {
            self.endpoint.handle(Instant::now(), from, 0, &buf[..len]);
        }
        self.endpoint.handle_timeout(Instant::now());
        self.drain();
    }

    fn drain(&mut self) {
        let now = Instant::now();
        if let Some(stats) = self.conn.and_then(|conn| self.endpoint.stats(conn)) {
            self.stats = stats;
        }
        while let Some(event) = self.endpoint.poll_event() {
            match event {
                Event::Incoming { id, stream_id, .. } => {
                    self.stream_id = Some(stream_id);
                    match self.reject {
                        Some(reason) => self.endpoint.reject(now, id, reason),
                        None => {
                            self.endpoint.accept(now, id, AcceptOptions::default()).unwrap();
                        }
                    }
                }
                Event::Connected { conn, .. } => self.conn = Some(conn),
                Event::Data { payload, .. } => self.received.push(payload),
                Event::Closed { reason, .. } => self.closed = Some(reason),
                Event::Refused { reason, .. } => self.refused = Some(reason),
                Event::Expired { .. } => {}
            }
        }
        let mut buf = [0; 1500];
        while let Some(transmit) = self.endpoint.poll_transmit(now, &mut buf) {
            let _ = self.socket.send_to(&buf[..transmit.len], transmit.to);
        }
    }

    fn until(&mut self, what: &str, mut done: impl FnMut(&Self) -> bool) -> Result<(), Failed> {
        let end = Instant::now() + PATIENCE;
        while !done(self) {
            if Instant::now() > end {
                return Err(format!(
                    "{what} did not happen: connected {}, {} payloads, closed {:?}, refused {:?}, {:?}, {:?}",
                    self.conn.is_some(),
                    self.received.len(),
                    self.closed,
                    self.refused,
                    self.stats,
                    self.endpoint.counters(),
                )
                .into());
            }
            self.turn(ms(20));
        }
        Ok(())
    }

    /// Sends all payloads at the even rate, then finishes.
    fn publish(&mut self) -> Result<(), Failed> {
        let conn = self.conn.unwrap();
        let start = Instant::now();
        for number in 0..PACKETS {
            let at = start + Duration::from_secs(1) * number as u32 / PER_S;
            while Instant::now() < at {
                self.turn(at.saturating_duration_since(Instant::now()));
            }
            self.endpoint
                .send(Instant::now(), conn, payload(number).into())
                .map_err(|error| format!("{error} at {number}"))?;
            self.drain();
        }
        self.endpoint.finish(Instant::now(), conn);
        self.until("the end of the connection", |host| host.closed.is_some())
    }

    /// Receives what the tool is fed: all that the receiver can know of must come, once, in order, bit for bit.
    fn receive(&mut self, feed: &JoinHandle<std::process::ChildStdin>, relay: &Relay) -> Result<(), Failed> {
        self.until("the end of the feed", |_| feed.is_finished())?;
        let passed = |count: &AtomicUsize| count.load(Ordering::Relaxed);
        self.until("all payloads on the wire", |_| passed(&relay.passed.sent) >= PACKETS)?;
        // A repeated last packet may yet come through.
        let settled = Instant::now() + ms(500);
        self.until("settling", |_| Instant::now() > settled)?;
        self.until("all payloads", |host| {
            host.received.len() >= passed(&relay.passed.knowable) || host.closed.is_some()
        })?;
        let (sent, knowable) = (passed(&relay.passed.sent), passed(&relay.passed.knowable));
        if sent != PACKETS || knowable + SWALLOWED_MAX < sent {
            return Err(format!("{sent} payloads on the wire, {knowable} of them let through").into());
        }
        for (number, received) in self.received.iter().enumerate() {
            if *received != payload(number) {
                return Err(format!("payload {number} is not what was sent").into());
            }
        }
        if self.received.len() != knowable {
            return Err(format!("{} of {knowable} payloads, {:?}", self.received.len(), self.stats).into());
        }
        Ok(())
    }
}

fn rand_secret() -> [u8; 16] {
    let mut secret = [0; 16];
    fastrand::fill(&mut secret);
    secret
}

/// `srt-live-transmit`, ended with the test.
struct Tool {
    child: Child,
    log: Option<JoinHandle<String>>,
}

impl Tool {
    fn start(input: &str, output: &str) -> Self {
        let mut child = Command::new(TOOL)
            .args(["-a:no", "-chunk:1316", input, output])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = child.stderr.take().unwrap();
        let log = std::thread::spawn(move || {
            let mut text = Vec::new();
            let _ = stderr.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        });
        Self { child, log: Some(log) }
    }

    /// Feeds all payloads at the even rate, then keeps the pipe open until the returned thread is dropped. The tool reads
    /// more than it sends at a time and keeps the rest to itself until the pipe has more; the last payload comes when
    /// it has read everything before, and leaves nothing behind.
    fn feed(&mut self) -> JoinHandle<std::process::ChildStdin> {
        let mut stdin = self.child.stdin.take().unwrap();
        std::thread::spawn(move || {
            let start = Instant::now();
            for number in 0..PACKETS {
                let pause = if number + 1 < PACKETS { Duration::ZERO } else { ms(500) };
                let at = start + Duration::from_secs(1) * number as u32 / PER_S + pause;
                std::thread::sleep(at.saturating_duration_since(Instant::now()));
                if stdin.write_all(&payload(number)).and_then(|()| stdin.flush()).is_err() {
                    break;
                }
            }
            stdin
        })
    }

    fn read(&mut self) -> JoinHandle<Vec<u8>> {
        let mut stdout = self.child.stdout.take().unwrap();
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = stdout.read_to_end(&mut bytes);
            bytes
        })
    }

    fn terminate(&self) {
        let pid = self.child.id().to_string();
        Command::new("kill").args(["-TERM", &pid]).status().unwrap();
    }

    fn end(&mut self) -> String {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.log.take().and_then(|log| log.join().ok()).unwrap_or_default()
    }
}

impl Drop for Tool {
    fn drop(&mut self) {
        self.end();
    }
}

fn check_output(bytes: &[u8]) -> Result<(), Failed> {
    let expected: Vec<u8> = (0..PACKETS).flat_map(payload).collect();
    if bytes == expected {
        return Ok(());
    }
    let same = bytes.iter().zip(&expected).take_while(|(a, b)| a == b).count();
    Err(format!("{} of {} bytes came out, equal up to {same}", bytes.len(), expected.len()).into())
}

fn report(name: &str, stats: &Stats) {
    println!(
        "{name}: nothing is missing; received {} (retransmissions {:.2} per 100, duplicates {}, reordered {}), \
         sent {} (retransmissions {:.2} per 100), rtt {:?}, hold {:?}",
        stats.received,
        100.0 * stats.received_retransmissions as f64 / PACKETS as f64,
        stats.duplicates,
        stats.reordered,
        stats.sent,
        100.0 * stats.retransmitted as f64 / PACKETS as f64,
        stats.rtt,
        stats.reorder_hold,
    );
}

/// libsrt calls and publishes; we listen and receive.
fn libsrt_publishes(
    name: &str,
    impairment: Impairment,
    latency: u64,
    per_100_max: f64,
) -> Result<(), Failed> {
    let mut host = Host::new(ms(100));
    let relay = Relay::start(local(host.port()), impairment, 1);
    let uri = format!("srt://{}?latency={latency}&streamid=live/cam-1,x=y", relay.front);
    let mut tool = Tool::start("file://con", &uri);
    // The tool throws away what it reads before it knows of the connection, and our answer may be lost twice.
    host.until("connection", |host| host.conn.is_some())?;
    let settled = Instant::now() + ms(800);
    host.until("settling", |_| Instant::now() > settled)?;
    let feed = tool.feed();
    host.receive(&feed, &relay)?;
    if host.stream_id.as_deref() != Some(b"live/cam-1,x=y") {
        return Err(format!("stream ID {:?}", host.stream_id).into());
    }
    if host.stats.receive_latency != ms(latency) {
        return Err(format!("latency {:?}", host.stats.receive_latency).into());
    }
    report(name, &host.stats);
    let per_100 = 100.0 * host.stats.received_retransmissions as f64 / PACKETS as f64;
    if per_100 > per_100_max {
        return Err(format!("{per_100:.1} retransmissions per 100 packets").into());
    }
    // The tool ends with SHUTDOWN when it is asked to.
    tool.terminate();
    drop(feed.join());
    host.until("SHUTDOWN", |host| host.closed.is_some())?;
    if impairment.loss == 0.0 && host.closed != Some(CloseReason::PeerShutdown) {
        return Err(format!("closed by {:?}", host.closed).into());
    }
    Ok(())
}

/// libsrt listens and sends; we call and receive.
fn we_pull(name: &str, impairment: Impairment, latency: u64, per_100_max: f64) -> Result<(), Failed> {
    let mut host = Host::new(ms(100));
    let port = free_port();
    let mut tool = Tool::start("file://con", &format!("srt://:{port}?mode=listener&latency={latency}"));
    std::thread::sleep(ms(300));
    let relay = Relay::start(local(port), impairment, 2);
    let options = ConnectOptions { latency: ms(80), connect_timeout: ms(8000), ..ConnectOptions::default() };
    host.endpoint.connect(Instant::now(), relay.front, options).unwrap();
    host.until("connection", |host| host.conn.is_some())?;
    let feed = tool.feed();
    host.receive(&feed, &relay)?;
    report(name, &host.stats);
    if host.stats.receive_latency != ms(latency) {
        return Err(format!("latency {:?}", host.stats.receive_latency).into());
    }
    let per_100 = 100.0 * host.stats.received_retransmissions as f64 / PACKETS as f64;
    if per_100 > per_100_max {
        return Err(format!("{per_100:.1} retransmissions per 100 packets").into());
    }
    Ok(())
}

/// libsrt listens and receives; we call and publish.
fn we_publish(name: &str, impairment: Impairment, latency: u64) -> Result<(), Failed> {
    let mut host = Host::new(ms(100));
    let port = free_port();
    let mut tool = Tool::start(&format!("srt://:{port}?mode=listener&latency=100"), "file://con");
    let output = tool.read();
    std::thread::sleep(ms(300));
    let relay = Relay::start(local(port), impairment, 3);
    let options =
        ConnectOptions { latency: ms(latency), connect_timeout: ms(8000), ..ConnectOptions::default() };
    host.endpoint.connect(Instant::now(), relay.front, options).unwrap();
    host.until("connection", |host| host.conn.is_some())?;
    host.publish()?;
    if host.closed != Some(CloseReason::Finished) {
        return Err(format!("closed by {:?}", host.closed).into());
    }
    report(name, &host.stats);
    check_output(&finish_output(&mut host, &mut tool, output)?)
}

/// libsrt calls and receives; we listen and send.
fn libsrt_pulls(name: &str, impairment: Impairment, latency: u64) -> Result<(), Failed> {
    let mut host = Host::new(ms(100));
    let relay = Relay::start(local(host.port()), impairment, 4);
    let uri = format!("srt://{}?latency={latency}&streamid=play/cam-1", relay.front);
    let mut tool = Tool::start(&uri, "file://con");
    let output = tool.read();
    host.until("connection", |host| host.conn.is_some())?;
    host.publish()?;
    report(name, &host.stats);
    check_output(&finish_output(&mut host, &mut tool, output)?)
}

/// SHUTDOWN has been sent; it may have been lost, then libsrt's stragglers get another.
fn finish_output(host: &mut Host, tool: &mut Tool, output: JoinHandle<Vec<u8>>) -> Result<Vec<u8>, Failed> {
    host.until("exit of the tool", |_| tool.child.try_wait().is_ok_and(|status| status.is_some()))?;
    output.join().map_err(|_| "reading the tool's output failed".into())
}

fn we_reject() -> Result<(), Failed> {
    let mut host = Host::new(ms(100));
    host.reject = Some(RejectReason::UNAUTHORIZED);
    let begun = Instant::now();
    let relay = Relay::start(local(host.port()), SLOW, 5);
    let mut tool = Tool::start(&format!("srt://{}?streamid=wrong", relay.front), "file://con");
    host.until("exit of the tool", |_| tool.child.try_wait().is_ok_and(|status| status.is_some()))?;
    let log = tool.end();
    if begun.elapsed() > ms(2500) || !log.contains("rejection reason") {
        return Err(format!("{:?}: {log}", begun.elapsed()).into());
    }
    Ok(())
}

fn we_refuse_encryption() -> Result<(), Failed> {
    let mut host = Host::new(ms(100));
    let relay = Relay::start(local(host.port()), SLOW, 6);
    let uri = format!("srt://{}?passphrase=0123456789abcdef", relay.front);
    let mut tool = Tool::start(&uri, "file://con");
    host.until("refusal", |host| host.refused.is_some())?;
    host.until("exit of the tool", |_| tool.child.try_wait().is_ok_and(|status| status.is_some()))?;
    if host.refused == Some(RejectReason::UNSECURE) && host.endpoint.connections() == 0 {
        Ok(())
    } else {
        Err(format!("{:?}", host.refused).into())
    }
}

fn libsrt_rejects_us() -> Result<(), Failed> {
    let mut host = Host::new(ms(100));
    let port = free_port();
    let _tool =
        Tool::start(&format!("srt://:{port}?mode=listener&passphrase=0123456789abcdef"), "file://con");
    std::thread::sleep(ms(300));
    host.endpoint.connect(Instant::now(), local(port), ConnectOptions::default()).unwrap();
    host.until("rejection", |host| host.closed.is_some())?;
    match host.closed {
        Some(CloseReason::Rejected(RejectReason::UNSECURE)) => Ok(()),
        other => Err(format!("{other:?}").into()),
    }
}

fn main() {
    let mut args = Arguments::from_args();
    // They mostly wait.
    args.test_threads = args.test_threads.or(Some(16));
    let missing = Command::new(TOOL)
        .arg("-version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_err();
    let mut trials = Vec::new();
    let mut add = |name: &'static str, test: Box<dyn FnOnce() -> Result<(), Failed> + Send>| {
        if missing {
            println!("SKIPPED {name}: {TOOL} not installed (apt package srt-tools)");
        }
        trials.push(Trial::test(name, test).with_ignored_flag(missing));
    };
    for (role, test) in
        [("libsrt_publishes", libsrt_publishes as fn(&str, Impairment, u64, f64) -> _), ("we_pull", we_pull)]
    {
        for (link, impairment, latency, per_100_max) in
            [("loss_2", LOSS_2, 600, 6.0), ("loss_10", LOSS_10, 800, 20.0), ("reorder", REORDER, 600, 5.0)]
        {
            let name: &str = Box::leak(format!("{role}_{link}").into());
            add(name, Box::new(move || test(name, impairment, latency, per_100_max)));
        }
    }
    for (role, test) in
        [("we_publish", we_publish as fn(&str, Impairment, u64) -> _), ("libsrt_pulls", libsrt_pulls)]
    {
        for (link, impairment, latency) in
            [("loss_2", LOSS_2, 600), ("loss_10", LOSS_10, 800), ("reorder", REORDER, 600)]
        {
            let name: &str = Box::leak(format!("{role}_{link}").into());
            add(name, Box::new(move || test(name, impairment, latency)));
        }
    }
    add("we_reject", Box::new(we_reject));
    add("we_refuse_encryption", Box::new(we_refuse_encryption));
    add("libsrt_rejects_us", Box::new(libsrt_rejects_us));
    libtest_mimic::run(&args, trials).exit();
}
