//! `bondgate xdp replace`.

use bondgate_ebpf::Gate;
use serde_json::json;

use super::{Context, to_json};
use crate::cli::present::document;
use crate::cli::print;
use crate::exit::Failure;

pub(super) fn run(context: &Context) -> Result<(), Failure> {
    let keeps_maps = Gate::pinned(&context.pin_dir)?.is_readable;
    let attachments = Gate::replace(&context.pin_dir)?;
    for attachment in &attachments {
        eprintln!("{}: replaced, {} mode", attachment.interface, attachment.mode);
    }
    if !keeps_maps {
        eprintln!(
            "the maps are new too, for this version's are others: everything passes until a daemon of this version fills them"
        );
    }
    if context.json {
        let attachments: Vec<_> = attachments.iter().map(to_json).collect();
        print(&document(&json!({ "attachments": attachments, "kept_maps": keeps_maps })))?;
    }
    Ok(())
}
