//! The calling side of the handshake.
//!
//! INDUCTION and CONCLUSION are each repeated every 250 ms until they are answered or the time is up.

use super::{Endpoint, Slot, Transmit, millis};
use crate::config::ConnectOptions;
use crate::connection::{Connection, Setup};
use crate::event::{CloseReason, ConnId, Event, Role};
use crate::packet::control::emit_header;
use crate::packet::handshake::{STREAM_ID_MAX, ext_flags};
use crate::packet::{
    ControlType, ExtensionKind, ExtensionWriter, HandshakeKind, HandshakeRepr, HandshakeView, HsExtension,
    MAGIC, PAYLOAD_MAX,
};
use crate::receive::ReceiverSetup;
use crate::reject::RejectReason;
use crate::seq::Seq;
use crate::time::{MS, Micros, duration, micros};
use bytes::Bytes;
use std::hash::Hash;

const REPEAT: Micros = 250 * MS;
/// What we say we are: message API as of libsrt 1.5.
pub(super) const VERSION: u32 = 0x0001_0500;

/// Flags of our HSREQ and HSRSP: live mode, no packet filter.
pub(super) const FLAGS: u32 = {
    use crate::packet::hs_flags::{CRYPT, PERIODICNAK, REXMITFLG, TLPKTDROP, TSBPDRCV, TSBPDSND};
    TSBPDSND | TSBPDRCV | CRYPT | TLPKTDROP | PERIODICNAK | REXMITFLG
};

/// A call under way.
#[derive(Debug)]
pub(super) struct Call<P> {
    peer: P,
    local_id: u32,
    isn: Seq,
    options: ConnectOptions,
    started_at: Micros,
    expires_at: Micros,
    repeat_at: Micros,
    due: bool,
    /// From the INDUCTION answer.
    cookie: Option<u32>,
}

impl<P: Copy> Call<P> {
    pub(super) fn new(now: Micros, peer: P, local_id: u32, isn: Seq, options: ConnectOptions) -> Self {
        Self {
            peer,
            local_id,
            isn,
            started_at: now,
            expires_at: now.saturating_add(micros(options.connect_timeout)),
            repeat_at: now + REPEAT,
            due: true,
            cookie: None,
            options,
        }
    }

    pub(super) fn peer(&self) -> P {
        self.peer
    }

    pub(super) fn local_id(&self) -> u32 {
        self.local_id
    }

    pub(super) fn has_output(&self) -> bool {
        self.due
    }

    pub(super) fn next_at(&self) -> Micros {
        self.repeat_at.min(self.expires_at)
    }

    /// `true`: the time is up.
    pub(super) fn on_timeout(&mut self, now: Micros) -> bool {
        if self.repeat_at <= now {
            self.due = true;
            self.repeat_at = now + REPEAT;
        }
        self.expires_at <= now
    }

    pub(super) fn poll_transmit(&mut self, now: Micros, out: &mut [u8]) -> Option<Transmit<P>> {
        if !std::mem::take(&mut self.due) {
            return None;
        }
        let timestamp = (now - self.started_at) as u32;
        let mut len = emit_header(out, ControlType::Handshake, 0, 0, timestamp, 0)?;
        let mut repr = HandshakeRepr {
            version: 4,
            encryption: 0,
            extension: 2,
            isn: self.isn,
            mtu: 1500,
            flow_window: 8192,
            kind: HandshakeKind::Induction,
            socket_id: self.local_id,
            cookie: 0,
            peer_ip: [0; 4],
        };
        let Some(cookie) = self.cookie else {
            len += repr.emit(out.get_mut(len..)?)?;
            return Some(Transmit { to: self.peer, len });
        };
        let stream_id = self.options.stream_id.get(..STREAM_ID_MAX).unwrap_or(&self.options.stream_id);
        repr.version = 5;
        repr.kind = HandshakeKind::Conclusion;
        repr.cookie = cookie;
        repr.extension = ext_flags::HSREQ | if stream_id.is_empty() { 0 } else { ext_flags::CONFIG };
        len += repr.emit(out.get_mut(len..)?)?;
        let latency_ms = millis(micros(self.options.latency));
        let hs = HsExtension {
            version: VERSION,
            flags: FLAGS,
            recv_delay_ms: latency_ms,
            send_delay_ms: latency_ms,
        };
        let mut extensions = ExtensionWriter::new(out.get_mut(len..)?);
        extensions.hs(ExtensionKind::HsReq, &hs)?;
        if !stream_id.is_empty() {
            extensions.text(ExtensionKind::Sid, stream_id)?;
        }
        len += extensions.finish();
        Some(Transmit { to: self.peer, len })
    }
}

