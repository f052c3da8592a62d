//! Writes `MaxMind` databases (MMDB format 2.0), so that tests can make what no vendor sells: tiny ones, large ones, broken
//! ones. A [`Database`] is filled with networks and written by [`Database::write`]; [`assemble`] takes any nodes at all.
//!
//! Promise: what [`Database::write`] returns is correct by the format's specification; other readers agree (see the tests).
//! Misuse panics: this is for tests.

mod value;

use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::Range;

pub use value::Value;

/// Zeros between tree and data.
const SEPARATOR_LEN: usize = 16;
/// Begins the metadata.
pub const MARKER: &[u8] = b"\xab\xcd\xefMaxMind.com";

/// What a database says of itself.
#[derive(Clone, Debug)]
pub struct Metadata {
    /// 4 or 6.
    pub ip_version: u16,
    /// Bits per record: 24, 28 or 32.
    pub record_size: u16,
    /// `GeoLite2-Country` and the like.
    pub database_type: String,
    /// Seconds since 1970.
    pub build_epoch: u64,
}

impl Metadata {
    /// Of a country database that was built in 2026.
    pub fn country(ip_version: u16, record_size: u16) -> Self {
        Self { ip_version, record_size, database_type: "Test-Country".into(), build_epoch: 1_780_000_000 }
    }
}

/// Where a child of a node leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Child {
    Nothing,
    Node(usize),
    /// Index into [`Database::values`].
    Data(usize),
}

/// A database, while it is made.
#[derive(Debug)]
pub struct Database {
    metadata: Metadata,
    nodes: Vec<[Child; 2]>,
    values: Vec<Value>,
    known: HashMap<Vec<u8>, usize>,
}

/// A written database.
#[derive(Clone, Debug)]
pub struct Written {
    /// The file.
    pub bytes: Vec<u8>,
    /// Where the search tree is in it.
    pub tree: Range<usize>,
    /// Where the data are.
    pub data: Range<usize>,
    /// Where the metadata are, marker included.
    pub metadata: Range<usize>,
}

impl Database {
    /// An empty one.
    pub fn new(metadata: Metadata) -> Self {
        Self { metadata, nodes: vec![[Child::Nothing; 2]], values: Vec::new(), known: HashMap::new() }
    }

    /// `value` belongs to all addresses that share the first `prefix` bits with `addr`; what was said of them before is
    /// forgotten. IPv4 lies at `::/96` of an IPv6 database.
    pub fn insert(&mut self, addr: impl Into<IpAddr>, prefix: u8, value: &Value) {
        let value = self.value(value);
        let (bits, depth) = self.place(addr.into(), prefix);
        self.put(bits, depth, Child::Data(value));
    }

    /// As [`Database::insert`], of a record such as country databases hold.
    pub fn insert_country(&mut self, addr: impl Into<IpAddr>, prefix: u8, iso_code: &str) {
        self.insert(addr, prefix, &Value::country(iso_code));
    }

    /// IPv4-mapped addresses, Teredo and 6to4 lead to the IPv4 addresses, as in vendors' IPv6 databases. To be called last.
    pub fn alias_v4(&mut self) {
        assert_eq!(self.metadata.ip_version, 6, "aliases are of IPv6 databases");
        let mut v4 = Child::Node(0);
        for _ in 0..96 {
            let Child::Node(node) = v4 else { return };
            v4 = self.nodes[node][0];
        }
        for (bits, depth) in [(0xffff_u128 << 32, 96), (0x2001_0000 << 96, 32), (0x2002 << 112, 16)] {
            self.put(bits, depth, v4);
        }
    }

    /// Nodes of the tree.
    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// The file.
    pub fn write(&self) -> Written {
        let mut data = Vec::new();
        let offsets: Vec<usize> = self
            .values
            .iter()
            .map(|value| {
                let offset = data.len();
                value.encode(&mut data);
                offset
            })
            .collect();
        let count = self.nodes.len();
        let number = |child: Child| match child {
            Child::Nothing => count,
            Child::Node(node) => node,
            Child::Data(value) => count + SEPARATOR_LEN + offsets[value],
        };
        let nodes: Vec<[u32; 2]> = self
            .nodes
            .iter()
            .map(|node| node.map(|child| u32::try_from(number(child)).expect("fits in a record")))
            .collect();
        assemble(&self.metadata, &nodes, &data)
    }

