//! Two engines against each other over a seeded link with a virtual clock.
#![allow(clippy::unwrap_used, reason = "a test that unwraps nothing fails, as it should")]
#![allow(clippy::print_stdout, reason = "measured figures, shown by --nocapture")]

mod support;

use bondgate_srt::{CloseReason, ConnectOptions, EndpointConfig, RejectReason, SendError, Seq};
use bytes::Bytes;
use std::time::Duration;
use support::{ADDRESS, CALLER, LISTENER, Link, Sim, assert_complete, ms, numbered};

fn config(latency: Duration) -> EndpointConfig {
    EndpointConfig { latency, ..EndpointConfig::default() }
}

fn symmetric(delay: Duration, loss: f64) -> Link {
    Link { delay, loss, ..Link::default() }
}

fn connected(sim: &mut Sim, options: ConnectOptions) -> [bondgate_srt::ConnId; 2] {
    sim.connect(options);
    sim.run(ms(3000));
    assert_eq!((sim.connected[CALLER].len(), sim.connected[LISTENER].len()), (1, 1));
    [sim.connected[CALLER][0], sim.connected[LISTENER][0]]
}

fn options(latency: Duration) -> ConnectOptions {
    ConnectOptions { latency, ..ConnectOptions::default() }
}

#[test]
fn handshake_negotiates_and_data_arrive_at_their_time() {
    let mut sim = Sim::new(1, &config(ms(120)), symmetric(ms(20), 0.0));
    let stream_id = Bytes::from_static(b"#!::r=live/cam1,m=publish,s=T0ken");
    let [caller, listener] =
        connected(&mut sim, ConnectOptions { stream_id: stream_id.clone(), ..options(ms(400)) });
    assert_eq!(sim.stream_ids, [stream_id]);
    assert_eq!(sim.latencies, [(ms(400), ms(400)); 2]);
    let start = sim.now;
    let count = sim.stream(CALLER, caller, 0, 100, ms(1000));
    sim.run(ms(500));
    assert_complete(&sim.numbers(LISTENER), count);
    for (i, (at, ..)) in sim.data[LISTENER].iter().enumerate() {
        let age = *at - (start + ms(i as u64 * 10));
        assert!(age >= ms(420) && age <= ms(422), "packet {i} was {age:?} old");
    }
    // And the other way on the same connection.
    let count = sim.stream(LISTENER, listener, 0, 100, ms(500));
    sim.run(ms(500));
    assert_complete(&sim.numbers(CALLER), count);
    let stats = sim.ends[LISTENER].stats(listener).unwrap();
    assert!(stats.rtt > ms(38) && stats.rtt < ms(43), "{:?}", stats.rtt);
    assert_eq!((stats.dropped, stats.lost, stats.duplicates), (0, 0, 0));
}

fn lossy(seed: u64, loss: f64, latency: Duration, retransmitted_max: f64) {
    let mut sim = Sim::new(seed, &config(latency), symmetric(ms(20), loss));
    let [caller, listener] = connected(&mut sim, options(latency));
    let count = sim.stream(CALLER, caller, 0, 950, ms(8000));
    sim.run(latency + ms(500));
    assert_complete(&sim.numbers(LISTENER), count);
    let (sent, received) =
        (sim.ends[CALLER].stats(caller).unwrap(), sim.ends[LISTENER].stats(listener).unwrap());
    assert_eq!(received.dropped, 0);
    assert_eq!(received.reorder_hold, Duration::ZERO, "loss alone is no reordering");
    let share = sent.retransmitted as f64 / count as f64;
    assert!(share < retransmitted_max, "{share:.3} retransmissions per packet at {loss} loss");
    assert!(sent.send_buffer < 2 && sent.invalid_reports == 0, "{sent:?}");
}

#[test]
fn two_percent_loss_leaves_no_hole() {
    for seed in 0..3 {
        lossy(seed, 0.02, ms(200), 0.03);
    }
}

