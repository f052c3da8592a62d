//! Registration by hand: packet by packet, over real sockets or none, with a key and without.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use bondgate_auth::keyring::Provision;
use bondgate_auth::sa1::sender::{Credentials, Greeting, Hello, Join, Outcome, Up};
use bondgate_auth::sa1::{Flags, GroupNonce};
use bondgate_sim::rng::Rng;

use crate::netns::Namespace;

/// Bytes of REG1, REG2 and all of SA1's packets but the short ones.
pub const REG_LEN: usize = 258;

/// REG1 (`9200`) or REG2 (`9201`) with this ID.
pub fn reg(kind: u8, id: &[u8; 256]) -> [u8; REG_LEN] {
    let mut packet = [0; REG_LEN];
    packet[..2].copy_from_slice(&[0x92, kind]);
    packet[2..].copy_from_slice(id);
    packet
}

/// A REG1 as stock senders make it: 256 random bytes.
pub fn random_reg1(rng: &mut Rng) -> [u8; REG_LEN] {
    let mut id = [0; 256];
    fill(rng, &mut id);
    reg(0, &id)
}

/// Random bytes.
pub fn fill(rng: &mut Rng, bytes: &mut [u8]) {
    for chunk in bytes.chunks_mut(8) {
        chunk.copy_from_slice(&rng.next_u64().to_be_bytes()[..chunk.len()]);
    }
}

/// A keepalive of 10 bytes, as BELABOX's sender makes it.
pub const KEEPALIVE: [u8; 10] = [0x90, 0, 0, 0, 0, 0, 0, 0, 0, 1];

/// SRT data of 1332 bytes: number, destination socket.
pub fn data(number: u32, socket_id: u32) -> Vec<u8> {
    let mut packet = vec![0x47; 1332];
    packet[..4].copy_from_slice(&(number & 0x7FFF_FFFF).to_be_bytes());
    packet[4..8].copy_from_slice(&0xC000_0001u32.to_be_bytes());
    packet[8..12].fill(0);
    packet[12..16].copy_from_slice(&socket_id.to_be_bytes());
    packet
}

/// SRT control: type, destination socket, body.
pub fn control(kind: u16, socket_id: u32, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; 16];
    packet[..2].copy_from_slice(&(0x8000 | kind).to_be_bytes());
    packet[12..16].copy_from_slice(&socket_id.to_be_bytes());
    packet.extend(body);
    packet
}

/// A socket of a host, from this address and any port, towards the receiver.
///
/// # Errors
/// When there is no such address.
pub fn socket(on: &Namespace, from: Ipv4Addr, to: SocketAddrV4) -> Result<UdpSocket> {
    socket_at(on, SocketAddrV4::new(from, 0), to)
}

/// A socket of a host, from this address and port.
///
/// # Errors
/// When it is taken.
pub fn socket_at(on: &Namespace, from: SocketAddrV4, to: SocketAddrV4) -> Result<UdpSocket> {
    on.inside(|| {
        let socket = UdpSocket::bind(from)?;
        socket.connect(to)?;
        Ok(socket)
    })
}

/// The first datagram within `patience` that `wanted` takes.
pub fn receive<T>(
    socket: &UdpSocket,
    patience: Duration,
    mut wanted: impl FnMut(&[u8]) -> Option<T>,
) -> Option<T> {
    let deadline = Instant::now() + patience;
    let mut buf = [0; 2048];
    loop {
        let left = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
        socket.set_read_timeout(Some(left)).ok()?;
        if let Ok(len) = socket.recv(&mut buf)
            && let Some(found) = wanted(&buf[..len])
        {
            return Some(found);
        }
    }
}

/// Registers as a stock sender does, once, without repeating anything. Returns the group ID.
///
/// # Errors
/// When an answer does not come within `patience`.
pub fn stock_register(socket: &UdpSocket, rng: &mut Rng, patience: Duration) -> Result<[u8; 256]> {
    let reg1 = random_reg1(rng);
    socket.send(&reg1)?;
    let id = receive(socket, patience, |answer| {
        let same = answer.len() == REG_LEN && answer[..2] == [0x92, 1] && answer[2..130] == reg1[2..130];
        same.then(|| answer[2..].try_into().ok()).flatten()
    })
    .context("no REG2")?;
    socket.send(&reg(1, &id))?;
    receive(socket, patience, |answer| answer.starts_with(&[0x92, 2]).then_some(())).context("no REG3")?;
    Ok(id)
}

