//! The send half of a connection: send buffer, retransmission and too-late drop.
//!
//! Promises: new data leave as soon as the peer's window allows; a packet is retransmitted at most once per round
//! trip, however many copies of a NAK arrive; retransmissions are paced at 1.25 times the input rate; what is
//! older than the drop threshold leaves the buffer and is announced by DROPREQ; an ACK for what was never sent
//! changes nothing. Its tables never outgrow the send buffer's limit: the buffer begins with what [`slots_for`] says and
//! is doubled when a stream needs more, the retransmission queue is made with the connection.

use crate::crypto::Crypto;
use crate::packet::{Ack, DataRepr, HEADER_LEN, LossList, Position};
use crate::seq::{MsgNo, Seq};
use crate::stats::Stats;
use crate::time::{MS, Micros, NEVER, RateMeter, Rtt, slots_for};
use bytes::Bytes;
use std::collections::VecDeque;

/// Least age at which unacknowledged packets are dropped.
const DROP_AGE_MIN: Micros = 1_000 * MS;
const DROP_AGE_EXTRA: Micros = 20 * MS;
/// Retransmissions that may leave back to back.
const BURST_BYTES: i64 = 32 * 1500;
/// Retransmission rate below which pacing never goes.
const PACE_MIN_BYTES_PER_S: i64 = 125_000;
/// Silence after the last transmission before the last packet is sent again, beyond RTT + 4 deviations.
const TAIL_EXTRA: Micros = 30 * MS;
const TAIL_MAX: u32 = 6;

#[derive(Debug)]
struct Entry {
    payload: Bytes,
    queued_at: Micros,
    msg_no: MsgNo,
    /// Last retransmission.
    resent_at: Option<Micros>,
    /// In the retransmission queue.
    wanted: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Sender {
    /// Sequence number of `entries[0]`, the oldest not acknowledged.
    base: Seq,
    entries: VecDeque<Entry>,
    /// How many entries have been sent at least once.
    sent: usize,
    next_msg: MsgNo,
    /// Numbers asked for, oldest request first; stale ones are skipped.
    queue: VecDeque<Seq>,
    entries_max: usize,
    /// Packets the peer can take beyond its last ACK.
    peer_window: usize,
    drop_age: Micros,
    /// Last number dropped unacknowledged.
    dropped: Option<Seq>,
    /// DROPREQ to send.
    drop_request: Option<(Seq, Seq)>,
    input: RateMeter,
    /// Byte allowance of retransmissions, and when it was last filled up.
    tokens: i64,
    filled_at: Micros,
    /// Last transmission or progress, and tail repeats since then.
    active_at: Micros,
    tails: u32,
    rtt: Rtt,
    stats: Stats,
}

impl Sender {
    /// `window`: the peer's flow window of the handshake. `latency`: the delay the peer applies.
    pub(crate) fn new(now: Micros, isn: Seq, window: usize, entries_max: usize, latency: Micros) -> Self {
        let drop_age = latency.max(DROP_AGE_MIN) + DROP_AGE_EXTRA;
        Self {
            base: isn,
            entries: VecDeque::with_capacity(slots_for(drop_age).min(entries_max)),
            sent: 0,
            next_msg: MsgNo::FIRST,
            queue: VecDeque::with_capacity(entries_max),
            entries_max,
            peer_window: window,
            drop_age,
            dropped: None,
            drop_request: None,
            input: RateMeter::default(),
            tokens: BURST_BYTES,
            filled_at: now,
            active_at: now,
            tails: 0,
            rtt: Rtt::default(),
            stats: Stats::default(),
        }
    }

    /// Takes a message; `false`: the buffer is full.
    pub(crate) fn push(&mut self, now: Micros, payload: Bytes) -> bool {
        if self.entries.len() >= self.entries_max {
            return false;
        }
        self.input.add(now, payload.len());
        let msg_no = self.next_msg;
        self.next_msg = msg_no.next();
        self.entries.push_back(Entry { payload, queued_at: now, msg_no, resent_at: None, wanted: false });
        true
    }

