//! `bondgate xdp top`.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::IsTerminal;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use bondgate_ebpf::{Counters, Events, Gate, GateError};
use bondgate_ebpf_common::reason::{Action, Reason};
use serde_json::{Value, json};

use super::Context;
use super::args::TopArgs;
use crate::cli::present::{document, table};
use crate::cli::print;
use crate::control::signals::Signals;
use crate::exit::Failure;

/// How often samples are taken from the ring, so that it does not fill up.
const DRAIN_EVERY: Duration = Duration::from_millis(20);

/// Frames that samples stand for, by source.
type Sources = HashMap<IpAddr, HashMap<Reason, u64>>;

pub(super) fn run(args: &TopArgs, context: &Context) -> Result<(), Failure> {
    let signals =
        Signals::install().map_err(|error| Failure::runtime(format!("cannot handle signals: {error}")))?;
    let mut gate = Gate::open_pinned(&context.pin_dir)?;
    let mut events = gate.events()?;
    // What lay in the ring is of another time.
    events.by_ref().for_each(drop);
    let interval = Duration::from_secs_f64(args.interval);
    let mut before = (gate.counters()?, Instant::now());
    while !signals.stop_requested() {
        let mut sources = Sources::new();
        let until = before.1 + interval;
        while Instant::now() < until && !signals.stop_requested() {
            std::thread::sleep(DRAIN_EVERY.min(until.saturating_duration_since(Instant::now())));
            collect(&mut events, &mut sources);
        }
        if !gate.is_current() {
            return Err(GateError::NotThere(context.pin_dir.clone()).into());
        }
        let now = (gate.counters()?, Instant::now());
        let picture = Picture::new(&before, &now, &sources, args.sources);
        if context.json {
            print(&document(&picture.to_json()))?;
        } else {
            let clear = if args.once || !std::io::stdout().is_terminal() { "" } else { "\x1b[H\x1b[2J" };
            print(&format!("{clear}{}", picture.to_text()))?;
        }
        if args.once {
            break;
        }
        before = now;
    }
    Ok(())
}

fn collect(events: &mut Events, sources: &mut Sources) {
    for seen in events.by_ref().filter(|seen| !seen.source.is_unspecified()) {
        *sources.entry(seen.source).or_default().entry(seen.reason).or_default() += u64::from(seen.weight);
    }
}

/// One interval.
struct Picture {
    rates: Vec<(Reason, f64, f64)>,
    sources: Vec<(IpAddr, f64, Reason)>,
    /// Samples that are missing from the sources.
    lost: u64,
}

impl Picture {
    fn new(before: &(Counters, Instant), now: &(Counters, Instant), sources: &Sources, most: usize) -> Self {
        let seconds = (now.1 - before.1).as_secs_f64().max(0.001);
        let rates = before.0.reasons.iter().zip(&now.0.reasons).map(|((reason, old), (_, new))| {
            let rate = |old: u64, new: u64| new.saturating_sub(old) as f64 / seconds;
            (*reason, rate(old.packets, new.packets), rate(old.bytes, new.bytes))
        });
        let mut sources: Vec<_> = sources
            .iter()
            .filter_map(|(source, by_reason)| {
                let (most_of, _) = by_reason.iter().max_by_key(|(_, frames)| **frames)?;
                Some((*source, by_reason.values().sum::<u64>() as f64 / seconds, *most_of))
            })
            .collect();
        sources.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        sources.truncate(most);
        let missed = |counters: &Counters| counters.events_over_budget + counters.events_lost;
        Self { rates: rates.collect(), sources, lost: missed(&now.0).saturating_sub(missed(&before.0)) }
    }

    fn total(&self, action: Action) -> f64 {
        self.rates
            .iter()
            .filter(|(reason, ..)| reason.action() == action)
            .map(|(_, packets, _)| packets)
            .sum()
    }

    fn to_text(&self) -> String {
        let mut text = format!(
            "passed {:.0}/s, dropped {:.0}/s\n\n",
            self.total(Action::Pass),
            self.total(Action::Drop)
        );
        let rows =
            self.rates.iter().filter(|(_, packets, _)| *packets > 0.0).map(|(reason, packets, bytes)| {
                [
                    reason.name().to_owned(),
                    if reason.action() == Action::Pass { "pass" } else { "drop" }.to_owned(),
                    format!("{packets:.0}"),
                    format!("{:.3}", bytes * 8.0 / 1e6),
                ]
            });
        text += &table(["REASON", "VERDICT", "PACKETS/S", "MBIT/S"], rows);
        let rows = self.sources.iter().map(|(source, packets, reason)| {
            [source.to_string(), format!("{packets:.0}"), reason.name().to_owned()]
        });
        text += "\nbusiest sources, by samples\n";
        text += &table(["SOURCE", "PACKETS/S", "MOSTLY"], rows);
        if self.lost != 0 {
            let _ = writeln!(
                text,
                "{} samples were left out: the shares are right, the rates too low",
                self.lost
            );
        }
        text
    }

    fn to_json(&self) -> Value {
        let rates: serde_json::Map<String, Value> = self
            .rates
            .iter()
            .map(|(reason, packets, bytes)| {
                (reason.name().to_owned(), json!({ "packets_per_s": packets, "bytes_per_s": bytes }))
            })
            .collect();
        let sources: Vec<Value> = self
            .sources
            .iter()
            .map(|(source, packets, reason)| {
                json!({ "source": source.to_string(), "packets_per_s": packets, "mostly": reason.name() })
            })
            .collect();
        json!({
            "passed_per_s": self.total(Action::Pass), "dropped_per_s": self.total(Action::Drop),
            "reasons": rates, "sources": sources, "samples_left_out": self.lost,
        })
    }
}
