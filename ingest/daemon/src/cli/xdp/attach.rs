//! `bondgate xdp attach`.

use bondgate_ebpf::{Gate, Mode, Wanted};
use serde_json::json;

use super::Context;
use super::args::AttachArgs;
use crate::cli::present::document;
use crate::cli::print;
use crate::config::GateMode;
use crate::exit::Failure;

pub(super) fn run(args: &AttachArgs, context: &Context) -> Result<(), Failure> {
    let interfaces =
        if args.interfaces.is_empty() { &context.config.gate.interfaces } else { &args.interfaces };
    if interfaces.is_empty() {
        return Err(Failure::usage("which interface? Name it, or set gate.interfaces in the configuration"));
    }
    let wanted = match args.mode.unwrap_or(context.config.gate.mode) {
        GateMode::Auto => Wanted::Auto,
        GateMode::Native => Wanted::Exactly(Mode::Native),
        GateMode::Generic => Wanted::Exactly(Mode::Generic),
    };
    let mut gate = Gate::open(&context.pin_dir)?;
    let mut done = Vec::new();
    for interface in interfaces {
        let attached = gate.attach(interface, wanted)?;
        let how = if attached.was_attached { "is attached already" } else { "attached" };
        eprintln!("{interface}: {how}, {} mode", attached.mode);
        if let Some(why) = &attached.fallback {
            eprintln!("{interface}: not native, which would be faster: {why}");
        }
        done.push(json!({
            "interface": interface, "mode": attached.mode.name(), "was_attached": attached.was_attached,
            "fallback": attached.fallback,
        }));
    }
    if gate.generation()? == 0 {
        eprintln!(
            "everything passes until `bondgate run` fills the gate; one that is running does so by itself"
        );
    }
    if context.json { print(&document(&json!({ "attached": done }))) } else { Ok(()) }
}
