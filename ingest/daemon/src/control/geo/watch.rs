//! Keeps the running daemon with the newest database of countries that can be read.
//!
//! [`GeoWatch::change`] takes up another section `[geo]`. Promises: a database that cannot be read changes nothing but the log
//! and a counter, what was in force stays; one that is being written is waited for; reading takes place on a thread of its own,
//! so that bans and revoked keys do not wait for it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use bondgate_auth::geo::{CountryRule, GeoSet};

use super::database::GeoDatabase;
use super::{gate_table, rules};
use crate::config::Geo;
use crate::control::catalogue::GeoScrape;
use crate::control::stamp::Stamp;
use crate::policy::wall_ms;

/// A changed file is read when it has not changed for this long.
const SETTLED: Duration = Duration::from_millis(500);
/// How often an old database is warned about.
const WARN_EVERY: Duration = Duration::from_secs(24 * 3600);
const DAY_S: u64 = 24 * 3600;

/// Figures for metrics. No networks: there is no database.
#[derive(Debug, Default)]
pub struct GeoFigures {
    /// When the database in force was made, in seconds since 1970.
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
        let networks = self.networks.load(Ordering::Relaxed);
        let count = |figure: &AtomicU64| figure.load(Ordering::Relaxed);
        (networks > 0).then(|| GeoScrape {
            age_s: now_unix_s.saturating_sub(built_unix_s),
            networks,
            reloads: [("ok", count(&self.loaded)), ("refused", count(&self.refused))],
        })
    }
}

/// A database that was read, with the rules put to it.
#[derive(Debug)]
pub struct Read {
    path: PathBuf,
    stamp: Stamp,
    database: GeoDatabase,
    set: GeoSet,
}

/// The countries of a running daemon.
#[derive(Debug)]
pub struct GeoWatch {
    geo: Geo,
    figures: Arc<GeoFigures>,
    /// While countries are asked for.
    open: Option<Open>,
}

/// A database that is watched.
#[derive(Debug)]
struct Open {
    path: PathBuf,
    set: Arc<GeoSet>,
    /// The file that was read last, well or not.
    read: Stamp,
    /// The file as it was seen last, and since when.
    seen: (Stamp, Instant),
    reading: Option<JoinHandle<anyhow::Result<Read>>>,
    built_unix_s: u64,
    warned: Option<Instant>,
}

impl GeoWatch {
    /// Reads the database, if countries are asked for, and makes the first set of it.
    ///
    /// # Errors
    /// It cannot be read; the message names the key and says what to do.
    pub fn start(geo: &Geo, figures: Arc<GeoFigures>, now: Instant) -> anyhow::Result<Self> {
        let mut watch = Self { geo: Geo::default(), figures, open: None };
        let read = watch.to_read(geo).map(|path| read(geo, &path)).transpose().context("geo.database")?;
        watch.change(geo, read, now);
        Ok(watch)
    }

    /// What is to be asked of addresses now.
    pub fn set(&self) -> Option<Arc<GeoSet>> {
        self.open.as_ref().map(|open| Arc::clone(&open.set))
    }

    /// The database that has to be read ([`read`]) before [`Self::change`] to another configuration.
    pub fn to_read(&self, geo: &Geo) -> Option<PathBuf> {
        let path = geo.database.clone().filter(|_| rules(geo).is_some())?;
        self.open.as_ref().is_none_or(|open| open.path != path).then_some(path)
    }

    /// Puts another configuration in force, and the database it needs, if one had to be read.
    pub fn change(&mut self, geo: &Geo, read: Option<Read>, now: Instant) {
        self.geo.clone_from(geo);
        let rules = rules(geo).filter(|_| geo.database.is_some());
        match (rules, read) {
            (None, _) => {
                self.open = None;
                self.figures.networks.store(0, Ordering::Relaxed);
            }
            (Some(_), Some(read)) => {
                let mut open = Open {
                    path: read.path.clone(),
                    set: Arc::new(read.set.clone()),
                    read: read.stamp,
                    seen: (read.stamp, now),
                    reading: None,
                    built_unix_s: 0,
                    warned: None,
                };
                open.take(read, &self.figures);
                self.open = Some(open);
            }
            (Some(rules), None) => {
                if let Some(open) = &mut self.open
                    && *open.set.rules() != rules
                {
                    open.set = Arc::new(open.set.with_rules(rules));
                    open.say_unheard_of();
                }
            }
        }
        self.warn_of_age(now);
    }

