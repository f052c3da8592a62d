//! Suites of tests that need things a machine may not have.
//!
//! Promise: what a test needs is looked for before the suite starts; a test that cannot run is announced as
//! `SKIPPED name: reason` on standard error, appears as `ignored` in the list and in the counts, and is never "ok".
//! Forcing it with `--ignored` runs it, and then it fails for want of what it needs. A test that fails while the machine itself
//! stood still is repeated, at most twice, and each repetition is announced as `REPEATED name: reason`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Trial};

use crate::scene::Scene;

/// A thread that asks for a moment's sleep and gets this much more was on a machine that stood still: streams with a latency
/// of 300 ms lose payloads then, and commands are late, whatever bondgate does.
const STANDSTILL: Duration = Duration::from_millis(100);
/// Times a test may run.
const ATTEMPTS_MAX: u32 = 3;

/// Something a test cannot do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// A program in `PATH`, and the package that has it.
    Program(&'static str, &'static str),
    /// The rights to make network namespaces, and a kernel that has them.
    Namespaces,
    /// io_uring allowed by the kernel and by the sandbox.
    IoUring,
    /// The rights to load BPF programs and to mount a BPF file system, and a kernel that has them.
    Bpf,
}

/// `ffmpeg`.
pub const FFMPEG: Need = Need::Program("ffmpeg", "ffmpeg");
/// `srt-live-transmit`.
pub const SRT: Need = Need::Program("srt-live-transmit", "srt-tools");

impl Need {
    /// Why this machine does not have it; `None` if it has.
    pub fn missing(self) -> Option<String> {
        match self {
            Self::Program(name, package) => {
                find_program(name).is_none().then(|| format!("{name} is not installed (package {package})"))
            }
            Self::Namespaces => crate::netns::unavailable(),
            Self::Bpf => crate::pins::unavailable(),
            Self::IoUring => {
                let state = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok();
                match state.as_deref().map(str::trim) {
                    Some("0") => None,
                    Some("1") if is_root() => None,
                    Some(value) => {
                        Some(format!("io_uring is disabled by the host (kernel.io_uring_disabled = {value})"))
                    }
                    None => Some("this kernel has no io_uring (kernel.io_uring_disabled is absent)".into()),
                }
            }
        }
    }
}

/// Whether the tests run as root.
pub fn is_root() -> bool {
    // SAFETY: geteuid has no arguments, no side effects and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// The first executable of that name in `PATH`.
pub fn find_program(name: &str) -> Option<std::path::PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|dir| dir.join(name)).find(|path| {
        Command::new(path)
            .arg("-version")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok()
    })
}

/// A list of tests in the making.
pub struct Suite {
    arguments: Arguments,
    threads: usize,
    trials: Vec<Trial>,
    skipped: Vec<(String, String)>,
}

impl Suite {
    /// An empty suite; reads the command line of the test binary. `threads` tests run at a time unless the command line
    /// says otherwise: these tests mostly wait, so it may exceed the number of cores.
    pub fn from_args(threads: usize) -> Self {
        Self { arguments: Arguments::from_args(), threads, trials: Vec::new(), skipped: Vec::new() }
    }

    /// Adds a test.
    pub fn test(&mut self, name: &str, needs: &[Need], run: fn(&Scene) -> anyhow::Result<()>) {
        let missing: Vec<_> = needs.iter().filter_map(|need| need.missing()).collect();
        let trial_name = name.to_owned();
        let trial = Trial::test(name, move || {
            settle(&trial_name, || watched(|| attempt_once(&trial_name, run))).map_err(Into::into)
        })
        .with_ignored_flag(!missing.is_empty());
        if !missing.is_empty() && !self.arguments.is_filtered_out(&trial) {
            self.skipped.push((name.to_owned(), missing.join(", ")));
        }
        self.trials.push(trial);
    }

    /// Runs what the command line asks for.
    pub fn run(mut self) -> ExitCode {
        if self.arguments.test_threads.is_none() {
            self.arguments.test_threads = Some(self.threads);
        }
        if !self.arguments.list && !self.arguments.ignored && !self.arguments.include_ignored {
            for (name, reason) in &self.skipped {
                eprintln!("SKIPPED {name}: {reason}");
            }
        }
        libtest_mimic::run(&self.arguments, self.trials).exit_code()
    }
}

/// Attempts, each with its result and how long the machine stood still in it, until one counts.
fn settle(name: &str, mut attempt: impl FnMut() -> (Result<(), String>, Duration)) -> Result<(), String> {
    for _ in 1..ATTEMPTS_MAX {
        match attempt() {
            (Err(failure), standstill) if standstill >= STANDSTILL => {
                let why = failure.lines().next().unwrap_or_default();
                eprintln!(
                    "REPEATED {name}: it failed ({why}), and the machine had stood still for {standstill:.0?}"
                );
            }
            (result, _) => return result,
        }
    }
    attempt().0
}

fn attempt_once(name: &str, run: fn(&Scene) -> anyhow::Result<()>) -> Result<(), String> {
    let scene = Scene::new(name).map_err(|error| format!("{error:#}"))?;
    match catch_unwind(AssertUnwindSafe(|| run(&scene))) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(format!("{error:#}\n{}", scene.transcript())),
        Err(panic) => Err(format!("panicked: {}\n{}", panic_text(&*panic), scene.transcript())),
    }
}

/// Does `work`, and says by how much a thread that did nothing else was woken too late at worst.
fn watched<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    const NAP: Duration = Duration::from_millis(5);
    let (stop, worst_us) = (AtomicBool::new(false), AtomicU64::new(0));
    let done = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let asleep = Instant::now();
                std::thread::sleep(NAP);
                let late = asleep.elapsed().saturating_sub(NAP);
                worst_us.fetch_max(late.as_micros() as u64, Ordering::Relaxed);
            }
        });
        let done = work();
        stop.store(true, Ordering::Relaxed);
        done
    });
    (done, Duration::from_micros(worst_us.into_inner()))
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("(no text)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_failure_on_a_machine_that_stood_still_is_repeated() {
        let settled = |results: &[(bool, u64)]| {
            let mut results = results.iter();
            let settled = settle("a test", || {
                let (passes, ms) = results.next().expect("no attempt after the last");
                (if *passes { Ok(()) } else { Err("lost".to_owned()) }, Duration::from_millis(*ms))
            });
            (settled.is_ok(), results.len())
        };
        assert_eq!(settled(&[(true, 500)]), (true, 0));
        assert_eq!(settled(&[(false, 99), (true, 0)]), (false, 1));
        assert_eq!(settled(&[(false, 100), (true, 0)]), (true, 0));
        assert_eq!(settled(&[(false, 100), (false, 99), (true, 0)]), (false, 1));
        assert_eq!(settled(&[(false, 100), (false, 100), (false, 100), (true, 0)]), (false, 1));
    }

    #[test]
    fn a_standstill_is_seen() {
        let (done, standstill) = watched(|| {
            std::thread::sleep(Duration::from_millis(30));
            7
        });
        assert_eq!(done, 7);
        assert!(standstill > Duration::ZERO);
    }
}
