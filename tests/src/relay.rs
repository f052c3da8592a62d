//! Links between real sockets: a UDP relay that does to datagrams what the simulator's link model says.
//!
//! The sender is pointed at the relay instead of at the receiver. Every client address gets its own socket towards the
//! receiver (so the receiver sees distinct links), and every client *IP* is one link with one model per direction, so a sender
//! that rebinds its port stays on the same bad road. The relay is also the NAT: it can forget all its bindings at one moment.
//! And it is a tap: what encoders put on the wire can be asked for afterwards.
//!
//! Limits: datagrams leave no earlier than the model says and a little later (thread wake-ups), which adds to jitter and takes
//! nothing away.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bondgate_sim::link::{LinkConfig, LinkCounters, LinkModel};
use socket2::{Domain, Socket, Type};

use crate::scene::lock;
use crate::tap::{Session, Tap};

const MTU: usize = 2048;
const SOCKET_BUFFER_BYTES: usize = 4 << 20;
const POLL: Duration = Duration::from_millis(50);

/// A running relay. Dropping it stops its threads.
#[derive(Debug)]
pub struct Relay {
    addr: SocketAddr,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    front: UdpSocket,
    server: SocketAddr,
    config: LinkConfig,
    seed: u64,
    stop: AtomicBool,
    state: Mutex<State>,
    queue: Mutex<BinaryHeap<Reverse<Delivery>>>,
    queue_grew: Condvar,
}

#[derive(Debug, Default)]
struct State {
    links: HashMap<IpAddr, Link>,
    clients: HashMap<SocketAddr, Arc<UdpSocket>>,
    order: u64,
    tap: Tap,
}

#[derive(Debug)]
struct Link {
    up: LinkModel,
    down: LinkModel,
}

/// Something to send at a time. Ordered by time, then by entry.
#[derive(Debug)]
struct Delivery {
    at: Instant,
    order: u64,
    socket: Option<Arc<UdpSocket>>,
    to: SocketAddr,
    bytes: Vec<u8>,
}

impl Ord for Delivery {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}
impl PartialOrd for Delivery {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl PartialEq for Delivery {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}
impl Eq for Delivery {}

impl Relay {
    /// Starts a relay in front of `server`, on a loopback port of its own. Every link begins with `config` in both directions;
    /// its random decisions follow from `seed` and the link's address.
    ///
    /// # Errors
    /// When its sockets or threads cannot be made.
    pub fn start(server: SocketAddr, config: LinkConfig, seed: u64) -> Result<Self> {
        let front = bind()?;
        let addr = front.local_addr()?;
        let shared = Arc::new(Shared {
            front,
            server,
            config,
            seed,
            stop: AtomicBool::new(false),
            state: Mutex::default(),
            queue: Mutex::default(),
            queue_grew: Condvar::new(),
        });
        let sender = Arc::clone(&shared);
        let receiver = Arc::clone(&shared);
        let threads = vec![
            std::thread::spawn(move || sender.deliver()),
            std::thread::spawn(move || receiver.receive_uplink()),
        ];
        Ok(Self { addr, shared, threads })
    }

    /// Where senders send to.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Swallows everything from and to that client IP, or ends that.
    pub fn set_blackhole(&self, link: IpAddr, blackhole: bool) {
        self.with_link(link, |link| {
            link.up.set_blackhole(blackhole);
            link.down.set_blackhole(blackhole);
        });
    }

    /// The NAT forgets: from now on the receiver sees every client at a new address, and what it sends to the old addresses
    /// reaches nobody.
    pub fn rebind_all(&self) {
        lock(&self.shared.state).clients.clear();
    }

    /// The addresses at which the receiver sees the clients now, by client IP.
    pub fn bindings(&self) -> Vec<(IpAddr, SocketAddr)> {
        let state = lock(&self.shared.state);
        state
            .clients
            .iter()
            .filter_map(|(client, back)| Some((client.ip(), back.local_addr().ok()?)))
            .collect()
    }

    /// The SRT session that passed.
    ///
    /// # Errors
    /// When there was none that carried data, or more than one.
    pub fn only_session(&self) -> Result<Session> {
        lock(&self.shared.state).tap.only_session().cloned()
    }

    /// What happened on that link: uplink, downlink.
    pub fn counters(&self, link: IpAddr) -> (LinkCounters, LinkCounters) {
        self.with_link(link, |link| (*link.up.counters(), *link.down.counters()))
    }

    fn with_link<T>(&self, ip: IpAddr, act: impl FnOnce(&mut Link) -> T) -> T {
        act(self.shared.link(&mut lock(&self.shared.state), ip))
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.queue_grew.notify_all();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn link<'a>(&self, state: &'a mut State, ip: IpAddr) -> &'a mut Link {
        state.links.entry(ip).or_insert_with(|| {
            let salt = match ip {
                IpAddr::V4(ip) => u64::from(u32::from(ip)),
                IpAddr::V6(ip) => u128::from(ip) as u64,
            };
            let seed = self.seed ^ salt.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            Link {
                up: LinkModel::new(self.config.clone(), seed),
                down: LinkModel::new(self.config.clone(), seed ^ 1),
            }
        })
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn receive_uplink(self: Arc<Self>) {
        let mut buf = [0; MTU];
        let mut readers = Vec::new();
        while !self.is_stopped() {
            let Ok((len, client)) = self.front.recv_from(&mut buf) else { continue };
            let known = lock(&self.state).clients.get(&client).cloned();
            let back = match known {
                Some(back) => back,
                None => match bind() {
                    Ok(back) => {
                        let back = Arc::new(back);
                        lock(&self.state).clients.insert(client, Arc::clone(&back));
                        let (shared, socket) = (Arc::clone(&self), Arc::clone(&back));
                        readers.push(std::thread::spawn(move || shared.receive_downlink(&socket, client)));
                        back
                    }
                    Err(_) => continue,
                },
            };
            self.submit(client, true, Some(&back), self.server, &buf[..len]);
        }
        for reader in readers {
            let _ = reader.join();
        }
    }

