//! The demo's last word: what was handed over, what arrived, and what it took. Every figure was measured in this run.

use std::fmt;
use std::time::Duration;

use bondgate_sim::link::LinkCounters;

use super::ledger::Account;
use super::table::{ms, per_hundred, rate};

/// The measured run.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// The ledger's counts, after everything had time to arrive.
    pub account: Account,
    /// Payloads that were on their way when the run was interrupted; 0 if everything had its time to arrive.
    pub under_way: u64,
    /// When the first and the last payload that did not arrive were handed over, since the first payload.
    pub missing_between: Option<(Duration, Duration)>,
    /// What the encoder was.
    pub encoder: &'static str,
    /// From the first to the last payload handed over.
    pub length: Duration,
    /// Why the run was shorter than wanted, if it was.
    pub cut_short: Option<String>,
    /// The key the links registered with.
    pub key_id: String,
    /// Links that the receiver confirmed with that key.
    pub links_registered: usize,
    /// What happened on the links from sender to receiver.
    pub uplinks: Vec<LinkCounters>,
    /// Data packets the encoder's SRT sent again.
    pub retransmitted: u64,
    /// Sequence numbers the receiver missed at first and got later.
    pub recovered: u64,
    /// Sequence numbers the receiver gave up.
    pub given_up: u64,
    /// The killed link.
    pub outage: Option<Outage>,
    /// Delay added to the configured latencies: median, 99th percentile, greatest.
    pub added_delay: Option<[Duration; 3]>,
    /// The configured latencies of both SRT legs.
    pub configured_delay: Duration,
}

/// What was measured around the killed link.
#[derive(Clone, Debug)]
pub struct Outage {
    /// Number as people count.
    pub link: usize,
    /// Since the first payload.
    pub from: Duration,
    /// Since the first payload; `None` if it never came back.
    pub to: Option<Duration>,
    /// Longest time between two deliveries while it was dead and the second after.
    pub gap_max: Duration,
    /// From its return until the sender used it again.
    pub used_again_after: Option<Duration>,
}

