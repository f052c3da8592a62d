//! The listening side of the handshake.
//!
//! INDUCTION is answered from a cookie alone. A CONCLUSION with a good cookie is parsed, parked and shown to the
//! application; its repeats (every 250 ms) find the parked entry, the refusal or the established connection by
//! peer and caller socket ID and never make a second one.

use super::caller::{FLAGS, VERSION, payload_max};
use super::{Endpoint, Slot, millis};
use crate::config::AcceptOptions;
use crate::connection::{Connection, Setup};
use crate::cookie::TableHash;
use crate::event::{ConnId, Event, IncomingId, Role};
use crate::packet::control::emit_header;
use crate::packet::handshake::{HANDSHAKE_LEN, STREAM_ID_MAX, ext_flags};
use crate::packet::{
    ControlType, ExtensionKind, ExtensionWriter, HandshakeKind, HandshakeRepr, HandshakeView, HsExtension,
    MAGIC, hs_flags,
};
use crate::receive::ReceiverSetup;
use crate::reject::RejectReason;
use crate::time::{MS, Micros, NEVER, duration, micros};
use bytes::Bytes;
use std::collections::HashMap;
use std::hash::Hash;

/// How long a refusal is remembered for the caller's repeats: its connect timeout.
const REFUSAL: Micros = 3_000 * MS;

/// A caller whose cookie was good.
#[derive(Clone, Debug)]
struct Pending<P> {
    id: u32,
    peer: P,
    handshake: HandshakeRepr,
    hs: HsExtension,
    arrived_at: Micros,
    timestamp: u32,
    /// Refused with this; else it waits for the application.
    refused: Option<RejectReason>,
    expires_at: Micros,
}

/// Parked callers.
#[derive(Debug)]
pub(super) struct Listener<P> {
    pending: Vec<Option<Pending<P>>>,
    by_caller: HashMap<(P, u32), usize, TableHash>,
    next_at: Micros,
    serial: u32,
}

impl<P: Copy + Eq + Hash> Listener<P> {
    pub(super) fn new(pending_max: usize, hash: TableHash) -> Self {
        Self {
            pending: (0..pending_max).map(|_| None).collect(),
            by_caller: HashMap::with_capacity_and_hasher(pending_max, hash),
            next_at: NEVER,
            serial: 0,
        }
    }

    pub(super) fn next_at(&self) -> Micros {
        self.next_at
    }

    fn find(&mut self, id: IncomingId) -> Option<&mut Pending<P>> {
        self.pending.iter_mut().flatten().find(|pending| pending.id == id.0 && pending.refused.is_none())
    }

    fn remove(&mut self, index: usize) -> Option<Pending<P>> {
        let pending = self.pending.get_mut(index)?.take()?;
        self.by_caller.remove(&(pending.peer, pending.handshake.socket_id));
        Some(pending)
    }

    /// Callers of `peer` that wait for the application.
    pub(super) fn waiting(&self, peer: P) -> usize {
        self.pending.iter().flatten().filter(|entry| entry.peer == peer && entry.refused.is_none()).count()
    }

    /// Parks a caller; the oldest refusal makes room. `None`: full of callers that wait.
    fn park(&mut self, mut pending: Pending<P>) -> Option<IncomingId> {
        let index = self.pending.iter().position(Option::is_none).or_else(|| {
            let refusals = self.pending.iter().enumerate().filter_map(|(index, entry)| {
                entry.as_ref().filter(|entry| entry.refused.is_some()).map(|entry| (entry.expires_at, index))
            });
            refusals.min().map(|(_, index)| index)
        })?;
        self.remove(index);
        self.serial = self.serial.wrapping_add(1);
        pending.id = self.serial;
        self.next_at = self.next_at.min(pending.expires_at);
        self.by_caller.insert((pending.peer, pending.handshake.socket_id), index);
        *self.pending.get_mut(index)? = Some(pending);
        Some(IncomingId(self.serial))
    }
}

