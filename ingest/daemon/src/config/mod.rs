//! The configuration: read from a file, the environment and flags, checked as a whole, handed on as plain values.
//!
//! Stages: [`raw`] (what was typed, with its place; unknown keys refused) → [`resolved`] (types, ranges and the checks
//! of [`validate`]; all problems reported at once). Precedence: built-in defaults < file < `BONDGATE__SECTION__KEY` <
//! `BONDGATE_LOG` < `--set` and other flags.

pub mod cidr;
pub mod error;
pub mod keys;
pub mod raw;
pub mod resolved;
#[cfg(test)]
mod tests;
pub mod validate;
pub mod value;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

pub use cidr::Cidr;
pub use error::{ConfigError, Place, Problem};
pub use resolved::{
    Admin, AuthMode, BackendChoice, Config, Forward, Gate, GateAttach, GateMode, Geo, Keys, Log, LogFormat,
    OnDetach, Output, OutputMode, PlayChoice, Relay, Runtime, Srt, Srtla, SteeringChoice, Streams,
    StrengthChoice, UnknownChoice,
};

use keys::{KEYS, Key, Taken};
use raw::Raw;

/// Where a configuration comes from.
#[derive(Clone, Debug)]
pub struct Sources {
    /// Configuration file, if any.
    pub file: Option<PathBuf>,
    /// The process environment, or what stands for it in a test.
    pub env: Vec<(String, String)>,
    /// Flags: how the flag was called (`--set`, `--log-level`) and the `section.key=value` it stands for.
    pub flags: Vec<(&'static str, String)>,
    /// Cores this process may use.
    pub cores: usize,
}

impl Sources {
    /// The environment and cores of this process.
    pub fn of_process(file: Option<PathBuf>, flags: Vec<(&'static str, String)>) -> Self {
        let env = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self { file, env, flags, cores }
    }

    fn variable(&self, name: &str) -> Option<&str> {
        self.env.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }
}

/// A configuration that passed every check.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The values in force.
    pub config: Config,
    /// Things that work but are probably not meant.
    pub warnings: Vec<Problem>,
    /// Where values were typed.
    places: HashMap<&'static str, Place>,
    cores: usize,
}

impl Loaded {
    /// Where the value of a key was typed.
    pub fn place(&self, key: &str) -> Place {
        self.places.get(key).cloned().unwrap_or(Place::Default)
    }

    /// What becomes of it in a process that runs with `running`: keys that cannot be taken up keep the value they have there.
    ///
    /// # Errors
    /// Both together do not make a valid configuration.
    pub fn beside(&mut self, running: &Config) -> Result<Changed, ConfigError> {
        let mut running = running.clone();
        let mut changed = Changed::default();
        for key in KEYS {
            match key.taken {
                Taken::Live if key.copy(&mut self.config, &mut running) => changed.live.push(key.path),
                Taken::Start if key.copy(&mut running, &mut self.config) => changed.waiting.push(key.path),
                Taken::Live | Taken::Start => {}
            }
        }
        let mut problems = Vec::new();
        if !changed.waiting.is_empty() {
            problems = validate::validate(&self.config, self.cores, |key| self.place(key)).problems;
            for problem in &mut problems {
                problem.help = format!("restart bondgate, which {} needs", changed.waiting.join(", "));
            }
        }
        if problems.is_empty() { Ok(changed) } else { Err(ConfigError { problems }) }
    }
}

/// The keys, by path, in which a configuration differs from the one in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Those that are taken up.
    pub live: Vec<&'static str>,
    /// Those that wait for a restart.
    pub waiting: Vec<&'static str>,
}

/// Files that are looked for, in this order, when none is named.
pub const DEFAULT_FILES: [&str; 2] = ["bondgate.toml", "/etc/bondgate/bondgate.toml"];

/// The first of [`DEFAULT_FILES`] that exists.
pub fn find_file() -> Option<PathBuf> {
    DEFAULT_FILES.iter().map(Path::new).find(|path| path.exists()).map(Path::to_owned)
}

