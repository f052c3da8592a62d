//! The other ends: an encoder and a server that only look like SRT, and real SRT peers, all on bad roads.

use std::collections::VecDeque;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bondgate_srt::{ConnectOptions, Endpoint, EndpointConfig, Event};
use bytes::Bytes;

/// What all threads of a test share.
#[derive(Clone, Default)]
pub struct Scene {
    /// Ends everything.
    pub stop: Arc<AtomicBool>,
    /// Links go dark and players fall silent from time to time.
    pub rough: Arc<AtomicBool>,
    publishing: Arc<AtomicBool>,
}

impl Scene {
    /// Waits until there is something to play.
    pub fn wait_for_publisher(&self) {
        while !self.publishing.load(Ordering::Relaxed) && !self.is_over() {
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// A socket on a port of its own.
pub fn loopback() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    socket
}

/// How a peer reaches the other side: over one socket, or over two SRTLA links.
pub struct Way {
    links: Vec<UdpSocket>,
    to: SocketAddr,
}

impl Way {
    /// One socket.
    pub fn plain(to: SocketAddr) -> Self {
        let link = loopback();
        link.set_nonblocking(true).unwrap();
        Self { links: vec![link], to }
    }

    /// Two registered links.
    pub fn bonded(to: SocketAddr) -> Self {
        let links = vec![loopback(), loopback()];
        let mut reg1 = [0x5a; 258];
        reg1[..2].copy_from_slice(&[0x92, 0x00]);
        links[0].send_to(&reg1, to).unwrap();
        let mut id = [0; 2048];
        let (len, _) = links[0].recv_from(&mut id).unwrap();
        assert_eq!((len, &id[..2]), (258, &[0x92, 0x01][..]), "REG2 expected");
        for link in &links {
            link.send_to(&id[..258], to).unwrap();
            let mut reg3 = [0; 2048];
            link.recv_from(&mut reg3).unwrap();
            assert_eq!(reg3[..2], [0x92, 0x02], "REG3 expected");
            link.set_nonblocking(true).unwrap();
        }
        Self { links, to }
    }
}

/// A way with its faults: each second link (or, if there is one only, that one) goes dark for a while when the roads are
/// rough, and all along datagrams are lost, doubled and late.
struct Road<'a> {
    way: &'a Way,
    scene: &'a Scene,
    random: fastrand::Rng,
    begun: Instant,
    sent: usize,
    late: VecDeque<(usize, Vec<u8>)>,
}

impl<'a> Road<'a> {
    fn new(way: &'a Way, scene: &'a Scene) -> Self {
        let random = fastrand::Rng::with_seed(u64::from(way.links[0].local_addr().unwrap().port()));
        Self { way, scene, random, begun: Instant::now(), sent: 0, late: VecDeque::new() }
    }

    /// Nothing gets through on the last link: 300 of each 800 ms.
    fn is_dark(&self, link: usize) -> bool {
        self.scene.rough.load(Ordering::Relaxed)
            && link + 1 == self.way.links.len()
            && self.begun.elapsed().as_millis() % 800 < 300
    }

    fn send(&mut self, bytes: &[u8]) {
        self.sent += 1;
        let link = self.sent % self.way.links.len();
        match self.random.u8(0..100) {
            0..2 => {}
            2..7 => self.late.push_back((self.sent + 12, bytes.to_vec())),
            7 => {
                self.emit(link, bytes);
                self.emit(link, bytes);
            }
            _ => self.emit(link, bytes),
        }
        while self.late.front().is_some_and(|(at, _)| *at <= self.sent) {
            let (_, bytes) = self.late.pop_front().unwrap();
            self.emit(link, &bytes);
        }
    }

    fn emit(&self, link: usize, bytes: &[u8]) {
        if !self.is_dark(link) {
            self.way.links[link].send_to(bytes, self.way.to).unwrap();
        }
    }

