//! Holds what a caller asks for in its stream ID against the policy, the same way for both outputs.
//!
//! In relay mode the SRT engine asks; in forward mode the shard reads the caller's CONCLUSION in passing, which is the one
//! packet that holds the stream ID. Promise: an answer to a refused caller is never longer than what it answers.

use std::time::Instant;

use bondgate_auth::stream::{Ask, Grant, Proof, StreamRefusal, TokenId, Wish};
use bondgate_proto::receiver::{GroupProof, Receiver};
use bondgate_srt::RejectReason;
use bondgate_srt::packet::{
    self, Control, ExtensionKind, HANDSHAKE_LEN, HandshakeKind, HandshakeRepr, HandshakeView, STREAM_ID_MAX,
    ext_flags,
};

use super::notice::{Notice, Notices};
use super::relay::Peer;
use super::stream_id::{self, StreamRequest};
use crate::policy::Policy;

/// Why a caller was refused: SRT code, stable label for metrics, a sentence for the log.
#[derive(Debug)]
pub struct Refusal {
    /// SRT rejection code without the 1000 that goes on the wire.
    pub code: u16,
    /// For counters.
    pub label: &'static str,
    /// For people.
    pub why: String,
}

impl Refusal {
    /// The caller showed a token that there is not. Whoever only forgot one, mistyped it, or comes second, has a right to
    /// be clumsy.
    pub fn is_guess(&self) -> bool {
        self.label == "token_unknown"
    }

    /// The policy says no, and not the state of the stream.
    pub fn is_of_policy(&self) -> bool {
        matches!(self.code, 1400 | 1401 | 1403)
    }
}

impl From<StreamRefusal> for Refusal {
    fn from(refusal: StreamRefusal) -> Self {
        Self { code: refusal.code, label: refusal.label, why: refusal.why }
    }
}

/// Reads a stream ID, or says why it cannot be read.
///
/// # Errors
/// 1400, with the reason.
pub fn read(raw: &[u8]) -> Result<StreamRequest<'_>, Refusal> {
    stream_id::parse(raw).map_err(|error| Refusal {
        code: 1400,
        label: "bad_stream_id",
        why: error.explain().to_owned(),
    })
}

/// A stream ID that is nobody's dialect, taken for a stream's name as a whole. `None` when it is not text.
pub fn verbatim(raw: &[u8]) -> Option<StreamRequest<'_>> {
    let name = std::str::from_utf8(raw).ok()?;
    Some(StreamRequest { wish: Wish::Publish, name, token: None })
}

/// Room for [`Conclusion::refuse`].
pub const REFUSAL_LEN: usize = packet::HEADER_LEN + HANDSHAKE_LEN;

/// The policy, and what is known about callers.
#[derive(Clone, Copy)]
pub struct Gatekeeper<'a> {
    /// The rules in force.
    pub policy: &'a Policy,
    /// Knows what groups have proven.
    pub receiver: &'a Receiver,
    /// Milliseconds since 1970.
    pub wall_ms: u64,
}

