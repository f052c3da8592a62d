//! The command line: reads it, loads the configuration a command needs, and ends with a stable exit code.
//!
//! One file per subcommand. stdout carries a command's data, stderr its logs and its one error message.

pub mod admin;
pub mod args;
pub mod ban;
pub mod check_config;
pub mod demo;
pub mod device;
pub mod generate;
pub mod geo;
pub mod init;
pub mod key;
pub mod keyring_args;
pub mod policy;
pub mod present;
pub mod reload;
pub mod run;
pub mod send;
pub mod token;
pub mod version;
pub mod xdp;

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use crate::config::{self, Loaded, Sources};
use crate::control::stamp::Stamp;
use crate::exit::{Exit, Failure};
use crate::logging;
use args::{Cli, Command, GlobalArgs};

/// The whole program. Returns the code the process ends with.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let exit = match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Exit::Ok,
                _ => Exit::Usage,
            };
            // A closed pipe (`bondgate --help | head`) is not worth a word.
            drop(error.print());
            return exit.into();
        }
    };
    match dispatch(cli) {
        Ok(()) => Exit::Ok.into(),
        Err(failure) => {
            eprintln!("bondgate: {failure}");
            failure.exit.into()
        }
    }
}

fn dispatch(cli: Cli) -> Result<(), Failure> {
    let global = cli.global;
    match cli.command {
        Command::Run(args) => {
            let file = args.config.or_else(config::find_file);
            let sources = Sources::of_process(file.clone(), global.overrides());
            // Before it is read: what changes from now on is seen.
            let stamp = file.as_deref().map_or(Stamp::NONE, Stamp::of);
            let loaded = config::load(&sources)?;
            logging::init(&loaded.config.log);
            if let Some(path) = &file {
                tracing::info!(file = %path.display(), "configuration read");
            } else {
                let looked_for = config::DEFAULT_FILES.join(", ");
                tracing::info!("no configuration file ({looked_for}): built-in defaults");
            }
            for warning in &loaded.warnings {
                tracing::warn!("{warning}");
            }
            run::run((sources, stamp), &loaded.config, args.accept_open_ingest)
        }
        Command::Send(args) => {
            logging::init(&load(&global, None)?.config.log);
            send::run(&args)
        }
        Command::Demo(args) => {
            logging::init(&load(&global, None)?.config.log);
            demo::run(&args)
        }
        Command::CheckConfig(args) => check_config::run(&args, &global),
        Command::Init(args) => init::run(&args),
        Command::Device(args) => device::run(&args, &global),
        Command::Key(args) => key::run(&args, &global),
        Command::Token(args) => token::run(&args, &global),
        Command::Ban(args) => ban::run(&args, &global),
        Command::Geo(args) => geo::run(&args, &global),
        Command::Xdp(args) => xdp::run(&args, &global),
        Command::Policy(args) => policy::run(&args, &global),
        Command::Reload(args) => reload::run(&args, &global),
        Command::Completions(args) => generate::completions(&args),
        Command::Man(args) => generate::man(&args),
        Command::Version(args) => version::run(&args),
    }
}

/// Loads the configuration with this process's environment and flags.
fn load(global: &GlobalArgs, file: Option<std::path::PathBuf>) -> Result<Loaded, Failure> {
    Ok(config::load(&Sources::of_process(file, global.overrides()))?)
}

/// Writes a command's data to stdout. A reader that went away early is no failure.
fn print(text: &str) -> Result<(), Failure> {
    use std::io::Write;
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::runtime(format!("cannot write to stdout: {error}")))
        }
        _ => Ok(()),
    }
}
