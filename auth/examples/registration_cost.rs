//! What one SA1 registration costs a receiver: M1 checked, M2 made, M3 checked, M4 made. And what the trailer of an SRT
//! packet costs on a link that has agreed on them.
//!
//!     cargo run --release -p bondgate-auth --example registration_cost            figures
//!     cargo run --release -p bondgate-auth --example registration_cost -- check   fails when they are too high
//!
//! Three figures, each the median of many batches: the six MACs alone, computed by plain ring over bytes of the same
//! lengths under prepared keys; the registration as the receiver does it, with layout, gate, filter and key table around
//! the MACs; and that with the link keys, which are derived only for links that are new. `check` wants the MACs under 2 us
//! and the whole within 1.6 times that. The ratio does not depend on how busy the machine is; the time does, so the
//! fastest tenth decides.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a tool for a developer's terminal")]

use bondgate_auth::sa1::keys::{CookieKeys, DeviceKey, DeviceKeys, GateKey, GateKeys, LinkKeys, Standing};
use bondgate_auth::sa1::receiver::{Joining, Unlimited, Verifier};
use bondgate_auth::sa1::replay::SeenFilter;
use bondgate_auth::sa1::sender::{Credentials, Greeting, Hello};
use bondgate_auth::sa1::trailer::TRAILER_LEN;
use bondgate_auth::sa1::wire::Terms;
use bondgate_auth::sa1::{Flags, KeyId, ListenerId, Now, StreamBind};
use ring::hmac;
use std::collections::HashMap;
use std::hint::black_box;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Instant;

const LIMIT_US: f64 = 2.0;
const RATIO_MAX: f64 = 1.6;
const BATCHES: usize = 301;
const BATCH: usize = 256;
const KEY_ID: KeyId = [7; 8];
/// Bytes under MAC1, cookie, MAC2, cookie again, MAC3, and the tag of M4, labels included.
const MAC_INPUTS: [usize; 6] = [232, 160, 232, 160, 232, 56];

fn main() -> ExitCode {
    if cfg!(debug_assertions) {
        eprintln!("error: measure with --release");
        return ExitCode::FAILURE;
    }
    let mut receiver = Receiver::new();
    let plain = measure(&mut receiver, |_| plain_macs());
    let whole = measure(&mut receiver, |receiver| receiver.register(false));
    let with_keys = measure(&mut receiver, |receiver| receiver.register(true));
    let ratio = whole.fast_us / plain.fast_us;
    println!("six MACs alone, ring          {plain}");
    println!("registration at the receiver  {whole}, {ratio:.2} times the MACs alone");
    println!("... with link keys            {with_keys}");
    data_trailers(&receiver.link_keys());
    if std::env::args().nth(1).as_deref() != Some("check") {
        return ExitCode::SUCCESS;
    }
    let (is_slow, is_wasteful) = (plain.fast_us > LIMIT_US, ratio > RATIO_MAX);
    if is_slow {
        eprintln!("error: the MACs take more than {LIMIT_US} us; was this built with target-cpu=native?");
    }
    if is_wasteful {
        eprintln!("error: what is around the MACs takes more than {:.1} of them", RATIO_MAX - 1.0);
    }
    if is_slow || is_wasteful { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Microseconds per registration: median, and fastest tenth, of all batches.
struct Cost {
    median_us: f64,
    fast_us: f64,
}

impl std::fmt::Display for Cost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "median {:.2} us, fastest tenth {:.2} us", self.median_us, self.fast_us)
    }
}

fn measure(receiver: &mut Receiver, mut batch: impl FnMut(&mut Receiver)) -> Cost {
    let mut took_us: Vec<f64> = (0..BATCHES)
        .map(|_| {
            receiver.prepare();
            let start = Instant::now();
            batch(receiver);
            start.elapsed().as_secs_f64() * 1e6 / BATCH as f64
        })
        .collect();
    took_us.sort_by(f64::total_cmp);
    Cost { median_us: took_us[BATCHES / 2], fast_us: took_us[BATCHES / 10] }
}

