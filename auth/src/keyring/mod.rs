//! Devices, keys and tokens as their operator keeps them.
//!
//! Pure: bytes, time and randomness in, bytes out.

pub mod name;
pub mod text;
mod uri;

pub use uri::{Provision, ProvisionError, check_server, key_id_text};

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .filter_map(|digit| char::from_digit(digit.into(), 16))
        .collect()
}
