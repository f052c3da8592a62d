//! Logs: by `tracing`, to stderr; one readable line per event on a terminal, one JSON object per event otherwise.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

/// Starts logging for the whole process. A second call changes nothing.
pub fn init(log: &Log) {
    let terminal = std::io::stderr().is_terminal();
    let human = match log.format {
        LogFormat::Auto => terminal,
        LogFormat::Human => true,
        LogFormat::Json => false,
    };
    // The level was checked with the configuration; what is left of it never stops the process.
    let filter = EnvFilter::try_new(&log.level).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let color = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let result = if human {
        builder.with_target(false).with_ansi(color).try_init()
    } else {
        builder.json().flatten_event(true).with_ansi(false).try_init()
    };
    if result.is_err() {
        tracing::debug!("logging was already started");
    }
}
