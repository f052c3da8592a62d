//! The receiver's side: what it checks, in which order, and what it answers (spec 5).
//!
//! Promises: M1 leaves nothing behind but its mark in a bounded filter. A [`ProvenJoin`] exists only for an M3 whose MAC
//! is right and whose cookie was sent to the address the M3 came from, at most 30 s ago. Nothing is answered unless a
//! MAC was right, and no answer is longer than what it answers.

use super::keys::{
    CookieInput, CookieKeys, DeviceKey, GateKeys, Keyring, Label, LinkKeys, Standing, same_tag,
};
use super::replay::SeenFilter;
use super::wire::{
    Challenge, Confirmation, LayoutError, PACKET_LEN, REG1, Refusal, RefusalCode, SHORT_LEN, SenderHalf,
    Terms, View, challenge_or_join, short,
};
use super::{CLOCK_SKEW_MS_MAX, COOKIE_AGE_MS_MAX, Flags, GroupNonce, KeyId, ListenerId, Nonce, Now};
use crate::Verified;
use std::cmp::Ordering;
use std::fmt;
use std::net::SocketAddr;

/// Which budget a MAC is paid from. Each lane is fed by what was proven before it, so that whoever lacks the proof
/// cannot drain the lane of those who have it (spec 5.3).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Lane {
    /// MAC1: the gate tag was right and the key exists. A bucket per key and one per core.
    Hello,
    /// The cookie's MAC: the gate tag was right and the cookie is of our time.
    Cookie,
    /// MAC3: the address is proven. A bucket per address.
    Join,
    /// MAC3 of a join whose cookie is no good.
    Rechallenge,
}

/// Decides whether one more MAC may be computed.
pub trait Budget {
    /// Takes one MAC from a lane; false when the lane is empty.
    fn take(&mut self, lane: Lane, from: SocketAddr, key_id: KeyId) -> bool;
}

/// A budget without limits, for tests and tools.
#[derive(Clone, Copy, Debug)]
pub struct Unlimited;

impl Budget for Unlimited {
    fn take(&mut self, _: Lane, _: SocketAddr, _: KeyId) -> bool {
        true
    }
}

/// Why a datagram was not taken: the first check that failed (spec 5.4).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Reject {
    /// Not of this layout. [`LayoutError::Magic`] and [`LayoutError::Version`] may be a stock sender's random ID.
    Layout(LayoutError),
    /// Meant for another receiver.
    Listener,
    /// No gate key of this epoch.
    GateEpoch,
    /// The gate tag is wrong.
    GateTag,
    /// A budget is empty.
    Budget(Lane),
    /// No such key, or a revoked one.
    UnknownKey,
    /// The MAC of the hello is wrong.
    Mac1,
    /// This hello was seen before.
    Replayed,
    /// The sender has no clock, or a wrong one, and its key demands one. Answered.
    Clock,
    /// The key is past its life. Answered.
    KeyExpired,
    /// The cookie's key is gone (or was never ours).
    CookieEpoch,
    /// The cookie is older than 30 s, or from the future.
    CookieAge,
    /// The cookie was made for another address or another hello, or not by us.
    CookieMac,
    /// The MAC of the join is wrong.
    Mac3,
    /// A genuine join without a good cookie, of no living group and no trustworthy time: a replay, as far as we can tell.
    Stale,
}

impl Reject {
    /// Every reason.
    pub const ALL: [Self; 25] = [
        Self::Layout(LayoutError::Length),
        Self::Layout(LayoutError::Type),
        Self::Layout(LayoutError::Magic),
        Self::Layout(LayoutError::Version),
        Self::Layout(LayoutError::Message),
        Self::Layout(LayoutError::Flags),
        Self::Layout(LayoutError::Reserved),
        Self::Layout(LayoutError::Code),
        Self::Listener,
        Self::GateEpoch,
        Self::GateTag,
        Self::Budget(Lane::Hello),
        Self::Budget(Lane::Cookie),
        Self::Budget(Lane::Join),
        Self::Budget(Lane::Rechallenge),
        Self::UnknownKey,
        Self::Mac1,
        Self::Replayed,
        Self::Clock,
        Self::KeyExpired,
        Self::CookieEpoch,
        Self::CookieAge,
        Self::CookieMac,
        Self::Mac3,
        Self::Stale,
    ];

