//! MACs on SRT packets.

use bondgate_auth::sa1::Flags;
use bondgate_auth::sa1::keys::LinkKeys;
use bondgate_auth::sa1::trailer::TRAILER_LEN;
use bondgate_proto::receiver::ReceiverConfig;

use super::receiver::device::{Device, mixed, rules};
use super::receiver::rig::{Rig, link};
use crate::measured;

const LEN: usize = 1332 + TRAILER_LEN;
const OPERATIONS: usize = 2_000;

/// Of a link that has agreed on them.
fn keys() -> LinkKeys {
    let mut rig = Rig::admitting(ReceiverConfig::default(), mixed([rules(1)]));
    let mut device = Device::new(1, &rig);
    device.offered = device.offered.with(Flags::DATA_MAC);
    device.join(&mut rig, link(0), 0).keys
}

pub fn seal() -> u64 {
    let (mut sealer, mut packets) = (keys().sender_data_ends().0, vec![[0x5A; LEN]; OPERATIONS]);
    assert!(measured(|| packets.iter_mut().all(|packet| sealer.seal(packet))));
    OPERATIONS as u64
}

pub fn open() -> u64 {
    let keys = keys();
    let (mut sealer, mut opener) = (keys.sender_data_ends().0, keys.receiver_data_ends().1);
    let mut packets = vec![[0x5A; LEN]; OPERATIONS];
    assert!(packets.iter_mut().all(|packet| sealer.seal(packet)));
    assert!(measured(|| packets.iter().all(|packet| opener.open(packet).is_ok())));
    OPERATIONS as u64
}
