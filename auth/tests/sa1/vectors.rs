//! The test vectors in `auth/vectors/sa1.json`: made from fixed inputs by both sides of the crate, checked by
//! `auth/verify.py`, which shares no code with it. `BLESS=1` writes them anew.

use crate::flips::reasons_of_flips;
use crate::rig::*;
use bondgate_auth::sa1::keys::Standing;
use bondgate_auth::sa1::receiver::{Joining, Rejected, Unlimited};
use bondgate_auth::sa1::sender::{Greeting, Hello};
use bondgate_auth::sa1::trailer::TRAILER_LEN;
use bondgate_auth::sa1::wire::{Refusal, RefusalCode};
use bondgate_auth::sa1::{Flags, ListenerId, Now, StreamBind};
use bondgate_auth::ticket::TicketKey;
use std::fmt::Write as _;
use std::net::SocketAddr;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/vectors/sa1.json");

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::from("\""), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    }) + "\""
}

/// One JSON object of these members, one per line.
fn object(indent: usize, members: &[(&str, String)]) -> String {
    let pad = " ".repeat(indent + 2);
    let lines: Vec<_> = members.iter().map(|(name, value)| format!("{pad}\"{name}\": {value}")).collect();
    format!("{{\n{}\n{}}}", lines.join(",\n"), " ".repeat(indent))
}

fn array(indent: usize, items: &[String]) -> String {
    let pad = " ".repeat(indent + 2);
    let lines: Vec<_> = items.iter().map(|item| format!("{pad}{item}")).collect();
    format!("[\n{}\n{}]", lines.join(",\n"), " ".repeat(indent))
}

fn hmac(key: &[u8], data: &[&[u8]]) -> [u8; 32] {
    let mut context = ring::hmac::Context::with_key(&ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key));
    for part in data {
        context.update(part);
    }
    context.sign().as_ref().try_into().unwrap()
}

/// A datagram, the circumstances of its arrival, and what the receiver made of it.
struct Arrival {
    name: &'static str,
    packet: Vec<u8>,
    from: SocketAddr,
    now: Now,
    standing: Standing,
    clockless_allowed: bool,
    group_lives: bool,
    is_m3: bool,
}

fn verdict_of(rejected: Rejected) -> String {
    format!("{}:{}", if rejected.answer.is_some() { "nak" } else { "silence" }, rejected.reason)
}

impl Arrival {
    fn verdict(&self) -> String {
        let keys = keyring(self.standing, self.clockless_allowed);
        let mut receiver = receiver();
        if self.is_m3 {
            let lives = self.group_lives;
            match receiver.m3(&self.packet, self.from, self.now, &keys, &mut Unlimited, |_, _| lives) {
                Ok(Joining::Proven(_)) => "join".to_owned(),
                Ok(Joining::Rechallenge(_, why)) => format!("rechallenge:{why}"),
                Err(rejected) => verdict_of(rejected),
            }
        } else {
            match m1(&mut receiver, &self.packet, self.from, self.now, &keys) {
                Ok(_) => "hello".to_owned(),
                Err(rejected) => verdict_of(rejected),
            }
        }
    }

    fn json(&self) -> String {
        object(
            4,
            &[
                ("name", format!("\"{}\"", self.name)),
                ("read_as", format!("\"{}\"", if self.is_m3 { "m3" } else { "m1" })),
                ("from", format!("\"{}\"", self.from)),
                ("boot_ms", self.now.boot_ms.to_string()),
                ("wall_ms", self.now.wall_ms.to_string()),
                ("key_expired", (self.standing == Standing::Expired).to_string()),
                ("clockless_allowed", self.clockless_allowed.to_string()),
                ("group_lives", self.group_lives.to_string()),
                ("packet", hex(&self.packet)),
                ("verdict", format!("\"{}\"", self.verdict())),
            ],
        )
    }
}

