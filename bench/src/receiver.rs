//! The process under test: bondgate, the built-in baseline, or anybody's receiver by its command line.
//!
//! Promise: it runs on its own processor where there are two, on its own host where there are hosts, and ends with the value.
//! Its output is read, so that it never blocks on it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bondgate_ebpf_common::reason::{Action, Reason};
use bondgate_tests::bondgate::{http_get, uri_in};
use bondgate_tests::process::Process;
use bondgate_tests::scene::Scene;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::machine;
use crate::proc;
use crate::scenario::{Auth, Receiver, Scenario};
use crate::swarm::Key;
use crate::topology::{Ground, RECEIVER_DEVICE};

/// The peer of relays.
pub const SRT_LIVE_TRANSMIT: &str = "srt-live-transmit";
/// The harness's processor, and the receiver's.
pub const HARNESS_CPU: usize = 0;
/// See [`HARNESS_CPU`].
pub const RECEIVER_CPU: usize = 1;

/// Where the programs are.
#[derive(Clone, Debug)]
pub struct Programs {
    /// `bondgate`.
    pub bondgate: PathBuf,
    /// `bondgate-baseline`.
    pub baseline: PathBuf,
}

impl Programs {
    /// Beside the running program, or `bondgate` where the caller says.
    ///
    /// # Errors
    /// When one is missing, with the command that builds it.
    pub fn find(bondgate: Option<&Path>) -> Result<Self> {
        let own = std::env::current_exe().context("where am I?")?;
        let beside = own.parent().context("where am I?")?;
        let programs = Self {
            bondgate: bondgate.map_or_else(|| beside.join("bondgate"), Path::to_owned),
            baseline: beside.join("bondgate-baseline"),
        };
        for path in [&programs.bondgate, &programs.baseline] {
            if !path.is_file() {
                bail!(
                    "{} is missing; `cargo build --release -p bondgate -p bondgate-bench` builds it, or name it with --bondgate",
                    path.display()
                );
            }
        }
        Ok(programs)
    }
}

/// A running receiver.
#[derive(Debug)]
pub struct Running {
    /// One, but for relays of which each serves a single stream.
    processes: Vec<Process>,
    admin: Option<SocketAddr>,
    /// What it was started as.
    pub spec: Receiver,
}

/// What a receiver tells about itself, added up over its shards.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// Datagrams received.
    pub rx: f64,
    /// Datagrams sent.
    pub tx: f64,
    /// Turns of the loop.
    pub turns: f64,
    /// Drops by reason.
    pub drops: Vec<(String, u64)>,
    /// Frames that ended in the gate, by reason.
    pub gate_drops: Vec<(String, u64)>,
}

impl Running {
    /// Starts a receiver on the ground. It may need a moment until it answers.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(
        scene: &Scene,
        ground: &Ground,
        programs: &Programs,
        scenario: &Scenario,
        spec: &Receiver,
    ) -> Result<Self> {
        let mut admin = None;
        let command = match spec.program.as_str() {
            "bondgate" => {
                admin = Some(ground.admin);
                let path =
                    scene.write("bondgate.toml", &config(ground, scenario, spec, &scene.path("state")))?;
                let mut command = Command::new(&programs.bondgate);
                command.arg("run").arg("-c").arg(path).env_remove("NOTIFY_SOCKET").env("NO_COLOR", "1");
                if scenario.auth == Auth::Stock {
                    command.arg("--accept-open-ingest");
                }
                command.args(spec.set.iter().flat_map(|setting| ["--set", setting]));
                command
            }
            "baseline" => {
                let mut command = Command::new(&programs.baseline);
                command.args(["--listen", &ground.receiver.to_string()]);
                command.args(["--target", &ground.server.to_string()]);
                command.args(["--groups-max", &scenario.groups.max(200).to_string()]);
                command.args(["--links-max", &scenario.links.max(8).to_string()]);
                command
            }
            other => peer_command(other, ground),
        };
        let process =
            on_cpu(RECEIVER_CPU, || Process::spawn(scene, &spec.name, ground.on_receiver(command)))?;
        Ok(Self { processes: vec![process], admin, spec: spec.clone() })
    }

    /// Resident memory; pages that processes share count once for each.
    pub fn memory_bytes(&self) -> Option<u64> {
        self.processes.iter().map(|process| proc::memory_bytes(process.id(), "VmRSS")).sum()
    }

    /// Its process ID; the first one's, if there are several.
    pub fn pid(&self) -> u32 {
        self.processes.first().map_or(0, Process::id)
    }

    /// Fails, with its last words, when it has ended.
    ///
    /// # Errors
    /// When it has.
    pub fn expect_running(&mut self, scene: &Scene) -> Result<()> {
        self.processes.iter_mut().try_for_each(Process::expect_running).with_context(|| scene.transcript())
    }

    /// Processor time so far.
    pub fn cpu_ns(&self) -> u64 {
        self.processes.iter().filter_map(|process| proc::cpu_ns(process.id())).sum()
    }

    /// What it tells about itself; `None` for receivers that do not.
    pub fn told(&self, ground: &Ground) -> Option<Told> {
        let admin = self.admin?;
        let (status, body) = ground.inside_receiver(move || http_get(admin, "/metrics")).ok()?;
        (status == 200).then(|| read_metrics(&body))
    }

    /// Ends it.
    pub fn stop(self) {
        for process in self.processes {
            // One that does not end in time is killed when it is dropped.
            let _ = process.terminate(Duration::from_secs(5));
        }
    }
}

