//! Registration tickets: what the receiver writes into its half of a group ID.
//!
//! A stock sender echoes bytes 128..=255 of the group ID it was given, for the life of its process, on every link. The
//! receiver therefore keeps its registration state *there*: the half names the epoch and the owner shard and ends in a MAC
//! over both and the sender half. Promises:
//!
//! * Deterministic: the same key, sender half, epoch and owner shard give the same 128 bytes, so repeated and parallel
//!   REG1 have one answer and a restarted receiver recognises its own tickets. No address is bound (every link of a group
//!   shows the same bytes) and no nonce is drawn (a per-packet nonce splits a group in two when two links send REG1).
//! * Nothing is remembered: issuing costs two MACs and no memory.
//! * Only [`TicketKey::verify`] makes a [`Verified`] value.
//!
//! Layout of the receiver half, offsets within it:
//!
//! | bytes | content |
//! |---|---|
//! | 0 | version 1, top bit set: 0x81 |
//! | 1 | suite 1: HMAC-SHA-256 |
//! | 2 | owner shard |
//! | 3 | 0 |
//! | 4..=7 | epoch, big-endian |
//! | 8..=95 | 0 |
//! | 96..=127 | HMAC-SHA-256 under the epoch's key over sender half and bytes 0..=95 |

pub use crate::verified::Verified;
use ring::hmac;
use std::fmt;

/// Length of a group ID in bytes.
pub const ID_LEN: usize = 256;
/// Length of each half of a group ID in bytes.
pub const HALF_LEN: usize = 128;

const VERSION: u8 = 0x81;
const SUITE_HMAC_SHA256: u8 = 1;
const MAC_AT: usize = 96;
const EPOCH_LABEL: &[u8] = b"bondgate ticket epoch v1";

/// The secret that makes tickets. The epoch keys are derived from it.
pub struct TicketKey {
    root: hmac::Key,
}

impl TicketKey {
    /// Takes 32 secret bytes. Keep them over restarts, or running senders must register anew.
    pub fn new(secret: [u8; 32]) -> Self {
        Self { root: hmac::Key::new(hmac::HMAC_SHA256, &secret) }
    }

    /// The receiver half for a sender half.
    pub fn issue(&self, sender_half: &[u8; HALF_LEN], epoch: u32, owner_shard: u8) -> [u8; HALF_LEN] {
        let mut half = [0; HALF_LEN];
        half[0] = VERSION;
        half[1] = SUITE_HMAC_SHA256;
        half[2] = owner_shard;
        half[4..8].copy_from_slice(&epoch.to_be_bytes());
        let mut mac = hmac::Context::with_key(&self.epoch_key(epoch));
        mac.update(sender_half);
        mac.update(&half[..MAC_AT]);
        half[MAC_AT..].copy_from_slice(mac.sign().as_ref());
        half
    }

    /// Checks that the receiver half of `id` was issued by this key for the sender half of `id`, in an epoch that is
    /// `current_epoch`, the one before, or the one after (a clock that was stepped back must not refuse everybody).
    ///
    /// # Errors
    /// [`TicketError::Format`] when the half is not one of ours (the usual case: a sender's probe), found without any
    /// MAC; [`TicketError::Epoch`] for an epoch out of reach, also without MAC; [`TicketError::Mac`] for a forgery or
    /// another receiver's ticket.
    pub fn verify(&self, id: &[u8; ID_LEN], current_epoch: u32) -> Result<Verified<Claims>, TicketError> {
        let (signed, mac) = id.split_at(HALF_LEN + MAC_AT);
        let half = &signed[HALF_LEN..];
        if half[0] != VERSION
            || half[1] != SUITE_HMAC_SHA256
            || half[3] != 0
            || half[8..].iter().any(|&b| b != 0)
        {
            return Err(TicketError::Format);
        }
        let owner_shard = half[2];
        let epoch = u32::from_be_bytes([half[4], half[5], half[6], half[7]]);
        if epoch.wrapping_sub(current_epoch).wrapping_add(1) > 2 {
            return Err(TicketError::Epoch);
        }
        hmac::verify(&self.epoch_key(epoch), signed, mac).map_err(|_| TicketError::Mac)?;
        Ok(Verified::vouch(Claims { epoch, owner_shard }))
    }

    fn epoch_key(&self, epoch: u32) -> hmac::Key {
        let mut derive = hmac::Context::with_key(&self.root);
        derive.update(EPOCH_LABEL);
        derive.update(&epoch.to_be_bytes());
        hmac::Key::new(hmac::HMAC_SHA256, derive.sign().as_ref())
    }
}

impl fmt::Debug for TicketKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TicketKey(redacted)")
    }
}

/// What a ticket says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Claims {
    /// The epoch the ticket was issued in.
    pub epoch: u32,
    /// The shard that holds the group.
    pub owner_shard: u8,
}

