//! `cargo xtask`: work on the repository that cargo cannot do alone.

#![expect(clippy::print_stdout, reason = "it says what it does")]

mod ebpf;
mod sources;
mod toolchain;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// What could not be done here at all, as opposed to what went wrong; test runners take it for a skipped test.
const EXIT_UNAVAILABLE: u8 = 77;

#[derive(Parser)]
#[command(about, version)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build the BPF programs, and put the object and what it was made with where the loader embeds them.
    Ebpf {
        /// Write nothing; fail if the committed object is not what the sources give.
        #[arg(long)]
        check: bool,
        /// Install the compiler and linker if they are missing (apt-get, as root, and cargo install).
        #[arg(long)]
        install: bool,
    },
}

fn main() -> ExitCode {
    let Task::Ebpf { check, install } = Arguments::parse().task;
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    match ebpf::run(&root, check, install) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            let unavailable = error.downcast_ref::<toolchain::Unavailable>().is_some();
            if unavailable { ExitCode::from(EXIT_UNAVAILABLE) } else { ExitCode::FAILURE }
        }
    }
}