impl Running {
    /// Starts a relay on the ground: bondgate, or one `srt-live-transmit` per stream, which throws the payloads away.
    /// Returns the SRT server of each stream.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_relay(
        scene: &Scene,
        ground: &Ground,
        programs: &Programs,
        scenario: &Scenario,
        spec: &Receiver,
    ) -> Result<(Self, Vec<SocketAddr>)> {
        let streams = scenario.groups as usize;
        let mut admin = None;
        let (commands, servers) = if spec.program == SRT_LIVE_TRANSMIT {
            let servers = ground.srt_addrs(streams)?;
            let command = |server: &SocketAddr| {
                let mut command = Command::new(SRT_LIVE_TRANSMIT);
                command.args(["-q", &format!("srt://{server}?mode=listener"), "file://con"]);
                command
            };
            (servers.iter().map(command).collect(), servers)
        } else {
            let server = ground.srt_addrs(1)?;
            admin = Some(ground.admin);
            let path = scene
                .write("bondgate.toml", &relay_config(ground, scenario, spec, server.first().copied()))?;
            let mut command = Command::new(&programs.bondgate);
            command.args(["run", "--accept-open-ingest", "-c"]).arg(path);
            command.env_remove("NOTIFY_SOCKET").env("NO_COLOR", "1");
            (vec![command], server.repeat(streams))
        };
        let start = |command: Command| {
            let command = ground.on_receiver(command);
            Process::spawn_with(scene, &spec.name, command, Stdio::null(), Stdio::null())
        };
        let processes = on_cpu(RECEIVER_CPU, || commands.into_iter().map(start).collect::<Result<Vec<_>>>())?;
        Ok((Self { processes, admin, spec: spec.clone() }, servers))
    }
}

/// Adds up what is needed of `/metrics`.
fn read_metrics(body: &str) -> Told {
    let mut told = Told::default();
    for line in body.lines() {
        let Some((sample, value)) = line.rsplit_once(' ') else { continue };
        let (Ok(value), name) = (value.parse::<f64>(), sample.split('{').next().unwrap_or_default()) else {
            continue;
        };
        match name {
            "bondgate_rx_datagrams_total" => told.rx += value,
            "bondgate_tx_datagrams_total" => told.tx += value,
            "bondgate_shard_turns_total" => told.turns += value,
            "bondgate_srtla_dropped_datagrams_total" if value > 0.0 => {
                add(&mut told.drops, reason(sample), value as u64);
            }
            "bondgate_gate_packets_total" if value > 0.0 && is_drop(reason(sample)) => {
                add(&mut told.gate_drops, reason(sample), value as u64);
            }
            _ => {}
        }
    }
    told
}

fn reason(sample: &str) -> &str {
    let reason = sample.split("reason=\"").nth(1).and_then(|rest| rest.split('"').next());
    reason.unwrap_or("unknown")
}

/// Whether the gate drops for this reason.
fn is_drop(name: &str) -> bool {
    Reason::ALL.iter().any(|reason| reason.name() == name && reason.action() == Action::Drop)
}

fn add(counts: &mut Vec<(String, u64)>, reason: &str, more: u64) {
    match counts.iter_mut().find(|(known, _)| *known == reason) {
        Some((_, count)) => *count += more,
        None => counts.push((reason.to_owned(), more)),
    }
}

