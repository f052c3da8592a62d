//! The running daemon's bans: takes up what `bondgate ban` writes, turns proven failures into bans, and publishes both.
//!
//! Promises: a file that cannot be read changes nothing but the log, the bans that were in force stay; a ban for failures is
//! in force at the next look and on disk within a second; a flood of failures costs one published policy per look.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::file::BansFile;
use super::ladder::Ladder;
use super::list::{BanList, Origin, Record};
use super::text;
use crate::config::Config;
use crate::config::resolved::Bans;
use crate::control::stamp::Stamp;
use crate::policy::{Policy, wall_ms};
use crate::service::Service;

/// How long bans for failures wait to be written together.
const WRITE_EVERY: Duration = Duration::from_secs(1);

/// Figures for the metrics.
#[derive(Debug, Default)]
pub struct BanFigures {
    /// Bans in force when the list last changed, by [`Origin::ALL`].
    pub in_force: [AtomicU64; Origin::ALL.len()],
    /// Times the file could not be read or written since start.
    pub failures: AtomicU64,
}

/// The bans of a running daemon.
pub struct BanWatch {
    rules: Bans,
    file: Option<BansFile>,
    stamp: Option<Stamp>,
    list: BanList,
    ladder: Ladder,
    /// Made here and not yet on disk.
    unwritten: Vec<Record>,
    write_at: Option<Instant>,
    is_new: bool,
    figures: Arc<BanFigures>,
}

impl BanWatch {
    /// Reads the bans.
    ///
    /// # Errors
    /// The file exists and cannot be read; the message says what to do.
    pub fn start(config: &Config) -> anyhow::Result<Self> {
        let file = BansFile::of(config);
        let stamp = file.as_ref().map(BansFile::stamp);
        let list = file.as_ref().map_or_else(|| Ok(BanList::default()), BansFile::load)?;
        let watch = Self {
            rules: config.bans.clone(),
            file,
            stamp,
            list,
            ladder: Ladder::default(),
            unwritten: Vec::new(),
            write_at: None,
            is_new: false,
            figures: Arc::default(),
        };
        watch.count(wall_ms());
        Ok(watch)
    }

    /// A policy with the bans in force now.
    pub fn apply(&self, policy: &Policy) -> Policy {
        policy.with_bans(self.list.compile(wall_ms()))
    }

    /// Failures are judged by these rules from now on; bans there are stay.
    pub fn set_rules(&mut self, rules: &Bans) {
        self.rules.clone_from(rules);
    }

    /// What the metrics show.
    pub fn figures(&self) -> Arc<BanFigures> {
        Arc::clone(&self.figures)
    }

    /// A proven failure.
    pub fn strike(&mut self, ip: IpAddr) {
        if !self.rules.automatic {
            return;
        }
        let now_ms = wall_ms();
        let Some(record) = self.ladder.strike(ip, now_ms, &self.rules, &self.list) else { return };
        let term_s = record.until_ms.map_or(0, |until_ms| until_ms.saturating_sub(now_ms) / 1000);
        tracing::warn!(
            "banned: addr={} for_s={term_s} times={}",
            text::network(record.network),
            record.times
        );
        if self.list.put(record.clone()).is_ok() {
            self.unwritten.push(record);
            self.is_new = true;
        }
    }

    /// Takes up what has changed and publishes it. A look that finds nothing costs two system calls.
    pub fn look(&mut self, service: &Service) {
        self.read_again();
        if std::mem::take(&mut self.is_new) {
            service.publish(self.apply(&service.policy()));
            self.count(wall_ms());
        }
        self.write();
    }

    fn read_again(&mut self) {
        let Some(file) = &self.file else { return };
        let stamp = Some(file.stamp());
        if stamp == self.stamp {
            return;
        }
        self.stamp = stamp;
        match file.load() {
            Ok(mut list) => {
                for record in &self.unwritten {
                    // What is too many now is refused when it is written.
                    let _ = list.put(record.clone());
                }
                if list != self.list {
                    tracing::info!(bans = list.len(), "bans read again");
                    self.list = list;
                    self.is_new = true;
                }
            }
            Err(error) => {
                self.figures.failures.fetch_add(1, Ordering::Relaxed);
                tracing::error!(
                    "the bans have changed and cannot be read; what was in force stays: {error:#}"
                );
            }
        }
    }

    /// Writes down what was made here, now and then.
    fn write(&mut self) {
        let Some(file) = &self.file else {
            self.unwritten.clear();
            return;
        };
        if self.unwritten.is_empty() || self.write_at.is_some_and(|at| Instant::now() < at) {
            return;
        }
        self.write_at = Some(Instant::now() + WRITE_EVERY);
        let (made, quiet_ms) = (&self.unwritten, self.rules.max_s.saturating_mul(1000));
        let written = file.update(|list| {
            list.prune(wall_ms(), quiet_ms);
            for record in made {
                list.put(record.clone())?;
            }
            Ok(())
        });
        match written {
            Ok(()) => self.unwritten.clear(),
            Err(error) => {
                self.figures.failures.fetch_add(1, Ordering::Relaxed);
                tracing::error!("bans for failures are in force but cannot be written down: {error:#}");
            }
        }
    }

    /// Writes down at once what is not on disk yet. For the end.
    pub fn finish(mut self) {
        self.write_at = None;
        self.write();
    }

    fn count(&self, now_ms: u64) {
        for (origin, figure) in Origin::ALL.into_iter().zip(&self.figures.in_force) {
            let count = self
                .list
                .iter()
                .filter(|record| record.origin == origin && record.is_in_force(now_ms))
                .count();
            figure.store(count as u64, Ordering::Relaxed);
        }
    }
}
