//! The address of a link.
//!
//! Promise: two values are equal exactly when datagrams sent to them reach the same peer socket. A dual-stack socket
//! reports IPv4 peers as v4-mapped IPv6; both spellings become the same value here.

use std::fmt;
use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// Where a link sends from: IP address *and* port, normalised.
///
/// Two links of one group may share a public IP (two modems behind one carrier NAT), so a link is never named by IP
/// alone.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct LinkAddr {
    /// The normalised socket address: v4-mapped IPv6 is turned into IPv4 and the IPv6 flow label is cleared.
    pub addr: SocketAddr,
}

/// A [`LinkAddr`] as bytes, for hashing and for tables: 16 of IP (v4 in mapped form), port, scope.
pub(crate) type AddrOctets = [u8; 22];

impl From<AddrOctets> for LinkAddr {
    #[inline]
    fn from(octets: AddrOctets) -> Self {
        let [ip @ .., p1, p0, s3, s2, s1, s0] = octets;
        let (ip, port) = (u128::from_be_bytes(ip), u16::from_be_bytes([p1, p0]));
        let addr = if ip >> 32 == 0xffff {
            SocketAddrV4::new((ip as u32).into(), port).into()
        } else {
            SocketAddrV6::new(ip.into(), port, 0, u32::from_be_bytes([s3, s2, s1, s0])).into()
        };
        Self { addr }
    }
}

impl LinkAddr {
    /// Normalises `addr`.
    pub fn new(addr: SocketAddr) -> Self {
        let addr = match addr {
            SocketAddr::V4(_) => addr,
            SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
                Some(v4) => SocketAddr::from((v4, v6.port())),
                None => SocketAddrV6::new(*v6.ip(), v6.port(), 0, v6.scope_id()).into(),
            },
        };
        Self { addr }
    }

    /// The address as 22 bytes for hashing: 16 bytes of IP (v4 in mapped form), port, scope.
    pub(crate) fn octets(self) -> AddrOctets {
        let (ip, scope) = match self.addr {
            SocketAddr::V4(v4) => (v4.ip().to_ipv6_mapped(), 0),
            SocketAddr::V6(v6) => (*v6.ip(), v6.scope_id()),
        };
        let mut out = [0; 22];
        out[..16].copy_from_slice(&ip.octets());
        out[16..18].copy_from_slice(&self.addr.port().to_be_bytes());
        out[18..].copy_from_slice(&scope.to_be_bytes());
        out
    }

    /// The IP without the port.
    pub fn ip(self) -> IpAddr {
        self.addr.ip()
    }
}

impl From<SocketAddr> for LinkAddr {
    fn from(addr: SocketAddr) -> Self {
        Self::new(addr)
    }
}

impl fmt::Debug for LinkAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.addr.fmt(f)
    }
}

impl fmt::Display for LinkAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.addr.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(text: &str) -> LinkAddr {
        LinkAddr::new(text.parse().unwrap())
    }

    #[test]
    fn v4_mapped_is_v4() {
        assert_eq!(link("[::ffff:192.0.2.7]:5000"), link("192.0.2.7:5000"));
        assert_ne!(link("192.0.2.7:5000"), link("192.0.2.7:5001"));
        assert_eq!(link("[::ffff:192.0.2.7]:5000").octets(), link("192.0.2.7:5000").octets());
    }

    #[test]
    fn flow_label_does_not_matter_but_scope_does() {
        let ip = "fe80::1".parse().unwrap();
        let a = LinkAddr::new(SocketAddrV6::new(ip, 9, 77, 2).into());
        let b = LinkAddr::new(SocketAddrV6::new(ip, 9, 0, 2).into());
        let c = LinkAddr::new(SocketAddrV6::new(ip, 9, 0, 3).into());
        assert_eq!(a, b);
        assert_ne!(b, c);
        assert_ne!(b.octets(), c.octets());
        for addr in [a, c, link("192.0.2.7:5000"), link("[2001:db8::1]:1"), link("[::192.0.2.7]:9")] {
            assert_eq!(LinkAddr::from(addr.octets()), addr);
        }
    }
}
