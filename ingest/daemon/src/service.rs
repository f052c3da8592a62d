//! Puts shards together from a configuration and keeps them running: sockets, backends, threads, keys.
//! Used by `run` and by `demo`. Promises: everything that can fail at start fails here with a message that says what
//! to do; when `start` returns, every port is bound and every shard turns.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use bondgate_auth::ticket::TicketKey;
use bondgate_io::socket::{BindOptions, bind_udp};
use bondgate_io::{AnyBackend, Choice, Limits, Waker};
use bondgate_proto::receiver::{Clock, Receiver, ReceiverConfig, Secrets};
use bondgate_srt::EndpointConfig;
use ring::rand::{SecureRandom, SystemRandom};

use crate::config::{BackendChoice, Config, OutputMode};
use crate::control::{privileges, secret_file};
use crate::policy::{Policy, PolicySlot, wall_ms};
use crate::shard::forward::Forward;
use crate::shard::handoff::Handoff;
use crate::shard::notice::Notices;
use crate::shard::relay::{self, Relay, RelayConfig};
use crate::shard::snapshot::SnapshotSlot;
use crate::shard::steering::SteerOrders;
use crate::shard::{Output, Parts, Shard, Shared};

/// Seconds of one ticket epoch; tickets of the previous epoch stay valid.
const EPOCH_SECONDS: u64 = 24 * 3600;
/// Datagrams waiting between shards, per shard.
const HANDOFF_DEPTH: usize = 2048;
/// Links of other shards that a shard knows, if they can have so many.
const CLAIMS_MAX: usize = 1 << 17;
const NOTICES: usize = 1024;
/// Steering orders between two looks of whoever steers.
const STEER_ORDERS: usize = 4096;
/// How long a port in use is waited for.
const PORT_WAIT: Duration = Duration::from_secs(1);
/// How long a shard may take to say goodbye before the process ends without it.
const STOP_WITHIN: Duration = Duration::from_secs(3);

/// Running shards.
#[derive(Debug)]
pub struct Service {
    shared: Shared,
    slots: Vec<SnapshotSlot>,
    threads: Vec<JoinHandle<io::Result<()>>>,
    wakers: Vec<Waker>,
    srtla_addr: SocketAddr,
    srt_addr: Option<SocketAddr>,
    /// The shards' SRTLA sockets once more, in the order of the shards.
    sockets: Vec<UdpSocket>,
    backend: String,
}

/// Cryptographic randomness, or an error worth stopping for.
///
/// # Errors
/// When the system has no random source.
pub fn random<const N: usize>() -> anyhow::Result<[u8; N]> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).ok().context("the system's random source does not work")?;
    Ok(bytes)
}

/// The io crate's word for the configured backend.
pub fn backend_choice(choice: BackendChoice) -> Choice {
    match choice {
        BackendChoice::Auto => Choice::Auto,
        BackendChoice::Uring => Choice::Uring,
        BackendChoice::Mmsg => Choice::Mmsg,
    }
}

/// The ticket epoch at this moment.
pub fn ticket_epoch() -> u32 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (since.as_secs() / EPOCH_SECONDS) as u32
}

impl Service {
    /// Binds, opens, starts.
    ///
    /// # Errors
    /// Ports in use, an unresolvable server, a backend that does not work here, an unreadable ticket key.
    pub fn start(config: &Config, policy: Policy) -> anyhow::Result<Self> {
        let ticket_secret = match &config.runtime.state_dir {
            // A restarted receiver knows its own group IDs by it.
            Some(dir) => secret_file::read_or_make_key(&dir.join("ticket.key"))?,
            None => random::<32>()?,
        };
        let cookie_secret = random::<32>()?;
        let shards = config.runtime.shards;
        let shared = Shared {
            stop: Arc::new(AtomicBool::new(false)),
            epoch: Arc::new(AtomicU32::new(ticket_epoch())),
            policy: Arc::new(PolicySlot::new(policy)),
            closed: Arc::default(),
            started: Clock { at: Instant::now(), boot_ms: 0, wall_ms: wall_ms() },
            notices: Notices::new(NOTICES),
            handoff: Handoff::new(shards, if shards > 1 { HANDOFF_DEPTH } else { 1 }),
            orders: SteerOrders::new(STEER_ORDERS),
            steering: SteerOrders::new(STEER_ORDERS),
        };
        let server = match config.output.mode {
            OutputMode::Forward => Some(resolve(&config.forward.server)?),
            OutputMode::Relay => None,
        };
        let mut service = Self {
            shared: shared.clone(),
            slots: Vec::new(),
            threads: Vec::new(),
            wakers: Vec::new(),
            srtla_addr: config.srtla.listen,
            srt_addr: None,
            sockets: Vec::new(),
            backend: String::new(),
        };
        let (ready_tx, ready_rx) = mpsc::channel();
        let mut peers_tx = Vec::new();
        for id in 0..shards {
            let srtla = bind(service.srtla_addr, shards, config, "srtla.listen")?;
            service.srtla_addr = srtla.local_addr()?;
            if shards > 1 {
                service.sockets.push(srtla.try_clone()?);
            }
            let srt = match config.output.mode {
                OutputMode::Relay => {
                    let socket = bind(config.srt.listen, shards, config, "srt.listen")?;
                    service.srt_addr = Some(socket.local_addr()?);
                    Some(socket)
                }
                OutputMode::Forward => None,
            };
            let slot = SnapshotSlot::default();
            service.slots.push(slot.clone());
            let start = ShardStart {
                id,
                config: config.clone(),
                srtla,
                srt,
                server,
                ticket_secret,
                cookie_secret,
                shared: shared.clone(),
                slot,
            };
            let (tx, rx) = mpsc::channel::<Vec<Waker>>();
            peers_tx.push(tx);
            let ready = ready_tx.clone();
            let pin = config.runtime.pin_cores.then_some(usize::from(id));
            let thread = std::thread::Builder::new()
                .name(format!("shard-{id}"))
                .spawn(move || start.run(&ready, &rx, pin))
                .context("cannot start a thread")?;
            service.threads.push(thread);
        }
        drop(ready_tx);
        let mut wakers: Vec<Option<Waker>> = vec![None; usize::from(shards)];
        for _ in 0..shards {
            match ready_rx.recv() {
                Ok(Ok((id, waker, backend))) => {
                    service.backend = backend;
                    if let Some(place) = wakers.get_mut(usize::from(id)) {
                        *place = Some(waker);
                    }
                }
                Ok(Err(error)) => return Err(error),
                Err(_) => bail!("a shard ended before it was ready; see the log"),
            }
        }
        service.wakers = wakers.into_iter().flatten().collect();
        for tx in peers_tx {
            // A shard that is gone meanwhile is noticed by `failed`.
            let _ = tx.send(service.wakers.clone());
        }
        Ok(service)
    }

