//! The control plane over real HTTP on loopback, with a clock of our own.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};

use super::catalogue::{CATALOGUE, Kind};
use super::gate::GateSnapshot;
use super::*;
use crate::shard::snapshot::{IoTotals, LinksIn, PathStats, Present, SrtlaTotals, StreamStats};
use bondgate_ebpf::Mode;
use bondgate_ebpf_common::abi::Count;
use bondgate_ebpf_common::reason::Reason;

/// A control plane on a free port whose clock stands still until it is moved.
struct Bench {
    handle: ControlHandle,
    slots: Vec<SnapshotSlot>,
    state: Arc<ServiceState>,
    start: Instant,
    elapsed_ms: Arc<AtomicU64>,
}

impl Bench {
    fn new(shards: usize) -> Self {
        let slots: Vec<SnapshotSlot> = (0..shards).map(|_| SnapshotSlot::default()).collect();
        let state = Arc::new(ServiceState::default());
        state.geo.networks.store(1, Ordering::Relaxed);
        let (start, elapsed_ms) = (Instant::now(), Arc::new(AtomicU64::new(0)));
        let clock = {
            let elapsed_ms = elapsed_ms.clone();
            move || start + Duration::from_millis(elapsed_ms.load(Ordering::Relaxed))
        };
        let listen = Some("127.0.0.1:0".parse().unwrap());
        let handle = start_with_clock(listen, slots.clone(), state.clone(), clock).unwrap();
        Self { handle, slots, state, start, elapsed_ms }
    }

    fn set_clock(&self, elapsed_ms: u64) {
        self.elapsed_ms.store(elapsed_ms, Ordering::Relaxed);
    }

    fn beat(&self, shard: usize, at_ms: u64) {
        let taken = Some(self.start + Duration::from_millis(at_ms));
        assert!(self.slots[shard].publish(|snapshot| snapshot.taken = taken));
    }

    /// Status and body.
    fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.handle.local_addr().unwrap()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }
}

fn sample() -> ShardSnapshot {
    // Two groups feed the first stream.
    let path = |stream: &str, index, live| PathStats {
        stream: stream.into(),
        index,
        rx_datagrams: 20 + 2 * u64::from(index),
        rx_bytes: 2000,
        live,
    };
    let odd = "odd\"name\\\n";
    ShardSnapshot {
        shard: 0,
        backend: "mmsg",
        taken: None,
        turns: 7,
        io: IoTotals { rx_datagrams: 100, rx_overflow_datagrams: 3, ..IoTotals::default() },
        srtla: SrtlaTotals {
            received: 100,
            forwarded: 90,
            consumed: 4,
            dropped: vec![("unknown_source", 5), ("malformed", 1)],
            registration: vec![("confirmed", 3)],
            ..SrtlaTotals::default()
        },
        present: Present { groups: 3, groups_on_probation: 1, links: 6, links_live: 3 },
        paths: vec![path("cam1", 0, true), path("cam1", 1, false), path(odd, 1, false)],
        streams: vec![StreamStats {
            name: "cam1".into(),
            publishing: true,
            bonded: true,
            players: 2,
            rx_datagrams: 80,
            rx_bytes: 80 * 1316,
            lost_datagrams: 6,
            recovered_datagrams: 5,
            dropped_datagrams: 1,
            player_overflow_datagrams: 2,
            retransmitted_datagrams: 8,
            rtt_us: 42_500,
            latency_ms: 1000,
            reorder_hold_ms: 65,
        }],
        device_keys: 2,
        srt_dropped: vec![("banned", 4)],
        rejections: vec![("bad_request", 2)],
    }
}

use crate::shard::snapshot::ShardSnapshot;

