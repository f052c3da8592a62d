//! `bondgate-bench`: measures SRTLA receivers. The library says how; this is its command line.

#![forbid(unsafe_code)]

mod field;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use bondgate_bench::receiver::Programs;
use bondgate_bench::scenario::{Flood, FloodKind, Kind, Receiver, Scenario};
use bondgate_bench::{report, run, wakes};
use clap::{Args, Parser, Subcommand};

/// Measures SRTLA receivers: cost, loss and latency, side by side in one run.
#[derive(Debug, Parser)]
#[command(name = "bondgate-bench", version)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs scenarios, by name or file; without any the canonical one. This is the default.
    Run(RunArgs),
    /// Searches the highest rate without loss, and the knee, of a scenario's receivers.
    RateSearch(RunArgs),
    /// Compares bondgate with another receiver in turns; by default with the built-in baseline.
    Compare {
        /// Command of the other, with `{listen}` and `{target}` (or `{listen_port}`, `{target_host}` and `{target_port}`).
        #[arg(long)]
        peer: Option<String>,
        #[command(flatten)]
        run: RunArgs,
    },
    /// Measures a stream beside a flood of datagrams that have no business there.
    Flood {
        /// What the flood is made of: reg1, reg2, data or mixed.
        #[arg(long)]
        kind: Option<String>,
        /// Datagrams per second of the flood; 0: as many as possible.
        #[arg(long)]
        flood_rate: Option<u64>,
        #[command(flatten)]
        run: RunArgs,
    },
    /// Senders alone: registers links with a receiver anywhere and offers a load.
    Load(field::LoadArgs),
    /// A sink alone: counts what a receiver forwards.
    Sink(field::SinkArgs),
    /// Renders runs that were kept.
    Report {
        /// Their folders, or run.json files.
        #[arg(required = true)]
        runs: Vec<PathBuf>,
        /// What to print.
        #[arg(long, value_enum, default_value_t = Format::Table)]
        format: Format,
    },
    /// Lists the built-in scenarios.
    List,
    /// Measures what it costs this machine to sleep and wake up, which figures at part load consist of.
    Wakes {
        /// Datagrams per second to share the cost among.
        #[arg(long, default_value_t = 50_000)]
        rate: u64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// Text.
    Table,
    /// The raw data.
    Json,
    /// One line per trial.
    Csv,
    /// A page with plots.
    Html,
}

#[derive(Args, Clone, Debug, Default)]
struct RunArgs {
    /// Names of built-in scenarios, or files.
    scenarios: Vec<String>,
    /// Interleaved rounds instead of the scenario's.
    #[arg(long)]
    rounds: Option<u32>,
    /// Datagrams per second instead of the scenario's; 0: as many as possible.
    #[arg(long)]
    rate: Option<u64>,
    /// Milliseconds measured instead of the scenario's.
    #[arg(long)]
    measure_ms: Option<u32>,
    /// Only receivers of this name; may be repeated.
    #[arg(long)]
    receiver: Vec<String>,
    /// Keep the runs in a folder of this directory.
    #[arg(long)]
    out: Option<PathBuf>,
    /// The bondgate binary; by default the one beside this program.
    #[arg(long)]
    bondgate: Option<PathBuf>,
    /// What to print.
    #[arg(long, value_enum, default_value = "table")]
    format: Option<Format>,
}

fn main() -> ExitCode {
    let command = Cli::parse().command.unwrap_or_else(|| Command::Run(RunArgs::default()));
    match dispatch(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bondgate-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command) -> Result<()> {
    match command {
        Command::Run(args) => execute(&args, "canonical", |_| Ok(())),
        Command::RateSearch(args) => execute(&args, "canonical", |scenario| {
            scenario.kind = Kind::Search;
            Ok(())
        }),
        Command::Compare { peer, run } => execute(&run, "canonical", |scenario| {
            let peer = peer.as_deref().map_or_else(|| Ok(Receiver::baseline()), Receiver::peer)?;
            scenario.receivers = vec![Receiver::bondgate(), peer];
            Ok(())
        }),
        Command::Flood { kind, flood_rate, run } => execute(&run, "reg-flood", |scenario| {
            let flood =
                scenario.flood.get_or_insert(Flood { kind: FloodKind::Reg1, rate_pps: 50_000, sources: 64 });
            match kind.as_deref() {
                None => {}
                Some("reg1") => flood.kind = FloodKind::Reg1,
                Some("reg2") => flood.kind = FloodKind::Reg2,
                Some("data") => flood.kind = FloodKind::Data,
                Some("mixed") => flood.kind = FloodKind::Mixed,
                Some(other) => bail!("--kind {other} is none of reg1, reg2, data, mixed"),
            }
            flood.rate_pps = flood_rate.unwrap_or(flood.rate_pps);
            Ok(())
        }),
        Command::Load(args) => field::load(&args),
        Command::Sink(args) => field::sink(&args),
        Command::Report { runs, format } => {
            for path in runs {
                let run = run::load(&path)?;
                print(&render(&run, format)?);
            }
            Ok(())
        }
        Command::Wakes { rate } => {
            print(&wakes::render(&wakes::measure()?, rate));
            Ok(())
        }
        Command::List => {
            for name in Scenario::built_in() {
                print(&format!("{name:16} {}\n", Scenario::load(name)?.about));
            }
            Ok(())
        }
    }
}

fn execute(args: &RunArgs, default: &str, change: impl Fn(&mut Scenario) -> Result<()>) -> Result<()> {
    let programs = Programs::find(args.bondgate.as_deref())?;
    let names = if args.scenarios.is_empty() { vec![default.to_owned()] } else { args.scenarios.clone() };
    for name in names {
        let mut scenario = Scenario::load(&name)?;
        scenario.rounds = args.rounds.unwrap_or(scenario.rounds);
        scenario.rate_pps = args.rate.unwrap_or(scenario.rate_pps);
        scenario.measure_ms = args.measure_ms.unwrap_or(scenario.measure_ms);
        if !args.receiver.is_empty() {
            scenario.receivers.retain(|receiver| args.receiver.contains(&receiver.name));
        }
        change(&mut scenario)?;
        scenario.check().with_context(|| format!("scenario {name} with these options"))?;
        let run = run::run(&scenario, &programs, |line| eprintln!("{line}"))?;
        if let Some(dir) = &args.out {
            eprintln!("kept in {}", run::save(&run, dir)?.display());
        }
        print(&render(&run, args.format.unwrap_or(Format::Table))?);
    }
    Ok(())
}

fn render(run: &run::Run, format: Format) -> Result<String> {
    Ok(match format {
        Format::Table => report::table::render(run),
        Format::Json => serde_json::to_string_pretty(run)? + "\n",
        Format::Csv => report::csv::render(&run.rows),
        Format::Html => report::html::render(run),
    })
}

/// Results go to stdout, progress to stderr.
#[expect(clippy::print_stdout, reason = "the results are what the command is for")]
fn print(text: &str) {
    print!("{text}");
}
