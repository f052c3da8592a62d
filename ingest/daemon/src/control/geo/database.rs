//! Reads a database of countries in the format of `MaxMind` and keeps of it what is asked: which network is in which country.
//!
//! Promises: whatever the file holds, reading ends, with bounded memory, without a panic, and with a message that says what
//! is wrong with it; a file that is not read as a whole is not used at all.
//!
//! A network's country is its `country`, where the address is used; where a database names none (some satellite and anycast
//! networks), `registered_country`, that of the network's owner. A continent alone is no country. Addresses of 6to4 and
//! Teredo say nothing about the place of their users: they count as unknown, although databases lead them to the country of
//! the IPv4 address inside.

use std::collections::HashMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use anyhow::{Context, bail};
use bondgate_auth::cidr::Cidr;
use bondgate_auth::geo::Country;
use bondgate_auth::prefix::PrefixSet;
use maxminddb::{Reader, WithinOptions};
use serde::Deserialize;

use crate::control::stamp::Stamp;

/// Largest file that is read. Databases of cities have 60 to 150 MB.
const FILE_BYTES_MAX: u64 = 256 << 20;
/// Most networks kept, after neighbours of one country were joined. The world has fewer than half of that.
const NETWORKS_MAX: usize = 1_000_000;
/// Leaves of the tree per node at most. A tree has one more than nodes; aliases of the IPv4 part show it again.
const LEAVES_PER_NODE_MAX: usize = 8;
/// Records whose country is remembered while reading.
const RECORDS_REMEMBERED: usize = 1 << 20;
/// 6to4 and Teredo.
const TUNNELS: [(Ipv6Addr, u8); 2] =
    [(Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16), (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 32)];

/// What was read of a database.
#[derive(Clone, Debug)]
pub struct GeoDatabase {
    /// Networks by country.
    pub networks: PrefixSet<Country>,
    /// What it calls itself, `GeoLite2-Country`.
    pub kind: String,
    /// When it was made, in seconds since 1970.
    pub built_unix_s: u64,
    /// It knows nothing of IPv6.
    pub is_v4_only: bool,
}

/// The part of a record that is read.
#[derive(Deserialize)]
struct Record<'a> {
    #[serde(borrow)]
    country: Option<Place<'a>>,
    registered_country: Option<Place<'a>>,
}

#[derive(Deserialize)]
struct Place<'a> {
    iso_code: Option<&'a str>,
}

impl GeoDatabase {
    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read, is damaged, or knows no countries; the message names it and says what to do.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        let meta = fs::metadata(path).with_context(|| format!("cannot read {shown}"))?;
        if !meta.is_file() {
            bail!("{shown} is not a file");
        }
        if meta.len() > FILE_BYTES_MAX {
            bail!("{shown} has {} bytes, more than any database of countries", meta.len());
        }
        let before = Stamp::of(path);
        let bytes = fs::read(path).with_context(|| format!("cannot read {shown}"))?;
        if Stamp::of(path) != before {
            bail!("{shown} was being written while it was read");
        }
        Self::parse(&bytes).with_context(|| {
            format!("{shown} is no good database of countries; get GeoLite2-Country.mmdb or the like anew")
        })
    }

    /// Reads what a file holds.
    ///
    /// # Errors
    /// As [`GeoDatabase::read`].
    pub fn parse(bytes: &[u8]) -> anyhow::Result<Self> {
        let reader = Reader::from_source(bytes)?;
        let metadata = reader.metadata();
        let leaves_max = (metadata.node_count as usize).saturating_add(1).saturating_mul(LEAVES_PER_NODE_MAX);
        // The iterator steps over empty leaves and aliases without end in a tree made for that; told to show them, it
        // shows one at every 128th step at the latest.
        let all = WithinOptions::default().include_networks_without_data().include_aliased_networks();
        let mut joined = Joined::default();
        let mut records: HashMap<usize, Option<Country>> = HashMap::new();
        for (index, leaf) in reader.networks(all)?.enumerate() {
            if index >= leaves_max {
                bail!("its search tree leads to the same places again and again");
            }
            let leaf = leaf?;
            let Some(offset) = leaf.offset() else { continue };
            let network = leaf.network()?;
            let network = Cidr { addr: network.network(), prefix: network.prefix() };
            if is_alias(network.addr) {
                continue;
            }
            let country = if let Some(country) = records.get(&offset) {
                *country
            } else {
                let record: Option<Record> =
                    leaf.decode().with_context(|| format!("the record of {network}"))?;
                let country = record.as_ref().and_then(Record::country);
                if records.len() >= RECORDS_REMEMBERED {
                    records.clear();
                }
                records.insert(offset, country);
                country
            };
            if let Some(country) = country {
                joined.push(network, country);
            }
            if joined.networks.len() > NETWORKS_MAX {
                bail!("it has more than {NETWORKS_MAX} networks");
            }
        }
        let database = Self {
            networks: joined.finish(),
            kind: metadata.database_type.escape_debug().to_string(),
            built_unix_s: metadata.build_epoch,
            is_v4_only: metadata.ip_version == 4,
        };
        if database.networks.is_empty() {
            bail!("no network in it has a country (it calls itself {:?})", database.kind);
        }
        Ok(database)
    }

    /// Seconds since it was made.
    pub fn age_s(&self, now_unix_s: u64) -> u64 {
        now_unix_s.saturating_sub(self.built_unix_s)
    }
}

impl Record<'_> {
    fn country(&self) -> Option<Country> {
        let code = |place: &Option<Place>| place.as_ref()?.iso_code.and_then(Country::parse);
        code(&self.country).or_else(|| code(&self.registered_country))
    }
}

/// Addresses under which a database shows its IPv4 part once more.
fn is_alias(addr: IpAddr) -> bool {
    let IpAddr::V6(v6) = addr else { return false };
    let tunnel = |(addr, prefix): (Ipv6Addr, u8)| Cidr { addr: addr.into(), prefix }.contains(v6.into());
    v6.to_ipv4_mapped().is_some() || TUNNELS.into_iter().any(tunnel)
}

/// Networks in the order of the tree; neighbours of one country become one at once, so that a database of cities takes no
/// more room than one of countries.
#[derive(Default)]
struct Joined {
    networks: Vec<(Cidr, Country)>,
}

impl Joined {
    fn push(&mut self, network: Cidr, country: Country) {
        // In an IPv6 tree IPv4 lies at ::/96; what is said of more than that is said of all of it.
        if network.addr == IpAddr::V6(Ipv6Addr::UNSPECIFIED) && network.prefix <= 96 {
            self.networks.push((Cidr { addr: Ipv4Addr::UNSPECIFIED.into(), prefix: 0 }, country));
        }
        let mut network = network;
        while let Some((before, _)) = self.networks.last().copied().filter(|(before, of)| {
            *of == country
                && *before != network
                && before.prefix == network.prefix
                && before.around() == network.around()
        }) && let Some(around) = before.around()
        {
            self.networks.pop();
            network = around;
        }
        self.networks.push((network, country));
    }

    fn finish(self) -> PrefixSet<Country> {
        self.networks.into_iter().collect()
    }
}

#[cfg(test)]
mod tests;