impl<P: Copy + Eq + Hash> Endpoint<P> {
    /// A handshake packet for a call. Returns the counter it belongs to.
    pub(super) fn caller_handshake(
        &mut self,
        now: Micros,
        index: usize,
        timestamp: u32,
        view: &HandshakeView<'_>,
    ) -> &mut u64 {
        let repr = *view.repr();
        let Some(Slot::Calling(call)) = self.slots.get_mut(index) else {
            return &mut self.counters.dropped_handshake;
        };
        match repr.kind {
            HandshakeKind::Induction if call.cookie.is_none() => {
                if repr.version < 5 || repr.extension != MAGIC {
                    self.fail_call(index, CloseReason::Rejected(RejectReason::VERSION));
                    return &mut self.counters.consumed;
                }
                call.cookie = Some(repr.cookie);
                call.due = true;
                call.repeat_at = now + REPEAT;
                self.touch(now, index);
            }
            HandshakeKind::Conclusion if call.cookie.is_some() => {
                let mut answer = None;
                for extension in view.extensions() {
                    match extension {
                        Ok(extension) if extension.kind == ExtensionKind::HsRsp => {
                            answer = HsExtension::parse(extension.contents).ok();
                        }
                        Ok(_) => {}
                        Err(_) => return &mut self.counters.dropped_malformed,
                    }
                }
                let Some(hs) = answer.filter(|_| repr.version >= 5) else {
                    self.fail_call(index, CloseReason::Rejected(RejectReason::ROGUE));
                    return &mut self.counters.consumed;
                };
                self.establish_call(now, index, timestamp, &repr, &hs);
            }
            HandshakeKind::Reject(reason) => self.fail_call(index, CloseReason::Rejected(reason)),
            _ => return &mut self.counters.dropped_handshake,
        }
        &mut self.counters.consumed
    }

    fn establish_call(
        &mut self,
        now: Micros,
        index: usize,
        timestamp: u32,
        repr: &HandshakeRepr,
        hs: &HsExtension,
    ) {
        let Some(Slot::Calling(call)) = self.slots.get(index) else { return };
        let own_ms = millis(micros(call.options.latency));
        let most = micros(self.config.latency_max).max(micros(call.options.latency));
        let receive_latency = (Micros::from(own_ms.max(hs.send_delay_ms)) * MS).min(most);
        let send_latency = Micros::from(own_ms.max(hs.recv_delay_ms)) * MS;
        let (peer, conn) = (call.peer, ConnId(call.local_id));
        let setup = Setup {
            peer,
            local_id: call.local_id,
            peer_id: repr.socket_id,
            started_at: call.started_at,
            receiver: ReceiverSetup {
                isn: repr.isn,
                window: self.config.flow_window,
                latency: receive_latency,
                arrived_at: now,
                timestamp,
                rexmit_flag: hs.flags & crate::packet::hs_flags::REXMITFLG != 0,
            },
            send_isn: call.isn,
            send_window: (repr.flow_window as usize).max(2),
            send_buffer: self.config.send_buffer,
            send_latency,
            payload_max: payload_max(repr.mtu),
            peer_idle: micros(self.config.peer_idle),
            answer: Bytes::new(),
        };
        self.counters.connected += 1;
        self.events.push_back(Event::Connected {
            conn,
            peer,
            role: Role::Caller,
            receive_latency: duration(receive_latency),
            send_latency: duration(send_latency),
        });
        self.place(now, index, Slot::Live(Box::new(Connection::new(now, setup))));
    }
}

/// Payload that fits the smaller of both MTUs.
pub(super) fn payload_max(mtu: u32) -> usize {
    (mtu as usize).saturating_sub(1500 - PAYLOAD_MAX).clamp(188, PAYLOAD_MAX)
}