impl Gatekeeper<'_> {
    /// Whether `peer` may do what it asks with the stream `name`.
    ///
    /// # Errors
    /// Why not.
    pub fn decide(&self, peer: Peer, request: &StreamRequest<'_>, name: &str) -> Result<Grant, Refusal> {
        let (from, proof) = match peer {
            Peer::Plain(addr) => {
                let ip = addr.ip().to_canonical();
                (ip, Proof::Plain { listed: self.policy.is_listed(ip) })
            }
            Peer::Bonded(group) => {
                let known = self.receiver.group_addr(group).zip(self.receiver.group_proof(group));
                let (ip, proof) = known.ok_or_else(|| Refusal {
                    code: 1401,
                    label: "group_gone",
                    why: "the caller's group is gone".to_owned(),
                })?;
                let proof = match proof {
                    GroupProof::Device { rules, bind, .. } => Proof::Device { rules, bind },
                    GroupProof::Stock { .. } => Proof::Stock { listed: self.policy.is_listed(ip) },
                };
                (ip, proof)
            }
        };
        let ask = Ask { wish: request.wish, stream: name, token: request.token, proof, from };
        Ok(self.policy.streams.decide(&ask, self.wall_ms)?)
    }

    /// Whether somebody may stay who was let in for the stream `name`, by `token` if one was needed. Of a group without a key one
    /// live link at a listed address is enough, whichever joined last. A group that is gone has its end elsewhere.
    pub fn keeps(&self, now: Instant, peer: Peer, wish: Wish, name: &str, token: Option<&TokenId>) -> bool {
        let proof = match peer {
            Peer::Plain(addr) => Proof::Plain { listed: self.policy.is_listed(addr.ip().to_canonical()) },
            Peer::Bonded(group) => match self.receiver.group_proof(group) {
                None => return true,
                Some(GroupProof::Device { rules, bind, .. }) => Proof::Device { rules, bind },
                Some(GroupProof::Stock { .. }) => {
                    let links = self.receiver.live_links(now, group).map(|(_, addr)| addr.ip());
                    let mut ips = links.chain(self.receiver.group_addr(group));
                    Proof::Stock { listed: ips.any(|ip| self.policy.is_listed(ip)) }
                }
            },
        };
        self.policy.serves(name) && self.policy.streams.keeps(wish, name, token, &proof)
    }
}

/// Counts refusals and tells about them.
#[derive(Debug)]
pub struct Refusals {
    counts: Vec<(&'static str, u64)>,
    notices: Notices,
}

impl Refusals {
    /// None yet.
    pub fn new(notices: Notices) -> Self {
        Self { counts: Vec::new(), notices }
    }

    /// One more.
    pub fn add(&mut self, peer: Peer, raw_stream_id: &[u8], refusal: Refusal) {
        match self.counts.iter_mut().find(|(label, _)| *label == refusal.label) {
            Some((_, count)) => *count += 1,
            None => self.counts.push((refusal.label, 1)),
        }
        self.notices.push(Notice::Rejected {
            peer: peer.to_string(),
            code: refusal.code,
            stream_id: without_token(raw_stream_id),
            why: refusal.why,
        });
    }

    /// Refusals since start, by label.
    pub fn counts(&self) -> &[(&'static str, u64)] {
        &self.counts
    }
}

/// A stream ID for the log: escaped, and without its token.
fn without_token(raw: &[u8]) -> String {
    let mut shown = raw.escape_ascii().to_string();
    if let Ok(StreamRequest { token: Some(token), .. }) = stream_id::parse(raw)
        && !token.is_empty()
    {
        shown = shown.replace(&token.escape_default().to_string(), "...");
    }
    shown
}

/// An SRT handshake packet, by its first bytes.
pub fn is_handshake(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0x80, 0x00])
}

/// A caller's CONCLUSION, on its way to an SRT server.
pub struct Conclusion {
    handshake: HandshakeRepr,
    timestamp: u32,
    stream_id: [u8; STREAM_ID_MAX],
    stream_id_len: usize,
    is_ambiguous: bool,
}