    /// The shards' published figures.
    pub fn slots(&self) -> &[SnapshotSlot] {
        &self.slots
    }

    /// Events for the log.
    pub fn notices(&self) -> &Notices {
        &self.shared.notices
    }

    /// The bound SRTLA address.
    pub fn srtla_addr(&self) -> SocketAddr {
        self.srtla_addr
    }

    /// The shards' SRTLA sockets in the order of the shards, to choose among; none if there is one shard only.
    pub fn sockets(&self) -> &[UdpSocket] {
        &self.sockets
    }

    /// What shards say of their links, for whoever steers.
    pub fn steering(&self) -> SteerOrders {
        self.shared.steering.clone()
    }

    /// How to wake the shards.
    pub fn wakers(&self) -> &[Waker] {
        &self.wakers
    }

    /// The bound SRT address, in relay mode.
    pub fn srt_addr(&self) -> Option<SocketAddr> {
        self.srt_addr
    }

    /// One sentence: which backend was chosen and why.
    pub fn backend(&self) -> &str {
        &self.backend
    }

    /// Puts a policy in force on all shards. A shard that sleeps is woken, so that what the policy ends, ends now.
    pub fn publish(&self, policy: Policy) {
        self.shared.policy.publish(policy);
        for waker in &self.wakers {
            waker.wake();
        }
    }

    /// The policy in force.
    pub fn policy(&self) -> Arc<Policy> {
        self.shared.policy.load()
    }

    /// Where policies are published.
    pub fn policy_slot(&self) -> Arc<PolicySlot> {
        Arc::clone(&self.shared.policy)
    }

    /// What shards say of their links.
    pub fn orders(&self) -> SteerOrders {
        self.shared.orders.clone()
    }

    /// While it is set, no new groups are opened.
    pub fn closed(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.shared.closed)
    }

    /// Called now and then by the supervisor: moves the ticket epoch with the wall clock.
    pub fn tick(&self) {
        self.shared.epoch.store(ticket_epoch(), Ordering::Relaxed);
    }

    /// True when a shard has ended although nobody asked it to.
    pub fn failed(&self) -> bool {
        !self.shared.stop.load(Ordering::Relaxed) && self.threads.iter().any(JoinHandle::is_finished)
    }

    /// Stops the shards; each says goodbye to its SRT peers.
    ///
    /// # Errors
    /// The first shard's failure, if one failed, or that one did not end in time.
    pub fn stop(self) -> anyhow::Result<()> {
        self.shared.stop.store(true, Ordering::Relaxed);
        for waker in &self.wakers {
            waker.wake();
        }
        let deadline = Instant::now() + STOP_WITHIN;
        for thread in self.threads {
            while !thread.is_finished() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(2));
            }
            if !thread.is_finished() {
                bail!("a shard did not end within {STOP_WITHIN:?}");
            }
            match thread.join() {
                Ok(result) => result.context("a shard's backend failed")?,
                Err(_) => bail!("a shard panicked; this is a bug, please report it with the log"),
            }
        }
        Ok(())
    }
}

/// What a shard's thread starts from.
struct ShardStart {
    id: u8,
    config: Config,
    srtla: UdpSocket,
    srt: Option<UdpSocket>,
    server: Option<SocketAddr>,
    ticket_secret: [u8; 32],
    cookie_secret: [u8; 32],
    shared: Shared,
    slot: SnapshotSlot,
}

