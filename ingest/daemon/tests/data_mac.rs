//! A device with MACs on its SRT packets, on real sockets, with somebody on the path who changes, repeats and reflects them:
//! whole SRT sessions through both outputs, and not one byte of his gets through.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::collections::{BTreeSet, HashMap};
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bondgate::config::{AuthMode, Config, OutputMode};
use bondgate::policy::{Policy, wall_ms};
use bondgate::service::{Service, random};
use bondgate::shard::bond::{Bond, LinkSpec, wall_clock};
use bondgate_auth::keyring::{Keyring, NewDevice, Provision};
use bondgate_auth::sa1::Flags;
use bondgate_io::socket::{BindOptions, bind_udp};
use bondgate_io::{Choice, Limits};
use bondgate_proto::sender::{DEFAULT_OFFER, Sa1Config, Sa1Mode, Sender, SenderConfig};
use bondgate_srt::{AcceptOptions, ConnId, ConnectOptions, Endpoint, EndpointConfig, Event};
use bytes::Bytes;

const PATIENCE: Duration = Duration::from_secs(20);
const PAYLOADS: u64 = 600;
const TRAILER_LEN: usize = 20;

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

/// What somebody on the path saw and did.
#[derive(Default)]
struct Tapped {
    srt: AtomicU64,
    forged: AtomicU64,
}

/// Somebody on the path between the links and `to`: passes everything on, and beside each fifth SRT packet, before it, a
/// changed one, and after it the same again and its reflection.
fn tap(to: SocketAddr, stop: &Arc<AtomicBool>) -> (SocketAddr, Arc<Tapped>, JoinHandle<()>) {
    let (front, stop, tapped) = (socket(), Arc::clone(stop), Arc::new(Tapped::default()));
    let at = front.local_addr().unwrap();
    let seen = Arc::clone(&tapped);
    let thread = std::thread::spawn(move || {
        let mut links: HashMap<SocketAddr, UdpSocket> = HashMap::new();
        let mut buf = [0; 2048];
        while !stop.load(Ordering::Relaxed) {
            while let Ok((len, from)) = front.recv_from(&mut buf) {
                let back = links.entry(from).or_insert_with(|| {
                    let back = socket();
                    back.connect(to).unwrap();
                    back
                });
                meddle(
                    &seen,
                    &buf[..len],
                    |bytes| drop(back.send(bytes)),
                    |bytes| {
                        drop(front.send_to(bytes, from));
                    },
                );
            }
            for (link, back) in &links {
                while let Ok(len) = back.recv(&mut buf) {
                    meddle(
                        &seen,
                        &buf[..len],
                        |bytes| drop(front.send_to(bytes, link)),
                        |bytes| {
                            drop(back.send(bytes));
                        },
                    );
                }
            }
            std::thread::sleep(Duration::from_micros(300));
        }
    });
    (at, tapped, thread)
}

fn meddle(tapped: &Tapped, bytes: &[u8], on: impl Fn(&[u8]), back: impl Fn(&[u8])) {
    if (0x90..=0x9F).contains(&bytes[0]) || !tapped.srt.fetch_add(1, Ordering::Relaxed).is_multiple_of(5) {
        return on(bytes);
    }
    let mut forged = bytes.to_vec();
    let at = bytes.len() - TRAILER_LEN - 1;
    forged[at] ^= 1;
    on(&forged);
    on(&bytes[..bytes.len() - TRAILER_LEN]);
    on(bytes);
    on(bytes);
    back(bytes);
    tapped.forged.fetch_add(4, Ordering::Relaxed);
}

/// A device, and a policy that knows it and nobody else.
fn enrolled(config: &Config) -> (Provision, Policy) {
    let mut keyring = Keyring::new([1; 8], [2; 16], wall_ms());
    let provision =
        keyring.enroll(NewDevice::named("backpack"), "gate.example:5000", &[3; 40], wall_ms()).unwrap();
    let policy = Policy::compile(config).with_keyring(Some(&keyring), wall_ms());
    (provision, policy)
}

/// The bonding sender over three links to `to`; where its encoder sends to.
fn bond(to: SocketAddr, key: &Provision, stop: &Arc<AtomicBool>) -> (SocketAddr, JoinHandle<()>) {
    let local = bind_udp("127.0.0.1:0".parse().unwrap(), &BindOptions::default()).unwrap();
    let at = local.local_addr().unwrap();
    let key = Sa1Config {
        credentials: key.credentials(Flags::DATA_MAC),
        offered: DEFAULT_OFFER.with(Flags::DATA_MAC),
        mode: Sa1Mode::Require,
        entropy: random::<32>().unwrap(),
        clock: wall_clock(Instant::now()),
    };
    let stop = Arc::clone(stop);
    let thread = std::thread::spawn(move || {
        let (backend, _) = bondgate_io::open(Choice::Auto, &Limits::default()).unwrap();
        let sender = Sender::with_key(SenderConfig::default(), 4, key);
        let links = ["127.0.0.1", "127.0.0.2", "127.0.0.3"].map(|ip| LinkSpec::Address(ip.parse().unwrap()));
        let mut bond = Bond::new(backend, sender, local, to, links.into(), 1 << 20, |_| {}).unwrap();
        assert_eq!(bond.open_links(Instant::now()), 3);
        bond.run(&stop, |_| {}).unwrap();
    });
    (at, thread)
}

/// An SRT peer.
struct Peer {
    socket: UdpSocket,
    endpoint: Endpoint<SocketAddr>,
    conn: Option<ConnId>,
    payloads: BTreeSet<u64>,
}

