//! What forwarding a datagram costs, in CPU time of the forwarding thread, by backend: `uring`, `mmsg`, and the loop a
//! beginner would write (wait, receive one, send one).
//!
//! A sender thread keeps a bounded number of datagrams in flight over loopback: 1316 bytes, from 1 or 64 addresses in
//! rotation, each to the one forwarder of its group of four; a sink thread counts arrivals. Modes take turns, round by
//! round, so that other load hits all alike. On loopback the receiver's network stack runs inside the send call, so the
//! figures contain it; they compare modes and are no promise for a network card.
//!
//! `cargo run --release -p bondgate-io --example forward_rate [rounds]`
#![allow(clippy::print_stdout)] // a report is its purpose

use std::collections::HashMap;
use std::error::Error;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bondgate_io::socket::{BindOptions, bind_udp, connect_udp};
use bondgate_io::{Backend, Choice, Gro, Limits, Role, SocketId};

const LEN: usize = 1316;
const IN_FLIGHT: u64 = 256;
const MEASURE: Duration = Duration::from_millis(350);
const LINKS_PER_GROUP: usize = 4;

type Failure = Box<dyn Error + Send + Sync>;

#[derive(Clone, Copy)]
struct Mode {
    name: &'static str,
    choice: Option<Choice>,
    gro: Gro,
    gso: bool,
    linger_us_max: u32,
}

const MODES: &[Mode] = &[
    Mode { name: "naive recv/send", choice: None, gro: Gro::Off, gso: false, linger_us_max: 0 },
    Mode { name: "mmsg, no GSO", choice: Some(Choice::Mmsg), gro: Gro::Off, gso: false, linger_us_max: 0 },
    Mode { name: "mmsg", choice: Some(Choice::Mmsg), gro: Gro::Off, gso: true, linger_us_max: 0 },
    Mode { name: "mmsg, linger", choice: Some(Choice::Mmsg), gro: Gro::Off, gso: true, linger_us_max: 300 },
    Mode { name: "uring, no GSO", choice: Some(Choice::Uring), gro: Gro::Off, gso: false, linger_us_max: 0 },
    Mode { name: "uring", choice: Some(Choice::Uring), gro: Gro::Off, gso: true, linger_us_max: 0 },
    Mode { name: "uring, linger", choice: Some(Choice::Uring), gro: Gro::Off, gso: true, linger_us_max: 300 },
];

struct Sample {
    cpu_ns: f64,
    per_turn: f64,
    kpps: f64,
    per_message: f64,
}

/// CPU time of this thread, user and system, in nanoseconds.
fn thread_cpu() -> u64 {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the kernel fills in a live local structure, which is valid as zeroes, too.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr());
        usage.assume_init()
    };
    let ns = |t: libc::timeval| t.tv_sec as u64 * 1_000_000_000 + t.tv_usec as u64 * 1000;
    ns(usage.ru_utime) + ns(usage.ru_stime)
}

/// Forwards until told to stop; returns (datagrams, turns, messages).
type Forwarder = Box<dyn FnMut() -> Result<(u64, u64, u64), Failure>>;

fn naive(listener: UdpSocket, routes: HashMap<SocketAddr, UdpSocket>) -> Result<Forwarder, Failure> {
    listener.set_nonblocking(false)?;
    listener.set_read_timeout(Some(Duration::from_millis(20)))?;
    let mut buffer = [0; 2048];
    Ok(Box::new(move || match listener.recv_from(&mut buffer) {
        Ok((len, from)) => {
            if let Some(socket) = routes.get(&from) {
                socket.send(&buffer[..len])?;
            }
            Ok((1, 1, 1))
        }
        Err(_) => Ok((0, 1, 0)),
    }))
}

fn backend(
    mode: Mode,
    listener: UdpSocket,
    routes: HashMap<SocketAddr, UdpSocket>,
) -> Result<Forwarder, Failure> {
    let limits =
        Limits { gro: mode.gro, gso: mode.gso, linger_us_max: mode.linger_us_max, ..Limits::default() };
    let (mut backend, _) = bondgate_io::open(mode.choice.unwrap_or_default(), &limits)?;
    backend.add(listener, Role::Listener)?;
    let mut ids: HashMap<SocketAddr, SocketId> = HashMap::new();
    let mut by_local: HashMap<SocketAddr, SocketId> = HashMap::new();
    for (from, socket) in routes {
        let local = socket.local_addr()?;
        let id = match by_local.get(&local) {
            Some(&id) => id,
            None => backend.add(socket, Role::Connected)?,
        };
        by_local.insert(local, id);
        ids.insert(from, id);
    }
    Ok(Box::new(move || {
        let before = backend.counters().tx_messages;
        let n = backend.receive(Some(Duration::from_millis(20)))?;
        backend.note_time(Instant::now());
        for index in 0..n {
            if let Some(&id) = ids.get(&backend.datagram(index).from) {
                backend.forward(index, id, None);
            }
        }
        backend.flush();
        Ok((n as u64, 1, backend.counters().tx_messages - before))
    }))
}

