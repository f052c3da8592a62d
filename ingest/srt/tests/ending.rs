//! How sessions end when several paths lead to the listener: what SHUTDOWN overtakes, and what a drained connection
//! still plays. Two engines, a seeded wire, a virtual clock.
#![allow(clippy::unwrap_used, reason = "a test that unwraps nothing fails, as it should")]

mod support;

use bondgate_srt::{CloseReason, ConnId, ConnectOptions, EndpointConfig, Stats};
use std::time::Duration;
use support::{CALLER, LISTENER, Link, Sim, assert_complete, ms};

const FAST: Duration = ms(10);

fn path(delay: Duration) -> Link {
    Link { delay, ..Link::default() }
}

/// Caller and listener with this latency, over paths of these delays; the way back is fast.
fn connected(latency: Duration, delays: &[Duration]) -> (Sim, ConnId, ConnId) {
    let config = EndpointConfig { latency, ..EndpointConfig::default() };
    let mut sim = Sim::new(51, &config, path(FAST));
    sim.connect(ConnectOptions { latency, ..ConnectOptions::default() });
    sim.run(ms(500));
    sim.paths = delays.iter().map(|delay| path(*delay)).collect();
    let (caller, listener) = (sim.connected[CALLER][0], sim.connected[LISTENER][0]);
    (sim, caller, listener)
}

/// The caller hangs up and SHUTDOWN takes a fast path. Returns what the listener had received by then.
fn hang_up(sim: &mut Sim, caller: ConnId, listener: ConnId) -> Stats {
    sim.paths = vec![path(FAST)];
    let now = sim.now;
    sim.ends[CALLER].close(now, caller);
    sim.run(FAST + ms(1));
    assert_eq!(sim.ends[LISTENER].last_data_at(listener), None, "it has been told");
    assert!(sim.closed[LISTENER].is_empty(), "it waits for what is on its way");
    sim.ends[LISTENER].stats(listener).unwrap()
}

/// Fails if the last of `count` payloads was there when SHUTDOWN came.
fn assert_overtaken(stats: &Stats, count: u64) {
    assert!(stats.delivered + u64::from(stats.receive_buffer) < count, "nothing was overtaken: {stats:?}");
}

#[test]
fn data_that_shutdown_overtakes_are_played() {
    for slow in [ms(60), ms(250), ms(700)] {
        let (mut sim, caller, listener) = connected(ms(800), &[FAST, slow, slow]);
        let count = sim.stream(CALLER, caller, 0, 200, ms(1000));
        sim.paths = vec![path(slow)];
        let count = count + sim.stream(CALLER, caller, count, 200, ms(50));
        assert_overtaken(&hang_up(&mut sim, caller, listener), count);
        sim.run(ms(3000));
        assert_complete(&sim.numbers(LISTENER), count);
        assert_eq!(sim.closed[LISTENER].len(), 1);
        let (at, conn, reason) = sim.closed[LISTENER][0];
        assert_eq!((conn, reason), (listener, CloseReason::PeerShutdown));
        assert!(at >= sim.data[LISTENER].last().unwrap().0, "Closed is the last word");
    }
}

/// The same when nothing is waiting to be played at that moment: payloads are further apart than the latency.
#[test]
fn data_that_shutdown_overtakes_are_played_to_an_empty_buffer() {
    for (latency, slow) in [(ms(200), ms(180)), (ms(2500), ms(2400))] {
        let (mut sim, caller, listener) = connected(latency, &[slow]);
        for number in 0..3 {
            sim.run(latency * 2);
            sim.send(CALLER, caller, support::numbered(number));
        }
        assert_overtaken(&hang_up(&mut sim, caller, listener), 3);
        sim.run(latency * 2);
        assert_complete(&sim.numbers(LISTENER), 3);
        assert_eq!(sim.closed[LISTENER].len(), 1);
    }
}

/// A retransmission is on the slow path when the caller hangs up.
#[test]
fn a_repair_that_shutdown_overtakes_fills_its_gap() {
    let (mut sim, caller, listener) = connected(ms(600), &[FAST]);
    let mut first = true;
    sim.filter = Some(Box::new(move |_, from, bytes| {
        let is_lost = first && from == CALLER && bytes[0] < 0x80;
        first &= !is_lost;
        !is_lost
    }));
    let count = sim.stream(CALLER, caller, 0, 200, ms(15));
    sim.paths = vec![path(ms(300))];
    // The loss is reported and answered on the slow path; SHUTDOWN takes the fast one.
    sim.run(ms(30));
    assert_eq!(sim.ends[CALLER].stats(caller).unwrap().retransmitted, 1);
    assert_eq!(hang_up(&mut sim, caller, listener).received, count - 1, "the repair is on its way");
    sim.run(ms(2000));
    assert_complete(&sim.numbers(LISTENER), count);
}

