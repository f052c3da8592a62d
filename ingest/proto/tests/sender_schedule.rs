//! What the schedulers do with links of unequal quality: nothing lost, load where there is room, no starvation.

mod sender_support;

use bondgate_proto::Seq;
use bondgate_proto::sender::Scheduler;
use sender_support::*;

struct Outcome {
    lost: u64,
    /// Retransmissions per 100 packets.
    resent: f64,
    /// Share of the data packets sent on each link.
    shares: Vec<f64>,
    /// Mean time from the encoder to the SRT server over all packets of the second half, ms.
    tail_dropped: u64,
    congested_at_end: Vec<f32>,
}

fn run(scheduler: Scheduler, paths: &[Path], mbps: f64, seconds: u64) -> (Outcome, World) {
    let mut world = World::new(scheduler, Manners::Stock, 21);
    for path in paths {
        world.add_link(*path);
    }
    world.run_until_true(5 * S, |w| w.live() == paths.len()).expect("not up");
    world.start_encoder(mbps);
    world.run_for(seconds * S);
    let before: Vec<u64> = world.sender.links().map(|l| l.sent_packets).collect();
    let resent_before = world.resent;
    let encoded_before = world.encoded;
    let tail_before = world.tail_dropped;
    world.run_for(seconds * S);
    let sent: Vec<f64> =
        world.sender.links().zip(before).map(|(l, before)| (l.sent_packets - before) as f64).collect();
    let total: f64 = sent.iter().sum();
    let resent = (world.resent - resent_before) as f64 * 100.0 / (world.encoded - encoded_before) as f64;
    let tail_dropped = world.tail_dropped - tail_before;
    let congested_at_end = world.sender.links().map(|l| l.loss).collect();
    world.stop_encoder();
    world.run_for(2 * S);
    let outcome = Outcome {
        lost: world.lost_payloads(),
        resent,
        shares: sent.iter().map(|s| s / total).collect(),
        tail_dropped,
        congested_at_end,
    };
    (outcome, world)
}

fn show(name: &str, scheduler: Scheduler, o: &Outcome) {
    eprintln!(
        "{name:28} {scheduler:?}: lost {} resent {:.2}% tail-dropped {} shares {:.2?} loss {:.2?}",
        o.lost, o.resent, o.tail_dropped, o.shares, o.congested_at_end
    );
}

#[test]
fn equal_links_share_and_nothing_is_lost() {
    for scheduler in [Scheduler::Stock, Scheduler::Adaptive] {
        let (o, _) = run(scheduler, &[Path::new(30); 3], 6.0, 5);
        show("equal", scheduler, &o);
        assert_eq!(o.lost, 0);
        assert!(o.resent < 0.1, "{}", o.resent);
        assert!(o.shares.iter().all(|s| (0.2..0.5).contains(s)), "{:?}", o.shares);
    }
}

/// Whatever the round trip: on a loopback, on quick links with jitter, with room to spare and with little.
#[test]
fn three_equal_links_share_equally() {
    let jittery = Path { jitter_us: 3 * MS, ..Path::new(0) };
    let cases = [
        ("loopback", Path::new(0), 3.0),
        ("0 to 3 ms", jittery, 3.0),
        ("0 to 3 ms, 3 Mb/s each", jittery.rate(3.0).buffer(112_500), 3.0),
        ("0 to 3 ms, 3 Mb/s each", jittery.rate(3.0).buffer(112_500), 7.5),
        ("40 ms, 3 Mb/s each", Path::new(40).rate(3.0).buffer(112_500), 7.5),
        ("0 to 40 ms, a busy machine", Path { jitter_us: 40 * MS, ..Path::new(0) }, 3.0),
        ("40 to 55 ms", Path { jitter_us: 15 * MS, ..Path::new(40) }, 1.0),
    ];
    for (name, path, mbps) in cases {
        let (o, world) = run(Scheduler::Adaptive, &[path; 3], mbps, 8);
        show(name, Scheduler::Adaptive, &o);
        assert_eq!((o.lost, world.tail_dropped), (0, 0), "{name}");
        assert!(o.shares.iter().all(|s| (0.25..0.42).contains(s)), "{name} at {mbps} Mb/s: {:?}", o.shares);
    }
}

