//! Row B-04: our reader of SA1 and the one in Python, written from the specification alone, come to the same verdict about
//! a million packets.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use bondgate_auth::sa1::keys::{CookieKeys, DeviceKey, DeviceKeys, GateKey, GateKeys, Standing};
use bondgate_auth::sa1::receiver::{Joining, Reject, Rejected, Unlimited, Verifier};
use bondgate_auth::sa1::replay::SeenFilter;
use bondgate_auth::sa1::sender::{Credentials, Greeting, Hello};
use bondgate_auth::sa1::wire::Terms;
use bondgate_auth::sa1::{Flags, ListenerId, Now, StreamBind};
use bondgate_sim::rng::Rng;
use bondgate_tests::attack::client::fill;
use bondgate_tests::scene::Scene;

use crate::{figure, is_long};

const NAME: &str = "ingest.example.org:5000";
const INSTANCE: [u8; 8] = [7; 8];
const KEY_ID: [u8; 8] = [0xA1; 8];
const SECRET: [u8; 32] = [0x11; 32];
const GATE: [u8; 16] = [0x22; 16];
const COOKIES: [u8; 32] = [0x33; 32];
const EPOCH: u32 = 9;
const NOW: Now = Now { boot_ms: 10_000_000, wall_ms: 1_790_000_000_000 };
const RECORD_LEN: usize = 1 + 2 + 260;

/// Reads records (context, length, 260 bytes), writes one line with two verdicts each.
const DRIVER: &str = r#"
import sys, json
sys.path.insert(0, sys.argv[1])
import verify
inputs = json.loads(sys.argv[2])
receiver = verify.Receiver(inputs)
cases = []
for n in range(8):
    cases.append({"key_expired": bool(n & 1), "clockless_allowed": bool(n & 2), "group_lives": bool(n & 4),
                  "from": inputs["from"], "wall_ms": inputs["wall_ms"], "boot_ms": inputs["boot_ms"]})
out = []
with open(sys.argv[3], "rb") as f:
    data = f.read()
for at in range(0, len(data), 263):
    case = cases[data[at]]
    length = data[at + 1] << 8 | data[at + 2]
    packet = data[at + 3:at + 3 + length]
    out.append(receiver.hello(packet, case) + " " + receiver.join(packet, case))
sys.stdout.write("\n".join(out) + "\n")
"#;

fn from() -> SocketAddr {
    ([192, 0, 2, 1], 5000).into()
}

fn verifier() -> Verifier {
    let gate = GateKeys::new(GateKey::new(EPOCH, &GATE));
    let cookies = CookieKeys::new(&COOKIES, NOW.boot_ms);
    Verifier::new(
        ListenerId::of(NAME, &INSTANCE),
        Some(gate),
        cookies,
        SeenFilter::new(&[1; 16], NOW.boot_ms),
    )
}

fn ring(context: u8) -> std::collections::HashMap<[u8; 8], DeviceKey> {
    let standing = if context & 1 == 0 { Standing::Active } else { Standing::Expired };
    let key = DeviceKey { keys: DeviceKeys::derive(&SECRET), standing, clockless_allowed: context & 2 != 0 };
    [(KEY_ID, key)].into()
}

fn verdict_of(rejected: Rejected) -> String {
    let kind = if rejected.answer.is_some() { "nak" } else { "silence" };
    format!("{kind}:{}", rejected.reason)
}

/// Genuine M1 and M3, some damaged.
struct Source {
    rng: Rng,
    verifier: Verifier,
    credentials: Credentials,
    pool: Vec<[u8; 258]>,
}

impl Source {
    fn new() -> Self {
        let credentials = Credentials {
            key_id: KEY_ID,
            keys: DeviceKeys::derive(&SECRET),
            gate: GateKey::new(EPOCH, &GATE),
            listener: ListenerId::of(NAME, &INSTANCE),
            bind: StreamBind::ANY,
            required: Flags::NONE,
        };
        Self { rng: Rng::new(44), verifier: verifier(), credentials, pool: Vec::new() }
    }

    /// A genuine M1 and the M3 that follows from it, of a cookie of any age.
    fn grow(&mut self) -> Result<()> {
        let rng = &mut self.rng;
        let (mut group, mut link_nonce) = ([0; 16], [0; 16]);
        fill(rng, &mut group);
        fill(rng, &mut link_nonce);
        let offered = Flags::from_bits(rng.below(16) as u8).context("flags")?;
        let greeting =
            Greeting { group, link_nonce, link_id: rng.next_u64() as u32, links: 3, offered, caps: 1 };
        let time_ms = match rng.below(4) {
            0 => 0,
            1 => NOW.wall_ms + rng.below(400_000) - 200_000,
            _ => NOW.wall_ms,
        };
        let hello = Hello::new(&self.credentials, &greeting, time_ms);
        self.pool.push(*hello.packet());
        let issued = Now { boot_ms: NOW.boot_ms - rng.below(70_000), ..NOW };
        let mut random = [0; 10];
        fill(rng, &mut random);
        let ring = ring(2);
        let Ok(proven) = self.verifier.m1(hello.packet(), from(), issued, &ring, &mut Unlimited) else {
            bail!("a genuine M1 was refused")
        };
        let m2 = self.verifier.challenge(&proven, issued, &random, Flags::ACCEPTABLE, Terms::default());
        let join = hello.answer(&self.credentials, &m2, time_ms)?;
        self.pool.push(*join.packet());
        Ok(())
    }

