//! SA1: a device and a receiver with the keys of `auth/vectors/sa1.json`, so that the packets there are good seeds.
//!
//! An input is one byte of circumstances and a datagram. Circumstances can say that gate tag and MAC are to be made right
//! again, as whoever owns a device could: so mutants get behind the MACs too. What is made right again, and whether what was
//! taken should have been, is computed here from the specification with ring, not with the functions under test.

pub mod data;
pub mod hello;
pub mod join;
pub mod sender;
pub mod trailer;

use std::sync::LazyLock;

use bondgate_auth::sa1::keys::{CookieKeys, DeviceKey, DeviceKeys, GateKey, GateKeys, LinkKeys, Standing};
use bondgate_auth::sa1::receiver::{Joining, Unlimited, Verifier};
use bondgate_auth::sa1::replay::SeenFilter;
use bondgate_auth::sa1::sender::{Credentials, Greeting, Hello, Join};
use bondgate_auth::sa1::wire::{PACKET_LEN, Terms};
use bondgate_auth::sa1::{Flags, KeyId, ListenerId, Now, StreamBind};
use ring::hmac;

const KEY_ID: KeyId = counting(0x80);
const GATE_EPOCH: u32 = 7;
const BOTH_MACS: Flags = Flags::KEEPALIVE_MAC.with(Flags::ACK_MAC);
const START: Now = Now { boot_ms: 1_210_000, wall_ms: 1_800_000_000_000 };
const RANDOM: [u8; 10] = counting(0xB0);

const fn counting<const N: usize>(from: u8) -> [u8; N] {
    let mut bytes = [0; N];
    let mut i = 0;
    while i < N {
        bytes[i] = from.wrapping_add(i as u8);
        i += 1;
    }
    bytes
}

fn at(ms: u64) -> Now {
    Now { boot_ms: START.boot_ms + ms, wall_ms: START.wall_ms + ms }
}

fn addr(port: u16) -> std::net::SocketAddr {
    ([203, 0, 113, 7], port).into()
}

const HOME: u16 = 40_000;

fn gate() -> GateKey {
    GateKey::new(GATE_EPOCH, &counting(0x40))
}

fn listener() -> ListenerId {
    ListenerId::of("ingest.example:5000", &counting(0xC0))
}

fn receiver(with_gate: bool) -> Verifier {
    let cookies = CookieKeys::new(&counting(0x60), START.boot_ms);
    let seen = SeenFilter::new(&[0xEE; 16], START.boot_ms);
    Verifier::new(listener(), with_gate.then(|| GateKeys::new(gate())), cookies, seen)
}

type Keyring = std::collections::HashMap<KeyId, DeviceKey>;

fn keyring(standing: Standing, clockless_allowed: bool) -> Keyring {
    let keys = DeviceKeys::derive(&counting(0));
    Keyring::from([(KEY_ID, DeviceKey { keys, standing, clockless_allowed })])
}

/// The genuine conversation: hello at 0 ms, challenge at 20 ms, join at 40 ms, taken at 60 ms.
struct Genuine {
    credentials: Credentials,
    hello: Hello,
    join: Join,
}

impl Genuine {
    fn new() -> Self {
        let credentials = Credentials {
            key_id: KEY_ID,
            keys: DeviceKeys::derive(&counting(0)),
            gate: gate(),
            listener: listener(),
            bind: StreamBind::of("acme", "cam1"),
            required: BOTH_MACS,
        };
        let greeting = Greeting {
            group: counting(0x90),
            link_nonce: counting(0xA0),
            link_id: 5,
            links: 3,
            offered: BOTH_MACS.with(Flags::DATA_MAC),
            caps: 0x0102,
        };
        let keys = keyring(Standing::Active, false);
        let mut receiver = receiver(true);
        let hello = Hello::new(&credentials, &greeting, at(0).wall_ms);
        let heard = receiver.m1(hello.packet(), addr(HOME), at(20), &keys, &mut Unlimited);
        let heard = heard.expect("a genuine hello is heard");
        let m2 = receiver.challenge(&heard, at(20), &RANDOM, BOTH_MACS, Terms::default());
        let join = hello.answer(&credentials, &m2, at(40).wall_ms).expect("a genuine challenge is believed");
        let joined = receiver.m3(join.packet(), addr(HOME), at(60), &keys, &mut Unlimited, |_, _| false);
        assert!(matches!(joined, Ok(Joining::Proven(_))), "{joined:?}");
        Self { credentials, hello, join }
    }
}

thread_local! {
    static GENUINE: Genuine = Genuine::new();
}

/// The keys of spec 2.1 and 4.1, derived apart from the crate.
struct Reference {
    to_receiver: hmac::Key,
    to_sender: hmac::Key,
    session: hmac::Key,
    gate: siphasher::sip::SipHasher24,
}

static REFERENCE: LazyLock<Reference> = LazyLock::new(|| {
    let prk = key(&mac(&key(b"srtla-sa1"), &[&counting::<32>(0)]));
    let derive = |info: &[u8]| key(&mac(&prk, &[info, &[1]]));
    Reference {
        to_receiver: derive(b"c2s"),
        to_sender: derive(b"s2c"),
        session: derive(b"ses"),
        gate: siphasher::sip::SipHasher24::new_with_key(&counting(0x40)),
    }
});

