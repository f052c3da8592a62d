//! What the tests share: a backend under test, plain sockets as peers, patterned payloads, waiting with a deadline.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use bondgate_io::socket::{BindOptions, bind_udp, connect_udp};
use bondgate_io::{AnyBackend, Backend, Choice, Gro, Limits, Role, SocketId};
use libtest_mimic::Failed;

/// Nothing on loopback takes this long unless it is broken.
pub const PATIENCE: Duration = Duration::from_secs(10);

pub struct Variant {
    pub choice: Choice,
    pub gro: Gro,
}

pub fn ensure(condition: bool, what: &str) -> Result<(), Failed> {
    if condition { Ok(()) } else { Err(what.into()) }
}

#[allow(clippy::needless_pass_by_value)] // reads better at the many calls
pub fn ensure_eq<T: PartialEq + std::fmt::Debug>(got: T, want: T, what: &str) -> Result<(), Failed> {
    if got == want { Ok(()) } else { Err(format!("{what}: got {got:?}, want {want:?}").into()) }
}

pub fn local() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

/// A plain blocking socket that gives up after the patience.
pub fn peer() -> io::Result<UdpSocket> {
    let socket = bind_udp(local(), &BindOptions::default())?;
    socket.set_nonblocking(false)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// `len` bytes that depend on `seed`, all of them.
pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678;
    let mut bytes: Vec<u8> = (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect();
    if len >= 8 {
        bytes[..8].copy_from_slice(&seed.to_be_bytes());
    }
    bytes
}

/// A received datagram, copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Got {
    pub socket: SocketId,
    pub from: SocketAddr,
    pub bytes: Vec<u8>,
}

pub struct Rig {
    pub backend: AnyBackend,
}

impl Rig {
    pub fn new(variant: &Variant) -> io::Result<Rig> {
        Rig::with(variant, Limits::default())
    }

    #[allow(clippy::needless_pass_by_value)] // reads better with literals
    pub fn with(variant: &Variant, limits: Limits) -> io::Result<Rig> {
        let limits = Limits { gro: variant.gro, ..limits };
        Ok(Rig { backend: bondgate_io::open(variant.choice, &limits)?.0 })
    }

    pub fn listener(&mut self) -> io::Result<(SocketId, SocketAddr)> {
        let socket = bind_udp(local(), &BindOptions::default())?;
        let addr = socket.local_addr()?;
        Ok((self.backend.add(socket, Role::Listener)?, addr))
    }

    pub fn connected(&mut self, to: SocketAddr) -> io::Result<(SocketId, SocketAddr)> {
        let socket = connect_udp(to, None, &BindOptions::default())?;
        let addr = socket.local_addr()?;
        Ok((self.backend.add(socket, Role::Connected)?, addr))
    }

    /// Runs turns until `count` datagrams came, letting `answer` queue sends in each turn.
    pub fn turns(
        &mut self,
        count: usize,
        mut answer: impl FnMut(&mut AnyBackend, usize),
    ) -> Result<Vec<Got>, Failed> {
        let deadline = Instant::now() + PATIENCE;
        let mut got = Vec::new();
        while got.len() < count {
            if Instant::now() > deadline {
                return Err(format!("only {} of {count} datagrams came", got.len()).into());
            }
            let n = self.backend.receive(Some(Duration::from_millis(50)))?;
            self.backend.note_time(Instant::now());
            for index in 0..n {
                let datagram = self.backend.datagram(index);
                got.push(Got {
                    socket: datagram.socket,
                    from: datagram.from,
                    bytes: datagram.bytes.to_vec(),
                });
                answer(&mut self.backend, index);
            }
            self.backend.flush();
        }
        Ok(got)
    }

    /// Runs turns that receive nothing, for `time`.
    pub fn idle(&mut self, time: Duration) -> Result<(), Failed> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            let n = self.backend.receive(Some(Duration::from_millis(2)))?;
            self.backend.note_time(Instant::now());
            ensure_eq(n, 0, "datagrams where none is expected")?;
            self.backend.flush();
        }
        Ok(())
    }

    /// Runs turns until there is an error of a socket.
    pub fn error(&mut self) -> Result<(SocketId, io::Error), Failed> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(error) = self.backend.next_error() {
                return Ok(error);
            }
            self.backend.receive(Some(Duration::from_millis(10)))?;
            self.backend.flush();
        }
        Err("no error was reported".into())
    }
}