type Ready = anyhow::Result<(u8, Waker, String)>;

impl ShardStart {
    fn run(
        self,
        ready: &mpsc::Sender<Ready>,
        peers: &mpsc::Receiver<Vec<Waker>>,
        pin: Option<usize>,
    ) -> io::Result<()> {
        if let Some(core) = pin {
            // A core outside the process's set is no reason to refuse service.
            let _ = bondgate_io::pin_current_thread(core);
        }
        let (id, drops_privileges) = (self.id, self.config.gate.drop_privileges);
        let (mut shard, backend) = match self.build() {
            Ok(built) => built,
            Err(error) => {
                let _ = ready.send(Err(error));
                return Ok(());
            }
        };
        if drops_privileges {
            privileges::drop_all();
        }
        let _ = ready.send(Ok((id, shard.waker(), backend)));
        match peers.recv() {
            Ok(peers) => shard.set_peers(peers),
            Err(_) => return Ok(()), // the start was given up
        }
        shard.run()
    }

    fn build(self) -> anyhow::Result<(Shard<AnyBackend>, String)> {
        let config = &self.config;
        let now = Instant::now();
        let linger_us_max = config.runtime.linger_us;
        let limits = match config.output.mode {
            OutputMode::Relay => relay::limits(linger_us_max),
            OutputMode::Forward => {
                Limits { sockets: config.srtla.groups_max + 8, linger_us_max, ..Limits::default() }
            }
        };
        let sockets = limits.sockets;
        let (backend, reason) = bondgate_io::open(backend_choice(config.runtime.backend), &limits)
            .context("no packet backend works here; try runtime.backend = \"mmsg\"")?;
        let links_max = config.srtla.groups_max * config.srtla.links_per_group_max;
        let other_links = usize::from(config.runtime.shards - 1) * links_max;
        let receiver_config = ReceiverConfig {
            groups_max: config.srtla.groups_max,
            links_per_group_max: config.srtla.links_per_group_max,
            link_timeout: Duration::from_millis(config.srtla.link_timeout_ms),
            ack_flush: Duration::from_millis(config.srtla.ack_flush_ms),
            roaming: config.srtla.roaming,
            shard: self.id,
            shards: config.runtime.shards,
            claims_max: CLAIMS_MAX.min(other_links),
            ..ReceiverConfig::default()
        };
        let seed = random::<16>()?;
        let (low, high) = seed.split_at(8);
        let word = |half: &[u8]| half.iter().fold(0_u64, |word, byte| word << 8 | u64::from(*byte));
        let secrets = Secrets {
            tickets: TicketKey::new(self.ticket_secret),
            cookies: self.cookie_secret,
            nonces: random::<16>()?,
        };
        let receiver = Receiver::new(
            receiver_config,
            secrets,
            self.shared.policy.load().admission.clone(),
            self.shared.started,
            [word(low), word(high)],
            self.shared.epoch.load(Ordering::Relaxed),
        );
        let notices = self.shared.notices.clone();
        let output = match self.server {
            Some(server) => {
                let buffer = config.runtime.socket_buffer_bytes.min(1 << 20);
                Output::Forward(Box::new(Forward::new(server, buffer, sockets, notices)))
            }
            None => Output::Relay(Box::new(Relay::new(
                RelayConfig {
                    default_stream: config.relay.default_stream.clone(),
                    linger: Duration::from_millis(config.relay.linger_ms),
                    players_per_stream_max: config.relay.players_per_stream_max,
                },
                EndpointConfig {
                    latency: Duration::from_millis(config.srt.latency_ms),
                    connections_max: config.srt.connections_max,
                    ..EndpointConfig::default()
                },
                random::<16>()?,
                u64::from_be_bytes(random::<8>()?),
                now,
                notices,
            ))),
        };
        let parts = Parts {
            id: self.id,
            receiver,
            output,
            srtla: self.srtla,
            srt: self.srt,
            shared: self.shared,
            slot: self.slot,
        };
        Ok((Shard::new(backend, parts, now)?, reason))
    }
}

fn bind(addr: SocketAddr, shards: u8, config: &Config, key: &str) -> anyhow::Result<UdpSocket> {
    let options = BindOptions {
        reuse_port: shards > 1,
        recv_buf: config.runtime.socket_buffer_bytes,
        send_buf: config.runtime.socket_buffer_bytes,
        ..BindOptions::default()
    };
    // A killed predecessor's ring keeps its ports for a moment after it is gone.
    let deadline = Instant::now() + PORT_WAIT;
    loop {
        match bind_udp(addr, &options) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(20));
            }
            result => return result.with_context(|| format!("{key} = \"{addr}\"")),
        }
    }
}

fn resolve(server: &str) -> anyhow::Result<SocketAddr> {
    let mut found = server
        .to_socket_addrs()
        .with_context(|| format!("forward.server = {server:?} cannot be resolved; write HOST:PORT"))?;
    found.next().with_context(|| format!("forward.server = {server:?} has no address"))
}
