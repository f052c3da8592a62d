//! Networks as operators type them: `address/prefix`. The type itself belongs to `bondgate-auth`.

use std::net::IpAddr;

pub use bondgate_auth::cidr::Cidr;

/// Reads `192.0.2.0/24`, `2001:db8::/32` or a single address.
///
/// # Errors
/// A sentence for people. Host bits are refused, since they usually mean another network than the one typed.
pub fn parse(text: &str) -> Result<Cidr, String> {
    let (addr_text, prefix_text) = match text.split_once('/') {
        Some((addr, prefix)) => (addr, Some(prefix)),
        None => (text, None),
    };
    let addr: IpAddr = addr_text.parse().map_err(|_| format!("\"{addr_text}\" is not an IP address"))?;
    if addr.to_canonical() != addr {
        return Err(format!("\"{text}\" is IPv4 in IPv6 clothes; write the IPv4 network"));
    }
    let width: u8 = if addr.is_ipv4() { 32 } else { 128 };
    let prefix = match prefix_text {
        None => width,
        Some(digits) => digits
            .parse()
            .ok()
            .filter(|prefix| *prefix <= width)
            .ok_or_else(|| format!("prefix \"{digits}\" is not a number from 0 to {width}"))?,
    };
    let canonical = Cidr { addr, prefix }.canonical();
    if canonical.addr != addr {
        return Err(format!("\"{text}\" has host bits set; did you mean {canonical}?"));
    }
    Ok(canonical)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_networks_and_single_addresses() {
        for (text, canonical) in [
            ("192.0.2.0/24", "192.0.2.0/24"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("192.0.2.7", "192.0.2.7/32"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("::/0", "::/0"),
            ("::1", "::1/128"),
        ] {
            assert_eq!(parse(text).unwrap().to_string(), canonical);
        }
    }

    #[test]
    fn says_what_is_wrong() {
        for (text, message) in [
            ("home", "\"home\" is not an IP address"),
            ("10.0.0.0/33", "prefix \"33\" is not a number from 0 to 32"),
            ("10.0.0.0/-1", "prefix \"-1\" is not a number from 0 to 32"),
            ("10.0.0.0/", "prefix \"\" is not a number from 0 to 32"),
            ("::/129", "prefix \"129\" is not a number from 0 to 128"),
            ("10.0.0.1/8", "\"10.0.0.1/8\" has host bits set; did you mean 10.0.0.0/8?"),
            (
                "::ffff:10.0.0.0/104",
                "\"::ffff:10.0.0.0/104\" is IPv4 in IPv6 clothes; write the IPv4 network",
            ),
        ] {
            assert_eq!(parse(text).unwrap_err(), message);
        }
    }
}