fn measure(mode: Mode, links: usize) -> Result<Sample, Failure> {
    let local: SocketAddr = "127.0.0.1:0".parse()?;
    let options = BindOptions::default();
    let listener = bind_udp(local, &options)?;
    let addr = listener.local_addr()?;
    let sink = bind_udp(local, &options)?;
    sink.set_nonblocking(false)?;
    sink.set_read_timeout(Some(Duration::from_millis(20)))?;
    let clients = (0..links).map(|_| connect_udp(addr, None, &options)).collect::<Result<Vec<_>, _>>()?;
    let mut routes = HashMap::new();
    for group in clients.chunks(LINKS_PER_GROUP) {
        let socket = connect_udp(sink.local_addr()?, None, &options)?;
        for client in group {
            routes.insert(client.local_addr()?, socket.try_clone()?);
        }
    }
    let mut forward = match mode.choice {
        None => naive(listener, routes)?,
        Some(_) => backend(mode, listener, routes)?,
    };

    let stop = Arc::new(AtomicBool::new(false));
    let arrived = Arc::new(AtomicU64::new(0));
    let counting = {
        let (stop, arrived) = (Arc::clone(&stop), Arc::clone(&arrived));
        std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            while !stop.load(Ordering::Relaxed) {
                if sink.recv(&mut buffer).is_ok() {
                    arrived.fetch_add(1, Ordering::Release);
                }
            }
        })
    };
    let sending = {
        let (stop, arrived) = (Arc::clone(&stop), Arc::clone(&arrived));
        std::thread::spawn(move || {
            let payload = [0x47; LEN];
            let mut sent = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                if sent.saturating_sub(arrived.load(Ordering::Acquire)) >= IN_FLIGHT {
                    std::thread::yield_now();
                    continue;
                }
                let _ = clients[(sent % clients.len() as u64) as usize].send(&payload);
                sent += 1;
            }
        })
    };

    let warm_up = Instant::now();
    while warm_up.elapsed() < MEASURE / 5 {
        forward()?;
    }
    let (begun, cpu) = (Instant::now(), thread_cpu());
    let (mut datagrams, mut turns, mut messages) = (0, 0, 0);
    while begun.elapsed() < MEASURE {
        let (d, t, m) = forward()?;
        datagrams += d;
        turns += t;
        messages += m;
    }
    let (cpu, seconds) = (thread_cpu() - cpu, begun.elapsed().as_secs_f64());
    stop.store(true, Ordering::Relaxed);
    sending.join().map_err(|_| "sender")?;
    counting.join().map_err(|_| "sink")?;
    let datagrams = (datagrams as f64).max(1.0);
    Ok(Sample {
        cpu_ns: cpu as f64 / datagrams,
        per_turn: datagrams / turns as f64,
        kpps: datagrams / seconds / 1000.0,
        per_message: datagrams / (messages as f64).max(1.0),
    })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() -> Result<(), Failure> {
    let rounds: usize = std::env::args().nth(1).map_or(Ok(5), |text| text.parse())?;
    for links in [1_usize, 64] {
        let groups = links.div_ceil(LINKS_PER_GROUP);
        println!(
            "{links} links in {groups} groups, {LEN} bytes, medians (min-max) of {rounds} interleaved rounds"
        );
        println!(
            "{:18} {:>22} {:>10} {:>12} {:>13}",
            "mode", "CPU ns/datagram", "kpps", "datagrams/", "datagrams/"
        );
        println!("{:18} {:>22} {:>10} {:>12} {:>13}", "", "", "", "turn", "message");
        let mut samples: Vec<Vec<Sample>> = MODES.iter().map(|_| Vec::new()).collect();
        for _ in 0..rounds {
            for (mode, samples) in MODES.iter().zip(&mut samples) {
                match measure(*mode, links) {
                    Ok(sample) => samples.push(sample),
                    Err(error) if samples.is_empty() => println!("{}: {error}", mode.name),
                    Err(_) => {}
                }
            }
        }
        for (mode, samples) in MODES.iter().zip(&samples).filter(|(_, samples)| !samples.is_empty()) {
            let all = |get: fn(&Sample) -> f64| samples.iter().map(get).collect::<Vec<_>>();
            let cpu = all(|s| s.cpu_ns);
            let (low, high) = cpu.iter().fold((f64::MAX, 0.0_f64), |(l, h), &v| (l.min(v), h.max(v)));
            println!(
                "{:18} {:>22} {:>10.0} {:>12.1} {:>13.1}",
                mode.name,
                format!("{:.0} ({low:.0}-{high:.0})", median(cpu)),
                median(all(|s| s.kpps)),
                median(all(|s| s.per_turn)),
                median(all(|s| s.per_message)),
            );
        }
        println!();
    }
    Ok(())
}
