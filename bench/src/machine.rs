//! What machine this is, and whether it was quiet enough to believe figures.
//!
//! Promise: [`Watch`] names every reason why a figure may be wrong; with one of them there is no verdict.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::proc::{self, CpuTimes};
use crate::stats::Spread;

/// Others may use at most this share of one processor.
const FOREIGN_MAX: f64 = 0.05;
/// The hypervisor may take at most this share of all.
const STEAL_MAX: f64 = 0.01;
/// The same work may take this much longer or shorter afterwards.
const DRIFT_MAX: f64 = 0.08;
/// Runs of the calibration loop; the fastest counts.
const SPINS: usize = 5;

/// The machine.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Environment {
    /// Model of the processor.
    pub processor: String,
    /// Processors.
    pub cpus: usize,
    /// Memory in GiB.
    pub memory_gib: u64,
    /// Kernel release.
    pub kernel: String,
    /// Bare metal, or which hypervisor, as far as it shows.
    pub virtualisation: String,
    /// What the load comes from, and how it gets to the receiver.
    pub topology: String,
    /// Commit of the sources, if this is a checkout.
    pub commit: String,
    /// When, UTC.
    pub date: String,
    /// `net.core.rmem_max`.
    pub rmem_max: String,
}

impl Environment {
    /// This machine, now.
    pub fn read() -> Self {
        let uname = rustix::system::uname();
        let cpuinfo = proc::line("/proc/cpuinfo").unwrap_or_default();
        let field = |name: &str| {
            let line = cpuinfo.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let is_guest = cpuinfo.lines().any(|line| line.starts_with("flags") && line.contains(" hypervisor"));
        let vendor = proc::line("/sys/class/dmi/id/sys_vendor").unwrap_or_default();
        let memory = proc::line("/proc/meminfo").unwrap_or_default();
        let memory_kib: u64 = memory
            .lines()
            .find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse().ok())
            .unwrap_or(0);
        Self {
            processor: field("model name").unwrap_or_else(|| uname.machine().to_string_lossy().into_owned()),
            cpus: all_cpus(),
            memory_gib: memory_kib.div_ceil(1 << 20),
            kernel: uname.release().to_string_lossy().into_owned(),
            virtualisation: if is_guest {
                format!("guest {vendor}").trim().to_owned()
            } else {
                "none".into()
            },
            topology: String::new(),
            commit: commit().unwrap_or_else(|| "unknown".into()),
            date: utc(std::time::SystemTime::now()),
            rmem_max: proc::line("/proc/sys/net/core/rmem_max").unwrap_or_default(),
        }
    }

    /// A short name for machines of this kind, good for a directory.
    pub fn host_class(&self) -> String {
        let kind = if self.virtualisation == "none" { "metal" } else { "guest" };
        let kernel: Vec<&str> = self.kernel.split(['.', '-']).take(2).collect();
        format!("{kind}-{}cpu-linux{}", self.cpus, kernel.join("."))
    }
}

/// Processors there are, whether this thread may use them or not.
pub fn all_cpus() -> usize {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let numbered = |line: &&str| line.strip_prefix("cpu").is_some_and(|rest| !rest.starts_with(' '));
    text.lines().filter(numbered).count().max(1)
}

fn commit() -> Option<String> {
    let output = std::process::Command::new("git").args(["describe", "--always", "--dirty"]).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}

/// `2026-01-31T12:00:00Z`.
fn utc(time: std::time::SystemTime) -> String {
    let seconds = time.duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, day_s) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", day_s / 3600, day_s / 60 % 60, day_s % 60)
}

/// The Gregorian date of a day since 1970-01-01: years begin in March, so that the leap day comes last.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

/// How quiet the machine was during something.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Quiet {
    /// Share of one processor that others used.
    pub foreign_share: f64,
    /// Share of all processors' time that the hypervisor took.
    pub steal_share: f64,
    /// How much longer the calibration loop took afterwards.
    pub drift: f64,
    /// Why no verdict can be based on this; empty if one can.
    pub noisy: Vec<String>,
}

/// Watches the machine from now on.
#[derive(Debug)]
pub struct Watch {
    cpu: CpuTimes,
    own_ns: u64,
    at: Instant,
    spin: Duration,
}

impl Watch {
    /// Begins. Takes some 10 ms.
    pub fn begin() -> Self {
        let spin = spin();
        Self {
            cpu: CpuTimes::read(None).unwrap_or_default(),
            own_ns: proc::cpu_ns(std::process::id()).unwrap_or(0),
            at: Instant::now(),
            spin,
        }
    }

