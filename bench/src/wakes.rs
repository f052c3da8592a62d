//! What it costs this machine to sleep and wake up: nothing a receiver can do makes a wake-up cheaper than this.
//!
//! Promise: one thread that does nothing else, and the scheduler's exact time for it.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::proc;

/// Lengths of sleep that are tried.
const SLEEPS_US: [u64; 4] = [30, 100, 300, 1000];
/// Sleeping done for each.
const EACH: Duration = Duration::from_millis(1500);

/// What sleeping for a while costs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Wake {
    /// Length of the sleep asked for, in microseconds.
    pub sleep_us: u64,
    /// Processor time of one sleep and wake-up, in ns.
    pub cost_ns: f64,
}

/// Measures. Takes about six seconds.
///
/// # Errors
/// Where the kernel does not tell processor times (`/proc/PID/schedstat`).
pub fn measure() -> Result<Vec<Wake>> {
    let cpu_ns = || proc::cpu_ns(std::process::id()).context("the kernel has no /proc/self/schedstat");
    SLEEPS_US
        .into_iter()
        .map(|sleep_us| {
            let sleep = Duration::from_micros(sleep_us);
            let times = EACH.as_micros() as u64 / sleep_us.max(1);
            let before = cpu_ns()?;
            for _ in 0..times {
                std::thread::sleep(sleep);
            }
            Ok(Wake { sleep_us, cost_ns: cpu_ns()?.saturating_sub(before) as f64 / times as f64 })
        })
        .collect()
}

/// A line for each, with what it comes to per datagram when so many datagrams per second come.
pub fn render(wakes: &[Wake], rate_pps: u64) -> String {
    let mut out = String::new();
    for Wake { sleep_us, cost_ns } in wakes {
        let datagrams = (rate_pps as f64 * *sleep_us as f64 / 1e6).max(1.0);
        let _ = writeln!(
            out,
            "a sleep of {sleep_us:4} us costs {:5.1} us of processor time: {:5.0} ns per datagram at {rate_pps}/s",
            cost_ns / 1000.0,
            cost_ns / datagrams
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cost_is_shared_by_what_came_meanwhile() {
        let text = render(&[Wake { sleep_us: 300, cost_ns: 30_000.0 }], 50_000);
        assert!(text.contains(" 30.0 us of processor time:  2000 ns per datagram at 50000/s"), "{text}");
    }
}
