//! Publishers and players as real SRT callers around one relay, over a wire without delay and a clock that jumps.

use super::*;
use crate::config::Config;
use crate::policy::Policy;
use bondgate_auth::ticket::TicketKey;
use bondgate_proto::receiver::{Admission, Clock, Receiver, ReceiverConfig, Secrets};
use bondgate_srt::{ConnectOptions, TRANSMIT_MIN};
use bytes::Bytes;

const LATENCY: Duration = Duration::from_secs(2);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn addr(port: u16) -> SocketAddr {
    ([10, 0, 0, 1], port).into()
}

/// A caller and what it has been told.
struct Remote {
    endpoint: Endpoint<()>,
    conn: ConnId,
    connected: bool,
    closed: bool,
    payloads: Vec<u64>,
}

struct World {
    now: Instant,
    relay: Relay,
    policy: Policy,
    receiver: Receiver,
    notices: Notices,
    callers: HashMap<Peer, Remote>,
    seed: u64,
}

impl World {
    fn new(connections_max: usize) -> Self {
        let now = Instant::now();
        let config =
            RelayConfig { default_stream: "live".to_owned(), linger: ms(10_000), players_per_stream_max: 8 };
        let endpoint = EndpointConfig { latency: LATENCY, connections_max, ..EndpointConfig::default() };
        let notices = Notices::new(1 << 16);
        let relay = Relay::new(config, endpoint, [1; 16], 1, now, notices.clone());
        let secrets = Secrets { tickets: TicketKey::new([0; 32]), cookies: [0; 32], nonces: [0; 16] };
        let clock = Clock { at: now, boot_ms: 0, wall_ms: 0 };
        let admission = Arc::new(Admission::open());
        let receiver = Receiver::new(ReceiverConfig::default(), secrets, admission, clock, [0; 2], 0);
        let policy = Policy::compile(&Config::open());
        Self { now, relay, policy, receiver, notices, callers: HashMap::new(), seed: 0 }
    }

    fn call(&mut self, peer: Peer, stream_id: &str) {
        let config = EndpointConfig { listen: false, connections_max: 2, ..EndpointConfig::default() };
        self.seed += 1;
        let mut endpoint = Endpoint::new(config, [2; 16], self.seed, self.now);
        let stream_id = Bytes::copy_from_slice(stream_id.as_bytes());
        let conn = endpoint
            .connect(self.now, (), ConnectOptions { stream_id, ..ConnectOptions::default() })
            .unwrap();
        let caller = Remote { endpoint, conn, connected: false, closed: false, payloads: Vec::new() };
        self.callers.insert(peer, caller);
        self.settle();
    }

    /// Everybody talks until nobody has anything to say.
    fn settle(&mut self) {
        let mut buf = [0; TRANSMIT_MIN];
        for _ in 0..20 {
            self.relay.handle_timeout(self.now);
            for (peer, caller) in &mut self.callers {
                caller.endpoint.handle_timeout(self.now);
                while let Some(transmit) = caller.endpoint.poll_transmit(self.now, &mut buf) {
                    self.relay.endpoint.handle(self.now, *peer, 0, &buf[..transmit.len]);
                    self.relay.pump(self.now);
                }
            }
            while let Some(caller) = self.relay.next_caller() {
                let keeper = Gatekeeper { policy: &self.policy, receiver: &self.receiver, wall_ms: 0 };
                self.relay.answer(self.now, &caller, &keeper);
            }
            while let Some(transmit) = self.relay.endpoint.poll_transmit(self.now, &mut buf) {
                if let Some(caller) = self.callers.get_mut(&transmit.to) {
                    caller.endpoint.handle(self.now, (), 0, &buf[..transmit.len]);
                }
            }
            for caller in self.callers.values_mut() {
                while let Some(event) = caller.endpoint.poll_event() {
                    match event {
                        Event::Connected { .. } => caller.connected = true,
                        Event::Closed { .. } => caller.closed = true,
                        Event::Data { payload, .. } => {
                            caller.payloads.push(u64::from_be_bytes(*payload.first_chunk().unwrap()));
                        }
                        _ => {}
                    }
                }
            }
        }
    }

    fn run(&mut self, time: Duration) {
        for _ in 0..time.as_millis() / 5 {
            self.now += ms(5);
            self.settle();
        }
    }

    fn send(&mut self, peer: Peer, number: u64) {
        let caller = self.callers.get_mut(&peer).unwrap();
        let payload = Bytes::copy_from_slice(&number.to_be_bytes());
        caller.endpoint.send(self.now, caller.conn, payload).unwrap();
        self.settle();
    }

    /// One payload each 20 ms.
    fn stream(&mut self, peer: Peer, numbers: std::ops::Range<u64>) {
        for number in numbers {
            self.send(peer, number);
            self.run(ms(20));
        }
    }

    /// The caller is gone without a word.
    fn kill(&mut self, peer: Peer) {
        self.callers.remove(&peer).unwrap();
    }

    /// The caller says goodbye.
    fn hang_up(&mut self, peer: Peer) {
        let caller = self.callers.get_mut(&peer).unwrap();
        caller.endpoint.close(self.now, caller.conn);
        self.settle();
        self.callers.remove(&peer);
    }

    fn is_up(&self, peer: Peer) -> bool {
        self.callers.get(&peer).is_some_and(|caller| caller.connected && !caller.closed)
    }
}

