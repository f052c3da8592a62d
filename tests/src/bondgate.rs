//! The binary under test: built once, configured per test, watched through its own readiness and metrics.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use crate::process::Process;
use crate::scene::{Scene, free_port, wait_until};

/// The binary under test: `BONDGATE_BIN` if set, else built by cargo in the profile of the tests, once per test run.
///
/// # Errors
/// When cargo cannot build it; the text holds the compiler's messages.
pub fn binary() -> Result<&'static Path> {
    static BINARY: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    BINARY
        .get_or_init(|| match std::env::var_os("BONDGATE_BIN") {
            Some(path) => Ok(PathBuf::from(path)),
            None => build().map_err(|error| format!("{error:#}")),
        })
        .as_deref()
        .map_err(|error| anyhow!("{error}"))
}

/// Builds with the profile and the feature set of the test run, so that almost everything is there already.
fn build() -> Result<PathBuf> {
    let profile = if cfg!(debug_assertions) { "test" } else { "release" };
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--quiet", "--workspace", "--bin", "bondgate", "--profile", profile])
        .args(["--message-format", "json-render-diagnostics"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .stdin(Stdio::null())
        .output()
        .context("cannot run cargo")?;
    if !output.status.success() {
        bail!("cargo cannot build bondgate:\n{}", String::from_utf8_lossy(&output.stderr));
    }
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == "bondgate")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .context("cargo built bondgate and does not say where")
}

/// `bondgate` with arguments, logging as lines of text.
///
/// # Errors
/// When the binary cannot be built.
pub fn command(arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(binary()?);
    command.args(arguments).env("NO_COLOR", "1").env_remove("NOTIFY_SOCKET");
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("BONDGATE_")) {
        command.env_remove(name);
    }
    Ok(command)
}

/// What is done with the streams.
#[derive(Clone, Debug)]
pub enum Output {
    /// bondgate is the SRT server.
    Relay,
    /// SRT goes on to that server.
    Forward(SocketAddr),
}

/// Settings of one `bondgate run`.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where links arrive.
    pub srtla: SocketAddr,
    /// Where plain SRT arrives.
    pub srt: SocketAddr,
    /// Where readiness and metrics are served.
    pub admin: SocketAddr,
    /// What is done with the streams.
    pub output: Output,
    /// `auto`, `uring` or `mmsg`.
    pub backend: &'static str,
    /// Least latency in milliseconds.
    pub latency_ms: u64,
    /// Who may register.
    pub auth: Auth,
    /// `srtla.allow`, as in TOML; empty: everywhere.
    pub allow: String,
    /// Further lines of the section `[runtime]`.
    pub runtime: &'static str,
    /// Further lines of the section `[streams]`.
    pub streams: &'static str,
    /// Further sections.
    pub sections: String,
}

/// Who may register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Auth {
    /// Everybody.
    Open,
    /// Devices, and senders without a key from these networks, as in TOML.
    Mixed(&'static str),
    /// Devices.
    Required,
}

impl Settings {
    /// Relay on loopback, own free ports.
    ///
    /// # Errors
    /// When no ports are free.
    pub fn loopback() -> Result<Self> {
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Ok(Self {
            srtla: local(free_port()?),
            srt: local(free_port()?),
            admin: local(free_port()?),
            output: Output::Relay,
            backend: "auto",
            latency_ms: 300,
            auth: Auth::Open,
            allow: String::new(),
            runtime: "",
            streams: "",
            sections: String::new(),
        })
    }

    /// The configuration file's content; state is kept in the scene's directory.
    pub fn to_toml(&self, scene: &Scene) -> String {
        let mut toml = format!(
            "[log]\nformat = \"human\"\nlevel = \"debug\"\n\n\
             [runtime]\n{}backend = \"{}\"\nstate_dir = \"{}\"\n\n\
             [srtla]\n{}{}listen = \"{}\"\n\n[streams]\n{}\n\n[srt]\nlisten = \"{}\"\nlatency_ms = {}\n\n[admin]\nlisten = \"{}\"\n\n",
            self.runtime,
            self.backend,
            scene.path("state").display(),
            match self.auth {
                Auth::Open => "auth = \"open\"\n".to_owned(),
                Auth::Mixed(networks) => format!("auth = \"mixed\"\nstock_allow = {networks}\n"),
                Auth::Required => "auth = \"required\"\n".to_owned(),
            },
            if self.allow.is_empty() { String::new() } else { format!("allow = {}\n", self.allow) },
            self.srtla,
            self.streams,
            self.srt,
            self.latency_ms,
            self.admin
        );
        match self.output {
            Output::Relay => toml.push_str("[output]\nmode = \"relay\"\n"),
            Output::Forward(server) => {
                let _ = write!(toml, "[output]\nmode = \"forward\"\n\n[forward]\nserver = \"{server}\"\n");
            }
        }
        toml.push_str(&self.sections);
        toml
    }

