//! The policy as an nftables ruleset: the kernel takes it, and drops whom `bondgate policy test` says.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bondgate_tests::attack::wire::Spoofer;
use bondgate_tests::attack::{Arena, SERVICE, SRT_PORT, SRTLA_PORT};
use bondgate_tests::bondgate;
use bondgate_tests::netns::Namespace;
use bondgate_tests::scene::Scene;
use serde_json::Value;

/// Sources, of which each net decides about some.
const SOURCES: [[u8; 4]; 7] = [
    [192, 0, 2, 7],
    [192, 0, 2, 8],
    [198, 51, 100, 9],
    [198, 51, 100, 200],
    [198, 51, 101, 1],
    [203, 0, 113, 1],
    [203, 0, 113, 9],
];

/// What is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Stock,
    Sa1,
    Data,
    WrongLength,
    Srt,
}

const KINDS: [Kind; 5] = [Kind::Stock, Kind::Sa1, Kind::Data, Kind::WrongLength, Kind::Srt];

impl Kind {
    fn packet(self, number: u8) -> Vec<u8> {
        let mut bytes = vec![0; if self == Self::WrongLength { 100 } else { 258 }];
        match self {
            Self::Stock | Self::WrongLength => bytes[..2].copy_from_slice(&[0x92, 0x00]),
            Self::Sa1 => bytes[..6].copy_from_slice(b"\x92\x01SLA1"),
            Self::Data | Self::Srt => bytes[0] = 0x11,
        }
        let last = bytes.len() - 1;
        bytes[last] = number;
        bytes
    }
}

fn flags(auth: &str) -> Vec<String> {
    [
        "srtla.listen=0.0.0.0:5000",
        "srt.listen=0.0.0.0:9710",
        "admin.listen=off",
        "srtla.allow=192.0.2.0/24,198.51.100.0/24,203.0.113.0/28",
        "srtla.stock_allow=192.0.2.0/24,198.51.100.0/25",
        auth,
    ]
    .iter()
    .flat_map(|flag| ["--set".to_owned(), (*flag).to_owned()])
    .collect()
}

fn run(scene: &Scene, args: &[&str], auth: &str) -> Result<(Option<i32>, String)> {
    let mut command = bondgate::command(args)?;
    command.args(flags(auth)).arg("--state-dir").arg(scene.dir().join("state"));
    let output = command.stdin(Stdio::null()).output()?;
    Ok((output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned()))
}

/// Whether `policy test` lets such a packet through the nets that nftables has too.
fn wanted(scene: &Scene, source: Ipv4Addr, kind: Kind, auth: &str) -> Result<bool> {
    let addr = source.to_string();
    let mut args = vec!["policy", "test", &addr, "--json"];
    match kind {
        Kind::Sa1 | Kind::Data | Kind::WrongLength => args.extend(["--key", "0011223344556677"]),
        Kind::Srt => args.extend(["--port", "srt"]),
        Kind::Stock => {}
    }
    let (code, printed) = run(scene, &args, auth)?;
    let said: Value = serde_json::from_str(&printed).with_context(|| format!("{code:?}: {printed}"))?;
    ensure!(code == Some(if said["allowed"] == true { 0 } else { 3 }), "{code:?} {printed}");
    let decided = said["decided_by"].as_str();
    // Keys are not nftables' business, and a registration of the wrong length is none.
    Ok(kind != Kind::WrongLength && decided.is_none_or(|net| net == "key"))
}

