//! Text forms of keys and tokens: what people copy, scan, type and paste (docs/registration-auth.md, section 13).
//!
//! A text is a prefix that says what it is, then lower-case base32 of the bytes and their CRC-32. Promises:
//!
//! * Upper and lower case mean the same, and so do letters that look like digits (`i`, `l`: 1, `o`: 0), so a text
//!   survives phones that capitalise, people who read aloud, and any shell without quotes.
//! * Every single wrong character, every swap of neighbours and every change of prefix is noticed, and the error says
//!   which it was: another kind of key, cut short, mistyped.
//! * No error and no `Debug` shows the text.

use std::fmt;

/// The 32 characters: digits and letters without i, l, o and u (Crockford's set, in lower case).
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const CRC_LEN: usize = 4;
const PREFIX_LEN: usize = 4;

/// What a text stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// `bgk_`: key ID (8 bytes) and secret (32 bytes) of a device.
    DeviceKey,
    /// `bgg_`: epoch (4 bytes) and gate key (16 bytes) of a listener.
    GateKey,
    /// `bgt_`: 20 random bytes that let their bearer publish or play a stream.
    StreamToken,
    /// `bgl_`: the 16 bytes of a listener ID. Not secret.
    Listener,
}

impl Kind {
    const ALL: [Self; 4] = [Self::DeviceKey, Self::GateKey, Self::StreamToken, Self::Listener];

    /// The first four characters.
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::DeviceKey => "bgk_",
            Self::GateKey => "bgg_",
            Self::StreamToken => "bgt_",
            Self::Listener => "bgl_",
        }
    }

    /// Bytes it carries.
    pub const fn payload_len(self) -> usize {
        match self {
            Self::DeviceKey => 40,
            Self::GateKey | Self::StreamToken => 20,
            Self::Listener => 16,
        }
    }

    /// Characters of the whole text, prefix included.
    pub const fn text_len(self) -> usize {
        PREFIX_LEN + ((self.payload_len() + CRC_LEN) * 8).div_ceil(5)
    }

    const fn name(self) -> &'static str {
        match self {
            Self::DeviceKey => "device key",
            Self::GateKey => "gate key",
            Self::StreamToken => "stream token",
            Self::Listener => "listener ID",
        }
    }

    fn of(text: &str) -> Option<Self> {
        let head = text.get(..PREFIX_LEN)?;
        Self::ALL.into_iter().find(|kind| kind.prefix().eq_ignore_ascii_case(head))
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}...)", self.name(), self.prefix())
    }
}

/// What is wrong with a text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TextError {
    /// It is a good beginning of something else.
    WrongKind {
        /// What it is.
        found: Kind,
        /// What belongs here.
        needed: Kind,
    },
    /// It begins like nothing we make.
    NoPrefix {
        /// What belongs here.
        needed: Kind,
    },
    /// Cut short.
    TooShort {
        /// How many characters are missing at the end.
        missing: usize,
    },
    /// Something was added.
    TooLong {
        /// How many characters are too many.
        extra: usize,
    },
    /// A character that no text contains.
    Character {
        /// The character.
        found: char,
        /// Which one of the text, from 1.
        position: usize,
    },
    /// The checksum does not fit.
    Mistyped,
}

impl fmt::Display for TextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WrongKind { found, needed } => write!(f, "this is a {found}, a {needed} is needed here"),
            Self::NoPrefix { needed } => write!(f, "a {needed} is needed here; this begins differently"),
            Self::TooShort { missing } => write!(f, "truncated: {missing} characters are missing at its end"),
            Self::TooLong { extra } => write!(f, "{extra} characters too many"),
            Self::Character { found, position } => {
                write!(f, "mistyped: character {position} is {found:?}, which never occurs")
            }
            Self::Mistyped => {
                f.write_str("mistyped: at least one character is wrong (its checksum does not fit)")
            }
        }
    }
}

impl std::error::Error for TextError {}

/// The text of these bytes.
///
/// # Panics
/// If `payload` is not [`Kind::payload_len`] bytes long.
pub fn encode(kind: Kind, payload: &[u8]) -> String {
    assert_eq!(payload.len(), kind.payload_len(), "payload of a {}", kind.name());
    let check = crc32(&[kind.prefix().as_bytes(), payload]).to_be_bytes();
    let mut text = String::with_capacity(kind.text_len());
    text.push_str(kind.prefix());
    let (mut bits, mut count) = (0_u32, 0);
    for byte in payload.iter().chain(&check) {
        bits = bits << 8 | u32::from(*byte);
        count += 8;
        while count >= 5 {
            count -= 5;
            text.push(character(bits >> count));
        }
    }
    if count > 0 {
        text.push(character(bits << (5 - count)));
    }
    text
}