/// Everything that was in flight on a dying link is repeated at once: 2.25 Mb/s, of which the first of 3 + 2 + 0.5 Mb/s
/// dies. The others have 300 ms of buffer.
#[test]
fn repairs_of_a_dying_link_do_not_overflow_the_others() {
    let narrow =
        |mbps: f64| Path { jitter_us: 15 * MS, ..Path::new(40) }.rate(mbps).buffer((mbps * 37_500.0) as u64);
    let (mut repairs, mut overflows) = (0, 0);
    for seed in 1..=5 {
        let mut world = World::new(Scheduler::Adaptive, Manners::Stock, seed);
        for mbps in [3.0, 2.0, 0.5] {
            world.add_link(narrow(mbps));
        }
        world.run_until_true(5 * S, |w| w.live() == 3).expect("not up");
        world.start_encoder(2.25);
        world.run_for(6 * S);
        let (dropped, resent) = (world.tail_dropped, world.resent);
        world.path(0).blackhole = true;
        world.run_for(S);
        let (dropped, resent) = (world.tail_dropped - dropped, world.resent - resent);
        eprintln!("seed {seed}: {resent} repairs, {dropped} dropped");
        assert!(resent > 0, "nothing was in flight on the link that died");
        (repairs, overflows) = (repairs + resent, overflows + dropped);
        world.stop_encoder();
        world.run_for(2 * S);
        assert_eq!(world.lost_payloads(), 0, "seed {seed}");
    }
    assert!(overflows * 20 <= repairs, "{overflows} of {repairs} repairs dropped");
}

#[test]
fn a_stream_that_needs_all_links_fits_them() {
    // 2 + 4 + 6 Mb/s carry a 9 Mb/s stream only if each is used according to what it can do.
    let paths = [
        Path::new(25).rate(2.0).buffer(40_000),
        Path::new(30).rate(4.0).buffer(60_000),
        Path::new(40).rate(6.0).buffer(80_000),
    ];
    let (stock, _) = run(Scheduler::Stock, &paths, 9.0, 15);
    show("2+4+6 for 9", Scheduler::Stock, &stock);
    let (o, _) = run(Scheduler::Adaptive, &paths, 9.0, 15);
    show("2+4+6 for 9", Scheduler::Adaptive, &o);
    assert_eq!(o.lost, 0);
    assert!(o.resent < 1.0, "{}", o.resent);
    assert!(o.resent <= stock.resent + 0.5);
    assert!(o.shares[0] < 0.3 && o.shares[2] > 0.35, "{:?}", o.shares);
}

#[test]
fn a_lossy_link_is_avoided_while_others_have_room_and_never_starves() {
    let paths = [Path::new(20).loss(0.25), Path::new(35).rate(6.0), Path::new(45).rate(6.0)];
    let (stock, _) = run(Scheduler::Stock, &paths, 6.0, 8);
    show("25 % loss on the quickest", Scheduler::Stock, &stock);
    let (o, mut world) = run(Scheduler::Adaptive, &paths, 6.0, 8);
    show("25 % loss on the quickest", Scheduler::Adaptive, &o);
    assert_eq!(o.lost, 0);
    assert!((0.008..0.08).contains(&o.shares[0]), "{:?}", o.shares);
    assert!(o.resent < stock.resent / 2.0, "{} {}", o.resent, stock.resent);
    // It heals, and is noticed by its probes alone.
    world.path(0).loss_up = 0.0;
    world.start_encoder(6.0);
    world.run_for(6 * S);
    let share = world.stats(0).share;
    assert!(share > 0.2, "share {share} after it healed: {:?}", world.stats(0));
}