    fn value(&mut self, value: &Value) -> usize {
        let mut bytes = Vec::new();
        value.encode(&mut bytes);
        let next = self.values.len();
        let index = *self.known.entry(bytes).or_insert(next);
        if index == next {
            self.values.push(value.clone());
        }
        index
    }

    /// Address bits from the left, and how many of them count.
    fn place(&self, addr: IpAddr, prefix: u8) -> (u128, u8) {
        match (addr, self.metadata.ip_version) {
            (IpAddr::V4(addr), 4) => (u128::from(addr.to_bits()) << 96, prefix),
            (IpAddr::V4(addr), _) => (u128::from(addr.to_bits()), prefix + 96),
            (IpAddr::V6(addr), 6) => (addr.to_bits(), prefix),
            (IpAddr::V6(_), _) => panic!("no IPv6 network fits into an IPv4 database"),
        }
    }

    fn put(&mut self, bits: u128, depth: u8, child: Child) {
        assert!(depth > 0, "a tree has no record for everything; insert two halves");
        let mut node = 0;
        for level in 0..depth {
            let side = usize::from(bits >> (127 - level) & 1 == 1);
            if level + 1 == depth {
                self.nodes[node][side] = child;
                return;
            }
            node = match self.nodes[node][side] {
                Child::Node(next) => next,
                // What was said of the whole is said of both halves.
                leaf @ (Child::Nothing | Child::Data(_)) => {
                    self.nodes.push([leaf; 2]);
                    let next = self.nodes.len() - 1;
                    self.nodes[node][side] = Child::Node(next);
                    next
                }
            };
        }
    }
}

/// A file of these nodes (as numbers in the file), data and metadata. Nothing is checked but that the numbers fit.
pub fn assemble(metadata: &Metadata, nodes: &[[u32; 2]], data: &[u8]) -> Written {
    let mut bytes = Vec::new();
    for node in nodes {
        put_node(&mut bytes, metadata.record_size, *node);
    }
    let tree = 0..bytes.len();
    bytes.extend([0; SEPARATOR_LEN]);
    let data_start = bytes.len();
    bytes.extend_from_slice(data);
    let data = data_start..bytes.len();
    bytes.extend_from_slice(MARKER);
    let text = |text: &str| Value::Text(text.into());
    Value::Map(vec![
        ("binary_format_major_version".into(), Value::U16(2)),
        ("binary_format_minor_version".into(), Value::U16(0)),
        ("build_epoch".into(), Value::U64(metadata.build_epoch)),
        ("database_type".into(), text(&metadata.database_type)),
        ("description".into(), Value::Map(vec![("en".into(), text("made for a test"))])),
        ("ip_version".into(), Value::U16(metadata.ip_version)),
        ("languages".into(), Value::List(vec![text("en")])),
        ("node_count".into(), Value::U32(u32::try_from(nodes.len()).expect("few nodes"))),
        ("record_size".into(), Value::U16(metadata.record_size)),
    ])
    .encode(&mut bytes);
    let metadata = data.end..bytes.len();
    Written { bytes, tree, data, metadata }
}

fn put_node(bytes: &mut Vec<u8>, record_size: u16, [left, right]: [u32; 2]) {
    let (left_bytes, right_bytes) = (left.to_be_bytes(), right.to_be_bytes());
    match record_size {
        24 => {
            assert!(left < 1 << 24 && right < 1 << 24, "fits in a record");
            bytes.extend_from_slice(&left_bytes[1..]);
            bytes.extend_from_slice(&right_bytes[1..]);
        }
        28 => {
            assert!(left < 1 << 28 && right < 1 << 28, "fits in a record");
            bytes.extend_from_slice(&left_bytes[1..]);
            bytes.push(left_bytes[0] << 4 | right_bytes[0]);
            bytes.extend_from_slice(&right_bytes[1..]);
        }
        _ => {
            bytes.extend_from_slice(&left_bytes);
            bytes.extend_from_slice(&right_bytes);
        }
    }
}

#[cfg(test)]
mod tests;