    /// A message was taken, ever.
    pub(crate) fn has_taken(&self) -> bool {
        self.next_msg != MsgNo::FIRST || self.stats.sent > 0
    }

    /// Messages it has room for without growing.
    pub(crate) fn slots(&self) -> usize {
        self.entries.capacity()
    }

    /// Everything was acknowledged or dropped.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn on_ack(&mut self, now: Micros, ack: &Ack) {
        let Ok(count) = usize::try_from(ack.next.distance(self.base)) else {
            return; // older than what we know
        };
        if count > self.sent {
            self.stats.invalid_reports += 1;
            return;
        }
        if count > 0 {
            self.active_at = now;
            self.tails = 0;
        }
        self.forget(count);
        if let Some(timing) = ack.timing {
            self.peer_window = timing.buffer_free as usize;
            self.rtt.set(timing.rtt_us, timing.rtt_var_us);
        }
    }

    fn forget(&mut self, count: usize) {
        self.entries.drain(..count.min(self.entries.len()));
        if self.entries.is_empty() {
            // Begin again where the memory is still in the cache.
            self.entries.clear();
        }
        self.base = self.base.add(count as u32);
        self.sent = self.sent.saturating_sub(count);
    }

    pub(crate) fn on_nak(&mut self, now: Micros, list: LossList<'_>) {
        self.stats.naks_received += 1;
        // An honest list names every packet once; repeated ranges must not cost more than that.
        let mut budget = self.sent as i32;
        for range in list {
            let Ok((first, last)) = range else {
                self.stats.invalid_reports += 1;
                return;
            };
            // Asked for what was dropped: say so again.
            if let Some(dropped) = self.dropped
                && !dropped.is_before(first)
            {
                self.drop_request = Some((first, last.earlier(dropped)));
            }
            let start = first.distance(self.base).max(0);
            let end = last.distance(self.base);
            if end >= self.sent as i32 {
                self.stats.invalid_reports += 1;
            }
            let end = end.min(self.sent as i32 - 1).min(start.saturating_add(budget - 1));
            budget -= (end - start + 1).max(0);
            for offset in start..=end {
                self.want(now, offset as usize);
            }
        }
    }

    fn want(&mut self, now: Micros, offset: usize) {
        let again = self.rtt.smoothed();
        let Some(entry) = self.entries.get_mut(offset) else { return };
        if entry.wanted || entry.resent_at.is_some_and(|at| now - at < again) {
            self.stats.naks_deduplicated += 1;
            return;
        }
        entry.wanted = true;
        if self.queue.len() >= self.entries_max {
            // Every entry is in there once at most; what fills it are numbers acknowledged meanwhile.
            let base = self.base;
            self.queue.retain(|seq| seq.distance(base) >= 0);
        }
        self.queue.push_back(self.base.add(offset as u32));
    }

    /// Drops what is too late, repeats the tail when the peer has fallen silent.
    pub(crate) fn on_timeout(&mut self, now: Micros) {
        let late = self.entries.iter().take_while(|entry| now - entry.queued_at >= self.drop_age).count();
        if late > 0 {
            let first = self.base;
            self.forget(late);
            self.stats.send_dropped += late as u64;
            let last = self.base.sub(1);
            self.dropped = Some(last);
            // Join with one that has not left yet.
            let first = self.drop_request.map_or(first, |(earlier, _)| earlier.earlier(first));
            self.drop_request = Some((first, last));
        } else if self.dropped.is_some_and(|dropped| self.base.distance(dropped) > 1 << 28) {
            self.dropped = None; // half the number range later it would look like the future
        }
        if now >= self.tail_at() {
            self.tails += 1;
            self.active_at = now;
            if let Some(offset) = self.sent.checked_sub(1) {
                self.want(now, offset);
            }
        }
    }