/// The bytes of a text of this kind; space around it is ignored. `N` must be [`Kind::payload_len`].
///
/// # Errors
/// What is wrong with it.
pub fn decode<const N: usize>(kind: Kind, text: &str) -> Result<[u8; N], TextError> {
    debug_assert_eq!(N, kind.payload_len());
    let text = text.trim_ascii();
    match Kind::of(text) {
        Some(found) if found == kind => {}
        Some(found) => return Err(TextError::WrongKind { found, needed: kind }),
        None => return Err(TextError::NoPrefix { needed: kind }),
    }
    let mut payload = [0; N];
    let mut check = [0; CRC_LEN];
    let mut bytes = payload.iter_mut().chain(&mut check);
    let (mut bits, mut count, mut length) = (0_u32, 0, PREFIX_LEN);
    for found in text.chars().skip(PREFIX_LEN) {
        length += 1;
        let value = value(found).ok_or(TextError::Character { found, position: length })?;
        bits = bits << 5 | value;
        count += 5;
        if count >= 8 {
            count -= 8;
            if let Some(byte) = bytes.next() {
                *byte = (bits >> count) as u8;
            }
        }
    }
    if length < kind.text_len() {
        return Err(TextError::TooShort { missing: kind.text_len() - length });
    }
    if length > kind.text_len() {
        return Err(TextError::TooLong { extra: length - kind.text_len() });
    }
    // The last character carries more bits than the bytes need; they are written as 0.
    let unused_are_zero = bits & ((1 << count) - 1) == 0;
    if unused_are_zero && crc32(&[kind.prefix().as_bytes(), &payload]) == u32::from_be_bytes(check) {
        Ok(payload)
    } else {
        Err(TextError::Mistyped)
    }
}

fn character(bits: u32) -> char {
    char::from(ALPHABET[(bits & 31) as usize])
}

fn value(character: char) -> Option<u32> {
    let character = match character.to_ascii_lowercase() {
        'i' | 'l' => '1',
        'o' => '0',
        other => other,
    };
    let character = u8::try_from(character).ok()?;
    ALPHABET.iter().position(|known| *known == character).map(|value| value as u32)
}

/// CRC-32 as in IEEE 802.3 (reflected, polynomial 0x04C11DB7). A few dozen bytes now and then need no table.
fn crc32(parts: &[&[u8]]) -> u32 {
    let mut crc = u32::MAX;
    for byte in parts.iter().copied().flatten() {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 };
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> (String, [u8; 40]) {
        let payload = std::array::from_fn(|n| (n * 7 + 3) as u8);
        (encode(Kind::DeviceKey, &payload), payload)
    }

    #[test]
    fn the_crc_is_the_common_one() {
        assert_eq!(crc32(&[b"1234", b"56789"]), 0xCBF4_3926);
    }

    #[test]
    fn what_is_written_is_read_whatever_its_case() {
        let (text, payload) = key();
        assert_eq!(text.len(), Kind::DeviceKey.text_len());
        for text in [text.clone(), text.to_uppercase(), format!("  {text}\n"), text.replace('0', "O")] {
            assert_eq!(decode(Kind::DeviceKey, &text), Ok(payload), "{text}");
        }
        for kind in Kind::ALL {
            let text = encode(kind, &vec![0xA5; kind.payload_len()]);
            assert_eq!((text.len(), Kind::of(&text)), (kind.text_len(), Some(kind)));
            assert!(
                text.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_'),
                "{text}"
            );
        }
    }

    #[test]
    fn every_wrong_character_and_every_swap_is_noticed() {
        let (text, _) = key();
        let characters: Vec<char> = text.chars().collect();
        let mut tried = 0;
        for at in PREFIX_LEN..characters.len() {
            for wrong in ALPHABET.iter().map(|c| char::from(*c)).filter(|c| *c != characters[at]) {
                let mut changed = characters.clone();
                changed[at] = wrong;
                let changed: String = changed.into_iter().collect();
                assert_eq!(decode::<40>(Kind::DeviceKey, &changed), Err(TextError::Mistyped), "{changed}");
                tried += 1;
            }
            if at + 1 < characters.len() && characters[at] != characters[at + 1] {
                let mut changed = characters.clone();
                changed.swap(at, at + 1);
                let changed: String = changed.into_iter().collect();
                assert_eq!(decode::<40>(Kind::DeviceKey, &changed), Err(TextError::Mistyped), "{changed}");
            }
        }
        assert_eq!(tried, 71 * 31);
    }

    #[test]
    fn errors_say_what_it_is() {
        let (text, _) = key();
        let gate = encode(Kind::GateKey, &[1; 20]);
        let says = |text: &str| decode::<40>(Kind::DeviceKey, text).unwrap_err().to_string();
        assert_eq!(says(&gate), "this is a gate key (bgg_...), a device key (bgk_...) is needed here");
        assert_eq!(says(&text[..70]), "truncated: 5 characters are missing at its end");
        assert_eq!(says(&format!("{text}00")), "2 characters too many");
        assert_eq!(says(&text.replacen(&text[9..10], "u", 1)).split(':').next(), Some("mistyped"));
        assert_eq!(says(""), "a device key (bgk_...) is needed here; this begins differently");
        assert_eq!(says("bg\u{e9}"), says(""));
        // A prefix changed by hand: the checksum covers it.
        let renamed = gate.replace("bgg_", "bgt_");
        assert_eq!(decode::<20>(Kind::StreamToken, &renamed), Err(TextError::Mistyped));
    }
}
