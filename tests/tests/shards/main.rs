//! Several shards with real processes: one stream over four links that the kernel scatters over four shards, through forward
//! mode to a libsrt server, without steering, with it, and while it is switched. It arrives bit by bit every time.

use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Result, ensure};
use bondgate_tests::bondgate::{self, Output, Settings};
use bondgate_tests::harness::{Need, SRT, Suite, is_root};
use bondgate_tests::ledger;
use bondgate_tests::media::{self, Feed, Recorder};
use bondgate_tests::process::Process;
use bondgate_tests::scene::{Scene, free_port, wait_until};

const LINKS: [&str; 4] = ["127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5"];
const RATE_BPS: u64 = 3_000_000;
/// How long the publisher stays after its last byte, so that what is under way arrives.
const HOLD: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let mut suite = Suite::from_args(2);
    suite.test("handed_over::uring", &[SRT, Need::IoUring], |scene| handed_over(scene, "uring"));
    suite.test("handed_over::mmsg", &[SRT], |scene| handed_over(scene, "mmsg"));
    suite.test("handed_over::without_any_capability", &[SRT, SETPRIV], without_any_capability);
    suite.test("steered::uring", &[SRT, Need::IoUring, Need::Bpf], |scene| steered(scene, "uring"));
    suite.test("steered::mmsg", &[SRT, Need::Bpf], |scene| steered(scene, "mmsg"));
    suite.test("switched::uring", &[SRT, Need::IoUring, Need::Bpf], |scene| switched(scene, "uring"));
    suite.test("switched::mmsg", &[SRT, Need::Bpf], |scene| switched(scene, "mmsg"));
    suite.test("demanded::without_any_capability", &[SETPRIV], demanded_without_any_capability);
    suite.run()
}

const SETPRIV: Need = Need::Program("setpriv", "util-linux");

/// A receiver of four shards between a bonding sender and a libsrt server.
struct Stage {
    settings: Settings,
    run: Process,
    send: Process,
    server: Recorder,
    publish: String,
}

/// Sets up everything so that at least one link comes in on a shard that does not own it.
fn stage(
    scene: &Scene,
    backend: &'static str,
    runtime: &'static str,
    wrap: impl Fn(Command) -> Command,
) -> Result<Stage> {
    let local = |port| std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let server_at = local(free_port()?);
    let server = Recorder::start(scene, "server", &media::uri(server_at, "mode=listener&latency=1000"))?;
    let settings = Settings { output: Output::Forward(server_at), backend, runtime, ..Settings::loopback()? };
    let mut run = settings.start_as(scene, "run", wrap)?;
    let listen = local(free_port()?);
    loop {
        let send = bondgate::send(scene, listen, settings.srtla, &LINKS)?;
        wait_until("four links", PATIENCE, || {
            run.expect_running()?;
            let links = bondgate::samples(settings.admin, "bondgate_links")?.iter().sum::<f64>();
            Ok((links >= 4.0).then_some(()))
        })?;
        // Once in 256 times the kernel's hash puts all four where they belong. Then other ports have to do.
        if arrivals(&settings, "handed_off")? > 0 {
            let publish = media::uri(listen, "streamid=cam1&latency=1000");
            return Ok(Stage { settings, run, send, server, publish });
        }
        send.terminate(Duration::from_secs(5))?;
        wait_until("the group's end", Duration::from_secs(60), || {
            let links = bondgate::samples(settings.admin, "bondgate_links")?.iter().sum::<f64>();
            Ok((links == 0.0).then_some(()))
        })?;
    }
}

impl Stage {
    /// Streams for `seconds`; meanwhile `disturb` does what it wants.
    fn stream(
        mut self,
        scene: &Scene,
        seconds: u64,
        disturb: impl FnOnce(&Self) -> Result<()>,
    ) -> Result<()> {
        let packets = (RATE_BPS * seconds / 8) as usize / media::MESSAGE_LEN * 7;
        let sent = media::synthetic_ts(packets, 43);
        let feed = Feed::start(scene, &self.publish, sent.clone(), RATE_BPS, HOLD)?;
        disturb(&self)?;
        feed.finish()?;
        self.send.expect_running()?;
        self.run.expect_running()?;
        bondgate::expect_accounted(self.settings.admin)?;
        // Retransmissions would hide it.
        for reason in ["not_member", "hand_off_full", "hand_off_loop"] {
            let label = format!("reason=\"{reason}\"");
            let dropped = sum(&self.settings, "bondgate_srtla_dropped_datagrams_total", &label)?;
            ensure!(dropped == 0, "{dropped} datagrams were dropped: {reason}");
        }
        let recorded = self.server.finish()?;
        ledger::complete(&sent, &recorded, 0)
    }
}

/// Datagrams of links by where they came in, over all shards.
fn arrivals(settings: &Settings, result: &str) -> Result<u64> {
    sum(settings, "bondgate_handoff_datagrams_total", &format!("result=\"{result}\""))
}

