//! Capabilities: what goes without, and that they are given up.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bondgate_ebpf::Gate;
use bondgate_sim::rng::Rng;
use bondgate_tests::attack::client::{Device, random_reg1, socket};
use bondgate_tests::attack::{BYSTANDER, VICTIM, host, srtla};
use bondgate_tests::bondgate::{self, Auth, Output};
use bondgate_tests::process::Process;
use bondgate_tests::scene::{Scene, wait_until};

use crate::figure;
use crate::rig::{Rig, cables, expect_said};

/// What [`threads`] says of a thread without rights.
const NONE: &str = "0000000000000000 0000000000000000 0000000000000000 1";

/// The effective and permitted capabilities of every thread of a process, and whether it can gain new ones.
fn threads(process: &Process) -> Result<Vec<(String, String)>> {
    let mut threads = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{}/task", process.id()))? {
        let status = std::fs::read_to_string(task?.path().join("status"))?;
        let line = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.map(str::trim).map(str::to_owned).context("no such line")
        };
        let rights = [line("CapEff:")?, line("CapPrm:")?, line("CapInh:")?, line("NoNewPrivs:")?].join(" ");
        threads.push((line("Name:")?, rights));
    }
    Ok(threads)
}

/// With the gate attached every thread gives up all capabilities; links and keys reach the maps all the same.
pub fn given_up(scene: &Scene) -> Result<()> {
    let rig = Rig::new(scene)?;
    let settings = rig.settings(Auth::Required, &format!("attach = \"on\"\n{}", cables()))?;
    let run = rig.arena.start(scene, &settings)?;
    let held = threads(&run)?;
    for (name, rights) in &held {
        ensure!(rights == NONE, "thread {name} holds {rights}");
    }
    ensure!(held.iter().any(|(name, _)| name.starts_with("shard-")), "no shards among {held:?}");
    ensure!(held.iter().any(|(name, _)| name == "gate"), "no gate among {held:?}");
    let generation = Gate::open_pinned(&rig.pins.dir())?.generation()?;
    let cam = bondgate::enroll(scene, "cam", srtla().into())?;
    wait_until("the new policy in the maps", Duration::from_secs(5), || {
        Ok((Gate::open_pinned(&rig.pins.dir())?.generation()? > generation).then_some(()))
    })?;
    let socket = socket(&rig.arena.bystander, host(BYSTANDER), srtla())?;
    Device::new(&cam, 5)?.register(&socket, 1, Duration::from_secs(5))?;
    wait_until("the link in the map", Duration::from_secs(5), || {
        Ok((Gate::open_pinned(&rig.pins.dir())?.links()?.len() == 1).then_some(()))
    })?;
    figure(
        "capabilities",
        format_args!("{} threads, none holds any; policy and link reached the maps", held.len()),
    );
    Ok(())
}

/// The same with several shards in forward mode, and whoever steers between them.
pub fn given_up_by_several_shards(scene: &Scene) -> Result<()> {
    let rig = Rig::new(scene)?;
    let cam = bondgate::enroll(scene, "cam", srtla().into())?;
    let mut settings = rig.settings(Auth::Required, &format!("attach = \"on\"\n{}", cables()))?;
    settings.output = Output::Forward(([127, 0, 0, 1], 9990).into());
    let run = settings.start_as(scene, "run", |mut command| {
        command.env("BONDGATE__RUNTIME__SHARDS", "3");
        rig.arena.receiver.wrap(&command)
    })?;
    let held = threads(&run)?;
    for (name, rights) in &held {
        ensure!(rights == NONE, "thread {name} holds {rights}");
    }
    let shards = held.iter().filter(|(name, _)| name.starts_with("shard-")).count();
    ensure!(shards == 3, "{held:?}");
    let mut device = Device::new(&cam, 5)?;
    let mut sockets = Vec::new();
    for link in 0..4 {
        let socket = socket(&rig.arena.bystander, host(BYSTANDER), srtla())?;
        device.register(&socket, link, Duration::from_secs(5))?;
        sockets.push(socket);
    }
    let owners = wait_until("the links in the map", Duration::from_secs(5), || {
        let links = Gate::open_pinned(&rig.pins.dir())?.links()?;
        Ok((links.len() == sockets.len())
            .then(|| links.into_iter().map(|(_, link)| link.shard).collect::<Vec<_>>()))
    })?;
    ensure!(
        owners.iter().all(|owner| *owner == owners[0] && *owner < 3),
        "one group of several shards: {owners:?}"
    );
    figure(
        "capabilities, 3 shards",
        format_args!("{} threads, none holds any; 4 links of one group in the map", held.len()),
    );
    Ok(())
}

/// Turns a command into one without any capability.
fn without_rights(command: &Command) -> Command {
    let mut wrapped = Command::new("setpriv");
    wrapped.args(["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]);
    wrapped.arg(command.get_program()).args(command.get_args());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => wrapped.env(key, value),
            None => wrapped.env_remove(key),
        };
    }
    wrapped
}

/// Without rights: the message names what is missing, and the application's own checks do.
pub fn none_from_the_start(scene: &Scene) -> Result<()> {
    let rig = Rig::new(scene)?;
    let cam = bondgate::enroll(scene, "cam", srtla().into())?;
    let told = "CAP_BPF is missing";
    let attach = rig.xdp_command(scene, &["attach", "cable0"])?;
    let attach = rig.arena.receiver.wrap(&without_rights(&attach));
    let attach = Process::run(scene, "attach", attach, Duration::from_secs(20))?;
    attach.expect_code(1)?.expect_line(&[told, "run as root", "AmbientCapabilities="])?;
    let status = rig.xdp(scene, &["status"])?;
    status.expect_line(&["there is no gate", "bondgate xdp attach"])?;

    let demanding = rig.settings(Auth::Required, &format!("attach = \"on\"\n{}", cables()))?;
    let config = scene.write("demanding.toml", &demanding.to_toml(scene))?;
    let mut command = bondgate::command(&["run", "-c"])?;
    command.arg(config);
    let refused = rig.arena.receiver.wrap(&without_rights(&command));
    let refused = Process::run(scene, "demanding", refused, Duration::from_secs(20))?;
    refused.expect_code(1)?.expect_line(&["gate.attach = \"on\"", told])?;

    let settings = rig.settings(Auth::Required, &cables())?;
    let run =
        settings.start_as(scene, "run", |command| rig.arena.receiver.wrap(&without_rights(&command)))?;
    expect_said(&run, "no gate, the application's own checks do")?;
    expect_said(&run, told)?;
    ensure!(!Gate::is_there(&rig.pins.dir()), "there is a gate");
    let stranger = socket(&rig.arena.victim, host(VICTIM), srtla())?;
    let mut rng = Rng::new(1);
    for _ in 0..20 {
        stranger.send(&random_reg1(&mut rng))?;
    }
    let honest = socket(&rig.arena.bystander, host(BYSTANDER), srtla())?;
    Device::new(&cam, 5)?.register(&honest, 1, Duration::from_secs(5))?;
    let refused = wait_until("the application to refuse", Duration::from_secs(5), || {
        let refused = rig.arena.dropped("stock_not_admitted")? + rig.arena.dropped("not_admitted")?;
        Ok((refused >= 20).then_some(refused))
    })?;
    figure(
        "no rights",
        format_args!("a device registered, {refused} registrations without a key refused by the application"),
    );
    Ok(())
}