    fn next(&mut self) -> Vec<u8> {
        let rng = &mut self.rng;
        let mut packet = self.pool[rng.below(self.pool.len() as u64) as usize].to_vec();
        match rng.below(10) {
            0 => {}
            1 => fill(rng, &mut packet),
            2 => packet.truncate(rng.below(259) as usize),
            3 => packet.push(0),
            // Splices of two.
            4 => {
                let other = self.pool[rng.below(self.pool.len() as u64) as usize];
                let (a, b) = (rng.below(259) as usize, rng.below(259) as usize);
                packet[a.min(b)..a.max(b)].copy_from_slice(&other[a.min(b)..a.max(b)]);
            }
            // The fields that decide.
            5 | 6 => {
                let at = [0, 1, 2, 6, 7, 8, 9, 10, 57, 118, 130, 131, 132, 133, 134, 137, 147, 186]
                    [rng.below(18) as usize];
                packet[at] = rng.below(4) as u8;
            }
            _ => {
                for _ in 0..=rng.below(3) {
                    let at = rng.below(packet.len() as u64) as usize;
                    packet[at] ^= 1 << rng.below(8);
                }
            }
        }
        packet
    }
}

pub fn parsers_agree(scene: &Scene) -> Result<()> {
    let inputs: usize = if is_long() { 4_000_000 } else { 1_000_000 };
    let mut source = Source::new();
    for _ in 0..400 {
        source.grow()?;
    }
    let mut records = Vec::with_capacity(inputs * RECORD_LEN);
    for n in 0..inputs {
        let packet = source.next();
        records.push((n % 8) as u8);
        records.extend((packet.len() as u16).to_be_bytes());
        records.extend(&packet);
        records.resize((n + 1) * RECORD_LEN, 0);
    }
    let file = scene.path("packets.bin");
    std::fs::File::create(&file)?.write_all(&records)?;
    let hex = |bytes: &[u8]| {
        bytes.iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    };
    let parameters = serde_json::json!({
        "key_id": hex(&KEY_ID), "device_secret": hex(&SECRET), "gate_epoch": EPOCH, "gate_key": hex(&GATE),
        "cookie_secret": hex(&COOKIES), "listener_name": NAME, "instance_key_id": hex(&INSTANCE),
        "from": from().to_string(), "wall_ms": NOW.wall_ms, "boot_ms": NOW.boot_ms,
    });
    let child = Command::new("python3")
        .args(["-c", DRIVER, concat!(env!("CARGO_MANIFEST_DIR"), "/../auth"), &parameters.to_string()])
        .arg(&file)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run python3")?;

    let rings: Vec<_> = (0..8).map(ring).collect();
    let (mut ours, mut kinds) = (Vec::with_capacity(inputs), std::collections::BTreeMap::new());
    let mut verifier = verifier();
    for record in records.chunks(RECORD_LEN) {
        let (context, len) =
            (usize::from(record[0]), usize::from(u16::from_be_bytes([record[1], record[2]])));
        let (packet, ring) = (&record[3..3 + len], &rings[context]);
        let hello = match verifier.m1(packet, from(), NOW, ring, &mut Unlimited) {
            Ok(_) => "hello".to_owned(),
            // The filter remembers; the reference does not. That it was reached says that the MAC was right.
            Err(Rejected { reason: Reject::Replayed, .. }) => "replayed".to_owned(),
            Err(rejected) => verdict_of(rejected),
        };
        let lives = context & 4 != 0;
        let join = match verifier.m3(packet, from(), NOW, ring, &mut Unlimited, |_, _| lives) {
            Ok(Joining::Proven(_)) => "join".to_owned(),
            Ok(Joining::Rechallenge(_, reason)) => format!("rechallenge:{reason}"),
            Err(rejected) => verdict_of(rejected),
        };
        for verdict in [&hello, &join] {
            *kinds.entry(verdict.clone()).or_insert(0u32) += 1;
        }
        ours.push((hello, join));
    }
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "the reference failed");
    let theirs = String::from_utf8(output.stdout)?;
    let theirs: Vec<_> = theirs.lines().collect();
    ensure!(theirs.len() == inputs, "{} verdicts for {inputs} packets", theirs.len());
    for (n, ((hello, join), line)) in ours.iter().zip(&theirs).enumerate() {
        let (their_hello, their_join) = line.split_once(' ').context("no two verdicts")?;
        let hello_agrees = match hello.as_str() {
            "replayed" => ["hello", "nak:key_expired", "nak:clock"].contains(&their_hello),
            hello => hello == their_hello,
        };
        if !hello_agrees || join != their_join {
            let record = &records[n * RECORD_LEN..(n + 1) * RECORD_LEN];
            bail!("packet {n}: ours {hello} {join}, theirs {line}\n{}", hex(record));
        }
    }
    let accepted = kinds.get("join").copied().unwrap_or(0) + kinds.get("hello").copied().unwrap_or(0);
    figure(
        "B-04",
        format_args!(
            "{inputs} packets, two verdicts each, all the same; {} different verdicts: {kinds:?}",
            kinds.len()
        ),
    );
    ensure!(accepted > 100 && kinds.len() > 20, "the packets are too much alike: {kinds:?}");
    Ok(())
}