/// Why an ID is not a ticket of ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TicketError {
    /// The receiver half does not have a ticket's layout.
    Format,
    /// Right layout, but neither of this epoch nor of a neighbour.
    Epoch,
    /// The MAC is wrong.
    Mac,
}

impl fmt::Display for TicketError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Format => "not a ticket",
            Self::Epoch => "ticket of another epoch",
            Self::Mac => "ticket not issued by this receiver",
        })
    }
}

impl std::error::Error for TicketError {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(sender_half: &[u8; HALF_LEN], receiver_half: &[u8; HALF_LEN]) -> [u8; ID_LEN] {
        let mut id = [0; ID_LEN];
        id[..HALF_LEN].copy_from_slice(sender_half);
        id[HALF_LEN..].copy_from_slice(receiver_half);
        id
    }

    #[test]
    fn same_inputs_same_bytes() {
        let half = [7; HALF_LEN];
        let a = TicketKey::new([1; 32]);
        let restarted = TicketKey::new([1; 32]);
        assert_eq!(a.issue(&half, 5, 2), a.issue(&half, 5, 2));
        assert_eq!(a.issue(&half, 5, 2), restarted.issue(&half, 5, 2));
        let other_key = TicketKey::new([2; 32]);
        assert_ne!(a.issue(&half, 5, 2), other_key.issue(&half, 5, 2));
        assert_ne!(a.issue(&half, 5, 2), a.issue(&half, 6, 2));
        assert_ne!(a.issue(&half, 5, 2), a.issue(&half, 5, 3));
        assert_ne!(a.issue(&half, 5, 2), a.issue(&[8; HALF_LEN], 5, 2));
    }

    /// The layout and the MAC of one ticket, computed independently with Python's `hmac` module:
    /// `ek = HMAC(32 x 0x0b, "bondgate ticket epoch v1" + be32(0x01020304))`,
    /// `HMAC(ek, 128 x 0xaa + 81 01 03 00 01020304 + 88 x 00)`.
    #[test]
    fn known_answer() {
        let half = TicketKey::new([0x0b; 32]).issue(&[0xaa; HALF_LEN], 0x0102_0304, 3);
        assert_eq!(half[..8], [0x81, 0x01, 0x03, 0x00, 0x01, 0x02, 0x03, 0x04]);
        assert_eq!(half[8..96], [0; 88]);
        assert_eq!(
            half[96..],
            [
                0x0a, 0x49, 0x01, 0x94, 0x98, 0x49, 0xfd, 0x67, 0x32, 0x34, 0x85, 0x61, 0xed, 0xde, 0x71,
                0x00, 0xf0, 0x6a, 0xf8, 0xa9, 0xfc, 0x6a, 0xe8, 0x83, 0xcf, 0x21, 0x3f, 0xd8, 0xaf, 0x2d,
                0x3f, 0x71
            ]
        );
    }

    #[test]
    fn accepted_epochs() {
        let key = TicketKey::new([9; 32]);
        let sender = [3; HALF_LEN];
        for (issued, current, good) in [
            (5, 5, true),
            (4, 5, true),
            (6, 5, true),
            (3, 5, false),
            (7, 5, false),
            (u32::MAX, 0, true),
            (0, u32::MAX, true),
            (u32::MAX - 1, 0, false),
        ] {
            let id = id(&sender, &key.issue(&sender, issued, 1));
            let got = key.verify(&id, current);
            if good {
                assert_eq!(*got.unwrap(), Claims { epoch: issued, owner_shard: 1 });
            } else {
                assert_eq!(got, Err(TicketError::Epoch));
            }
        }
    }

    #[test]
    fn probes_and_foreign_tickets() {
        let key = TicketKey::new([9; 32]);
        let sender = [3; HALF_LEN];
        for filler in [0x00, 0xFF, 0x81, b'A'] {
            assert_eq!(key.verify(&id(&sender, &[filler; HALF_LEN]), 5), Err(TicketError::Format));
        }
        let foreign = TicketKey::new([8; 32]).issue(&sender, 5, 0);
        assert_eq!(key.verify(&id(&sender, &foreign), 5), Err(TicketError::Mac));
        let mine = key.issue(&sender, 5, 0);
        assert_eq!(key.verify(&id(&[4; HALF_LEN], &mine), 5), Err(TicketError::Mac));
    }

    #[test]
    fn debug_shows_no_secret() {
        assert_eq!(format!("{:?}", TicketKey::new([0x41; 32])), "TicketKey(redacted)");
    }

    proptest! {
        #[test]
        fn any_flipped_bit_is_refused(sender: [u8; 32], epoch: u32, owner: u8, bit in 0..ID_LEN * 8) {
            let key = TicketKey::new([5; 32]);
            let mut half = [0; HALF_LEN];
            half[..32].copy_from_slice(&sender);
            let mut id = id(&half, &key.issue(&half, epoch, owner));
            prop_assert_eq!(*key.verify(&id, epoch).unwrap().get(), Claims { epoch, owner_shard: owner });
            id[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(key.verify(&id, epoch).is_err());
        }
    }
}
