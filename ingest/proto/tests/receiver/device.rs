//! Devices for the tests: what they send, and policies that know them.
#![allow(dead_code, reason = "shared by several test binaries, none of which uses everything")]

use super::rig::*;
use bondgate_auth::sa1::keys::{DeviceKey, DeviceKeys, GateKey, GateKeys, Standing};
use bondgate_auth::sa1::sender::{Credentials, Greeting, Hello, Join, Outcome, Up};
use bondgate_auth::sa1::wire::RefusalCode;
use bondgate_auth::sa1::{Flags, ListenerId, StreamBind};
use bondgate_auth::table::{DeviceRules, KeyTable};
use bondgate_proto::LinkAddr;
use bondgate_proto::receiver::{Action, Admission, StockAdmission, Verdict};
use std::sync::Arc;
use std::time::Instant;

pub const LISTENER: ListenerId = ListenerId([0x11; 16]);

pub fn key_id(n: u8) -> [u8; 8] {
    [n; 8]
}

fn keys(n: u8) -> DeviceKeys {
    DeviceKeys::derive(&[n; 32])
}

fn gate() -> GateKey {
    GateKey::new(7, &[0x77; 16])
}

/// Device `n` may have 2 groups of 3 links, streams of any name.
pub fn rules(n: u8) -> DeviceRules {
    DeviceRules {
        name: format!("device{n}").into(),
        tenant: "".into(),
        streams: vec![],
        binds: vec![],
        groups_max: 2,
        links_max: 3,
    }
}

/// Knows these devices and admits nobody else.
pub fn strict(devices: impl IntoIterator<Item = DeviceRules>) -> Admission {
    let keys = devices.into_iter().map(|rules| {
        let n: u8 = rules.name.trim_start_matches("device").parse().unwrap();
        let key = DeviceKey { keys: keys(n), standing: Standing::Active, clockless_allowed: false };
        (key_id(n), key, Arc::new(rules))
    });
    Admission {
        stock: StockAdmission::Never,
        listener: LISTENER,
        gate: Some(GateKeys::new(gate())),
        keys: Arc::new(KeyTable::new(keys)),
        ..Admission::open()
    }
}

/// Knows these devices and admits stock senders too.
pub fn mixed(devices: impl IntoIterator<Item = DeviceRules>) -> Admission {
    Admission { stock: StockAdmission::Anywhere, ..strict(devices) }
}

pub struct Device {
    pub credentials: Credentials,
    pub group: [u8; 16],
    pub offered: Flags,
    start: Instant,
    nonces: u64,
    /// How far its clock is off, in milliseconds.
    pub skew_ms: i64,
}

impl Device {
    /// Device `n` with its clock right, for a rig that was just made.
    pub fn new(n: u8, rig: &Rig) -> Self {
        let credentials = Credentials {
            key_id: key_id(n),
            keys: keys(n),
            gate: gate(),
            listener: LISTENER,
            bind: StreamBind::ANY,
            required: Flags::NONE,
        };
        Self {
            credentials,
            group: [n; 16],
            offered: Flags::KEEPALIVE_MAC.with(Flags::ACK_MAC),
            start: rig.now,
            nonces: u64::from(n) << 32,
            skew_ms: 0,
        }
    }

    pub fn time_ms(&self, now: Instant) -> u64 {
        (1_800_000_000_000 + (now - self.start).as_millis() as u64).wrapping_add_signed(self.skew_ms)
    }

    pub fn hello(&mut self, now: Instant, link_id: u32) -> Hello {
        self.nonces += 1;
        let mut link_nonce = [0; 16];
        link_nonce[..8].copy_from_slice(&self.nonces.to_be_bytes());
        let greeting =
            Greeting { group: self.group, link_nonce, link_id, links: 3, offered: self.offered, caps: 1 };
        Hello::new(&self.credentials, &greeting, self.time_ms(now))
    }

    /// M1 and M2; the M3 to send.
    pub fn ask(&mut self, rig: &mut Rig, from: LinkAddr, link_id: u32) -> Join {
        let hello = self.hello(rig.now, link_id);
        let (verdict, did) = rig.up(from, hello.packet());
        assert_eq!(verdict, Verdict::Consumed);
        self.answer(rig.now, &hello, from, &did)
    }

    pub fn answer(&self, now: Instant, hello: &Hello, from: LinkAddr, did: &Did) -> Join {
        assert_eq!(did.len(), 1, "a challenge changes nothing: {did:?}");
        assert_eq!(did[0].0, Action::Reply { to: from });
        hello.answer(&self.credentials, &did[0].1, self.time_ms(now)).unwrap()
    }

    /// The whole registration of a link.
    pub fn join(&mut self, rig: &mut Rig, from: LinkAddr, link_id: u32) -> Up {
        let join = self.ask(rig, from, link_id);
        let (verdict, did) = rig.up(from, join.packet());
        assert_eq!(verdict, Verdict::Consumed);
        self.confirmed(&join, &did)
    }

    pub fn confirmed(&self, join: &Join, did: &Did) -> Up {
        match join.confirm(&self.credentials, &replies(did)[0].1) {
            Ok(Outcome::Up(up)) => up,
            other => panic!("{other:?}"),
        }
    }

    /// The code of the refusal that a join was answered with.
    pub fn refused(&self, join: &Join, did: &Did) -> RefusalCode {
        match join.confirm(&self.credentials, &replies(did)[0].1) {
            Ok(Outcome::Refused(refusal)) => refusal.code,
            other => panic!("{other:?}"),
        }
    }
}
