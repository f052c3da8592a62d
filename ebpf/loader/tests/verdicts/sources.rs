//! What holds without a kernel: the committed objects are those of the committed sources, and the gate knows a real device.

#[path = "../../../../xtask/src/sources.rs"]
mod tree;

use std::path::Path;

use bondgate_auth::sa1::keys::{DeviceKeys, GateKey};
use bondgate_auth::sa1::sender::{Credentials, Greeting, Hello};
use bondgate_auth::sa1::{Flags, ListenerId, StreamBind};
use bondgate_ebpf::bench;
use bondgate_ebpf::object::{OBJECT, PROVENANCE};
use bondgate_ebpf_common::abi;
use bondgate_ebpf_common::reason::Reason;
use bondgate_ebpf_common::testing::{FrameSpec, SRTLA_PORT, World};
use libtest_mimic::Failed;

use crate::ensure;

/// Whoever changes the sources builds the object again.
pub fn object_fits() -> Result<(), Failed> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let sources = tree::sources_sha256(&root)?;
    for (file, object, provenance) in
        [("gate", OBJECT, PROVENANCE), ("bench", bench::OBJECT, bench::PROVENANCE)]
    {
        for (name, found) in [("sources", &sources), ("object", &tree::sha256(object))] {
            let recorded =
                tree::recorded(provenance, name).ok_or(format!("{file}.bpf.txt has no line {name}"))?;
            ensure(recorded == found, || {
                format!(
                    "{name} is {found}, and {file}.bpf.txt says {recorded}: run `cargo xtask ebpf` and commit what it writes"
                )
            })?;
        }
    }
    Ok(())
}

/// The gate's reading of a registration is that of the crate that makes them.
pub fn a_device_gets_through() -> Result<(), Failed> {
    let secret = [0x77; 16];
    let credentials = Credentials {
        key_id: [1; 8],
        keys: DeviceKeys::derive(&[2; 32]),
        gate: GateKey::new(9, &secret),
        listener: ListenerId([3; 16]),
        bind: StreamBind([4; 24]),
        required: Flags::default(),
    };
    let greeting = Greeting {
        group: [5; 16],
        link_nonce: [6; 16],
        link_id: 1,
        links: 2,
        offered: Flags::default(),
        caps: 0,
    };
    let hello = Hello::new(&credentials, &greeting, 0);
    let frame = FrameSpec::new("198.51.100.20", SRTLA_PORT, hello.packet().to_vec()).build();
    for (key, reason) in [
        (abi::GateKey::new(9, &secret), Reason::Sa1),
        (abi::GateKey::new(8, &secret), Reason::Sa1GateEpoch),
        (abi::GateKey::new(9, &[0x78; 16]), Reason::Sa1GateTag),
    ] {
        let world = World::standard_with(|world| world.config.gate_keys[0] = key);
        let found = world.decide(&frame).reason;
        ensure(found == reason, || format!("{found:?}, not {reason:?}"))?;
    }
    Ok(())
}
