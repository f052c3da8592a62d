//! Moving many datagrams: order, integrity, segmentation and merging.

use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bondgate_io::{AnyBackend, Backend, Gro, Limits, Uring};
use libtest_mimic::Failed;

use crate::rig::{PATIENCE, Rig, Variant, ensure, ensure_eq, pattern, peer};

/// Makes a plain socket send what it is given in datagrams of `len` bytes.
fn segment(socket: &std::net::UdpSocket, len: i32) -> Result<(), Failed> {
    // SAFETY: the kernel reads four bytes from a live local variable.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, (&raw const len).cast(), 4)
    };
    ensure_eq(result, 0, "UDP_SEGMENT")
}

pub fn segmented_sends_arrive_apart(variant: &Variant) -> Result<(), Failed> {
    let mut rig = Rig::new(variant)?;
    let (_, addr) = rig.listener()?;
    let (client, sink) = (peer()?, peer()?);
    let (forwarder, _) = rig.connected(sink.local_addr()?)?;
    for seed in 0..150 {
        client.send_to(&pattern(seed, 1316), addr)?;
    }
    rig.turns(150, |backend, index| backend.forward(index, forwarder, None))?;
    let mut buffer = vec![0; 70_000];
    for seed in 0..150 {
        let n = sink.recv(&mut buffer)?;
        ensure(buffer[..n] == pattern(seed, 1316)[..], "separate, in order")?;
    }
    let counters = *rig.backend.counters();
    ensure_eq(counters.tx_datagrams, 150, "datagrams")?;
    ensure(counters.tx_gso_datagrams >= 140, &format!("{} of 150 segmented", counters.tx_gso_datagrams))?;
    ensure(counters.tx_messages <= 20, &format!("{} messages", counters.tx_messages))
}

pub fn mixed_sizes_keep_their_order(variant: &Variant) -> Result<(), Failed> {
    let mut rig = Rig::new(variant)?;
    let (listener, addr) = rig.listener()?;
    let client = peer()?;
    let sinks = [peer()?, peer()?];
    let (forwarder, _) = rig.connected(sinks[0].local_addr()?)?;
    let other: SocketAddr = sinks[1].local_addr()?;
    let len = |seed: u64| match seed * 7 % 11 {
        0 => 0,
        1 => 44,
        2..=4 => 1316,
        5 => 1456,
        n => 1300 + (n as usize % 2) * 16,
    };
    for base in 0..10 {
        for seed in base * 60..base * 60 + 60 {
            client.send_to(&pattern(seed, len(seed)), addr)?;
        }
        rig.turns(60, |backend, index| {
            backend.forward(index, forwarder, None);
            backend.forward(index, listener, Some(other));
            if index % 7 == 0 {
                backend.send(listener, Some(other), b"note");
            }
        })?;
        for sink in &sinks {
            let mut buffer = [0; 2000];
            let mut seed = base * 60;
            while seed < base * 60 + 60 {
                let n = sink.recv(&mut buffer)?;
                if buffer[..n] == b"note"[..] {
                    continue;
                }
                ensure(
                    buffer[..n] == pattern(seed, len(seed))[..],
                    &format!("datagram {seed} in its place"),
                )?;
                seed += 1;
            }
            // A note may be the last one.
            sink.set_nonblocking(true)?;
            while sink.recv(&mut buffer).is_ok_and(|n| n == 4) {}
            sink.set_nonblocking(false)?;
        }
    }
    ensure(rig.backend.counters().tx_gso_messages > 0, "some runs were segmented")
}

pub fn merged_receives_are_cut_apart(variant: &Variant) -> Result<(), Failed> {
    let mut rig = Rig::new(variant)?;
    let (_, addr) = rig.listener()?;
    let (client, sink) = (peer()?, peer()?);
    let (forwarder, _) = rig.connected(sink.local_addr()?)?;
    segment(&client, 1316)?;
    let mut seed = 0_u64;
    for round in 0..20 {
        // 1 to 48 full datagrams and a shorter one.
        let mut train = Vec::new();
        let first = seed;
        for _ in 0..=round * 47 / 19 {
            train.extend(pattern(seed, 1316));
            seed += 1;
        }
        train.extend(pattern(seed, 700));
        seed += 1;
        client.send_to(&train, addr)?;
        let got =
            rig.turns((seed - first) as usize, |backend, index| backend.forward(index, forwarder, None))?;
        let mut buffer = vec![0; 70_000];
        for (at, datagram) in got.iter().enumerate() {
            let number = first + at as u64;
            let want = pattern(number, if number + 1 == seed { 700 } else { 1316 });
            ensure(datagram.bytes == want, "cut apart as it was sent")?;
            let n = sink.recv(&mut buffer)?;
            ensure(buffer[..n] == want[..], "forwarded as it was sent")?;
        }
    }
    let counters = *rig.backend.counters();
    ensure_eq(counters.rx_datagrams, seed, "datagrams")?;
    match variant.gro {
        Gro::On => ensure(counters.rx_gro_datagrams > seed * 9 / 10, "received merged"),
        Gro::Off => ensure_eq(counters.rx_gro_datagrams, 0, "not merged"),
        Gro::Adaptive => Ok(()),
    }
}