#[test]
fn every_metric_of_the_catalogue_is_exposed() {
    let bench = Bench::new(1);
    let start = bench.start;
    bench.slots[0].publish(|slot| *slot = ShardSnapshot { taken: Some(start), ..sample() });
    let mut gate =
        GateSnapshot { interfaces: vec![("eth0".to_owned(), Mode::Native)], ..GateSnapshot::default() };
    gate.counters.reasons = vec![(Reason::Unregistered, Count { packets: 3, bytes: 300 })];
    bench.state.gate.publish(Some(gate));
    let (status, page) = bench.get("/metrics");
    assert_eq!(status, 200);
    let lines: Vec<&str> = page.lines().collect();
    for metric in CATALOGUE {
        let family = metric.name.trim_end_matches("_total");
        let kind = if metric.kind == Kind::Counter { "counter" } else { "gauge" };
        assert!(lines.contains(&format!("# HELP {family} {}", metric.help).as_str()), "{}", metric.name);
        assert!(lines.contains(&format!("# TYPE {family} {kind}").as_str()), "{}", metric.name);
        let sample = lines.iter().find(|line| {
            line.strip_prefix(metric.name).is_some_and(|rest| rest.starts_with('{') || rest.starts_with(' '))
        });
        let sample = sample.unwrap_or_else(|| panic!("{} has no sample", metric.name));
        for label in metric.labels {
            assert!(sample.contains(&format!("{label}=\"")), "{sample}");
        }
    }
    assert_eq!(lines.last(), Some(&"# EOF"));
    bench.handle.stop();
}

#[test]
fn figures_are_those_of_the_snapshot() {
    let bench = Bench::new(2);
    bench.slots[0].publish(|slot| *slot = ShardSnapshot { taken: Some(bench.start), ..sample() });
    bench.slots[1].publish(|slot| *slot = ShardSnapshot { shard: 1, ..sample() });
    bench.set_clock(1500);
    bench.state.ready.store(true, Ordering::Release);
    let (_, page) = bench.get("/metrics");
    for line in [
        "bondgate_ready 1.0",
        "bondgate_shard_info{shard=\"0\",backend=\"mmsg\"} 1.0",
        "bondgate_shard_heartbeat_age_seconds{shard=\"0\"} 1.5",
        "bondgate_shard_turns_total{shard=\"1\"} 7",
        "bondgate_rx_overflow_datagrams_total{shard=\"0\"} 3",
        "bondgate_srtla_dropped_datagrams_total{shard=\"0\",reason=\"unknown_source\"} 5",
        "bondgate_srtla_unaccounted_datagrams{shard=\"0\"} 0.0",
        "bondgate_groups{shard=\"0\"} 3.0",
        "bondgate_links{shard=\"0\"} 6.0",
        "bondgate_links_live{shard=\"0\"} 3.0",
        // Two groups of one stream in each of two shards are one line.
        "bondgate_link_rx_datagrams_total{stream=\"cam1\",link=\"1\"} 44",
        "bondgate_link_live{stream=\"cam1\",link=\"0\"} 1.0",
        "bondgate_link_live{stream=\"odd\\\"name\\\\\\n\",link=\"1\"} 0.0",
        "bondgate_stream_rtt_seconds{stream=\"cam1\"} 0.0425",
        "bondgate_stream_reorder_hold_seconds{stream=\"cam1\"} 0.065",
        "bondgate_rejections_total{reason=\"bad_request\"} 4",
    ] {
        assert!(page.lines().any(|found| found == line), "{line}\n{page}");
    }
    // The second shard never beat.
    assert!(!page.contains("heartbeat_age_seconds{shard=\"1\"}"));
    // No line twice: Prometheus would refuse the whole page.
    let mut names: Vec<&str> =
        page.lines().filter_map(|line| line.rsplit_once(' ')).map(|(name, _)| name).collect();
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all);
    bench.handle.stop();
}