#[test]
fn ten_percent_loss_leaves_no_hole() {
    for seed in 0..3 {
        lossy(seed, 0.10, ms(500), 0.14);
    }
}

/// Retransmissions per 100 packets.
fn reordered(paths: Vec<Link>, loss: f64, latency: Duration) -> f64 {
    let mut sim = Sim::new(7, &config(latency), symmetric(ms(20), 0.0));
    sim.paths = paths;
    for path in &mut sim.paths {
        path.loss = loss;
    }
    let [caller, _] = connected(&mut sim, options(latency));
    let count = sim.stream(CALLER, caller, 0, 950, ms(8000));
    sim.run(latency + ms(500));
    assert_complete(&sim.numbers(LISTENER), count);
    100.0 * sim.ends[CALLER].stats(caller).unwrap().retransmitted as f64 / count as f64
}

#[test]
fn random_reordering_hardly_retransmits() {
    let link = Link { delay: ms(10), jitter: ms(40), ..Link::default() };
    let per_100 = reordered(vec![link], 0.0, ms(500));
    println!("10-50 ms random delay, one path: {per_100:.2} retransmissions per 100 packets");
    assert!(per_100 < 2.0, "{per_100}");
    let per_100 = reordered(vec![link; 3], 0.0, ms(500));
    println!("10-50 ms random delay, three paths: {per_100:.2} retransmissions per 100 packets");
    assert!(per_100 < 2.0, "{per_100}");
}

#[test]
fn links_of_unequal_delay_hardly_retransmit_and_still_recover() {
    let paths: Vec<_> = [10, 35, 60].map(|delay| symmetric(ms(delay), 0.0)).into();
    let per_100 = reordered(paths.clone(), 0.0, ms(500));
    println!("three links of 10, 35, 60 ms: {per_100:.2} retransmissions per 100 packets");
    assert!(per_100 < 1.0, "{per_100}");
    let per_100 = reordered(paths, 0.05, ms(800));
    println!("the same with 5 % loss: {per_100:.2} retransmissions per 100 packets");
    assert!(per_100 < 7.0, "{per_100}");
}

#[test]
fn jitter_loss_and_duplicates_together() {
    let mut sim = Sim::new(3, &config(ms(800)), Link::default());
    sim.paths = vec![Link { delay: ms(20), jitter: ms(30), loss: 0.05, duplicate: 0.1 }; 2];
    sim.back = Link { delay: ms(20), jitter: ms(10), loss: 0.05, duplicate: 0.5 };
    let [caller, listener] = connected(&mut sim, options(ms(800)));
    let count = sim.stream(CALLER, caller, 0, 950, ms(6000));
    sim.run(ms(1500));
    assert_complete(&sim.numbers(LISTENER), count);
    let stats = sim.ends[LISTENER].stats(listener).unwrap();
    assert!(stats.duplicates > 300 && stats.reorder_hold >= ms(10), "{stats:?}");
    let share = sim.ends[CALLER].stats(caller).unwrap().retransmitted as f64 / count as f64;
    assert!(share < 0.10, "{share}");
}

#[test]
fn what_comes_too_late_is_skipped_and_counted() {
    let mut sim = Sim::new(5, &config(ms(120)), symmetric(ms(20), 0.0));
    let [caller, listener] = connected(&mut sim, options(ms(120)));
    sim.stream(CALLER, caller, 0, 500, ms(500));
    let dead = sim.now;
    sim.filter = Some(Box::new(move |now, from, _| from == LISTENER || now > dead + ms(400)));
    let count = 250 + sim.stream(CALLER, caller, 250, 500, ms(1500));
    sim.run(ms(500));
    let numbers = sim.numbers(LISTENER);
    assert!(numbers.is_sorted_by(|a, b| a < b), "order");
    let stats = sim.ends[LISTENER].stats(listener).unwrap();
    assert_eq!(numbers.len() as u64 + stats.dropped, count);
    // 400 ms dark, minus what a retransmission could still bring within 120 ms.
    assert!((100..=200).contains(&stats.dropped), "{stats:?}");
}

