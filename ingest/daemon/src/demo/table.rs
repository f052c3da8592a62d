//! What the demo shows while it runs: a live table on a terminal, one plain line per second otherwise.
//!
//! Promises: shows only figures it was given; a reader of stdout that went away stops nothing. The live table goes to
//! stderr, so that stdout holds plain lines only.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// One link at one moment, as the bonding sender sees it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LinkFigures {
    /// What the road does: "25 ms, 1 % loss, 2.6 Mb/s".
    pub road: String,
    /// State in one word.
    pub state: String,
    /// Carries data.
    pub is_live: bool,
    /// Datagram bytes sent, per second, in bits.
    pub rate_bps: u64,
    /// Measured round trip.
    pub rtt: Option<Duration>,
    /// Measured share of lost datagrams, 0 to 1.
    pub loss: f64,
    /// Share of the stream, 0 to 1.
    pub share: f64,
}

/// Everything shown, at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures {
    /// Since the first payload.
    pub elapsed: Duration,
    /// In link order.
    pub links: Vec<LinkFigures>,
    /// Payload that leaves the receiver's group, per second, in bits.
    pub group_rate_bps: u64,
    /// Since the start.
    pub handed_over_payloads: u64,
    /// Since the start.
    pub delivered_payloads: u64,
    /// Payloads that were overtaken, displaced, doubled or damaged so far.
    pub faulty_payloads: u64,
    /// SRT retransmissions since the start.
    pub retransmitted: u64,
    /// Added to the configured latency: median and 99th percentile.
    pub added_delay: Option<(Duration, Duration)>,
}

/// The screen.
#[derive(Debug)]
pub enum Screen {
    /// A table that is redrawn in place.
    Live(Box<Live>),
    /// Lines.
    Plain {
        /// Seconds already reported.
        seconds_shown: Option<u64>,
    },
}

/// The bars of the live table, one per line.
#[derive(Debug)]
pub struct Live {
    all: MultiProgress,
    /// Only held: a bar that is dropped disappears.
    head: ProgressBar,
    links: Vec<ProgressBar>,
    group: ProgressBar,
    progress: ProgressBar,
    total: Duration,
}

impl Screen {
    /// A live table if stderr is a terminal and `plain` is not wanted. `total` is the length of the progress bar.
    pub fn new(plain: bool, links: usize, total: Duration) -> Self {
        if plain || !std::io::stderr().is_terminal() {
            return Self::Plain { seconds_shown: None };
        }
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10));
        let line = |style: &str| {
            let bar = all.add(ProgressBar::new(total.as_millis() as u64));
            bar.set_style(
                ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()),
            );
            bar
        };
        let head = line("{msg:.bold}");
        let links = (0..links).map(|_| line("{msg}")).collect();
        let group = line("{msg}");
        let progress = line("{bar:32.green/dim} {msg}");
        head.set_message(HEAD);
        head.tick();
        Self::Live(Box::new(Live { all, head, links, group, progress, total }))
    }

    /// Something happened.
    pub fn event(&mut self, text: &str) {
        match self {
            // A terminal that is gone stops nothing.
            Self::Live(live) => drop(live.all.println(text)),
            Self::Plain { .. } => say(text),
        }
    }

    /// Shows the figures; call it several times a second.
    pub fn show(&mut self, figures: &Figures) {
        match self {
            Self::Live(live) => {
                for (number, (bar, link)) in (1..).zip(live.links.iter().zip(&figures.links)) {
                    bar.set_style(style(if link.is_live { LINE } else { LINE_IN_TROUBLE }));
                    bar.set_message(link_row(number, link));
                }
                live.group.set_message(group_row(figures));
                live.progress.set_position(figures.elapsed.min(live.total).as_millis() as u64);
                live.progress.set_message(progress_text(figures, live.total));
            }
            Self::Plain { seconds_shown } => {
                let second = figures.elapsed.as_secs();
                if *seconds_shown != Some(second) {
                    *seconds_shown = Some(second);
                    say(&plain_line(figures));
                }
            }
        }
    }

    /// Leaves the table as it is; what follows is written below it.
    pub fn finish(&mut self) {
        if let Self::Live(live) = self {
            for bar in live.links.iter().chain([&live.head, &live.group, &live.progress]) {
                bar.abandon();
            }
        }
    }
}