/// What the extensions of a CONCLUSION say.
struct Wishes {
    hs: HsExtension,
    stream_id: [u8; STREAM_ID_MAX],
    stream_id_len: usize,
    refusal: Option<RejectReason>,
}

fn read_extensions(view: &HandshakeView<'_>) -> Wishes {
    let none = HsExtension { version: 0, flags: 0, recv_delay_ms: 0, send_delay_ms: 0 };
    let mut wishes = Wishes { hs: none, stream_id: [0; STREAM_ID_MAX], stream_id_len: 0, refusal: None };
    let mut hs = None;
    let mut refuse = |reason| {
        wishes.refusal.get_or_insert(reason);
    };
    let mut text = [0; STREAM_ID_MAX];
    for extension in view.extensions() {
        let Ok(extension) = extension else {
            refuse(RejectReason::ROGUE);
            break;
        };
        match extension.kind {
            ExtensionKind::HsReq => hs = HsExtension::parse(extension.contents).ok(),
            ExtensionKind::KmReq => refuse(RejectReason::UNSECURE),
            ExtensionKind::Sid => match extension.text(&mut wishes.stream_id) {
                Ok(len) => wishes.stream_id_len = len,
                Err(_) => refuse(RejectReason::ROGUE),
            },
            ExtensionKind::Congestion => match extension.text(&mut text) {
                Ok(len) if text.get(..len) == Some(b"live") => {}
                _ => refuse(RejectReason::CONGESTION),
            },
            ExtensionKind::Filter => refuse(RejectReason::FILTER),
            ExtensionKind::Group => refuse(RejectReason::GROUP),
            ExtensionKind::HsRsp | ExtensionKind::KmRsp | ExtensionKind::Unknown(_) => {}
        }
    }
    match hs {
        None => refuse(RejectReason::ROGUE),
        Some(hs) if hs.flags & hs_flags::STREAM != 0 => refuse(RejectReason::MESSAGEAPI),
        Some(_) => {}
    }
    wishes.hs = hs.unwrap_or(none);
    wishes
}

impl<P: Copy + Eq + Hash> Endpoint<P> {
    /// A handshake packet for the listener. Returns the counter it belongs to.
    pub(super) fn listener_handshake(
        &mut self,
        now: Micros,
        peer: P,
        timestamp: u32,
        view: &HandshakeView<'_>,
    ) -> &mut u64 {
        let repr = *view.repr();
        match repr.kind {
            // 0 is the listener itself, and what another listener answers is no call: two of us would answer
            // each other for ever after one forged packet.
            _ if repr.socket_id == 0 => &mut self.counters.dropped_handshake,
            HandshakeKind::Induction if repr.extension == MAGIC => &mut self.counters.dropped_handshake,
            HandshakeKind::Induction => {
                let cookie = self.keys.make(now, &peer);
                // The socket ID in the answer is the caller's own: libsrt does so, and senders rely on it.
                let answer = HandshakeRepr { version: 5, encryption: 0, extension: MAGIC, cookie, ..repr };
                if !self.answer(now, peer, &answer) {
                    return &mut self.counters.dropped_handshake;
                }
                &mut self.counters.consumed
            }
            HandshakeKind::Conclusion => {
                if !self.keys.check(now, &peer, repr.cookie) {
                    return &mut self.counters.dropped_bad_cookie;
                }
                if self.conclusion(now, peer, timestamp, view) {
                    &mut self.counters.consumed
                } else {
                    &mut self.counters.dropped_handshake
                }
            }
            _ => &mut self.counters.dropped_handshake,
        }
    }