#[test]
fn sequence_numbers_wrap() {
    for ahead in [1, 2, 500] {
        let mut sim = Sim::new(9, &config(ms(300)), Link { jitter: ms(5), ..symmetric(ms(20), 0.03) });
        let isn = Some(Seq::new(0x8000_0000 - ahead));
        let [caller, listener] = connected(&mut sim, ConnectOptions { initial_seq: isn, ..options(ms(300)) });
        let count = sim.stream(CALLER, caller, 0, 500, ms(2000));
        let back = sim.stream(LISTENER, listener, 0, 500, ms(2000));
        sim.run(ms(800));
        assert_complete(&sim.numbers(LISTENER), count);
        assert_complete(&sim.numbers(CALLER), back);
    }
}

#[test]
fn timestamps_wrap_after_71_minutes() {
    let mut sim = Sim::new(11, &config(ms(200)), symmetric(ms(20), 0.01));
    let [caller, listener] = connected(&mut sim, options(ms(200)));
    // Idle up to ten seconds before the wrap; keepalives hold the connection.
    sim.run_until(sim.start + Duration::from_secs(4284));
    assert!(sim.closed[CALLER].is_empty() && sim.closed[LISTENER].is_empty());
    let start = sim.now;
    let count = sim.stream(CALLER, caller, 0, 100, ms(40_000));
    sim.run(ms(1000));
    assert_complete(&sim.numbers(LISTENER), count);
    for (i, (at, ..)) in sim.data[LISTENER].iter().enumerate() {
        let age = *at - (start + ms(i as u64 * 10));
        assert!(age >= ms(210) && age <= ms(240), "packet {i} was {age:?} old");
    }
    assert!(sim.data[LISTENER].last().unwrap().2 > 1 << 32, "source time is unwrapped");
    assert_eq!(sim.ends[LISTENER].stats(listener).unwrap().dropped, 0);
}

#[test]
fn a_drifting_clock_loses_nothing() {
    for ppm in [-200, 200] {
        let mut sim = Sim::new(13, &config(ms(120)), Link { jitter: ms(10), ..symmetric(ms(10), 0.0) });
        sim.caller_ppm = ppm;
        let [caller, listener] = connected(&mut sim, options(ms(120)));
        let mut count = 0;
        for _ in 0..20 {
            count += sim.stream(CALLER, caller, count, 50, ms(60_000));
        }
        sim.run(ms(1000));
        assert_complete(&sim.numbers(LISTENER), count);
        let stats = sim.ends[LISTENER].stats(listener).unwrap();
        // 20 minutes at 200 ppm are 240 ms, twice the latency.
        assert!((stats.drift_us.abs() - 240_000).abs() < 25_000, "{} us at {ppm} ppm", stats.drift_us);
        // The last payload was sent 20 ms before the stream ended, which was a second ago.
        let last_age = sim.data[LISTENER].last().unwrap().0 + ms(1020) - sim.now;
        assert!(last_age > ms(100) && last_age < ms(170), "{last_age:?} old at {ppm} ppm");
    }
}

#[test]
fn twenty_conclusions_make_one_session() {
    let mut sim = Sim::new(15, &config(ms(120)), symmetric(ms(1), 0.0));
    // The listener's answers to CONCLUSION are held back for 4.9 s, so the caller repeats.
    let start = sim.now;
    sim.filter =
        Some(Box::new(move |now, from, bytes| from == CALLER || bytes.len() <= 64 || now > start + ms(4900)));
    sim.connect(ConnectOptions { connect_timeout: ms(10_000), ..options(ms(120)) });
    sim.run(ms(6000));
    assert_eq!(sim.incoming, 1);
    assert_eq!((sim.connected[CALLER].len(), sim.connected[LISTENER].len()), (1, 1));
    assert_eq!(sim.ends[LISTENER].connections(), 1);
    assert!(sim.counters(LISTENER).consumed >= 20);
    // The late answer still sets the clock right.
    let caller = sim.connected[CALLER][0];
    let start = sim.now;
    sim.send(CALLER, caller, numbered(0));
    sim.run(ms(1000));
    let age = sim.data[LISTENER][0].0 - start;
    assert!(age >= ms(120) && age <= ms(124), "{age:?}");
}