    /// A short name for counters.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Layout(error) => error.as_str(),
            Self::Listener => "listener",
            Self::GateEpoch => "gate_epoch",
            Self::GateTag => "gate_tag",
            Self::Budget(Lane::Hello) => "budget_hello",
            Self::Budget(Lane::Cookie) => "budget_cookie",
            Self::Budget(Lane::Join) => "budget_join",
            Self::Budget(Lane::Rechallenge) => "budget_rechallenge",
            Self::UnknownKey => "unknown_key",
            Self::Mac1 => "mac1",
            Self::Replayed => "replayed",
            Self::Clock => "clock",
            Self::KeyExpired => "key_expired",
            Self::CookieEpoch => "cookie_epoch",
            Self::CookieAge => "cookie_age",
            Self::CookieMac => "cookie_mac",
            Self::Mac3 => "mac3",
            Self::Stale => "stale",
        }
    }
}

impl fmt::Display for Reject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::error::Error for Reject {}

impl From<LayoutError> for Reject {
    fn from(error: LayoutError) -> Self {
        Self::Layout(error)
    }
}

/// A datagram that was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rejected {
    /// Why.
    pub reason: Reject,
    /// A tagged `REG_NAK` to send back; in most cases nothing.
    pub answer: Option<[u8; SHORT_LEN]>,
}

impl<R: Into<Reject>> From<R> for Rejected {
    fn from(reason: R) -> Self {
        Self { reason: reason.into(), answer: None }
    }
}

/// A device that said hello, or that joined without a good cookie. Its address is not proven: only
/// [`Verifier::challenge`] or [`ProvenHello::refuse`] may follow.
#[derive(Clone, Debug)]
pub struct ProvenHello<'k> {
    claims: Verified<SenderHalf>,
    half: [u8; 128],
    mac: [u8; 32],
    key: &'k DeviceKey,
    from: SocketAddr,
}

impl ProvenHello<'_> {
    /// What the device said.
    pub const fn claims(&self) -> &Verified<SenderHalf> {
        &self.claims
    }

    /// Where the answer goes.
    pub const fn from(&self) -> SocketAddr {
        self.from
    }

    /// A tagged `REG_NAK`.
    pub fn refuse(&self, refusal: Refusal) -> [u8; SHORT_LEN] {
        refuse(self.key, &self.mac, refusal)
    }
}

/// What a join says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Claims {
    /// What the device said.
    pub sender: SenderHalf,
    /// The flags both sides agreed on.
    pub accepted: Flags,
    /// The receiver's nonce, which orders the joins of a link.
    pub nonce: Nonce,
}

/// A device that joined from an address it was reached at.
#[derive(Clone, Debug)]
pub struct ProvenJoin<'k> {
    claims: Verified<Claims>,
    mac: [u8; 32],
    key: &'k DeviceKey,
    from: SocketAddr,
}

impl ProvenJoin<'_> {
    /// What was agreed.
    pub const fn claims(&self) -> &Verified<Claims> {
        &self.claims
    }

    /// The proven address.
    pub const fn from(&self) -> SocketAddr {
        self.from
    }

    /// The confirmation, M4. The same join always gets the same bytes.
    pub fn confirm(&self, link_handle: u16) -> [u8; SHORT_LEN] {
        let head = Confirmation {
            key_retiring: self.key.standing == Standing::Retiring,
            link_id: self.claims.sender.link_id,
            link_handle,
        }
        .head();
        short(&head, &self.key.keys.confirm_tag(&head, &self.mac))
    }

    /// A tagged `REG_NAK`.
    pub fn refuse(&self, refusal: Refusal) -> [u8; SHORT_LEN] {
        refuse(self.key, &self.mac, refusal)
    }

    /// The link's keys. Another nonce gives other keys; a repeated join gives the same and must not reset a window.
    pub fn link_keys(&self) -> LinkKeys {
        let sender = &self.claims.sender;
        self.key.keys.link(&sender.group, &sender.link_nonce, &self.claims.nonce, sender.link_id)
    }

    /// What this join is to the link of the same group and link ID, given that link's newest nonce and its address
    /// (spec 5.2).
    pub fn placement(&self, link: Option<(Nonce, SocketAddr)>) -> Placement {
        let Some((nonce, address)) = link else { return Placement::New };
        match (self.claims.nonce.cmp(&nonce), address == self.from) {
            (Ordering::Greater, true) => Placement::Renewed,
            (Ordering::Greater, false) => Placement::Moved,
            (Ordering::Equal, true) => Placement::Repeated,
            _ => Placement::Old,
        }
    }
}

/// What a join is to the link it names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Placement {
    /// There is no such link yet.
    New,
    /// The same join once more: confirm again and change nothing.
    Repeated,
    /// From the same address, newer: new keys.
    Renewed,
    /// From another address, newer: the old address leaves in the same step, new keys.
    Moved,
    /// Older than what the link has: drop it, or a replay drags the link back.
    Old,
}

