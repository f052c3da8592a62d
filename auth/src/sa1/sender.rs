//! The sender's side of one link: hello, join, confirmation (spec 8).
//!
//! Promises: nothing is believed that was not signed by the receiver for this very hello or join. A link is up, and its
//! keys change, only on a confirmation bound to the MAC of the join that was sent.

use super::keys::{DeviceKeys, GateKey, Label, LinkKeys, same_tag};
use super::wire::{
    Challenge, Confirmation, LayoutError, Message, PACKET_LEN, Refusal, SIGNED_LEN, SenderHalf, Short, Terms,
    View, challenge_or_join, hello,
};
use super::{Flags, GroupNonce, KeyId, LinkNonce, ListenerId, Nonce, StreamBind, take};
use std::fmt;

/// What a device was given to register with.
#[derive(Debug)]
pub struct Credentials {
    /// Names the key.
    pub key_id: KeyId,
    /// The key.
    pub keys: DeviceKeys,
    /// The listener's gate key.
    pub gate: GateKey,
    /// The receiver.
    pub listener: ListenerId,
    /// The stream.
    pub bind: StreamBind,
    /// Flags without which no receiver is accepted: whoever strips them gets no link.
    pub required: Flags,
}

/// What one hello says besides.
#[derive(Clone, Copy, Debug)]
pub struct Greeting {
    /// Random, drawn when the sender started; the same on all links.
    pub group: GroupNonce,
    /// Random, drawn for this hello.
    pub link_nonce: LinkNonce,
    /// The stable number of this modem.
    pub link_id: u32,
    /// How many links there will be.
    pub links: u16,
    /// What is offered.
    pub offered: Flags,
    /// The sender's version.
    pub caps: u16,
}

/// Why an answer was not believed. It is to be ignored as if it had not come.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Disbelief {
    /// Not of this layout, as every answer of a stock receiver.
    Layout(LayoutError),
    /// Not an answer to what was sent.
    NotMine,
    /// The MAC is wrong.
    Mac,
    /// Genuine, but the receiver does not accept what is required.
    Downgrade,
}

impl fmt::Display for Disbelief {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Layout(error) => write!(f, "layout: {error}"),
            Self::NotMine => f.write_str("answers something else"),
            Self::Mac => f.write_str("not from the receiver of this key"),
            Self::Downgrade => f.write_str("the receiver does not accept what is required"),
        }
    }
}

impl std::error::Error for Disbelief {}

impl From<LayoutError> for Disbelief {
    fn from(error: LayoutError) -> Self {
        Self::Layout(error)
    }
}

/// M1 as it was sent.
#[derive(Clone, Copy, Debug)]
pub struct Hello {
    half: SenderHalf,
    gate: GateKey,
    packet: [u8; PACKET_LEN],
}

impl Hello {
    /// Makes an M1. `sender_time_ms` is milliseconds since 1970, 0 without a clock. Every attempt needs a new nonce.
    pub fn new(credentials: &Credentials, greeting: &Greeting, sender_time_ms: u64) -> Self {
        let half = SenderHalf {
            message: Message::Hello,
            offered: greeting.offered,
            key_id: credentials.key_id,
            group: greeting.group,
            link_nonce: greeting.link_nonce,
            link_id: greeting.link_id,
            gate_epoch: credentials.gate.epoch(),
            sender_time_ms,
            listener: credentials.listener,
            bind: credentials.bind,
            links: greeting.links,
            caps: greeting.caps,
        };
        let mut packet = hello(&half.emit(&credentials.gate));
        credentials.keys.sign(Label::M1, &mut packet);
        Self { half, gate: credentials.gate, packet }
    }

    /// The datagram to send.
    pub const fn packet(&self) -> &[u8; PACKET_LEN] {
        &self.packet
    }

    /// Checks an M2 that answers this hello and makes the M3.
    ///
    /// # Errors
    /// Why the M2 is not believed.
    pub fn answer(
        &self,
        credentials: &Credentials,
        m2: &[u8],
        sender_time_ms: u64,
    ) -> Result<Join, Disbelief> {
        let challenge = challenge_to(credentials, m2, &[&self.packet])?;
        Ok(Join::new(self, credentials, &challenge, sender_time_ms))
    }