#[test]
fn lost_handshake_packets_are_repeated() {
    for lost in 0..4usize {
        let mut sim = Sim::new(17, &config(ms(120)), symmetric(ms(10), 0.0));
        let mut seen = [0; 2];
        sim.filter = Some(Box::new(move |_, from, _| {
            seen[from] += 1;
            // Packet 0/1: INDUCTION and its answer; 2/3: CONCLUSION and its answer. First copy only.
            !(from == lost % 2 && seen[from] == 1 + lost / 2)
        }));
        let begun = sim.now;
        sim.connect(options(ms(120)));
        while sim.connected[CALLER].is_empty() {
            sim.run(ms(5));
            assert!(sim.now < begun + ms(350), "handshake packet {lost} was lost and not made up for");
        }
        assert_eq!(sim.incoming, 1);
    }
}

#[test]
fn a_vanished_peer_is_noticed_and_its_data_delivered() {
    let mut sim = Sim::new(19, &config(ms(2000)), symmetric(ms(20), 0.0));
    let [caller, listener] = connected(&mut sim, options(ms(2000)));
    let count = sim.stream(CALLER, caller, 0, 200, ms(1000));
    let dark = sim.now + ms(30);
    sim.run(ms(30));
    sim.filter = Some(Box::new(|_, _, _| false));
    sim.run(ms(8000));
    assert_complete(&sim.numbers(LISTENER), count);
    let (at, conn, reason) = sim.closed[LISTENER][0];
    assert_eq!((conn, reason), (listener, CloseReason::PeerIdle));
    assert!(at - dark > ms(3900) && at - dark < ms(5100), "{:?}", at - dark);
    assert_eq!(sim.closed[CALLER][0].2, CloseReason::PeerIdle);
    assert_eq!((sim.ends[CALLER].connections(), sim.ends[LISTENER].connections()), (0, 0));
}

#[test]
fn shutdown_delivers_what_is_buffered_then_closes() {
    let mut sim = Sim::new(21, &config(ms(800)), symmetric(ms(20), 0.0));
    let [caller, listener] = connected(&mut sim, options(ms(800)));
    let count = sim.stream(CALLER, caller, 0, 200, ms(1000));
    sim.run(ms(50));
    let now = sim.now;
    sim.ends[CALLER].close(now, caller);
    sim.run(ms(300));
    assert_eq!(sim.closed[CALLER], [(now, caller, CloseReason::Local)]);
    assert!(sim.closed[LISTENER].is_empty(), "the listener still plays");
    sim.run(ms(1000));
    assert_complete(&sim.numbers(LISTENER), count);
    assert_eq!(sim.closed[LISTENER].len(), 1);
    assert_eq!(sim.closed[LISTENER][0].2, CloseReason::PeerShutdown);
    // What the caller sent just before SHUTDOWN was due one latency later; so long it may still have come.
    let after = sim.closed[LISTENER][0].0 - now;
    assert!(after >= ms(820) && after <= ms(822), "{after:?}");
    assert_eq!(sim.closed[LISTENER][0].1, listener);
}

#[test]
fn finish_waits_for_acknowledgement_and_playback() {
    let mut sim = Sim::new(23, &config(ms(300)), symmetric(ms(20), 0.2));
    let [caller, _] = connected(&mut sim, options(ms(300)));
    let count = sim.stream(CALLER, caller, 0, 200, ms(500));
    let now = sim.now;
    sim.ends[CALLER].finish(now, caller);
    assert_eq!(sim.ends[CALLER].send(now, caller, numbered(0)), Err(SendError::Closing));
    sim.run(ms(7000));
    assert_complete(&sim.numbers(LISTENER), count);
    assert_eq!(sim.closed[CALLER][0].2, CloseReason::Finished);
    assert!(sim.closed[CALLER][0].0 - now >= ms(340), "one latency after the last ACK");
    assert_eq!(sim.closed[LISTENER].len(), 1);
}

