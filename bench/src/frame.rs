//! A datagram of the load: an SRT data packet whose payload says which one it is and when it was to be sent.
//!
//! Its layout is in [`bondgate_ebpf_common::bench`], because the generator inside the kernel writes it, too.
//!
//! Promise: [`read`] accepts nothing but what [`Template::fill`] wrote, of the same run, unchanged where it looks.

use bondgate_ebpf_common::bench::{CHECK_LEN, FILLER, HEAD_LEN};
pub use bondgate_ebpf_common::bench::{Stamp, socket_id};

/// Shortest datagram that holds everything.
pub const LEN_MIN: usize = 48;
/// Longest datagram of the load.
pub const LEN_MAX: usize = 1456;
/// What encoders send: 7 TS packets and the SRT header.
pub const LEN_USUAL: usize = 1332;

/// A datagram to be filled in again and again.
#[derive(Debug)]
pub struct Template {
    bytes: Vec<u8>,
    magic: u32,
}

impl Template {
    /// For datagrams of `len` bytes, clamped to what is possible. `magic` names the run.
    pub fn new(len: usize, magic: u32) -> Self {
        Self { bytes: vec![FILLER; len.clamp(LEN_MIN, LEN_MAX)], magic }
    }

    /// The datagram with this stamp; `sequence` is its SRT sequence number.
    pub fn fill(&mut self, stamp: &Stamp, sequence: u32) -> &[u8] {
        if let Some(place) = self.bytes.first_chunk_mut::<HEAD_LEN>() {
            *place = stamp.head(self.magic, sequence).0;
        }
        if let Some(place) = self.bytes.last_chunk_mut::<CHECK_LEN>() {
            *place = stamp.check(self.magic).to_be_bytes();
        }
        &self.bytes
    }
}

/// Reads a datagram; `None` when it is none of this run.
pub fn read(bytes: &[u8], magic: u32) -> Option<Stamp> {
    Stamp::read(bytes.first_chunk()?, *bytes.last_chunk()?, magic).filter(|_| bytes.len() >= LEN_MIN)
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