/// A metric's samples with this label, added up.
fn sum(settings: &Settings, name: &str, label: &str) -> Result<u64> {
    let (_, page) = bondgate::http_get(settings.admin, "/metrics")?;
    let counts = page
        .lines()
        .filter(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{') && rest.contains(label))
        })
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
    Ok(counts.sum())
}

const SHARDS: &str = "shards = 4\nsteering = \"off\"\n";
const STEERED: &str = "shards = 4\nsteering = \"on\"\n";
const AUTO: &str = "shards = 4\nsteering = \"auto\"\n";

fn handed_over(scene: &Scene, backend: &'static str) -> Result<()> {
    stage(scene, backend, SHARDS, |command| command)?.stream(scene, 4, |stage| {
        std::thread::sleep(Duration::from_secs(3));
        let handed_off = arrivals(&stage.settings, "handed_off")?;
        ensure!(handed_off > 50, "only {handed_off} datagrams were handed over");
        Ok(())
    })
}

/// Makes a command one of a process without any capability, as root or not.
fn unprivileged(command: Command) -> Command {
    if !is_root() {
        return command;
    }
    let mut wrapped = Command::new("setpriv");
    wrapped.args(["--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all", "--no-new-privs"]);
    wrapped.arg(command.get_program()).args(command.get_args());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => wrapped.env(key, value),
            None => wrapped.env_remove(key),
        };
    }
    wrapped
}

fn without_any_capability(scene: &Scene) -> Result<()> {
    stage(scene, "auto", AUTO, unprivileged)?.stream(scene, 3, |stage| {
        let says_why = |line: &str| line.contains("no steering") && line.contains("CAP_BPF");
        ensure!(stage.run.log().lines().iter().any(|line| says_why(line)), "it does not say why");
        Ok(())
    })
}

fn demanded_without_any_capability(scene: &Scene) -> Result<()> {
    let server = std::net::SocketAddr::from(([127, 0, 0, 1], free_port()?));
    let settings = Settings { output: Output::Forward(server), runtime: STEERED, ..Settings::loopback()? };
    std::fs::create_dir_all(scene.path("state"))?;
    let config = scene.write("run.toml", &settings.to_toml(scene))?;
    let mut run = bondgate::command(&["run", "--accept-open-ingest", "-c"])?;
    run.arg(config);
    let refused = Process::run(scene, "run", unprivileged(run), PATIENCE)?;
    refused.expect_code(1)?.expect_line(&["runtime.steering", "CAP_BPF"])?;
    Ok(())
}

fn steered(scene: &Scene, backend: &'static str) -> Result<()> {
    stage(scene, backend, STEERED, |command| command)?.stream(scene, 4, |stage| {
        wait_until("four steered links", PATIENCE, || {
            let steered = bondgate::samples(stage.settings.admin, "bondgate_steered_links")?;
            Ok((steered == [4.0]).then_some(()))
        })?;
        // Figures are published four times a second.
        std::thread::sleep(Duration::from_millis(600));
        let before = (arrivals(&stage.settings, "on_owner")?, arrivals(&stage.settings, "handed_off")?);
        std::thread::sleep(Duration::from_secs(2));
        let after = (arrivals(&stage.settings, "on_owner")?, arrivals(&stage.settings, "handed_off")?);
        let (on_owner, handed_off) = (after.0 - before.0, after.1 - before.1);
        ensure!(on_owner > 300, "only {on_owner} datagrams came in where they belong");
        // A link that times out on a busy machine registers from a new port, which takes a few.
        ensure!(handed_off < 20, "{handed_off} datagrams were handed over although {on_owner} were steered");
        Ok(())
    })
}

/// Steering ends and begins again all along.
fn switched(scene: &Scene, backend: &'static str) -> Result<()> {
    const ROUNDS: usize = 10;
    stage(scene, backend, STEERED, |command| command)?.stream(scene, 8, |stage| {
        let said = |text: &str| stage.run.log().lines().iter().filter(|line| line.contains(text)).count();
        let before = (arrivals(&stage.settings, "on_owner")?, arrivals(&stage.settings, "handed_off")?);
        for round in 1..=ROUNDS {
            stage.run.signal(libc::SIGUSR1)?;
            wait_until("the end of steering", PATIENCE, || {
                Ok((said("steering ends") == round).then_some(()))
            })?;
            std::thread::sleep(Duration::from_millis(250));
            stage.run.signal(libc::SIGUSR2)?;
            wait_until("steering", PATIENCE, || Ok((said("steering begins") == round + 1).then_some(())))?;
            std::thread::sleep(Duration::from_millis(250));
        }
        let after = (arrivals(&stage.settings, "on_owner")?, arrivals(&stage.settings, "handed_off")?);
        ensure!(after.0 - before.0 > 300, "hardly anything was steered: {before:?} {after:?}");
        ensure!(after.1 - before.1 > 50, "hardly anything was handed over: {before:?} {after:?}");
        Ok(())
    })
}