#[test]
fn when_all_links_are_bad_the_stream_still_gets_through() {
    let paths = [Path::new(30).loss(0.15), Path::new(40).loss(0.2), Path::new(50).loss(0.25)];
    for scheduler in [Scheduler::Stock, Scheduler::Adaptive] {
        let (o, _) = run(scheduler, &paths, 4.0, 8);
        show("15, 20, 25 % loss", scheduler, &o);
        assert_eq!(o.lost, 0, "{scheduler:?}");
    }
}

#[test]
fn an_overloaded_set_of_links_refuses_nothing() {
    let paths = [Path::new(30).rate(1.0), Path::new(40).rate(1.0)];
    for scheduler in [Scheduler::Stock, Scheduler::Adaptive] {
        let (o, world) = run(scheduler, &paths, 4.0, 5);
        show("4 into 2", scheduler, &o);
        assert_eq!(world.refused, 0, "every datagram is sent somewhere");
        assert!(o.shares.iter().all(|s| *s > 0.25), "{:?}", o.shares);
    }
}

#[test]
fn a_link_whose_rate_collapses_is_relieved() {
    let paths = [
        Path::new(20).rate(8.0).buffer(150_000),
        Path::new(30).rate(5.0).buffer(100_000),
        Path::new(40).rate(5.0).buffer(100_000),
    ];
    let mut world = World::new(Scheduler::Adaptive, Manners::Stock, 4);
    for path in paths {
        world.add_link(path);
    }
    world.run_for(S);
    world.start_encoder(7.0);
    world.run_for(6 * S);
    world.path(0).rate_bps = Some(500_000);
    world.run_for(2 * S);
    let sent = world.stats(0).sent_bytes;
    world.run_for(5 * S);
    let rate = (world.stats(0).sent_bytes - sent) as f64 * 8.0 / 5.0;
    assert!(rate < 700_000.0, "{rate} bit/s on a link of 500 kb/s");
    world.path(0).rate_bps = Some(8_000_000);
    world.run_for(12 * S);
    let rate = world.stats(0).rate_bps;
    assert!(rate > 1_500_000.0, "{rate} bit/s after it recovered: {:?}", world.stats(0));
    world.stop_encoder();
    world.run_for(2 * S);
    assert_eq!(world.lost_payloads(), 0);
}

#[test]
fn the_measured_loss_is_the_loss_up_only() {
    let mut paths = [Path::new(30).loss(0.05); 2];
    for path in &mut paths {
        path.loss_down = 0.05;
    }
    let mut world = World::new(Scheduler::Adaptive, Manners::Stock, 6);
    for path in paths {
        world.add_link(path);
    }
    world.run_until_true(5 * S, |w| w.live() == 2).expect("not up");
    world.start_encoder(8.0);
    world.run_for(3 * S);
    let (mut sum, mut count) = (0.0, 0);
    for _ in 0..100 {
        world.run_for(100 * MS);
        for stats in world.sender.links() {
            sum += f64::from(stats.loss);
            count += 1;
        }
    }
    let mean = sum / f64::from(count);
    assert!((0.03..0.08).contains(&mean), "{mean}");
}

#[test]
fn numbers_wrap_under_load() {
    for scheduler in [Scheduler::Stock, Scheduler::Adaptive] {
        let mut world = World::new(scheduler, Manners::Stock, 8);
        world.start_at(Seq::MAX.sub(3000));
        for delay in [20, 30] {
            world.add_link(Path::new(delay).loss(0.02));
        }
        world.run_until_true(5 * S, |w| w.live() == 2).expect("not up");
        world.start_encoder(10.0);
        world.run_for(8 * S);
        assert!(world.first_seq.add(world.encoded as u32).get() < 0x1000_0000, "the run crossed the wrap");
        let in_flight: u32 = world.sender.links().map(|l| l.in_flight_packets).sum();
        assert!(in_flight < 200, "{in_flight}");
        world.stop_encoder();
        world.run_for(2 * S);
        assert_eq!(world.lost_payloads(), 0);
    }
}
