//! Countries: which of them may come in, and which networks belong to them.
//!
//! A [`GeoSet`] is immutable and says of every address whether it is let in, and why. Promises: an answer costs two binary
//! searches and allocates nothing; private and local addresses have no country and are let in unless asked otherwise;
//! [`GeoSet::gate_networks`] gives the same answers as a table of prefixes. Where an address is, is what a database says:
//! whoever rents a machine or a tunnel in another country is there.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use crate::cidr::Cidr;
use crate::prefix::PrefixSet;

/// A country by its two letters (ISO 3166-1 alpha-2), `DE`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Country([u8; 2]);

impl Country {
    /// Reads two capital letters.
    pub fn parse(text: &str) -> Option<Self> {
        let letters: [u8; 2] = text.as_bytes().try_into().ok()?;
        letters.iter().all(u8::is_ascii_uppercase).then_some(Self(letters))
    }
}

impl fmt::Display for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|letter| write!(f, "{}", char::from(*letter)))
    }
}

/// Which countries may come in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CountryRule {
    /// These, and no others.
    Allow(Vec<Country>),
    /// All but these.
    Block(Vec<Country>),
}

impl CountryRule {
    /// `country` may come in.
    pub fn admits(&self, country: Country) -> bool {
        match self {
            Self::Allow(countries) => countries.contains(&country),
            Self::Block(countries) => !countries.contains(&country),
        }
    }
}

/// What is asked of an address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GeoRules {
    /// Of one whose country is known.
    pub countries: CountryRule,
    /// One whose country nobody knows may come in.
    pub admit_unknown: bool,
    /// Private and local addresses may come in, whatever the database says of them.
    pub exempt_private: bool,
}

/// Why an address is let in, or not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GeoCause {
    /// It is private or local.
    Private,
    /// Its country.
    Country {
        /// The network the database says it of.
        network: Cidr,
        /// The country.
        country: Country,
        /// It is named in the list.
        named: bool,
    },
    /// Nobody knows its country.
    Unknown,
}

/// What is to be said of an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GeoFinding {
    /// It may come in.
    pub admitted: bool,
    /// Why, or why not.
    pub cause: GeoCause,
}

impl GeoFinding {
    /// Its country, if that is known and asked.
    pub fn country(&self) -> Option<Country> {
        match self.cause {
            GeoCause::Country { country, .. } => Some(country),
            GeoCause::Private | GeoCause::Unknown => None,
        }
    }
}

/// For people: `DE (203.0.113.0/24), named: admitted`.
impl fmt::Display for GeoFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.cause {
            GeoCause::Private => f.write_str("private or local, not asked for a country")?,
            GeoCause::Country { network, country, named } => {
                write!(f, "{country} ({network}), {}", if named { "named" } else { "not named" })?;
            }
            GeoCause::Unknown => f.write_str("country unknown")?,
        }
        write!(f, ": {}", if self.admitted { "admitted" } else { "blocked" })
    }
}

/// Networks by country, and the rules for them.
#[derive(Clone, Debug)]
pub struct GeoSet {
    networks: Arc<PrefixSet<Country>>,
    exempt: PrefixSet<()>,
    rules: GeoRules,
}

impl GeoSet {
    /// The rules for `networks`. Whatever is in none of them is unknown.
    pub fn new(networks: PrefixSet<Country>, rules: GeoRules) -> Self {
        Self { networks: Arc::new(networks), exempt: exempt(&rules), rules }
    }

    /// Other rules for the same networks. Cheap.
    #[must_use]
    pub fn with_rules(&self, rules: GeoRules) -> Self {
        Self { networks: Arc::clone(&self.networks), exempt: exempt(&rules), rules }
    }

    /// What is to be said of `ip`.
    pub fn look(&self, ip: IpAddr) -> GeoFinding {
        if self.exempt.contains(ip) {
            return GeoFinding { admitted: true, cause: GeoCause::Private };
        }
        let Some((network, country)) = self.networks.longest(ip) else {
            return GeoFinding { admitted: self.rules.admit_unknown, cause: GeoCause::Unknown };
        };
        let admitted = self.rules.countries.admits(country);
        let named = admitted == matches!(self.rules.countries, CountryRule::Allow(_));
        GeoFinding { admitted, cause: GeoCause::Country { network, country, named } }
    }

    /// `ip` may come in.
    pub fn admits(&self, ip: IpAddr) -> bool {
        self.look(ip).admitted
    }

    /// The networks, by country.
    pub fn networks(&self) -> &PrefixSet<Country> {
        &self.networks
    }

    /// The rules.
    pub fn rules(&self) -> &GeoRules {
        &self.rules
    }

    /// The same answers as a table of prefixes: the longest that an address belongs to says whether it is admitted. Each
    /// family has a prefix of length 0, so there is one for every address. `O(n log n)`, off the packet path.
    pub fn gate_networks(&self) -> PrefixSet<bool> {
        let everywhere = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
        let unknown = everywhere.map(|addr| (Cidr { addr, prefix: 0 }, self.rules.admit_unknown));
        let known = self.networks.iter().filter(|(network, _)| {
            // What lies within an exempt network must not make an exception of its exception.
            self.exempt.longest(network.addr).is_none_or(|(exempt, ())| exempt.prefix > network.prefix)
        });
        let known = known.map(|(network, country)| (network, self.rules.countries.admits(country)));
        let exempt = self.exempt.iter().map(|(network, ())| (network, true));
        let table: PrefixSet<bool> = unknown.into_iter().chain(known).chain(exempt).collect();
        table.aggregated()
    }
}

fn exempt(rules: &GeoRules) -> PrefixSet<()> {
    if rules.exempt_private { private_networks().collect() } else { PrefixSet::default() }
}

/// Networks without a country: loopback, private use (RFC 1918, RFC 4193), behind carriers' translators (RFC 6598), on link.
pub fn private_networks() -> impl Iterator<Item = Cidr> {
    let v4 = [([127, 0, 0, 0], 8), ([10, 0, 0, 0], 8), ([172, 16, 0, 0], 12), ([192, 168, 0, 0], 16)];
    let v4 = v4.into_iter().chain([([169, 254, 0, 0], 16), ([100, 64, 0, 0], 10)]);
    let v4 = v4.map(|(octets, prefix)| Cidr { addr: IpAddr::from(octets), prefix });
    let v6 = [(Ipv6Addr::LOCALHOST, 128), (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10)];
    let v6 = v6.into_iter().chain([(Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7)]);
    v4.chain(v6.map(|(addr, prefix)| Cidr { addr: addr.into(), prefix }))
}

#[cfg(test)]
mod tests;
