//! One device and one receiver with fixed keys, so that every test and every vector begins from the same bytes.

use bondgate_auth::sa1::keys::{CookieKeys, DeviceKey, DeviceKeys, GateKey, GateKeys, Standing};
use bondgate_auth::sa1::receiver::{Joining, ProvenHello, ProvenJoin, Reject, Rejected, Unlimited, Verifier};
use bondgate_auth::sa1::replay::SeenFilter;
use bondgate_auth::sa1::sender::{Credentials, Greeting, Hello, Join};
use bondgate_auth::sa1::wire::{PACKET_LEN, Terms};
use bondgate_auth::sa1::{Flags, KeyId, ListenerId, Now, StreamBind};
use std::collections::HashMap;
use std::net::SocketAddr;

pub const DEVICE_SECRET: [u8; 32] = counting(0x00);
pub const GATE_KEY: [u8; 16] = counting(0x40);
pub const COOKIE_SECRET: [u8; 32] = counting(0x60);
pub const KEY_ID: KeyId = counting(0x80);
pub const GROUP: [u8; 16] = counting(0x90);
pub const LINK_NONCE: [u8; 16] = counting(0xA0);
pub const RANDOM: [u8; 10] = counting(0xB0);
pub const INSTANCE: KeyId = counting(0xC0);
pub const GATE_EPOCH: u32 = 7;
pub const LISTENER_NAME: &str = "ingest.example:5000";
pub const BOTH_MACS: Flags = Flags::KEEPALIVE_MAC.with(Flags::ACK_MAC);
/// When tests begin: 10 s into a cookie epoch.
pub const START: Now = Now { boot_ms: 1_210_000, wall_ms: 1_800_000_000_000 };

pub const fn counting<const N: usize>(from: u8) -> [u8; N] {
    let mut bytes = [0; N];
    let mut i = 0;
    while i < N {
        bytes[i] = from.wrapping_add(i as u8);
        i += 1;
    }
    bytes
}

pub fn at(ms: u64) -> Now {
    Now { boot_ms: START.boot_ms + ms, wall_ms: START.wall_ms + ms }
}

pub fn home() -> SocketAddr {
    "203.0.113.7:40000".parse().unwrap()
}

pub fn elsewhere() -> SocketAddr {
    "203.0.113.7:40001".parse().unwrap()
}

pub fn listener() -> ListenerId {
    ListenerId::of(LISTENER_NAME, &INSTANCE)
}

pub fn device(secret: &[u8; 32]) -> Credentials {
    Credentials {
        key_id: KEY_ID,
        keys: DeviceKeys::derive(secret),
        gate: GateKey::new(GATE_EPOCH, &GATE_KEY),
        listener: listener(),
        bind: StreamBind::of("acme", "cam1"),
        required: BOTH_MACS,
    }
}

pub fn greeting() -> Greeting {
    Greeting {
        group: GROUP,
        link_nonce: LINK_NONCE,
        link_id: 5,
        links: 3,
        offered: BOTH_MACS.with(Flags::DATA_MAC),
        caps: 0x0102,
    }
}

pub type Keys = HashMap<KeyId, DeviceKey>;

pub fn keyring(standing: Standing, clockless_allowed: bool) -> Keys {
    let key = DeviceKey { keys: DeviceKeys::derive(&DEVICE_SECRET), standing, clockless_allowed };
    Keys::from([(KEY_ID, key)])
}

pub fn seen() -> SeenFilter {
    SeenFilter::new(&[0xEE; 16], START.boot_ms)
}

pub fn receiver_named(listener: ListenerId) -> Verifier {
    let gate = GateKeys::new(GateKey::new(GATE_EPOCH, &GATE_KEY));
    Verifier::new(listener, Some(gate), CookieKeys::new(&COOKIE_SECRET, START.boot_ms), seen())
}

pub fn receiver() -> Verifier {
    receiver_named(listener())
}

pub fn m1<'k>(
    receiver: &mut Verifier,
    datagram: &[u8],
    from: SocketAddr,
    now: Now,
    keys: &'k Keys,
) -> Result<ProvenHello<'k>, Rejected> {
    receiver.m1(datagram, from, now, keys, &mut Unlimited)
}

pub fn m3<'k>(
    receiver: &mut Verifier,
    datagram: &[u8],
    from: SocketAddr,
    now: Now,
    keys: &'k Keys,
) -> Result<Joining<'k>, Rejected> {
    receiver.m3(datagram, from, now, keys, &mut Unlimited, |_, _| false)
}

pub fn challenge(receiver: &mut Verifier, hello: &ProvenHello<'_>, now: Now) -> [u8; PACKET_LEN] {
    receiver.challenge(hello, now, &RANDOM, BOTH_MACS, Terms::default())
}

pub fn proven(joining: Result<Joining<'_>, Rejected>) -> ProvenJoin<'_> {
    match joining {
        Ok(Joining::Proven(join)) => join,
        other => panic!("{other:?}"),
    }
}

pub fn rechallenged(joining: Result<Joining<'_>, Rejected>) -> (ProvenHello<'_>, Reject) {
    match joining {
        Ok(Joining::Rechallenge(hello, why)) => (hello, why),
        other => panic!("{other:?}"),
    }
}

pub fn silent<T: std::fmt::Debug>(result: Result<T, Rejected>) -> Reject {
    let rejected = result.unwrap_err();
    assert_eq!(rejected.answer, None, "{}", rejected.reason);
    rejected.reason
}

/// All four messages of one registration: hello at 0 ms, challenge at 20 ms, join made at 40 ms and received at 60 ms.
pub struct Session {
    pub credentials: Credentials,
    pub hello: Hello,
    pub m2: [u8; PACKET_LEN],
    pub join: Join,
    pub m4: [u8; 34],
}

pub fn session(greeting: &Greeting) -> Session {
    let (credentials, keys) = (device(&DEVICE_SECRET), keyring(Standing::Active, false));
    let mut receiver = receiver();
    let hello = Hello::new(&credentials, greeting, at(0).wall_ms);
    let heard = m1(&mut receiver, hello.packet(), home(), at(20), &keys).unwrap();
    let m2 = challenge(&mut receiver, &heard, at(20));
    let join = hello.answer(&credentials, &m2, at(40).wall_ms).unwrap();
    let m4 = proven(m3(&mut receiver, join.packet(), home(), at(60), &keys)).confirm(0x0203);
    Session { credentials, hello, m2, join, m4 }
}
