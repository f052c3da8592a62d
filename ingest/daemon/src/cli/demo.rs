//! `bondgate demo`.

use std::time::Duration;

use super::args::DemoArgs;
use crate::control::signals::Signals;
use crate::demo::{self, Options};
use crate::exit::Failure;

/// Runs the demo and turns its verdict into an exit code.
///
/// # Errors
/// When it cannot be set up, or the stream did not arrive complete.
pub fn run(args: &DemoArgs) -> Result<(), Failure> {
    let signals =
        Signals::install().map_err(|error| Failure::runtime(format!("cannot handle signals: {error}")))?;
    let options = Options {
        keep: args.keep,
        length: Duration::from_secs(args.seconds),
        backend: args.backend,
        use_ffmpeg: !args.no_ffmpeg,
        plain: args.plain,
    };
    let verdict = demo::run(&options, &signals.flag())?;
    if verdict.is_pass() {
        return Ok(());
    }
    let why = verdict.cut_short.unwrap_or_else(|| "the stream did not arrive complete".to_owned());
    Err(Failure::runtime(format!("demo failed: {why}; see the verdict")))
}
