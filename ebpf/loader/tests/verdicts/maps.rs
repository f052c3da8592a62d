//! What only the kernel has: counters, events, maps that change under traffic, several CPUs.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bondgate_ebpf_common::abi::{
    Budget, Config, Event, GateKey, LinkKey, List, STOCK_LISTED, Stat, allow_value,
};
use bondgate_ebpf_common::bucket::Rate;
use bondgate_ebpf_common::reason::{Action, Reason};
use bondgate_ebpf_common::testing::{
    DRY, EPOCHS, FrameSpec, OTHER_PORT, SRTLA_PORT, World, address, gate_key, sa1, stock,
};
use libtest_mimic::Failed;
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::ensure;
use crate::kernel::Kernel;

/// Keeps this thread on one CPU, so that it meets the counters of one.
fn stay_on_one_cpu() -> Result<(), Failed> {
    let allowed = rustix::thread::sched_getaffinity(None)?;
    let first = (0..CpuSet::MAX_CPU).find(|cpu| allowed.is_set(*cpu)).ok_or("no CPU")?;
    let mut one = CpuSet::new();
    one.set(first);
    sched_setaffinity(None, &one)?;
    Ok(())
}

/// Runs a test on a thread that stays on one CPU.
fn on_one_cpu(test: fn() -> Result<(), Failed>) -> Result<(), Failed> {
    let thread = std::thread::spawn(move || stay_on_one_cpu().and_then(|()| test()));
    thread.join().map_err(|_| "the test panicked")?
}

fn registration(source: &str) -> Vec<u8> {
    FrameSpec::new(source, SRTLA_PORT, sa1(0, &gate_key(EPOCHS[1]))).build()
}

fn stranger() -> Vec<u8> {
    FrameSpec::new("203.0.113.77", SRTLA_PORT, vec![0x11; 100]).build()
}

/// Each frame is counted once, with its bytes, and one in so many becomes an event that says for how many it stands.
pub fn counters_and_events() -> Result<(), Failed> {
    on_one_cpu(|| {
        let mut kernel = Kernel::open()?;
        let world = World::standard_with(|world| {
            world.config.drop_sample_mask = 7;
            world.config.pass_sample_mask = 3;
        });
        kernel.maps.install(&world)?;
        let other = FrameSpec::new("203.0.113.77", OTHER_PORT, vec![0x11; 50]).build();
        let admitted = registration("198.51.100.20");
        for (frame, times) in [(&stranger(), 20), (&admitted, 9), (&other, 5)] {
            kernel.programs.time(frame, times)?;
        }
        let mut expected = vec![(0, 0); kernel.maps.counters()?.len()];
        expected[Reason::Unregistered as usize] = (20, 20 * stranger().len() as u64);
        expected[Reason::Sa1 as usize] = (9, 9 * admitted.len() as u64);
        expected[Reason::Other as usize] = (5, 5 * other.len() as u64);
        expected[Stat::Events as usize] = (6, 0);
        let counters: Vec<_> =
            kernel.maps.counters()?.iter().map(|count| (count.packets, count.bytes)).collect();
        ensure(counters == expected, || format!("{counters:?}, not {expected:?}"))?;
        let events = kernel.maps.drain_events();
        let dropped = Event {
            source: LinkKey::new(address("203.0.113.77"), 40000, SRTLA_PORT),
            weight: 8,
            reason: Reason::Unregistered as u32,
            len: stranger().len() as u32,
        };
        let passed = Event {
            source: LinkKey::new(address("198.51.100.20"), 40000, SRTLA_PORT),
            weight: 4,
            reason: Reason::Sa1 as u32,
            len: admitted.len() as u32,
        };
        let expected = [[dropped; 3], [passed; 3]].concat();
        ensure(events == expected, || format!("{events:?}"))
    })
}

/// Events have a budget, and what does not fit into the ring buffer is counted as lost.
pub fn event_budget() -> Result<(), Failed> {
    on_one_cpu(|| {
        let mut kernel = Kernel::open()?;
        let mut world = World::standard_with(|world| world.limit(Budget::Events, DRY));
        kernel.maps.install(&world)?;
        kernel.programs.time(&stranger(), 10)?;
        let stats = |kernel: &Kernel| -> Result<[u64; 3], Failed> {
            let counters = kernel.maps.counters()?;
            let stats = [Stat::Events, Stat::EventsOverBudget, Stat::EventsLost];
            Ok(stats.map(|stat| counters[stat as usize].packets))
        };
        let seen = stats(&kernel)?;
        ensure(seen == [3, 7, 0], || format!("three and no more: {seen:?}"))?;
        ensure(kernel.maps.drain_events().len() == 3, || "three were written".to_owned())?;
        world.limit(Budget::Events, Rate::UNLIMITED);
        kernel.maps.set_config(&world.config)?;
        kernel.programs.time(&stranger(), 10_000)?;
        let [events, over, lost] = stats(&kernel)?;
        let fit = (events - 3) as usize;
        ensure(over == 7 && lost > 0 && fit + lost as usize == 10_000, || format!("{events} {over} {lost}"))?;
        ensure(kernel.maps.drain_events().len() == fit, || "what was written can be read".to_owned())
    })
}

