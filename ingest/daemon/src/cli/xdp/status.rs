//! `bondgate xdp status`.

use std::fmt::Write as _;

use bondgate_auth::keyring::hex;
use bondgate_ebpf::{Counters, Gate, GateError, features};
use bondgate_ebpf_common::abi::List;
use bondgate_ebpf_common::reason::Action;
use serde_json::{Value, json};

use super::{Context, to_json};
use crate::cli::present::{document, table};
use crate::cli::print;
use crate::exit::Failure;

pub(super) fn run(context: &Context) -> Result<(), Failure> {
    let pinned = match Gate::pinned(&context.pin_dir) {
        Ok(pinned) => pinned,
        Err(error @ GateError::NotThere(_)) => return nothing(&error, context),
        Err(error) => return Err(error.into()),
    };
    // Of another layout only where it is attached can be said.
    let gate = if pinned.is_readable { Some(Gate::open_pinned(&context.pin_dir)?) } else { None };
    let figures = match &gate {
        Some(gate) => Some((gate.generation()?, gate.counters()?, gate.fill(), gate.links()?.len())),
        None => None,
    };
    if context.json {
        let mut status = json!({
            "there": true,
            "version": pinned.info.version,
            "object_sha256": hex(&pinned.info.object),
            "own": pinned.is_own,
            "readable": pinned.is_readable,
            "attachments": pinned.attachments.iter().map(to_json).collect::<Vec<_>>(),
        });
        if let (Some((generation, counters, fill, links)), Value::Object(status)) = (&figures, &mut status) {
            status.insert("generation".into(), json!(generation));
            status.insert("filled".into(), json!(*generation != 0));
            status.insert("counters".into(), counters_json(counters));
            let lists: serde_json::Map<String, Value> = List::ALL
                .iter()
                .map(|list| (list_name(*list).into(), json!(fill.lists[*list as usize])))
                .collect();
            status.insert("entries".into(), json!({ "links": links, "bans": fill.bans, "lists": lists }));
        }
        return print(&document(&status));
    }
    let version = if pinned.is_own {
        "this version"
    } else {
        "another version; `bondgate xdp replace` puts this one in its place"
    };
    let mut text = format!("gate of bondgate {} ({version})\n\n", pinned.info.version);
    let rows = pinned.attachments.iter().map(|attachment| {
        let state = match (attachment.is_alive, attachment.is_current) {
            (false, _) => "interface is gone",
            (true, true) => "attached",
            (true, false) => "attached, an older program",
        };
        [attachment.interface.clone(), attachment.mode.name().to_owned(), state.to_owned()]
    });
    text += &table(["INTERFACE", "MODE", "STATE"], rows);
    if let Some((generation, counters, fill, links)) = &figures {
        if *generation == 0 {
            text += "\nno daemon has filled it yet: everything passes\n";
        }
        let _ =
            writeln!(text, "\npolicy generation {generation}, links {links}, banned addresses {}", fill.bans);
        for list in List::ALL {
            let _ = write!(text, "{} {}  ", list_name(list), fill.lists[list as usize]);
        }
        text += "\n\n";
        let rows = counters.reasons.iter().filter(|(_, count)| count.packets != 0).map(|(reason, count)| {
            let action = match reason.action() {
                Action::Pass => "pass",
                Action::Drop => "drop",
            };
            [reason.name().to_owned(), action.to_owned(), count.packets.to_string(), count.bytes.to_string()]
        });
        text += &table(["REASON", "VERDICT", "PACKETS", "BYTES"], rows);
    }
    print(&text)
}

fn list_name(list: List) -> &'static str {
    match list {
        List::Bans => "banned networks",
        List::Allow => "allowed networks",
        List::Geo => "networks by country",
        List::StockAllow => "networks without a key",
    }
}

/// The counters as scripts read them.
pub(super) fn counters_json(counters: &Counters) -> Value {
    let reasons: serde_json::Map<String, Value> = counters
        .reasons
        .iter()
        .map(|(reason, count)| {
            (reason.name().to_owned(), json!({ "packets": count.packets, "bytes": count.bytes }))
        })
        .collect();
    json!({
        "reasons": reasons,
        "events": counters.events,
        "events_over_budget": counters.events_over_budget,
        "events_lost": counters.events_lost,
    })
}

/// There is none: says so, and whether there could be one.
fn nothing(error: &GateError, context: &Context) -> Result<(), Failure> {
    let mut missing: Vec<String> = features::missing_to_load().iter().map(ToString::to_string).collect();
    if !features::is_on_bpf_fs(&context.pin_dir) {
        missing.push(format!(
            "no BPF file system at {} yet; `bondgate xdp attach` mounts one",
            context.pin_dir.display()
        ));
    }
    if context.json {
        return print(&document(&json!({
            "there": false, "missing": missing, "kernel_btf": features::has_kernel_btf(),
        })));
    }
    let mut text = format!("{error}\n");
    for missing in missing {
        let _ = writeln!(text, "{missing}");
    }
    print(&text)
}
