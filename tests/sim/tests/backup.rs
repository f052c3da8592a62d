//! Backup links that are hardly used must be there when the link that carries everything dies.
//!
//! One world per seed, since what matters is which few probes a lossy, idle link happens to lose just before.

use std::time::Duration;

use bondgate_proto::sender::Scheduler;
use bondgate_sim::link::LinkConfig;
use bondgate_sim::world::{Fault, Report, SenderKind, Setup, World};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// 3 Mb/s over 5G, which is down for 3 s of every 8 s, with two LTE links of 2 and 4 % loss behind it.
fn five_g_flaps(seed: u64) -> Report {
    let mut world = World::new(Setup {
        seed,
        sender: SenderKind::Bondgate(Scheduler::Adaptive),
        links: [LinkConfig::five_g(), LinkConfig::lte_crowded(), LinkConfig::lte_moving()]
            .map(Into::into)
            .into(),
        latency: ms(600),
        bitrate_bps: 3_000_000,
        ..Setup::default()
    });
    world.run_for(ms(5000));
    for _ in 0..2 {
        world.inflict(Fault::LinkDown(0)).run_for(ms(3000)).inflict(Fault::LinkUp(0)).run_for(ms(5000));
    }
    world.finish()
}

#[test]
fn backups_take_over_whichever_probes_they_lost() {
    let mut goodputs = Vec::new();
    for seed in 2000..2060 {
        let report = five_g_flaps(seed);
        report.assert_lawful();
        let goodput = report.goodput_percent();
        assert!(goodput >= 99.0, "seed {seed}: {goodput:.2} %");
        goodputs.push(goodput);
    }
    let mean = goodputs.iter().sum::<f64>() / goodputs.len() as f64;
    assert!(mean >= 99.93, "{mean:.3} % on average");
}