    fn tail_at(&self) -> Micros {
        if self.sent == 0 || self.sent < self.entries.len() || self.tails >= TAIL_MAX {
            return NEVER;
        }
        self.active_at + ((self.rtt.timeout() + TAIL_EXTRA) << self.tails)
    }

    fn pace(&self) -> i64 {
        (self.input.bytes_per_s() as i64 * 5 / 4).max(PACE_MIN_BYTES_PER_S)
    }

    fn refill(&mut self, now: Micros) {
        let earned = (now - self.filled_at).min(1_000_000) * self.pace() / 1_000_000;
        if earned > 0 {
            self.tokens = (self.tokens + earned).min(BURST_BYTES);
            self.filled_at = now;
        }
    }

    /// DROPREQ to send now.
    pub(crate) fn poll_drop_request(&mut self) -> Option<(Seq, Seq)> {
        self.drop_request.take()
    }

    fn window_open(&self) -> bool {
        // A closed window is probed with one packet at a time, or it would never be seen to open.
        self.sent < self.entries.len() && self.sent < self.peer_window.max(1)
    }

    /// Something would be written now by [`Sender::poll`], save for pacing.
    pub(crate) fn has_output(&self) -> bool {
        self.drop_request.is_some() || self.window_open() || (!self.queue.is_empty() && self.tokens > 0)
    }

    /// When to call [`Sender::on_timeout`] or [`Sender::poll`] again.
    pub(crate) fn next_at(&self) -> Micros {
        let drop_at = self.entries.front().map_or(NEVER, |entry| entry.queued_at + self.drop_age);
        let pace_at = if self.queue.is_empty() {
            NEVER
        } else {
            self.filled_at + (1 - self.tokens.min(0)) * 1_000_000 / self.pace() + 1
        };
        drop_at.min(pace_at).min(self.tail_at())
    }

    /// Writes the next data packet: retransmissions first.
    pub(crate) fn poll(
        &mut self,
        now: Micros,
        started_at: Micros,
        dst: u32,
        crypto: &Crypto,
        out: &mut [u8],
    ) -> Option<usize> {
        self.refill(now);
        while self.tokens > 0 {
            let Some(seq) = self.queue.pop_front() else { break };
            let Ok(offset) = usize::try_from(seq.distance(self.base)) else { continue };
            let Some(entry) = self.entries.get_mut(offset) else { continue };
            entry.wanted = false;
            entry.resent_at = Some(now);
            let len = emit(entry, seq, true, started_at, dst, crypto, out)?;
            self.tokens -= len as i64;
            self.stats.retransmitted += 1;
            return Some(len);
        }
        if self.window_open() {
            let seq = self.base.add(self.sent as u32);
            let entry = self.entries.get(self.sent)?;
            let len = emit(entry, seq, false, started_at, dst, crypto, out)?;
            self.stats.sent += 1;
            self.stats.sent_bytes += entry.payload.len() as u64;
            self.sent += 1;
            self.active_at = now;
            self.tails = 0;
            return Some(len);
        }
        None
    }

    /// Fills in the sending half.
    pub(crate) fn fill_stats(&self, stats: &mut Stats) {
        stats.sent = self.stats.sent;
        stats.sent_bytes = self.stats.sent_bytes;
        stats.retransmitted = self.stats.retransmitted;
        stats.naks_deduplicated = self.stats.naks_deduplicated;
        stats.naks_received = self.stats.naks_received;
        stats.send_dropped = self.stats.send_dropped;
        stats.invalid_reports = self.stats.invalid_reports;
        stats.send_buffer = self.entries.len() as u32;
    }

    pub(crate) fn rtt(&self) -> &Rtt {
        &self.rtt
    }
}

