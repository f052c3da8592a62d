//! A connection that is never silent: datagrams come in every turn of the loop, and its timers are served all the same.
#![allow(clippy::unwrap_used, reason = "a test that unwraps nothing fails, as it should")]

mod support;

use std::time::Duration;

use bondgate_srt::{ConnectOptions, EndpointConfig, Event, TRANSMIT_MIN};
use support::{ADDRESS, CALLER, LISTENER, Link, Sim, ms, numbered};

/// Turns of 2 ms, each with four datagrams before the timers are looked at: payloads come at their time all the same, and
/// not when the window is full.
#[test]
fn payloads_are_on_time_when_every_turn_brings_more() {
    let config = EndpointConfig { latency: ms(120), ..EndpointConfig::default() };
    let mut sim = Sim::new(1, &config, Link::default());
    sim.connect(ConnectOptions { latency: ms(120), ..ConnectOptions::default() });
    sim.run(ms(1000));
    let caller = sim.connected[CALLER][0];
    let [mut encoder, mut listener] = sim.ends;
    let (mut now, mut buf) = (sim.now, [0; TRANSMIT_MIN]);
    let start = now;
    let sent_at = |number: u64| start + Duration::from_micros(500) * (number + 1) as u32;
    let (mut number, mut delivered, mut worst) = (0, 0, Duration::ZERO);
    for _turn in 0..2_000 {
        for _ in 0..4 {
            now += Duration::from_micros(500);
            encoder.send(now, caller, numbered(number)).unwrap();
            number += 1;
        }
        while let Some(transmit) = encoder.poll_transmit(now, &mut buf) {
            listener.handle(now, ADDRESS[CALLER], 0, &buf[..transmit.len]);
        }
        if listener.poll_timeout().is_some_and(|at| at <= now) {
            listener.handle_timeout(now);
        }
        while let Some(event) = listener.poll_event() {
            if let Event::Data { payload, .. } = event {
                assert_eq!(payload, numbered(delivered), "order");
                worst = worst.max(now - sent_at(delivered));
                delivered += 1;
            }
        }
        while let Some(transmit) = listener.poll_transmit(now, &mut buf) {
            encoder.handle(now, ADDRESS[LISTENER], 0, &buf[..transmit.len]);
        }
        if encoder.poll_timeout().is_some_and(|at| at <= now) {
            encoder.handle_timeout(now);
        }
        while encoder.poll_event().is_some() {}
    }
    assert!(number - delivered < 260, "{delivered} of {number} delivered");
    assert!(worst <= ms(124), "a payload was {worst:?} old");
}