fn key(bytes: &[u8]) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, bytes)
}

fn mac(key: &hmac::Key, parts: &[&[u8]]) -> [u8; 32] {
    let tag = hmac::sign(key, &parts.concat());
    tag.as_ref().try_into().expect("32 bytes")
}

fn gate_tag(packet: &[u8; PACKET_LEN]) -> [u8; 8] {
    REFERENCE.gate.hash(&packet[2..66]).to_le_bytes()
}

/// What mutants of a registration packet are made of: the circumstances, and the datagram with tags right again if asked for.
struct Input {
    circumstances: u8,
    datagram: Vec<u8>,
}

const RESIGN: u8 = 1;
const REGATE: u8 = 2;

impl Input {
    fn read(data: &[u8], label: &[u8], signer: &hmac::Key) -> Option<Self> {
        let (&circumstances, datagram) = data.split_first()?;
        let mut datagram = datagram.to_vec();
        if let Ok(packet) = <&mut [u8; PACKET_LEN]>::try_from(&mut datagram[..]) {
            if circumstances & REGATE != 0 {
                let tag = gate_tag(packet);
                packet[66..74].copy_from_slice(&tag);
            }
            if circumstances & RESIGN != 0 {
                let tag = mac(signer, &[label, &packet[..226]]);
                packet[226..].copy_from_slice(&tag);
            }
        }
        Some(Self { circumstances, datagram })
    }

    fn is(&self, bit: u8) -> bool {
        self.circumstances & bit != 0
    }

    /// The datagram as the 258 bytes it must have been if it was taken.
    fn packet(&self) -> &[u8; PACKET_LEN] {
        self.datagram[..].try_into().expect("only 258 bytes are taken")
    }
}

/// Whether a packet's MAC is right.
fn is_signed(packet: &[u8; PACKET_LEN], label: &[u8], signer: &hmac::Key) -> bool {
    mac(signer, &[label, &packet[..226]]) == packet[226..]
}

/// The keys of the genuine join's link, and the key of what its sender seals as the specification derives it.
fn joined() -> (LinkKeys, hmac::Key) {
    let mut receiver = receiver(true);
    let keys = keyring(Standing::Active, false);
    GENUINE.with(|genuine| {
        let sent = genuine.join.packet();
        let joining = receiver.m3(sent, addr(HOME), at(60), &keys, &mut Unlimited, |_, _| false);
        let Ok(Joining::Proven(join)) = joining else { panic!("{joining:?}") };
        let (group, link, nonce, id) = (&sent[18..34], &sent[34..50], &sent[146..162], &sent[50..54]);
        let root = key(&mac(&REFERENCE.session, &[b"SA1-L", group, link, nonce, id]));
        (join.link_keys(), key(&mac(&root, &[b"c2s"])))
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use crate::{mutate::mutate, seeds};

    /// Runs seeds and mutants of a target and collects how they ended.
    fn ends(name: &str, run: fn(&[u8]) -> &'static str, count: u32) -> BTreeSet<&'static str> {
        let seeds = seeds::load(name).expect("seeds");
        let mut ends: BTreeSet<_> = seeds.iter().map(|seed| run(seed)).collect();
        let mut rng = fastrand::Rng::with_seed(3);
        let mut input = Vec::new();
        for _ in 0..count {
            let (a, b) = (&seeds[rng.usize(..seeds.len())], &seeds[rng.usize(..seeds.len())]);
            mutate(&mut rng, a, b, &mut input);
            ends.insert(run(&input));
        }
        ends
    }

    /// The seeds are still what the receiver and sender take, and mutants get to every check.
    #[test]
    fn mutants_get_everywhere() {
        let hello = ends("sa1_hello", super::hello::outcome, 20_000);
        let expected = [
            "clock",
            "empty",
            "flags",
            "gate_epoch",
            "gate_tag",
            "heard",
            "key_expired",
            "length",
            "listener",
            "mac1",
            "magic",
            "message",
            "reserved",
            "type",
            "unknown_key",
            "version",
        ];
        assert_eq!(hello.into_iter().collect::<Vec<_>>(), expected);
        let join = ends("sa1_join", super::join::outcome, 40_000);
        let expected = [
            "cookie_age",
            "cookie_epoch",
            "cookie_mac",
            "empty",
            "flags",
            "gate_epoch",
            "gate_tag",
            "key_expired",
            "length",
            "listener",
            "mac3",
            "magic",
            "message",
            "proven",
            "rechallenge",
            "reserved",
            "stale",
            "type",
            "unknown_key",
            "version",
        ];
        assert_eq!(join.into_iter().collect::<Vec<_>>(), expected);
        let sender = ends("sa1_sender", super::sender::outcome, 40_000);
        let expected =
            ["answered", "believed", "downgrade", "empty", "layout", "mac", "not_mine", "refused", "up"];
        assert_eq!(sender.into_iter().collect::<Vec<_>>(), expected);
    }
}
