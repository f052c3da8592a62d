//! The SRTLA receiver as a state machine.
//!
//! One per shard, plain `&mut self`: no lock, no clock, no allocation after creation. Datagrams of senders go into
//! [`Receiver::handle_uplink`], datagrams of the SRT server into [`Receiver::handle_downlink`]; the [`Verdict`] says where
//! the *same bytes* go, and rare effects are appended to [`Actions`]. On links that have agreed on MACs on SRT packets they
//! are not quite the same: up, the trailer is left out ([`Receiver::forwarded_len`]); down, each such link gets a copy with
//! a trailer of its own ([`Receiver::sealed_copies`]).
//!
//! What it promises to senders (facts about stock senders: the BELABOX, irlserver and CERALIVE sources and Moblin):
//!
//! * REG1 is answered without keeping state and always with the same bytes, however often and over whichever links it
//!   comes. A group is born at the first REG2 that shows an ID we issued, so a restarted receiver takes its senders back
//!   in one round trip. No refusal is ever sent: `REG_ERR` and `REG_NAK` count as proof of life or reach the encoder
//!   with stock senders.
//! * A lost REG2 is repeated after 150 ms and a lost REG3 after 1 s, the latter only to links that are silent (an
//!   unexpected REG3 makes a talking Rust sender forget its packet log).
//! * SRT ACK and NAK go to every live link, everything else to the link that last carried plausible SRT.
//! * No datagram is lost without a [`DropReason`]; [`Counters::is_conserved`] holds after every call.
//!
//! What it promises to senders that hold a device key is in `docs/registration-auth.md`.
//!
//! And to everybody else: no table grows; an address that is not proven is sent no more bytes than came from it; a group
//! whose stream is not accepted passes nothing on but handshakes; and nothing is parsed twice.

mod actions;
mod admission;
mod bucket;
mod config;
mod counters;
mod downlink;
mod drops;
mod foreign;
mod groups;
mod lanes;
mod links;
mod members;
mod orders;
mod pending;
mod registration;
mod sa1;
mod seals;
mod session;
mod snapshot;
mod table;
mod time;
mod timers;
mod uplink;

pub use actions::{Action, Actions};
pub use admission::{Admission, Bar, Clock, GroupProof, Limits, Secrets, StockAdmission};
pub use bondgate_auth::bans::{Ban, BanSet, Scope};
pub use bondgate_auth::cidr::Cidr;
pub use bondgate_auth::prefix::PrefixSet;
pub use bucket::Rate;
pub use config::{ACK_EVERY_MAX, AdmitPolicy, LINKS_PER_GROUP_LIMIT, ReceiverConfig};
pub use counters::{Counters, Dropped};
pub use drops::DropReason;
pub use lanes::LaneRates;
pub use seals::SealedCopy;
pub use snapshot::{GroupSnapshot, GroupView, LinkSnapshot, LinkView};

use crate::wire::REG_LEN;
use crate::{GroupKey, LinkAddr, LinkKey};
use admission::Current;
use bondgate_auth::sa1::Now;
use bondgate_auth::ticket::TicketKey;
use bucket::Bucket;
use foreign::Foreign;
use groups::Groups;
use lanes::Lanes;
use links::{Link, Links};
use pending::Pending;
use sa1::Sa1;
use seals::Seals;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;
use table::KeyHash;
use time::{Origin, Time};

/// Where the bytes of a datagram go.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// To the group's forwarder or endpoint, without the trailer: [`Receiver::forwarded_len`] bytes.
    Forward(GroupKey),
    /// To every link [`Receiver::live_links`] names now.
    FanOut(GroupKey),
    /// To this link. From the uplink: back where it came from (a keepalive echo).
    ToLink(LinkKey),
    /// To the shard with this number.
    HandOff(u8),
    /// Nowhere; the receiver has dealt with it.
    Consumed,
    /// Nowhere, and this is why.
    Drop(DropReason),
}