    /// `false`: dropped for want of room; the caller will repeat it.
    fn conclusion(&mut self, now: Micros, peer: P, timestamp: u32, view: &HandshakeView<'_>) -> bool {
        let repr = *view.repr();
        let caller = (peer, repr.socket_id);
        if let Some(&index) = self.callers.get(&caller)
            && let Some(Slot::Live(conn)) = self.slots.get_mut(index as usize)
            && conn.is_repeat(now, repr.isn)
        {
            conn.repeat_answer(now);
            self.touch(now, index as usize);
            return true;
        }
        if let Some(&index) = self.listener.by_caller.get(&caller) {
            let refused = self.listener.pending.get(index).and_then(|entry| entry.as_ref()?.refused);
            if let Some(reason) = refused {
                self.answer_refusal(now, peer, &repr, reason);
            }
            return true;
        }
        if self.events.len() >= self.config.events_max || !self.half_open_room(now, peer) {
            return false;
        }
        let wishes = read_extensions(view);
        let refused = if repr.version < 5 { Some(RejectReason::VERSION) } else { wishes.refusal };
        let stream_id =
            Bytes::copy_from_slice(wishes.stream_id.get(..wishes.stream_id_len).unwrap_or_default());
        let wait = if refused.is_some() { REFUSAL } else { micros(self.config.incoming_timeout) };
        let pending = Pending {
            id: 0,
            peer,
            handshake: repr,
            hs: wishes.hs,
            arrived_at: now,
            timestamp,
            refused,
            expires_at: now + wait,
        };
        let Some(id) = self.listener.park(pending) else {
            return false;
        };
        self.wake_at = self.wake_at.min(self.listener.next_at);
        if let Some(reason) = refused {
            self.counters.refused += 1;
            self.answer_refusal(now, peer, &repr, reason);
            self.events.push_back(Event::Refused { peer, stream_id, reason });
        } else {
            self.events.push_back(Event::Incoming {
                id,
                peer,
                stream_id,
                send_latency: duration(Micros::from(wishes.hs.send_delay_ms) * MS),
                receive_latency: duration(Micros::from(wishes.hs.recv_delay_ms) * MS),
                version: wishes.hs.version,
            });
        }
        true
    }

    pub(super) fn accept_incoming(
        &mut self,
        now: Micros,
        id: IncomingId,
        options: AcceptOptions,
    ) -> Option<ConnId> {
        let pending = self.listener.find(id)?.clone();
        let Some((index, local_id)) = self.claim(now) else {
            self.reject_incoming(now, id, RejectReason::RESOURCE);
            return None;
        };
        let (peer, caller_id) = (pending.peer, pending.handshake.socket_id);
        if let Some(&parked) = self.listener.by_caller.get(&(peer, caller_id)) {
            self.listener.remove(parked);
        }
        let (hs, floor_ms) = (pending.hs, self.floor_ms());
        let receive_ms = hs.send_delay_ms.max(floor_ms).max(millis(micros(options.receive_latency)));
        let receive_ms = receive_ms.min(millis(micros(self.config.latency_max)));
        let send_ms = hs.recv_delay_ms.max(floor_ms).max(millis(micros(options.send_latency)));
        let handshake = HandshakeRepr {
            version: 5,
            encryption: 0,
            extension: ext_flags::HSREQ,
            flow_window: self.config.flow_window as u32,
            socket_id: local_id,
            ..pending.handshake
        };
        let response =
            HsExtension { version: VERSION, flags: FLAGS, recv_delay_ms: receive_ms, send_delay_ms: send_ms };
        let answer = conclusion_answer(&handshake, &response, caller_id).unwrap_or_default();
        let (receive_latency, send_latency) = (Micros::from(receive_ms) * MS, Micros::from(send_ms) * MS);
        let setup = Setup {
            peer,
            local_id,
            peer_id: caller_id,
            started_at: now,
            receiver: ReceiverSetup {
                isn: pending.handshake.isn,
                window: self.config.flow_window,
                latency: receive_latency,
                arrived_at: pending.arrived_at,
                timestamp: pending.timestamp,
                rexmit_flag: hs.flags & hs_flags::REXMITFLG != 0,
            },
            // Both directions count from the caller's number.
            send_isn: pending.handshake.isn,
            send_window: (pending.handshake.flow_window as usize).max(2),
            send_buffer: self.config.send_buffer,
            send_latency,
            payload_max: payload_max(pending.handshake.mtu),
            peer_idle: micros(self.config.peer_idle),
            answer,
        };
        if let Some(old) = self.callers.insert((peer, caller_id), index as u32)
            && let Some(Slot::Live(conn)) = self.slots.get_mut(old as usize)
        {
            conn.mute();
            self.touch(now, old as usize);
        }
        self.half_open.add(peer, local_id, now);
        self.counters.connected += 1;
        let conn = ConnId(local_id);
        self.events.push_back(Event::Connected {
            conn,
            peer,
            role: Role::Listener,
            receive_latency: duration(receive_latency),
            send_latency: duration(send_latency),
        });
        self.place(now, index, Slot::Live(Box::new(Connection::new(now, setup))));
        Some(conn)
    }

