//! Networks.

use std::fmt;
use std::net::IpAddr;

/// A network: all addresses that share the first `prefix` bits of `addr`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Cidr {
    /// Any address of the network.
    pub addr: IpAddr,
    /// 0..=32 for IPv4, 0..=128 for IPv6; larger values count as the longest.
    pub prefix: u8,
}

impl Cidr {
    /// `ip` belongs to the network. Families do not mix, except that v4-mapped addresses are IPv4.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.addr.to_canonical(), ip.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(ip)) => {
                let differing = u32::from(network) ^ u32::from(ip);
                differing.leading_zeros() >= u32::from(self.prefix.min(32))
            }
            (IpAddr::V6(network), IpAddr::V6(ip)) => {
                let differing = u128::from(network) ^ u128::from(ip);
                differing.leading_zeros() >= u32::from(self.prefix.min(128))
            }
            _ => false,
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.prefix)
    }
}
