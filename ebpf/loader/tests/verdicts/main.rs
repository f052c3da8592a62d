//! The programs of the gate in the kernel, held against the verdicts of user space, which are the same source compiled by
//! another compiler: the table of named packets, a million generated ones, and what only the kernel has (counters, events,
//! several CPUs, sockets). Without the right to load programs these are reported as ignored, with the reason.
//!
//! The same of the bench's programs. `BONDGATE_GATE_OBJECT=FILE` and `BONDGATE_BENCH_OBJECT=FILE` test other objects than the
//! committed ones.

mod bench;
mod cost;
mod fuzz;
mod kernel;
mod maps;
mod shapes;
mod sockets;
mod sources;
mod table;

use libtest_mimic::{Arguments, Failed, Trial};

type Test = fn() -> Result<(), Failed>;

const IN_THE_KERNEL: &[(&str, Test)] = &[
    ("table", table::every_row),
    ("differential_fuzz", fuzz::a_million_frames),
    ("counters_and_events", maps::counters_and_events),
    ("event_budget", maps::event_budget),
    ("changes_are_seen_whole", maps::changes_are_seen_whole),
    ("buckets_hold_across_cpus", maps::buckets_hold_across_cpus),
    ("buckets_refill", maps::buckets_refill),
    ("links_are_steered", sockets::links_are_steered),
    ("cost", cost_within_bounds),
    ("bench_frames", bench::frames_are_those_of_user_space),
    ("bench_arrivals", bench::arrivals_are_noted),
    ("bench_softirqs", bench::softirqs_are_timed),
];

fn main() {
    let arguments = Arguments::from_args();
    let missing = kernel::missing();
    let mut trials = Vec::new();
    for &(name, test) in IN_THE_KERNEL {
        if let Some(why) = &missing {
            eprintln!("SKIPPED kernel::{name}: {why}");
        }
        let trial = Trial::test(format!("kernel::{name}"), test);
        trials.push(trial.with_ignored_flag(missing.is_some()));
    }
    trials.push(Trial::test("object_fits_its_sources", sources::object_fits));
    trials.push(Trial::test("a_device_gets_through", sources::a_device_gets_through));
    libtest_mimic::run(&arguments, trials).exit();
}

fn ensure(holds: bool, what: impl FnOnce() -> String) -> Result<(), Failed> {
    if holds { Ok(()) } else { Err(what().into()) }
}

/// On a machine that does other things as well, four times the bounds are enough; the example `gate_cost` is strict.
fn cost_within_bounds() -> Result<(), Failed> {
    let figures = cost::measure(50)?;
    eprint!("{}", cost::report(&figures));
    let slow: Vec<_> =
        figures.iter().filter(|(_, figure, bound)| bound.is_some_and(|bound| *figure > 4 * bound)).collect();
    ensure(slow.is_empty(), || format!("more than four times the bound: {slow:?}"))
}
