//! A datagram of the load: an SRT data packet whose payload says which one it is and when it was to be sent.
//!
//! ```text
//!  0  sequence number, message number, timestamp, socket ID     the SRT header
//! 16  magic, group                                              4 + 4 bytes
//! 24  number in the run                                         8
//! 32  intended time, ns since the start of the run              8
//! 40  filler
//! -8  check: a mix of number and intended time                  8
//! ```
//!
//! Promise: [`read`] accepts nothing but what [`Template::fill`] wrote, of the same run, unchanged where it looks.

/// Shortest datagram that holds everything.
pub const LEN_MIN: usize = 48;
/// Longest datagram of the load.
pub const LEN_MAX: usize = 1456;
/// What encoders send: 7 TS packets and the SRT header.
pub const LEN_USUAL: usize = 1332;

/// What a datagram says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Which group it was sent for.
    pub group: u32,
    /// Its number in the run.
    pub number: u64,
    /// When it was to be sent, in ns since the start of the run.
    pub intended_ns: u64,
}

/// A datagram to be filled in again and again.
#[derive(Debug)]
pub struct Template {
    bytes: Vec<u8>,
    magic: u32,
}

fn check(magic: u32, stamp: &Stamp) -> u64 {
    (stamp.number ^ u64::from(magic) << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        ^ stamp.intended_ns
        ^ u64::from(stamp.group)
}

fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + field.len()) {
        place.copy_from_slice(field);
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

impl Template {
    /// For datagrams of `len` bytes, clamped to what is possible. `magic` names the run.
    pub fn new(len: usize, magic: u32) -> Self {
        let mut bytes = vec![0x47; len.clamp(LEN_MIN, LEN_MAX)];
        put(&mut bytes, 16, &magic.to_be_bytes());
        Self { bytes, magic }
    }

    /// The datagram with this stamp; `sequence` is its SRT sequence number.
    pub fn fill(&mut self, stamp: &Stamp, sequence: u32) -> &[u8] {
        let check = check(self.magic, stamp);
        let end = self.bytes.len();
        let bytes = &mut self.bytes;
        put(bytes, 0, &(sequence & 0x7fff_ffff).to_be_bytes());
        put(bytes, 4, &(0xc000_0000 | (sequence & 0x03ff_ffff)).to_be_bytes());
        put(bytes, 8, &((stamp.intended_ns / 1000) as u32).to_be_bytes());
        put(bytes, 12, &socket_id(stamp.group).to_be_bytes());
        put(bytes, 20, &stamp.group.to_be_bytes());
        put(bytes, 24, &stamp.number.to_be_bytes());
        put(bytes, 32, &stamp.intended_ns.to_be_bytes());
        put(bytes, end - 8, &check.to_be_bytes());
        &self.bytes
    }
}

/// The SRT socket ID that a group's packets are addressed to.
pub fn socket_id(group: u32) -> u32 {
    0x0b00_0001 + group
}

/// Reads a datagram; `None` when it is none of this run.
pub fn read(bytes: &[u8], magic: u32) -> Option<Stamp> {
    if bytes.len() < LEN_MIN || u32_at(bytes, 16)? != magic {
        return None;
    }
    let stamp =
        Stamp { group: u32_at(bytes, 20)?, number: u64_at(bytes, 24)?, intended_ns: u64_at(bytes, 32)? };
    (u64_at(bytes, bytes.len() - 8)? == check(magic, &stamp)).then_some(stamp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_nothing_else() {
        let stamp = Stamp { group: 3, number: 1 << 40, intended_ns: 123_456_789 };
        for len in [LEN_MIN, 100, LEN_USUAL, LEN_MAX] {
            let mut template = Template::new(len, 0xabcd_1234);
            let bytes = template.fill(&stamp, 77).to_vec();
            assert_eq!(bytes.len(), len);
            assert_eq!(read(&bytes, 0xabcd_1234), Some(stamp));
            assert_eq!(read(&bytes, 0xabcd_1235), None, "another run");
            assert_eq!(read(&bytes[..len - 1], 0xabcd_1234), None, "cut");
            for at in (20..40).chain([len - 1]) {
                let mut bent = bytes.clone();
                bent[at] ^= 1;
                assert_eq!(read(&bent, 0xabcd_1234), None, "byte {at}");
            }
        }
    }

    #[test]
    fn it_is_an_srt_data_packet() {
        let mut template = Template::new(LEN_USUAL, 1);
        let bytes = template.fill(&Stamp { group: 0, number: 9, intended_ns: 5000 }, 0x8000_0009);
        let data = bondgate_proto::wire::Data::new(bytes).unwrap();
        assert_eq!((data.seq().get(), data.dest_socket_id()), (9, socket_id(0)));
    }
}