fn config(ground: &Ground, scenario: &Scenario, spec: &Receiver, state: &Path) -> String {
    // Groups are spread over shards by chance: none may run out of room.
    let groups_max = if spec.shards == 1 { scenario.groups } else { scenario.groups.saturating_mul(2) };
    format!(
        "[log]\nlevel = \"warn\"\nformat = \"human\"\n\n\
         [runtime]\nbackend = \"{}\"\nshards = {}\nstate_dir = {:?}\n\n\
         [srtla]\nlisten = \"{}\"\nauth = \"{}\"\nallow = {}\ngroups_max = {}\nlinks_per_group_max = {}\n\n\
         [output]\nmode = \"forward\"\n\n[forward]\nserver = \"{}\"\n\n[admin]\nlisten = \"{}\"\n{}",
        spec.backend,
        spec.shards,
        if scenario.auth == Auth::Stock { "off".into() } else { state.display().to_string() },
        ground.receiver,
        if scenario.auth == Auth::Stock { "open" } else { "required" },
        if spec.gate { format!("[{:?}]", ground.links_network()) } else { "[]".into() },
        groups_max.clamp(8, 65_535),
        scenario.links.max(1),
        ground.server,
        ground.admin,
        if spec.gate {
            format!("\n[gate]\nattach = \"on\"\ninterfaces = [{RECEIVER_DEVICE:?}]\nmode = \"native\"\n")
        } else {
            String::new()
        },
    )
}

fn relay_config(ground: &Ground, scenario: &Scenario, spec: &Receiver, srt: Option<SocketAddr>) -> String {
    format!(
        "[log]\nlevel = \"warn\"\nformat = \"human\"\n\n[runtime]\nbackend = \"{}\"\nstate_dir = \"off\"\n\n\
         [srtla]\nlisten = \"{}\"\nauth = \"open\"\n\n[srt]\nlisten = \"{}\"\nlatency_ms = 120\nconnections_max = {}\n\n\
         [relay]\nplayers_per_stream_max = {}\n\n[admin]\nlisten = \"{}\"\n",
        spec.backend,
        ground.receiver,
        srt.unwrap_or(ground.receiver),
        scenario.groups * (1 + scenario.players) + 8,
        scenario.players.max(1),
        ground.admin,
    )
}

fn peer_command(template: &str, ground: &Ground) -> Command {
    let filled = template
        .replace("{listen}", &ground.receiver.to_string())
        .replace("{listen_port}", &ground.receiver.port().to_string())
        .replace("{target}", &ground.server.to_string())
        .replace("{target_host}", &ground.server.ip().to_string())
        .replace("{target_port}", &ground.server.port().to_string());
    let mut words = filled.split_whitespace();
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words);
    command
}

/// Enrolls as many devices as the groups of a scenario need, in the keyring of the receiver to be started.
///
/// # Errors
/// When bondgate refuses.
pub fn enroll(scene: &Scene, ground: &Ground, programs: &Programs, keys: u32) -> Result<Vec<Key>> {
    std::fs::create_dir_all(scene.path("state"))?;
    let config = scene.write("keys.toml", "")?;
    (0..keys)
        .map(|key| {
            let output = Command::new(&programs.bondgate)
                .args(["device", "enroll", &format!("bench{key}"), "--no-qr"])
                .args(["--server", &ground.receiver.to_string()])
                .arg("--config")
                .arg(&config)
                .arg("--state-dir")
                .arg(scene.path("state"))
                .output()
                .context("cannot run bondgate")?;
            if !output.status.success() {
                bail!("bondgate device enroll: {}", String::from_utf8_lossy(&output.stderr).trim());
            }
            Key::parse(&uri_in(&String::from_utf8_lossy(&output.stdout))?)
        })
        .collect()
}

/// Does something with this thread on another processor, so that what it starts stays there. Where there is only one, or
/// pinning is not allowed, it is done as it is.
fn on_cpu<T>(cpu: usize, work: impl FnOnce() -> T) -> T {
    let before = sched_getaffinity(None).ok().filter(|_| machine::all_cpus() > cpu);
    if before.is_some() {
        pin(cpu);
    }
    let result = work();
    if let Some(before) = before {
        // What was allowed a moment ago still is.
        let _ = sched_setaffinity(None, &before);
    }
    result
}

/// Binds this thread to a processor, if that is possible; whether it was.
pub fn pin(cpu: usize) -> bool {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_added_up_over_shards() {
        let told = read_metrics(
            "# HELP x y\nbondgate_rx_datagrams_total{shard=\"0\"} 5\nbondgate_rx_datagrams_total{shard=\"1\"} 7\n\
             bondgate_shard_turns_total{shard=\"0\"} 3\n\
             bondgate_srtla_dropped_datagrams_total{shard=\"0\",reason=\"runt\"} 2\n\
             bondgate_srtla_dropped_datagrams_total{shard=\"1\",reason=\"runt\"} 1\n\
             bondgate_srtla_dropped_datagrams_total{shard=\"1\",reason=\"oversize\"} 0\n\
             bondgate_gate_packets_total{reason=\"unregistered\"} 9\n\
             bondgate_gate_packets_total{reason=\"link\"} 8\n",
        );
        assert_eq!((told.rx, told.turns), (12.0, 3.0));
        assert_eq!(told.drops, [("runt".to_owned(), 3)]);
        assert_eq!(told.gate_drops, [("unregistered".to_owned(), 9)]);
    }
}
