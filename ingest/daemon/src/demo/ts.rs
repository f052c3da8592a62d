//! The built-in encoder of the demo: an MPEG transport stream (ISO/IEC 13818-1) of constant rate, made without any
//! outside help.
//!
//! One programme with silent MPEG-1 layer II audio, so that players accept it; null packets fill the rate. Promises:
//! PAT and PMT repeat every 100 ms, the PCR every 30 ms and is exact for the position of its packet, continuity
//! counters and CRCs are right, and no two payloads are alike (null packets are numbered), so that a lost, doubled or
//! displaced payload cannot be mistaken for another one. Pure: time is the caller's business.

use std::time::Duration;

/// Bytes of one transport stream packet.
pub const PACKET_LEN: usize = 188;
/// Transport stream packets in one SRT payload, the customary seven.
pub const PACKETS_PER_PAYLOAD: usize = 7;
/// Bytes of one SRT payload.
pub const PAYLOAD_LEN: usize = PACKETS_PER_PAYLOAD * PACKET_LEN;

const PID_PAT: u16 = 0x0000;
const PID_PMT: u16 = 0x1000;
const PID_AUDIO: u16 = 0x0101;
const PID_NULL: u16 = 0x1fff;
const PROGRAM: u16 = 1;
/// `stream_type` of ISO/IEC 11172-3 (MPEG-1) audio.
const STREAM_TYPE_MPEG1_AUDIO: u8 = 0x03;

/// The system clock: 27 MHz, of which the PCR is a sample; PTS count in 1/300 of it.
const CLOCK_HZ: u64 = 27_000_000;
const TICKS_PER_MS: u64 = CLOCK_HZ / 1000;
const PSI_EVERY: u64 = 100 * TICKS_PER_MS;
const PCR_EVERY: u64 = 30 * TICKS_PER_MS;
/// How far an access unit is sent ahead of its presentation.
const DECODE_AHEAD: u64 = 200 * TICKS_PER_MS;
/// PCR and PTS bases have 33 bits.
const BASE_MASK: u64 = (1 << 33) - 1;

/// One layer II frame: 1152 samples at 48 kHz.
const FRAME_TICKS: u64 = 24 * TICKS_PER_MS;
/// 192 kb/s: 144 * 192000 / 48000 bytes.
const FRAME_LEN: usize = 576;
/// Sync word, MPEG-1, layer II, no CRC; 192 kb/s, 48 kHz; stereo; original. A body of zeros allocates no bits to any
/// subband, which is silence.
const FRAME_HEADER: [u8; 4] = [0xff, 0xfd, 0xa4, 0x04];
const PES_HEADER_LEN: usize = 14;
const PES_LEN: usize = PES_HEADER_LEN + FRAME_LEN;

/// Makes the stream, payload by payload.
#[derive(Clone, Debug)]
pub struct TsGenerator {
    rate_bps: u64,
    /// Packets made so far; the position in the stream and thereby the time.
    packets: u64,
    continuity_pat: u8,
    continuity_pmt: u8,
    continuity_audio: u8,
    psi_due: u64,
    /// The PMT follows the PAT.
    pmt_pending: bool,
    pcr_due: u64,
    /// Audio frames begun so far.
    frames: u64,
    pes: [u8; PES_LEN],
    /// Bytes of `pes` already sent.
    pes_sent: usize,
}

impl TsGenerator {
    /// A stream of `rate_bps` bits per second, at least 500 kb/s so that audio and tables fit.
    pub fn new(rate_bps: u64) -> Self {
        Self {
            rate_bps: rate_bps.max(500_000),
            packets: 0,
            continuity_pat: 0,
            continuity_pmt: 0,
            continuity_audio: 0,
            psi_due: 0,
            pmt_pending: false,
            pcr_due: 0,
            frames: 0,
            pes: [0; PES_LEN],
            pes_sent: PES_LEN,
        }
    }

    /// When the next payload is due, counted from the start of the stream.
    pub fn due(&self) -> Duration {
        let ticks = self.ticks();
        Duration::from_secs(ticks / CLOCK_HZ) + Duration::from_nanos(ticks % CLOCK_HZ * 1000 / 27)
    }

    /// Makes the next payload.
    pub fn next_payload(&mut self) -> [u8; PAYLOAD_LEN] {
        let mut payload = [0; PAYLOAD_LEN];
        for packet in payload.as_chunks_mut::<PACKET_LEN>().0 {
            self.next_packet(packet);
        }
        payload
    }

