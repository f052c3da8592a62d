//! Takes up what is changed in the configuration file while bondgate runs.
//!
//! The file is looked at as the keyring and the bans are; SIGHUP and `bondgate reload` ask for it. It is read from the same
//! sources, by the same code and under the same checks as at start. Promises: a configuration is taken up as a whole or not at
//! all; one that is refused changes nothing but the log, the metrics and the status; a file that is being written is waited for,
//! and one that is gone or empty is not taken for the defaults; keys that need a restart are named and not applied.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::geo::watch::{GeoWatch, Read, read_aside};
use super::stamp::Stamp;
use crate::config::{self, AuthMode, Changed, Config, ConfigError, Loaded, Place, Problem, Sources};
use crate::policy::wall_ms;

/// A changed file is read when it has not changed for this long.
pub const SETTLED: Duration = Duration::from_millis(15);

/// What there is to know about the configuration of a running daemon.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ConfigStatus {
    /// The file; none if bondgate was started without.
    pub file: Option<String>,
    /// Goes up by one with each configuration that changes something; 1 at start.
    pub generation: u64,
    /// When what is in force was read, in milliseconds since 1970.
    pub read_ms: u64,
    /// Times the file was read again and taken up, or nothing of it was new.
    pub taken: u64,
    /// Times it was refused.
    pub refused: u64,
    /// What is wrong with the file as it is now; empty if it is in force.
    pub problems: Vec<String>,
    /// Keys that have another value in the file, and need a restart.
    pub needs_restart: Vec<String>,
    /// Keys that were taken up the last time something was.
    pub changed: Vec<String>,
    /// The last request that was answered, see [`ConfigState::ask`].
    #[serde(skip)]
    pub answered: u64,
}

/// Where the status is published, and where it is asked to look again.
#[derive(Debug, Default)]
pub struct ConfigState {
    asked: AtomicU64,
    status: Mutex<ConfigStatus>,
}