    pub(super) fn reject_incoming(&mut self, now: Micros, id: IncomingId, reason: RejectReason) {
        let Some(pending) = self.listener.find(id) else { return };
        pending.refused = Some(reason);
        pending.expires_at = now + REFUSAL;
        let (peer, repr) = (pending.peer, pending.handshake);
        self.counters.refused += 1;
        self.answer_refusal(now, peer, &repr, reason);
    }

    /// Refuses callers the application did not answer, forgets old refusals.
    pub(super) fn expire_incoming(&mut self, now: Micros) {
        if self.listener.next_at > now {
            return;
        }
        for index in 0..self.listener.pending.len() {
            let Some(Some(pending)) = self.listener.pending.get(index) else { continue };
            if pending.expires_at > now {
                continue;
            }
            if pending.refused.is_some() {
                self.listener.remove(index);
            } else {
                let id = IncomingId(pending.id);
                self.reject_incoming(now, id, RejectReason::RESOURCE);
                self.events.push_back(Event::Expired { id });
            }
        }
        let waiting = self.listener.pending.iter().flatten().map(|pending| pending.expires_at);
        self.listener.next_at = waiting.min().unwrap_or(NEVER);
    }

    /// A connection slot is emptied.
    pub(super) fn forget_caller(&mut self, index: usize, conn: &Connection<P>) {
        let caller = (conn.setup.peer, conn.setup.peer_id);
        if self.callers.get(&caller) == Some(&(index as u32)) {
            self.callers.remove(&caller);
        }
    }

    fn answer_refusal(&mut self, now: Micros, peer: P, repr: &HandshakeRepr, reason: RejectReason) {
        let refusal = HandshakeRepr {
            version: 5,
            encryption: 0,
            extension: 0,
            kind: HandshakeKind::Reject(reason),
            ..*repr
        };
        self.answer(now, peer, &refusal);
    }

    /// Sends a handshake without extensions to the caller named in it.
    fn answer(&mut self, now: Micros, peer: P, repr: &HandshakeRepr) -> bool {
        let mut bytes = [0; 64];
        let written = emit_header(&mut bytes, ControlType::Handshake, 0, 0, now as u32, repr.socket_id)
            .and_then(|len| repr.emit(bytes.get_mut(len..)?));
        written.is_some() && self.reply(peer, bytes)
    }
}

/// The whole datagram that completes a handshake.
fn conclusion_answer(repr: &HandshakeRepr, hs: &HsExtension, dst: u32) -> Option<Bytes> {
    let mut bytes = [0; 16 + HANDSHAKE_LEN + 16];
    let mut len = emit_header(&mut bytes, ControlType::Handshake, 0, 0, 0, dst)?;
    len += repr.emit(bytes.get_mut(len..)?)?;
    let mut extensions = ExtensionWriter::new(bytes.get_mut(len..)?);
    extensions.hs(ExtensionKind::HsRsp, hs)?;
    len += extensions.finish();
    bytes.get(..len).map(Bytes::copy_from_slice)
}