impl Conclusion {
    /// Reads one; `None` for every other packet.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let Ok(packet::Packet::Control(control)) = packet::parse(bytes) else { return None };
        let Ok(Control::Handshake(view)) = control.control() else { return None };
        if view.repr().kind != HandshakeKind::Conclusion {
            return None;
        }
        let mut conclusion = Self {
            handshake: *view.repr(),
            timestamp: control.timestamp(),
            stream_id: [0; STREAM_ID_MAX],
            stream_id_len: 0,
            is_ambiguous: false,
        };
        let mut ids = 0;
        for block in view.extensions() {
            match block {
                Ok(block) if block.kind == ExtensionKind::Sid => {
                    ids += 1;
                    let read = block.text(&mut conclusion.stream_id);
                    conclusion.stream_id_len = *read.as_ref().unwrap_or(&0);
                    conclusion.is_ambiguous |= read.is_err();
                }
                Ok(_) => {}
                Err(_) => conclusion.is_ambiguous = true,
            }
        }
        let announced = view.repr().extension & ext_flags::CONFIG != 0;
        conclusion.is_ambiguous |= ids > 1 || (ids == 1 && !announced);
        Some(conclusion)
    }

    /// The stream ID, in reading order; none for callers that send none.
    ///
    /// # Errors
    /// 1400: another reader could find another stream ID in this packet, so it must not pass.
    pub fn stream_id(&self) -> Result<&[u8], Refusal> {
        if self.is_ambiguous {
            return Err(Refusal {
                code: 1400,
                label: "bad_handshake",
                why: "its handshake is malformed or holds more than one stream ID".to_owned(),
            });
        }
        Ok(self.stream_id.get(..self.stream_id_len).unwrap_or_default())
    }

    /// The answer of a server that refuses, written to `out`; its length.
    pub fn refuse(&self, code: u16, out: &mut [u8]) -> Option<usize> {
        let kind = HandshakeKind::Reject(RejectReason::from_code(code));
        let mut body = [0; HANDSHAKE_LEN];
        HandshakeRepr { kind, ..self.handshake }.emit(&mut body)?;
        let answer = Control::Handshake(HandshakeView::parse(&body).ok()?);
        answer.emit(self.timestamp, self.handshake.socket_id, out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use bondgate_auth::ticket::TicketKey;
    use bondgate_proto::receiver::{Clock, ReceiverConfig, Secrets};
    use bondgate_srt::packet::ExtensionWriter;
    use bondgate_srt::{ConnectOptions, Endpoint, EndpointConfig};
    use std::time::{Duration, Instant};

    /// What a caller sends with a stream ID, as our engine's caller makes it.
    fn conclusion(stream_id: &str) -> Vec<u8> {
        let now = Instant::now();
        let config = EndpointConfig { connections_max: 2, ..EndpointConfig::default() };
        let mut listener = Endpoint::new(config.clone(), [1; 16], 1, now);
        let mut caller = Endpoint::new(EndpointConfig { listen: false, ..config }, [2; 16], 2, now);
        let stream_id = bytes::Bytes::copy_from_slice(stream_id.as_bytes());
        caller.connect(now, (), ConnectOptions { stream_id, ..ConnectOptions::default() }).unwrap();
        let mut buf = [0; bondgate_srt::TRANSMIT_MIN];
        let induction = caller.poll_transmit(now, &mut buf).unwrap().len;
        assert!(Conclusion::read(&buf[..induction]).is_none(), "an INDUCTION asks for nothing yet");
        listener.handle(now, (), 0, &buf[..induction]);
        let answer = listener.poll_transmit(now, &mut buf).unwrap().len;
        caller.handle(now, (), 0, &buf[..answer]);
        caller.handle_timeout(now + Duration::from_millis(300));
        let len = caller.poll_transmit(now + Duration::from_millis(300), &mut buf).unwrap().len;
        buf[..len].to_vec()
    }

    fn with_extension_field(packet: &[u8], field: u16) -> Vec<u8> {
        let mut packet = packet.to_vec();
        packet[22..24].copy_from_slice(&field.to_be_bytes());
        packet
    }

    #[test]
    fn the_stream_id_is_read_in_passing() {
        for id in ["", "cam1", "#!::r=live/cam1,m=publish,bg_t=x", &"a".repeat(512)] {
            let packet = conclusion(id);
            assert!(is_handshake(&packet));
            let call = Conclusion::read(&packet).unwrap();
            assert_eq!(call.stream_id().unwrap(), id.as_bytes());
        }
        assert!(Conclusion::read(&[0; 100]).is_none());
    }

    #[test]
    fn what_two_readers_could_read_differently_does_not_pass() {
        let mut block = [0; 32];
        let mut writer = ExtensionWriter::new(&mut block);
        writer.text(ExtensionKind::Sid, b"other").unwrap();
        let len = writer.finish();
        let twice = [&conclusion("cam1")[..], &block[..len]].concat();
        let unannounced = with_extension_field(&conclusion("cam1"), ext_flags::HSREQ);
        let torn = [&conclusion("cam1")[..], &[0, 9, 0, 9]].concat();
        for packet in [twice, unannounced, torn] {
            let refusal = Conclusion::read(&packet).unwrap().stream_id().unwrap_err();
            assert_eq!((refusal.code, refusal.label), (1400, "bad_handshake"));
        }
    }

    #[test]
    fn a_refusal_is_one_and_no_longer_than_the_call() {
        let packet = conclusion("cam1");
        let mut answer = [0; REFUSAL_LEN];
        let len = Conclusion::read(&packet).unwrap().refuse(1403, &mut answer).unwrap();
        assert!(len <= packet.len());
        let Ok(packet::Packet::Control(control)) = packet::parse(&answer[..len]) else { panic!() };
        let Ok(Control::Handshake(view)) = control.control() else { panic!() };
        assert_eq!(view.repr().kind, HandshakeKind::Reject(RejectReason::from_code(1403)));
        assert_eq!(control.dst(), Conclusion::read(&packet).unwrap().handshake.socket_id);
    }

    #[test]
    fn the_log_does_not_show_tokens() {
        let notices = Notices::new(4);
        let mut refusals = Refusals::new(notices.clone());
        let peer = Peer::Plain(([192, 0, 2, 1], 5).into());
        for id in ["cam1?token=bgt_secret", "#!::r=cam1,m=publish,bg_t=bgt_secret"] {
            refusals.add(peer, id.as_bytes(), Refusal { code: 1401, label: "x", why: String::new() });
            let line = notices.pop().unwrap().to_string();
            assert!(line.contains("cam1") && !line.contains("secret"), "{line}");
        }
        assert_eq!(refusals.counts(), [("x", 2)]);
    }

    /// A stranger on the SRT port, with what an operator may have configured.
    #[test]
    fn a_plain_caller_gets_what_its_address_is_worth() {
        let now = Instant::now();
        let secrets = || Secrets { tickets: TicketKey::new([0; 32]), cookies: [0; 32], nonces: [0; 16] };
        let clock = Clock { at: now, boot_ms: 0, wall_ms: 0 };
        let decide = |set: &[(&str, &str)], from: [u8; 4], id: &str| {
            let mut config = Config::default();
            for (path, text) in set {
                let key = crate::config::keys::Key::find(path).unwrap();
                key.assign(&mut config, &crate::config::value::Value::from_text(text, key.kind())).unwrap();
            }
            let policy = Policy::compile(&config);
            let admission = policy.admission.clone();
            let receiver = Receiver::new(ReceiverConfig::default(), secrets(), admission, clock, [0; 2], 0);
            let keeper = Gatekeeper { policy: &policy, receiver: &receiver, wall_ms: 0 };
            let request = read(id.as_bytes()).unwrap();
            keeper
                .decide(Peer::Plain((from, 5).into()), &request, request.name)
                .map_err(|refusal| refusal.code)
        };
        let (studio, elsewhere) = ([192, 0, 2, 7], [198, 51, 100, 7]);
        assert_eq!(decide(&[], studio, "cam1").unwrap_err(), 1403, "a key is demanded by default");
        assert!(decide(&[], studio, "play/cam1").is_ok(), "players need the name only");
        let listed = [("srtla.stock_allow", "192.0.2.0/24"), ("streams.cidr", "cam1")];
        assert!(decide(&listed, studio, "cam1").is_ok());
        assert_eq!(decide(&listed, elsewhere, "cam1").unwrap_err(), 1401);
        assert_eq!(decide(&listed, studio, "cam2").unwrap_err(), 1403);
        assert!(decide(&[("srtla.auth", "open")], elsewhere, "cam2").is_ok());
        let token =
            [("srtla.auth", "mixed"), ("srtla.stock_allow", "0.0.0.0/0"), ("streams.default", "token")];
        assert_eq!(decide(&token, elsewhere, "cam1").unwrap_err(), 1401);
    }
}