/// An order from the control plane.
#[derive(Clone, Debug)]
pub enum Command {
    /// Tickets are issued for this epoch from now on; those of the neighbouring epochs stay valid.
    SetEpoch(u32),
    /// Remove the group with all its links. Its sender may register again.
    CloseGroup(GroupKey),
    /// Open no more groups, or open them again. Links may join the existing ones all the same.
    SetDraining(bool),
    /// This policy from now on. Groups it does not admit any more are closed: those of keys that are gone, and those of
    /// stock senders at addresses that are not named any more. Links at addresses that are banned or
    /// in the wrong country are removed.
    SetAdmission(Arc<Admission>),
    /// The clocks were read again.
    SetClock(Clock),
    /// The group may publish: its probation is over.
    StreamAccepted(GroupKey),
    /// The group may not publish what it asked for: it is on probation again.
    StreamRefused {
        /// The group.
        group: GroupKey,
        /// The SRT handshake was completed up to the refusal, with a cookie that nobody can guess: whoever asked
        /// receives what is sent to its address. Without it nothing is held against the address.
        proven: bool,
    },
    /// Another shard has a link at this address. To be said when a link joins and, for as long as it lives, in intervals well
    /// below [`ReceiverConfig::claim_life`]. Ignored while `actions` has no room.
    Claimed {
        /// The link's address.
        addr: LinkAddr,
        /// The shard that has it.
        owner: u8,
        /// It is a device's.
        proven: bool,
    },
    /// Another shard has no link at this address any more.
    Released {
        /// The address of a link that went away.
        addr: LinkAddr,
        /// The shard that had it.
        owner: u8,
    },
}

/// How often a datagram is handed over at most: once by the shard it came to, and once more by a shard that its link has
/// just left.
pub const HAND_OFFS_MAX: u8 = 2;

/// An event for people.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Notice {
    /// The first link of a new group has joined.
    GroupOpened {
        /// The new group.
        group: GroupKey,
    },
    /// A group is gone.
    GroupClosed {
        /// Its key, no longer valid.
        group: GroupKey,
        /// Why.
        reason: CloseReason,
    },
    /// A link has joined.
    LinkJoined {
        /// The link.
        link: LinkKey,
        /// Its group.
        group: GroupKey,
        /// Its address.
        addr: LinkAddr,
        /// It was adopted by its traffic, without REG2.
        roamed: bool,
    },
    /// A link is gone.
    LinkLeft {
        /// Its key, no longer valid.
        link: LinkKey,
        /// The group it belonged to.
        group: GroupKey,
        /// Its address.
        addr: LinkAddr,
        /// Why.
        reason: LeaveReason,
    },
    /// The encoder has begun a new SRT session inside a living group.
    SessionReplaced {
        /// The group.
        group: GroupKey,
    },
    /// Somebody who receives what is sent to this address failed to show a right to be here.
    Strike {
        /// The address.
        ip: IpAddr,
    },
}

/// Why a group was closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CloseReason {
    /// No link for the linger time.
    Timeout,
    /// Room was needed for another group.
    Evicted,
    /// Its last live link has registered for another group.
    Replaced,
    /// By command.
    Command,
    /// The policy does not admit it any more.
    Revoked,
    /// Its address is banned.
    Banned,
    /// Its address is in a country that may not come in.
    Country,
    /// Its address is not on the lists any more.
    NotAdmitted,
}

/// Why a link was removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LeaveReason {
    /// Silent for the link timeout.
    Timeout,
    /// Silent longest in a full group.
    Evicted,
    /// Its address joined another group.
    Moved,
    /// Its group was closed.
    GroupClosed,
    /// Its address is banned.
    Banned,
    /// Its address is in a country that may not come in.
    Country,
    /// Its address is not on the lists any more.
    NotAdmitted,
}

/// See the module's comment.
pub struct Receiver {
    config: ReceiverConfig,
    tickets: TicketKey,
    admission: Arc<Current>,
    clock: Clock,
    origin: Origin,
    sa1: Sa1,
    seals: Seals,
    lanes: Lanes,
    hash: KeyHash,
    epoch: u32,
    draining: bool,
    groups: Groups,
    links: Links,
    pending: Pending,
    foreign: Foreign,
    ngp: Option<Bucket>,
    last_link: Option<LinkKey>,
    forwarded_len: usize,
    counters: Counters,
}

impl Receiver {
    /// Takes all the memory it will ever use. `hash_seed` is random; `epoch` is the current ticket epoch.
    pub fn new(
        config: ReceiverConfig,
        secrets: Secrets,
        admission: Arc<Admission>,
        clock: Clock,
        hash_seed: [u64; 2],
        epoch: u32,
    ) -> Self {
        let config = config.clamped();
        let origin = Origin::new(clock.at);
        Self {
            hash: KeyHash::new(hash_seed),
            groups: Groups::new(&config),
            links: Links::new(&config, origin.time(clock.at)),
            pending: Pending::new(config.pending_max, config.reg2_repeat),
            foreign: Foreign::new(
                (config.foreign_max, config.foreign_idle),
                (config.claims_max, config.claim_life),
            ),
            ngp: None,
            sa1: Sa1::new(&admission, &secrets, clock.boot_ms, config.shard),
            seals: Seals::new(config.groups_max, config.links_per_group_max),
            lanes: Lanes::new(config.lanes, &admission, origin.time(clock.at)),
            tickets: secrets.tickets,
            admission: Arc::new(Current(admission)),
            clock,
            origin,
            epoch,
            draining: false,
            last_link: None,
            forwarded_len: 0,
            counters: Counters::default(),
            config,
        }
    }

