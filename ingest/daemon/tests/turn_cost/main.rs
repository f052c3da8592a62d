//! What a turn of the loops costs once a stream flows, on every backend that opens here: no allocation, exactly one
//! reading of the clock, no wait for a lock and no waking of somebody who waits for one.
//!
//! Measured is the receiver's shard in both outputs, each of two shards between which every datagram is handed over, and the
//! bonding sender. [`WARM_UP`] after the connections are up
//! the first and only window begins, and with it the roads get rough: links go dark, a player falls silent, and all
//! along datagrams are lost, doubled and late, so that gaps, NAKs, retransmissions and growing buffers are in the window.
//!
//! Four times a second a shard publishes its figures (see `shard::snapshot`). Those turns are left out. The counts are per thread: the loop turns in the test's thread, its peers
//! live in others.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod peers;

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bondgate::config::Config;
use bondgate::policy::{Policy, PolicySlot, wall_ms};
use bondgate::shard::bond::{Bond, BondNotice, LinkSpec};
use bondgate::shard::forward::Forward;
use bondgate::shard::handoff::Handoff;
use bondgate::shard::notice::Notices;
use bondgate::shard::relay::{Relay, RelayConfig};
use bondgate::shard::snapshot::{ShardSnapshot, SnapshotSlot};
use bondgate::shard::steering::SteerOrders;
use bondgate::shard::{Output, Parts, Shard, Shared};
use bondgate_auth::ticket::TicketKey;
use bondgate_counting::{allocations, clock_reads, futex_calls};
use bondgate_io::{AnyBackend, Backend, Choice, Limits};
use bondgate_proto::LinkAddr;
use bondgate_proto::receiver::{Actions, Clock, Receiver, ReceiverConfig, Secrets, Verdict};
use bondgate_proto::sender::{Sender, SenderConfig, SenderNotice};
use bondgate_srt::EndpointConfig;
use peers::{Scene, Way, answer, encode, loopback, srt_peer};

/// Between the moment all connections are up and the window that is measured.
const WARM_UP: Duration = Duration::from_millis(250);
/// The window.
const WINDOW: Duration = Duration::from_millis(2500);
/// After a publication, a quarter of a second before the next one: how long its lock is held by somebody else, and how
/// long the test itself keeps away from it.
const HELD: Duration = Duration::from_millis(150);
const QUIET: Duration = Duration::from_millis(200);
/// How long connections may take to come up on a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);

/// Backends that open here.
fn backends() -> Vec<AnyBackend> {
    let limits = Limits { sockets: 16, ..Limits::default() };
    let mut found = Vec::new();
    for choice in [Choice::Mmsg, Choice::Uring] {
        match bondgate_io::open(choice, &limits) {
            Ok((backend, _)) => found.push(backend),
            Err(error) => eprintln!("SKIPPED turn_cost on {choice:?}: {error}"),
        }
    }
    found
}

fn shared(scene: &Scene) -> Shared {
    shared_by(1, scene)
}

fn shared_by(shards: u8, scene: &Scene) -> Shared {
    Shared {
        closed: Arc::default(),
        stop: scene.stop.clone(),
        epoch: Arc::new(AtomicU32::new(1)),
        policy: Arc::new(PolicySlot::new(Policy::compile(&Config::open()))),
        started: Clock { at: Instant::now(), boot_ms: 0, wall_ms: wall_ms() },
        notices: Notices::new(64),
        handoff: Handoff::new(shards, 1024),
        orders: SteerOrders::new(64),
        steering: SteerOrders::new(64),
    }
}

fn receiver(shared: &Shared) -> Receiver {
    receiver_of(0, shared)
}

fn receiver_of(shard: u8, shared: &Shared) -> Receiver {
    let secrets = Secrets { tickets: TicketKey::new([7; 32]), cookies: [0; 32], nonces: [0; 16] };
    let admission = shared.policy.load().admission.clone();
    let config = ReceiverConfig { shard, shards: shared.handoff.shards(), ..ReceiverConfig::default() };
    Receiver::new(config, secrets, admission, shared.started, [1, 2], 1)
}

/// A shard that sends on to `server`, and where its SRTLA port is.
fn forward_shard<B: Backend>(
    backend: B,
    scene: &Scene,
    server: &UdpSocket,
    slot: &SnapshotSlot,
) -> (Shard<B>, std::net::SocketAddr) {
    let srtla = loopback();
    let to = srtla.local_addr().unwrap();
    let shared = shared(scene);
    let forward = Forward::new(server.local_addr().unwrap(), 1 << 20, 16, shared.notices.clone());
    let output = Output::Forward(Box::new(forward));
    let parts =
        Parts { id: 0, receiver: receiver(&shared), output, srtla, srt: None, shared, slot: slot.clone() };
    (Shard::new(backend, parts, Instant::now()).unwrap(), to)
}

