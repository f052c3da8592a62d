//! The metric catalogue: one row per metric with its meaning and where its figures come from. The exporter and
//! `docs/metrics.md` are both made from it.
//!
//! Promises: names are a contract (`bondgate_` prefix, base units, `_total` on counters); labels are bounded (shard,
//! reason, stream name, link index), never an address.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Instant;

use super::config_watch::ConfigStatus;
use super::gate::GateSnapshot;
use crate::shard::snapshot::{PathStats, ShardSnapshot, StreamStats};

/// What one scrape sees.
#[derive(Debug)]
pub struct Scrape {
    /// All shards.
    pub shards: Vec<ShardSnapshot>,
    /// The moment of the scrape.
    pub now: Instant,
    /// Start of the process, in seconds since 1970.
    pub started_unix_s: f64,
    /// Ports are bound, shards turn.
    pub ready: bool,
    /// A stop was asked for.
    pub draining: bool,
    /// Bans in force, by origin.
    pub bans: Vec<(&'static str, u64)>,
    /// Times the bans could not be read or written.
    pub ban_failures: u64,
    /// Links the kernel steers.
    pub steered_links: usize,
    /// The database of countries, if there is one.
    pub geo: Option<GeoScrape>,
    /// The configuration in force.
    pub config: ConfigStatus,
    /// The gate, while there is one.
    pub gate: Option<GateSnapshot>,
}

/// What one scrape sees of the database of countries.
#[derive(Clone, Copy, Debug)]
pub struct GeoScrape {
    /// Its age.
    pub age_s: u64,
    /// Its networks.
    pub networks: u64,
    /// Databases taken, and refused, since start.
    pub reloads: [(&'static str, u64); 2],
}

/// Counter or gauge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows; starts again at 0 with the process (or with its stream, where it has a stream label).
    Counter,
    /// A state.
    Gauge,
}

/// One metric.
#[derive(Debug)]
pub struct Metric {
    /// Full name as exposed, with `_total` for counters.
    pub name: &'static str,
    /// Counter or gauge.
    pub kind: Kind,
    /// Names of the labels.
    pub labels: &'static [&'static str],
    /// Meaning, one sentence.
    pub help: &'static str,
    fill: fn(&Scrape, &mut Samples),
}

/// Values of one metric by their labels' values.
#[derive(Debug)]
pub struct Samples {
    kind: Kind,
    values: BTreeMap<Vec<String>, Number>,
}

/// A value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    /// Of a counter.
    Count(u64),
    /// Of a gauge.
    Level(f64),
}

impl Samples {
    /// Counts of one label set add up (two groups of one stream, shards); of states the greatest stands.
    fn put(&mut self, labels: Vec<String>, value: f64) {
        let slot = self.values.entry(labels).or_insert(Number::Level(f64::MIN));
        if let Number::Level(level) = slot {
            *level = level.max(value);
        }
    }

    fn count(&mut self, labels: Vec<String>, value: u64) {
        let slot = self.values.entry(labels).or_insert(Number::Count(0));
        if let Number::Count(count) = slot {
            *count = count.saturating_add(value);
        }
    }

    fn any(&mut self, labels: Vec<String>, value: u64) {
        match self.kind {
            Kind::Counter => self.count(labels, value),
            Kind::Gauge => self.put(labels, value as f64),
        }
    }
}

impl Metric {
    /// The values of this metric, in the order of the labels' values.
    pub fn samples(&self, scrape: &Scrape) -> BTreeMap<Vec<String>, Number> {
        let mut samples = Samples { kind: self.kind, values: BTreeMap::new() };
        (self.fill)(scrape, &mut samples);
        samples.values
    }
}

fn per_shard(scrape: &Scrape, samples: &mut Samples, figure: impl Fn(&ShardSnapshot) -> u64) {
    for shard in &scrape.shards {
        samples.any(vec![shard.shard.to_string()], figure(shard));
    }
}

fn per_stream(scrape: &Scrape, samples: &mut Samples, figure: impl Fn(&StreamStats) -> u64) {
    for stream in scrape.shards.iter().flat_map(|shard| &shard.streams) {
        samples.any(vec![stream.name.clone()], figure(stream));
    }
}