impl Verdict {
    /// Whether every payload byte arrived once, in order, bit-exact, over the whole time.
    pub fn is_pass(&self) -> bool {
        self.account.is_perfect() && self.cut_short.is_none()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let a = &self.account;
        let bps = a.handed_over_bytes as f64 * 8.0 / self.length.as_secs_f64().max(0.001);
        writeln!(f, "encoder    {}", self.encoder)?;
        writeln!(
            f,
            "in         {} payloads, {} bytes in {:.1} s, {}",
            a.handed_over_payloads,
            a.handed_over_bytes,
            self.length.as_secs_f64(),
            rate(bps as u64)
        )?;
        if a.is_perfect() {
            writeln!(f, "out        all of them: once, in order, bit-exact")?;
        } else {
            write!(
                f,
                "out        {} payloads; {} missing, {} doubled, {} out of order, {} damaged",
                a.delivered_payloads,
                a.missing_payloads().saturating_sub(self.under_way),
                a.duplicated_payloads,
                a.reordered_payloads,
                a.corrupt_payloads
            )?;
            if self.under_way > 0 {
                write!(f, ", {} still on their way", self.under_way)?;
            }
            if let Some((first, last)) = self.missing_between {
                write!(f, "; handed over at {:.2} s to {:.2} s", first.as_secs_f64(), last.as_secs_f64())?;
            }
            writeln!(f)?;
        }
        writeln!(
            f,
            "key        {} links registered with key {}; nobody else could",
            self.links_registered, self.key_id
        )?;
        let sum = |count: fn(&LinkCounters) -> u64| self.uplinks.iter().map(count).sum::<u64>();
        let lost = sum(|c| c.lost) + sum(|c| c.tail_dropped);
        writeln!(
            f,
            "links      {} datagrams sent, {} lost on the way, {} swallowed by the dead link",
            sum(|c| c.submitted),
            lost,
            sum(|c| c.blackholed)
        )?;
        writeln!(
            f,
            "repair     {} retransmitted; {} gaps repaired, {} given up",
            per_hundred(self.retransmitted, a.handed_over_payloads),
            self.recovered,
            self.given_up
        )?;
        if let Some(outage) = &self.outage {
            write!(f, "outage     link {} dead from {:.1} s", outage.link, outage.from.as_secs_f64())?;
            if let Some(to) = outage.to {
                write!(f, " to {:.1} s", to.as_secs_f64())?;
            }
            write!(f, "; longest gap at the viewer {}", ms(outage.gap_max))?;
            match outage.used_again_after {
                Some(after) => writeln!(f, "; in use again {} after its return", ms(after))?,
                None => writeln!(f, "; not used again")?,
            }
        }
        if let Some([median, high, greatest]) = self.added_delay {
            writeln!(
                f,
                "latency    added p50 {}, p99 {}, max {}, on top of the {} configured; longest gap {}",
                ms(median),
                ms(high),
                ms(greatest),
                ms(self.configured_delay),
                ms(a.gap_max)
            )?;
        }
        match (&self.cut_short, a.is_perfect()) {
            (Some(why), _) => write!(f, "verdict    FAIL: {why}"),
            (None, true) => write!(f, "verdict    PASS"),
            (None, false) => write!(f, "verdict    FAIL"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn verdict() -> Verdict {
        Verdict {
            account: Account {
                handed_over_payloads: 1000,
                handed_over_bytes: 1_316_000,
                delivered_payloads: 1000,
                delivered_bytes: 1_316_000,
                gap_max: 50 * MS,
                ..Account::default()
            },
            under_way: 0,
            missing_between: None,
            encoder: "built-in",
            length: 4000 * MS,
            cut_short: None,
            key_id: "0011223344556677".to_owned(),
            links_registered: 2,
            uplinks: vec![LinkCounters { submitted: 600, lost: 6, ..LinkCounters::default() }; 2],
            retransmitted: 20,
            recovered: 12,
            given_up: 0,
            outage: Some(Outage {
                link: 2,
                from: 2000 * MS,
                to: Some(3000 * MS),
                gap_max: 40 * MS,
                used_again_after: Some(600 * MS),
            }),
            added_delay: Some([12 * MS, 30 * MS, 44 * MS]),
            configured_delay: 1120 * MS,
        }
    }

    #[test]
    fn a_pass_says_what_was_measured() {
        let verdict = verdict();
        assert!(verdict.is_pass());
        assert_eq!(
            verdict.to_string(),
            "encoder    built-in\n\
             in         1000 payloads, 1316000 bytes in 4.0 s, 2.63 Mb/s\n\
             out        all of them: once, in order, bit-exact\n\
             key        2 links registered with key 0011223344556677; nobody else could\n\
             links      1200 datagrams sent, 12 lost on the way, 0 swallowed by the dead link\n\
             repair     20 (2.0 per 100) retransmitted; 12 gaps repaired, 0 given up\n\
             outage     link 2 dead from 2.0 s to 3.0 s; longest gap at the viewer 40 ms; \
             in use again 600 ms after its return\n\
             latency    added p50 12 ms, p99 30 ms, max 44 ms, on top of the 1120 ms configured; longest gap 50 ms\n\
             verdict    PASS"
        );
    }

    #[test]
    fn what_is_on_its_way_is_not_called_missing() {
        let mut verdict = verdict();
        verdict.account.delivered_payloads -= 7;
        verdict.missing_between = Some((1500 * MS, 3990 * MS));
        (verdict.under_way, verdict.cut_short) = (5, Some("interrupted".to_owned()));
        let text = verdict.to_string();
        assert!(
            text.contains("993 payloads; 2 missing, 0 doubled, 0 out of order, 0 damaged, 5 still on"),
            "{text}"
        );
        assert!(!verdict.is_pass());
    }

    #[test]
    fn every_kind_of_damage_and_an_early_end_fail() {
        let spoil: [fn(&mut Verdict); 5] = [
            |v| v.account.delivered_payloads -= 1,
            |v| v.account.duplicated_payloads = 1,
            |v| v.account.reordered_payloads = 1,
            |v| v.account.corrupt_payloads = 1,
            |v| v.cut_short = Some("interrupted".to_owned()),
        ];
        for spoil in spoil {
            let mut spoiled = verdict();
            spoil(&mut spoiled);
            assert!(!spoiled.is_pass() && spoiled.to_string().contains("FAIL"), "{spoiled}");
        }
    }
}
