//! One test's surroundings: a directory, free ports, and the transcript of every process it started.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

/// Lines of output kept per process; older ones are forgotten.
const LOG_LINES_MAX: usize = 20_000;
/// Lines per process in a transcript.
const TRANSCRIPT_LINES: usize = 60;

/// What one process printed, on both streams, in the order in which it was read.
#[derive(Debug)]
pub struct Log {
    name: String,
    lines: Mutex<VecDeque<String>>,
    grew: Condvar,
}

impl Log {
    fn new(name: &str) -> Self {
        Self { name: name.to_owned(), lines: Mutex::new(VecDeque::new()), grew: Condvar::new() }
    }

    pub(crate) fn push(&self, line: String) {
        let mut lines = lock(&self.lines);
        if lines.len() == LOG_LINES_MAX {
            lines.pop_front();
        }
        lines.push_back(line);
        drop(lines);
        self.grew.notify_all();
    }

    /// The first line for which `is_wanted` holds; waits for it.
    ///
    /// # Errors
    /// When none came within `timeout`.
    pub fn wait_for(
        &self,
        what: &str,
        timeout: Duration,
        is_wanted: impl Fn(&str) -> bool,
    ) -> Result<String> {
        let deadline = Instant::now() + timeout;
        let mut lines = lock(&self.lines);
        loop {
            if let Some(line) = lines.iter().find(|line| is_wanted(line)) {
                return Ok(line.clone());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("{} did not print {what} within {timeout:?}", self.name);
            }
            lines = self.grew.wait_timeout(lines, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Whether a line holds `text`.
    pub fn has_line(&self, text: &str) -> bool {
        lock(&self.lines).iter().any(|line| line.contains(text))
    }

    /// All lines kept.
    pub fn lines(&self) -> Vec<String> {
        lock(&self.lines).iter().cloned().collect()
    }
}

/// One test's surroundings.
#[derive(Debug)]
pub struct Scene {
    dir: TempDir,
    logs: Mutex<Vec<Arc<Log>>>,
}

impl Scene {
    /// A fresh directory for the test of that name.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn new(name: &str) -> Result<Self> {
        let prefix = format!("bondgate-{}-", name.replace(|c: char| !c.is_ascii_alphanumeric(), "-"));
        let dir =
            tempfile::Builder::new().prefix(&prefix).tempdir().context("cannot make the test's directory")?;
        Ok(Self { dir, logs: Mutex::new(Vec::new()) })
    }

    /// The test's directory; gone after the test.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A path in the test's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file into the test's directory.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, name: &str, content: &str) -> Result<PathBuf> {
        let path = self.path(name);
        std::fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    pub(crate) fn open_log(&self, name: &str) -> Arc<Log> {
        let log = Arc::new(Log::new(name));
        lock(&self.logs).push(Arc::clone(&log));
        log
    }

    /// The last lines of everything that was started, for the report of a failure.
    pub fn transcript(&self) -> String {
        let mut text = String::new();
        for log in lock(&self.logs).iter() {
            let lines = log.lines();
            let skipped = lines.len().saturating_sub(TRANSCRIPT_LINES);
            let shown = lines.len() - skipped;
            let _ = writeln!(text, "--- {} ({} lines, last {shown})", log.name, lines.len());
            for line in lines.iter().skip(skipped) {
                text += line;
                text.push('\n');
            }
        }
        text
    }
}

/// A port that is free on loopback for UDP and TCP, and that no other call in this process gets. Ports come from below
/// the range from which the kernel picks source ports, so no client socket takes one in between.
///
/// # Errors
/// When five hundred candidates were all taken.
pub fn free_port() -> Result<u16> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    const FIRST: u32 = 12_000;
    const COUNT: u32 = 20_000;
    let start = std::process::id().wrapping_mul(2_654_435_761) % COUNT;
    for _ in 0..500 {
        let port = (FIRST + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT) as u16;
        let is_free = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok()
            && TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok();
        if is_free {
            return Ok(port);
        }
    }
    bail!("no free port found")
}

/// Asks again and again until `condition` gives a value.
///
/// # Errors
/// When it has not within `timeout`, or when `condition` fails.
pub fn wait_until<T>(
    what: &str,
    timeout: Duration,
    mut condition: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(value) = condition()? {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            bail!("{what}: not within {timeout:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
