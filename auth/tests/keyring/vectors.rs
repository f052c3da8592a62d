//! The test vectors in `auth/vectors/text.json`: text forms and URIs, made by this crate and checked by
//! `auth/verify.py`, which shares no code with it. `BLESS=1` writes them anew.

use crate::*;
use bondgate_auth::keyring::hex;
use bondgate_auth::keyring::text::{self, Kind, TextError};
use bondgate_auth::sa1::ListenerId;
use bondgate_auth::stream::TokenHash;
use serde_json::{Value, json};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/vectors/text.json");

fn counting<const N: usize>(from: u8) -> [u8; N] {
    std::array::from_fn(|at| from.wrapping_add(at as u8))
}

fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::DeviceKey => "device_key",
        Kind::GateKey => "gate_key",
        Kind::StreamToken => "stream_token",
        Kind::Listener => "listener",
    }
}

fn verdict(kind: Kind, text: &str) -> &'static str {
    let read = match kind {
        Kind::DeviceKey => text::decode::<40>(kind, text).err(),
        Kind::GateKey | Kind::StreamToken => text::decode::<20>(kind, text).err(),
        Kind::Listener => text::decode::<16>(kind, text).err(),
    };
    match read {
        None => "ok",
        Some(TextError::WrongKind { .. }) => "wrong_kind",
        Some(TextError::NoPrefix { .. }) => "no_prefix",
        Some(TextError::TooShort { .. }) => "too_short",
        Some(TextError::TooLong { .. }) => "too_long",
        Some(TextError::Character { .. }) => "character",
        Some(TextError::Mistyped) => "mistyped",
    }
}

fn provision(v6: bool) -> Provision {
    Provision {
        server: if v6 { "[2001:db8::1]:5000" } else { "ingest.example:5000" }.into(),
        device: "backpack-3".into(),
        tenant: if v6 { "" } else { "acme" }.into(),
        stream: if v6 { "" } else { "acme/cam1" }.into(),
        key_id: counting(0x80),
        secret: counting(0),
        gate: (!v6).then_some((7, counting(0x40))),
        listener: ListenerId::of("ingest.example:5000", &counting(0xC0)),
    }
}

fn document() -> Value {
    let payloads: [(Kind, Vec<u8>); 6] = [
        (Kind::DeviceKey, counting::<40>(0x80).to_vec()),
        (Kind::DeviceKey, vec![0; 40]),
        (Kind::DeviceKey, vec![255; 40]),
        (Kind::GateKey, [&[0, 0, 0, 7][..], &counting::<16>(0x40)].concat()),
        (Kind::StreamToken, counting::<20>(0x20).to_vec()),
        (Kind::Listener, provision(false).listener.0.to_vec()),
    ];
    let texts: Vec<Value> = payloads
        .iter()
        .map(|(kind, payload)| {
            json!({ "kind": name(*kind), "payload": hex(payload), "text": text::encode(*kind, payload) })
        })
        .collect();
    let key = text::encode(Kind::DeviceKey, &payloads[0].1);
    let gate = text::encode(Kind::GateKey, &payloads[3].1);
    let token = text::encode(Kind::StreamToken, &payloads[4].1);
    let mut last = key.clone();
    // The unused low bits of the last character are not 0.
    let end = last.pop().unwrap();
    last.push(if end == 'z' { 'y' } else { char::from_u32(u32::from(end) + 1).unwrap() });
    let reads: Vec<Value> = [
        (Kind::DeviceKey, key.clone()),
        (Kind::DeviceKey, key.to_uppercase()),
        (Kind::DeviceKey, format!(" {}\n", key.replace('0', "o").replace('1', "L"))),
        (Kind::DeviceKey, gate.clone()),
        (Kind::GateKey, gate.replace("bgg_", "bgx_")),
        (Kind::StreamToken, gate.replace("bgg_", "bgt_")),
        (Kind::DeviceKey, key[..74].to_owned()),
        (Kind::DeviceKey, format!("{key}0")),
        (Kind::DeviceKey, key.replacen(&key[20..21], "u", 1)),
        (Kind::DeviceKey, key.replacen(&key[20..22], &format!("{}{}", &key[21..22], &key[20..21]), 1)),
        (Kind::DeviceKey, last),
        (Kind::StreamToken, token.clone()),
        (Kind::StreamToken, "bgt_".to_owned()),
        (Kind::StreamToken, String::new()),
    ]
    .into_iter()
    .map(|(kind, text)| json!({ "kind": name(kind), "verdict": verdict(kind, &text), "text": text }))
    .collect();
    let uris: Vec<Value> = [false, true]
        .into_iter()
        .map(|v6| {
            let p = provision(v6);
            json!({
                "server": p.server, "device": p.device, "tenant": p.tenant, "stream": p.stream,
                "key_id": hex(&p.key_id), "secret": hex(&p.secret), "listener_id": hex(&p.listener.0),
                "gate_epoch": p.gate.map(|gate| gate.0), "gate_key": p.gate.map(|gate| hex(&gate.1)),
                "stream_bind": hex(&p.bind().0), "uri": p.to_uri(),
            })
        })
        .collect();
    let hash = TokenHash::of_text(&token).unwrap();
    json!({
        "texts": texts,
        "reads": reads,
        "uris": uris,
        "tokens": [{ "text": token, "hash": hex(hash.bytes()), "id": hash.id().to_string() }],
    })
}

#[test]
fn the_file_is_what_the_crate_makes() {
    let made = format!("{:#}\n", document());
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(FILE, &made).unwrap();
    }
    let stored = std::fs::read_to_string(FILE).unwrap();
    assert!(made == stored, "{FILE} differs from what is made now; if that is meant: BLESS=1 cargo test");
}

/// The verdicts in the file are the right ones, not just today's.
#[test]
fn verdicts_are_as_specified() {
    let document = document();
    let verdicts: Vec<&str> =
        document["reads"].as_array().unwrap().iter().map(|read| read["verdict"].as_str().unwrap()).collect();
    let expected = [
        "ok",
        "ok",
        "ok",
        "wrong_kind",
        "no_prefix",
        "mistyped",
        "too_short",
        "too_long",
        "character",
        "mistyped",
        "mistyped",
        "ok",
        "too_short",
        "no_prefix",
    ];
    assert_eq!(verdicts, expected);
}