fn load(on: &Namespace, ruleset: &str) -> Result<()> {
    let mut nft = Command::new("nft");
    nft.args(["-f", "-"]);
    let mut child = on.wrap(&nft).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    child.stdin.take().context("no stdin")?.write_all(ruleset.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "nft: {}\n{ruleset}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// The last bytes of what has come.
fn arrived(socket: &UdpSocket) -> Vec<u8> {
    let mut buf = [0; 2048];
    std::iter::from_fn(|| socket.recv(&mut buf).ok().map(|len| buf[len - 1])).collect()
}

pub fn drops_whom_policy_test_says(scene: &Scene) -> Result<()> {
    let arena = Arena::new()?;
    for ban in [
        &["192.0.2.7"][..],
        &["203.0.113.0/30", "--for", "1h"],
        &["198.51.100.9", "--for", "1h"],
        &["2001:db8::/32"],
    ] {
        let (code, _) = run(scene, &[&["ban", "add"], ban].concat(), "srtla.auth=required")?;
        ensure!(code == Some(0), "ban add {ban:?}: {code:?}");
    }
    let listen = |port: u16| {
        arena.receiver.inside(move || {
            let socket = UdpSocket::bind((SERVICE, port))?;
            socket.set_read_timeout(Some(Duration::from_millis(400)))?;
            Ok(socket)
        })
    };
    let (srtla, srt) = (listen(SRTLA_PORT)?, listen(SRT_PORT)?);
    let mut to_srtla = Spoofer::new(&arena.attacker, SocketAddrV4::new(SERVICE, SRTLA_PORT))?;
    let mut to_srt = Spoofer::new(&arena.attacker, SocketAddrV4::new(SERVICE, SRT_PORT))?;
    let (mut passed, mut dropped) = (0, 0);
    for auth in ["srtla.auth=mixed", "srtla.auth=required"] {
        let (code, ruleset) = run(scene, &["policy", "export", "nft"], auth)?;
        ensure!(code == Some(0), "{code:?}");
        // Twice: it takes its own place.
        load(&arena.receiver, &ruleset)?;
        load(&arena.receiver, &ruleset)?;
        let mut expected = BTreeSet::new();
        for (index, source) in SOURCES.into_iter().enumerate() {
            let source = Ipv4Addr::from(source);
            for (at, kind) in KINDS.into_iter().enumerate() {
                let number = (index * KINDS.len() + at) as u8;
                let spoofer = if kind == Kind::Srt { &mut to_srt } else { &mut to_srtla };
                spoofer.send(SocketAddrV4::new(source, 7000), &kind.packet(number))?;
                if wanted(scene, source, kind, auth)? {
                    expected.insert(number);
                }
            }
        }
        let came: BTreeSet<u8> = arrived(&srtla).into_iter().chain(arrived(&srt)).collect();
        let shown = |set: BTreeSet<u8>| {
            set.into_iter()
                .map(|number| {
                    let (source, kind) =
                        (usize::from(number) / KINDS.len(), usize::from(number) % KINDS.len());
                    format!("{} {:?}", Ipv4Addr::from(SOURCES[source]), KINDS[kind])
                })
                .collect::<Vec<_>>()
        };
        ensure!(
            came == expected,
            "{auth}: came, though policy test says no: {:?}; did not come, though it says yes: {:?}\n{ruleset}",
            shown(&came - &expected),
            shown(&expected - &came)
        );
        passed += expected.len();
        dropped += SOURCES.len() * KINDS.len() - expected.len();
    }
    // One source has its rate, and others do not pay for it.
    load(&arena.receiver, &run(scene, &["policy", "export", "nft"], "srtla.auth=mixed")?.1)?;
    for _ in 0..600 {
        to_srtla.send(SocketAddrV4::new([192, 0, 2, 9].into(), 7000), &Kind::Stock.packet(1))?;
    }
    to_srtla.send(SocketAddrV4::new([192, 0, 2, 10].into(), 7000), &Kind::Stock.packet(2))?;
    let came = arrived(&srtla);
    let of = |number: u8| came.iter().fold(0_usize, |count, last| count + usize::from(*last == number));
    let (first, second) = (of(1), of(2));
    eprintln!(
        "FIGURE nft: {passed} passed and {dropped} dropped as policy test says; of 600 REG1 of one source {first} came"
    );
    ensure!(passed > 10 && dropped > 10, "the table decides nothing: {passed}, {dropped}");
    ensure!((128..250).contains(&first) && second == 1, "{first} of 600, {second} of the other source");
    Ok(())
}
