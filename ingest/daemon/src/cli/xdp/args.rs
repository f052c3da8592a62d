//! The command line of `bondgate xdp`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::config::GateMode;

/// `bondgate xdp`.
#[derive(Args, Clone, Debug)]
pub struct XdpArgs {
    /// What to do
    #[command(subcommand)]
    pub command: XdpCommand,
    /// Configuration file; without it the one `bondgate run` would use
    #[arg(short, long, global = true, value_name = "FILE", env = "BONDGATE_CONFIG")]
    pub config: Option<PathBuf>,
    /// Prints JSON on stdout
    #[arg(long, global = true)]
    pub json: bool,
}

/// What can be done with the gate.
#[derive(Clone, Debug, Subcommand)]
pub enum XdpCommand {
    /// Attaches the gate; a running daemon takes it over and fills it
    Attach(AttachArgs),
    /// Detaches the gate and removes what is pinned
    Detach(DetachArgs),
    /// Shows where the gate is attached, which version it is, and what it has counted
    Status,
    /// Puts this version's program in the place of the one that is attached, without a packet between
    Replace,
    /// Shows verdicts per second and the busiest sources, live
    Top(TopArgs),
}

/// `bondgate xdp attach`.
#[derive(Args, Clone, Debug)]
pub struct AttachArgs {
    /// Interfaces; without any those of gate.interfaces
    #[arg(value_name = "INTERFACE")]
    pub interfaces: Vec<String>,
    /// Where in the driver's path; without it as gate.mode says
    #[arg(long, value_enum)]
    pub mode: Option<GateMode>,
}

/// `bondgate xdp detach`.
#[derive(Args, Clone, Debug)]
pub struct DetachArgs {
    /// The interface; without it all
    #[arg(value_name = "INTERFACE")]
    pub interface: Option<String>,
}

/// `bondgate xdp top`.
#[derive(Args, Clone, Debug)]
pub struct TopArgs {
    /// Measures once and prints that
    #[arg(long)]
    pub once: bool,
    /// Time between two pictures, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = interval)]
    pub interval: f64,
    /// Sources shown
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub sources: usize,
}

fn interval(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|seconds| (0.1..=3600.0).contains(seconds))
        .ok_or_else(|| "a number of seconds from 0.1 to 3600".to_owned())
}
