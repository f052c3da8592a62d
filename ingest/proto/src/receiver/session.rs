//! What can be known of the SRT session inside a group by watching it pass.
//!
//! The receiver does not take part in SRT. It learns the two socket IDs from the handshakes, follows the newest sequence
//! number, and with both decides whether a packet plausibly belongs to the session. Promise: a wrong guess costs at most
//! the choice of return link; packets of members are forwarded whatever is thought of them here.

use crate::Seq;
use crate::wire::{Control, ControlType, Data, HandshakeKind};

/// After this many implausible data packets in a row the session is believed to have moved on.
const STRAYS_MAX: u8 = 64;

/// The SRT session a group is thought to carry.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Session {
    /// Socket ID of the encoder.
    pub caller_id: Option<u32>,
    /// Socket ID of the SRT server; uplink packets are addressed to it.
    pub server_id: Option<u32>,
    /// Newest plausible sequence number from the encoder.
    pub newest_seq: Option<Seq>,
    /// The session before this one, whose late packets must not be taken for the present.
    retired_caller: Option<u32>,
    retired_server: Option<u32>,
    strays: u8,
}

/// What a handshake on the uplink means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Opening {
    /// Nothing new.
    None,
    /// Another encoder socket begins a session while an older one exists; `old_server_id` if it was known.
    Replaced { old_server_id: Option<u32> },
}

impl Session {
    /// Follows a data packet. `true` when it plausibly belongs to the session.
    pub(super) fn follow_data(&mut self, data: &Data<'_>, seq_window: u32, may_teach: bool) -> bool {
        let dest = data.dest_socket_id();
        if self.server_id.is_none() && self.caller_id.is_none() && dest != 0 && may_teach {
            // No handshake was seen: the receiver was restarted in mid-stream.
            self.server_id = Some(dest);
        }
        match self.server_id {
            Some(server) if server != dest => return false,
            None if self.retired_server == Some(dest) => return false,
            _ => {}
        }
        let seq = data.seq();
        match self.newest_seq {
            Some(newest) if !seq.is_within(newest, seq_window) => {
                if !may_teach {
                    return false;
                }
                self.strays += 1;
                if self.strays < STRAYS_MAX {
                    return false;
                }
                self.newest_seq = Some(seq);
            }
            Some(newest) if !seq.is_after(newest) => {}
            Some(_) => self.newest_seq = Some(seq),
            None if may_teach => self.newest_seq = Some(seq),
            None => return false,
        }
        self.strays = 0;
        true
    }

    /// `data` could belong to the session, judged without following it. Needs both socket ID and sequence number known.
    pub(super) fn would_accept(&self, data: &Data<'_>, seq_window: u32) -> bool {
        self.server_id == Some(data.dest_socket_id())
            && self.newest_seq.is_some_and(|newest| data.seq().is_within(newest, seq_window))
    }

    /// A control packet from the encoder plausibly belongs to the session.
    pub(super) fn accepts_control(&self, control: &Control<'_>) -> bool {
        let dest = control.dest_socket_id();
        let opens = dest == 0 && control.control_type() == ControlType::Handshake;
        opens || self.server_id.is_none_or(|server| server == dest)
    }

    /// Follows a control packet from the encoder.
    pub(super) fn follow_uplink(&mut self, control: &Control<'_>) -> Opening {
        let Some(handshake) = control.handshake().filter(|_| control.dest_socket_id() == 0) else {
            return Opening::None;
        };
        let caller = handshake.socket_id;
        match handshake.kind {
            HandshakeKind::Induction => {
                if self.caller_id == Some(caller) || self.retired_caller == Some(caller) {
                    return Opening::None;
                }
                let existed = self.caller_id.is_some() || self.server_id.is_some();
                let old_server_id = self.server_id;
                *self = Session {
                    caller_id: Some(caller),
                    retired_caller: self.caller_id,
                    retired_server: self.server_id.or(self.retired_server),
                    ..Session::default()
                };
                if existed { Opening::Replaced { old_server_id } } else { Opening::None }
            }
            HandshakeKind::Conclusion if self.caller_id == Some(caller) => {
                self.newest_seq = self.newest_seq.or(Some(handshake.initial_seq.sub(1)));
                Opening::None
            }
            _ => Opening::None,
        }
    }

    /// Follows a control packet from the SRT server.
    pub(super) fn follow_downlink(&mut self, control: &Control<'_>) {
        let Some(handshake) = control.handshake() else { return };
        let caller = control.dest_socket_id();
        if handshake.kind == HandshakeKind::Conclusion
            && handshake.socket_id != 0
            && self.caller_id.is_none_or(|known| known == caller)
        {
            self.caller_id = Some(caller);
            self.server_id = Some(handshake.socket_id);
        }
    }
}