/// Milliseconds or microseconds as seconds.
fn per_stream_seconds(scrape: &Scrape, samples: &mut Samples, figure: impl Fn(&StreamStats) -> (u64, f64)) {
    for stream in scrape.shards.iter().flat_map(|shard| &shard.streams) {
        let (value, units_per_second) = figure(stream);
        samples.put(vec![stream.name.clone()], value as f64 / units_per_second);
    }
}

fn per_link(scrape: &Scrape, samples: &mut Samples, figure: impl Fn(&PathStats) -> u64) {
    for path in scrape.shards.iter().flat_map(|shard| &shard.paths) {
        samples.any(vec![path.stream.clone(), path.index.to_string()], figure(path));
    }
}

fn by_reason(samples: &mut Samples, prefix: &[String], reasons: &[(&'static str, u64)]) {
    for (reason, count) in reasons {
        let mut labels = prefix.to_vec();
        labels.push((*reason).to_owned());
        samples.count(labels, *count);
    }
}

/// Datagrams that no verdict accounts for.
fn unaccounted(shard: &ShardSnapshot) -> u64 {
    let srtla = &shard.srtla;
    let dropped: u64 = srtla.dropped.iter().map(|(_, count)| count).sum();
    let accounted =
        srtla.forwarded + srtla.fanned_out + srtla.to_link + srtla.consumed + srtla.handed_off + dropped;
    (srtla.received + srtla.taken_over).abs_diff(accounted)
}

const NONE: &[&str] = &[];
const SHARD: &[&str] = &["shard"];
const STREAM: &[&str] = &["stream"];
const LINK: &[&str] = &["stream", "link"];

const fn counter(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
    fill: fn(&Scrape, &mut Samples),
) -> Metric {
    Metric { name, kind: Kind::Counter, labels, help, fill }
}

const fn gauge(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
    fill: fn(&Scrape, &mut Samples),
) -> Metric {
    Metric { name, kind: Kind::Gauge, labels, help, fill }
}

/// All metrics, in the order they are exposed.
pub static CATALOGUE: &[Metric] = &[
    gauge("bondgate_build_info", &["version"], "Always 1; the label names the running version.", |_, out| {
        out.put(vec![env!("CARGO_PKG_VERSION").to_owned()], 1.0);
    }),
    gauge(
        "bondgate_start_time_seconds",
        NONE,
        "Start of the process, in seconds since 1970.",
        |scrape, out| {
            out.put(vec![], scrape.started_unix_s);
        },
    ),
    gauge(
        "bondgate_ready",
        NONE,
        "1 while streams are served, 0 while starting or stopping.",
        |scrape, out| {
            out.put(vec![], f64::from(u8::from(scrape.ready && !scrape.draining)));
        },
    ),
    // Configuration
    gauge(
        "bondgate_config_generation",
        NONE,
        "Configurations that were in force since start; goes up when a changed file is taken up.",
        |scrape, out| out.put(vec![], scrape.config.generation as f64),
    ),
    gauge(
        "bondgate_config_read_timestamp_seconds",
        NONE,
        "When the configuration in force was read, in seconds since 1970.",
        |scrape, out| out.put(vec![], scrape.config.read_ms as f64 / 1e3),
    ),
    counter(
        "bondgate_config_reloads_total",
        &["result"],
        "Times the configuration file was read again: ok, or refused, when what was in force stays and the log says why.",
        |scrape, out| {
            let config = &scrape.config;
            by_reason(out, &[], &[("ok", config.taken), ("refused", config.refused)]);
        },
    ),
    gauge(
        "bondgate_config_problems",
        NONE,
        "What is wrong with the configuration file as it is now; 0 while it is in force.",
        |scrape, out| out.put(vec![], scrape.config.problems.len() as f64),
    ),
    gauge(
        "bondgate_config_keys_awaiting_restart",
        NONE,
        "Keys that have another value in the file than in force, because they need a restart.",
        |scrape, out| out.put(vec![], scrape.config.needs_restart.len() as f64),
    ),
    // Shards
    gauge(
        "bondgate_shard_info",
        &["shard", "backend"],
        "Always 1; the labels name the backend of a shard.",
        |scrape, out| {
            for shard in &scrape.shards {
                out.put(vec![shard.shard.to_string(), shard.backend.to_owned()], 1.0);
            }
        },
    ),
    gauge(
        "bondgate_shard_heartbeat_age_seconds",
        SHARD,
        "Time since the shard last published its figures; absent before the first time.",
        |scrape, out| {
            for shard in &scrape.shards {
                if let Some(taken) = shard.taken {
                    let age = scrape.now.saturating_duration_since(taken).as_secs_f64();
                    out.put(vec![shard.shard.to_string()], age);
                }
            }
        },
    ),
    counter("bondgate_shard_turns_total", SHARD, "Turns of the packet loop.", |scrape, out| {
        per_shard(scrape, out, |shard| shard.turns);
    }),
    // Sockets
    counter("bondgate_rx_datagrams_total", SHARD, "UDP datagrams received.", |scrape, out| {
        per_shard(scrape, out, |shard| shard.io.rx_datagrams);
    }),
    counter("bondgate_rx_bytes_total", SHARD, "UDP payload bytes received.", |scrape, out| {
        per_shard(scrape, out, |shard| shard.io.rx_bytes);
    }),
    counter("bondgate_tx_datagrams_total", SHARD, "UDP datagrams sent.", |scrape, out| {
        per_shard(scrape, out, |shard| shard.io.tx_datagrams);
    }),
    counter("bondgate_tx_bytes_total", SHARD, "UDP payload bytes sent.", |scrape, out| {
        per_shard(scrape, out, |shard| shard.io.tx_bytes);
    }),
    counter(
        "bondgate_gso_sends_total",
        SHARD,
        "Sends that carried several datagrams at once (UDP segmentation offload).",
        |scrape, out| per_shard(scrape, out, |shard| shard.io.gso_sends),
    ),
    counter(
        "bondgate_wakes_total",
        SHARD,
        "Turns of the packet loop that another thread ended early: orders of the control thread, datagrams handed over. Datagrams received per turn tell how well batching works.",
        |scrape, out| per_shard(scrape, out, |shard| shard.io.wakes),
    ),
    counter(
        "bondgate_rx_overflow_datagrams_total",
        SHARD,
        "Datagrams the kernel dropped because a receive buffer was full: raise runtime.socket_buffer_bytes and net.core.rmem_max.",
        |scrape, out| per_shard(scrape, out, |shard| shard.io.rx_overflow_datagrams),
    ),
    counter(
        "bondgate_tx_dropped_datagrams_total",
        SHARD,
        "Datagrams that could not be sent because the socket would not take them.",
        |scrape, out| per_shard(scrape, out, |shard| shard.io.tx_dropped_datagrams),
    ),
    // SRTLA
    counter(
        "bondgate_registrations_total",
        &["shard", "event"],
        "Registration, by what was done: reg1_answered, ngp_sent and joined for senders without a key; challenged (M2), rechallenged, \
         confirmed (M4), refused and moved for devices; strike for failures held against an address. What was not \
         answered is in bondgate_srtla_dropped_datagrams_total.",
        |scrape, out| {
            for shard in &scrape.shards {
                by_reason(out, &[shard.shard.to_string()], &shard.srtla.registration);
            }
        },
    ),
    gauge(
        "bondgate_groups_on_probation",
        SHARD,
        "Groups that may only shake hands, because the stream they want is not accepted yet.",
        |scrape, out| {
            per_shard(scrape, out, |shard| shard.present.groups_on_probation);
        },
    ),
    gauge("bondgate_device_keys", NONE, "Device keys that are valid now.", |scrape, out| {
        for shard in &scrape.shards {
            out.put(vec![], shard.device_keys as f64);
        }
    }),
    gauge("bondgate_bans", &["origin"], "Networks that are banned, by who banned them.", |scrape, out| {
        for (origin, count) in &scrape.bans {
            out.put(vec![(*origin).to_owned()], *count as f64);
        }
    }),
    counter(
        "bondgate_ban_file_failures_total",
        NONE,
        "Times bans.json could not be read or written; what was in force stays, and the log says why.",
        |scrape, out| out.count(vec![], scrape.ban_failures),
    ),
    gauge(
        "bondgate_geo_database_age_seconds",
        NONE,
        "Time since geo.database was made; absent without one.",
        |scrape, out| {
            if let Some(geo) = scrape.geo {
                out.put(vec![], geo.age_s as f64);
            }
        },
    ),
    gauge(
        "bondgate_geo_networks",
        NONE,
        "Networks of which geo.database knows the country, neighbours of one country counted as one.",
        |scrape, out| {
            if let Some(geo) = scrape.geo {
                out.put(vec![], geo.networks as f64);
            }
        },
    ),
    counter(
        "bondgate_geo_loads_total",
        &["result"],
        "Times geo.database was read: ok, or refused, when the one before stays in force and the log says why.",
        |scrape, out| {
            for (result, count) in scrape.geo.iter().flat_map(|geo| geo.reloads) {
                out.count(vec![result.to_owned()], count);
            }
        },
    ),
    counter(
        "bondgate_srtla_received_datagrams_total",
        SHARD,
        "Datagrams from the network that the SRTLA receiver looked at.",
        |s, out| {
            per_shard(s, out, |shard| shard.srtla.received);
        },
    ),
    counter(
        "bondgate_srtla_forwarded_datagrams_total",
        SHARD,
        "SRT datagrams passed on towards the SRT side.",
        |scrape, out| per_shard(scrape, out, |shard| shard.srtla.forwarded),
    ),
    counter(
        "bondgate_srtla_fanned_out_datagrams_total",
        SHARD,
        "SRT datagrams sent back on all live links of a group (ACK, NAK).",
        |scrape, out| per_shard(scrape, out, |shard| shard.srtla.fanned_out),
    ),
    counter(
        "bondgate_srtla_to_link_datagrams_total",
        SHARD,
        "Datagrams sent back on one link (keepalive echoes, other SRT control).",
        |scrape, out| per_shard(scrape, out, |shard| shard.srtla.to_link),
    ),
    counter(
        "bondgate_srtla_consumed_datagrams_total",
        SHARD,
        "SRTLA control datagrams that ended in the receiver (registration).",
        |scrape, out| per_shard(scrape, out, |shard| shard.srtla.consumed),
    ),
    counter(
        "bondgate_handoff_datagrams_total",
        &["shard", "result"],
        "Datagrams of links by where they came in: on_owner on the shard that holds their group; handed_off on another one, \
         which passed them on; taken_over from another one. What could not be passed on is in \
         bondgate_srtla_dropped_datagrams_total (hand_off_full).",
        |scrape, out| {
            for shard in &scrape.shards {
                let srtla = &shard.srtla;
                let results = [
                    ("on_owner", srtla.on_owner),
                    ("handed_off", srtla.handed_off),
                    ("taken_over", srtla.taken_over),
                ];
                by_reason(out, &[shard.shard.to_string()], &results);
            }
        },
    ),
    gauge(
        "bondgate_steered_links",
        NONE,
        "Links whose datagrams the kernel passes to the shard that holds their group; 0 while it does not steer.",
        |scrape, out| {
            out.put(vec![], scrape.steered_links as f64);
        },
    ),
    counter(
        "bondgate_srtla_dropped_datagrams_total",
        &["shard", "reason"],
        "Datagrams discarded, by reason.",
        |scrape, out| {
            for shard in &scrape.shards {
                by_reason(out, &[shard.shard.to_string()], &shard.srtla.dropped);
            }
        },
    ),
    gauge(
        "bondgate_srtla_unaccounted_datagrams",
        SHARD,
        "Received minus all verdicts and drops; anything but 0 is a bug.",
        |scrape, out| per_shard(scrape, out, unaccounted),
    ),
    gauge("bondgate_groups", SHARD, "SRTLA groups at present.", |scrape, out| {
        per_shard(scrape, out, |shard| shard.present.groups);
    }),
    gauge("bondgate_links", SHARD, "Links of all groups at present.", |scrape, out| {
        per_shard(scrape, out, |shard| shard.present.links);
    }),
    gauge("bondgate_links_live", SHARD, "Links heard within the last three seconds.", |scrape, out| {
        per_shard(scrape, out, |shard| shard.present.links_live);
    }),
    counter(
        "bondgate_link_rx_datagrams_total",
        LINK,
        "Datagrams received on a link of a stream; the stream is empty until it is known.",
        |scrape, out| per_link(scrape, out, |link| link.rx_datagrams),
    ),
    counter("bondgate_link_rx_bytes_total", LINK, "Bytes received on a link of a stream.", |scrape, out| {
        per_link(scrape, out, |link| link.rx_bytes);
    }),
    gauge(
        "bondgate_link_live",
        LINK,
        "1 while the link was heard within the last three seconds.",
        |s, out| {
            per_link(s, out, |link| u64::from(link.live));
        },
    ),
    // Streams of the relay
    gauge("bondgate_stream_up", STREAM, "1 while the stream has a publisher.", |scrape, out| {
        per_stream(scrape, out, |stream| u64::from(stream.publishing));
    }),
    gauge("bondgate_stream_bonded", STREAM, "1 while the publisher comes by SRTLA.", |scrape, out| {
        per_stream(scrape, out, |stream| u64::from(stream.bonded));
    }),
    gauge("bondgate_stream_players", STREAM, "Players of the stream.", |scrape, out| {
        per_stream(scrape, out, |stream| stream.players as u64);
    }),
    counter("bondgate_stream_rx_datagrams_total", STREAM, "SRT data packets received.", |scrape, out| {
        per_stream(scrape, out, |stream| stream.rx_datagrams);
    }),
    counter("bondgate_stream_rx_bytes_total", STREAM, "SRT payload bytes received.", |scrape, out| {
        per_stream(scrape, out, |stream| stream.rx_bytes);
    }),
    counter(
        "bondgate_stream_lost_datagrams_total",
        STREAM,
        "SRT data packets that were missing when others had overtaken them for longer than the reorder hold.",
        |scrape, out| per_stream(scrape, out, |stream| stream.lost_datagrams),
    ),
    counter(
        "bondgate_stream_recovered_datagrams_total",
        STREAM,
        "Lost packets that arrived in time after all.",
        |scrape, out| per_stream(scrape, out, |stream| stream.recovered_datagrams),
    ),
    counter(
        "bondgate_stream_dropped_datagrams_total",
        STREAM,
        "Packets that never arrived in time: the picture has a gap.",
        |scrape, out| per_stream(scrape, out, |stream| stream.dropped_datagrams),
    ),
    counter(
        "bondgate_stream_player_overflow_datagrams_total",
        STREAM,
        "Payloads that players were too slow to take, over all players of the stream.",
        |scrape, out| per_stream(scrape, out, |stream| stream.player_overflow_datagrams),
    ),
    counter(
        "bondgate_stream_retransmitted_datagrams_total",
        STREAM,
        "Packets received that were marked as retransmitted.",
        |scrape, out| per_stream(scrape, out, |stream| stream.retransmitted_datagrams),
    ),
    gauge(
        "bondgate_stream_rtt_seconds",
        STREAM,
        "Smoothed round-trip time to the publisher.",
        |scrape, out| {
            per_stream_seconds(scrape, out, |stream| (stream.rtt_us, 1e6));
        },
    ),
    gauge(
        "bondgate_stream_latency_seconds",
        STREAM,
        "SRT latency agreed with the publisher.",
        |scrape, out| {
            per_stream_seconds(scrape, out, |stream| (stream.latency_ms, 1e3));
        },
    ),
    gauge(
        "bondgate_stream_reorder_hold_seconds",
        STREAM,
        "How long a gap is held open before a retransmission is asked for, measured from the spread between links.",
        |scrape, out| per_stream_seconds(scrape, out, |stream| (stream.reorder_hold_ms, 1e3)),
    ),
    counter(
        "bondgate_srt_dropped_datagrams_total",
        &["shard", "reason"],
        "Handshakes at the SRT port that were met with silence, by reason.",
        |scrape, out| {
            for shard in &scrape.shards {
                by_reason(out, &[shard.shard.to_string()], &shard.srt_dropped);
            }
        },
    ),
    counter(
        "bondgate_rejections_total",
        &["reason"],
        "SRT connections refused, by reason.",
        |scrape, out| {
            for shard in &scrape.shards {
                by_reason(out, &[], &shard.rejections);
            }
        },
    ),
    // Gate
    gauge(
        "bondgate_gate_attached",
        &["interface", "mode"],
        "1 for each interface the XDP gate is attached to, native or generic; absent without a gate.",
        |scrape, out| {
            for (interface, mode) in scrape.gate.iter().flat_map(|gate| &gate.interfaces) {
                out.put(vec![interface.clone(), mode.name().to_owned()], 1.0);
            }
        },
    ),
    counter(
        "bondgate_gate_packets_total",
        &["reason"],
        "Frames the gate has judged, by reason. It counts on over restarts of the daemon.",
        |scrape, out| {
            for (reason, count) in scrape.gate.iter().flat_map(|gate| &gate.counters.reasons) {
                out.count(vec![reason.name().to_owned()], count.packets);
            }
        },
    ),
    counter(
        "bondgate_gate_bytes_total",
        &["reason"],
        "Bytes of these frames, with the link layer.",
        |scrape, out| {
            for (reason, count) in scrape.gate.iter().flat_map(|gate| &gate.counters.reasons) {
                out.count(vec![reason.name().to_owned()], count.bytes);
            }
        },
    ),
    counter(
        "bondgate_gate_events_total",
        &["result"],
        "Sampled frames for `bondgate xdp top`: written, over_budget, and lost because nobody reads them.",
        |scrape, out| {
            if let Some(gate) = &scrape.gate {
                let counters = &gate.counters;
                let results = [
                    ("written", counters.events),
                    ("over_budget", counters.events_over_budget),
                    ("lost", counters.events_lost),
                ];
                by_reason(out, &[], &results);
            }
        },
    ),
    gauge(
        "bondgate_gate_entries",
        &["map"],
        "Entries in the gate's maps: links, bans (addresses), and the lists ban_networks, allow, geo and stock_allow.",
        |scrape, out| {
            if let Some(gate) = &scrape.gate {
                let names = ["ban_networks", "allow", "geo", "stock_allow"];
                let lists = names.into_iter().zip(gate.fill.lists);
                for (map, entries) in
                    [("links", gate.links), ("bans", gate.fill.bans)].into_iter().chain(lists)
                {
                    out.put(vec![map.to_owned()], entries as f64);
                }
            }
        },
    ),
    gauge(
        "bondgate_gate_in_step",
        NONE,
        "1 while the gate's maps hold the policy in force, 0 while they do not: the log says why.",
        |scrape, out| {
            if let Some(gate) = &scrape.gate {
                out.put(vec![], f64::from(u8::from(gate.is_in_step)));
            }
        },
    ),
];

/// The catalogue as the page `docs/metrics.md`.
pub fn manual() -> String {
    let mut page = String::from(
        "# Metrics\n\n\
         `GET /metrics` on `admin.listen` answers in the OpenMetrics text format. Names and labels are a contract: they \
         change only with a note in the changelog. This page is generated from the catalogue in the source; do not edit \
         it by hand (`BLESS=1 cargo test -p bondgate --lib catalogue` writes it anew).\n\n\
         Counters start at 0 with the process; those with a `stream` label start again when the stream, or the group that \
         carries it, does. `link` is the small number of a link within its group. No label ever holds an address.\n\n\
         | name | type | labels | meaning |\n|---|---|---|---|\n",
    );
    for metric in CATALOGUE {
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        let _ = writeln!(page, "| `{}` | {kind} | {} | {} |", metric.name, labels.join(", "), metric.help);
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_conventions() {
        for metric in CATALOGUE {
            assert!(metric.name.starts_with("bondgate_"), "{}", metric.name);
            assert_eq!(metric.kind == Kind::Counter, metric.name.ends_with("_total"), "{}", metric.name);
            assert!(metric.help.ends_with('.') || metric.help.contains(':'), "{}", metric.name);
            let same_name = CATALOGUE.iter().filter(|other| other.name == metric.name).count();
            assert_eq!(same_name, 1, "{}", metric.name);
        }
    }

    #[test]
    fn catalogue_page_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/metrics.md");
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(path, manual()).unwrap();
        }
        let page = std::fs::read_to_string(path).unwrap();
        assert!(page == manual(), "docs/metrics.md is stale: BLESS=1 cargo test -p bondgate --lib catalogue");
    }
}
