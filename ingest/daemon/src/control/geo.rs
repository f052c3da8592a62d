//! Countries: the database on disk, and how it comes into the policy.
//!
//! [`database`] reads one; [`watch`] keeps the running daemon with the newest that can be read.

pub mod database;
pub mod watch;

use std::fmt;

use bondgate_auth::geo::{CountryRule, GeoRules, GeoSet};
use bondgate_auth::prefix::PrefixSet;

use crate::config::{Geo, UnknownChoice};

/// Most prefixes of countries that the gate gets: a larger map takes seconds to fill and to free.
pub const GATE_PREFIXES_MAX: usize = 200_000;

/// The countries make too many prefixes for the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMany(pub usize);

impl fmt::Display for TooMany {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the countries make {} prefixes, and the gate takes {GATE_PREFIXES_MAX}: it asks nobody for a country, only the \
             application does",
            self.0
        )
    }
}

impl std::error::Error for TooMany {}

/// What the gate gets: see [`GeoSet::gate_networks`].
///
/// # Errors
/// It is too much; the gate then leaves countries to the application, which enforces them always.
pub fn gate_table(set: &GeoSet) -> Result<PrefixSet<bool>, TooMany> {
    let table = set.gate_networks();
    if table.len() > GATE_PREFIXES_MAX { Err(TooMany(table.len())) } else { Ok(table) }
}

/// What the configuration asks of addresses; `None` when it names no countries.
pub fn rules(geo: &Geo) -> Option<GeoRules> {
    let countries = match (geo.allow.as_slice(), geo.block.as_slice()) {
        ([], []) => return None,
        ([], block) => CountryRule::Block(block.to_vec()),
        (allow, _) => CountryRule::Allow(allow.to_vec()),
    };
    let admit_unknown = match geo.unknown {
        UnknownChoice::Auto => matches!(countries, CountryRule::Block(_)),
        UnknownChoice::Allow => true,
        UnknownChoice::Block => false,
    };
    Some(GeoRules { countries, admit_unknown, exempt_private: geo.exempt_private })
}
