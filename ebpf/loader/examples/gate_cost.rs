//! What a frame costs in the XDP program, by its kind, in ns: `cargo run --release -p bondgate-ebpf --example gate_cost`.
//!
//! Fails where a figure is above its bound; the bounds hold on a quiet machine. Needs the right to load BPF programs.

#![expect(clippy::print_stdout, reason = "the figures are what it is for")]

#[path = "../tests/verdicts/cost.rs"]
mod cost;
#[path = "../tests/verdicts/kernel.rs"]
#[expect(dead_code, reason = "not all of it is needed for this")]
mod kernel;

use std::process::ExitCode;

/// Rounds, of which the best counts: what disturbs a measurement only makes it longer.
const ROUNDS: usize = 300;

fn main() -> ExitCode {
    if let Some(why) = kernel::missing() {
        eprintln!("cannot be measured here: {why}");
        return ExitCode::from(77);
    }
    let figures = match cost::measure(ROUNDS) {
        Ok(figures) => figures,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    print!("{}", cost::report(&figures));
    let slow = figures.iter().any(|(_, figure, bound)| bound.is_some_and(|bound| *figure > bound));
    if slow { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
