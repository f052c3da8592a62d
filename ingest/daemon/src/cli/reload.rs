//! `bondgate reload`: a running daemon reads its configuration file again, and says what came of it.

use std::fmt::Write as _;
use std::time::Duration;

use clap::Args;

use super::args::GlobalArgs;
use super::keyring_args::KeyringArgs;
use super::{admin, print};
use crate::control::config_watch::ConfigStatus;
use crate::exit::Failure;

/// How long the daemon is waited for.
const ASK_WITHIN: Duration = Duration::from_secs(12);

/// `bondgate reload`.
#[derive(Args, Clone, Debug)]
pub struct ReloadArgs {
    /// Which daemon, and how to answer.
    #[command(flatten)]
    pub common: KeyringArgs,
}

/// Asks, and prints what is in force.
///
/// # Errors
/// Nobody answers at `admin.listen`, or the file is refused.
pub fn run(args: &ReloadArgs, global: &GlobalArgs) -> Result<(), Failure> {
    let config = args.common.config(global)?;
    let Some(listen) = config.admin.listen else {
        return Err(Failure::runtime(
            "admin.listen is \"off\", so the daemon cannot be asked: send it SIGHUP, and read its log",
        ));
    };
    let (code, body) = admin::ask(listen, "POST", "/reload", ASK_WITHIN).map_err(|error| {
        Failure::runtime(format!("no bondgate answers at admin.listen = \"{listen}\": {error}"))
    })?;
    let Ok(status) = serde_json::from_str::<ConfigStatus>(&body) else {
        return Err(Failure::runtime(format!("{listen} answers {code}: {}", body.trim())));
    };
    if args.common.json {
        print(&format!("{body}\n"))?;
    } else if status.problems.is_empty() {
        print(&text(&status))?;
    }
    if status.problems.is_empty() {
        return Ok(());
    }
    Err(Failure::config(format!("refused, what was in force stays:\n{}", status.problems.join("\n"))))
}

fn text(status: &ConfigStatus) -> String {
    let file = status.file.as_deref().unwrap_or_default();
    let mut text = format!("{file} is in force, generation {}\n", status.generation);
    if !status.changed.is_empty() {
        let _ = writeln!(text, "last change: {}", status.changed.join(", "));
    }
    if !status.needs_restart.is_empty() {
        let _ = writeln!(text, "needs a restart: {}", status.needs_restart.join(", "));
    }
    text
}
