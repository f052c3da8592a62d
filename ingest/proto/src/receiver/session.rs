//! What can be known of the SRT session inside a group by watching it pass.
//!
//! The receiver does not take part in SRT. It learns the two socket IDs from the handshakes, follows the newest sequence
//! number, and with both decides whether a packet plausibly belongs to the session. Promises: what is only guessed (before
//! the server has accepted a handshake) costs at most the choice of return link. Once it has, the two IDs are pinned:
//! what is for another socket does not pass, unless it is a handshake that may begin another session. Such a session
//! replaces the one there is when its encoder has shown the cookie that went to it, or the server has accepted it; a
//! forged handshake alone ends nothing.

use crate::Seq;
use crate::wire::{Control, ControlType, Data, Handshake, HandshakeKind};

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
    /// The server has named both IDs.
    pinned: bool,
    /// The session before this one, whose late packets must not be taken for the present.
    retired_caller: Option<u32>,
    retired_server: Option<u32>,
    /// Another encoder socket that shakes hands, and the cookie the server gave it.
    candidate: Option<(u32, Option<u32>)>,
    strays: u8,
}

/// What a handshake means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Opening {
    /// Nothing new.
    None,
    /// Another encoder socket has begun a session while an older one exists; `old_server_id` if it was known.
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

    /// A packet from the encoder for this socket may pass.
    pub(super) fn admits_uplink(&self, dest: u32, is_handshake: bool) -> bool {
        !self.pinned || self.server_id == Some(dest) || (is_handshake && dest == 0)
    }

    /// A packet from the SRT server for this socket may pass.
    pub(super) fn admits_downlink(&self, dest: u32, is_handshake: bool) -> bool {
        !self.pinned || self.caller_id == Some(dest) || is_handshake
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
                if self.caller_id.is_none() && self.server_id.is_none() {
                    self.caller_id = Some(caller);
                } else {
                    self.candidate = Some((caller, None));
                }
                Opening::None
            }
            HandshakeKind::Conclusion if self.caller_id == Some(caller) => {
                self.newest_seq = self.newest_seq.or(Some(handshake.initial_seq.sub(1)));
                Opening::None
            }
            HandshakeKind::Conclusion if self.candidate == Some((caller, Some(handshake.cookie))) => {
                let opening = self.replace(caller);
                self.newest_seq = Some(handshake.initial_seq.sub(1));
                opening
            }
            _ => Opening::None,
        }
    }

    /// Follows a handshake from the SRT server.
    pub(super) fn follow_downlink(&mut self, caller: u32, handshake: &Handshake) -> Opening {
        match handshake.kind {
            HandshakeKind::Induction => {
                if let Some((candidate, cookie)) = &mut self.candidate
                    && *candidate == caller
                {
                    *cookie = Some(handshake.cookie);
                }
                Opening::None
            }
            HandshakeKind::Conclusion if handshake.socket_id != 0 && self.retired_caller != Some(caller) => {
                let opening = match self.caller_id {
                    Some(known) if known != caller => self.replace(caller),
                    _ => Opening::None,
                };
                self.caller_id = Some(caller);
                self.server_id = Some(handshake.socket_id);
                self.pinned = true;
                opening
            }
            _ => Opening::None,
        }
    }

    /// Begins the session of another encoder socket.
    fn replace(&mut self, caller: u32) -> Opening {
        let old_server_id = self.server_id;
        *self = Session {
            caller_id: Some(caller),
            retired_caller: self.caller_id,
            retired_server: self.server_id.or(self.retired_server),
            ..Session::default()
        };
        Opening::Replaced { old_server_id }
    }
}