impl Peer {
    fn new(listen: bool) -> Self {
        let config = EndpointConfig { listen, ..EndpointConfig::default() };
        let seed = u64::from_be_bytes(random::<8>().unwrap());
        let endpoint = Endpoint::new(config, random::<16>().unwrap(), seed, Instant::now());
        Self { socket: socket(), endpoint, conn: None, payloads: BTreeSet::new() }
    }

    fn call(to: SocketAddr, stream_id: &'static str) -> Self {
        let mut peer = Self::new(false);
        let options = ConnectOptions {
            stream_id: Bytes::from_static(stream_id.as_bytes()),
            latency: Duration::from_millis(500),
            connect_timeout: PATIENCE,
            ..ConnectOptions::default()
        };
        peer.endpoint.connect(Instant::now(), to, options).unwrap();
        peer
    }

    fn turn(&mut self) {
        let (now, mut buf) = (Instant::now(), [0; 2048]);
        while let Ok((len, from)) = self.socket.recv_from(&mut buf) {
            self.endpoint.handle(now, from, 0, &buf[..len]);
        }
        self.endpoint.handle_timeout(now);
        while let Some(event) = self.endpoint.poll_event() {
            match event {
                Event::Incoming { id, .. } => drop(self.endpoint.accept(now, id, AcceptOptions::default())),
                Event::Connected { conn, .. } => self.conn = Some(conn),
                Event::Data { payload, .. } => {
                    let (number, rest) = payload.split_first_chunk().unwrap();
                    assert!(rest.iter().all(|byte| *byte == 0x47) && rest.len() == 1308, "another's bytes");
                    self.payloads.insert(u64::from_be_bytes(*number));
                }
                Event::Closed { reason, .. } => panic!("closed: {reason}"),
                _ => {}
            }
        }
        while let Some(transmit) = self.endpoint.poll_transmit(now, &mut buf) {
            let _ = self.socket.send_to(&buf[..transmit.len], transmit.to);
        }
    }

    fn send(&mut self, number: u64) {
        let mut payload = [0x47; 1316];
        payload[..8].copy_from_slice(&number.to_be_bytes());
        self.endpoint.send(Instant::now(), self.conn.unwrap(), Bytes::copy_from_slice(&payload)).unwrap();
    }
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Streams through a service whose links are tapped; `sink` makes the peer at the other end once something is published.
fn streams(config: &Config, mut sink: impl FnMut(&Service) -> Peer) {
    let stop = Arc::new(AtomicBool::new(false));
    let (key, policy) = enrolled(config);
    let service = Service::start(config, policy).unwrap();
    let (middle, tapped, tapping) = tap(service.srtla_addr(), &stop);
    let (local, bonding) = bond(middle, &key, &stop);
    let mut publisher = Peer::call(local, "publish/cam1");
    let mut sink = {
        let mut listener = (config.output.mode == OutputMode::Forward).then(|| sink(&service));
        until("the publisher connects", || {
            publisher.turn();
            listener.iter_mut().for_each(Peer::turn);
            publisher.conn.is_some()
        });
        listener.unwrap_or_else(|| sink(&service))
    };
    until("the sink connects", || {
        publisher.turn();
        sink.turn();
        sink.conn.is_some()
    });
    let mut number = 0;
    until("all payloads arrive", || {
        if number < PAYLOADS {
            publisher.send(number);
            number += 1;
        }
        publisher.turn();
        sink.turn();
        sink.payloads.len() as u64 == PAYLOADS
    });
    std::thread::sleep(Duration::from_millis(600));
    let (mut reasons, mut forwarded): (HashMap<&str, u64>, u64) = (HashMap::new(), 0);
    for slot in service.slots() {
        let figures = slot.read();
        forwarded += figures.srtla.forwarded;
        figures.srtla.dropped.iter().for_each(|(reason, count)| *reasons.entry(reason).or_default() += count);
    }
    let of = |reason: &str| reasons.get(reason).copied().unwrap_or_default();
    let (srt, forged) = (tapped.srt.load(Ordering::Relaxed), tapped.forged.load(Ordering::Relaxed));
    assert!(forged > PAYLOADS / 2 && forwarded >= PAYLOADS && forwarded <= srt, "{forged} {forwarded} {srt}");
    assert!(of("trailer_mac") > PAYLOADS / 10 && of("trailer_replayed") > PAYLOADS / 10, "{reasons:?}");
    stop.store(true, Ordering::Relaxed);
    tapping.join().unwrap();
    bonding.join().unwrap();
    service.stop().unwrap();
}

fn config() -> Config {
    let mut config = Config::open();
    config.srtla.auth = AuthMode::Required;
    config.srtla.listen = "127.0.0.1:0".parse().unwrap();
    config.srt.listen = "127.0.0.1:0".parse().unwrap();
    config.admin.listen = None;
    config
}

#[test]
fn through_the_relay() {
    streams(&config(), |service| {
        let mut to = service.srt_addr().unwrap();
        to.set_ip("127.0.0.1".parse().unwrap());
        Peer::call(to, "play/cam1")
    });
}

/// On three shards: sealed packets are handed over, and opened by the shard that has the link.
#[test]
fn through_a_forwarder() {
    let mut server = Some(Peer::new(true));
    let mut config = config();
    config.runtime.shards = 3;
    config.output.mode = OutputMode::Forward;
    config.forward.server = server.as_ref().unwrap().socket.local_addr().unwrap().to_string();
    streams(&config, |_| server.take().unwrap());
}
