//! The runner: the storm, or one target with many inputs, or one input.
//!
//! Everything is reproducible from the seed; a failure prints what to run again.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};
use bondgate_fuzz::mutate::mutate;
use bondgate_fuzz::targets::{ALL, Target};
use bondgate_fuzz::{alloc, seeds, storm};
use clap::Parser;

#[global_allocator]
static ALLOCATOR: alloc::Counting = alloc::Counting;

/// Fuzzes parsers and state machines with the stable toolchain.
#[derive(Parser)]
struct Args {
    /// Mutated datagrams of the storm, or inputs per target.
    #[arg(long, default_value_t = 1_000_000)]
    iterations: u64,
    /// Where all randomness comes from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Fuzz this target instead of the storm; "all" for one after the other.
    #[arg(long)]
    target: Option<String>,
    /// Feed this file to the target, once (.hex files hold hexadecimal).
    #[arg(long, requires = "target")]
    input: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let Some(name) = &args.target else { return run_storm(args) };
    let targets: Vec<&Target> = ALL.iter().filter(|target| name == "all" || target.name == name).collect();
    let names = || ALL.iter().map(|target| target.name).collect::<Vec<_>>().join(", ");
    anyhow::ensure!(!targets.is_empty(), "no target {name}; there are: {}", names());
    for target in targets {
        if let Some(input) = &args.input {
            (target.run)(&seeds::read(input)?);
            eprintln!("{}: nothing wrong with {}", target.name, input.display());
        } else {
            run_target(target, args)?;
        }
    }
    Ok(())
}

fn run_storm(args: &Args) -> Result<()> {
    let start = Instant::now();
    let again = format!("run again with --iterations {} --seed {}", args.iterations, args.seed);
    let report = storm::run(args.iterations, args.seed).context(again)?;
    let seconds = start.elapsed().as_secs_f64();
    eprintln!("{report:#?}");
    eprintln!(
        "{} mutated datagrams in {seconds:.1} s ({:.0} per second): no panic, every datagram accounted for, \
         {} bytes in use at most early and {} later",
        report.mutants,
        report.mutants as f64 / seconds,
        report.peak_bytes.0,
        report.peak_bytes.1
    );
    Ok(())
}

fn run_target(target: &Target, args: &Args) -> Result<()> {
    let start = Instant::now();
    let seeds = seeds::load(target.name)?;
    let mut rng = fastrand::Rng::with_seed(args.seed);
    let mut input = Vec::new();
    for _ in 0..args.iterations {
        let (a, b) = (&seeds[rng.usize(..seeds.len())], &seeds[rng.usize(..seeds.len())]);
        mutate(&mut rng, a, b, &mut input);
        let result = std::panic::catch_unwind(|| (target.run)(&input));
        if result.is_err() {
            let hex = seeds::to_hex(&input);
            anyhow::bail!(
                "{} fails; save this as x.hex and run with --target {} --input x.hex\n{hex}",
                target.name,
                target.name
            );
        }
    }
    eprintln!("{}: {} inputs in {:.1} s", target.name, args.iterations, start.elapsed().as_secs_f64());
    Ok(())
}
