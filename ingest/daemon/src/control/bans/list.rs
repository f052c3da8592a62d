//! What there is to remember of bans.
//!
//! Promises: a network is in the list once per kind of origin, so that a ban for failures never shortens what an operator
//! has said; what has run out is not forgotten before its ladder is; the list is bounded.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use bondgate_auth::bans::{Ban, BanSet, Scope};
use bondgate_auth::cidr::Cidr;

/// Bans of operators and imports at most.
pub const NAMED_MAX: usize = 200_000;
/// Bans for failures at most; beyond it those that end first make room.
pub const FAILURES_MAX: usize = 50_000;
/// Bytes of a note at most.
pub const NOTE_MAX: usize = 200;

/// Where a ban comes from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum Origin {
    /// `bondgate ban add`.
    Operator,
    /// `bondgate ban import`.
    Import,
    /// Proven failures.
    Failures,
}

impl Origin {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Operator, Self::Import, Self::Failures];

    /// As it is written in files and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Import => "import",
            Self::Failures => "failures",
        }
    }

    /// Whom it keeps out.
    pub const fn scope(self) -> Scope {
        match self {
            Self::Operator | Self::Import => Scope::Everyone,
            Self::Failures => Scope::Keyless,
        }
    }
}

/// One ban.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// Where.
    pub network: Cidr,
    /// First millisecond since 1970 at which it is over; `None`: never.
    pub until_ms: Option<u64>,
    /// When it was made or last changed, in milliseconds since 1970.
    pub since_ms: u64,
    /// Where it comes from.
    pub origin: Origin,
    /// How often this network was banned for failures in a row; 0 for all other origins.
    pub times: u32,
    /// Why, for people.
    pub note: String,
}

impl Record {
    /// It keeps somebody out at this time.
    pub fn is_in_force(&self, now_ms: u64) -> bool {
        self.until_ms.is_none_or(|until_ms| now_ms < until_ms)
    }

    /// As the policy knows it.
    pub fn ban(&self) -> Ban {
        Ban { network: self.network, until_ms: self.until_ms, scope: self.origin.scope() }
    }
}

/// There are too many.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Full;

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "there would be more than {NAMED_MAX} bans; merge small networks into larger ones, or remove some \
             (bondgate ban del)"
        )
    }
}

impl std::error::Error for Full {}

/// Kind, address as 16 bytes, length: the order of the list.
type Place = (bool, [u8; 16], u8);

fn place(network: Cidr, scope: Scope) -> Place {
    let octets = match network.addr {
        IpAddr::V4(addr) => addr.to_ipv6_mapped().octets(),
        IpAddr::V6(addr) => addr.octets(),
    };
    (scope == Scope::Keyless, octets, network.prefix)
}

/// All bans, those for failures last, by address.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct BanList {
    records: BTreeMap<Place, Record>,
    failures: usize,
}

impl BanList {
    /// Puts a ban in, in place of one on the same network with the same scope, and returns that.
    ///
    /// # Errors
    /// There would be too many of operators and imports; the list is unchanged then.
    pub fn put(&mut self, record: Record) -> Result<Option<Record>, Full> {
        let scope = record.origin.scope();
        let at = place(record.network, scope);
        if !self.records.contains_key(&at) {
            if scope == Scope::Everyone && self.records.len() - self.failures >= NAMED_MAX {
                return Err(Full);
            }
            if scope == Scope::Keyless {
                if self.failures >= FAILURES_MAX {
                    self.forget_failures(FAILURES_MAX / 10);
                }
                self.failures += 1;
            }
        }
        Ok(self.records.insert(at, record))
    }

    /// Takes the bans on exactly this network out, for whatever origin.
    pub fn remove(&mut self, network: Cidr) -> Vec<Record> {
        let taken =
            [Scope::Everyone, Scope::Keyless].map(|scope| self.records.remove(&place(network, scope)));
        self.failures -= usize::from(taken[1].is_some());
        taken.into_iter().flatten().collect()
    }

    /// Forgets what has run out; of bans for failures only those whose ladder is over, `quiet_ms` after their end.
    pub fn prune(&mut self, now_ms: u64, quiet_ms: u64) {
        self.records.retain(|_, record| {
            let kept_ms = if record.origin == Origin::Failures { quiet_ms } else { 0 };
            record.until_ms.is_none_or(|until_ms| now_ms < until_ms.saturating_add(kept_ms))
        });
        self.failures = self.records.values().filter(|record| record.origin == Origin::Failures).count();
    }

