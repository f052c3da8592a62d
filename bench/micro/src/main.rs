//! Instructions per operation of the packet path.
//!
//! Time depends on the machine and on its mood; the number of instructions hardly does. Each workload prepares what it
//! needs and does one operation many times inside [`measured`]; `count` runs every workload in callgrind, which looks at
//! nothing else, and holds the counts against `ratchet.toml`: one that has grown by more than 3 % fails.
//!
//!     cargo run --release -p bondgate-micro -- count            counts, and the change against the ratchet
//!     cargo run --release -p bondgate-micro -- count --bless    writes the ratchet anew, on purpose
//!
//! Limits: cache misses and system calls are not seen (that is what `bondgate-bench` is for). Counts of another compiler
//! or processor are not compared: `count` says SKIPPED then, and exits with 77.
#![allow(clippy::print_stdout, reason = "figures are what this program is for")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a workload that cannot be set up ends the program"
)]

mod count;
mod ratchet;
mod workloads;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Instructions per operation of the packet path.
#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Names the workloads.
    List,
    /// Runs one workload once, uncounted; callgrind is put around this.
    Once {
        /// The workload.
        name: String,
    },
    /// Counts the instructions of all workloads, or of those whose name contains FILTER.
    Count {
        /// Part of a name.
        filter: Option<String>,
        /// Writes the counts into the ratchet.
        #[arg(long)]
        bless: bool,
    },
}

fn main() -> anyhow::Result<ExitCode> {
    match Args::parse().command {
        Command::List => {
            for workload in workloads::ALL {
                println!("{:<28} {}", workload.name, workload.what);
            }
        }
        Command::Once { name } => match workloads::ALL.iter().find(|workload| workload.name == name) {
            Some(workload) => println!("{} operations", (workload.run)()),
            None => anyhow::bail!("no workload named {name:?}; `bondgate-micro list` names them"),
        },
        Command::Count { filter, bless } => return count::count(filter.as_deref(), bless),
    }
    Ok(ExitCode::SUCCESS)
}

/// The region callgrind looks at: it is told this function's name.
#[inline(never)]
fn measured<T>(work: impl FnOnce() -> T) -> T {
    std::hint::black_box(work())
}
