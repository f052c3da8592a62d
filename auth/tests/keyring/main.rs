//! The keyring and the stream policy from outside: the life of keys and tokens, the sealed form, and every decision
//! against a naive oracle.

#![allow(clippy::unwrap_used, reason = "a test that unwraps nothing fails, as it should")]

mod lifecycle;
mod policy;
mod sealed;
mod vectors;

use bondgate_auth::keyring::{Keyring, NewDevice, NewToken, Provision};
use bondgate_auth::stream::Wish;

const NOW: u64 = 1_800_000_000_000;
const DAY: u64 = 86_400_000;
const SERVER: &str = "gate.example:5000";

fn keyring() -> Keyring {
    Keyring::new([0xC0; 8], [0x40; 16], NOW)
}

/// 40 bytes that are different for every `n`.
fn random<const N: usize>(n: u8) -> [u8; N] {
    std::array::from_fn(|at| n.wrapping_mul(37).wrapping_add(at as u8) ^ n)
}

fn device(name: &str, tenant: &str, streams: &[&str]) -> NewDevice {
    NewDevice {
        tenant: tenant.into(),
        streams: streams.iter().map(|stream| (*stream).to_owned()).collect(),
        ..NewDevice::named(name)
    }
}

fn enroll(keyring: &mut Keyring, name: &str, n: u8) -> Provision {
    keyring.enroll(NewDevice::named(name), SERVER, &random(n), NOW).unwrap()
}

fn token(stream: &str, scope: Wish) -> NewToken {
    NewToken { stream: stream.into(), scope, expires_ms: None, once: false, from: Vec::new() }
}