    /// The system clock at the first byte of the next packet.
    fn ticks(&self) -> u64 {
        let bits = u128::from(self.packets) * (PACKET_LEN as u128 * 8);
        (bits * u128::from(CLOCK_HZ) / u128::from(self.rate_bps)) as u64
    }

    fn next_packet(&mut self, packet: &mut [u8; PACKET_LEN]) {
        let now = self.ticks();
        if now >= self.pcr_due {
            self.pcr_due += PCR_EVERY;
            self.clock_reference(packet, now);
        } else if now >= self.psi_due {
            self.psi_due += PSI_EVERY;
            self.pmt_pending = true;
            section(packet, PID_PAT, take_continuity(&mut self.continuity_pat), &pat());
        } else if self.pmt_pending {
            self.pmt_pending = false;
            section(packet, PID_PMT, take_continuity(&mut self.continuity_pmt), &pmt());
        } else if self.pes_sent < PES_LEN {
            self.audio(packet, false);
        } else if now >= self.frames * FRAME_TICKS {
            self.begin_frame();
            self.audio(packet, true);
        } else {
            self.null(packet);
        }
        self.packets += 1;
    }

    /// A packet of the audio PID that has only an adaptation field with the PCR; its continuity counter stands still.
    fn clock_reference(&self, packet: &mut [u8; PACKET_LEN], now: u64) {
        packet.fill(0xff);
        let continuity = self.continuity_audio.wrapping_sub(1) & 0x0f;
        header(packet, PID_AUDIO, false, 0x20 | continuity);
        // The PCR tells the arrival time of the byte that holds the last bit of its base: byte 10 of the packet.
        let ticks = now + 10 * 8 * CLOCK_HZ / self.rate_bps;
        let (base, extension) = ((ticks / 300) & BASE_MASK, ticks % 300);
        let pcr = base << 15 | 0x3f << 9 | extension;
        let [_, _, bytes @ ..] = pcr.to_be_bytes();
        packet[4] = (PACKET_LEN - 5) as u8;
        packet[5] = 0x10;
        packet[6..12].copy_from_slice(&bytes);
    }

    fn begin_frame(&mut self) {
        let pts = ((self.frames * FRAME_TICKS + DECODE_AHEAD) / 300) & BASE_MASK;
        let len = (PES_LEN - 6) as u16;
        self.pes[..6].copy_from_slice(&[0, 0, 1, 0xc0, (len >> 8) as u8, len as u8]);
        // Data aligned; a PTS and nothing else follows.
        self.pes[6..9].copy_from_slice(&[0x84, 0x80, 5]);
        self.pes[9..14].copy_from_slice(&[
            0x21 | (pts >> 29 & 0x0e) as u8,
            (pts >> 22) as u8,
            1 | (pts >> 14) as u8,
            (pts >> 7) as u8,
            1 | (pts << 1) as u8,
        ]);
        self.pes[PES_HEADER_LEN..][..4].copy_from_slice(&FRAME_HEADER);
        self.pes_sent = 0;
        self.frames += 1;
    }

    fn audio(&mut self, packet: &mut [u8; PACKET_LEN], is_start: bool) {
        let rest = &self.pes[self.pes_sent..];
        let len = rest.len().min(PACKET_LEN - 4);
        let stuffing = PACKET_LEN - 4 - len;
        let control = if stuffing > 0 { 0x30 } else { 0x10 };
        header(packet, PID_AUDIO, is_start, control | take_continuity(&mut self.continuity_audio));
        if stuffing > 0 {
            packet[4..4 + stuffing].fill(0xff);
            packet[4] = (stuffing - 1) as u8;
            if stuffing > 1 {
                packet[5] = 0;
            }
        }
        packet[4 + stuffing..].copy_from_slice(&rest[..len]);
        self.pes_sent += len;
    }

    /// A null packet. Its content means nothing to a decoder; here it is the packet's number, scrambled so that the
    /// bytes look like a coded picture.
    fn null(&self, packet: &mut [u8; PACKET_LEN]) {
        header(packet, PID_NULL, false, 0x10);
        packet[4..12].copy_from_slice(&self.packets.to_be_bytes());
        let mut state = self.packets;
        for word in packet[12..].as_chunks_mut::<8>().0 {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            *word = (mixed ^ mixed >> 27).to_be_bytes();
        }
    }
}

/// Sync byte, PID and the byte of adaptation field control and continuity counter.
fn header(packet: &mut [u8; PACKET_LEN], pid: u16, is_start: bool, control: u8) {
    let start = if is_start { 0x40 } else { 0 };
    packet[..4].copy_from_slice(&[0x47, start | (pid >> 8) as u8, pid as u8, control]);
}