    /// Looks at the file; a new set when there is one to put in force. A look that finds nothing costs one system call.
    pub fn look(&mut self, now: Instant) -> Option<Arc<GeoSet>> {
        self.warn_of_age(now);
        let Self { geo, figures, open } = self;
        let open = open.as_mut()?;
        if let Some(reading) = open.reading.take_if(|reading| reading.is_finished()) {
            return match reading.join().unwrap_or_else(|_| Err(anyhow::anyhow!("reading it failed"))) {
                Ok(mut read) => {
                    open.warned = None;
                    // They may have changed meanwhile.
                    read.set = read.set.with_rules(open.set.rules().clone());
                    open.take(read, figures);
                    Some(Arc::clone(&open.set))
                }
                Err(error) => {
                    figures.refused.fetch_add(1, Ordering::Relaxed);
                    tracing::error!("a new geo.database is refused, the one in force stays: {error:#}");
                    None
                }
            };
        }
        let stamp = Stamp::of(&open.path);
        if stamp != open.seen.0 {
            open.seen = (stamp, now);
            if !stamp.exists() {
                tracing::warn!(
                    "geo.database is gone; what was read of it stays in force, but bondgate will not start without {}",
                    open.path.display()
                );
            }
        }
        let is_new = stamp.exists() && stamp != open.read;
        if is_new && open.reading.is_none() && now.saturating_duration_since(open.seen.1) >= SETTLED {
            match read_aside(geo, &open.path) {
                Ok(reading) => {
                    open.read = stamp;
                    open.reading = Some(reading);
                }
                Err(error) => {
                    // Once more when it will have been as it is for as long again.
                    open.seen.1 = now;
                    tracing::error!("no thread to read geo.database on: {error}");
                }
            }
        }
        None
    }

    fn warn_of_age(&mut self, now: Instant) {
        let Some(open) = &mut self.open else { return };
        let max_days = u64::from(self.geo.max_age_days);
        let age_days = (wall_ms() / 1000).saturating_sub(open.built_unix_s) / DAY_S;
        let is_due = open.warned.is_none_or(|at| now.saturating_duration_since(at) >= WARN_EVERY);
        if max_days > 0 && age_days > max_days && is_due {
            open.warned = Some(now);
            tracing::warn!(
                "geo.database is {age_days} days old (geo.max_age_days = {max_days}): networks have moved since; put a new \
                 file in place of {}",
                open.path.display()
            );
        }
    }
}

impl Open {
    fn take(&mut self, read: Read, figures: &GeoFigures) {
        let Read { database, set, .. } = read;
        let networks = set.networks().len();
        self.set = Arc::new(set);
        self.built_unix_s = database.built_unix_s;
        figures.built_unix_s.store(database.built_unix_s, Ordering::Relaxed);
        figures.networks.store(networks as u64, Ordering::Relaxed);
        figures.loaded.fetch_add(1, Ordering::Relaxed);
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
        self.say_unheard_of();
    }

    fn say_unheard_of(&self) {
        for country in unheard_of(&self.set) {
            tracing::warn!("geo.database has no network in {country}: is that the country's code?");
        }
    }
}

/// Reads a database for [`GeoWatch::change`].
///
/// # Errors
/// As [`load`].
pub fn read(geo: &Geo, path: &Path) -> anyhow::Result<Read> {
    let stamp = Stamp::of(path);
    let (database, set) = load(geo, path)?;
    Ok(Read { path: path.to_owned(), stamp, database, set })
}

/// [`read`] on a thread of its own.
///
/// # Errors
/// There is no thread to be had.
pub fn read_aside(geo: &Geo, path: &Path) -> io::Result<JoinHandle<anyhow::Result<Read>>> {
    let (geo, path) = (geo.clone(), path.to_owned());
    std::thread::Builder::new().name("geo".to_owned()).spawn(move || read(&geo, &path))
}

/// Reads the database and puts the rules to it.
///
/// # Errors
/// As [`GeoDatabase::read`].
pub fn load(geo: &Geo, path: &Path) -> anyhow::Result<(GeoDatabase, GeoSet)> {
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