    /// Checks a tagged `REG_NAK` that answers this hello.
    ///
    /// # Errors
    /// Why it is not believed.
    pub fn refused(&self, credentials: &Credentials, datagram: &[u8]) -> Result<Refusal, Disbelief> {
        match Short::parse(datagram)? {
            (Short::Refusal(refusal), head, tag) => {
                let mac1 = take(&self.packet, SIGNED_LEN);
                if same_tag(credentials.keys.refusal_tag(&head, &mac1), tag) {
                    Ok(refusal)
                } else {
                    Err(Disbelief::Mac)
                }
            }
            (Short::Confirmation(_), ..) => Err(LayoutError::Type.into()),
        }
    }
}

/// M3 as it was sent.
#[derive(Clone, Copy, Debug)]
pub struct Join {
    hello: Hello,
    challenge: Challenge,
    packet: [u8; PACKET_LEN],
}

/// How a join ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The link is up.
    Up(Up),
    /// It is not, and why.
    Refused(Refusal),
}

/// A confirmed link.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Up {
    /// What the receiver said.
    pub confirmation: Confirmation,
    /// The flags both sides agreed on.
    pub accepted: Flags,
    /// What the receiver told about itself.
    pub terms: Terms,
    /// The receiver's nonce: the same nonce again is the same link with the same keys.
    pub nonce: Nonce,
    /// The link's keys.
    pub keys: LinkKeys,
}

impl Join {
    fn new(hello: &Hello, credentials: &Credentials, challenge: &Challenge, sender_time_ms: u64) -> Self {
        // The gate epoch is bound by the cookie, so the tag must be of the hello's key even if another is in force now.
        let half = SenderHalf { message: Message::Join, sender_time_ms, ..hello.half };
        let mut packet = challenge_or_join(&half.emit(&hello.gate), challenge);
        credentials.keys.sign(Label::M3, &mut packet);
        Self { hello: *hello, challenge: *challenge, packet }
    }

    /// The datagram to send. A retransmission is these same bytes.
    pub const fn packet(&self) -> &[u8; PACKET_LEN] {
        &self.packet
    }

    /// Checks an M2 that came after this join and makes the M3 that answers it; `None` when it is the challenge that was
    /// already answered, for which [`Self::packet`] goes out once more.
    ///
    /// # Errors
    /// Why the M2 is not believed.
    pub fn answer(
        &self,
        credentials: &Credentials,
        m2: &[u8],
        sender_time_ms: u64,
    ) -> Result<Option<Self>, Disbelief> {
        let challenge = challenge_to(credentials, m2, &[&self.packet, &self.hello.packet])?;
        let repeated = challenge.nonce == self.challenge.nonce;
        Ok((!repeated).then(|| Self::new(&self.hello, credentials, &challenge, sender_time_ms)))
    }

    /// Checks a REG3 or `REG_NAK` that answers this join.
    ///
    /// # Errors
    /// Why it is not believed.
    pub fn confirm(&self, credentials: &Credentials, datagram: &[u8]) -> Result<Outcome, Disbelief> {
        let (short, head, tag) = Short::parse(datagram)?;
        let mac3 = take(&self.packet, SIGNED_LEN);
        let keys = &credentials.keys;
        let expected = match short {
            Short::Confirmation(_) => keys.confirm_tag(&head, &mac3),
            Short::Refusal(_) => keys.refusal_tag(&head, &mac3),
        };
        if !same_tag(expected, tag) {
            return Err(Disbelief::Mac);
        }
        let half = &self.hello.half;
        match short {
            Short::Refusal(refusal) => Ok(Outcome::Refused(refusal)),
            Short::Confirmation(confirmation) if confirmation.link_id != half.link_id => {
                Err(Disbelief::NotMine)
            }
            Short::Confirmation(confirmation) => Ok(Outcome::Up(Up {
                confirmation,
                accepted: self.challenge.accepted,
                terms: self.challenge.terms,
                nonce: self.challenge.nonce,
                keys: keys.link(&half.group, &half.link_nonce, &self.challenge.nonce, half.link_id),
            })),
        }
    }
}

/// Checks an M2 against the packets it may answer.
fn challenge_to(
    credentials: &Credentials,
    m2: &[u8],
    sent: &[&[u8; PACKET_LEN]],
) -> Result<Challenge, Disbelief> {
    let view = View::new(m2)?;
    let (_, challenge) = view.m2()?;
    if !sent.iter().any(|packet| packet[2..130] == view.bytes()[2..130]) {
        return Err(Disbelief::NotMine);
    }
    if !credentials.keys.verify(Label::M2, view.bytes()) {
        return Err(Disbelief::Mac);
    }
    if !challenge.accepted.contains(credentials.required) {
        return Err(Disbelief::Downgrade);
    }
    Ok(challenge)
}
