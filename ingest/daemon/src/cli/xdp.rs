//! `bondgate xdp`: attaches, shows, replaces and detaches the gate.
//!
//! Nothing here writes a policy: a gate that no daemon has filled lets everything pass, and a running daemon takes over one that
//! was attached beside it.

pub mod args;
mod attach;
mod detach;
mod replace;
mod status;
mod top;

use std::path::PathBuf;

use bondgate_ebpf::{Attachment, GateError};
use serde_json::{Value, json};

use super::args::GlobalArgs;
use crate::config::{self, Config};
use crate::exit::Failure;
use args::{XdpArgs, XdpCommand};

/// Does what the subcommand says.
///
/// # Errors
/// Missing rights, nothing there, or the kernel refuses; the message says which and what to do.
pub fn run(args: &XdpArgs, global: &GlobalArgs) -> Result<(), Failure> {
    let file = args.config.clone().or_else(config::find_file);
    let config = super::load(global, file)?.config;
    let context = Context { pin_dir: config.gate.pin_dir.clone(), config, json: args.json };
    match &args.command {
        XdpCommand::Attach(attach) => attach::run(attach, &context),
        XdpCommand::Detach(detach) => detach::run(detach, &context),
        XdpCommand::Status => status::run(&context),
        XdpCommand::Replace => replace::run(&context),
        XdpCommand::Top(top) => top::run(top, &context),
    }
}

/// What all of them need.
struct Context {
    config: Config,
    pin_dir: PathBuf,
    json: bool,
}

impl From<GateError> for Failure {
    fn from(error: GateError) -> Self {
        Self::runtime(error.to_string())
    }
}

fn to_json(attachment: &Attachment) -> Value {
    json!({
        "interface": attachment.interface,
        "mode": attachment.mode.name(),
        "program_id": attachment.program_id,
        "alive": attachment.is_alive,
        "current": attachment.is_current,
    })
}
