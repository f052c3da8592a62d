//! What encoders really put on the wire: the SRT sessions that pass a [`crate::relay::Relay`].
//!
//! An encoder's file and what it sends are two things: libsrt discards what is unsent when it closes. The comparison of a
//! recording with the tap leaves nothing to the encoder's manners, so it needs no tolerance.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Context, Result, bail};

const HEADER_LEN: usize = 16;
const ACK: u16 = 0x8002;
const SEQ_HALF: u32 = 1 << 30;
const SEQ_MASK: u32 = 0x7FFF_FFFF;

/// One SRT session as it passed by, in sequence order.
#[derive(Clone, Debug, Default)]
pub struct Session {
    first: u32,
    /// By distance from `first`.
    payloads: BTreeMap<u32, Payload>,
    acked: u32,
}

#[derive(Clone, Debug)]
struct Payload {
    bytes: Vec<u8>,
    passed: bool,
}

impl Session {
    /// Every payload the encoder put on the wire, once, in order.
    ///
    /// # Errors
    /// When the encoder left a sequence number out.
    pub fn sent(&self) -> Result<Vec<u8>> {
        self.concatenated(self.len())
    }

    /// The payloads up to the last one of which a copy was let through. What was lost before it can be asked for again; of
    /// those after it nobody but the encoder knows.
    ///
    /// # Errors
    /// When the encoder left a sequence number out.
    pub fn knowable(&self) -> Result<Vec<u8>> {
        let last = self.payloads.iter().rev().find(|(_, payload)| payload.passed);
        self.concatenated(last.map_or(0, |(offset, _)| offset + 1))
    }

    /// Payloads put on the wire.
    pub fn len(&self) -> u32 {
        self.payloads.last_key_value().map_or(0, |(offset, _)| offset + 1)
    }

    /// No payload was put on the wire.
    pub fn is_empty(&self) -> bool {
        self.payloads.is_empty()
    }

    /// Payloads of which the encoder was told that they arrived.
    pub fn acked(&self) -> u32 {
        self.acked
    }

    fn concatenated(&self, len: u32) -> Result<Vec<u8>> {
        let mut stream = Vec::new();
        for offset in 0..len {
            let payload = self.payloads.get(&offset);
            let payload = payload.with_context(|| format!("payload {offset} was never put on the wire"))?;
            stream.extend_from_slice(&payload.bytes);
        }
        Ok(stream)
    }
}

/// All sessions that passed a relay, by the encoder's address.
#[derive(Debug, Default)]
pub struct Tap {
    sessions: BTreeMap<SocketAddr, Session>,
}

impl Tap {
    /// A datagram of an encoder; `passed` if it goes on to the other side.
    pub(crate) fn uplink(&mut self, from: SocketAddr, datagram: &[u8], passed: bool) {
        if datagram.len() < HEADER_LEN || datagram[0] & 0x80 != 0 {
            return;
        }
        let seq = word(datagram, 0);
        let session =
            self.sessions.entry(from).or_insert_with(|| Session { first: seq, ..Session::default() });
        let offset = seq.wrapping_sub(session.first) & SEQ_MASK;
        if offset < SEQ_HALF {
            let bytes = || Payload { bytes: datagram[HEADER_LEN..].to_vec(), passed: false };
            session.payloads.entry(offset).or_insert_with(bytes).passed |= passed;
        }
    }

    /// A datagram to an encoder.
    pub(crate) fn downlink(&mut self, to: SocketAddr, datagram: &[u8]) {
        let is_ack = datagram.len() >= HEADER_LEN + 4 && datagram[..2] == ACK.to_be_bytes();
        if let Some(session) = self.sessions.get_mut(&to).filter(|_| is_ack) {
            let acked = word(datagram, HEADER_LEN).wrapping_sub(session.first) & SEQ_MASK;
            if acked < SEQ_HALF {
                session.acked = session.acked.max(acked);
            }
        }
    }

    /// The only session that carried anything.
    ///
    /// # Errors
    /// When there was none, or more than one.
    pub fn only_session(&self) -> Result<&Session> {
        let mut sessions = self.sessions.values();
        match (sessions.next(), sessions.next()) {
            (Some(session), None) => Ok(session),
            _ => bail!("{} SRT sessions carried data", self.sessions.len()),
        }
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].try_into().map_or(0, u32::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENCODER: fn() -> SocketAddr = || ([127, 0, 0, 1], 5000).into();

    fn data(seq: u32, payload: &[u8]) -> Vec<u8> {
        [&(seq & SEQ_MASK).to_be_bytes()[..], &[0; 12], payload].concat()
    }

    #[test]
    fn a_session_is_put_together_in_order_across_the_wrap() {
        let mut tap = Tap::default();
        assert!(tap.only_session().is_err());
        let first = 0x7FFF_FFFF;
        tap.uplink(ENCODER(), &[0x80; 20], true);
        tap.uplink(ENCODER(), &data(first, b"a"), true);
        tap.uplink(ENCODER(), &data(first + 2, b"c"), false);
        assert!(tap.only_session().unwrap().sent().is_err(), "b is not there yet");
        tap.uplink(ENCODER(), &data(first + 1, b"b"), false);
        tap.uplink(ENCODER(), &data(first + 1, b"b"), true);
        tap.uplink(ENCODER(), &data(first + 3, b"d"), false);
        let mut ack = vec![0x80, 2];
        ack.resize(HEADER_LEN, 0);
        ack.extend(1_u32.to_be_bytes());
        tap.downlink(ENCODER(), &ack);
        let session = tap.only_session().unwrap();
        assert_eq!(
            (session.sent().unwrap(), session.knowable().unwrap()),
            (b"abcd".to_vec(), b"ab".to_vec())
        );
        assert_eq!((session.len(), session.acked()), (4, 2));
        tap.uplink(([127, 0, 0, 1], 5001).into(), &data(9, b"x"), true);
        assert!(tap.only_session().is_err(), "two sessions");
    }
}
