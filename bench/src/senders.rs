//! How datagrams of the swarm get onto the road: a connected socket per link, or one raw socket in the name of all.
//!
//! A socket per link is what senders have, and can send trains (GSO); it needs a file descriptor and some kernel memory for
//! each link. Raw senders write the IP and UDP headers themselves, so there may be any number of links; they need root and a
//! host of their own, send one by one, and without a UDP checksum. With the generator inside the kernel sockets do everything but
//! send data.
//!
//! Promise: a link has the same address for life, and what comes back to it is told apart from every other link's.

use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};

use anyhow::{Context, Result, bail};
use bondgate_io::{AnyBackend, Backend, Role, SocketId};
use serde::{Deserialize, Serialize};
use socket2::Socket;

use crate::topology::Ground;

/// How links send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A socket per link.
    #[default]
    Sockets,
    /// One raw socket (veth only).
    Raw,
    /// A socket per link registers it and hears what comes back; its data comes from the generator inside the kernel (veth
    /// only).
    Bpf,
}

/// Port of a raw group's first link.
const FIRST_PORT: u16 = 20_000;
const IP_LEN: usize = 20;
const HEADERS_LEN: usize = IP_LEN + 8;
const UDP: u8 = 17;
/// Packets heard in one go at most.
const HEAR_MAX: usize = 256;
/// Longest packet.
const PACKET_MAX: usize = 2048;

/// The senders' side of the road.
#[derive(Debug)]
pub enum Senders {
    /// A socket per link.
    Sockets {
        /// By link.
        ids: Vec<SocketId>,
        /// Addresses by link.
        addrs: Vec<SocketAddr>,
        /// Link by slot of its socket; `u32::MAX` for other sockets.
        by_slot: Vec<u32>,
    },
    /// One raw socket.
    Raw(Box<Raw>),
}

/// One socket in the name of all links.
#[derive(Debug)]
pub struct Raw {
    id: SocketId,
    ears: Socket,
    to: SocketAddrV4,
    first: u32,
    groups: u32,
    links: u32,
    packet: Vec<u8>,
    heard: Box<[u8; PACKET_MAX]>,
}

impl Senders {
    /// Opens what is needed for all links of so many groups.
    ///
    /// # Errors
    /// When there are not enough descriptors or rights.
    pub fn open(
        kind: Kind,
        ground: &Ground,
        backend: &mut AnyBackend,
        groups: u32,
        links: u32,
    ) -> Result<Self> {
        match kind {
            Kind::Sockets | Kind::Bpf => {
                let sockets = ground.link_sockets(groups, links, ground.receiver)?;
                let addrs = sockets.iter().map(UdpSocket::local_addr).collect::<io::Result<_>>()?;
                let ids = sockets
                    .into_iter()
                    .map(|socket| backend.add(socket, Role::Connected))
                    .collect::<io::Result<Vec<_>>>()
                    .context("the generator's sockets")?;
                let slots = ids.iter().map(|id| id.slot() + 1).max().unwrap_or(0);
                let mut by_slot = vec![u32::MAX; slots];
                for (link, id) in ids.iter().enumerate() {
                    if let Some(place) = by_slot.get_mut(id.slot()) {
                        *place = link as u32;
                    }
                }
                Ok(Self::Sockets { ids, addrs, by_slot })
            }
            Kind::Raw => {
                let SocketAddr::V4(to) = ground.receiver else { bail!("raw senders speak IPv4") };
                let (mouth, ears) = ground.raw_sockets()?;
                let id = backend.add(mouth, Role::Unconnected).context("the generator's raw socket")?;
                let packet = Vec::with_capacity(PACKET_MAX);
                let (first, heard) = (ground.first_link_addr(), Box::new([0; PACKET_MAX]));
                Ok(Self::Raw(Box::new(Raw { id, ears, to, first, groups, links, packet, heard })))
            }
        }
    }

    /// Where links send from; empty if sockets do not tell.
    pub fn addrs(&self) -> &[SocketAddr] {
        match self {
            Self::Sockets { addrs, .. } => addrs,
            Self::Raw(_) => &[],
        }
    }

    /// Queues a datagram of a link to the receiver.
    pub fn send(&mut self, backend: &mut AnyBackend, link: u32, bytes: &[u8]) {
        match self {
            Self::Sockets { ids, .. } => {
                if let Some(&id) = ids.get(link as usize) {
                    backend.send(id, None, bytes);
                }
            }
            Self::Raw(raw) => {
                raw.write(link, bytes);
                backend.send(raw.id, Some(raw.to.into()), &raw.packet);
            }
        }
    }

    /// The link behind one of the backend's sockets.
    pub fn link_of(&self, socket: SocketId) -> Option<u32> {
        match self {
            Self::Sockets { by_slot, .. } => {
                by_slot.get(socket.slot()).copied().filter(|link| *link != u32::MAX)
            }
            Self::Raw(_) => None,
        }
    }

    /// What has come back past the backend, by link.
    pub fn hear(&mut self, mut heard: impl FnMut(u32, &[u8])) {
        let Self::Raw(raw) = self else { return };
        for _ in 0..HEAR_MAX {
            let Ok(len) = (&raw.ears).read(&mut raw.heard[..]) else { break };
            let Some((link, bytes)) = raw.heard.get(..len).and_then(|packet| raw.read(packet)) else {
                continue;
            };
            heard(link, bytes);
        }
    }
}

impl Raw {
    /// Puts headers before a datagram. The kernel fills in lengths and the header's checksum.
    fn write(&mut self, link: u32, bytes: &[u8]) {
        let (group, index) = (link / self.links.max(1), link % self.links.max(1));
        let len = (HEADERS_LEN + bytes.len()) as u16;
        let port = FIRST_PORT + index as u16;
        self.packet.clear();
        self.packet.extend([0x45, 0]);
        self.packet.extend(len.to_be_bytes());
        self.packet.extend([0, 0, 0, 0, 64, UDP, 0, 0]);
        self.packet.extend((self.first + group).to_be_bytes());
        self.packet.extend(self.to.ip().octets());
        self.packet.extend(port.to_be_bytes());
        self.packet.extend(self.to.port().to_be_bytes());
        self.packet.extend((len - IP_LEN as u16).to_be_bytes());
        self.packet.extend([0, 0]);
        self.packet.extend(bytes);
    }

    /// Whose a packet of the receiver is, and what it carries.
    fn read<'a>(&self, packet: &'a [u8]) -> Option<(u32, &'a [u8])> {
        let from: [u8; 4] = *packet.get(12..)?.first_chunk()?;
        let to: [u8; 4] = *packet.get(16..)?.first_chunk()?;
        let port: [u8; 2] = *packet.get(22..)?.first_chunk()?;
        let len: [u8; 2] = *packet.get(24..)?.first_chunk()?;
        // The kernel of the receiver's host sends no options.
        if packet.first() != Some(&0x45)
            || packet.get(9) != Some(&UDP)
            || Ipv4Addr::from(from) != *self.to.ip()
        {
            return None;
        }
        let group = u32::from_be_bytes(to).checked_sub(self.first).filter(|group| *group < self.groups)?;
        let index = u16::from_be_bytes(port).checked_sub(FIRST_PORT).map(u32::from)?;
        let end = IP_LEN + usize::from(u16::from_be_bytes(len));
        (index < self.links).then_some((group * self.links + index, packet.get(HEADERS_LEN..end)?))
    }
}