/// What an M3 turned out to be.
#[derive(Clone, Debug)]
pub enum Joining<'k> {
    /// All was right.
    Proven(ProvenJoin<'k>),
    /// Genuine, but its cookie is no good, as after a NAT moved the link or a restart: challenge it anew.
    Rechallenge(ProvenHello<'k>, Reject),
}

/// The receiver of one listener, on one shard.
#[derive(Debug)]
pub struct Verifier {
    listener: ListenerId,
    gate: Option<GateKeys>,
    cookies: CookieKeys,
    seen: SeenFilter,
}

impl Verifier {
    /// A receiver. Without `gate` the gate tag is not looked at.
    pub const fn new(
        listener: ListenerId,
        gate: Option<GateKeys>,
        cookies: CookieKeys,
        seen: SeenFilter,
    ) -> Self {
        Self { listener, gate, cookies, seen }
    }

    /// Replaces the gate keys.
    pub const fn set_gate(&mut self, gate: Option<GateKeys>) {
        self.gate = gate;
    }

    /// Checks an M1 (spec 5.1). What follows a success is policy, then [`Self::challenge`] or [`ProvenHello::refuse`].
    ///
    /// # Errors
    /// The first check that failed, and the answer if there is one.
    pub fn m1<'k>(
        &mut self,
        datagram: &[u8],
        from: SocketAddr,
        now: Now,
        keyring: &'k impl Keyring,
        budget: &mut impl Budget,
    ) -> Result<ProvenHello<'k>, Rejected> {
        let view = View::new(datagram)?;
        let half = match view.m1() {
            Err(LayoutError::Version) => return Err(self.other_version(view, from, keyring, budget)),
            parsed => parsed?,
        };
        self.aimed_here(view, &half)?;
        let key = keyring.device(half.key_id).ok_or(Reject::UnknownKey)?;
        spend(budget, Lane::Hello, from, half.key_id)?;
        if !key.keys.verify(Label::M1, view.bytes()) {
            return Err(Reject::Mac1.into());
        }
        if !self.seen.insert(&half.key_id, &half.link_nonce, now.boot_ms) {
            return Err(Reject::Replayed.into());
        }
        let mac = view.mac();
        in_life(key, &mac)?;
        if !key.clockless_allowed && !clock_is_right(&half, now) {
            let refusal = Refusal::new(RefusalCode::ClockRequired, 0);
            return Err(Rejected { reason: Reject::Clock, answer: Some(refuse(key, &mac, refusal)) });
        }
        Ok(ProvenHello { claims: Verified::vouch(half), half: view.half(), mac, key, from })
    }

    /// The M2 for a hello: accepts what is both offered and in `accept`.
    pub fn challenge(
        &mut self,
        hello: &ProvenHello<'_>,
        now: Now,
        random: &[u8; 10],
        accept: Flags,
        terms: Terms,
    ) -> [u8; PACKET_LEN] {
        self.cookies.turn(now.boot_ms);
        let cookie_epoch = self.cookies.epoch();
        let accepted = hello.claims.offered.both(accept).both(Flags::ACCEPTABLE);
        let nonce = Nonce::issue(now.boot_ms, random);
        let input =
            CookieInput { from: hello.from, half: &hello.half, nonce, server_time_ms: now.wall_ms, accepted };
        // The current epoch's key is always there.
        let cookie = self.cookies.cookie(cookie_epoch, &input).unwrap_or_default();
        let challenge =
            Challenge { accepted, cookie_epoch, server_time_ms: now.wall_ms, nonce, cookie, terms };
        let mut packet = challenge_or_join(&hello.half, &challenge);
        hello.key.keys.sign(Label::M2, &mut packet);
        packet
    }

    /// Checks an M3 (spec 5.2). `group_lives` says whether the group of this key and nonce has links.
    ///
    /// # Errors
    /// The first check that failed, and the answer if there is one.
    pub fn m3<'k>(
        &mut self,
        datagram: &[u8],
        from: SocketAddr,
        now: Now,
        keyring: &'k impl Keyring,
        budget: &mut impl Budget,
        group_lives: impl FnOnce(KeyId, &GroupNonce) -> bool,
    ) -> Result<Joining<'k>, Rejected> {
        let view = View::new(datagram)?;
        let (half, challenge) = view.m3()?;
        self.aimed_here(view, &half)?;
        let flaw = self.cookie_flaw(view, &half, &challenge, from, now, budget)?;
        let key = keyring.device(half.key_id).ok_or(Reject::UnknownKey)?;
        let lane = if flaw.is_none() { Lane::Join } else { Lane::Rechallenge };
        spend(budget, lane, from, half.key_id)?;
        if !key.keys.verify(Label::M3, view.bytes()) {
            return Err(flaw.unwrap_or(Reject::Mac3).into());
        }
        let mac = view.mac();
        in_life(key, &mac)?;
        let Some(flaw) = flaw else {
            let claims = Claims { sender: half, accepted: challenge.accepted, nonce: challenge.nonce };
            return Ok(Joining::Proven(ProvenJoin { claims: Verified::vouch(claims), mac, key, from }));
        };
        if key.clockless_allowed || clock_is_right(&half, now) || group_lives(half.key_id, &half.group) {
            let hello = ProvenHello { claims: Verified::vouch(half), half: view.half(), mac, key, from };
            Ok(Joining::Rechallenge(hello, flaw))
        } else {
            Err(Reject::Stale.into())
        }
    }

    fn aimed_here(&self, view: View<'_>, half: &SenderHalf) -> Result<(), Reject> {
        if half.listener != self.listener {
            return Err(Reject::Listener);
        }
        self.gate(view, half.gate_epoch)
    }

    fn gate(&self, view: View<'_>, epoch: u32) -> Result<(), Reject> {
        let Some(gate) = &self.gate else { return Ok(()) };
        let key = gate.get(epoch).ok_or(Reject::GateEpoch)?;
        if view.gate_ok(key) { Ok(()) } else { Err(Reject::GateTag) }
    }

    /// What is wrong with the cookie, if anything. An error only when the budget is empty.
    fn cookie_flaw(
        &mut self,
        view: View<'_>,
        half: &SenderHalf,
        challenge: &Challenge,
        from: SocketAddr,
        now: Now,
        budget: &mut impl Budget,
    ) -> Result<Option<Reject>, Reject> {
        self.cookies.turn(now.boot_ms);
        if !self.cookies.knows(challenge.cookie_epoch) {
            return Ok(Some(Reject::CookieEpoch));
        }
        if !cookie_age_is_good(challenge.nonce.issued_ms(), now.boot_ms) {
            return Ok(Some(Reject::CookieAge));
        }
        spend(budget, Lane::Cookie, from, half.key_id)?;
        let input = CookieInput {
            from,
            half: &view.half(),
            nonce: challenge.nonce,
            server_time_ms: challenge.server_time_ms,
            accepted: challenge.accepted,
        };
        let good = self
            .cookies
            .cookie(challenge.cookie_epoch, &input)
            .is_some_and(|cookie| same_tag(cookie, challenge.cookie));
        Ok(if good { None } else { Some(Reject::CookieMac) })
    }

    /// A sender of a later version may fall back if it signs its M1 as this suite does: tell it, tagged, what is spoken
    /// here. Everything else of another version is met with silence (spec 6).
    fn other_version(
        &self,
        view: View<'_>,
        from: SocketAddr,
        keyring: &impl Keyring,
        budget: &mut impl Budget,
    ) -> Rejected {
        let silent = Rejected::from(LayoutError::Version);
        let (key_id, epoch) = view.invariants();
        if view.packet_type() != REG1 || self.gate(view, epoch).is_err() {
            return silent;
        }
        match keyring.device(key_id) {
            Some(key)
                if budget.take(Lane::Hello, from, key_id) && key.keys.verify(Label::M1, view.bytes()) =>
            {
                Rejected { answer: Some(refuse(key, &view.mac(), Refusal::version())), ..silent }
            }
            _ => silent,
        }
    }
}

