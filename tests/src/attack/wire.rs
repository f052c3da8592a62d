//! Datagrams from forged sources, and ears on the wire.
//!
//! Both are sockets that need root, in the namespace they were opened in. Promises: nothing is sent but IPv4/UDP to the one
//! address a [`Spoofer`] was made for; an [`Observer`] sees all IPv4 packets that come in on its host, whoever they are for
//! and whether or not anybody listens.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::netns::Namespace;
use crate::scene::lock;

const IP_HEADER_LEN: usize = 20;
const HEADERS_LEN: usize = IP_HEADER_LEN + 8;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ETH_P_IP: u16 = 0x0800;
const KEPT_MAX: usize = 4096;

/// Sends datagrams to one address in anybody's name.
#[derive(Debug)]
pub struct Spoofer {
    socket: Socket,
    to: SocketAddrV4,
    packet: Vec<u8>,
    /// Datagrams sent so far.
    pub datagrams: u64,
    /// Bytes of UDP payload sent so far.
    pub bytes: u64,
}

impl Spoofer {
    /// One on this host.
    ///
    /// # Errors
    /// Without the rights for raw sockets.
    pub fn new(on: &Namespace, to: SocketAddrV4) -> Result<Self> {
        let socket = on.inside(|| {
            let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(i32::from(UDP))))?;
            raw.set_header_included_v4(true)?;
            raw.set_send_buffer_size(4 << 20)?;
            Ok(raw)
        })?;
        Ok(Self { socket, to, packet: Vec::with_capacity(2048), datagrams: 0, bytes: 0 })
    }

    /// Sends one datagram from an address that need not be ours. The kernel fills in lengths and the header's checksum; UDP
    /// goes without one.
    ///
    /// # Errors
    /// When the kernel does not take it.
    pub fn send(&mut self, from: SocketAddrV4, payload: &[u8]) -> Result<()> {
        let len = (HEADERS_LEN + payload.len()) as u16;
        self.packet.clear();
        self.packet.extend([0x45, 0]);
        self.packet.extend(len.to_be_bytes());
        self.packet.extend([0, 0, 0, 0, 64, UDP, 0, 0]);
        self.packet.extend(from.ip().octets());
        self.packet.extend(self.to.ip().octets());
        self.packet.extend(from.port().to_be_bytes());
        self.packet.extend(self.to.port().to_be_bytes());
        self.packet.extend((len - IP_HEADER_LEN as u16).to_be_bytes());
        self.packet.extend([0, 0]);
        self.packet.extend(payload);
        let to = SockAddr::from(self.to);
        loop {
            match self.socket.send_to(&self.packet, &to) {
                Ok(_) => break,
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => std::thread::yield_now(),
                Err(error) => return Err(error).context("cannot send a forged datagram"),
            }
        }
        self.datagrams += 1;
        self.bytes += payload.len() as u64;
        Ok(())
    }
}

/// An IPv4 packet as it was on the wire.
#[derive(Clone, Debug)]
pub struct Seen {
    /// When.
    pub at: Instant,
    /// From where; port 0 unless UDP.
    pub from: SocketAddrV4,
    /// To where; port 0 unless UDP.
    pub to: SocketAddrV4,
    /// It is ICMP, of whatever kind.
    pub is_icmp: bool,
    /// What UDP carries, or everything behind the IP header.
    pub payload: Vec<u8>,
}

/// What was seen so far.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Packets.
    pub packets: u64,
    /// Bytes of their payloads.
    pub bytes: u64,
    /// The first few thousand.
    pub kept: Vec<Seen>,
    /// The last.
    pub last: Option<Instant>,
}

/// Ears on a host.
#[derive(Debug)]
pub struct Observer {
    tally: Arc<Mutex<Tally>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Observer {
    /// Counts the packets arriving on a host that are wanted.
    ///
    /// # Errors
    /// Without the rights for packet sockets.
    pub fn arriving(on: &Namespace, wanted: impl Fn(&Seen) -> bool + Send + 'static) -> Result<Self> {
        let socket = on.inside(|| {
            let protocol = Protocol::from(i32::from(ETH_P_IP.to_be()));
            let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(protocol))?;
            socket.set_recv_buffer_size(8 << 20)?;
            socket.set_read_timeout(Some(Duration::from_millis(20)))?;
            Ok(socket)
        })?;
        let (tally, stop) = (Arc::new(Mutex::new(Tally::default())), Arc::new(AtomicBool::new(false)));
        let (shared, flag) = (Arc::clone(&tally), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let mut buf = vec![0; 4096];
            while !flag.load(Ordering::Relaxed) {
                let Ok(len) = (&socket).read(&mut buf) else { continue };
                let Some(seen) = read(&buf[..len]).filter(&wanted) else { continue };
                let mut tally = lock(&shared);
                tally.packets += 1;
                tally.bytes += seen.payload.len() as u64;
                tally.last = Some(seen.at);
                if tally.kept.len() < KEPT_MAX {
                    tally.kept.push(seen);
                }
            }
        });
        Ok(Self { tally, stop, thread: Some(thread) })
    }

    /// What was seen so far, once nothing more is on its way.
    pub fn settled(&self) -> Tally {
        let mut before = u64::MAX;
        loop {
            let tally = lock(&self.tally).clone();
            if tally.packets == before {
                return tally;
            }
            before = tally.packets;
            std::thread::sleep(Duration::from_millis(300));
        }
    }

    /// What was seen so far.
    pub fn tally(&self) -> Tally {
        lock(&self.tally).clone()
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn read(packet: &[u8]) -> Option<Seen> {
    let header_len = usize::from(packet.first()? & 15) * 4;
    let total = usize::from(u16::from_be_bytes([*packet.get(2)?, *packet.get(3)?]));
    let body = packet.get(header_len..total.min(packet.len()))?;
    let address = |at: usize| -> Option<Ipv4Addr> {
        let octets: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
        Some(octets.into())
    };
    let port =
        |at: usize| -> Option<u16> { Some(u16::from_be_bytes(body.get(at..at + 2)?.try_into().ok()?)) };
    let is_udp = packet.get(9) == Some(&UDP);
    let (from_port, to_port) = if is_udp { (port(0)?, port(2)?) } else { (0, 0) };
    Some(Seen {
        at: Instant::now(),
        from: SocketAddrV4::new(address(12)?, from_port),
        to: SocketAddrV4::new(address(16)?, to_port),
        is_icmp: packet.get(9) == Some(&ICMP),
        payload: if is_udp { body.get(8..)?.to_vec() } else { body.to_vec() },
    })
}

/// An address that is nobody's.
pub fn nobody(random: u64) -> SocketAddrV4 {
    let ip = 0x1400_0000 | (random as u32 & 0x3FFF_FFFF);
    SocketAddrV4::new(ip.into(), 1024 + ((random >> 32) as u16 & 0x7FFF))
}