#[test]
fn a_lost_shutdown_is_repeated_to_stragglers() {
    let mut sim = Sim::new(25, &config(ms(120)), symmetric(ms(10), 0.0));
    let [caller, listener] = connected(&mut sim, options(ms(120)));
    sim.stream(CALLER, caller, 0, 100, ms(300));
    let now = sim.now;
    let mut lost = false;
    sim.filter = Some(Box::new(move |_, from, bytes| {
        // First SHUTDOWN of the listener.
        let drop = from == LISTENER && bytes[..2] == [0x80, 5] && !lost;
        lost |= drop;
        !drop
    }));
    sim.ends[LISTENER].close(now, listener);
    sim.stream(CALLER, caller, 30, 100, ms(200));
    sim.run(ms(200));
    assert_eq!(sim.closed[CALLER].len(), 1);
    assert_eq!(sim.closed[CALLER][0].2, CloseReason::PeerShutdown);
}

#[test]
fn rejections_reach_the_caller_with_their_code() {
    let mut sim = Sim::new(27, &config(ms(120)), symmetric(ms(10), 0.0));
    sim.reject = Some(RejectReason::UNAUTHORIZED);
    // The first refusal is lost: the repeat gets it again and the application is not asked twice.
    let mut seen = 0;
    sim.filter = Some(Box::new(move |_, from, _| {
        seen += u32::from(from == LISTENER);
        from == CALLER || seen != 2
    }));
    sim.connect(ConnectOptions::default());
    sim.run(ms(1000));
    assert_eq!(sim.closed[CALLER].len(), 1);
    assert_eq!(sim.closed[CALLER][0].2, CloseReason::Rejected(RejectReason::UNAUTHORIZED));
    assert_eq!(sim.incoming, 1);
    assert_eq!((sim.ends[CALLER].connections(), sim.ends[LISTENER].connections()), (0, 0));
}

#[test]
fn an_unanswered_caller_is_refused_in_time() {
    let mut sim = Sim::new(29, &config(ms(120)), symmetric(ms(10), 0.0));
    sim.accept = false;
    sim.connect(ConnectOptions { connect_timeout: ms(10_000), ..ConnectOptions::default() });
    sim.run(ms(3500));
    assert_eq!((sim.incoming, sim.expired), (1, 1));
    assert_eq!(sim.closed[CALLER][0].2, CloseReason::Rejected(RejectReason::RESOURCE));
}

#[test]
fn a_call_into_the_void_times_out() {
    let mut sim = Sim::new(31, &config(ms(120)), symmetric(ms(10), 0.0));
    sim.filter = Some(Box::new(|_, _, _| false));
    let begun = sim.now;
    let conn = sim.connect(ConnectOptions::default());
    sim.run(ms(5000));
    let (at, closed, reason) = sim.closed[CALLER][0];
    assert_eq!((closed, reason), (conn, CloseReason::ConnectTimeout));
    assert!(at - begun >= ms(3000) && at - begun < ms(3010));
}

#[test]
fn many_callers_share_one_address() {
    let mut sim = Sim::new(33, &config(ms(120)), symmetric(ms(10), 0.0));
    let conns: Vec<_> = (0..20).map(|_| sim.connect(ConnectOptions::default())).collect();
    sim.run(ms(500));
    assert_eq!(sim.connected[LISTENER].len(), 20);
    for (i, conn) in conns.iter().enumerate() {
        sim.send(CALLER, *conn, numbered(i as u64));
    }
    sim.run(ms(500));
    let mut numbers = sim.numbers(LISTENER);
    numbers.sort_unstable();
    assert_complete(&numbers, 20);
}