    /// The configuration in force, after clamping.
    pub fn config(&self) -> &ReceiverConfig {
        &self.config
    }

    /// How much free room `Actions` must have for any one call: entries and bytes. With less, registrations are dropped
    /// with [`DropReason::ActionsFull`] and timers wait for the next call. Give it several times that.
    pub fn actions_min(&self) -> (usize, usize) {
        // The dearest call joins a link: its address leaves a group that closes (two actions per link, two for the
        // group), an older group of the same device gives way (the same), another is evicted (the same), a silent link
        // leaves (two), group and link are announced, the address is steered and answered.
        (6 * self.config.links_per_group_max + 6 + 2 + 4, REG_LEN)
    }

    /// Decides about a datagram that came from a sender. `from` is where it came from; echoes and replies go there.
    /// Actions of this call belong before the verdict.
    pub fn handle_uplink(
        &mut self,
        now: Instant,
        from: LinkAddr,
        bytes: &[u8],
        out: &mut Actions,
    ) -> Verdict {
        self.counters.received += 1;
        let verdict = self.uplink(self.origin.time(now), from, bytes, out);
        self.counters.count(verdict);
        debug_assert!(self.counters.is_conserved());
        verdict
    }

    /// Decides about a datagram that another shard has handed over. `hand_offs` says how often that was done to it, this
    /// time included; it is dropped rather than handed on for the third time.
    pub fn handle_handed_over(
        &mut self,
        now: Instant,
        from: LinkAddr,
        bytes: &[u8],
        hand_offs: u8,
        out: &mut Actions,
    ) -> Verdict {
        self.counters.taken_over += 1;
        let on_owner = self.counters.on_owner;
        let verdict = match self.uplink(self.origin.time(now), from, bytes, out) {
            Verdict::HandOff(_) if hand_offs >= HAND_OFFS_MAX => Verdict::Drop(DropReason::HandOffLoop),
            verdict => verdict,
        };
        self.counters.on_owner = on_owner;
        self.counters.count(verdict);
        debug_assert!(self.counters.is_conserved());
        verdict
    }

    /// The datagram of the last [`Verdict::HandOff`] could not be handed over: it is lost, and counted as such.
    pub fn hand_off_failed(&mut self) {
        self.counters.hand_off_failed();
    }

    /// Decides about a datagram that came from the SRT side of a group: `FanOut`, `ToLink` or `Drop`.
    pub fn handle_downlink(
        &mut self,
        now: Instant,
        group: GroupKey,
        bytes: &[u8],
        out: &mut Actions,
    ) -> Verdict {
        self.counters.received += 1;
        let verdict = self.downlink(self.origin.time(now), group, bytes, out);
        self.counters.count(verdict);
        debug_assert!(self.counters.is_conserved());
        verdict
    }

    /// Does what is due at `now`. When `out` has no room, the rest stays due.
    pub fn handle_timeout(&mut self, now: Instant, out: &mut Actions) {
        let now = self.origin.time(now);
        self.end_condemned(now, out);
        self.flush_acks(now, out);
        self.repeat_reg3(now, out);
        self.repeat_reg2(now, out);
        self.expire_links(now, out);
        self.expire_groups(now, out);
        self.pending.expire(now);
        self.foreign.expire(now);
    }

    /// When [`Receiver::handle_timeout`] has something to do next. O(1).
    pub fn poll_timeout(&self) -> Option<Instant> {
        [
            self.links.ack_flush.next(),
            self.links.reg3.next(),
            self.links.timeout.next(),
            self.pending.repeat.next(),
            self.pending.idle.next(),
            self.groups.condemned.next(),
            self.links.condemned.next(),
            self.groups.linger.next(),
            self.groups.ghost_linger.next(),
            self.foreign.next_end(),
        ]
        .into_iter()
        .flatten()
        .min()
        .map(|due| self.origin.instant(due))
    }