    /// The next datagram that gets through, from any link.
    fn receive(&mut self, buf: &mut [u8]) -> Option<usize> {
        for (index, link) in self.way.links.iter().enumerate() {
            while let Ok(len) = link.recv(buf) {
                if !self.is_dark(index) && self.random.u8(0..100) >= 2 {
                    return Some(len);
                }
            }
        }
        None
    }
}

/// One SRT data packet for some socket.
fn data(seq: u32) -> [u8; 1332] {
    let mut packet = [0x47; 1332];
    packet[..4].copy_from_slice(&seq.to_be_bytes());
    packet[4..8].copy_from_slice(&(0xc000_0000 | seq).to_be_bytes());
    packet[8..12].copy_from_slice(&seq.to_be_bytes());
    packet[12..16].copy_from_slice(&77_u32.to_be_bytes());
    packet
}

/// An encoder: data at some 2000 datagrams a second, on links a keepalive now and then. Returns how many datagrams came back.
pub fn encode(way: &Way, scene: &Scene) -> u64 {
    let mut road = Road::new(way, scene);
    let (mut seq, mut back, mut buf) = (1000_u32, 0, [0; 2048]);
    while !scene.is_over() {
        for _ in 0..8 {
            road.send(&data(seq));
            seq += 1;
        }
        if seq.is_multiple_of(400) && way.links.len() > 1 {
            for link in 0..way.links.len() {
                road.emit(link, &[0x90, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
            }
        }
        while road.receive(&mut buf).is_some() {
            back += 1;
        }
        std::thread::sleep(Duration::from_millis(4));
    }
    back
}

/// A server that answers every tenth packet with a full SRT ACK and some with a NAK. Returns how many it answered.
pub fn answer(server: &UdpSocket, scene: &Scene) -> u64 {
    let (mut received, mut answered, mut buf) = (0_u64, 0, [0; 2048]);
    while !scene.is_over() {
        let Ok((_, from)) = server.recv_from(&mut buf) else { continue };
        received += 1;
        if received.is_multiple_of(10) {
            let mut ack = [0; 44];
            ack[..2].copy_from_slice(&[0x80, 0x02]);
            ack[16..20].copy_from_slice(&buf[..4]);
            server.send_to(&ack, from).unwrap();
            answered += 1;
        }
        if received.is_multiple_of(35) {
            let mut nak = [0; 20];
            nak[..2].copy_from_slice(&[0x80, 0x03]);
            nak[16..20].copy_from_slice(&buf[..4]);
            server.send_to(&nak, from).unwrap();
        }
    }
    answered
}

/// What an SRT peer had.
#[derive(Debug)]
pub struct Had {
    /// Payloads sent or played.
    pub payloads: u64,
    /// Retransmissions that came in.
    pub retransmissions: u64,
}

/// An SRT caller: a publisher sends some 1000 payloads a second, a player counts what it gets.
pub fn srt_peer(way: &Way, stream_id: &'static str, scene: &Scene) -> Had {
    let mut road = Road::new(way, scene);
    let now = Instant::now();
    let seed = road.random.u64(..);
    let mut endpoint = Endpoint::<SocketAddr>::new(
        EndpointConfig::default(),
        seed.to_be_bytes().repeat(2).try_into().unwrap(),
        seed,
        now,
    );
    let options = ConnectOptions {
        stream_id: Bytes::from_static(stream_id.as_bytes()),
        latency: Duration::from_millis(120),
        connect_timeout: Duration::from_secs(10),
        ..ConnectOptions::default()
    };
    let conn = endpoint.connect(now, way.to, options).unwrap();
    let (mut connected, mut payloads, mut buf) = (false, 0, [0; 2048]);
    while !scene.is_over() {
        let now = Instant::now();
        while let Some(len) = road.receive(&mut buf) {
            // What SRTLA says to the links is not for the encoder.
            if !matches!(buf[0], 0x90..=0x92) {
                endpoint.handle(now, way.to, 0, &buf[..len]);
            }
        }
        endpoint.handle_timeout(now);
        while let Some(event) = endpoint.poll_event() {
            match event {
                Event::Connected { .. } => connected = true,
                Event::Data { .. } => payloads += 1,
                Event::Closed { reason, .. } => panic!("{stream_id}: {reason}"),
                _ => {}
            }
        }
        if connected && stream_id.starts_with("publish") {
            scene.publishing.store(true, Ordering::Relaxed);
            for _ in 0..2 {
                endpoint.send(now, conn, Bytes::from_static(&[0x47; 1316])).unwrap();
                payloads += 1;
            }
        }
        while let Some(transmit) = endpoint.poll_transmit(now, &mut buf) {
            road.send(&buf[..transmit.len]);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let retransmissions = endpoint.stats(conn).map_or(0, |stats| stats.received_retransmissions);
    Had { payloads, retransmissions }
}