#[derive(Default, Debug)]
struct Cost {
    turns: u64,
    housekeeping_turns: u64,
    allocations: u64,
    futex_calls: u64,
    /// Turns that read the clock not at all, and more than once.
    clockless: u64,
    clock_again: u64,
}

impl Cost {
    /// Turns for `time`. `housekeeping` tells after a turn whether that was one.
    fn of(time: Duration, mut turn: impl FnMut(), mut housekeeping: impl FnMut() -> bool) -> Self {
        let mut cost = Self::default();
        let end = Instant::now() + time;
        while Instant::now() < end {
            let before = (allocations(), futex_calls(), clock_reads());
            turn();
            let after = (allocations(), futex_calls(), clock_reads());
            if housekeeping() {
                cost.housekeeping_turns += 1;
                continue;
            }
            cost.turns += 1;
            cost.allocations += after.0 - before.0;
            cost.futex_calls += after.1 - before.1;
            match after.2 - before.2 {
                0 => cost.clockless += 1,
                1 => {}
                _ => cost.clock_again += 1,
            }
        }
        cost
    }

    fn check(&self, name: &str) {
        eprintln!("{name}: {self:?}");
        assert!(self.turns > 100, "{name}: too few turns to say anything");
        assert_eq!((self.clockless, self.clock_again), (0, 0), "{name}: one reading of the clock per turn");
        assert_eq!(self.futex_calls, 0, "{name}: no lock");
        assert_eq!(self.allocations, 0, "{name}: no allocation");
    }
}

/// Turns until the connections are `up`, warms up, and measures with rough roads.
fn measure<B: Backend>(
    shard: &mut Shard<B>,
    slot: &SnapshotSlot,
    scene: &Scene,
    up: impl Fn(&ShardSnapshot) -> bool,
) -> Cost {
    let begun = Instant::now();
    while !up(&slot.read()) {
        assert!(begun.elapsed() < PATIENCE, "the connections did not come up");
        shard.turn().unwrap();
    }
    Cost::of(WARM_UP, || shard.turn().unwrap(), || false);
    let holder = hold_again_and_again(slot, &scene.stop);
    scene.rough.store(true, Ordering::Relaxed);
    let mut published = slot.read().taken;
    let cost = Cost::of(
        WINDOW,
        || shard.turn().unwrap(),
        || {
            let before = published;
            if age_of(before) > QUIET {
                published = slot.read().taken;
            }
            published != before
        },
    );
    scene.stop.store(true, Ordering::Relaxed);
    holder.join().unwrap();
    cost
}

/// Somebody who holds the lock of the published figures most of the time: a loop that took it in every turn would have to
/// wait. Around the time of the next publication it keeps away, so that each succeeds and is noticed.
fn hold_again_and_again(slot: &SnapshotSlot, stop: &Arc<AtomicBool>) -> JoinHandle<()> {
    let (slot, stop) = (slot.clone(), stop.clone());
    std::thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            let age = age_of(slot.read().taken);
            if age < HELD {
                slot.publish(|_| std::thread::sleep(Duration::from_millis(5)));
            } else {
                let until_published = Duration::from_millis(300).saturating_sub(age);
                std::thread::sleep(until_published.max(Duration::from_millis(1)));
            }
        }
    })
}

fn age_of(taken: Option<Instant>) -> Duration {
    taken.map_or(Duration::MAX, |taken| taken.elapsed())
}

#[test]
fn forward() {
    for backend in backends() {
        let name = backend.name();
        let (scene, slot, server) = (Scene::default(), SnapshotSlot::default(), loopback());
        let (mut shard, to) = forward_shard(backend, &scene, &server, &slot);
        let encoder = std::thread::spawn({
            let scene = scene.clone();
            move || encode(&Way::bonded(to), &scene)
        });
        let answering = std::thread::spawn({
            let scene = scene.clone();
            move || answer(&server, &scene)
        });
        let cost = measure(&mut shard, &slot, &scene, |seen| seen.srtla.fanned_out > 0);
        let (seen, back, answered) = (slot.read(), encoder.join().unwrap(), answering.join().unwrap());
        let forwarded = seen.srtla.forwarded;
        eprintln!(
            "forward, {name}: {forwarded} forwarded, {answered} answered, {back} came back to the links"
        );
        assert!(forwarded > 500 && answered > 50 && back > 100, "there must be traffic to say anything");
        cost.check(&format!("forward, {name}"));
    }
}

