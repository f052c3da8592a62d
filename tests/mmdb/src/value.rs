//! Values of the data section, and how they are written.

/// A value.
#[derive(Clone, PartialEq, Debug)]
pub enum Value {
    /// UTF-8.
    Text(String),
    /// 16 bits.
    U16(u16),
    /// 32 bits.
    U32(u32),
    /// 64 bits.
    U64(u64),
    /// True or false.
    Bool(bool),
    /// Keys and values in this order.
    Map(Vec<(String, Value)>),
    /// In this order.
    List(Vec<Value>),
    /// The value at this offset of the data section, written elsewhere.
    Pointer(u32),
}

const POINTER: u8 = 1;
const TEXT: u8 = 2;
const U16: u8 = 5;
const U32: u8 = 6;
const MAP: u8 = 7;
const U64: u8 = 9;
const LIST: u8 = 11;
const BOOL: u8 = 14;

impl Value {
    /// The record of a country, laid out as in country databases: with a continent and names.
    pub fn country(iso_code: &str) -> Self {
        Self::Map(vec![
            ("continent".into(), Self::Map(vec![("code".into(), Self::Text("EU".into()))])),
            ("country".into(), Self::place(iso_code)),
            ("registered_country".into(), Self::place(iso_code)),
        ])
    }

    /// The part of such a record that names a country.
    pub fn place(iso_code: &str) -> Self {
        Self::Map(vec![
            ("geoname_id".into(), Self::U32(2_921_044)),
            ("is_in_european_union".into(), Self::Bool(true)),
            ("iso_code".into(), Self::Text(iso_code.into())),
            ("names".into(), Self::Map(vec![("en".into(), Self::Text(format!("Land of {iso_code}")))])),
        ])
    }

    /// Appends the value as the format has it.
    pub fn encode(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Text(text) => {
                control(bytes, TEXT, text.len());
                bytes.extend_from_slice(text.as_bytes());
            }
            Self::U16(number) => number_bytes(bytes, U16, &number.to_be_bytes()),
            Self::U32(number) => number_bytes(bytes, U32, &number.to_be_bytes()),
            Self::U64(number) => number_bytes(bytes, U64, &number.to_be_bytes()),
            Self::Bool(flag) => control(bytes, BOOL, usize::from(*flag)),
            Self::Map(pairs) => {
                control(bytes, MAP, pairs.len());
                for (key, value) in pairs {
                    Self::Text(key.clone()).encode(bytes);
                    value.encode(bytes);
                }
            }
            Self::List(items) => {
                control(bytes, LIST, items.len());
                for item in items {
                    item.encode(bytes);
                }
            }
            Self::Pointer(offset) => {
                // The longest of the four forms, which can say everything.
                bytes.push(POINTER << 5 | 3 << 3);
                bytes.extend_from_slice(&offset.to_be_bytes());
            }
        }
    }
}

/// Leading zeros are not written.
fn number_bytes(bytes: &mut Vec<u8>, kind: u8, number: &[u8]) {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    control(bytes, kind, number.len() - zeros);
    bytes.extend_from_slice(&number[zeros..]);
}

/// Type and size: the first three bits are the type, or zero with the type in a byte that follows; five bits are the size,
/// or say how many bytes of size follow.
fn control(bytes: &mut Vec<u8>, kind: u8, size: usize) {
    let (short, more): (u8, Vec<u8>) = match size {
        0..=28 => (size as u8, vec![]),
        29..=284 => (29, vec![(size - 29) as u8]),
        285..=65_820 => (30, ((size - 285) as u16).to_be_bytes().to_vec()),
        _ => (31, ((size - 65_821) as u32).to_be_bytes()[1..].to_vec()),
    };
    if kind > 7 {
        bytes.extend([short, kind - 7]);
    } else {
        bytes.push(kind << 5 | short);
    }
    bytes.extend(more);
}
