//! The demo's bad roads: a UDP relay between the bonding sender and the receiver that does to each link what a
//! [`LinkModel`] says, in both directions, on ordinary loopback sockets.
//!
//! A link is told by the source address the sender binds to (127.0.0.2, 127.0.0.3, ...). Like a carrier's NAT, the
//! relay gives each source port of a link a port of its own towards the receiver; all of a link's ports share its road,
//! and only the newest few are kept. Promises: nothing is lost, delayed or doubled except by the model; one thread, ended by dropping.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bondgate_io::socket::{BindOptions, bind_udp};
use bondgate_io::{AnyBackend, Backend, Choice, Gro, Limits, Role, SocketId, Waker};
use bondgate_sim::link::{LinkConfig, LinkCounters, LinkModel};

/// Longest wait between two looks at the flags.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Source ports of one link that are served at a time.
const CLIENTS_MAX: usize = 8;

/// One impaired link.
#[derive(Clone, Debug)]
pub struct Road {
    /// The local address the sender binds this link to.
    pub source: Ipv4Addr,
    /// From the sender to the receiver.
    pub uplink: LinkConfig,
    /// From the receiver to the sender.
    pub downlink: LinkConfig,
}

/// The running relay.
#[derive(Debug)]
pub struct Roads {
    addr: SocketAddr,
    shared: Arc<Shared>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    stop: AtomicBool,
    dead: Vec<AtomicBool>,
    counters: Mutex<Vec<(LinkCounters, LinkCounters)>>,
}

impl Roads {
    /// Starts the relay in front of `receiver`. `seed` determines the models' random decisions.
    ///
    /// # Errors
    /// When the sockets or the thread cannot be made.
    pub fn start(roads: &[Road], receiver: SocketAddr, seed: u64) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            dead: roads.iter().map(|_| AtomicBool::new(false)).collect(),
            counters: Mutex::new(vec![<(LinkCounters, LinkCounters)>::default(); roads.len()]),
        });
        let limits =
            Limits { sockets: 64, buffers: 1024, gro: Gro::Off, linger_us_max: 0, ..Limits::default() };
        let (mut backend, _) = bondgate_io::open(Choice::Mmsg, &limits)?;
        let socket = bind()?;
        let addr = socket.local_addr()?;
        let front = backend.add(socket, Role::Listener)?;
        let waker = backend.waker();
        let links = (0..)
            .zip(roads)
            .map(|(n, road)| Link {
                source: road.source.into(),
                uplink: LinkModel::new(road.uplink.clone(), seed.wrapping_add(2 * n)),
                downlink: LinkModel::new(road.downlink.clone(), seed.wrapping_add(2 * n + 1)),
                clients: Vec::with_capacity(CLIENTS_MAX),
            })
            .collect();
        let mut relay = Relay {
            backend,
            front,
            receiver,
            links,
            queue: BinaryHeap::new(),
            submitted: 0,
            shared: Arc::clone(&shared),
        };
        let thread = std::thread::Builder::new().name("roads".to_owned()).spawn(move || {
            if let Err(error) = relay.run() {
                tracing::error!("the impaired links ended: {error}");
            }
        })?;
        Ok(Self { addr, shared, waker, thread: Some(thread) })
    }

    /// Where the sender's links send to.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Lets a link swallow everything from now on, both ways, or ends that. Unknown links are ignored.
    pub fn set_dead(&self, link: usize, dead: bool) {
        if let Some(flag) = self.shared.dead.get(link) {
            flag.store(dead, Ordering::Relaxed);
            self.waker.wake();
        }
    }

    /// What happened to the datagrams so far, per link: uplink and downlink. At most 50 ms old.
    pub fn counters(&self) -> Vec<(LinkCounters, LinkCounters)> {
        self.shared.counters.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Roads {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.waker.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // its panic was reported by the hook
        }
    }
}

fn bind() -> io::Result<UdpSocket> {
    bind_udp((Ipv4Addr::LOCALHOST, 0).into(), &BindOptions::default())
}

/// A source port of a link and the socket that stands for it before the receiver.
#[derive(Clone, Copy, Debug)]
struct Client {
    addr: SocketAddr,
    upstream: SocketId,
}