/// What was sent before SHUTDOWN is due one latency after it at the latest; nothing is waited for beyond that.
#[test]
fn a_session_that_was_shut_down_ends_one_latency_later() {
    let latency = ms(300);
    let (mut sim, caller, listener) = connected(latency, &[FAST]);
    sim.send(CALLER, caller, support::numbered(0));
    sim.run(ms(1000));
    sim.paths = vec![path(ms(900))];
    sim.stream(CALLER, caller, 1, 100, ms(100));
    let shutdown_at = sim.now + FAST;
    assert_overtaken(&hang_up(&mut sim, caller, listener), 2);
    sim.run(ms(3000));
    assert_complete(&sim.numbers(LISTENER), 1);
    let (at, _, reason) = sim.closed[LISTENER][0];
    assert_eq!(reason, CloseReason::PeerShutdown);
    assert!(at >= shutdown_at + latency && at <= shutdown_at + latency + ms(2), "{:?}", at - shutdown_at);
    assert_eq!((sim.ends[CALLER].connections(), sim.ends[LISTENER].connections()), (0, 0));
}

/// Who has only listened has nothing on its way: a player that leaves is gone at once.
#[test]
fn a_peer_that_sent_nothing_is_not_waited_for() {
    let (mut sim, caller, listener) = connected(ms(800), &[FAST]);
    sim.stream(LISTENER, listener, 0, 100, ms(200));
    let now = sim.now;
    sim.ends[CALLER].close(now, caller);
    sim.run(FAST + ms(1));
    assert_eq!(sim.closed[LISTENER].len(), 1);
    assert_eq!(sim.closed[LISTENER][0].2, CloseReason::PeerShutdown);
}

/// The application lets a connection go (its group is closed, or another session has taken its place).
#[test]
fn a_drained_connection_plays_what_it_has_and_tells_its_peer_at_once() {
    let latency = ms(800);
    let (mut sim, caller, listener) = connected(latency, &[FAST, ms(60)]);
    let count = sim.stream(CALLER, caller, 0, 200, ms(1000));
    sim.run(ms(60));
    let played = sim.data[LISTENER].len() as u64;
    assert!(played < count / 2, "{played} of {count} are played already");
    let drained_at = sim.now;
    sim.ends[LISTENER].drain(drained_at, listener);
    sim.run(FAST + ms(1));
    assert_eq!(sim.closed[CALLER].len(), 1);
    assert_eq!(sim.closed[CALLER][0].2, CloseReason::PeerShutdown);
    assert_eq!(sim.ends[LISTENER].last_data_at(listener), None, "nothing new can come");
    assert!(sim.closed[LISTENER].is_empty(), "it still plays");
    sim.run(latency + ms(200));
    assert_complete(&sim.numbers(LISTENER), count);
    let last = sim.data[LISTENER].last().unwrap().0;
    let (at, conn, reason) = sim.closed[LISTENER][0];
    assert_eq!((conn, reason), (listener, CloseReason::Local));
    assert!(at >= last && at - last <= ms(2), "{:?} after the last payload", at - last);
    // At its time, not all at once.
    let first_after = sim.data[LISTENER].iter().find(|(at, ..)| *at > drained_at).unwrap().0;
    assert!(last - first_after > ms(700), "{:?}", last - first_after);
}

/// With nothing to play, a drained connection ends at once, whatever its peer still sends.
#[test]
fn an_idle_connection_drains_at_once() {
    let (mut sim, caller, listener) = connected(ms(800), &[FAST]);
    let count = sim.stream(CALLER, caller, 0, 100, ms(200));
    sim.run(ms(1000));
    let now = sim.now;
    sim.ends[LISTENER].drain(now, listener);
    sim.send(CALLER, caller, support::numbered(count));
    sim.run(ms(2000));
    assert_complete(&sim.numbers(LISTENER), count);
    let (at, _, reason) = sim.closed[LISTENER][0];
    assert!(reason == CloseReason::Local && at - now <= ms(2), "{reason:?} after {:?}", at - now);
    assert_eq!(sim.closed[CALLER].len(), 1);
}
