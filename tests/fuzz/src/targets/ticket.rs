//! Tickets: nothing verifies but what was issued, for the epochs around the current one.

use bondgate_auth::ticket::{HALF_LEN, ID_LEN, TicketKey};

const EPOCH: u32 = 20_000;

/// Input: one byte of epoch offset, one of owner shard, then the sender half, then what to do to the receiver half: pairs of
/// position and value to combine with.
pub fn run(data: &[u8]) {
    let key = TicketKey::new([9; 32]);
    let mut half = [0; HALF_LEN];
    let (head, rest) = data.split_at(data.len().min(2));
    for (to, from) in half.iter_mut().zip(rest) {
        *to = *from;
    }
    let offset = i32::from(head.first().copied().unwrap_or(0) % 7) - 3;
    let epoch = EPOCH.wrapping_add_signed(offset);
    let shard = head.get(1).copied().unwrap_or(0);
    let issued = key.issue(&half, epoch, shard);
    assert_eq!(issued, key.issue(&half, epoch, shard));
    let mut id = [0; ID_LEN];
    id[..HALF_LEN].copy_from_slice(&half);
    id[HALF_LEN..].copy_from_slice(&issued);

    let genuine = key.verify(&id, EPOCH).ok().map(|claims| *claims.get());
    assert_eq!(genuine.is_some(), (-1..=1).contains(&offset), "epoch offset {offset}");
    if let Some(claims) = genuine {
        assert_eq!((claims.epoch, claims.owner_shard), (epoch, shard));
    }
    assert!(TicketKey::new([8; 32]).verify(&id, EPOCH).is_err(), "another key accepts it");

    let mut forged = id;
    for pair in rest.get(HALF_LEN..).unwrap_or_default().chunks_exact(2) {
        forged[usize::from(pair[0])] ^= pair[1];
    }
    if forged != id {
        assert!(key.verify(&forged, EPOCH).is_err(), "a forged ticket verifies");
    }
}
