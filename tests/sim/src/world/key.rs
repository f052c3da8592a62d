//! The one device key of a world in which only keys register.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bondgate_auth::sa1::keys::{DeviceKey, DeviceKeys, GateKey, GateKeys, Standing};
use bondgate_auth::sa1::sender::Credentials;
use bondgate_auth::sa1::{Flags, KeyId, ListenerId, StreamBind};
use bondgate_auth::table::{DeviceRules, KeyTable};
use bondgate_proto::receiver::{Admission, Clock, StockAdmission};
use bondgate_proto::sender::{DEFAULT_OFFER, Sa1Config, Sa1Mode, WallClock};

const KEY_ID: KeyId = *b"device 1";
const SECRET: [u8; 32] = [0x51; 32];
const LISTENER: ListenerId = ListenerId([0x52; 16]);
/// Milliseconds since 1970 when a world begins, and since its receiver's machine was started.
const WALL_MS: u64 = 1_790_000_000_000;
const BOOT_MS: u64 = 86_400_000;

fn gate() -> GateKey {
    GateKey::new(1, &[0x53; 16])
}

/// What the sender registers with.
pub(super) fn sender(now: Instant, started: Instant, entropy: [u8; 32], has_data_macs: bool) -> Sa1Config {
    let offered = if has_data_macs { DEFAULT_OFFER.with(Flags::DATA_MAC) } else { DEFAULT_OFFER };
    Sa1Config {
        credentials: Credentials {
            key_id: KEY_ID,
            keys: DeviceKeys::derive(&SECRET),
            gate: gate(),
            listener: LISTENER,
            bind: StreamBind::ANY,
            required: offered,
        },
        offered,
        mode: Sa1Mode::Require,
        entropy,
        clock: WallClock { at: now, wall_ms: WALL_MS + now.duration_since(started).as_millis() as u64 },
    }
}

/// A receiver that admits this key and nobody else.
pub(super) fn admission() -> Admission {
    let rules = DeviceRules {
        name: "device 1".into(),
        tenant: "".into(),
        streams: Vec::new(),
        binds: Vec::new(),
        groups_max: 2,
        links_max: 16,
    };
    let key =
        DeviceKey { keys: DeviceKeys::derive(&SECRET), standing: Standing::Active, clockless_allowed: false };
    Admission {
        stock: StockAdmission::Never,
        listener: LISTENER,
        gate: Some(GateKeys::new(gate())),
        keys: Arc::new(KeyTable::new([(KEY_ID, key, Arc::new(rules))])),
        ..Admission::open()
    }
}

/// The clocks of the receiver's machine; they run on while its process restarts.
pub(super) fn clock(now: Instant, since_start: Duration) -> Clock {
    let since_ms = since_start.as_millis() as u64;
    Clock { at: now, boot_ms: BOOT_MS + since_ms, wall_ms: WALL_MS + since_ms }
}