/// Reads, resolves and checks a configuration.
///
/// # Errors
/// Everything that is wrong with any of the sources.
pub fn load(sources: &Sources) -> Result<Loaded, ConfigError> {
    let mut raw = Raw::default();
    if let Some(directory) = sources.variable("STATE_DIRECTORY").and_then(|all| all.split(':').next()) {
        // systemd's own variable, the weakest source: it only replaces the default.
        raw.read_text(Place::Env("STATE_DIRECTORY".into()), "runtime.state_dir", directory, |key| {
            key.path.into()
        });
    }
    if let Some(file) = &sources.file {
        raw.read_file(file);
    }
    raw.read_env(sources.env.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    if let Some(level) = sources.variable("BONDGATE_LOG") {
        raw.read_text(Place::Env("BONDGATE_LOG".into()), "log.level", level, |key| key.path.into());
    }
    for (flag, assignment) in &sources.flags {
        raw.read_flag(flag, assignment);
    }
    resolve(raw, sources.cores)
}

/// The second stage: types, ranges, and the checks across keys.
///
/// # Errors
/// Everything that is wrong, with what was already wrong in `raw`.
pub fn resolve(raw: Raw, cores: usize) -> Result<Loaded, ConfigError> {
    let Raw { assignments, mut problems, incomplete } = raw;
    let mut config = Config::default();
    let mut places: HashMap<&'static str, Place> = HashMap::new();
    for assignment in assignments {
        match assignment.key.assign(&mut config, &assignment.value) {
            Ok(()) => {
                places.insert(assignment.key.path, assignment.place);
            }
            Err(message) => problems.push(Problem {
                place: assignment.place,
                key: assignment.key.path.to_owned(),
                message,
                help: String::new(),
            }),
        }
    }
    // A value that could not be taken left its default behind; checks across keys would then talk nonsense about it.
    let refused: Vec<String> = problems.iter().map(|problem| problem.key.clone()).collect();
    let findings =
        validate::validate(&config, cores, |key| places.get(key).cloned().unwrap_or(Place::Default));
    if !incomplete {
        problems.extend(findings.problems.into_iter().filter(|problem| !refused.contains(&problem.key)));
    }
    // File problems by line, then the environment, then flags.
    problems.sort_by(|a, b| a.place.cmp(&b.place));
    if problems.is_empty() {
        Ok(Loaded { config, warnings: findings.warnings, places, cores })
    } else {
        Err(ConfigError { problems })
    }
}

/// The configuration as a TOML file, every key once, without comments.
pub fn effective(config: &Config) -> String {
    let mut text = String::new();
    let mut section = "";
    for key in KEYS {
        if key.section() != section {
            if !section.is_empty() {
                text.push('\n');
            }
            section = key.section();
            let _ = writeln!(text, "[{section}]");
        }
        let _ = writeln!(text, "{} = {}", key.name(), key.literal(config));
    }
    text
}

/// The commented manual of all keys, with the built-in defaults as values.
pub const MANUAL: &str = include_str!("../../../../configs/default.toml");

/// The manual with `chosen` keys set and every other key commented out, so that later defaults can reach it.
pub fn manual_with(chosen: &[(&'static Key, String)]) -> String {
    let mut section = "";
    let mut text = String::new();
    for line in MANUAL.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name;
        }
        let key = line.split_once(" = ").and_then(|(name, _)| Key::find(&format!("{section}.{name}")));
        let literal = key.and_then(|key| chosen.iter().find(|(chosen, _)| chosen.path == key.path));
        let _ = match (key, literal) {
            (Some(key), Some((_, literal))) => writeln!(text, "{} = {literal}", key.name()),
            (Some(_), None) => writeln!(text, "# {line}"),
            (None, _) => writeln!(text, "{line}"),
        };
    }
    text
}