/// A device's sender, taken apart.
#[derive(Debug)]
pub struct Device {
    /// What it was given.
    pub credentials: Credentials,
    /// Names its group.
    pub group: GroupNonce,
    /// What it offers.
    pub offered: Flags,
    rng: Rng,
}

/// A registration that was confirmed, and all that went over the wire for it.
#[derive(Debug)]
pub struct Registered {
    /// Keys and terms.
    pub up: Up,
    /// The join, M3.
    pub join: Join,
    /// M1 as it was sent.
    pub m1: [u8; REG_LEN],
    /// M4 as it came.
    pub m4: Vec<u8>,
    /// M1 that were sent.
    pub hellos: u32,
}

impl Device {
    /// A sender with this provisioning URI, just started.
    ///
    /// # Errors
    /// When the URI is none.
    pub fn new(uri: &str, seed: u64) -> Result<Self> {
        let provision = Provision::parse(uri).map_err(|error| anyhow::anyhow!("{error:?}"))?;
        Ok(Self::with(provision.credentials(Flags::NONE), seed))
    }

    /// A sender with these credentials, just started.
    pub fn with(credentials: Credentials, seed: u64) -> Self {
        let mut device = Self {
            credentials,
            group: [0; 16],
            offered: Flags::KEEPALIVE_MAC.with(Flags::ACK_MAC),
            rng: Rng::new(seed),
        };
        device.restart();
        device
    }

    /// Another group.
    pub fn restart(&mut self) {
        fill(&mut self.rng, &mut self.group);
    }

    /// M1 for a link, at this time.
    pub fn hello(&mut self, link_id: u32, wall_ms: u64) -> Hello {
        let mut link_nonce = [0; 16];
        fill(&mut self.rng, &mut link_nonce);
        let greeting =
            Greeting { group: self.group, link_nonce, link_id, links: 2, offered: self.offered, caps: 1 };
        Hello::new(&self.credentials, &greeting, wall_ms)
    }

    /// M1 to M4, with the repetitions of the specification: M3 every 200 ms, M1 after 0.5 and 1 s.
    ///
    /// # Errors
    /// When the link is not up after `patience`, or is refused.
    pub fn register(&mut self, socket: &UdpSocket, link_id: u32, patience: Duration) -> Result<Registered> {
        let deadline = Instant::now() + patience;
        let mut wait = Duration::from_millis(500);
        let mut hellos = 0;
        while Instant::now() < deadline {
            let hello = self.hello(link_id, wall_ms());
            socket.send(hello.packet())?;
            hellos += 1;
            let until = (Instant::now() + wait).min(deadline);
            wait *= 2;
            let credentials = &self.credentials;
            let left = |until: Instant| until.saturating_duration_since(Instant::now());
            let answer = receive(socket, left(until), |m2| {
                if let Ok(refusal) = hello.refused(credentials, m2) {
                    return Some(Err(refusal));
                }
                hello.answer(credentials, m2, wall_ms()).ok().map(Ok)
            });
            let join = match answer {
                None => continue,
                Some(Err(refusal)) => bail!("refused: {refusal:?}"),
                Some(Ok(join)) => join,
            };
            for _ in 0..3 {
                socket.send(join.packet())?;
                let end = receive(socket, Duration::from_millis(200), |m4| {
                    let outcome = join.confirm(credentials, m4).ok()?;
                    Some((outcome, m4.to_vec()))
                });
                match end {
                    None => {}
                    Some((Outcome::Refused(refusal), _)) => bail!("refused: {refusal:?}"),
                    Some((Outcome::Up(up), m4)) => {
                        return Ok(Registered { up, join, m1: *hello.packet(), m4, hellos });
                    }
                }
            }
        }
        bail!("no link after {hellos} M1")
    }
}

/// Milliseconds since 1970.
pub fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// The address of a socket of ours, IPv4.
///
/// # Errors
/// When it is something else.
pub fn v4(socket: &UdpSocket) -> Result<SocketAddrV4> {
    match socket.local_addr()? {
        SocketAddr::V4(addr) => Ok(addr),
        SocketAddr::V6(addr) => bail!("{addr} is not IPv4"),
    }
}