/// One table section in one packet.
fn section(packet: &mut [u8; PACKET_LEN], pid: u16, continuity: u8, body: &[u8]) {
    packet.fill(0xff);
    header(packet, pid, true, 0x10 | continuity);
    packet[4] = 0; // the section begins at once
    let crc_at = 5 + body.len();
    packet[5..crc_at].copy_from_slice(body);
    packet[crc_at..crc_at + 4].copy_from_slice(&crc32_mpeg2(body).to_be_bytes());
}

fn take_continuity(counter: &mut u8) -> u8 {
    let value = *counter;
    *counter = (value + 1) & 0x0f;
    value
}

/// Programme association table: programme 1 is described on the PMT's PID.
fn pat() -> [u8; 12] {
    let [program_high, program_low] = PROGRAM.to_be_bytes();
    let [pid_high, pid_low] = (0xe000 | PID_PMT).to_be_bytes();
    // table 0, length 13, transport stream 1, version 0 current, section 0 of 0
    [0x00, 0xb0, 13, 0x00, 0x01, 0xc1, 0, 0, program_high, program_low, pid_high, pid_low]
}

/// Programme map table: one audio stream, whose PID also carries the PCR.
fn pmt() -> [u8; 17] {
    let [program_high, program_low] = PROGRAM.to_be_bytes();
    let [pid_high, pid_low] = (0xe000 | PID_AUDIO).to_be_bytes();
    #[rustfmt::skip]
    let table = [
        0x02, 0xb0, 18, program_high, program_low, 0xc1, 0, 0,
        pid_high, pid_low, 0xf0, 0,
        STREAM_TYPE_MPEG1_AUDIO, pid_high, pid_low, 0xf0, 0,
    ];
    table
}