/// Trailers of the usual packet of video.
fn data_trailers(keys: &LinkKeys) {
    const LEN: usize = 1332 + TRAILER_LEN;
    let (mut seal, mut open) = (keys.sender_data_ends().0, keys.receiver_data_ends().1);
    let (mut seal_ns, mut open_ns) = (Vec::new(), Vec::new());
    for _ in 0..BATCHES {
        let mut packets = vec![[0x5A; LEN]; BATCH];
        let start = Instant::now();
        assert!(packets.iter_mut().all(|packet| seal.seal(packet)));
        seal_ns.push(start.elapsed().as_secs_f64() * 1e9 / BATCH as f64);
        let start = Instant::now();
        assert!(packets.iter().all(|packet| open.open(packet).is_ok()));
        open_ns.push(start.elapsed().as_secs_f64() * 1e9 / BATCH as f64);
    }
    for (what, mut took_ns) in [("sealed", seal_ns), ("opened", open_ns)] {
        took_ns.sort_by(f64::total_cmp);
        let (median, fast) = (took_ns[BATCHES / 2], took_ns[BATCHES / 10]);
        println!("SRT packet of 1332 bytes {what}  median {median:.0} ns, fastest tenth {fast:.0} ns");
    }
}

fn plain_macs() {
    let key = hmac::Key::new(hmac::HMAC_SHA256, &[1; 32]);
    let input = [0x5A; 256];
    for _ in 0..BATCH {
        for len in MAC_INPUTS {
            black_box(hmac::sign(&key, black_box(&input[..len])));
        }
    }
}

/// A receiver, and the hellos and joins of a batch of links.
struct Receiver {
    now: Now,
    verifier: Verifier,
    other_shard: Verifier,
    credentials: Credentials,
    keys: HashMap<KeyId, DeviceKey>,
    links: Vec<(SocketAddr, Hello, [u8; 258])>,
}

impl Receiver {
    fn new() -> Self {
        let (gate, listener) = (GateKey::new(1, &[3; 16]), ListenerId([4; 16]));
        let now = Now { boot_ms: 0, wall_ms: 1_800_000_000_000 };
        let verifier = || {
            let (cookies, seen) = (CookieKeys::new(&[5; 32], 0), SeenFilter::new(&[6; 16], 0));
            Verifier::new(listener, Some(GateKeys::new(gate)), cookies, seen)
        };
        let keys = || DeviceKeys::derive(&[2; 32]);
        let credentials = Credentials {
            key_id: KEY_ID,
            keys: keys(),
            gate,
            listener,
            bind: StreamBind::ANY,
            required: Flags::KEEPALIVE_MAC,
        };
        let device = DeviceKey { keys: keys(), standing: Standing::Active, clockless_allowed: false };
        let keys = HashMap::from([(KEY_ID, device)]);
        Self { now, verifier: verifier(), other_shard: verifier(), credentials, keys, links: Vec::new() }
    }

    /// New links, two minutes later: the filter has forgotten the last ones. Another shard makes the challenges.
    fn prepare(&mut self) {
        self.now.boot_ms += 120_000;
        let Self { now, other_shard, credentials, keys, .. } = self;
        let offered = Flags::KEEPALIVE_MAC;
        let link = |number: usize| {
            let mut link_nonce = [9; 16];
            link_nonce[..8].copy_from_slice(&(number as u64).to_be_bytes());
            let greeting = Greeting { group: [8; 16], link_nonce, link_id: 1, links: 1, offered, caps: 0 };
            let from = SocketAddr::from(([203, 0, 113, 7], 1024 + number as u16));
            let hello = Hello::new(credentials, &greeting, now.wall_ms);
            let heard = other_shard.m1(hello.packet(), from, *now, keys, &mut Unlimited).unwrap();
            let m2 = other_shard.challenge(&heard, *now, &[1; 10], offered, Terms::default());
            let join = *hello.answer(credentials, &m2, now.wall_ms).unwrap().packet();
            (from, hello, join)
        };
        self.links = (0..BATCH).map(link).collect();
    }

    /// The keys of some link.
    fn link_keys(&mut self) -> LinkKeys {
        self.prepare();
        let (from, _, join) = &self.links[0];
        match self.verifier.m3(join, *from, self.now, &self.keys, &mut Unlimited, |_, _| false) {
            Ok(Joining::Proven(joined)) => joined.link_keys(),
            other => panic!("a good join: {other:?}"),
        }
    }

    /// All links, one after the other, as packets from a network would come.
    fn register(&mut self, with_link_keys: bool) {
        let Self { now, verifier, keys, links, .. } = self;
        for (from, hello, join) in links {
            let heard = verifier
                .m1(black_box(hello.packet()), *from, *now, keys, &mut Unlimited)
                .expect("a good hello");
            black_box(verifier.challenge(&heard, *now, &[1; 10], Flags::KEEPALIVE_MAC, Terms::default()));
            let joining = verifier.m3(black_box(join), *from, *now, keys, &mut Unlimited, |_, _| false);
            let Ok(Joining::Proven(joined)) = joining else { panic!("a good join: {joining:?}") };
            black_box(joined.confirm(1));
            if with_link_keys {
                black_box(joined.link_keys().receiver_ends());
            }
        }
    }
}
