//! Countries: the database on disk, and how it comes into the policy.
//!
//! [`database`] reads one; [`watch`] keeps the running daemon with the newest that can be read.

pub mod database;
pub mod watch;

use bondgate_auth::geo::{CountryRule, GeoRules};

use crate::config::{Geo, UnknownChoice};

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