/// While configuration and lists are replaced by others that admit the same sender, none of its packets is dropped.
pub fn changes_are_seen_whole() -> Result<(), Failed> {
    let mut kernel = Kernel::open()?;
    let mut world = World::standard();
    world.config.pass_sample_mask = u32::MAX;
    kernel.maps.install(&world)?;
    let frame = registration("198.51.100.20");
    // The current key moves through the slots, with others around it whose epochs are right and whose keys are not.
    let configs: [Config; 3] = std::array::from_fn(|slot| {
        let mut config = world.config;
        config.gate_keys = std::array::from_fn(|at| GateKey::new(100 + at as u32, &[at as u8; 16]));
        config.gate_keys[slot] = gate_key(EPOCHS[1]);
        config
    });
    let stop = AtomicBool::new(false);
    let gate = &kernel.programs;
    let passed = std::thread::scope(|scope| -> Result<u64, Failed> {
        let traffic = scope.spawn(|| {
            let mut passed = 0;
            while !stop.load(Ordering::Relaxed) {
                gate.time(&frame, 500)?;
                passed += 500;
            }
            Ok::<u64, String>(passed)
        });
        let changes = (0..300).try_for_each(|round| {
            kernel.maps.set_config(&configs[round % 3])?;
            let wide = (address("198.51.100.0"), 96 + 24 - (round % 8) as u32, allow_value(0));
            kernel.maps.set_list(List::Allow, [wide].into_iter())
        });
        stop.store(true, Ordering::Relaxed);
        let passed = traffic.join().map_err(|_| "the traffic panicked")??;
        changes?;
        Ok(passed)
    })?;
    let counters = kernel.maps.counters()?;
    let dropped: Vec<_> = Reason::ALL
        .into_iter()
        .filter(|reason| reason.action() == Action::Drop && counters[*reason as usize].packets > 0)
        .collect();
    ensure(dropped.is_empty(), || format!("dropped: {dropped:?}"))?;
    let counted = counters[Reason::Sa1 as usize].packets;
    ensure(counted == passed && passed > 0, || format!("{counted} of {passed} passed"))
}

/// Two CPUs that take from one bucket at the same time get what is in it, and not one token more.
pub fn buckets_hold_across_cpus() -> Result<(), Failed> {
    const BURST: u64 = 5000;
    let mut kernel = Kernel::open()?;
    let rate = Rate { tolerance_ns: (BURST - 1) * DRY.interval_ns, ..DRY };
    for (budget, payload, reason) in [
        (Budget::Sa1Source, sa1(0, &gate_key(EPOCHS[1])), Reason::Sa1),
        (Budget::StockTotal, stock(0), Reason::Stock),
    ] {
        let world = World::standard_with(|world| {
            world.config.pass_sample_mask = u32::MAX;
            world.config.drop_sample_mask = u32::MAX;
            world.config.flags &= !STOCK_LISTED;
            world.limit(budget, rate);
        });
        kernel.maps.install(&world)?;
        let frame = FrameSpec::new("198.51.100.20", SRTLA_PORT, payload).build();
        let gate = &kernel.programs;
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..2).map(|_| scope.spawn(|| gate.time(&frame, 20_000))).collect();
            threads
                .into_iter()
                .try_for_each(|thread| thread.join().map_err(|_| "panicked".to_owned())?.map(|_| ()))
        })?;
        let passed = kernel.maps.counters()?[reason as usize].packets;
        ensure(passed == BURST, || format!("{budget:?}: {passed} of 40,000 passed, {BURST} should"))?;
    }
    Ok(())
}

/// Tokens come back with the kernel's clock: some, and no more than the time that went by is worth.
pub fn buckets_refill() -> Result<(), Failed> {
    let mut kernel = Kernel::open()?;
    let rate = Rate::per_second(50, 3);
    let world = World::standard_with(|world| {
        world.config.flags &= !STOCK_LISTED;
        world.limit(Budget::StockSource, rate);
    });
    kernel.maps.install(&world)?;
    let frame = FrameSpec::new("198.51.100.20", SRTLA_PORT, stock(0)).build();
    let start = std::time::Instant::now();
    let mut passed = [0_u64; 2];
    for round in &mut passed {
        for _ in 0..20 {
            *round += u64::from(kernel.run(&frame)?.0 == Action::Pass);
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    let most = 3 + start.elapsed().as_nanos() / u128::from(rate.interval_ns) + 1;
    ensure(passed[0] >= 3 && passed[1] >= 3, || format!("a burst each: {passed:?}"))?;
    ensure(u128::from(passed[0] + passed[1]) <= most, || format!("{passed:?} in {:?}", start.elapsed()))
}