fn arrivals(session: &Session) -> Vec<Arrival> {
    let arrival = |name, packet: &[u8], is_m3| Arrival {
        name,
        packet: packet.to_vec(),
        from: home(),
        now: at(if is_m3 { 60 } else { 20 }),
        standing: Standing::Active,
        clockless_allowed: false,
        group_lives: false,
        is_m3,
    };
    let hello = |name| arrival(name, session.hello.packet(), false);
    let join = |name| arrival(name, session.join.packet(), true);
    let said = |name, change: &dyn Fn(&mut Greeting), time| {
        let mut greeting = greeting();
        change(&mut greeting);
        arrival(name, Hello::new(&session.credentials, &greeting, time).packet(), false)
    };
    let stranger = |name, change: &dyn Fn(&mut bondgate_auth::sa1::sender::Credentials)| {
        let mut credentials = device(&DEVICE_SECRET);
        change(&mut credentials);
        arrival(name, Hello::new(&credentials, &greeting(), at(0).wall_ms).packet(), false)
    };
    let changed = |mut arrival: Arrival, at_id: usize, value| {
        arrival.packet[at_id + 2] = value;
        arrival
    };
    let wall = at(20).wall_ms;
    vec![
        hello("hello"),
        Arrival { standing: Standing::Retiring, ..hello("hello of a retiring key") },
        Arrival { standing: Standing::Expired, ..hello("hello of an expired key") },
        said("clock 90 s behind", &|_| {}, wall - 90_000),
        said("clock 90.001 s behind", &|_| {}, wall - 90_001),
        said("clock 90 s ahead", &|_| {}, wall + 90_000),
        said("clock 90.001 s ahead", &|_| {}, wall + 90_001),
        said("no clock", &|_| {}, 0),
        said("clock not to be trusted", &|g| g.offered = g.offered.with(Flags::CLOCKLESS), wall),
        Arrival { clockless_allowed: true, ..said("no clock, allowed", &|_| {}, 0) },
        stranger("hello to another listener", &|c| c.listener = ListenerId([1; 16])),
        stranger("hello with another gate epoch", &|c| {
            c.gate = bondgate_auth::sa1::keys::GateKey::new(9, &GATE_KEY);
        }),
        stranger("hello with another gate key", &|c| {
            c.gate = bondgate_auth::sa1::keys::GateKey::new(GATE_EPOCH, &[0; 16]);
        }),
        stranger("hello under an unknown key ID", &|c| c.key_id = [0; 8]),
        stranger("hello under another secret", &|c| {
            c.keys = bondgate_auth::sa1::keys::DeviceKeys::derive(&[1; 32]);
        }),
        stranger("hello for any stream", &|c| c.bind = StreamBind::ANY),
        changed(hello("hello with an undefined flag"), 7, 0x20),
        changed(hello("hello with a reserved byte in the sender half"), 127, 1),
        changed(hello("hello with a byte in the receiver half"), 128, 1),
        changed(hello("hello with version 2"), 4, 2),
        changed(hello("stock ID"), 0, 0),
        arrival("join read as hello", session.join.packet(), false),
        arrival("hello read as join", session.hello.packet(), true),
        arrival("challenge read as join", &session.m2, true),
        arrival("hello cut short", &session.hello.packet()[..257], false),
        join("join"),
        Arrival { now: at(20), ..join("join of age 0") },
        Arrival { now: at(19), ..join("join from the future") },
        Arrival { now: at(30_020), ..join("join of age 30 s") },
        Arrival { now: at(30_021), ..join("join of age 30.001 s") },
        Arrival { now: at(31_020), ..join("join of age 31 s") },
        Arrival { now: at(200_000), ..join("join without group and time") },
        Arrival { now: at(200_000), group_lives: true, ..join("old join of a living group") },
        Arrival { now: at(300_000), group_lives: true, ..join("join of a forgotten cookie epoch") },
        Arrival { now: at(200_000), clockless_allowed: true, ..join("old join of a clockless device") },
        Arrival { from: elsewhere(), ..join("join from another port") },
        Arrival { from: "203.0.113.8:40000".parse().unwrap(), ..join("join from another address") },
        Arrival { from: "[2001:db8::7]:40000".parse().unwrap(), ..join("join from an IPv6 address") },
        Arrival {
            from: "[::ffff:203.0.113.7]:40000".parse().unwrap(),
            ..join("join from the mapped address")
        },
        Arrival { standing: Standing::Expired, ..join("join of an expired key") },
        changed(join("join with a changed MAC"), 255, 0),
        changed(join("join with fewer flags accepted"), 131, 1),
        changed(join("join with more flags accepted than offered"), 131, 11),
        changed(join("join with a byte in the resume field"), 192, 1),
    ]
}