impl ConfigState {
    /// The status.
    pub fn read(&self) -> ConfigStatus {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks to read the file again, changed or not. It is done when the status says that this number was answered.
    pub fn ask(&self) -> u64 {
        self.asked.fetch_add(1, Ordering::AcqRel) + 1
    }

    fn update(&self, change: impl FnOnce(&mut ConfigStatus)) {
        change(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// A configuration to put in force.
#[derive(Debug)]
pub struct Change {
    /// The configuration; keys that need a restart have their old values.
    pub config: Config,
    /// The database of countries it needs, if that had to be read.
    pub countries: Option<Read>,
}

/// The configuration of a running daemon.
#[derive(Debug)]
pub struct ConfigWatch {
    sources: Sources,
    accept_open_ingest: bool,
    running: Config,
    /// The file that was read last, well or not.
    read: Stamp,
    /// The file as it was seen last, and since when.
    seen: (Stamp, Instant),
    /// It is to be read, changed or not.
    is_asked: bool,
    /// A configuration whose database of countries is being read.
    waiting: Option<(Loaded, Changed, JoinHandle<Result<Read>>)>,
    answers: u64,
    state: Arc<ConfigState>,
}

impl ConfigWatch {
    /// Begins with the configuration in force, which was loaded from `sources` when the file had this stamp or a later one.
    pub fn start(
        (sources, read): (Sources, Stamp),
        running: Config,
        accept_open_ingest: bool,
        now: Instant,
    ) -> Self {
        let state = Arc::<ConfigState>::default();
        state.update(|status| {
            status.file = sources.file.as_deref().map(|path| path.display().to_string());
            status.generation = 1;
            status.read_ms = wall_ms();
        });
        Self {
            sources,
            accept_open_ingest,
            running,
            read,
            seen: (read, now),
            is_asked: false,
            waiting: None,
            answers: 0,
            state,
        }
    }

    /// What is published.
    pub fn state(&self) -> Arc<ConfigState> {
        Arc::clone(&self.state)
    }

    /// The file has changed, and will be read as soon as it does not any more: it is worth to look again after [`SETTLED`].
    pub fn is_waiting(&self) -> bool {
        self.sources.file.is_some() && (self.is_asked || (self.seen.0.exists() && self.seen.0 != self.read))
    }

    /// Looks at the file; a configuration when there is one to put in force. `is_asked`: read it, changed or not. A look that
    /// finds nothing costs one system call.
    pub fn look(&mut self, now: Instant, is_asked: bool, geo: &GeoWatch) -> Option<Change> {
        let asked = self.state.asked.load(Ordering::Acquire);
        if is_asked || asked != self.answers {
            self.answers = asked;
            self.is_asked = true;
        }
        let Some(path) = self.sources.file.clone() else {
            if std::mem::take(&mut self.is_asked) {
                self.refuse(vec!["bondgate was started without a configuration file".to_owned()]);
            }
            return None;
        };
        let stamp = Stamp::of(&path);
        if stamp != self.seen.0 {
            self.seen = (stamp, now);
            if !stamp.exists() {
                self.is_asked = true;
            }
        }
        if self.is_waiting() && now.saturating_duration_since(self.seen.1) >= SETTLED {
            self.is_asked = false;
            // Another one has come meanwhile.
            self.waiting = None;
            return self.read_again(&path, now, geo);
        }
        let (loaded, changed, reading) = self.waiting.take_if(|(_, _, reading)| reading.is_finished())?;
        match reading.join().unwrap_or_else(|_| Err(anyhow::anyhow!("reading it failed"))) {
            Ok(read) => self.take(loaded, changed, Some(read)),
            Err(error) => {
                let problem = Problem {
                    place: loaded.place("geo.database"),
                    key: "geo.database".to_owned(),
                    message: format!("{error:#}"),
                    help: String::new(),
                };
                self.refuse(vec![problem.to_string()]);
                None
            }
        }
    }

    fn read_again(&mut self, path: &Path, now: Instant, geo: &GeoWatch) -> Option<Change> {
        let result = self.load(path);
        let stamp = Stamp::of(path);
        if stamp != self.seen.0 {
            // Whoever changes it is at it again.
            self.seen = (stamp, now);
            self.is_asked = true;
            return None;
        }
        self.read = stamp;
        let (loaded, changed) = match result {
            Ok(read) => read,
            Err(error) => {
                self.refuse(error.problems.iter().map(ToString::to_string).collect());
                return None;
            }
        };
        let Some(database) = geo.to_read(&loaded.config.geo) else {
            return self.take(loaded, changed, None);
        };
        match read_aside(&loaded.config.geo, &database) {
            Ok(reading) => self.waiting = Some((loaded, changed, reading)),
            Err(error) => self.refuse(vec![format!("no thread to read geo.database on: {error}")]),
        }
        None
    }

    fn load(&self, path: &Path) -> Result<(Loaded, Changed), ConfigError> {
        if std::fs::metadata(path).is_ok_and(|meta| meta.len() == 0) {
            let place = Place::File { path: path.to_owned(), line: 0, column: 0 };
            let (key, message) = (String::new(), "the file is empty".to_owned());
            let help = "if the defaults are meant, write a comment into it".to_owned();
            return Err(ConfigError { problems: vec![Problem { place, key, message, help }] });
        }
        let mut loaded = config::load(&self.sources)?;
        if let Err(message) = check_open_ingest(&loaded.config, self.accept_open_ingest) {
            let (place, key) = (loaded.place("srtla.auth"), "srtla.auth".to_owned());
            let problem = Problem { place, key, message: message.to_owned(), help: String::new() };
            return Err(ConfigError { problems: vec![problem] });
        }
        let changed = loaded.beside(&self.running)?;
        Ok((loaded, changed))
    }

    fn take(&mut self, loaded: Loaded, changed: Changed, countries: Option<Read>) -> Option<Change> {
        for warning in &loaded.warnings {
            tracing::warn!("{warning}");
        }
        let is_new = !changed.live.is_empty();
        let generation = self.state.read().generation + u64::from(is_new);
        if is_new {
            tracing::info!(generation, "configuration read again, taken up: {}", changed.live.join(", "));
        } else {
            tracing::info!(generation, "configuration read again, nothing to take up");
        }
        if !changed.waiting.is_empty() {
            tracing::warn!("needs a restart: {}", changed.waiting.join(", "));
        }
        self.running.clone_from(&loaded.config);
        let owned = |paths: Vec<&str>| paths.into_iter().map(str::to_owned).collect();
        self.state.update(|status| {
            status.generation = generation;
            status.read_ms = wall_ms();
            status.taken += 1;
            status.problems.clear();
            status.needs_restart = owned(changed.waiting);
            if is_new {
                status.changed = owned(changed.live);
            } else {
                status.answered = self.answers;
            }
        });
        is_new.then_some(Change { config: loaded.config, countries })
    }

    /// What [`Self::look`] gave is in force now.
    pub fn is_in_force(&self) {
        self.state.update(|status| status.answered = self.answers);
    }

    fn refuse(&self, problems: Vec<String>) {
        for problem in &problems {
            tracing::error!("configuration refused, what was in force stays: {problem}");
        }
        self.state.update(|status| {
            status.refused += 1;
            status.problems = problems;
            status.answered = self.answers;
        });
    }
}

/// What `open` wants besides.
///
/// # Errors
/// It is `open`, and nobody has accepted that.
pub fn check_open_ingest(config: &Config, accepted: bool) -> Result<(), &'static str> {
    if config.srtla.auth == AuthMode::Open && !accepted {
        return Err(
            "srtla.auth is \"open\": everybody could register and publish. If that is meant, start with \
             --accept-open-ingest; else set srtla.auth = \"required\" or \"mixed\"",
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests;
