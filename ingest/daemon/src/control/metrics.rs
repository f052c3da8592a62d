//! The exporter: renders the catalogue for the published snapshots, in the `OpenMetrics` text format.

use std::fmt;
use std::sync::atomic::Ordering;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::ServiceState;
use super::bans::Origin;
use super::catalogue::{CATALOGUE, Kind, Number, Scrape};
use crate::policy::wall_ms;
use crate::shard::snapshot::SnapshotSlot;

/// What `/metrics` answers with.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What stays the same from scrape to scrape.
#[derive(Debug)]
pub struct Metrics {
    started_unix_s: f64,
}

impl Metrics {
    /// Takes the present moment as the start of the process.
    pub fn new() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { started_unix_s: since_epoch.as_secs_f64() }
    }

    /// One scrape. Copies the snapshots first, so a shard never waits for the rendering.
    ///
    /// # Errors
    /// The text encoder failed.
    pub fn render(
        &self,
        slots: &[SnapshotSlot],
        state: &ServiceState,
        now: Instant,
    ) -> Result<String, fmt::Error> {
        let scrape = Scrape {
            shards: slots.iter().map(SnapshotSlot::read).collect(),
            now,
            started_unix_s: self.started_unix_s,
            ready: state.ready.load(Ordering::Acquire),
            draining: state.draining.load(Ordering::Acquire),
            bans: Origin::ALL
                .into_iter()
                .zip(&state.bans.in_force)
                .map(|(origin, count)| (origin.name(), count.load(Ordering::Relaxed)))
                .collect(),
            ban_failures: state.bans.failures.load(Ordering::Relaxed),
            geo: state.geo.scrape(wall_ms() / 1000),
            config: state.config.read(),
            gate: state.gate.read(),
            steered_links: state.steering.links(),
        };
        let mut registry = Registry::default();
        registry.register_collector(Box::new(scrape));
        let mut page = String::new();
        text::encode(&mut page, &registry)?;
        Ok(page)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for metric in CATALOGUE {
            // The encoder puts `_total` back on.
            let name = metric.name.strip_suffix("_total").unwrap_or(metric.name);
            let kind = match metric.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
            };
            let mut family = encoder.encode_descriptor(name, metric.help, None, kind)?;
            for (values, number) in metric.samples(self) {
                if metric.labels.is_empty() {
                    write(family, number)?;
                    break;
                }
                let labels: Vec<(&str, String)> = metric.labels.iter().copied().zip(values).collect();
                write(family.encode_family(&labels)?, number)?;
            }
        }
        Ok(())
    }
}

fn write(sample: MetricEncoder<'_>, number: Number) -> Result<(), fmt::Error> {
    match number {
        Number::Count(count) => ConstCounter::new(count).encode(sample),
        Number::Level(level) => ConstGauge::new(level).encode(sample),
    }
}
