//! `bondgate geo`: what the database of countries says, and what the configuration makes of it. Reads the file itself and
//! needs no running daemon.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;

use bondgate_auth::geo::{CountryRule, GeoRules, GeoSet};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::args::GlobalArgs;
use super::present::{document, table, utc};
use super::{load, print};
use crate::config;
use crate::control::geo::database::GeoDatabase;
use crate::control::geo::{gate_table, rules};
use crate::exit::Failure;
use crate::policy::wall_ms;

/// `bondgate geo`.
#[derive(Args, Clone, Debug)]
pub struct GeoArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: GeoCommand,
    /// Configuration file; without it the one `bondgate run` would use
    #[arg(short, long, global = true, value_name = "FILE", env = "BONDGATE_CONFIG")]
    pub config: Option<PathBuf>,
    /// Prints JSON
    #[arg(long, global = true)]
    pub json: bool,
}

/// The subcommands of `bondgate geo`.
#[derive(Clone, Debug, Subcommand)]
pub enum GeoCommand {
    /// Shows what the database is, how old, and how much of it the gate gets
    Status,
    /// Says of addresses in which country they are, and whether they may come in
    Lookup {
        /// The addresses
        #[arg(value_name = "ADDR", required = true)]
        addrs: Vec<IpAddr>,
    },
}

/// Runs it.
///
/// # Errors
/// There is no database, or it cannot be read.
pub fn run(args: &GeoArgs, global: &GlobalArgs) -> Result<(), Failure> {
    let config = load(global, args.config.clone().or_else(config::find_file))?.config;
    let path = config.geo.database.as_deref().ok_or_else(|| {
        Failure::runtime("geo.database is \"off\"; name one there, or with --set geo.database=FILE")
    })?;
    let mut database = GeoDatabase::read(path).map_err(|error| Failure::runtime(format!("{error:#}")))?;
    let rules = rules(&config.geo).unwrap_or(GeoRules {
        countries: CountryRule::Block(Vec::new()),
        admit_unknown: true,
        exempt_private: config.geo.exempt_private,
    });
    let set = GeoSet::new(std::mem::take(&mut database.networks), rules);
    match &args.command {
        GeoCommand::Status => {
            let gate = gate_table(&set);
            if args.json {
                return print(&document(&json!({
                    "database": path,
                    "kind": database.kind,
                    "built": database.built_unix_s,
                    "age_s": database.age_s(wall_ms() / 1000),
                    "networks": { "v4": set.networks().v4_len(), "v6": set.networks().v6_len() },
                    "gate_prefixes": gate.as_ref().map_or(Value::Null, |table| table.len().into()),
                })));
            }
            let mut text = String::new();
            let days = database.age_s(wall_ms() / 1000) / (24 * 3600);
            let _ = writeln!(text, "database  {} ({})", path.display(), database.kind);
            let _ = writeln!(
                text,
                "built     {} UTC, {days} days ago",
                utc(database.built_unix_s.saturating_mul(1000))
            );
            let _ = writeln!(
                text,
                "networks  {} IPv4, {} IPv6",
                set.networks().v4_len(),
                set.networks().v6_len()
            );
            let _ = match gate {
                Ok(table) => writeln!(text, "gate      {} prefixes", table.len()),
                Err(error) => writeln!(text, "gate      {error}"),
            };
            print(&text)
        }
        GeoCommand::Lookup { addrs } => {
            let found = addrs.iter().map(|addr| (addr, set.look(*addr)));
            if args.json {
                let found = found.map(|(addr, finding)| {
                    json!({
                        "addr": addr,
                        "country": finding.country().map(|country| country.to_string()),
                        "admitted": finding.admitted,
                        "why": finding.to_string(),
                    })
                });
                return print(&document(&found.collect()));
            }
            let rows = found.map(|(addr, finding)| {
                let country = finding.country().map(|country| country.to_string()).unwrap_or_default();
                [addr.to_string(), country, finding.to_string()]
            });
            print(&table(["ADDR", "COUNTRY", "WHY"], rows))
        }
    }
}
