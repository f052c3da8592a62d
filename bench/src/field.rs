//! `load` and `sink` on their own, for receivers that the harness did not start.
//!
//! Promise: they end by themselves, and print what they counted and nothing they did not.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bondgate_bench::far_end::FarEnd;
use bondgate_bench::senders;
use bondgate_bench::sink::Sink;
use bondgate_bench::swarm::{Key, Load, SwarmAuth};
use bondgate_bench::topology::Ground;
use bondgate_io::socket::{BindOptions, bind_udp};
use clap::Args;

/// Names the runs of these two commands, so that they know each other's datagrams.
const MAGIC: u32 = 0x6267_6265;

#[derive(Args, Debug)]
pub struct LoadArgs {
    /// The receiver, host:port.
    #[arg(long)]
    to: SocketAddr,
    /// Groups.
    #[arg(long, default_value_t = 1)]
    groups: u32,
    /// Links of each.
    #[arg(long, default_value_t = 3)]
    links: u32,
    /// Datagrams per second over all groups; 0: as many as possible.
    #[arg(long, default_value_t = 2000)]
    rate: u64,
    /// Datagrams in a row on one link.
    #[arg(long, default_value_t = 1)]
    burst: u32,
    /// Length of a datagram.
    #[arg(long, default_value_t = 1332)]
    datagram_bytes: usize,
    /// How long, once all links are registered.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Registration packets per second.
    #[arg(long, default_value_t = 1500)]
    registrations_per_s: u32,
    /// File with a provisioning URI; may be repeated, one for every four groups. Without it senders register without a key.
    #[arg(long)]
    key_file: Vec<PathBuf>,
}

#[derive(Args, Debug)]
pub struct SinkArgs {
    /// Where the receiver under test sends to.
    #[arg(long)]
    listen: SocketAddr,
    /// Ends when nothing has come for so long after something did.
    #[arg(long, default_value_t = 3)]
    quiet_seconds: u64,
    /// Ends at the latest after so long.
    #[arg(long, default_value_t = 3600)]
    seconds: u64,
    /// Interval of SRT ACKs per group, in ms; 0: none.
    #[arg(long, default_value_t = 10)]
    srt_ack_ms: u64,
}

/// Registers and offers.
#[expect(clippy::print_stdout, reason = "the counts are what the command is for")]
pub fn load(args: &LoadArgs) -> Result<()> {
    let keys = args.key_file.iter().map(|path| {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Key::parse(text.trim()).with_context(|| format!("{}", path.display()))
    });
    let keys: Vec<Key> = keys.collect::<Result<_>>()?;
    let auth = if keys.is_empty() {
        SwarmAuth::Stock
    } else if keys.len() < args.groups.div_ceil(SwarmAuth::GROUPS_PER_KEY) as usize {
        bail!("{} groups need a key for every {}", args.groups, SwarmAuth::GROUPS_PER_KEY);
    } else {
        SwarmAuth::Sa1(keys)
    };
    let load = Load {
        groups: args.groups.max(1),
        links: args.links.max(1),
        active_groups: args.groups.max(1),
        rate_pps: args.rate,
        burst: args.burst.clamp(1, 64),
        datagram_bytes: args.datagram_bytes,
        loss: 0.0,
        duplicates: 0.0,
        keepalive: Some(Duration::from_secs(1)),
        registrations_per_s: Some(args.registrations_per_s.max(1)),
        magic: MAGIC,
    };
    let links = u64::from(load.groups) * u64::from(load.links);
    let patience = Duration::from_secs(10 + 2 * links / u64::from(args.registrations_per_s.max(1)));
    let mut far_end =
        FarEnd::new(&Ground::elsewhere(args.to), load, (senders::Kind::Sockets, auth), None, None)?;
    let begun = Instant::now();
    loop {
        far_end.turn()?;
        let (up, all) = far_end.swarm.links_up();
        if up == all {
            break;
        }
        if begun.elapsed() > patience {
            bail!(
                "{up} of {all} links were registered within {patience:?}: does a receiver listen at {}?",
                args.to
            );
        }
    }
    println!("{links} links registered in {:.3} s", begun.elapsed().as_secs_f64());
    far_end.call();
    let begun = Instant::now();
    far_end.swarm.start(begun);
    far_end.turn_for(Duration::from_secs(args.seconds))?;
    far_end.swarm.stop();
    let seconds = begun.elapsed().as_secs_f64();
    far_end.turn_for(Duration::from_millis(300))?;
    let counters = far_end.swarm.counters;
    println!(
        "{} datagrams sent, {:.0} per second, at most {:.0} us late",
        counters.sent,
        counters.sent as f64 / seconds,
        counters.late_ns_max as f64 / 1000.0
    );
    println!(
        "came back: {} SRTLA ACKs with {} numbers, {} SRT ACKs, {} keepalives of {}",
        counters.srtla_acks, counters.srtla_acked, counters.srt_acks, counters.echoes, counters.keepalives
    );
    Ok(())
}

/// Counts.
#[expect(clippy::print_stdout, reason = "the counts are what the command is for")]
pub fn sink(args: &SinkArgs) -> Result<()> {
    let options = BindOptions { recv_buf: 64 << 20, ..BindOptions::default() };
    let socket = bind_udp(args.listen, &options)?;
    socket.set_nonblocking(false)?;
    socket.set_read_timeout(Some(Duration::from_millis(5)))?;
    let begun = Instant::now();
    let ack = (args.srt_ack_ms > 0).then(|| Duration::from_millis(args.srt_ack_ms));
    let mut sink = Sink::new(MAGIC, begun, 65_536, ack);
    let (mut last, mut buf) = (None, [0; 2048]);
    while begun.elapsed() < Duration::from_secs(args.seconds) {
        if let Ok((len, from)) = socket.recv_from(&mut buf) {
            let now = Instant::now();
            sink.datagram(now, from, buf.get(..len).unwrap_or_default());
            last = Some(now);
        }
        let now = Instant::now();
        sink.answer(now, |to, bytes| drop(socket.send_to(bytes, to)));
        if last.is_some_and(|last| now.duration_since(last) > Duration::from_secs(args.quiet_seconds)) {
            break;
        }
    }
    let counters = sink.counters;
    let end = sink.numbers_end();
    println!(
        "{} datagrams, {} missing below the highest number, {} second copies, {} out of order",
        counters.unique,
        end - sink.arrived(0, end),
        counters.duplicates,
        counters.reordered
    );
    println!(
        "{} SRT control packets, {} others, {} SRT ACKs sent; latency is not measured across processes",
        counters.control, counters.foreign, counters.acks_sent
    );
    Ok(())
}