fn document() -> String {
    let session = session(&greeting());
    let keys = keyring(Standing::Active, false);
    let refusal = Refusal::new(RefusalCode::RateLimited, 30);
    let heard = m1(&mut receiver(), session.hello.packet(), home(), at(20), &keys).unwrap();
    let joined = proven(m3(&mut receiver(), session.join.packet(), home(), at(60), &keys));
    let prk = hmac(b"srtla-sa1", &[&DEVICE_SECRET]);
    let k_x = hmac(&prk, &[b"ses\x01"]);
    let nonce = joined.claims().nonce;
    let k_link = hmac(&k_x, &[b"SA1-L", &GROUP, &LINK_NONCE, &nonce.0, &5u32.to_be_bytes()]);
    let cookie_epoch = 10u32;
    let k_ck = hmac(&COOKIE_SECRET, &[b"SA1-CE", &cookie_epoch.to_be_bytes()]);
    let text = |text: &str| format!("\"{text}\"");

    let inputs = [
        ("device_secret", hex(&DEVICE_SECRET)),
        ("key_id", hex(&KEY_ID)),
        ("gate_epoch", GATE_EPOCH.to_string()),
        ("gate_key", hex(&GATE_KEY)),
        ("cookie_secret", hex(&COOKIE_SECRET)),
        ("listener_name", text(LISTENER_NAME)),
        ("instance_key_id", hex(&INSTANCE)),
        ("tenant", text("acme")),
        ("stream", text("cam1")),
        ("group", hex(&GROUP)),
        ("link_nonce", hex(&LINK_NONCE)),
        ("link_id", "5".to_owned()),
        ("links", "3".to_owned()),
        ("caps", 0x0102.to_string()),
        ("flags_offered", "7".to_owned()),
        ("flags_accepted", "3".to_owned()),
        ("m1_sender_time_ms", at(0).wall_ms.to_string()),
        ("m2_boot_ms", at(20).boot_ms.to_string()),
        ("m2_server_time_ms", at(20).wall_ms.to_string()),
        ("m2_random", hex(&RANDOM)),
        ("m3_sender_time_ms", at(40).wall_ms.to_string()),
        ("from", text(&home().to_string())),
        ("link_handle", 0x0203.to_string()),
        ("refusal_code", (refusal.code as u8).to_string()),
        ("retry_after_s", "30".to_owned()),
    ];
    let derived = [
        ("k_c", hex(&hmac(&prk, &[b"c2s\x01"]))),
        ("k_s", hex(&hmac(&prk, &[b"s2c\x01"]))),
        ("k_x", hex(&k_x)),
        ("listener_id", hex(&listener().0)),
        ("stream_bind", hex(&StreamBind::of("acme", "cam1").0)),
        ("cookie_epoch", cookie_epoch.to_string()),
        ("k_ck", hex(&k_ck)),
        ("k_link", hex(&k_link)),
        ("k_link_c2s", hex(&hmac(&k_link, &[b"c2s"]))),
        ("k_link_s2c", hex(&hmac(&k_link, &[b"s2c"]))),
        ("k_data_c2s", hex(&hmac(&hmac(&k_link, &[b"c2s"]), &[b"SA1-D"])[..16])),
        ("k_data_s2c", hex(&hmac(&hmac(&k_link, &[b"s2c"]), &[b"SA1-D"])[..16])),
    ];
    let packets = [
        ("m1", hex(session.hello.packet())),
        ("m2", hex(&session.m2)),
        ("m3", hex(session.join.packet())),
        ("m4", hex(&session.m4)),
        ("nak_to_m1", hex(&heard.refuse(refusal))),
        ("nak_to_m3", hex(&joined.refuse(refusal))),
    ];

    let ends = [("c2s", joined.link_keys().sender_ends().0), ("s2c", joined.link_keys().receiver_ends().0)];
    let mut trailers = Vec::new();
    for (direction, mut seal) in ends {
        let extended: Vec<u8> = [0x90, 0x00].into_iter().chain(2..38).collect();
        let ack: Vec<u8> = [0x91, 0x00].into_iter().chain(2..44).collect();
        for (counter, packet) in [&extended[..10], &extended, &ack, &ack[..16]].into_iter().enumerate() {
            let (sealed, len) = seal.seal(packet).unwrap();
            trailers.push(object(
                4,
                &[
                    ("direction", text(direction)),
                    ("counter", counter.to_string()),
                    ("packet", hex(packet)),
                    ("sealed", hex(&sealed[..len])),
                ],
            ));
        }
    }

    let keys = joined.link_keys();
    let mut data_trailers = Vec::new();
    for (direction, mut seal) in [("c2s", keys.sender_data_ends().0), ("s2c", keys.receiver_data_ends().0)] {
        // The shortest packet, an SRT NAK, the usual packet of video, the longest; also lengths that fill no block.
        for (counter, len) in [16, 20, 1332, 1452, 29].into_iter().enumerate() {
            let packet: Vec<u8> = (0..len).map(|at: usize| (at * 7) as u8).collect();
            let mut sealed = [&packet[..], &[0; TRAILER_LEN]].concat();
            assert!(seal.seal(&mut sealed));
            data_trailers.push(object(
                4,
                &[
                    ("direction", text(direction)),
                    ("counter", counter.to_string()),
                    ("packet", hex(&packet)),
                    ("trailer", hex(&sealed[len..])),
                ],
            ));
        }
    }

    let ticket = |epoch: u32, shard: u8| {
        let half = counting::<128>(shard);
        object(
            4,
            &[
                ("key", hex(&counting::<32>(0xE0))),
                ("epoch", epoch.to_string()),
                ("owner_shard", shard.to_string()),
                ("sender_half", hex(&half)),
                ("receiver_half", hex(&TicketKey::new(counting(0xE0)).issue(&half, epoch, shard))),
            ],
        )
    };
    let (m1_flips, m3_flips) = reasons_of_flips();
    let counts = |map: std::collections::BTreeMap<&str, u32>| {
        let members: Vec<_> = map.into_iter().map(|(reason, count)| (reason, count.to_string())).collect();
        object(4, &members)
    };
    let arrivals: Vec<_> = arrivals(&session).iter().map(Arrival::json).collect();
    object(
        0,
        &[
            ("inputs", object(2, &inputs)),
            ("derived", object(2, &derived)),
            ("packets", object(2, &packets)),
            ("trailers", array(2, &trailers)),
            ("data_trailers", array(2, &data_trailers)),
            ("tickets", array(2, &[ticket(0, 0), ticket(20_000, 1), ticket(u32::MAX, 255)])),
            ("arrivals", array(2, &arrivals)),
            ("flips", object(2, &[("m1", counts(m1_flips)), ("m3", counts(m3_flips))])),
        ],
    ) + "\n"
}

