//! User space and kernel agree about generated frames at generated gates.

use bondgate_ebpf_common::reason::Reason;
use fastrand::Rng;
use libtest_mimic::Failed;

use crate::kernel::Kernel;
use crate::table::agrees;
use crate::{ensure, shapes};

const GATES: u64 = 100;
const FRAMES_PER_GATE: u64 = 10_000;
/// Each reason has to come up this often, or the generator tests less than it seems.
const REASON_MIN: u64 = 300;

/// The same verdict for each, source and reason included, while budgets run dry.
pub fn a_million_frames() -> Result<(), Failed> {
    let seed = std::env::var("BONDGATE_FUZZ_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(0x6a7e);
    let mut kernel = Kernel::open()?;
    let mut counts = [0_u64; Reason::ALL.len()];
    for gate in 0..GATES {
        let mut rng = Rng::with_seed(seed + gate);
        let world = shapes::world(&mut rng);
        kernel.maps.install(&world)?;
        for number in 0..FRAMES_PER_GATE {
            let frame = shapes::frame(&mut rng);
            let verdict = world.decide(&frame);
            let (action, event) = kernel.run(&frame)?;
            counts[verdict.reason as usize] += 1;
            ensure(agrees(&verdict, frame.len(), action, event.as_ref()), || {
                format!(
                    "gate {gate} of seed {seed}, frame {number}: {verdict:?}, in the kernel {action:?} {event:?}\n\
                     {frame:02x?}\n{:?}",
                    world.config
                )
            })?;
        }
        let fill = kernel.maps.spent(&world)?;
        ensure(!fill.contains(&0), || {
            format!("gate {gate} of seed {seed}: a bucket the kernel did not use")
        })?;
    }
    let total: u64 = counts.iter().sum();
    let named = Reason::ALL.map(|reason| (reason.name(), counts[reason as usize]));
    eprintln!("{total} frames: {named:?}");
    ensure(total >= 1_000_000, || format!("{total} frames only"))?;
    let rare: Vec<_> = named.into_iter().filter(|(_, count)| *count < REASON_MIN).collect();
    ensure(rare.is_empty(), || format!("too rare to count as tested: {rare:?}"))
}