    fn receive_downlink(&self, back: &Arc<UdpSocket>, client: SocketAddr) {
        let mut buf = [0; MTU];
        while !self.is_stopped() {
            // An error is a timeout, or ECONNREFUSED while the receiver is away.
            let received = back.recv_from(&mut buf);
            let is_bound = lock(&self.state).clients.get(&client).is_some_and(|now| Arc::ptr_eq(now, back));
            if !is_bound {
                return;
            }
            if let Ok((len, from)) = received
                && from == self.server
            {
                self.submit(client, false, None, client, &buf[..len]);
            }
        }
    }

    fn submit(
        &self,
        client: SocketAddr,
        is_uplink: bool,
        socket: Option<&Arc<UdpSocket>>,
        to: SocketAddr,
        bytes: &[u8],
    ) {
        let mut state = lock(&self.state);
        let link = self.link(&mut state, client.ip());
        let model = if is_uplink { &mut link.up } else { &mut link.down };
        let arrivals = model.submit(Instant::now(), bytes.len());
        if is_uplink {
            state.tap.uplink(client, bytes, !arrivals.is_empty());
        } else {
            state.tap.downlink(client, bytes);
        }
        for at in arrivals {
            state.order += 1;
            let delivery =
                Delivery { at, order: state.order, socket: socket.cloned(), to, bytes: bytes.to_vec() };
            lock(&self.queue).push(Reverse(delivery));
        }
        self.queue_grew.notify_one();
    }

    fn deliver(&self) {
        let mut queue = lock(&self.queue);
        while !self.is_stopped() {
            let now = Instant::now();
            let wait = match queue.peek() {
                Some(Reverse(first)) if first.at <= now => {
                    if let Some(Reverse(due)) = queue.pop() {
                        drop(queue);
                        // A refused or overflowing send is a loss like any other.
                        let _ = due.socket.as_deref().unwrap_or(&self.front).send_to(&due.bytes, due.to);
                        queue = lock(&self.queue);
                    }
                    continue;
                }
                Some(Reverse(first)) => (first.at - now).min(POLL),
                None => POLL,
            };
            queue = self.queue_grew.wait_timeout(queue, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

fn bind() -> Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    // As much as the system grants: bursts are the sender's business, not the relay's.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER_BYTES);
    socket.set_read_timeout(Some(POLL))?;
    socket
        .bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())
        .context("cannot bind the relay's socket")?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_pass_are_delayed_and_can_be_swallowed() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let delay = Duration::from_millis(30);
        let relay = Relay::start(server.local_addr().unwrap(), LinkConfig::wire(delay), 1).unwrap();
        let client = UdpSocket::bind("127.0.0.2:0").unwrap();
        let link = client.local_addr().unwrap().ip();
        client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        server.set_read_timeout(Some(Duration::from_secs(5))).unwrap();

        let mut buf = [0; 100];
        let start = Instant::now();
        client.send_to(b"ping", relay.addr()).unwrap();
        let (len, from) = server.recv_from(&mut buf).unwrap();
        assert_eq!(&buf[..len], b"ping");
        server.send_to(b"pong", from).unwrap();
        let (len, from) = client.recv_from(&mut buf).unwrap();
        assert_eq!((&buf[..len], from), (&b"pong"[..], relay.addr()));
        assert!(start.elapsed() >= 2 * delay);

        relay.set_blackhole(link, true);
        client.send_to(b"lost", relay.addr()).unwrap();
        relay_saw(&relay, link, 2);
        relay.set_blackhole(link, false);
        client.send_to(b"back", relay.addr()).unwrap();
        let (len, _) = server.recv_from(&mut buf).unwrap();
        assert_eq!(&buf[..len], b"back");
        let (up, down) = relay.counters(link);
        assert_eq!((up.submitted, up.blackholed, up.delivered, down.delivered), (3, 1, 2, 1));
    }

    #[test]
    fn a_rebound_client_has_a_new_address_and_its_old_one_is_dead() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let relay = Relay::start(server.local_addr().unwrap(), LinkConfig::wire(Duration::ZERO), 1).unwrap();
        let client = UdpSocket::bind("127.0.0.2:0").unwrap();
        client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        server.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut buf = [0; 100];
        let mut ask = || {
            client.send_to(b"ping", relay.addr()).unwrap();
            server.recv_from(&mut buf).unwrap().1
        };
        let before = ask();
        assert_eq!(ask(), before);
        relay.rebind_all();
        let after = ask();
        assert_ne!(before, after);
        server.send_to(b"old", before).unwrap();
        server.send_to(b"new", after).unwrap();
        let (len, _) = client.recv_from(&mut buf).unwrap();
        assert_eq!(&buf[..len], b"new");
        let silence = Duration::from_millis(200);
        client.set_read_timeout(Some(silence)).unwrap();
        assert!(client.recv_from(&mut buf).is_err(), "the old address is dead");
    }

    fn relay_saw(relay: &Relay, link: IpAddr, submitted: u64) {
        crate::scene::wait_until("the relay", Duration::from_secs(5), || {
            Ok((relay.counters(link).0.submitted >= submitted).then_some(()))
        })
        .unwrap();
    }
}