#[test]
fn send_says_what_it_cannot_take() {
    let small = EndpointConfig { send_buffer: 4, ..config(ms(120)) };
    let mut sim = Sim::new(35, &small, symmetric(ms(10), 0.0));
    let conn = sim.connect(ConnectOptions::default());
    let now = sim.now;
    assert_eq!(sim.ends[CALLER].send(now, conn, numbered(0)), Err(SendError::NotConnected));
    sim.run(ms(500));
    let now = sim.now;
    assert_eq!(sim.ends[CALLER].send(now, conn, Bytes::from(vec![0; 1457])), Err(SendError::BadLength));
    for i in 0..4 {
        assert_eq!(sim.ends[CALLER].send(now, conn, numbered(i)), Ok(()));
    }
    assert_eq!(sim.ends[CALLER].send(now, conn, numbered(4)), Err(SendError::Full));
    sim.run(ms(500));
    assert_complete(&sim.numbers(LISTENER), 4);
}

#[test]
fn a_full_event_queue_holds_data_back_without_losing_them() {
    let mut sim = Sim::new(37, &EndpointConfig { events_max: 8, ..config(ms(120)) }, symmetric(ms(1), 0.0));
    let [caller, _] = connected(&mut sim, ConnectOptions::default());
    for i in 0..100 {
        sim.send(CALLER, caller, numbered(i));
    }
    sim.run(ms(500));
    assert_complete(&sim.numbers(LISTENER), 100);
}

#[test]
fn an_outage_longer_than_the_window_is_survived() {
    let small = EndpointConfig { flow_window: 256, ..config(ms(120)) };
    let mut sim = Sim::new(39, &small, symmetric(ms(10), 0.0));
    let [caller, listener] = connected(&mut sim, options(ms(120)));
    sim.stream(CALLER, caller, 0, 500, ms(500));
    let dark = sim.now;
    sim.filter = Some(Box::new(move |now, _, _| now > dark + ms(3000)));
    sim.stream(CALLER, caller, 250, 500, ms(4000));
    sim.run(ms(1000));
    assert!(sim.closed[LISTENER].is_empty());
    assert_eq!(sim.numbers(LISTENER).last(), Some(&2249), "the stream goes on to its end");
    let stats = sim.ends[LISTENER].stats(listener).unwrap();
    assert!(stats.dropped > 500, "{stats:?}");
}

#[test]
fn an_idle_connection_lives_on_keepalives() {
    let mut sim = Sim::new(41, &config(ms(120)), symmetric(ms(50), 0.0));
    connected(&mut sim, options(ms(120)));
    let before = sim.counters(LISTENER).received;
    sim.run(ms(60_000));
    assert!(sim.closed[CALLER].is_empty() && sim.closed[LISTENER].is_empty());
    let keepalives = sim.counters(LISTENER).received - before;
    assert!((58..=61).contains(&keepalives), "{keepalives} in a minute");
}

#[test]
fn one_stray_sequence_number_does_not_derail_the_stream() {
    let mut sim = Sim::new(43, &config(ms(120)), symmetric(ms(10), 0.0));
    let [caller, listener] = connected(&mut sim, options(ms(120)));
    let count = sim.stream(CALLER, caller, 0, 200, ms(500));
    sim.run(ms(500));
    for stray in [0u32, 0x2000_0000, 0x4000_0000, 0x6000_0000] {
        let mut data = [0; 20];
        data[..4].copy_from_slice(&stray.to_be_bytes());
        data[4] = 0xC0;
        data[12..16].copy_from_slice(&listener.socket_id().to_be_bytes());
        sim.inject(LISTENER, ADDRESS[CALLER], &data);
    }
    let count = count + sim.stream(CALLER, caller, count, 200, ms(500));
    sim.run(ms(500));
    assert_complete(&sim.numbers(LISTENER), count);
}