const LINE: &str = "{msg}";
const LINE_IN_TROUBLE: &str = "{msg:.red}";

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// Writes a line to stdout.
pub fn say(text: &str) {
    // Whoever read the lines may be gone; the demo goes on and its exit code tells.
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

const HEAD: &str = "link  state         rate      RTT     loss   share   road";

fn link_row(number: usize, link: &LinkFigures) -> String {
    format!(
        "{number:<4}  {:<8} {:>9}  {:>7}  {:>7}  {:>6}   {}",
        link.state,
        rate(link.rate_bps),
        link.rtt.map_or_else(|| "-".to_owned(), ms),
        percent(link.loss),
        format!("{:.0} %", link.share * 100.0),
        link.road
    )
}

fn group_row(figures: &Figures) -> String {
    let mut text = format!(
        "group          {:>9}  retransmitted {}",
        rate(figures.group_rate_bps),
        per_hundred(figures.retransmitted, figures.handed_over_payloads)
    );
    if let Some((median, high)) = figures.added_delay {
        let _ = write!(text, "  added latency p50 {} p99 {}", ms(median), ms(high));
    }
    text
}

fn progress_text(figures: &Figures, total: Duration) -> String {
    format!(
        "{}/{} s  {} payloads in, {} out, {} faulty",
        figures.elapsed.min(total).as_secs(),
        total.as_secs(),
        figures.handed_over_payloads,
        figures.delivered_payloads,
        figures.faulty_payloads
    )
}

fn plain_line(figures: &Figures) -> String {
    let mut text = format!("{:>3} s  group {}", figures.elapsed.as_secs(), rate(figures.group_rate_bps));
    for (number, link) in (1..).zip(&figures.links) {
        let _ = write!(
            text,
            " | link {number} {} {} {} loss {} share {:.0} %",
            link.state,
            rate(link.rate_bps),
            link.rtt.map_or_else(|| "-".to_owned(), ms),
            percent(link.loss),
            link.share * 100.0
        );
    }
    let _ = write!(
        text,
        " | in {} out {} faulty {} retransmitted {}",
        figures.handed_over_payloads,
        figures.delivered_payloads,
        figures.faulty_payloads,
        figures.retransmitted
    );
    if let Some((median, high)) = figures.added_delay {
        let _ = write!(text, " | added latency p50 {} p99 {}", ms(median), ms(high));
    }
    text
}

/// A rate for people.
pub fn rate(bps: u64) -> String {
    if bps < 100_000 {
        format!("{:.0} kb/s", bps as f64 / 1e3)
    } else {
        format!("{:.2} Mb/s", bps as f64 / 1e6)
    }
}

/// Milliseconds for people: one decimal below ten.
pub fn ms(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1000.0;
    if ms < 10.0 { format!("{ms:.1} ms") } else { format!("{ms:.0} ms") }
}

/// A share of one in per cent.
pub fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// "215 (3.0 per 100)".
pub fn per_hundred(part: u64, whole: u64) -> String {
    if whole == 0 {
        return part.to_string();
    }
    format!("{part} ({:.1} per 100)", part as f64 * 100.0 / whole as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures() -> Figures {
        Figures {
            elapsed: Duration::from_millis(7300),
            links: vec![
                LinkFigures {
                    road: "25 ms, 1.0 % loss, 2.6 Mb/s".into(),
                    state: "live".into(),
                    is_live: true,
                    rate_bps: 1_234_000,
                    rtt: Some(Duration::from_micros(71_400)),
                    loss: 0.0123,
                    share: 0.404,
                },
                LinkFigures { state: "dead".into(), ..LinkFigures::default() },
            ],
            group_rate_bps: 3_001_000,
            handed_over_payloads: 2000,
            delivered_payloads: 1700,
            faulty_payloads: 0,
            retransmitted: 60,
            added_delay: Some((Duration::from_micros(1500), Duration::from_millis(43))),
        }
    }

    #[test]
    fn a_plain_line_holds_every_figure() {
        let line = plain_line(&figures());
        assert_eq!(
            line,
            "  7 s  group 3.00 Mb/s | link 1 live 1.23 Mb/s 71 ms loss 1.2 % share 40 % \
             | link 2 dead 0 kb/s - loss 0.0 % share 0 % | in 2000 out 1700 faulty 0 retransmitted 60 \
             | added latency p50 1.5 ms p99 43 ms"
        );
    }

    #[test]
    fn columns_stand_below_their_heads() {
        let rows: Vec<String> = (1..).zip(&figures().links).map(|(n, link)| link_row(n, link)).collect();
        assert_eq!(
            rows[0],
            "1     live     1.23 Mb/s    71 ms    1.2 %    40 %   25 ms, 1.0 % loss, 2.6 Mb/s"
        );
        assert_eq!(HEAD.find("state"), rows[0].find("live"));
        for head in ["rate", "RTT", "loss", "share"] {
            let end = HEAD.find(head).unwrap() + head.len();
            for row in &rows {
                assert!(
                    row.as_bytes()[end - 1] != b' ' && row.as_bytes()[end] == b' ',
                    "{head}\n{HEAD}\n{row}"
                );
            }
        }
        assert_eq!(HEAD.find("road"), rows[0].find("25 ms"));
    }

    #[test]
    fn the_group_and_the_progress() {
        assert_eq!(
            group_row(&figures()),
            "group          3.00 Mb/s  retransmitted 60 (3.0 per 100)  added latency p50 1.5 ms p99 43 ms"
        );
        assert_eq!(
            progress_text(&figures(), Duration::from_secs(20)),
            "7/20 s  2000 payloads in, 1700 out, 0 faulty"
        );
        assert_eq!(per_hundred(0, 0), "0");
    }
}
