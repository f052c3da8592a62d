//! `bondgate xdp detach`.

use bondgate_ebpf::Gate;
use serde_json::json;

use super::Context;
use super::args::DetachArgs;
use crate::cli::present::document;
use crate::cli::print;
use crate::exit::Failure;

pub(super) fn run(args: &DetachArgs, context: &Context) -> Result<(), Failure> {
    let detached = Gate::detach(&context.pin_dir, args.interface.as_deref())?;
    if context.json {
        print(&document(&json!({ "detached": detached })))?;
    }
    if detached.is_empty() {
        eprintln!("it was attached nowhere; what was pinned is removed");
    }
    for interface in detached {
        eprintln!("{interface}: detached");
    }
    Ok(())
}
