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
}