#[test]
fn a_datagram_that_got_lost_between_the_counters_shows() {
    let bench = Bench::new(1);
    bench.slots[0].publish(|slot| {
        *slot = sample();
        slot.srtla.received += 2;
    });
    let (_, page) = bench.get("/metrics");
    assert!(page.contains("bondgate_srtla_unaccounted_datagrams{shard=\"0\"} 2.0"), "{page}");
    bench.handle.stop();
}

#[test]
fn livez_fails_when_one_heartbeat_stops_and_recovers() {
    let bench = Bench::new(2);
    // Before the first beat the shards have two seconds.
    assert_eq!(bench.get("/livez"), (200, "ok\n".to_owned()));
    bench.set_clock(2000);
    assert_eq!(bench.get("/livez").0, 503);
    bench.beat(0, 1900);
    bench.beat(1, 1900);
    assert_eq!(bench.get("/livez"), (200, "ok\n".to_owned()));
    // Shard 1 stands still.
    bench.beat(0, 5000);
    bench.set_clock(5000);
    assert_eq!(bench.get("/livez"), (503, "shard 1 has not turned for 3.1 s\n".to_owned()));
    bench.beat(1, 5000);
    assert_eq!(bench.get("/livez").0, 200);
    bench.handle.stop();
}

#[test]
fn readyz_follows_start_and_stop() {
    let bench = Bench::new(1);
    assert_eq!(bench.get("/readyz"), (503, "starting\n".to_owned()));
    bench.state.ready.store(true, Ordering::Release);
    assert_eq!(bench.get("/readyz"), (200, "ok\n".to_owned()));
    bench.state.draining.store(true, Ordering::Release);
    assert_eq!(bench.get("/readyz"), (503, "stopping\n".to_owned()));
    assert_eq!(bench.get("/livez").0, 200, "a stopping server is alive");
    bench.handle.stop();
}

#[test]
fn the_front_page_names_the_paths() {
    let bench = Bench::new(1);
    for (path, status) in [("/", 200), ("/nothing", 404)] {
        let (found, body) = bench.get(path);
        assert_eq!(found, status);
        assert!(body.contains("/metrics") && body.contains("/livez") && body.contains("/readyz"), "{body}");
    }
    bench.handle.stop();
}

#[test]
fn a_port_in_use_is_named_with_its_key() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = Config::default();
    let addr = taken.local_addr().unwrap();
    config.admin.listen = Some(addr);
    let error = start(&config, vec![], Arc::default()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    assert_eq!(
        error.to_string(),
        format!(
            "cannot listen on admin.listen = \"{addr}\": Address already in use (os error 98) \
             (another program has this port; choose another one, or \"off\")"
        )
    );
}

#[test]
fn off_means_off_and_stop_frees_the_port() {
    let mut config = Config::default();
    config.admin.listen = None;
    let handle = start(&config, vec![], Arc::default()).unwrap();
    assert_eq!(handle.local_addr(), None);
    handle.stop();

    let bench = Bench::new(1);
    let addr = bench.handle.local_addr().unwrap();
    // A client that asked for nothing does not hold up the end.
    let idle = TcpStream::connect(addr).unwrap();
    bench.handle.stop();
    drop(idle);
    assert!(TcpStream::connect(addr).is_err());
}

#[test]
fn whom_a_ban_would_hit_is_asked_of_the_shards() {
    let bench = Bench::new(2);
    let shards = bench.slots.clone();
    let answering = std::thread::spawn(move || {
        for (links, slot) in (2..).zip(shards) {
            let asked = std::cell::Cell::new(false);
            while !asked.get() {
                slot.reply(|network| {
                    asked.set(true);
                    assert_eq!(network.to_string(), "192.0.2.0/24");
                    LinksIn { links, streams: vec!["cam1".into()] }
                });
                std::thread::yield_now();
            }
        }
    });
    let (status, body) = bench.get("/links-in/192.0.2.0/24");
    answering.join().unwrap();
    assert_eq!((status, body.as_str()), (200, r#"{"links":5,"streams":["cam1"]}"#));
    bench.handle.stop();
}