/// Two shards, and every datagram of the links comes in on the wrong one.
#[test]
fn handed_over() {
    for choice in [Choice::Mmsg, Choice::Uring] {
        for measures_owner in [false, true] {
            let limits = Limits { sockets: 16, ..Limits::default() };
            let backends = [0, 1].map(|_| bondgate_io::open(choice, &limits).map(|(backend, _)| backend));
            let [Ok(first), Ok(second)] = backends else {
                eprintln!("SKIPPED turn_cost of hand-off on {choice:?}");
                continue;
            };
            let what =
                format!("hand-off, {}, {}", first.name(), if measures_owner { "owner" } else { "other" });
            let (cost, measured, other) = hand_over([first, second], measures_owner);
            eprintln!("{what}: {:?}, the other {:?}", measured.srtla, other.srtla);
            let (owner, entry) = if measures_owner { (measured, other) } else { (other, measured) };
            assert!(
                owner.srtla.forwarded > 500 && owner.srtla.on_owner == 0,
                "{what}: nothing comes in directly"
            );
            assert!(
                entry.srtla.handed_off >= 500 && entry.srtla.forwarded == 0,
                "{what}: all is handed over"
            );
            cost.check(&what);
        }
    }
}

/// The cost of one of two shards, and what both have published last.
fn hand_over(backends: [AnyBackend; 2], measures_owner: bool) -> (Cost, ShardSnapshot, ShardSnapshot) {
    let (scene, server) = (Scene::default(), loopback());
    let shared = shared_by(2, &scene);
    let (slots, mut to) = ([SnapshotSlot::default(), SnapshotSlot::default()], Vec::new());
    let mut shards = Vec::new();
    for (id, backend) in (0..).zip(backends) {
        let srtla = loopback();
        to.push(srtla.local_addr().unwrap());
        let forward = Forward::new(server.local_addr().unwrap(), 1 << 20, 16, shared.notices.clone());
        let parts = Parts {
            id,
            receiver: receiver_of(id, &shared),
            output: Output::Forward(Box::new(forward)),
            srtla,
            srt: None,
            shared: shared.clone(),
            slot: slots[usize::from(id)].clone(),
        };
        shards.push(Shard::new(backend, parts, Instant::now()).unwrap());
    }
    let wakers: Vec<_> = shards.iter().map(Shard::waker).collect();
    for shard in &mut shards {
        shard.set_peers(wakers.clone());
    }
    // The owner of the group that `Way::bonded` makes, and the shard its datagrams come to.
    let mut probe = receiver_of(0, &shared);
    let mut room = Actions::with_capacity(1024, 1 << 16);
    let mut reg1 = [0x5a; 258];
    reg1[..2].copy_from_slice(&[0x92, 0x00]);
    let from = LinkAddr::new(to[0]);
    let is_elsewhere =
        matches!(probe.handle_uplink(Instant::now(), from, &reg1, &mut room), Verdict::HandOff(1));
    let (owner, entry) = if is_elsewhere { (1, 0) } else { (0, 1) };
    let (measured, other) = if measures_owner { (owner, entry) } else { (entry, owner) };
    let entry_at = to[entry];

    let mut other_shard = shards.remove(other);
    let mut shard = shards.remove(0);
    let stop = scene.stop.clone();
    let running = std::thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            other_shard.turn().unwrap();
        }
    });
    let encoder = std::thread::spawn({
        let scene = scene.clone();
        move || encode(&Way::bonded(entry_at), &scene)
    });
    let answering = std::thread::spawn({
        let scene = scene.clone();
        move || answer(&server, &scene)
    });
    let is_up = |seen: &ShardSnapshot| seen.srtla.fanned_out > 0 || seen.srtla.handed_off > 100;
    let cost = measure(&mut shard, &slots[measured], &scene, is_up);
    running.join().unwrap();
    let (back, answered) = (encoder.join().unwrap(), answering.join().unwrap());
    assert!(answered > 50 && back > 100, "there must be traffic to say anything");
    (cost, slots[measured].read(), slots[other].read())
}