/// Merging is given up while merged datagrams wait in the queue: they are cut apart all the same.
pub fn merging_ends_with_a_full_queue(variant: &Variant) -> Result<(), Failed> {
    const LEN: usize = 200;
    let mut rig = Rig::new(variant)?;
    let (_, addr) = rig.listener()?;
    let (trains, singles) = (peer()?, peer()?);
    segment(&trains, LEN as i32)?;
    let train =
        |seeds: std::ops::Range<u64>| -> Vec<u8> { seeds.flat_map(|seed| pattern(seed, LEN)).collect() };
    let mut seed = 0;
    while rig.backend.counters().rx_gro_batches < 64 {
        ensure(seed < 200_000, "merging begins")?;
        for _ in 0..16 {
            trains.send_to(&train(seed..seed + 16), addr)?;
            seed += 16;
        }
        rig.turns(256, |_, _| {})?;
    }
    // Too few are merged for it to pay, and more of them wait than one decision takes.
    let first = seed;
    while seed < first + 3_200 {
        for _ in 0..12 {
            singles.send_to(&pattern(seed, LEN), addr)?;
            seed += 1;
        }
        trains.send_to(&train(seed..seed + 4), addr)?;
        seed += 4;
    }
    let merged = rig.backend.counters().rx_gro_batches;
    let got = rig.turns((seed - first) as usize, |_, _| {})?;
    for (want, datagram) in (first..seed).zip(&got) {
        ensure_eq(datagram.bytes.len(), LEN, "length")?;
        ensure(datagram.bytes == pattern(want, LEN), "cut apart as it was sent")?;
    }
    ensure_eq(rig.backend.counters().rx_kernel_drops, 0, "the queue held them all")?;
    ensure(rig.backend.counters().rx_gro_batches > merged, "some were merged")?;
    // It was given up all the same: nothing is merged any more.
    rig.idle(Duration::from_millis(50))?;
    let merged = rig.backend.counters().rx_gro_batches;
    for _ in 0..50 {
        trains.send_to(&train(seed..seed + 4), addr)?;
        seed += 4;
    }
    rig.turns(200, |_, _| {})?;
    ensure_eq(rig.backend.counters().rx_gro_batches, merged, "merged after merging was given up")
}

pub fn hundred_thousand_bit_exact(variant: &Variant) -> Result<(), Failed> {
    const COUNT: u64 = 100_000;
    const WINDOW: u64 = 400;
    let mut rig = Rig::new(variant)?;
    let (listener, addr) = rig.listener()?;
    let sink = peer()?;
    let (forwarder, _) = rig.connected(sink.local_addr()?)?;
    let client = peer()?;
    let arrived = Arc::new(AtomicU64::new(0));
    let done = Arc::new(AtomicBool::new(false));
    // The payload is cheap to make and to check, and every byte depends on the number.
    let fill = |number: u64, buffer: &mut [u8]| {
        for (at, word) in buffer.chunks_exact_mut(8).enumerate() {
            word.copy_from_slice(&(number.rotate_left(at as u32 % 64) ^ 0x5bd1_e995_9d1b_58d1).to_be_bytes());
        }
    };
    let len = |number: u64| if number.is_multiple_of(13) { 808 } else { 1312 };
    let sender = {
        let arrived = Arc::clone(&arrived);
        std::thread::spawn(move || {
            let mut buffer = [0; 1312];
            let mut last = (Instant::now(), 0);
            for number in 0..COUNT {
                while number - arrived.load(Ordering::Acquire) > WINDOW {
                    let seen = arrived.load(Ordering::Acquire);
                    if seen != last.1 {
                        last = (Instant::now(), seen);
                    }
                    if last.0.elapsed() > PATIENCE {
                        return;
                    }
                    std::thread::yield_now();
                }
                fill(number, &mut buffer[..len(number)]);
                let _ = client.send_to(&buffer[..len(number)], addr);
            }
        })
    };
    let checker = {
        let (arrived, done) = (Arc::clone(&arrived), Arc::clone(&done));
        let waker = rig.backend.waker();
        std::thread::spawn(move || -> Result<(), String> {
            let mut buffer = [0; 2000];
            let mut want = [0; 1312];
            let mut result = Ok(());
            for number in 0..COUNT {
                let n = match sink.recv(&mut buffer) {
                    Ok(n) => n,
                    Err(e) => {
                        result = Err(format!("datagram {number} did not come: {e}"));
                        break;
                    }
                };
                fill(number, &mut want[..len(number)]);
                if buffer[..n] != want[..len(number)] {
                    result = Err(format!("datagram {number} differs ({n} bytes)"));
                    break;
                }
                arrived.store(number + 1, Ordering::Release);
            }
            done.store(true, Ordering::Release);
            waker.wake();
            result
        })
    };
    while !done.load(Ordering::Acquire) {
        let n = rig.backend.receive(Some(Duration::from_millis(100)))?;
        for index in 0..n {
            rig.backend.forward(index, forwarder, None);
            if index % 10 == 9 {
                let from = rig.backend.datagram(index).from;
                rig.backend.send(listener, Some(from), &[0; 44]);
            }
        }
        rig.backend.flush();
    }
    checker.join().map_err(|_| "checker")?.map_err(Failed::from)?;
    sender.join().map_err(|_| "sender")?;
    let counters = *rig.backend.counters();
    ensure_eq(counters.rx_datagrams, COUNT, "received")?;
    ensure_eq(counters.tx_no_room + counters.tx_errors + counters.tx_would_block, 0, "lost on the way out")?;
    ensure_eq(counters.rx_truncated + counters.rx_kernel_drops + counters.rx_stale, 0, "lost on the way in")
}

