//! Keeps the running daemon with the newest database of countries that can be read.
//!
//! Promises: a database that cannot be read changes nothing but the log and a counter, what was in force stays; one that is
//! being written is waited for; reading takes place on a thread of its own, so that bans and revoked keys do not wait for it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use bondgate_auth::geo::{CountryRule, GeoSet};

use super::database::{GeoDatabase, Stamp};
use super::{gate_table, rules};
use crate::config::Geo;
use crate::control::catalogue::GeoScrape;
use crate::policy::wall_ms;

/// A changed file is read when it has not changed for this long.
const SETTLED: Duration = Duration::from_millis(500);
/// How often an old database is warned about.
const WARN_EVERY: Duration = Duration::from_secs(24 * 3600);
const DAY_S: u64 = 24 * 3600;

/// Figures for metrics. Zero where there is no database.
#[derive(Debug, Default)]
pub struct GeoFigures {
    /// When the database in force was made, in seconds since 1970; 0: there is none.
    pub built_unix_s: AtomicU64,
    /// Its networks, after neighbours of one country were joined.
    pub networks: AtomicU64,
    /// Databases put in force, the first included.
    pub loaded: AtomicU64,
    /// Databases refused.
    pub refused: AtomicU64,
}

impl GeoFigures {
    /// For a scrape; `None` without a database.
    pub fn scrape(&self, now_unix_s: u64) -> Option<GeoScrape> {
        let built_unix_s = self.built_unix_s.load(Ordering::Relaxed);
        let loaded = self.loaded.load(Ordering::Relaxed);
        (loaded > 0).then(|| GeoScrape {
            age_s: now_unix_s.saturating_sub(built_unix_s),
            networks: self.networks.load(Ordering::Relaxed),
            reloads: [("ok", loaded), ("refused", self.refused.load(Ordering::Relaxed))],
        })
    }
}

/// The database of a running daemon.
#[derive(Debug)]
pub struct GeoWatch {
    geo: Geo,
    path: PathBuf,
    figures: Arc<GeoFigures>,
    /// The file that was read last, well or not.
    read: Stamp,
    /// The file as it was seen last, and since when.
    seen: (Stamp, Instant),
    reading: Option<JoinHandle<anyhow::Result<(GeoDatabase, GeoSet)>>>,
    built_unix_s: u64,
    warned: Option<Instant>,
}

impl GeoWatch {
    /// Reads the database and makes the first set of it; `None` when no country is asked for.
    ///
    /// # Errors
    /// It cannot be read; the message names the key and says what to do.
    pub fn start(
        geo: &Geo,
        figures: Arc<GeoFigures>,
        now: Instant,
    ) -> anyhow::Result<Option<(Self, Arc<GeoSet>)>> {
        let (Some(path), Some(_)) = (&geo.database, rules(geo)) else { return Ok(None) };
        let read = Stamp::of(path);
        let mut watch = Self {
            geo: geo.clone(),
            path: path.clone(),
            figures,
            read,
            seen: (read, now),
            reading: None,
            built_unix_s: 0,
            warned: None,
        };
        let (database, set) = load(geo, path).context("geo.database")?;
        let set = watch.take(&database, set);
        watch.warn_of_age(now);
        Ok(Some((watch, set)))
    }

    /// Looks at the file; a new set when there is one to put in force. A look that finds nothing costs one system call.
    pub fn look(&mut self, now: Instant) -> Option<Arc<GeoSet>> {
        self.warn_of_age(now);
        if let Some(reading) = self.reading.take_if(|reading| reading.is_finished()) {
            return match reading.join().unwrap_or_else(|_| Err(anyhow::anyhow!("reading it failed"))) {
                Ok((database, set)) => {
                    self.warned = None;
                    Some(self.take(&database, set))
                }
                Err(error) => {
                    self.figures.refused.fetch_add(1, Ordering::Relaxed);
                    tracing::error!("a new geo.database is refused, the one in force stays: {error:#}");
                    None
                }
            };
        }
        let stamp = Stamp::of(&self.path);
        if stamp != self.seen.0 {
            self.seen = (stamp, now);
            if !stamp.exists() {
                tracing::warn!(
                    "geo.database is gone; what was read of it stays in force, but bondgate will not start without {}",
                    self.path.display()
                );
            }
        }
        let is_new = stamp.exists() && stamp != self.read;
        if is_new && self.reading.is_none() && now.saturating_duration_since(self.seen.1) >= SETTLED {
            let (geo, path) = (self.geo.clone(), self.path.clone());
            match std::thread::Builder::new().name("geo".to_owned()).spawn(move || load(&geo, &path)) {
                Ok(reading) => {
                    self.read = stamp;
                    self.reading = Some(reading);
                }
                Err(error) => {
                    // Once more when it will have been as it is for as long again.
                    self.seen.1 = now;
                    tracing::error!("no thread to read geo.database on: {error}");
                }
            }
        }
        None
    }

    fn take(&mut self, database: &GeoDatabase, set: GeoSet) -> Arc<GeoSet> {
        let networks = set.networks().len();
        self.built_unix_s = database.built_unix_s;
        self.figures.built_unix_s.store(database.built_unix_s, Ordering::Relaxed);
        self.figures.networks.store(networks as u64, Ordering::Relaxed);
        self.figures.loaded.fetch_add(1, Ordering::Relaxed);
        tracing::info!(
            kind = database.kind,
            age_days = database.age_s(wall_ms() / 1000) / DAY_S,
            networks,
            "countries: database {} in force",
            self.path.display()
        );
        if database.is_v4_only {
            tracing::warn!("geo.database knows no IPv6: all of its addresses count as unknown");
        }
        for country in unheard_of(&set) {
            tracing::warn!("geo.database has no network in {country}: is that the country's code?");
        }
        Arc::new(set)
    }

    fn warn_of_age(&mut self, now: Instant) {
        let max_days = u64::from(self.geo.max_age_days);
        let age_days = (wall_ms() / 1000).saturating_sub(self.built_unix_s) / DAY_S;
        let is_due = self.warned.is_none_or(|at| now.saturating_duration_since(at) >= WARN_EVERY);
        if max_days > 0 && age_days > max_days && is_due {
            self.warned = Some(now);
            tracing::warn!(
                "geo.database is {age_days} days old (geo.max_age_days = {max_days}): networks have moved since; put a new \
                 file in place of {}",
                self.path.display()
            );
        }
    }
}

/// Reads the database and puts the rules to it.
///
/// # Errors
/// As [`GeoDatabase::read`].
pub fn load(geo: &Geo, path: &std::path::Path) -> anyhow::Result<(GeoDatabase, GeoSet)> {
    let rules = rules(geo).context("neither geo.allow nor geo.block names countries")?;
    let mut database = GeoDatabase::read(path)?;
    let set = GeoSet::new(std::mem::take(&mut database.networks), rules);
    if let Err(error) = gate_table(&set) {
        tracing::warn!("{error}");
    }
    Ok((database, set))
}

/// Countries of the rules that the database does not know.
fn unheard_of(set: &GeoSet) -> Vec<bondgate_auth::geo::Country> {
    let (CountryRule::Allow(named) | CountryRule::Block(named)) = &set.rules().countries;
    named
        .iter()
        .copied()
        .filter(|country| !set.networks().iter().any(|(_, known)| known == *country))
        .collect()
}

#[cfg(test)]
mod tests;
