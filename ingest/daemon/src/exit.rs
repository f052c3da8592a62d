//! How the process ends: the exit codes, which are stable, and the one message that goes with a failure.

use std::fmt;
use std::process::ExitCode;

use crate::config::ConfigError;

/// The exit codes, as `--help` shows them.
pub const EXIT_CODES_HELP: &str = "\
Exit codes:
  0   success
  1   failure while running (port in use, network, file system, demo verdict)
  2   wrong usage of the command line
  3   the policy says no (policy test)
  78  invalid configuration (file, environment or --set)";

/// Exit codes of every command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// Failed while running.
    Runtime = 1,
    /// Wrong command line.
    Usage = 2,
    /// The policy says no.
    Refused = 3,
    /// Invalid configuration; `EX_CONFIG` of sysexits.h.
    Config = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command failed: the exit code and what to print on stderr.
#[derive(Debug)]
pub struct Failure {
    /// Code the process ends with.
    pub exit: Exit,
    /// What went wrong, where, and what to do; may have several lines.
    pub message: String,
}

impl Failure {
    /// A failure while running.
    pub fn runtime(message: impl Into<String>) -> Self {
        Self { exit: Exit::Runtime, message: message.into() }
    }

    /// A wrong command line.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, message: message.into() }
    }

    /// A configuration that does not do.
    pub fn config(message: impl Into<String>) -> Self {
        Self { exit: Exit::Config, message: message.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        let count = error.problems.len();
        let title = if count == 1 { "invalid configuration" } else { "invalid configuration, all problems" };
        Self { exit: Exit::Config, message: format!("{title}:\n{error}") }
    }
}

impl From<anyhow::Error> for Failure {
    /// Shows the whole chain of causes on one line. A failure that was carried through as an error stays what it was.
    fn from(error: anyhow::Error) -> Self {
        error.downcast::<Self>().unwrap_or_else(|error| Self::runtime(format!("{error:#}")))
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::runtime(error.to_string())
    }
}
