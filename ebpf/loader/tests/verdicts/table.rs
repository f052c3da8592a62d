//! The table of named packets.

use bondgate_ebpf_common::abi::Event;
use bondgate_ebpf_common::gate::Verdict;
use bondgate_ebpf_common::reason::{Action, Reason};
use bondgate_ebpf_common::testing::rows;
use libtest_mimic::Failed;

use crate::ensure;
use crate::kernel::Kernel;

/// The shortest frame the kernel's test run takes.
pub const FRAME_MIN: usize = 14;

/// What the kernel did is what `verdict` says.
pub fn agrees(verdict: &Verdict, len: usize, action: Action, event: Option<&Event>) -> bool {
    let expected = (verdict.reason != Reason::Other).then_some(Event {
        source: verdict.source,
        weight: 1,
        reason: verdict.reason as u32,
        len: len as u32,
    });
    action == verdict.action() && event == expected.as_ref()
}

/// Every row has its verdict in user space and in the kernel.
pub fn every_row() -> Result<(), Failed> {
    let mut kernel = Kernel::open()?;
    let (mut frames, mut wrong) = (0, Vec::new());
    let rows = rows();
    for row in &rows {
        kernel.maps.install(&row.world)?;
        for (index, (frame, reason)) in row.frames.iter().enumerate() {
            let verdict = row.world.decide(frame);
            if verdict.reason != *reason {
                wrong.push(format!(
                    "{} [{index}]: {:?} in user space, not {reason:?}",
                    row.name, verdict.reason
                ));
            }
            if frame.len() < FRAME_MIN {
                continue;
            }
            frames += 1;
            let (action, event) = kernel.run(frame)?;
            if !agrees(&verdict, frame.len(), action, event.as_ref()) {
                wrong
                    .push(format!("{} [{index}]: {verdict:?}, in the kernel {action:?} {event:?}", row.name));
            }
        }
        if kernel.maps.spent(&row.world)?.contains(&0) {
            wrong.push(format!("{}: a bucket was not used in the kernel", row.name));
        }
    }
    eprintln!("{} rows, {frames} frames", rows.len());
    ensure(wrong.is_empty(), || format!("{wrong:#?}"))
}
