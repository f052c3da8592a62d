//! Networks.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

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

    /// The same network with its first address, the prefix no longer than the address, and IPv4 as IPv4.
    #[must_use]
    pub fn canonical(&self) -> Self {
        match self.addr.to_canonical() {
            IpAddr::V4(addr) => {
                let prefix = self.prefix.min(32);
                let hosts = u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
                Self { addr: Ipv4Addr::from_bits(addr.to_bits() & !hosts).into(), prefix }
            }
            IpAddr::V6(addr) => {
                let prefix = self.prefix.min(128);
                let hosts = u128::MAX.checked_shr(prefix.into()).unwrap_or(0);
                Self { addr: Ipv6Addr::from_bits(addr.to_bits() & !hosts).into(), prefix }
            }
        }
    }

    /// The network of which this one is a half; `None` when this one is all addresses.
    pub fn around(&self) -> Option<Self> {
        let Self { addr, prefix } = self.canonical();
        Some(Self { addr, prefix: prefix.checked_sub(1)? }.canonical())
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn membership() {
        for (network, prefix, ip, inside) in [
            ("192.0.2.0", 24, "192.0.2.255", true),
            ("192.0.2.0", 24, "192.0.3.0", false),
            ("192.0.2.0", 24, "::ffff:192.0.2.9", true),
            ("0.0.0.0", 0, "203.0.113.1", true),
            ("0.0.0.0", 0, "2001:db8::1", false),
            ("2001:db8::", 32, "2001:db8:ffff::1", true),
            ("2001:db8::", 32, "2001:db9::1", false),
            ("2001:db8::1", 200, "2001:db8::1", true),
            ("198.51.100.7", 32, "198.51.100.6", false),
        ] {
            let network = Cidr { addr: network.parse().unwrap(), prefix };
            assert_eq!(network.contains(ip.parse().unwrap()), inside, "{network} {ip}");
        }
    }

    #[test]
    fn one_way_to_write_a_network() {
        for (network, prefix, canonical, around) in [
            ("192.0.2.77", 24, "192.0.2.0/24", Some("192.0.2.0/23")),
            ("::ffff:192.0.2.77", 99, "192.0.2.77/32", Some("192.0.2.76/31")),
            ("203.0.113.1", 0, "0.0.0.0/0", None),
            ("2001:db8::1", 32, "2001:db8::/32", Some("2001:db8::/31")),
            ("2001:db8::1", 255, "2001:db8::1/128", Some("2001:db8::/127")),
            ("2001:db8::1", 0, "::/0", None),
        ] {
            let network = Cidr { addr: network.parse().unwrap(), prefix };
            assert_eq!(network.canonical().to_string(), canonical);
            assert_eq!(network.around().map(|cidr| cidr.to_string()).as_deref(), around, "{network}");
        }
    }
}
