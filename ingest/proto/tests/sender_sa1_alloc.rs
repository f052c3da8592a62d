//! A sender with a key allocates nothing either: not per packet, not for trailers, handshakes, moves or refusals.

mod sender_support;

use std::time::{Duration, Instant};

use bondgate_auth::sa1::wire::{Refusal, RefusalCode};
use bondgate_counting::allocations;
use bondgate_proto::Seq;
use bondgate_proto::sender::{
    LinkLabel, LinkState, Sa1Mode, Sender, SenderAction, SenderActions, SenderConfig, SenderVerdict,
};
use sender_support::Source;
use sender_support::sa1::{Sa1Receiver, key};

/// Only what happens inside the sender counts; the receiver of the test allocates as it likes.
#[test]
fn registration_and_streaming_with_a_key_allocate_nothing() {
    let start = Instant::now();
    let mut sender = Sender::with_key(SenderConfig::default(), 1, key(Sa1Mode::Require, start));
    let (mut out, mut receiver) = (SenderActions::default(), Sa1Receiver::default());
    let mut inside = 0;
    let mut count = |before: u64| inside += allocations() - before;
    let links = [0, 1, 2].map(|label| {
        let before = allocations();
        let link = sender.add_link(start, LinkLabel(label), &mut out);
        count(before);
        link.expect("three fit")
    });
    let mut sources: [Source; 3] = [(0, 0, 0), (1, 0, 0), (2, 0, 0)];
    let mut data = vec![0u8; 1332];
    let (mut sent, mut rebinds) = (0, 0);
    for i in 0..100_000u32 {
        let (now, now_us) = (start + Duration::from_micros(u64::from(i) * 200), u64::from(i) * 200);
        // Link 2 is dead for 3 s, link 1 moves, and for a while whoever comes is told to wait.
        let is_dead = |link: usize| link == 2 && (40_000..55_000).contains(&i);
        match i {
            30_000 => sources[1].2 += 1,
            60_000 => receiver.refuse_hello = Some(Refusal::new(RefusalCode::Draining, 1)),
            61_000 => sources[0].2 += 1,
            70_000 => receiver.refuse_hello = None,
            _ => {}
        }
        let mut answers = Vec::new();
        data[..4].copy_from_slice(&i.to_be_bytes());
        let before = allocations();
        let verdict = sender.handle_local(now, &data, &mut out);
        count(before);
        if let SenderVerdict::ToLink(link) = verdict {
            sent += 1;
            let source = sources[link.index()];
            if !is_dead(link.index()) && receiver.data(now_us, source, Seq::new(i)) {
                answers.extend(receiver.ack(source).map(|ack| (link, ack)));
            }
        }
        let before = allocations();
        if sender.poll_timeout().is_some_and(|at| at <= now) {
            sender.handle_timeout(now, &mut out);
        }
        count(before);
        while !out.is_empty() || !answers.is_empty() {
            let mut rebound = None;
            out.drain(|action| match action {
                SenderAction::Send { link, bytes } if !is_dead(link.index()) => {
                    let source = sources[link.index()];
                    let answer = match bytes {
                        [0x92, ..] => receiver.register(now_us, source, bytes),
                        [0x90, ..] => receiver.keepalive(now_us, source, bytes),
                        _ => None,
                    };
                    answers.extend(answer.map(|answer| (link, answer)));
                }
                SenderAction::Rebind { link } => rebound = Some(link),
                _ => {}
            });
            for (link, answer) in answers.drain(..) {
                let before = allocations();
                let _ = sender.handle_link(now, link, &answer, &mut out);
                count(before);
            }
            if let Some(link) = rebound {
                rebinds += 1;
                sources[link.index()].1 += 1;
                let before = allocations();
                sender.link_rebound(now, link, &mut out);
                count(before);
            }
        }
    }
    assert_eq!(inside, 0);
    let before = allocations();
    drop(std::hint::black_box(Box::new(1)));
    assert_eq!(allocations() - before, 1, "the counter counts");
    let counters = sender.counters();
    assert!(sent > 99_000 && rebinds > 0 && counters.refusals > 0, "{sent} {rebinds} {counters:?}");
    assert!(counters.reg2_sent >= 6 && counters.is_conserved(), "{counters:?}");
    assert!(links.len() == 3 && sender.links().all(|link| link.state == LinkState::Live));
    assert_eq!(counters.keepalives_sent.min(30), 30);
}
