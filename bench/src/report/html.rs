//! A page with tables and plots that needs nothing but itself.

use std::fmt::Write as _;

use super::{Summary, table};
use crate::row::Latency;
use crate::run::Run;
use crate::stats::Spread;

/// Size of a plot, and the room for its labels.
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 70.0;
const BOTTOM: f64 = 30.0;
const COLOURS: [&str; 6] = ["#1f6feb", "#d29922", "#2da44e", "#cf222e", "#8250df", "#57606a"];

/// The page.
pub fn render(run: &Run) -> String {
    let summaries = Summary::of(&run.rows);
    let mut page = String::new();
    let title = escape(&run.scenario.name);
    let _ = write!(
        page,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title><style>\
         body{{font:15px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em}}\
         pre{{overflow-x:auto;background:#f6f8fa;padding:1em;font-size:12px}}\
         .noisy{{background:#fff1e5;border-left:4px solid #cf222e;padding:.5em 1em}}\
         svg{{max-width:100%;font:12px system-ui,sans-serif}}</style></head><body>\n<h1>{title}</h1>\n<p>{}</p>\n",
        escape(&run.scenario.about)
    );
    if !run.noisy.is_empty() {
        let _ = writeln!(page, "<p class=\"noisy\">No verdict: {}</p>", escape(&run.noisy.join("; ")));
    }
    let _ = writeln!(page, "<pre>{}</pre>", escape(&table::render(run)));
    let costs: Vec<(&str, Spread)> = summaries
        .iter()
        .filter_map(|summary| Some((summary.receiver, summary.spread(|row| row.process_ns)?)))
        .collect();
    if !costs.is_empty() {
        page.push_str(
            "<h2>Processor time per datagram, ns</h2>\n<p>Median, least and greatest of all rounds.</p>\n",
        );
        bars(&mut page, &costs);
    }
    let curves: Vec<(&str, &Latency)> = summaries
        .iter()
        .filter_map(|summary| {
            let mut rows: Vec<&Latency> =
                summary.rows.iter().filter_map(|row| row.latency.as_ref()).collect();
            rows.sort_by(|a, b| a.p999_us.total_cmp(&b.p999_us));
            Some((summary.receiver, *rows.get(rows.len() / 2)?))
        })
        .collect();
    if !curves.is_empty() {
        page.push_str(
            "<h2>Latency, \u{b5}s</h2>\n<p>From the time a datagram was to be sent; the middle round by p99.9.</p>\n",
        );
        latencies(&mut page, &curves);
    }
    page.push_str("</body></html>\n");
    page
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn colour(index: usize) -> &'static str {
    COLOURS.get(index % COLOURS.len()).copied().unwrap_or("black")
}

fn open(page: &mut String, height: f64) {
    let _ = writeln!(
        page,
        "<svg viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" role=\"img\">"
    );
}

/// Horizontal bars with whiskers.
fn bars(page: &mut String, bars: &[(&str, Spread)]) {
    let step = 34.0;
    let most = bars.iter().map(|(_, spread)| spread.max).fold(1.0, f64::max);
    let left = 140.0;
    let x = |value: f64| left + value / most * (WIDTH - left - 80.0);
    open(page, step * bars.len() as f64 + 8.0);
    for (index, (name, spread)) in bars.iter().enumerate() {
        let y = 6.0 + step * index as f64;
        let middle = y + 11.0;
        let _ = writeln!(
            page,
            "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{}</text>\
             <rect x=\"{left:.0}\" y=\"{y:.0}\" width=\"{:.1}\" height=\"22\" fill=\"{}\"/>\
             <path d=\"M{:.1} {middle:.0}H{:.1}\" stroke=\"black\" stroke-width=\"2\"/>\
             <text x=\"{:.1}\" y=\"{:.0}\">{:.0}</text>",
            left - 8.0,
            middle + 4.0,
            escape(name),
            x(spread.median) - left,
            colour(index),
            x(spread.min),
            x(spread.max),
            x(spread.max) + 6.0,
            middle + 4.0,
            spread.median
        );
    }
    page.push_str("</svg>\n");
}

/// Latency over the share that was slower, both axes logarithmic.
fn latencies(page: &mut String, curves: &[(&str, &Latency)]) {
    let points = |latency: &Latency| -> Vec<(f64, f64)> {
        let inner = latency.curve.iter().filter(|(share, us)| *share < 1.0 && *us > 0.0);
        inner.map(|(share, us)| (-(1.0 - share).log10(), us.log10())).collect()
    };
    let all: Vec<f64> = curves.iter().flat_map(|(_, latency)| points(latency)).map(|(_, y)| y).collect();
    let low = all.iter().copied().fold(f64::MAX, f64::min).floor();
    let high = all.iter().copied().fold(f64::MIN, f64::max).ceil().max(low + 1.0);
    let x = |nines: f64| LEFT + nines / 5.0 * (WIDTH - LEFT - 20.0);
    let y = |log: f64| HEIGHT - BOTTOM - (log - low) / (high - low) * (HEIGHT - BOTTOM - 20.0);
    open(page, HEIGHT);
    for (nines, label) in
        [(0.0, "0"), (0.301, "50 %"), (1.0, "90 %"), (2.0, "99 %"), (3.0, "99.9 %"), (4.0, "99.99 %")]
    {
        let _ = writeln!(
            page,
            "<path d=\"M{0:.1} 20V{1:.0}\" stroke=\"#d0d7de\"/><text x=\"{0:.1}\" y=\"{2:.0}\" text-anchor=\"middle\">{label}</text>",
            x(nines),
            HEIGHT - BOTTOM,
            HEIGHT - 10.0
        );
    }
    let mut decade = low;
    while decade <= high {
        let _ = writeln!(
            page,
            "<path d=\"M{LEFT} {0:.1}H{1:.0}\" stroke=\"#d0d7de\"/><text x=\"{2:.0}\" y=\"{3:.1}\" text-anchor=\"end\">{4}</text>",
            y(decade),
            WIDTH - 20.0,
            LEFT - 6.0,
            y(decade) + 4.0,
            10_f64.powf(decade)
        );
        decade += 1.0;
    }
    for (index, (name, latency)) in curves.iter().enumerate() {
        let line: Vec<String> =
            points(latency).iter().map(|(nines, log)| format!("{:.1},{:.1}", x(*nines), y(*log))).collect();
        let _ = writeln!(
            page,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"/>\
             <text x=\"{:.0}\" y=\"{:.0}\" fill=\"{}\">{}</text>",
            line.join(" "),
            colour(index),
            LEFT + 10.0,
            34.0 + 16.0 * index as f64,
            colour(index),
            escape(name)
        );
    }
    page.push_str("</svg>\n");
}