const FIRST: fn() -> Peer = || Peer::Plain(addr(1));
const SECOND: fn() -> Peer = || Peer::Plain(addr(2));
const PLAYER: fn() -> Peer = || Peer::Plain(addr(9));

#[test]
fn an_encoder_that_said_goodbye_may_come_back_at_once_and_nothing_is_lost() {
    let mut world = World::new(16);
    world.call(FIRST(), "publish/cam1");
    world.call(PLAYER(), "play/cam1");
    world.stream(FIRST(), 0..100);
    world.hang_up(FIRST());
    world.call(SECOND(), "publish/cam1");
    assert!(world.is_up(SECOND()), "{:?}", world.relay.refusals());
    world.stream(SECOND(), 100..200);
    world.run(ms(4500));
    let player = &world.callers[&PLAYER()];
    assert_eq!(player.payloads, (0..200).collect::<Vec<_>>());
    assert!(world.is_up(PLAYER()));
}

#[test]
fn a_killed_encoder_may_come_back_after_a_second_of_silence() {
    let mut world = World::new(16);
    world.call(FIRST(), "publish/cam1");
    world.call(PLAYER(), "play/cam1");
    world.stream(FIRST(), 0..100);
    world.kill(FIRST());
    world.run(ms(500));
    world.call(SECOND(), "publish/cam1");
    assert!(!world.is_up(SECOND()));
    world.kill(SECOND());
    world.run(ms(600));
    world.call(SECOND(), "publish/cam1");
    assert!(world.is_up(SECOND()), "silence counts from what arrived, not from what was delivered");
    world.stream(SECOND(), 100..200);
    world.run(ms(4500));
    assert_eq!(world.callers[&PLAYER()].payloads, (0..200).collect::<Vec<_>>());
}

#[test]
fn a_publisher_that_sends_is_not_replaced_before_its_first_payload_is_due() {
    let mut world = World::new(16);
    world.call(FIRST(), "publish/cam1");
    // 1.5 s: more than the silence that is tolerated, less than the latency.
    world.stream(FIRST(), 0..75);
    world.call(SECOND(), "publish/cam1");
    assert!(!world.is_up(SECOND()));
    assert!(world.is_up(FIRST()));
}

#[test]
fn names_that_come_and_go_do_not_pile_up() {
    let mut world = World::new(16);
    world.call(FIRST(), "publish/cam1");
    world.call(PLAYER(), "play/cam1");
    for port in 1000..1200 {
        let stranger = Peer::Plain(addr(port));
        world.call(stranger, &format!("publish/junk{port}"));
        assert!(world.is_up(stranger), "{:?}", world.relay.refusals());
        world.hang_up(stranger);
        world.run(ms(10));
    }
    assert!(world.relay.streams.len() <= 17, "{} streams", world.relay.streams.len());
    assert_eq!(world.relay.by_name.len(), world.relay.streams.len());
    world.stream(FIRST(), 0..10);
    world.run(ms(4500));
    assert_eq!(world.callers[&PLAYER()].payloads, (0..10).collect::<Vec<_>>());
    assert!(world.notices.pop().is_some());
}

#[test]
fn a_stopping_relay_tells_publishers_and_lets_players_finish() {
    let mut world = World::new(16);
    world.call(FIRST(), "publish/a");
    world.run(ms(50));
    world.call(PLAYER(), "play/a");
    world.stream(FIRST(), 0..250);
    let played = world.callers[&PLAYER()].payloads.len();
    world.relay.finish_all(world.now);
    world.run(ms(100));
    assert!(!world.is_up(FIRST()), "the encoder must know at once that it has to go elsewhere");
    assert!(world.is_up(PLAYER()));
    world.run(ms(4000));
    let player = &world.callers[&PLAYER()];
    assert!(player.closed && world.relay.is_idle(), "it ends by itself");
    // What the relay had handed on, one latency's worth, is still played: 2 s of a payload each 20 ms.
    assert!(
        player.payloads.len() >= played + 90,
        "{played} played before, {} in the end",
        player.payloads.len()
    );
    let complete: Vec<u64> = (player.payloads[0]..).take(player.payloads.len()).collect();
    assert_eq!(player.payloads, complete);
}

/// Rules that are changed concern those who are in, by what they have shown.
#[test]
fn a_stricter_policy_ends_what_it_would_not_let_in() {
    let mut world = World::new(8);
    let (publisher, player) = (Peer::Plain(addr(1)), Peer::Plain(addr(2)));
    world.call(publisher, "publish/cam1");
    world.run(ms(500));
    world.call(player, "play/cam1");
    world.run(ms(500));
    let mut config = Config::open();
    let closed = |world: &mut World, config: &Config| {
        world.policy = world.policy.with_rules(config);
        let keeper = Gatekeeper { policy: &world.policy, receiver: &world.receiver, wall_ms: 0 };
        world.relay.recheck(world.now, &keeper);
        world.run(ms(500));
        [publisher, player].map(|peer| world.callers[&peer].closed)
    };
    assert_eq!(closed(&mut world, &config), [false, false]);
    // Other streams, and what the stream may have besides, are no matter of theirs.
    config.streams.token = vec!["cam2".to_owned()];
    config.relay.streams = vec!["cam1".to_owned()];
    assert_eq!(closed(&mut world, &config), [false, false]);
    config.streams.token.push("cam1".to_owned());
    assert_eq!(closed(&mut world, &config), [true, false]);
    config.relay.streams = vec!["cam2".to_owned()];
    assert_eq!(closed(&mut world, &config), [true, true]);
}