/// The CRC of table sections: polynomial 0x04c11db7, all ones at the start, nothing reflected.
fn crc32_mpeg2(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte) << 24;
        for _ in 0..8 {
            crc = if crc & 0x8000_0000 == 0 { crc << 1 } else { crc << 1 ^ 0x04c1_1db7 };
        }
    }
    crc
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{HashMap, HashSet};

    const RATE: u64 = 3_000_000;

    /// Ten seconds of stream as packets.
    fn packets() -> Vec<[u8; PACKET_LEN]> {
        let mut generator = TsGenerator::new(RATE);
        let mut all = Vec::new();
        while generator.due() < Duration::from_secs(10) {
            all.extend_from_slice(generator.next_payload().as_chunks().0);
        }
        all
    }

    fn pid(packet: &[u8; PACKET_LEN]) -> u16 {
        u16::from_be_bytes([packet[1], packet[2]]) & 0x1fff
    }

    #[test]
    fn crc_has_the_published_check_value() {
        assert_eq!(crc32_mpeg2(b"123456789"), 0x0376_e6e7);
    }

    #[test]
    fn the_rate_is_constant() {
        let mut generator = TsGenerator::new(RATE);
        for n in 0..2850_u64 {
            let expected = n as f64 * PAYLOAD_LEN as f64 * 8.0 / RATE as f64;
            assert!((generator.due().as_secs_f64() - expected).abs() < 1e-6, "payload {n}");
            generator.next_payload();
        }
    }

    #[test]
    fn continuity_counters_count_packets_with_payload() {
        let mut last: HashMap<u16, u8> = HashMap::new();
        let mut seen = HashSet::new();
        for packet in packets() {
            assert_eq!(packet[0], 0x47);
            if pid(&packet) == PID_NULL {
                continue;
            }
            seen.insert(pid(&packet));
            let (has_payload, counter) = (packet[3] & 0x10 != 0, packet[3] & 0x0f);
            if let Some(last) = last.insert(pid(&packet), counter) {
                assert_eq!(counter, (last + u8::from(has_payload)) & 0x0f, "pid {:#x}", pid(&packet));
            }
        }
        assert_eq!(seen, HashSet::from([PID_PAT, PID_PMT, PID_AUDIO]));
    }

    #[test]
    fn tables_have_right_checksums_and_repeat() {
        for table in [PID_PAT, PID_PMT] {
            let at: Vec<usize> =
                (0..).zip(packets()).filter(|(_, p)| pid(p) == table).map(|(at, _)| at).collect();
            assert!(at.len() >= 99, "{}", at.len());
            let packets_per_100_ms = (RATE / 10) as usize / 8 / PACKET_LEN;
            assert!(at.windows(2).all(|w| w[1] - w[0] <= packets_per_100_ms + 8));
        }
        for packet in packets().iter().filter(|p| pid(p) == PID_PAT || pid(p) == PID_PMT) {
            assert_eq!((packet[1] & 0x40, packet[4]), (0x40, 0));
            let len = usize::from(u16::from_be_bytes([packet[6], packet[7]]) & 0x0fff);
            // A section with its own CRC behind it has the residue zero.
            assert_eq!(crc32_mpeg2(&packet[5..8 + len]), 0);
            assert!(packet[8 + len..].iter().all(|b| *b == 0xff));
        }
    }

    #[test]
    fn clock_references_are_exact_and_frequent() {
        let mut last = None;
        let mut count = 0;
        for (at, packet) in packets().iter().enumerate() {
            if packet[3] & 0x20 == 0 || packet[4] == 0 || packet[5] & 0x10 == 0 {
                continue;
            }
            assert_eq!(pid(packet), PID_AUDIO);
            let field = packet[6..12].iter().fold(0_u64, |field, byte| field << 8 | u64::from(*byte));
            let pcr = (field >> 15) * 300 + (field & 0x1ff);
            let exact = ((at * PACKET_LEN + 10) * 8) as f64 / RATE as f64 * CLOCK_HZ as f64;
            assert!((pcr as f64 - exact).abs() < 3.0, "packet {at}: {pcr} {exact}");
            if let Some(last) = last.replace(pcr) {
                assert!(pcr > last && pcr - last <= 40 * TICKS_PER_MS, "{} ms", (pcr - last) / TICKS_PER_MS);
            }
            count += 1;
        }
        assert!((330..=335).contains(&count), "{count}");
    }

    #[test]
    fn audio_frames_are_whole_and_on_time() {
        let mut pes: Vec<Vec<u8>> = Vec::new();
        let mut begun_at = Vec::new();
        for (at, packet) in packets().iter().enumerate() {
            if pid(packet) != PID_AUDIO || packet[3] & 0x10 == 0 {
                continue;
            }
            let body = if packet[3] & 0x20 == 0 { 4 } else { 5 + usize::from(packet[4]) };
            if packet[1] & 0x40 != 0 {
                pes.push(Vec::new());
                begun_at.push(at);
            }
            pes.last_mut().expect("a start first").extend_from_slice(&packet[body..]);
        }
        pes.pop(); // may be cut off
        assert!(pes.len() >= 415, "{}", pes.len());
        for (n, (pes, at)) in pes.iter().zip(begun_at).enumerate() {
            assert_eq!(pes.len(), PES_LEN);
            assert_eq!(pes[..4], [0, 0, 1, 0xc0]);
            assert_eq!(usize::from(u16::from_be_bytes([pes[4], pes[5]])), pes.len() - 6);
            let pts = (u64::from(pes[9]) >> 1 & 7) << 30
                | u64::from(pes[10]) << 22
                | u64::from(pes[11] >> 1) << 15
                | u64::from(pes[12]) << 7
                | u64::from(pes[13] >> 1);
            assert_eq!((pes[9] & 0xf1, pes[11] & 1, pes[13] & 1), (0x21, 1, 1));
            assert_eq!(pts, n as u64 * 2160 + 200 * 90);
            let sent_ms = at as f64 * PACKET_LEN as f64 * 8.0 / RATE as f64 * 1000.0;
            assert!((pts as f64 / 90.0) - sent_ms > 150.0, "frame {n} comes too late");
            assert_eq!(pes[PES_HEADER_LEN..][..4], FRAME_HEADER);
        }
    }

    #[test]
    fn no_two_payloads_are_alike() {
        let mut generator = TsGenerator::new(RATE);
        let payloads: HashSet<_> = (0..3000).map(|_| generator.next_payload()).collect();
        assert_eq!(payloads.len(), 3000);
    }

    #[test]
    fn clocks_wrap_without_harm() {
        let mut generator = TsGenerator::new(RATE);
        // A little before the 33-bit base wraps, after 26.5 hours.
        let wrap_packets = (BASE_MASK + 1) / 90_000 * RATE / (PACKET_LEN as u64 * 8);
        generator.packets = wrap_packets - 1000;
        let now = generator.ticks();
        (generator.pcr_due, generator.psi_due, generator.frames) = (now, now, now.div_ceil(FRAME_TICKS));
        for _ in 0..1000 {
            generator.next_payload();
        }
        assert!(generator.ticks() / 300 > BASE_MASK);
    }
}