struct Link {
    source: IpAddr,
    uplink: LinkModel,
    downlink: LinkModel,
    /// Oldest first.
    clients: Vec<Client>,
}

/// A datagram on its way, ordered by arrival and then by entry.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Flight {
    at: Instant,
    entry: u64,
    socket: SocketId,
    to: SocketAddr,
    bytes: Box<[u8]>,
}

struct Relay {
    backend: AnyBackend,
    front: SocketId,
    receiver: SocketAddr,
    links: Vec<Link>,
    /// Bounded by the models' buffers and delays.
    queue: BinaryHeap<Reverse<Flight>>,
    submitted: u64,
    shared: Arc<Shared>,
}

impl Relay {
    fn run(&mut self) -> io::Result<()> {
        let mut publish_at = Instant::now();
        while !self.shared.stop.load(Ordering::Relaxed) {
            let next =
                self.queue.peek().map(|Reverse(flight)| flight.at.saturating_duration_since(Instant::now()));
            let received = self.backend.receive(Some(next.unwrap_or(LOOK_EVERY).min(LOOK_EVERY)))?;
            let now = Instant::now();
            for (link, dead) in self.links.iter_mut().zip(&self.shared.dead) {
                let dead = dead.load(Ordering::Relaxed);
                link.uplink.set_blackhole(dead);
                link.downlink.set_blackhole(dead);
            }
            for index in 0..received {
                self.take(now, index);
            }
            while self.queue.peek().is_some_and(|Reverse(flight)| flight.at <= now) {
                if let Some(Reverse(flight)) = self.queue.pop() {
                    self.backend.send(flight.socket, Some(flight.to), &flight.bytes);
                }
            }
            self.backend.flush();
            // A refused datagram is lost, as on any road.
            while self.backend.next_error().is_some() {}
            if now >= publish_at {
                publish_at = now + LOOK_EVERY;
                let mut counters = self.shared.counters.lock().unwrap_or_else(PoisonError::into_inner);
                counters.clear();
                counters.extend(self.links.iter().map(|l| (*l.uplink.counters(), *l.downlink.counters())));
            }
        }
        Ok(())
    }

    /// Gives one received datagram to its model.
    fn take(&mut self, now: Instant, index: usize) {
        let datagram = self.backend.datagram(index);
        let (socket, from, bytes) = (datagram.socket, datagram.from, Box::<[u8]>::from(datagram.bytes));
        let (arrivals, socket, to) = if socket == self.front {
            let Some(at) = self.links.iter().position(|link| link.source == from.ip()) else { return };
            let Some(upstream) = self.upstream(at, from) else { return };
            (self.links[at].uplink.submit(now, bytes.len()), upstream, self.receiver)
        } else {
            if from != self.receiver {
                return;
            }
            let home = self.links.iter_mut().find_map(|link| {
                let client = link.clients.iter().find(|client| client.upstream == socket)?;
                Some((&mut link.downlink, client.addr))
            });
            let Some((downlink, client)) = home else { return };
            (downlink.submit(now, bytes.len()), self.front, client)
        };
        for at in arrivals {
            self.submitted += 1;
            let flight = Flight { at, entry: self.submitted, socket, to, bytes: bytes.clone() };
            self.queue.push(Reverse(flight));
        }
    }