    /// Ends. `known_ns` is the processor time of what the harness started meanwhile. Threads that have ended would count as
    /// others'.
    pub fn end(self, known_ns: u64) -> Watched {
        let own_ns = proc::cpu_ns(std::process::id()).unwrap_or(0).saturating_sub(self.own_ns);
        let passed = CpuTimes::read(None).unwrap_or_default().since(&self.cpu);
        let elapsed_s = self.at.elapsed().as_secs_f64().max(1e-3);
        // Soft interrupts run in whoever was interrupted; those of ours are in our processes' time already.
        let busy_s = (passed.busy + passed.softirq) as f64 / proc::ticks_per_s() as f64;
        let ours_s = (own_ns + known_ns) as f64 / 1e9;
        let foreign_share = ((busy_s - ours_s) / elapsed_s).max(0.0);
        let steal_share = passed.steal as f64 / passed.total().max(1) as f64;
        Watched { foreign_share, steal_share, spin: self.spin }
    }
}

/// What was seen while the load ran.
#[derive(Debug)]
pub struct Watched {
    foreign_share: f64,
    steal_share: f64,
    spin: Duration,
}

impl Watched {
    /// Compares the speed with that of the beginning, once nothing of ours runs any more. Takes some 10 ms.
    pub fn compare(self) -> Quiet {
        let Self { foreign_share, steal_share, spin: before } = self;
        let drift = spin().as_secs_f64() / before.as_secs_f64().max(1e-9) - 1.0;
        let mut noisy = Vec::new();
        let percent = |share: f64| format!("{:.1} %", share * 100.0);
        if foreign_share > FOREIGN_MAX {
            noisy.push(format!("other programs used {} of a processor", percent(foreign_share)));
        }
        if steal_share > STEAL_MAX {
            noisy.push(format!("the hypervisor took {} of the processors' time", percent(steal_share)));
        }
        if drift.abs() > DRIFT_MAX {
            noisy.push(format!("the same work took {} more time afterwards", percent(drift)));
        }
        Quiet { foreign_share, steal_share, drift, noisy }
    }
}

/// The time of a fixed amount of work, the best of a few.
fn spin() -> Duration {
    let once = || {
        let begun = Instant::now();
        let mut x = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..400_000 {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
        }
        std::hint::black_box(x);
        begun.elapsed()
    };
    (0..SPINS).map(|_| once()).min().unwrap_or_default()
}

/// All reasons of several trials, each once.
pub fn reasons<'a>(quiets: impl IntoIterator<Item = &'a Quiet>) -> Vec<String> {
    let quiets: Vec<&Quiet> = quiets.into_iter().collect();
    let noisy = quiets.iter().filter(|quiet| !quiet.noisy.is_empty()).count();
    if noisy == 0 {
        return Vec::new();
    }
    let show = |what: &str, get: fn(&Quiet) -> f64| {
        let spread = Spread::of(quiets.iter().map(|quiet| get(quiet) * 100.0)).unwrap_or_default();
        format!("{what} {} %", spread.show(1))
    };
    vec![
        format!("{noisy} of {} trials were noisy", quiets.len()),
        show("others on a processor", |quiet| quiet.foreign_share),
        show("steal", |quiet| quiet.steal_share),
        show("drift of the calibration loop", |quiet| quiet.drift),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        let at = |seconds| utc(std::time::UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01T00:00:00Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(at(1_735_689_599), "2024-12-31T23:59:59Z");
    }

    #[test]
    fn somebody_elses_work_is_noticed() {
        let watch = Watch::begin();
        std::thread::sleep(Duration::from_millis(300));
        // As if a process of ours had used nothing while all processors were busy otherwise.
        let mut noisy = watch;
        noisy.cpu.busy = noisy.cpu.busy.saturating_sub(100);
        let quiet = noisy.end(0).compare();
        assert!(quiet.noisy.iter().any(|why| why.contains("other programs")), "{quiet:?}");
        assert!(!reasons([&quiet]).is_empty());
        assert!(reasons([&Quiet::default()]).is_empty());
    }

    #[test]
    fn the_environment_has_a_name() {
        let environment = Environment::read();
        assert!(!environment.kernel.is_empty() && environment.cpus > 0);
        assert!(environment.host_class().contains("linux"), "{}", environment.host_class());
    }
}