    /// Puts these settings in place of those that a running process was started with under this name: into the same file, or
    /// by another one that takes its name, as editors do.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn rewrite(&self, scene: &Scene, name: &str, in_place: bool) -> Result<()> {
        let file = format!("{name}.toml");
        if in_place {
            scene.write(&file, &self.to_toml(scene))?;
        } else {
            let new = scene.write(&format!("{file}.new"), &self.to_toml(scene))?;
            std::fs::rename(new, scene.path(&file))?;
        }
        Ok(())
    }

    /// Starts `bondgate run` and waits until it says that it is ready.
    ///
    /// # Errors
    /// When it ends instead, or is not ready within ten seconds.
    pub fn start(&self, scene: &Scene) -> Result<Process> {
        self.start_as(scene, "run", |command| command)
    }

    /// Like [`Settings::start`], through a wrapper (for example into a namespace, where readiness cannot be asked for from
    /// outside: then the log is watched).
    ///
    /// # Errors
    /// When it ends instead, or is not ready within ten seconds.
    pub fn start_as(
        &self,
        scene: &Scene,
        name: &str,
        wrap: impl FnOnce(Command) -> Command,
    ) -> Result<Process> {
        std::fs::create_dir_all(scene.path("state"))?;
        let config = scene.write(&format!("{name}.toml"), &self.to_toml(scene))?;
        let mut run = command(&["run"])?;
        if self.auth == Auth::Open {
            run.arg("--accept-open-ingest");
        }
        run.arg("-c").arg(config);
        let plain_program = run.get_program().to_owned();
        let run = wrap(run);
        let is_wrapped = run.get_program() != plain_program;
        let mut process = Process::spawn(scene, name, run)?;
        wait_until("readiness of bondgate run", Duration::from_secs(10), || {
            process.expect_running()?;
            let is_ready = if is_wrapped {
                process.log().lines().iter().skip(1).any(|line| line.contains("ready"))
            } else {
                http_get(self.admin, "/readyz").is_ok_and(|(status, _)| status == 200)
            };
            Ok(is_ready.then_some(()))
        })?;
        Ok(process)
    }
}

/// Runs `bondgate device|key|token ...` on the keyring of the scene's receivers, whether one is running or not. Returns what
/// it prints on standard output.
///
/// # Errors
/// When it fails; the text is what it says.
pub fn administer(scene: &Scene, arguments: &[&str]) -> Result<String> {
    std::fs::create_dir_all(scene.path("state"))?;
    let config = scene.write("keys.toml", "")?;
    let mut command = command(arguments)?;
    command.arg("--config").arg(config).arg("--state-dir").arg(scene.path("state")).stdin(Stdio::null());
    let output = command.output().context("cannot run bondgate")?;
    if !output.status.success() {
        bail!("bondgate {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Enrolls a device that finds its receiver at `server`; returns its provisioning URI.
///
/// # Errors
/// When there is such a device already, or the keyring cannot be written.
pub fn enroll(scene: &Scene, name: &str, server: SocketAddr) -> Result<String> {
    uri_in(&administer(scene, &["device", "enroll", name, "--no-qr", "--server", &server.to_string()])?)
}

/// The provisioning URI among lines of text.
///
/// # Errors
/// When there is none.
pub fn uri_in(text: &str) -> Result<String> {
    let line = text.lines().map(str::trim).find(|line| line.starts_with("srtla://"));
    line.map(str::to_owned).with_context(|| format!("no provisioning URI in {text:?}"))
}

/// Writes a provisioning URI to a file that `bondgate send --key-file` takes.
///
/// # Errors
/// When it cannot be written.
pub fn key_file(scene: &Scene, name: &str, uri: &str) -> Result<PathBuf> {
    let path = scene.write(name, uri)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    Ok(path)
}

/// The bonding sender, from a local SRT port over some local addresses to a receiver.
///
/// # Errors
/// When it cannot be started.
pub fn send(scene: &Scene, listen: SocketAddr, to: SocketAddr, links: &[&str]) -> Result<Process> {
    Process::spawn(scene, "send", send_command(listen, to, links)?)
}

/// The command behind [`send`]; without links it follows whatever interfaces there are.
///
/// # Errors
/// When the binary cannot be built.
pub fn send_command(listen: SocketAddr, to: SocketAddr, links: &[&str]) -> Result<Command> {
    let mut command = command(&["send", "--log-format", "human", "--log-level", "debug"])?;
    command.args(["--to", &to.to_string(), "--listen", &listen.to_string()]);
    for link in links {
        command.args(["--link", link]);
    }
    if links.is_empty() {
        command.arg("--auto");
    }
    Ok(command)
}

/// A minimal HTTP GET: status and body.
///
/// # Errors
/// When nobody answers or the answer is no HTTP.
pub fn http_get(server: SocketAddr, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&server, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).context("no HTTP status")?;
    Ok((status, body.to_owned()))
}

/// All samples of a metric (`name{...} value`), from `/metrics`.
///
/// # Errors
/// When the metrics cannot be read or hold no such sample.
pub fn samples(admin: SocketAddr, name: &str) -> Result<Vec<f64>> {
    let (status, body) = http_get(admin, "/metrics")?;
    if status != 200 {
        bail!("/metrics answers {status}");
    }
    let samples: Vec<_> = body
        .lines()
        .filter_map(|line| line.strip_prefix(name))
        .filter(|rest| rest.starts_with([' ', '{']))
        .filter_map(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok())
        .collect();
    if samples.is_empty() {
        bail!("/metrics has no {name}");
    }
    Ok(samples)
}

/// Fails unless the receiver has seen datagrams and can account for each of them.
///
/// # Errors
/// When it cannot.
pub fn expect_accounted(admin: SocketAddr) -> Result<()> {
    let received: f64 = samples(admin, "bondgate_srtla_received_datagrams_total")?.iter().sum();
    let unaccounted = samples(admin, "bondgate_srtla_unaccounted_datagrams")?;
    if received == 0.0 || unaccounted.iter().any(|count| *count != 0.0) {
        bail!("of {received} datagrams {unaccounted:?} are unaccounted for");
    }
    Ok(())
}
