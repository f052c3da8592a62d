//! One suite for every socket backend, over real loopback UDP: `uring` and `mmsg`, each with ordinary and with merged
//! receiving. Where `io_uring` is not available its tests are reported as ignored, with the reason.

mod basics;
mod limits;
mod privileged;
mod rig;
mod transfer;

use bondgate_io::{Choice, Gro, Limits};
use libtest_mimic::{Arguments, Failed, Trial};
use rig::{Rig, Variant};

type Test = fn(&Variant) -> Result<(), Failed>;

const TESTS: &[(&str, Test)] = &[
    ("echo", basics::echo),
    ("forward_does_not_copy", basics::forward_does_not_copy),
    ("forward_first_cuts", basics::forward_first_cuts),
    ("fan_out", basics::fan_out),
    ("both_address_families", basics::both_address_families),
    ("refused_then_recovers", basics::refused_then_recovers),
    ("removed_slot_is_reused_cleanly", basics::removed_slot_is_reused_cleanly),
    ("removal_keeps_what_was_queued", basics::removal_keeps_what_was_queued),
    ("waker", basics::waker),
    ("timeout", basics::timeout),
    ("opened_here_used_there", basics::opened_here_used_there),
    ("restart_binds_at_once", basics::restart_binds_at_once),
    ("random_life", basics::random_life),
    ("many_sockets", limits::many_sockets),
    ("buffer_exhaustion", limits::buffer_exhaustion),
    ("kernel_drops_are_counted", limits::kernel_drops_are_counted),
    ("truncation", limits::truncation),
    ("turn_limits", limits::turn_limits),
    ("segmented_sends_arrive_apart", transfer::segmented_sends_arrive_apart),
    ("mixed_sizes_keep_their_order", transfer::mixed_sizes_keep_their_order),
    ("merged_receives_are_cut_apart", transfer::merged_receives_are_cut_apart),
    ("hundred_thousand_bit_exact", transfer::hundred_thousand_bit_exact),
    ("lingers", transfer::lingers),
    ("full_send_queue", privileged::full_send_queue),
    ("segmentation_refused", privileged::segmentation_refused),
];

fn main() {
    let arguments = Arguments::from_args();
    let uring = bondgate_io::open(Choice::Uring, &Limits::default());
    let uring_missing = uring.err().map(|e| e.to_string());
    let privileged_missing = privileged::missing();
    let mut trials = Vec::new();
    for (backend, choice) in [("uring", Choice::Uring), ("mmsg", Choice::Mmsg)] {
        for (merging, gro) in [("gro_off", Gro::Off), ("gro_on", Gro::On), ("gro_adaptive", Gro::Adaptive)] {
            for &(name, test) in TESTS {
                let variant = Variant { choice, gro };
                let trial = Trial::test(format!("{backend}::{merging}::{name}"), move || test(&variant));
                let missing = match (choice, &uring_missing) {
                    (Choice::Uring, Some(why)) => Some(why),
                    _ if privileged::NAMES.contains(&name) => privileged_missing.as_ref(),
                    _ => None,
                };
                if let Some(why) = missing {
                    eprintln!("SKIPPED {backend}::{merging}::{name}: {why}");
                }
                trials.push(trial.with_ignored_flag(missing.is_some()));
            }
        }
        let variant = Variant { choice, gro: Gro::Adaptive };
        let trial =
            Trial::test(format!("{backend}::merging_adapts"), move || transfer::merging_adapts(&variant));
        let skip = choice == Choice::Uring && uring_missing.is_some();
        trials.push(trial.with_ignored_flag(skip));
        let variant = Variant { choice, gro: Gro::Adaptive };
        let trial = Trial::test(format!("{backend}::merging_ends_with_a_full_queue"), move || {
            transfer::merging_ends_with_a_full_queue(&variant)
        });
        trials.push(trial.with_ignored_flag(skip));
    }
    let emulated = Trial::test("uring::lingers_emulated", transfer::lingers_emulated);
    trials.push(emulated.with_ignored_flag(uring_missing.is_some()));
    trials.push(Trial::test("choices_say_why", choices_say_why));
    let name = "falls_back_where_io_uring_is_forbidden";
    trials.push(Trial::test(name, privileged::falls_back_where_io_uring_is_forbidden));
    libtest_mimic::run(&arguments, trials).exit();
}

fn choices_say_why() -> Result<(), Failed> {
    let (backend, reason) = bondgate_io::open(Choice::Mmsg, &Limits::default())?;
    rig::ensure(bondgate_io::Backend::name(&backend) == "mmsg", "mmsg was asked for")?;
    rig::ensure(reason == "mmsg: as configured", &reason)?;
    let (backend, reason) = bondgate_io::open(Choice::Auto, &Limits::default())?;
    let name = bondgate_io::Backend::name(&backend);
    rig::ensure(reason.starts_with(name) && reason.len() > name.len() + 10, &reason)?;
    let rig = Rig::new(&Variant { choice: Choice::Mmsg, gro: Gro::Off });
    rig::ensure(rig.is_ok(), "the rig opens")
}
