//! A receiver's host with a gate.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bondgate_ebpf::Gate;
use bondgate_ebpf_common::reason::Reason;
use bondgate_tests::attack::Arena;
use bondgate_tests::bondgate::{self, Auth, Settings};
use bondgate_tests::pins::PinFs;
use bondgate_tests::process::{Finished, Process};
use bondgate_tests::scene::{Scene, wait_until};

/// The receiver's interfaces, by the host on the other end.
pub const CABLES: [&str; 4] = ["cable0", "cable1", "cable2", "cable3"];

/// An arena and a place for pins.
pub struct Rig {
    pub arena: Arena,
    pub pins: PinFs,
}

impl Rig {
    pub fn new(scene: &Scene) -> Result<Self> {
        Ok(Self { pins: PinFs::new(scene)?, arena: Arena::new()? })
    }

    /// The arena's settings, with a section `[gate]` of these lines.
    pub fn settings(&self, auth: Auth, gate: &str) -> Result<Settings> {
        let mut settings = Arena::settings(auth)?;
        settings.sections = format!("\n[gate]\npin_dir = \"{}\"\n{gate}\n", self.pins.dir().display());
        Ok(settings)
    }

    /// `bondgate xdp` on the receiver's host.
    pub fn xdp(&self, scene: &Scene, arguments: &[&str]) -> Result<Finished> {
        let done = Process::run(
            scene,
            &format!("xdp {}", arguments.join(" ")),
            self.arena.receiver.wrap(&self.xdp_command(scene, arguments)?),
            Duration::from_secs(20),
        )?;
        done.expect_code(0)?;
        Ok(done)
    }

    /// The command of it.
    pub fn xdp_command(&self, scene: &Scene, arguments: &[&str]) -> Result<Command> {
        let mut command = bondgate::command(&[&["xdp"], arguments].concat())?;
        command.arg("--config").arg(self.config(scene)?);
        Ok(command)
    }

    fn config(&self, scene: &Scene) -> Result<PathBuf> {
        scene.write("xdp.toml", &format!("[gate]\npin_dir = \"{}\"\n", self.pins.dir().display()))
    }

    /// How many frames the gate has judged for this reason.
    pub fn count(&self, reason: Reason) -> Result<u64> {
        let counters = Gate::open_pinned(&self.pins.dir())?.counters()?;
        let found = counters.reasons.iter().find(|(of, _)| *of == reason);
        Ok(found.context("no such counter")?.1.packets)
    }

    /// Waits until the gate is attached and filled.
    pub fn wait_in_force(&self) -> Result<()> {
        wait_until("the gate in force", Duration::from_secs(10), || {
            let dir = self.pins.dir();
            let Ok(gate) = Gate::open_pinned(&dir) else { return Ok(None) };
            let is_attached = Gate::pinned(&dir)?.attachments.iter().any(|attachment| attachment.is_alive);
            Ok((is_attached && gate.generation()? != 0).then_some(()))
        })
    }
}

/// The list of all cables, as in TOML.
pub fn cables() -> String {
    format!("interfaces = {CABLES:?}")
}

/// Fails unless a process has said this.
pub fn expect_said(process: &Process, what: &str) -> Result<()> {
    ensure!(process.log().has_line(what), "it did not say {what:?}");
    Ok(())
}
