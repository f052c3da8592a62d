//! Children of a test: started, watched, ended by id, never left behind.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::scene::{Log, Scene, wait_until};

/// A running (or ended) child. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: Arc<Log>,
    readers: Vec<JoinHandle<()>>,
}

impl Process {
    /// Starts a command; its output goes to the scene's log under `name`. Standard input is closed unless the command
    /// says otherwise; a standard output that the command redirects stays redirected only through [`Process::spawn_with`].
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(scene: &Scene, name: &str, command: Command) -> Result<Self> {
        Self::spawn_with(scene, name, command, Stdio::null(), Stdio::piped())
    }

    /// Like [`Process::spawn`], with standard input and output as given.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn_with(
        scene: &Scene,
        name: &str,
        mut command: Command,
        stdin: Stdio,
        stdout: Stdio,
    ) -> Result<Self> {
        command.stdin(stdin).stdout(stdout).stderr(Stdio::piped());
        // SAFETY: prctl with PR_SET_PDEATHSIG only sets a flag of the calling process; it is async-signal-safe and touches
        // no memory, so it may run between fork and exec.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        let log = scene.open_log(name);
        log.push(format!("$ {command:?}"));
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start {name} ({})", command.get_program().display()))?;
        let mut readers = Vec::new();
        if let Some(stream) = child.stderr.take() {
            readers.push(read_lines(stream, Arc::clone(&log)));
        }
        if let Some(stream) = child.stdout.take() {
            readers.push(read_lines(stream, Arc::clone(&log)));
        }
        Ok(Self { name: name.to_owned(), child, log, readers })
    }

    /// Runs a command to its end.
    ///
    /// # Errors
    /// When it cannot be started or does not end within `timeout`.
    pub fn run(scene: &Scene, name: &str, command: Command, timeout: Duration) -> Result<Finished> {
        Self::spawn(scene, name, command)?.finish(timeout)
    }

    /// What it printed.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Its process ID.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The pipe to its standard input, if it was started with one.
    pub fn take_stdin(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it is gone already.
    pub fn signal(&self, signal: i32) -> Result<()> {
        let pid = i32::try_from(self.child.id()).context("process id out of range")?;
        // SAFETY: kill with the id of our own child, which is not reaped before `wait`, so the id cannot belong to another.
        if unsafe { libc::kill(pid, signal) } != 0 {
            bail!("cannot signal {}: {}", self.name, std::io::Error::last_os_error());
        }
        Ok(())
    }

    /// Fails if it has ended.
    ///
    /// # Errors
    /// When it has ended, with its status.
    pub fn expect_running(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} has ended with {status}", self.name),
        }
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it does not end within `timeout`.
    pub fn finish(mut self, timeout: Duration) -> Result<Finished> {
        let name = self.name.clone();
        let status = wait_until(&format!("end of {name}"), timeout, || Ok(self.child.try_wait()?))?;
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        Ok(Finished { name, status, lines: self.log.lines() })
    }

    /// Asks it to stop with SIGTERM and waits for its end.
    ///
    /// # Errors
    /// When it has ended before, or does not within `timeout`.
    pub fn terminate(mut self, timeout: Duration) -> Result<Finished> {
        self.expect_running()?;
        self.signal(libc::SIGTERM)?;
        self.finish(timeout)
    }

    /// Ends it at once, as a power failure would.
    ///
    /// # Errors
    /// When it has ended before.
    pub fn kill(mut self) -> Result<()> {
        self.expect_running()?;
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A child that has ended.
#[derive(Debug)]
pub struct Finished {
    name: String,
    /// How it ended.
    pub status: ExitStatus,
    /// Everything it printed.
    pub lines: Vec<String>,
}

impl Finished {
    /// Fails unless it ended with this exit code.
    ///
    /// # Errors
    /// When it did not.
    pub fn expect_code(&self, code: i32) -> Result<&Self> {
        if self.status.code() != Some(code) {
            let signal = self.status.signal();
            bail!("{} ended with {} (signal {signal:?}), expected exit code {code}", self.name, self.status);
        }
        Ok(self)
    }

    /// Fails unless one line holds all of `words`.
    ///
    /// # Errors
    /// When none does.
    pub fn expect_line(&self, words: &[&str]) -> Result<&Self> {
        let found = self.lines.iter().skip(1).any(|line| words.iter().all(|word| line.contains(word)));
        if !found {
            bail!("{} printed no line with {words:?}", self.name);
        }
        Ok(self)
    }
}

fn read_lines(stream: impl Read + Send + 'static, log: Arc<Log>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut reader = BufReader::new(stream);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|len| len > 0) {
            log.push(String::from_utf8_lossy(&line).trim_end().to_owned());
            line.clear();
        }
    })
}