#[test]
fn vectors_are_what_the_crate_makes() {
    let made = document();
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(FILE, &made).unwrap();
    }
    let stored = std::fs::read_to_string(FILE).unwrap();
    assert!(made == stored, "{FILE} differs from what is made now; if that is meant: BLESS=1 cargo test");
}

/// The verdicts in the file are the right ones, not just today's.
#[test]
fn verdicts_are_as_specified() {
    let found: Vec<_> = arrivals(&session(&greeting()))
        .into_iter()
        .map(|arrival| format!("{} = {}", arrival.name, arrival.verdict()))
        .collect();
    let expected = [
        "hello = hello",
        "hello of a retiring key = hello",
        "hello of an expired key = nak:key_expired",
        "clock 90 s behind = hello",
        "clock 90.001 s behind = nak:clock",
        "clock 90 s ahead = hello",
        "clock 90.001 s ahead = nak:clock",
        "no clock = nak:clock",
        "clock not to be trusted = nak:clock",
        "no clock, allowed = hello",
        "hello to another listener = silence:listener",
        "hello with another gate epoch = silence:gate_epoch",
        "hello with another gate key = silence:gate_tag",
        "hello under an unknown key ID = silence:unknown_key",
        "hello under another secret = silence:mac1",
        "hello for any stream = hello",
        "hello with an undefined flag = silence:flags",
        "hello with a reserved byte in the sender half = silence:reserved",
        "hello with a byte in the receiver half = silence:reserved",
        "hello with version 2 = silence:version",
        "stock ID = silence:magic",
        "join read as hello = silence:type",
        "hello read as join = silence:type",
        "challenge read as join = silence:message",
        "hello cut short = silence:length",
        "join = join",
        "join of age 0 = join",
        "join from the future = rechallenge:cookie_age",
        "join of age 30 s = join",
        "join of age 30.001 s = rechallenge:cookie_age",
        "join of age 31 s = rechallenge:cookie_age",
        "join without group and time = silence:stale",
        "old join of a living group = rechallenge:cookie_age",
        "join of a forgotten cookie epoch = rechallenge:cookie_epoch",
        "old join of a clockless device = rechallenge:cookie_age",
        "join from another port = rechallenge:cookie_mac",
        "join from another address = rechallenge:cookie_mac",
        "join from an IPv6 address = rechallenge:cookie_mac",
        "join from the mapped address = join",
        "join of an expired key = nak:key_expired",
        "join with a changed MAC = silence:mac3",
        "join with fewer flags accepted = silence:cookie_mac",
        "join with more flags accepted than offered = silence:flags",
        "join with a byte in the resume field = silence:reserved",
    ];
    assert_eq!(found, expected);
}
