//! The bench's programs in the kernel: what they make is what user space makes of the same source.

use std::net::UdpSocket;
use std::os::fd::AsFd;

use bondgate_ebpf::bench::{Instruments, OBJECT};
use bondgate_ebpf_common::bench::{FRACTION_BITS, Flood, Offer, Place, Sender, Stamp};
use libtest_mimic::Failed;
use rustix::time::{ClockId, clock_gettime};

use crate::ensure;
use crate::kernel::{Doing, Result};

/// The object under test: the committed one, or that of `BONDGATE_BENCH_OBJECT`.
fn instruments() -> Result<Instruments> {
    let object = match std::env::var_os("BONDGATE_BENCH_OBJECT") {
        Some(path) => std::fs::read(&path).doing(&path.to_string_lossy())?,
        None => OBJECT.to_vec(),
    };
    Instruments::load_object(&object).doing("the bench's object")
}

fn offer() -> Offer {
    Offer {
        interface: 1,
        magic: 0xfeed_0001,
        groups: 3,
        links: 2,
        burst: 2,
        datagram_bytes: 200,
        // So rarely that the flood has its turns, too.
        interval: Offer::interval_of(100_000, 2),
        flood: Flood::Mixed as u32,
        flood_bytes: 300,
        flood_first: 0xc612_0000,
        flood_sources: 1 << 17,
        to: 0x0a63_0001,
        to_port: 5000,
        ethernet: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 8, 0, 0, 0],
        ..Offer::default()
    }
}

fn sender(link: u32) -> Sender {
    Sender { address: 0x0a40_0001 + link / 2, port: 40_000 + link }
}

/// Load and flood in turns, of three lengths, each frame made out of the one before. What follows the frame stays what it was.
pub fn frames_are_those_of_user_space() -> std::result::Result<(), Failed> {
    let mut instruments = instruments()?;
    let mut offer = offer();
    offer.start_ns = now_ns();
    offer.origin_ns = offer.start_ns - 1000;
    instruments.set(&offer, (0..6).map(sender)).doing("setting the offer")?;
    let (mut load, mut flood) = (0_u64, 0_u64);
    let mut buffer = instruments.blank();
    while load < 2000 || flood < 2000 {
        let frame = instruments.frame(&buffer).doing("a frame")?.ok_or("nothing is due")?;
        let is_flood = frame[26] == 198;
        let expected = if is_flood {
            flood += 1;
            offer.flood_front(flood - 1)
        } else {
            let place = Place::of(load, 2, 3, 2);
            let due_ns = ((load / 2) * offer.interval) >> FRACTION_BITS;
            let stamp = Stamp { group: place.group, number: load, intended_ns: 1000 + due_ns };
            load += 1;
            offer.load_front(sender(place.group * 2 + place.link), &stamp, place.sequence)
        };
        let expected = expected.frame(&offer);
        ensure(frame == expected, || {
            format!("load {load}, flood {flood}:\n{frame:02x?}\nand not\n{expected:02x?}")
        })?;
        buffer[..frame.len()].copy_from_slice(&frame);
    }
    let progress = instruments.progress().doing("the progress")?;
    ensure((progress.next, progress.flood_sent) == (load, flood), || format!("{progress:?}"))?;
    Ok(())
}

/// Each datagram of the run is noted once, with how late it was; nothing else is.
pub fn arrivals_are_noted() -> std::result::Result<(), Failed> {
    let mut instruments = instruments()?;
    let offer = Offer { origin_ns: now_ns() - 5_000_000_000, ..offer() };
    instruments.set(&offer, []).doing("setting the offer")?;
    let (from, to) = (UdpSocket::bind("127.0.0.1:0")?, UdpSocket::bind("127.0.0.1:0")?);
    from.connect(to.local_addr()?)?;
    instruments.note_arrivals(to.as_fd()).doing("the filter")?;
    instruments.set_window(100).doing("the window")?;
    let mut buffer = [0; 2048];
    for number in 0..300 {
        let stamp = Stamp { group: 0, number, intended_ns: 5_000_000_000 - number * 10_000_000 };
        let magic = if number % 3 == 0 { offer.magic } else { offer.magic + 1 };
        let datagram = [&stamp.head(magic, 1).0[..], &[7; 60], &stamp.check(magic).to_be_bytes()].concat();
        from.send(&datagram)?;
        ensure(to.recv(&mut buffer)? == datagram.len(), || "it was cut".into())?;
    }
    let latencies = instruments.latencies().doing("latencies")?;
    let count: u64 = latencies.iter().map(|(_, count)| count).sum();
    ensure(count == 66, || format!("{count} and not 66: {latencies:?}"))?;
    let (least, most) = (latencies[0].0, latencies[latencies.len() - 1].0);
    ensure(least >= 1_020_000_000 * 127 / 128 && most > least && most < 60_000_000_000, || {
        format!("{least} to {most} ns")
    })
}

/// Receiving on loopback takes soft interrupts some time. Kernels that allow no such programs say so.
pub fn softirqs_are_timed() -> std::result::Result<(), Failed> {
    let mut instruments = instruments()?;
    instruments.time_softirqs().doing("the tracepoints")?;
    let (from, to) = (UdpSocket::bind("127.0.0.1:0")?, UdpSocket::bind("127.0.0.1:0")?);
    from.connect(to.local_addr()?)?;
    let begun = now_ns();
    for _ in 0..1000 {
        from.send(&[0; 100])?;
        to.recv(&mut [0; 100])?;
    }
    let (spent, passed) = (instruments.softirq_ns().doing("the times")?, now_ns() - begun);
    let sum: u64 = spent.iter().sum();
    ensure(sum > 10_000 && sum < passed * spent.len() as u64, || format!("{spent:?} in {passed} ns"))
}

fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