    /// The socket that stands for this source port of a link; a new one when the port is new.
    fn upstream(&mut self, at: usize, from: SocketAddr) -> Option<SocketId> {
        let clients = &mut self.links[at].clients;
        if let Some(client) = clients.iter().find(|client| client.addr == from) {
            return Some(client.upstream);
        }
        // Without a socket the datagram is lost; the next one tries again.
        let upstream = bind().and_then(|socket| self.backend.add(socket, Role::Unconnected)).ok()?;
        if clients.len() == CLIENTS_MAX {
            self.backend.remove(clients.remove(0).upstream);
        }
        clients.push(Client { addr: from, upstream });
        Some(upstream)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    struct Scene {
        receiver: UdpSocket,
        roads: Roads,
    }

    fn socket(ip: Ipv4Addr) -> UdpSocket {
        let socket = UdpSocket::bind((ip, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket
    }

    fn source(n: u8) -> Ipv4Addr {
        Ipv4Addr::new(127, 0, 0, 2 + n)
    }

    fn scene(delays: &[Duration]) -> Scene {
        let receiver = socket(Ipv4Addr::LOCALHOST);
        let wire = |delay: &Duration| LinkConfig::wire(*delay);
        let roads: Vec<Road> = (0..)
            .zip(delays)
            .map(|(n, delay)| Road { source: source(n), uplink: wire(delay), downlink: wire(delay) })
            .collect();
        let roads = Roads::start(&roads, receiver.local_addr().unwrap(), 1).unwrap();
        Scene { receiver, roads }
    }

    fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
        let mut buf = [0; 2000];
        let (len, from) = socket.recv_from(&mut buf).unwrap();
        (buf[..len].to_vec(), from)
    }

    #[test]
    fn links_are_told_apart_and_delayed_both_ways() {
        let Scene { receiver, roads } = scene(&[60 * MS, 10 * MS]);
        let (slow, fast) = (socket(source(0)), socket(source(1)));
        let start = Instant::now();
        slow.send_to(b"slow", roads.addr()).unwrap();
        fast.send_to(b"fast", roads.addr()).unwrap();
        let (first, fast_addr) = receive(&receiver);
        let (second, slow_addr) = receive(&receiver);
        assert!(start.elapsed() >= 60 * MS);
        assert_eq!((&first[..], &second[..]), (&b"fast"[..], &b"slow"[..]));
        assert_ne!(fast_addr, slow_addr);
        receiver.send_to(b"to slow", slow_addr).unwrap();
        receiver.send_to(b"to fast", fast_addr).unwrap();
        assert_eq!(receive(&fast), (b"to fast".to_vec(), roads.addr()));
        assert_eq!(receive(&slow), (b"to slow".to_vec(), roads.addr()));
        assert!(start.elapsed() >= 120 * MS);
    }

    #[test]
    fn a_dead_link_swallows_and_comes_back() {
        let Scene { receiver, roads } = scene(&[MS, MS]);
        let (dead, alive) = (socket(source(0)), socket(source(1)));
        dead.send_to(b"before", roads.addr()).unwrap();
        assert_eq!(receive(&receiver).0, b"before");
        roads.set_dead(0, true);
        dead.send_to(b"lost", roads.addr()).unwrap();
        alive.send_to(b"passes", roads.addr()).unwrap();
        assert_eq!(receive(&receiver).0, b"passes");
        let deadline = Instant::now() + Duration::from_secs(5);
        while roads.counters()[0].0.blackholed < 1 {
            assert!(Instant::now() < deadline, "{:?}", roads.counters());
            std::thread::sleep(5 * MS);
        }
        roads.set_dead(0, false);
        dead.send_to(b"after", roads.addr()).unwrap();
        assert_eq!(receive(&receiver).0, b"after");
    }

    #[test]
    fn a_new_source_port_is_a_new_address_on_the_same_road() {
        let Scene { receiver, roads } = scene(&[MS]);
        let (old, new) = (socket(source(0)), socket(source(0)));
        old.send_to(b"old", roads.addr()).unwrap();
        let (_, old_addr) = receive(&receiver);
        new.send_to(b"new", roads.addr()).unwrap();
        let (_, new_addr) = receive(&receiver);
        assert_ne!(old_addr, new_addr);
        receiver.send_to(b"to the old port", old_addr).unwrap();
        receiver.send_to(b"to the new port", new_addr).unwrap();
        assert_eq!(receive(&old).0, b"to the old port");
        assert_eq!(receive(&new).0, b"to the new port");
        for _ in 0..CLIENTS_MAX {
            socket(source(0)).send_to(b"another", roads.addr()).unwrap();
            assert_ne!(receive(&receiver).1, new_addr);
        }
        receiver.send_to(b"forgotten", new_addr).unwrap();
        new.set_read_timeout(Some(50 * MS)).unwrap();
        assert!(new.recv(&mut [0; 100]).is_err());
    }

    #[test]
    fn strangers_are_ignored() {
        let Scene { receiver, roads } = scene(&[MS]);
        socket(source(7)).send_to(b"stranger", roads.addr()).unwrap();
        socket(source(0)).send_to(b"known", roads.addr()).unwrap();
        assert_eq!(receive(&receiver).0, b"known");
    }
}