    /// Makes room among the bans for failures: those that end first go.
    fn forget_failures(&mut self, count: usize) {
        let mut ends: Vec<(Option<u64>, Place)> = self
            .records
            .iter()
            .filter(|(_, record)| record.origin == Origin::Failures)
            .map(|(at, record)| (record.until_ms, *at))
            .collect();
        ends.sort_unstable();
        for (_, at) in ends.into_iter().take(count) {
            self.failures -= usize::from(self.records.remove(&at).is_some());
        }
    }

    /// The ban for failures on a network, in force or remembered.
    pub fn failures_of(&self, network: Cidr) -> Option<&Record> {
        self.records.get(&place(network, Scope::Keyless))
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Record> {
        self.records.values()
    }

    /// The bans in force that concern an address, smallest network first.
    pub fn of(&self, ip: IpAddr, now_ms: u64) -> Vec<&Record> {
        let mut found: Vec<&Record> =
            self.iter().filter(|record| record.network.contains(ip) && record.is_in_force(now_ms)).collect();
        found.sort_by_key(|record| std::cmp::Reverse(record.network.prefix));
        found
    }

    /// How many there are, those that have run out included.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// There is none.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// As the policy takes them.
    pub fn compile(&self, now_ms: u64) -> BanSet {
        self.iter().filter(|record| record.is_in_force(now_ms)).map(Record::ban).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::cidr;

    pub fn record(network: &str, origin: Origin, until_ms: Option<u64>) -> Record {
        let network = cidr::parse(network).unwrap();
        Record { network, until_ms, since_ms: 1, origin, times: 0, note: String::new() }
    }

    #[test]
    fn an_operator_s_ban_and_one_for_failures_stand_side_by_side() {
        let mut list = BanList::default();
        list.put(record("192.0.2.7", Origin::Operator, None)).unwrap();
        list.put(record("192.0.2.7", Origin::Failures, Some(50))).unwrap();
        list.put(record("192.0.2.0/24", Origin::Import, Some(60))).unwrap();
        assert_eq!(list.len(), 3);
        let ip = "192.0.2.7".parse().unwrap();
        assert_eq!(
            list.of(ip, 10).iter().map(|record| record.origin).collect::<Vec<_>>(),
            [Origin::Operator, Origin::Failures, Origin::Import]
        );
        assert_eq!(list.of(ip, 55).len(), 2);
        // Another ban of the operator's takes the place of the first.
        let before = list.put(record("192.0.2.7", Origin::Import, Some(9))).unwrap().unwrap();
        assert_eq!((before.until_ms, list.len()), (None, 3));
        assert_eq!(list.remove(cidr::parse("192.0.2.7").unwrap()).len(), 2);
        assert_eq!(list.compile(10).len(), 1);
        assert!(list.compile(60).is_empty());
    }

    #[test]
    fn what_has_run_out_goes_and_the_ladder_stays_a_while() {
        let mut list = BanList::default();
        list.put(record("192.0.2.7", Origin::Operator, Some(50))).unwrap();
        list.put(record("192.0.2.8", Origin::Failures, Some(50))).unwrap();
        list.prune(49, 100);
        assert_eq!(list.len(), 2);
        list.prune(149, 100);
        assert!(list.failures_of(cidr::parse("192.0.2.8").unwrap()).is_some() && list.len() == 1);
        list.prune(150, 100);
        assert!(list.is_empty());
    }

    #[test]
    fn the_list_is_bounded() {
        let mut list = BanList::default();
        let at = |n: u32| Cidr { addr: IpAddr::V4(n.into()), prefix: 32 };
        let named = record("192.0.2.0/24", Origin::Import, None);
        for n in 0..NAMED_MAX as u32 {
            list.put(Record { network: at(n), ..named.clone() }).unwrap();
        }
        assert_eq!(list.put(Record { network: at(1 << 31), ..named.clone() }), Err(Full));
        assert!(list.put(Record { network: at(7), ..named.clone() }).unwrap().is_some(), "no new one");
        for n in 0..FAILURES_MAX as u32 + 5 {
            let until_ms = Some(u64::from(n));
            list.put(Record { network: at(n), until_ms, origin: Origin::Failures, ..named.clone() }).unwrap();
        }
        assert_eq!(list.len(), NAMED_MAX + FAILURES_MAX - FAILURES_MAX / 10 + 5);
        assert!(list.failures_of(at(0)).is_none() && list.failures_of(at(FAILURES_MAX as u32)).is_some());
    }
}