#[test]
fn relay() {
    for backend in backends() {
        let name = backend.name();
        let (scene, slot) = (Scene::default(), SnapshotSlot::default());
        let (srtla, srt) = (loopback(), loopback());
        let (bonded, plain) = (srtla.local_addr().unwrap(), srt.local_addr().unwrap());
        let shared = shared(&scene);
        let config = RelayConfig {
            default_stream: "live".into(),
            linger: Duration::from_secs(1),
            players_per_stream_max: 4,
        };
        let now = Instant::now();
        let relay = Relay::new(config, EndpointConfig::default(), [3; 16], 4, now, shared.notices.clone());
        let output = Output::Relay(Box::new(relay));
        let parts = Parts {
            id: 0,
            receiver: receiver(&shared),
            output,
            srtla,
            srt: Some(srt),
            shared,
            slot: slot.clone(),
        };
        let mut shard = Shard::new(backend, parts, now).unwrap();
        let peers = ["publish/a", "play/a", "play/a"].map(|stream_id| {
            let scene = scene.clone();
            std::thread::spawn(move || {
                if stream_id.starts_with("publish") {
                    srt_peer(&Way::bonded(bonded), stream_id, &scene)
                } else {
                    scene.wait_for_publisher();
                    srt_peer(&Way::plain(plain), stream_id, &scene)
                }
            })
        });
        let is_up = |seen: &ShardSnapshot| seen.streams.first().is_some_and(|s| s.players == 2);
        let cost = measure(&mut shard, &slot, &scene, is_up);
        let [publisher, first, second] = peers.map(|peer| peer.join().unwrap());
        let stream = slot.read().streams.first().cloned().unwrap();
        eprintln!("relay, {name}: {publisher:?}, {first:?}, {second:?}, {stream:?}");
        assert!(stream.bonded && stream.players == 2);
        assert!(stream.lost_datagrams > 100 && stream.recovered_datagrams > 100, "{stream:?}");
        for player in [first, second] {
            assert!(player.payloads > 500 && player.retransmissions > 10, "{player:?}");
        }
        cost.check(&format!("relay, {name}"));
    }
}

#[test]
fn bonding_sender() {
    for backend in backends() {
        let name = backend.name();
        let (scene, slot, server) = (Scene::default(), SnapshotSlot::default(), loopback());
        let (far_backend, _) = bondgate_io::open(Choice::Mmsg, &Limits::default()).unwrap();
        let (shard, to) = forward_shard(far_backend, &scene, &server, &slot);
        let receiving = std::thread::spawn(move || shard.run());
        let answering = std::thread::spawn({
            let scene = scene.clone();
            move || answer(&server, &scene)
        });
        let local = loopback();
        let encoder_to = local.local_addr().unwrap();
        let specs = ["127.0.0.1", "127.0.0.2"].map(|ip| LinkSpec::Address(ip.parse().unwrap())).to_vec();
        let sender = Sender::new(SenderConfig::default(), [0x5b; 128], 9);
        // On a machine that stalls for a second a link counts as lost and gets a new socket, which is not steady traffic.
        let (changes, lost) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
        let notice = {
            let (changes, lost) = (changes.clone(), lost.clone());
            move |notice| {
                let BondNotice::Srtla { notice, .. } = notice else { return };
                match notice {
                    SenderNotice::LinkLost { .. } => lost.store(true, Ordering::Relaxed),
                    SenderNotice::LinkUp { .. } => lost.store(false, Ordering::Relaxed),
                    _ => return,
                }
                changes.fetch_add(1, Ordering::Relaxed);
            }
        };
        let mut bond = Bond::new(backend, sender, local, to, specs, 1 << 20, notice).unwrap();
        assert_eq!(bond.open_links(Instant::now()), 2);
        let encoder = std::thread::spawn({
            let scene = scene.clone();
            move || encode(&Way::plain(encoder_to), &scene)
        });
        let begun = Instant::now();
        while slot.read().srtla.fanned_out == 0 {
            assert!(begun.elapsed() < PATIENCE, "the links did not come up");
            bond.turn().unwrap();
        }
        Cost::of(WARM_UP, || bond.turn().unwrap(), || false);
        scene.rough.store(true, Ordering::Relaxed);
        changes.store(0, Ordering::Relaxed);
        let is_repairing = || changes.swap(0, Ordering::Relaxed) > 0 || lost.load(Ordering::Relaxed);
        let cost = Cost::of(WINDOW, || bond.turn().unwrap(), is_repairing);
        scene.stop.store(true, Ordering::Relaxed);
        let (back, answered) = (encoder.join().unwrap(), answering.join().unwrap());
        receiving.join().unwrap().unwrap();
        eprintln!("bonding sender, {name}: {answered} answered, {back} came back");
        assert!(answered > 50 && back > 100, "there must be traffic to say anything");
        cost.check(&format!("bonding sender, {name}"));
    }
}