fn emit(
    entry: &Entry,
    seq: Seq,
    retransmitted: bool,
    started_at: Micros,
    dst: u32,
    crypto: &Crypto,
    out: &mut [u8],
) -> Option<usize> {
    let (len, key) = crypto.seal(seq, &entry.payload, out.get_mut(HEADER_LEN..)?)?;
    let header = DataRepr {
        seq,
        position: Position::Solo,
        ordered: false,
        key,
        retransmitted,
        msg_no: entry.msg_no,
        timestamp: (entry.queued_at - started_at) as u32,
        dst,
    };
    Some(header.emit(out)? + len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{AckTiming, DataView, LossListWriter, Packet, parse};

    const ISN: u32 = Seq::MAX - 1;

    /// A sender with `count` packets sent at time 0 and a peer RTT of 40 ms.
    fn sender(count: u32) -> Sender {
        let mut sender = Sender::new(0, Seq::new(ISN), 8192, 100, 120 * MS);
        for _ in 0..count {
            assert!(sender.push(0, Bytes::from_static(&[7; 100])));
        }
        assert_eq!(drain(&mut sender, 0).len() as u32, count);
        sender.rtt.set(40_000, 0);
        sender
    }

    /// Sequence numbers, retransmission flags and message numbers of what leaves now.
    fn drain(sender: &mut Sender, now: Micros) -> Vec<(u32, bool, u32)> {
        let mut out = [0; 1472];
        std::iter::from_fn(|| {
            let len = sender.poll(now, 0, 1, &Crypto::Clear, &mut out)?;
            let Ok(Packet::Data(view)) = parse(&out[..len]) else { panic!("not data") };
            let view: DataView<'_> = view;
            assert_eq!(view.payload(), [7; 100]);
            Some((view.seq().get(), view.retransmitted(), view.msg_no().get()))
        })
        .collect()
    }

    fn nak(sender: &mut Sender, now: Micros, seqs: &[u32]) {
        let mut out = [0; 400];
        let mut writer = LossListWriter::new(&mut out);
        for seq in seqs {
            assert!(writer.push(Seq::new(*seq)));
        }
        let len = writer.finish();
        sender.on_nak(now, LossList::new(&out[..len]));
    }

    fn ack(next: u32, buffer_free: u32) -> Ack {
        let timing = AckTiming { rtt_us: 40_000, rtt_var_us: 0, buffer_free };
        Ack { next: Seq::new(next), timing: Some(timing), rates: None }
    }

    #[test]
    fn copies_of_a_nak_give_one_retransmission_per_round_trip() {
        let mut sender = sender(10);
        for copy in 0..5 {
            nak(&mut sender, 50 * MS + copy, &[Seq::MAX, 3]);
        }
        assert_eq!(drain(&mut sender, 51 * MS), [(Seq::MAX, true, 2), (3, true, 6)]);
        nak(&mut sender, 80 * MS, &[3]);
        assert_eq!(drain(&mut sender, 80 * MS), []);
        nak(&mut sender, 92 * MS, &[3]);
        assert_eq!(drain(&mut sender, 92 * MS), [(3, true, 6)]);
        assert_eq!(sender.stats.naks_deduplicated, 9);
    }

    #[test]
    fn the_retransmission_queue_never_outgrows_the_buffer() {
        let mut sender = sender(100);
        let capacity = sender.queue.capacity();
        sender.tokens = -1_000_000; // pacing holds every retransmission back, meanwhile all of them are acknowledged
        for round in 0..3 {
            let first = Seq::new(ISN).add(round * 100);
            let seqs: Vec<u32> = (0..100).map(|i| first.add(i).get()).collect();
            nak(&mut sender, MS, &seqs);
            assert!(sender.queue.iter().rev().take(100).map(|seq| seq.get()).eq(seqs.into_iter().rev()));
            sender.on_ack(MS, &ack(first.add(100).get(), 8192));
            for _ in 0..100 {
                assert!(sender.push(MS, Bytes::from_static(&[7; 100])));
            }
            assert_eq!(drain(&mut sender, MS).len(), 100);
        }
        assert_eq!((sender.queue.len(), sender.queue.capacity()), (100, capacity));
    }

    #[test]
    fn an_ack_beyond_what_was_sent_changes_nothing() {
        let mut sender = sender(10);
        sender.on_ack(MS, &ack(9, 0)); // 10 packets from 2^31 - 2 end at 7
        assert_eq!((sender.entries.len(), sender.stats.invalid_reports), (10, 1));
        assert_eq!(sender.peer_window, 8192);
        sender.on_ack(MS, &ack(8, 5000));
        assert_eq!((sender.entries.len(), sender.peer_window), (0, 5000));
        sender.on_ack(MS, &ack(3, 1));
        assert_eq!(sender.peer_window, 5000, "an older ACK is not news");
        nak(&mut sender, MS, &[2, 3, 90]);
        assert_eq!(drain(&mut sender, 60 * MS), []);
        assert_eq!(sender.stats.invalid_reports, 2);
    }

    #[test]
    fn what_is_too_late_is_dropped_and_announced() {
        let mut sender = sender(3);
        assert_eq!(sender.next_at().min(1_020 * MS), sender.next_at());
        sender.on_timeout(1_019 * MS);
        assert_eq!(sender.stats.send_dropped, 0);
        sender.on_timeout(1_020 * MS);
        assert!(sender.is_empty());
        let range = (Seq::new(ISN), Seq::new(0));
        assert_eq!(sender.poll_drop_request(), Some(range));
        assert_eq!(sender.poll_drop_request(), None);
        // Asked again, it says so again.
        nak(&mut sender, 1_100 * MS, &[Seq::MAX]);
        assert_eq!(sender.poll_drop_request(), Some((Seq::new(Seq::MAX), Seq::new(Seq::MAX))));
    }

    #[test]
    fn a_closed_window_lets_one_packet_through() {
        let mut sender = sender(1);
        sender.on_ack(MS, &ack(ISN + 1, 0));
        for _ in 0..3 {
            sender.push(MS, Bytes::from_static(&[7; 100]));
        }
        assert_eq!(drain(&mut sender, MS), [(Seq::MAX, false, 2)]);
        sender.on_ack(MS, &ack(0, 100));
        assert_eq!(drain(&mut sender, MS), [(0, false, 3), (1, false, 4)]);
    }

    #[test]
    fn a_silent_tail_is_sent_again() {
        let mut sender = sender(5);
        let at = sender.next_at();
        assert_eq!(at, 70 * MS);
        sender.on_timeout(at);
        assert_eq!(drain(&mut sender, at), [(2, true, 5)]);
        assert_eq!(sender.next_at(), at + 140 * MS, "with doubling patience");
    }

    #[test]
    fn retransmissions_are_paced() {
        let mut sender = Sender::new(0, Seq::new(0), 8192, 7000, 120 * MS);
        for i in 0..6000 {
            sender.push(i * 100, Bytes::from_static(&[7; 100])); // 1 MB/s
        }
        drain(&mut sender, 600 * MS);
        sender.on_nak(600 * MS, LossList::new(&[0x80, 0, 0, 0, 0, 0, 0x17, 0x6F]));
        let burst = drain(&mut sender, 600 * MS).len();
        assert!((400..450).contains(&burst), "{burst} at once");
        let mut sent = 0;
        for ms in 601..=700 {
            sent += drain(&mut sender, ms * MS).len();
        }
        // 1.25 MB/s for 100 ms in datagrams of 116 bytes.
        assert!((1000..1150).contains(&sent), "{sent} in 100 ms");
        assert!(sender.next_at() <= 702 * MS, "and the rest is timed");
    }

    #[test]
    fn message_numbers_wrap_past_zero() {
        let mut sender = Sender::new(0, Seq::new(0), 8192, 100, 120 * MS);
        sender.next_msg = MsgNo::new(MsgNo::MAX);
        for _ in 0..2 {
            sender.push(0, Bytes::from_static(&[7; 100]));
        }
        assert_eq!(drain(&mut sender, 0), [(0, false, MsgNo::MAX), (1, false, 1)]);
    }
}