    /// Carries out an order. `out` must have the room [`Receiver::actions_min`] asks for; closing a group says whom to
    /// unsteer and what to close.
    pub fn handle_command(&mut self, now: Instant, command: Command, out: &mut Actions) {
        let now = self.origin.time(now);
        match command {
            Command::SetEpoch(epoch) => self.epoch = epoch,
            Command::SetDraining(draining) => self.draining = draining,
            Command::CloseGroup(key) => {
                if let Some(slot) = self.groups.slot_of(key) {
                    self.close_group(slot, CloseReason::Command, out);
                }
            }
            Command::SetAdmission(admission) => self.set_admission(now, admission, out),
            Command::SetClock(clock) => self.clock.set(clock),
            Command::StreamAccepted(group) => self.stream_accepted(group),
            Command::StreamRefused { group, proven } => self.stream_refused(now, group, proven, out),
            Command::Claimed { addr, owner, proven } => self.claimed(now, addr, owner, proven, out),
            Command::Released { addr, owner } => {
                self.foreign.release(addr, self.hash.of(&addr.octets()), owner);
            }
        }
    }

    /// The links a [`Verdict::FanOut`] just returned for `group` goes to. At other times: the links that are live and
    /// took part in the last fan-out.
    pub fn live_links(&self, now: Instant, group: GroupKey) -> impl Iterator<Item = (LinkKey, LinkAddr)> {
        let now = self.origin.time(now);
        self.groups
            .slot_of(group)
            .into_iter()
            .flat_map(|slot| self.links.fan_out(slot))
            .filter(move |(_, link)| link.is_live(now, self.config.link_live))
            .map(|(slot, link)| (self.links.key(slot), link.addr()))
    }

    /// Where a link sends from, `None` when it is gone.
    pub fn link_addr(&self, link: LinkKey) -> Option<LinkAddr> {
        self.links.get_key(link).map(Link::addr)
    }

    /// The links in a range of slots, each with its address and whether it is a device's. All links are in
    /// `0..`[`Receiver::link_slots`]; this is how they are named again in portions.
    pub fn links_in(&self, slots: std::ops::Range<u32>) -> impl Iterator<Item = (LinkAddr, bool)> {
        slots.filter_map(|slot| self.links.get(slot)).map(|link| (link.addr(), link.proven))
    }

    /// How many slots there are for links.
    pub fn link_slots(&self) -> u32 {
        (self.config.groups_max * self.config.links_per_group_max) as u32
    }

    /// The link's index within its group, stable while the link lives and small: `0..links_per_group_max`.
    pub fn link_index(&self, link: LinkKey) -> Option<u8> {
        self.links.get_key(link).map(|_| self.links.index_of(link.slot))
    }

    /// What the sender of a group has shown; `None` when the group is gone.
    pub fn group_proof(&self, group: GroupKey) -> Option<GroupProof<'_>> {
        let group = self.groups.get(self.groups.slot_of(group)?)?;
        let Some(device) = group.device() else {
            return Some(GroupProof::Stock { listed: self.admission.stock.lists(group.addr) });
        };
        let rules = &self.admission.keys.entry(&device.key_id)?.rules;
        Some(GroupProof::Device { rules, bind: device.bind, key_id: device.key_id })
    }

    /// Where the link of a group that joined last sent from, though it may have left since; `None` when the group is
    /// gone.
    pub fn group_addr(&self, group: GroupKey) -> Option<IpAddr> {
        self.groups.slot_of(group).and_then(|slot| self.groups.get(slot)).map(|group| group.addr)
    }

    /// The link the last [`Verdict::Forward`] came over.
    pub fn last_link(&self) -> Option<LinkKey> {
        self.last_link
    }

    /// How many of its bytes, from the first on, the last [`Verdict::Forward`] passes on. On links with MACs on SRT packets
    /// the rest is the trailer, which ends here; on all others there is no rest.
    pub fn forwarded_len(&self) -> usize {
        self.forwarded_len
    }

    /// What the clocks show at `now`.
    fn clock_at(&self, now: Time) -> Now {
        self.clock.now(self.origin.instant(now))
    }

    /// What became of every datagram so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How many slots there are for groups: all groups are in `0..` this.
    pub fn group_slots(&self) -> u32 {
        self.groups.slots()
    }

    /// What is counted of the groups in a range of slots. All are in `0..`[`Receiver::group_slots`]; this is how they are
    /// looked at in portions. Allocates nothing.
    pub fn groups_in(
        &self,
        now: Instant,
        slots: std::ops::Range<u32>,
    ) -> impl Iterator<Item = GroupView<'_>> {
        let now = self.origin.time(now);
        slots.filter_map(move |slot| Some(GroupView::new(self, now, slot, self.groups.get(slot)?)))
    }

    /// The groups as they are now, for display. Housekeeping only: allocates.
    pub fn snapshot(&self, now: Instant) -> impl Iterator<Item = GroupSnapshot> {
        let now = self.origin.time(now);
        self.groups.iter().map(move |(slot, group)| snapshot::of(now, self, slot, group))
    }
}
