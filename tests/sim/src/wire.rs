//! The few wire facts the simulator needs, written down a second time.
//!
//! Promises: independent of the crates under test, so that a mistake in their codec cannot hide behind itself. Only
//! classification and the fields that stock senders look at; everything is big-endian.

/// `KEEPALIVE`, both directions.
pub const KEEPALIVE: u16 = 0x9000;
/// SRTLA `ACK`, receiver to sender.
pub const SRTLA_ACK: u16 = 0x9100;
/// `REG1`, sender to receiver.
pub const REG1: u16 = 0x9200;
/// `REG2`, both directions.
pub const REG2: u16 = 0x9201;
/// `REG3`, receiver to sender.
pub const REG3: u16 = 0x9202;
/// `REG_ERR`, receiver to sender.
pub const REG_ERR: u16 = 0x9210;
/// `REG_NGP` (no such group), receiver to sender.
pub const REG_NGP: u16 = 0x9211;
/// SRT control type `ACK` with the control bit.
pub const SRT_ACK: u16 = 0x8002;
/// SRT control type `NAK` with the control bit.
pub const SRT_NAK: u16 = 0x8003;

/// Length of a group ID.
pub const ID_LEN: usize = 256;
/// Length of the sender half of a group ID.
pub const HALF_LEN: usize = 128;
/// Length of `REG1` and `REG2` on the wire.
pub const REG_LEN: usize = 2 + ID_LEN;

/// A whole group ID: sender half, then receiver half.
pub type GroupId = [u8; ID_LEN];

/// What a datagram is, as far as a bystander can tell from its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// SRTLA keepalive, request or echo.
    Keepalive,
    /// SRTLA ACK.
    SrtlaAck,
    /// REG1.
    Reg1,
    /// REG2, probe, join or answer.
    Reg2,
    /// REG3.
    Reg3,
    /// `REG_ERR`.
    RegErr,
    /// NGP.
    RegNgp,
    /// Any other type at or above 0x9000.
    OtherSrtla,
    /// SRT handshake.
    SrtHandshake,
    /// SRT keepalive.
    SrtKeepalive,
    /// SRT ACK, full or light.
    SrtAck,
    /// SRT NAK.
    SrtNak,
    /// SRT ACKACK.
    SrtAckAck,
    /// SRT SHUTDOWN.
    SrtShutdown,
    /// SRT DROPREQ.
    SrtDropReq,
    /// Any other SRT control packet.
    OtherSrtControl,
    /// SRT data, first transmission.
    SrtData,
    /// SRT data with the retransmission flag.
    SrtRetransmission,
    /// Shorter than two bytes.
    Runt,
}

/// Classifies a datagram by its first bytes.
pub fn kind(bytes: &[u8]) -> Kind {
    let Some(kind) = word16(bytes, 0) else { return Kind::Runt };
    match kind {
        KEEPALIVE => Kind::Keepalive,
        SRTLA_ACK => Kind::SrtlaAck,
        REG1 => Kind::Reg1,
        REG2 => Kind::Reg2,
        REG3 => Kind::Reg3,
        REG_ERR => Kind::RegErr,
        REG_NGP => Kind::RegNgp,
        other if other >= 0x9000 => Kind::OtherSrtla,
        0x8000 => Kind::SrtHandshake,
        0x8001 => Kind::SrtKeepalive,
        SRT_ACK => Kind::SrtAck,
        SRT_NAK => Kind::SrtNak,
        0x8005 => Kind::SrtShutdown,
        0x8006 => Kind::SrtAckAck,
        0x8007 => Kind::SrtDropReq,
        0x8004 | 0x8008..=0x8fff => Kind::OtherSrtControl,
        _ if bytes.get(4).is_some_and(|b| b & 0x04 != 0) => Kind::SrtRetransmission,
        _ => Kind::SrtData,
    }
}

/// The 16-bit word at `offset`.
pub fn word16(bytes: &[u8], offset: usize) -> Option<u16> {
    let word = bytes.get(offset..offset + 2)?;
    Some(u16::from_be_bytes([word[0], word[1]]))
}

/// The 32-bit word at `offset`.
pub fn word32(bytes: &[u8], offset: usize) -> Option<u32> {
    let word = bytes.get(offset..offset + 4)?;
    Some(u32::from_be_bytes([word[0], word[1], word[2], word[3]]))
}

/// The sequence number of an SRT data packet, `None` for anything else.
pub fn srt_data_seq(bytes: &[u8]) -> Option<u32> {
    word32(bytes, 0).filter(|&word| word >> 31 == 0 && bytes.len() >= 16)
}

/// The payload of an SRT data packet, `None` for anything else.
pub fn srt_data_payload(bytes: &[u8]) -> Option<&[u8]> {
    srt_data_seq(bytes)?;
    bytes.get(16..)
}

/// A registration packet: `kind` ([`REG1`] or [`REG2`]) and the whole ID.
pub fn registration(kind: u16, id: &GroupId) -> Vec<u8> {
    let mut packet = kind.to_be_bytes().to_vec();
    packet.extend_from_slice(id);
    packet
}

/// The ID of a REG1 or REG2 of at least the right length.
pub fn registration_id(bytes: &[u8]) -> Option<GroupId> {
    bytes.get(2..REG_LEN)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_apart() {
        assert_eq!(kind(&[]), Kind::Runt);
        assert_eq!(kind(&[0x90, 0]), Kind::Keepalive);
        assert_eq!(kind(&[0x93, 0]), Kind::OtherSrtla);
        assert_eq!(kind(&[0x80, 0x02]), Kind::SrtAck);
        assert_eq!(kind(&[0xff, 0xff]), Kind::OtherSrtla);
        let mut data = [0; 20];
        assert_eq!(kind(&data), Kind::SrtData);
        data[4] = 0xc4;
        assert_eq!(kind(&data), Kind::SrtRetransmission);
        assert_eq!(srt_data_payload(&data).map(<[u8]>::len), Some(4));
        assert_eq!(srt_data_seq(&[0x80; 20]), None);
    }
}