/// A cookie is good from the moment it was issued until 30 s later, both included.
pub const fn cookie_age_is_good(issued_ms: u64, boot_ms: u64) -> bool {
    match boot_ms.checked_sub(issued_ms) {
        Some(age_ms) => age_ms <= COOKIE_AGE_MS_MAX,
        None => false,
    }
}

fn clock_is_right(half: &SenderHalf, now: Now) -> bool {
    half.sender_time_ms != 0
        && !half.offered.contains(Flags::CLOCKLESS)
        && half.sender_time_ms.abs_diff(now.wall_ms) <= CLOCK_SKEW_MS_MAX
}

fn in_life(key: &DeviceKey, mac: &[u8; 32]) -> Result<(), Rejected> {
    if key.standing != Standing::Expired {
        return Ok(());
    }
    let refusal = Refusal::new(RefusalCode::KeyExpired, 0);
    Err(Rejected { reason: Reject::KeyExpired, answer: Some(refuse(key, mac, refusal)) })
}

fn spend(budget: &mut impl Budget, lane: Lane, from: SocketAddr, key_id: KeyId) -> Result<(), Reject> {
    if budget.take(lane, from, key_id) { Ok(()) } else { Err(Reject::Budget(lane)) }
}

fn refuse(key: &DeviceKey, mac: &[u8; 32], refusal: Refusal) -> [u8; SHORT_LEN] {
    let head = refusal.head();
    short(&head, &key.keys.refusal_tag(&head, mac))
}