/// Merging begins with bursts of one peer and ends when there is nothing to merge; nothing is lost at the switches.
pub fn merging_adapts(variant: &Variant) -> Result<(), Failed> {
    let mut rig = Rig::new(variant)?;
    let (_, addr) = rig.listener()?;
    let fat = peer()?;
    segment(&fat, 1000)?;
    let mut seed = 0_u64;
    let mut merged_rounds = 0;
    for _ in 0..300 {
        let first = seed;
        let before = rig.backend.counters().rx_gro_datagrams;
        for _ in 0..2 {
            let train: Vec<u8> = (seed..seed + 30).flat_map(|s| pattern(s, 1000)).collect();
            seed += 30;
            fat.send_to(&train, addr)?;
        }
        let got = rig.turns(60, |_, _| {})?;
        for (at, datagram) in got.iter().enumerate() {
            ensure(datagram.bytes == pattern(first + at as u64, 1000), "intact and in order")?;
        }
        merged_rounds += u64::from(rig.backend.counters().rx_gro_datagrams > before);
    }
    ensure(merged_rounds > 200, &format!("merged in {merged_rounds} of 300 rounds"))?;
    // Now many thin peers; after a while the ordinary buffers must be back in use, so that a long datagram is refused.
    let thin = (0..40).map(|_| peer()).collect::<Result<Vec<_>, _>>()?;
    for _ in 0..150 {
        for (at, client) in thin.iter().enumerate() {
            client.send_to(&pattern(at as u64, 500), addr)?;
        }
        let got = rig.turns(thin.len(), |_, _| {})?;
        ensure(got.iter().all(|datagram| datagram.bytes.len() == 500), "intact")?;
    }
    fat.send_to(&pattern(0, 1000), addr)?;
    rig.turns(1, |_, _| {})?;
    let plain = peer()?;
    plain.send_to(&pattern(1, 5000), addr)?;
    rig.idle(Duration::from_millis(10))?;
    ensure_eq(rig.backend.counters().rx_truncated, 1, "ordinary buffers again")
}

/// At a high rate the backend waits for more; nothing is lost by that, and timeouts hold.
pub fn lingers(variant: &Variant) -> Result<(), Failed> {
    lingers_on(&mut Rig::new(variant)?)
}

/// The same where the kernel cannot wait for several completions.
pub fn lingers_emulated() -> Result<(), Failed> {
    let backend = Uring::open(&Limits::default())?.without_min_wait();
    lingers_on(&mut Rig { backend: AnyBackend::Uring(Box::new(backend)) })
}

fn lingers_on(rig: &mut Rig) -> Result<(), Failed> {
    let (_, addr) = rig.listener()?;
    let client = peer()?;
    rig.idle(Duration::from_millis(20))?;
    ensure_eq(rig.backend.counters().lingers, 0, "no lingering while idle")?;
    let begun = Instant::now();
    let mut sent = 0_u64;
    while rig.backend.counters().lingers < 50 {
        ensure(begun.elapsed() < PATIENCE, "the rate was meant to start the linger")?;
        for _ in 0..20 {
            client.send_to(&pattern(sent, 200), addr)?;
            sent += 1;
        }
        let got = rig.turns(20, |_, _| {})?;
        for (datagram, number) in got.iter().zip(sent - 20..) {
            ensure(datagram.bytes == pattern(number, 200), "in order, each once")?;
        }
    }
    // A single datagram is not kept waiting for company, and a timeout shorter than the linger is kept.
    client.send_to(b"alone", addr)?;
    let begun = Instant::now();
    rig.turns(1, |_, _| {})?;
    ensure(begun.elapsed() < PATIENCE / 2, "a single datagram comes, too")?;
    for timeout in [Duration::from_micros(50), Duration::from_millis(3)] {
        ensure_eq(rig.backend.receive(Some(timeout))?, 0, "nothing more")?;
        rig.backend.flush();
    }
    Ok(())
}
